import importlib

import numpy as np
import pytest
import torch
from torch import nn

import snrmix
from snrmix.engine.options import Finetuning
from snrmix.images import Encoder, resolve_encoder
from snrmix.plan.options import finetuning_options

TINY = Encoder("tiny", nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 16)


def test_no_fine_tuning_by_default():
    assert finetuning_options(False, None, {"hidden": 3}, TINY) is None


def test_single_options_win_over_the_object():
    base = Finetuning(batch_size=4, max_epochs=7)
    assert finetuning_options(True, base, {"max_epochs": 9}, TINY) == Finetuning(batch_size=4, max_epochs=9)
    assert finetuning_options(True, None, {}, TINY) == Finetuning()
    assert finetuning_options("last", base, {}, TINY) == Finetuning(part="last", batch_size=4, max_epochs=7)
    assert finetuning_options(True, Finetuning(part="last"), {}, TINY).part == "last"


@pytest.mark.parametrize("finetune", ["first", 1, None])
def test_other_values_are_refused(finetune):
    with pytest.raises(ValueError, match=r"finetune=.*; choose False, True or 'last'"):
        finetuning_options(finetune, None, {}, TINY)


def test_options_without_fine_tuning_are_refused():
    with pytest.raises(ValueError, match="finetuning= has no effect with finetune=False"):
        finetuning_options(False, Finetuning(), {}, TINY)
    with pytest.raises(TypeError, match="finetuning must be a snrmix.Finetuning, not dict"):
        finetuning_options(True, {"max_epochs": 3}, {}, TINY)


def test_unknown_options_are_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'batchsize'. Did you mean 'batch_size'"):
        finetuning_options(True, None, {"batchsize": 3}, TINY)


def test_features_are_refused():
    with pytest.raises(ValueError, match="finetune='last' needs pixels, but use_rep='X_pca' are features"):
        finetuning_options("last", None, {}, TINY, "X_pca")


def test_encoders_without_parameters_are_refused():
    with pytest.raises(TypeError, match="encoder 'colour' has no parameters to fine-tune"):
        finetuning_options(True, None, {}, resolve_encoder("colour"))
    with pytest.raises(TypeError, match="encoder 'mean' has no parameters to fine-tune"):
        finetuning_options(True, None, {}, Encoder("mean", lambda patches: patches.mean((2, 3)), 16))


# Through snrmix.tl.impute


@pytest.fixture
def tuned(tissue):
    """The small section with 60 % of its spots measured, and options that fine-tune in a second."""
    tissue.obs["measured"] = np.random.default_rng(0).uniform(size=tissue.n_obs) < 0.6
    torch.manual_seed(0)
    blocks = nn.Sequential(*(nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()) for _ in range(2)))
    network = nn.Sequential(nn.Conv2d(3, 4, 3), blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    options = {
        "measured": "measured", "encoder": Encoder("tiny", network, 16), "scales": (2.3,), "genes": 12, "n_folds": 2,
        "max_epochs": 2, "finetune": True,
    }  # fmt: skip
    return tissue, network, options


@pytest.mark.parametrize(("finetune", "mix"), [(True, "snr"), ("last", "mixup"), (True, "cutmix"), (True, "puzzlemix")])
def test_impute_trains_the_encoder_on_pixels(tuned, finetune, mix):
    tissue, network, options = tuned
    before = [p.detach().clone() for p in network.parameters()]
    result = snrmix.tl.impute(tissue, **{**options, "finetune": finetune, "mix": mix}, copy=True)
    values, chosen = result.layers["snrmix"], result.var["snrmix_modelled"].to_numpy()
    assert np.isfinite(values[:, chosen]).all() and chosen.sum() == 12
    record = result.uns["snrmix"]
    assert record["parameters"]["finetune"] == finetune
    assert record["parameters"]["training"]["name"] == "Finetuning"
    assert record["history"]["train_loss"].shape == (2, 2)
    assert {"network", "kriging", "snrmix"} <= set(record["scores"].index)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True)), (
        "the user's module changed"
    )
    frozen = snrmix.tl.impute(tissue, **{**options, "finetune": False, "mix": "snr"}, copy=True)
    assert np.abs(frozen.layers["snrmix"] - values)[~tissue.obs["measured"]][:, chosen].max() > 1e-3


def test_fine_tuning_does_not_depend_on_row_order_or_unmeasured_values(tuned):
    tissue, _, options = tuned
    expected = snrmix.tl.impute(tissue, **options, copy=True)
    shuffled = tissue[np.random.default_rng(1).permutation(tissue.n_obs)].copy()
    values = shuffled.X.toarray()
    values[~shuffled.obs["measured"].to_numpy()] = np.nan
    shuffled.X = values
    snrmix.tl.impute(shuffled, **options)
    np.testing.assert_array_equal(shuffled[expected.obs_names].layers["snrmix"], expected.layers["snrmix"])


def test_a_section_without_unmeasured_spots_is_denoised(tuned):
    tissue, _, options = tuned
    del options["measured"]
    result = snrmix.tl.impute(tissue, **options, copy=True)
    chosen = result.var["snrmix_modelled"].to_numpy()
    assert result.uns["snrmix"]["fill"] == "all" and np.isfinite(result.layers["snrmix"][:, chosen]).all()


def test_refusals_leave_the_object_alone(tuned, assert_unchanged):
    tissue, _, options = tuned
    before = tissue.copy()
    with pytest.raises(ValueError, match=r"CutMix mixes pixels.*finetune=True"):
        snrmix.tl.impute(tissue, **{**options, "finetune": False, "mix": "cutmix"})
    with pytest.raises(TypeError, match="encoder 'colour' has no parameters to fine-tune"):
        snrmix.tl.impute(tissue, **{**options, "encoder": "colour"})
    tissue.obsm["X_own"] = np.ones((tissue.n_obs, 3))
    with pytest.raises(ValueError, match="needs pixels, but use_rep='X_own' are features"):
        snrmix.tl.impute(tissue, **options, use_rep="X_own")
    with pytest.raises(ValueError, match=r"CutMix mixes pixels.*use_rep="):
        snrmix.tl.impute(tissue, measured="measured", use_rep="X_own", mix="cutmix")
    del tissue.obsm["X_own"]
    assert_unchanged(before, tissue)


def test_presets_are_recorded_and_arguments_win(tuned):
    tissue, _, options = tuned
    own = {name: options[name] for name in ("measured", "encoder", "genes", "max_epochs")}
    result = snrmix.tl.impute(tissue, preset="authors_code", **own, validation=0.3, size=16, copy=True)
    parameters = result.uns["snrmix"]["parameters"]
    assert parameters["preset"] == "authors_code" and not parameters["kriging"] and parameters["n_folds"] == 1
    assert parameters["mix"]["graph"] == "expression" and parameters["losses"]["edge"] == 50
    training = parameters["training"]
    assert training["learning_rate"] == 3e-5 and training["batch_size"] == 8 and training["max_epochs"] == 2
    # What is given wins, also where it equals the default of impute.
    result = snrmix.tl.impute(
        tissue, preset="paper", finetune=False, kriging=True, mix="snr", n_folds=2, hidden=8, **{**own, "finetuning": None},
        copy=True,
    )  # fmt: skip
    parameters = result.uns["snrmix"]["parameters"]
    assert parameters["kriging"] and parameters["n_folds"] == 2 and parameters["finetune"] == False  # noqa: E712
    assert parameters["training"]["hidden"] == 8
    with pytest.raises(ValueError, match="preset='papr'.*Did you mean 'paper'"):
        snrmix.tl.impute(tissue, preset="papr", **own)


class Settled(Exception):
    """Carries the settings with which networks would be trained."""


def settings_of(monkeypatch, data, **options):
    def stop(parts, settings, *others):
        raise Settled(*settings)

    monkeypatch.setattr(importlib.import_module("snrmix.tl.impute"), "fit_models", stop)
    with pytest.raises(Settled) as settled:
        snrmix.tl.impute(data, **options)
    return settled.value.args[0]


def test_what_finetuning_says_is_not_overruled_by_defaults(tuned, monkeypatch):
    tissue, _, options = tuned
    said = Finetuning(early_stopping=False, accelerator="cpu", devices=[1], max_epochs=3)
    del options["max_epochs"]
    assert settings_of(monkeypatch, tissue, finetuning=said, **options).training == said
    settings = settings_of(monkeypatch, tissue, finetuning=said, early_stopping=True, devices="auto", **options)
    assert settings.training.early_stopping is True and settings.training.devices == "auto"  # given, so they win
    assert settings.training.accelerator == settings.device == "cpu"


def test_the_k_of_a_preset_is_lowered_and_that_of_the_user_is_not(tuned, monkeypatch):
    tissue, _, options = tuned
    own = {name: options[name] for name in ("measured", "encoder", "genes")}
    tissue.obs["measured"] = np.arange(tissue.n_obs) % 4 == 0  # 30 spots, of which 18 train
    settings = settings_of(monkeypatch, tissue, preset="paper", **own)
    assert settings.mixing.k == 6 and settings.mixing.sigma == 0.25
    with pytest.raises(ValueError, match="k=30 neighbours must be fewer than the 18 measured spots"):
        snrmix.tl.impute(tissue, preset="paper", mix=snrmix.SNRMixing(k=30), **own)


def test_what_fine_tuning_takes_is_said_before(tuned, monkeypatch, caplog):
    tissue, _, options = tuned
    monkeypatch.setattr("snrmix.plan.features.patch_seconds", lambda encoder, device: 5.0)
    settings_of(monkeypatch, tissue, **options)
    assert "117 sites x 12 genes: about " in caplog.text and "hours on this machine" in caplog.text
