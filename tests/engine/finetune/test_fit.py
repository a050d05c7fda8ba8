import copy
import logging

import numpy as np
import pytest
import torch
from torch import nn

from snrmix.engine import patches as patches_module
from snrmix.engine.finetune.fit import first_network
from snrmix.engine.finetune.patch_network import PatchNetwork
from snrmix.engine.folds import Fold
from snrmix.engine.losses import Losses
from snrmix.engine.mix import MIXINGS, CutMix, NoMixing, resolve_mixing
from snrmix.engine.network.targets import make_targets
from snrmix.engine.options import Finetuning
from snrmix.engine.patches import PatchStore, allocate

SIZE = 16


def faint(n=128, seed=0):
    """Stripes of random sign, which no linear filter sees on average, and expression that follows their strength."""
    rng = np.random.default_rng(seed)
    strength, sign = rng.uniform(0, 1, n), rng.choice([-1, 1], n)
    stripes = np.where(np.arange(SIZE) % 2, 1, -1) * (strength * sign)[:, None]
    picture = 128 + 40 * stripes[:, None, :, None] + 10 * rng.normal(size=(n, SIZE, SIZE, 3))
    return np.clip(picture, 0, 255).astype(np.uint8)[:, None], (2 + np.outer(strength, [2, -2, 1])).astype(np.float32)


def test_a_signal_that_the_first_encoder_misses_is_learnt(section_of, fit):
    """Ridge on the features of the untrained encoder reaches 0.56, training it 0.13; predicting the mean is 1.3."""
    pixels, expression = faint()
    folds = [Fold(np.arange(88), np.arange(88, 128))]
    options = {"batch_size": 16, "dropout": 0.0, "augment": False, "head_learning_rate": 1e-2, "min_learning_rate": 0.0}
    frozen, tuned = (
        fit(section_of(expression), pixels, folds, mixing=NoMixing(), **options, **more)
        for more in (
            {"learning_rate": 1e-9, "start": "ridge", "max_epochs": 1},
            {"learning_rate": 1e-2, "start": "zero", "max_epochs": 25},
        )
    )
    error = [fitted.history["validation_mse"].min() for fitted in (frozen, tuned)]
    assert error[1] < 0.5 * error[0], error


def test_out_of_fold_values_are_predictions_of_the_network_that_did_not_see_the_spot(fitted, two_folds, fit):
    """Without early stopping, from the very weights that are kept."""
    section, pixels, _ = fitted
    found = fit(section, pixels, early_stopping=False)
    store = PatchStore.of(pixels)[section.measured]
    for k, fold in enumerate(two_folds(40)):
        alone = copy.copy(found)
        object.__setattr__(alone, "weights", found.weights[k : k + 1])
        object.__setattr__(alone, "targets", found.targets[k : k + 1])
        np.testing.assert_allclose(alone.predict(store)[fold.held_out], found.out_of_fold[fold.held_out], atol=1e-4)


def test_predictions_are_the_mean_of_the_networks(fitted):
    section, pixels, found = fitted
    parts = []
    for weights, target in zip(found.weights, found.targets, strict=True):
        network = PatchNetwork(
            copy.deepcopy(found.encoder), *(weights[n] for n in ("centre", "inverse_scale", "weight", "bias")), "fp32"
        )
        network.load_state_dict(weights, strict=False)
        with torch.no_grad():
            values = network(torch.from_numpy(pixels[section.unmeasured] / np.float32(255)).permute(0, 1, 4, 2, 3))
        parts.append(target.to_genes(values.numpy()))
    predicted = found.predict(PatchStore.of(pixels)[section.unmeasured])
    assert predicted.shape == (20, 4) and predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, np.mean(parts, 0), atol=1e-4)
    assert np.isfinite(found.out_of_fold).all() and found.history["validation_mse"].shape == (2, 4)


def test_spots_that_are_never_held_out_have_no_out_of_fold_value(noise, section_of, expression_of, fit):
    fold = Fold(np.arange(30), np.arange(30, 40))
    found = fit(section_of(expression_of()), noise(), [fold])
    assert np.isnan(found.out_of_fold[:30]).all() and np.isfinite(found.out_of_fold[30:]).all()


@pytest.mark.parametrize("start", ["ridge", "zero"])
def test_the_first_head(start, TinyEncoder, expression_of):
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)
    features, expression = rng.normal(3, 2, (60, 12)).astype(np.float32), expression_of(60)
    fold = Fold(np.arange(50), np.arange(50, 60))
    target = make_targets(expression, fold.train)
    network = first_network(TinyEncoder(), [], features, target, fold, Finetuning(start=start))
    outputs = (torch.from_numpy(features) - network.centre) * network.inverse_scale @ network.weight + network.bias
    if start == "zero":
        assert not outputs.detach().any()
        return
    z = (features - features[:50].mean(0)) / features[:50].std(0)
    wanted = [Ridge(12 * p).fit(z[:50], target.values[:50]).predict(z) for p in 10.0 ** np.arange(-2, 4.5, 0.5)]
    assert min(np.abs(outputs.detach().numpy() - w).max() for w in wanted) < 1e-4


def same(a, b):
    return all(torch.equal(x[name], y[name]) for x, y in zip(a.weights, b.weights, strict=True) for name in x)


def test_same_seed_same_weights_and_another_seed_others(fitted, fit):
    section, pixels, found = fitted
    state = torch.get_rng_state()
    again = fit(section, pixels, max_epochs=4)
    assert same(found, again) and torch.equal(state, torch.get_rng_state())
    assert not same(found, fit(section, pixels, seed=1, max_epochs=4))


def test_held_out_and_unmeasured_spots_never_influence(fitted, section_of, fit):
    """At a fixed epoch: rubbish in held-out expression, and in patches of unmeasured sites, leaves the weights as they are."""
    section, pixels, _ = fitted
    folds = [Fold(np.arange(30), np.arange(30, 40))]
    before = fit(section, pixels, folds, early_stopping=False)
    expression, changed = section.expression.copy(), pixels.copy()
    expression[30:] = 99.0
    changed[section.unmeasured] = 255 - changed[section.unmeasured]
    after = fit(section_of(expression, section.measured, 60), changed, folds, early_stopping=False)
    assert same(before, after)
    expression[29] += 1.0  # a training spot does
    assert not same(before, fit(section_of(expression, section.measured, 60), pixels, folds, early_stopping=False))


def test_the_given_encoder_is_left_as_it_is(fitted, TinyEncoder, fit):
    section, pixels, found = fitted
    encoder = TinyEncoder(norm=True).train()
    encoder.last.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    tuned = fit(section, pixels, encoder=encoder)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert encoder.training and not encoder.last.weight.requires_grad and encoder.last.bias.requires_grad
    assert not torch.equal(tuned.weights[0]["encoder.last.weight"], before["last.weight"])


def test_patches_from_a_file_give_the_same_weights(fitted, monkeypatch, fit):
    section, pixels, found = fitted
    monkeypatch.setattr(patches_module, "free_memory", lambda: 0)
    mapped = allocate(*pixels.shape[:3])
    mapped[:] = pixels
    assert isinstance(mapped, np.memmap) and same(found, fit(section, mapped, max_epochs=4))


def test_every_parameter_that_matters_is_trained_and_no_other(fitted, caplog, TinyEncoder, fit):
    section, pixels, found = fitted
    start = TinyEncoder().state_dict()
    changed = {name.removeprefix("encoder.") for name in found.weights[0] if name.startswith("encoder.")}
    assert changed == {name for name in start if not name.startswith("unused")}
    for name in changed:
        assert not torch.equal(found.weights[0][f"encoder.{name}"], start[name]), name
    with caplog.at_level(logging.INFO, "snrmix"):
        fit(section, pixels, part="last")
    sizes = [sum(start[name].numel() for name in changed if keep(name)) for keep in (is_last, bool)]
    total = sum(value.numel() for value in start.values())
    assert f"fine-tuning {sizes[0]:,} of {total:,} parameters of the encoder" in caplog.text


def is_last(name):
    return name.startswith(("blocks.1", "last"))


def test_last_changes_the_last_block_and_what_follows(fitted, TinyEncoder, fit):
    section, pixels, _ = fitted
    found = fit(section, pixels, part="last")
    changed = {name.removeprefix("encoder.") for name in found.weights[0] if name.startswith("encoder.")}
    assert changed == {"blocks.1.0.weight", "blocks.1.0.bias", "last.weight", "last.bias"}
    start = TinyEncoder().state_dict()
    assert not torch.equal(found.weights[0]["encoder.blocks.1.0.weight"], start["blocks.1.0.weight"])
    untouched = found.encoder.state_dict()  # predictions use the rest as it came
    assert all(torch.equal(value, start[name]) for name, value in untouched.items())


@pytest.mark.parametrize("name", sorted(MIXINGS))
def test_every_strategy_trains(name, noise, section_of, two_folds, expression_of, fit):
    found = fit(section_of(expression_of()), noise(), [two_folds(40)[0]], mixing=resolve_mixing(name))
    assert np.isfinite(found.history["train_loss"]).all() and found.history["train_loss"].shape == (1, 2)


def test_networks_that_stop_early_leave_gaps_in_the_history(noise, section_of, expression_of, fit):
    rng = np.random.default_rng(0)
    found = fit(
        section_of(expression_of()), noise(), max_epochs=12, patience=1, learning_rate=1e-2, seed=int(rng.integers(9))
    )
    lengths = np.isfinite(found.history["validation_mse"]).sum(1)
    assert lengths.max() == found.history["validation_mse"].shape[1] and (lengths < 12).any()
    assert (found.history["best_epoch"] == np.nanargmin(found.history["validation_mse"], axis=1)).all()


@pytest.mark.parametrize("encoder", [nn.Flatten(), lambda patches: patches.mean((2, 3))])
def test_encoders_without_parameters_are_refused(encoder, noise, section_of, expression_of, fit):
    with pytest.raises(
        TypeError, match="encoder '(Flatten|function)' has no parameters to fine-tune: use finetune=False"
    ):
        fit(section_of(expression_of()), noise(), encoder=encoder)


def test_encoders_that_no_gradient_reaches_are_refused(TinyEncoder, noise, section_of, expression_of, fit):
    class Detached(TinyEncoder):
        def forward(self, patches):
            return super().forward(patches).detach()

    with pytest.raises(ValueError, match="Detached cannot be fine-tuned: its features depend on no parameter"):
        fit(section_of(expression_of()), noise(), encoder=Detached())


def test_features_of_wrong_shape_or_not_finite_are_refused(TinyEncoder, noise, section_of, expression_of, fit):
    class Maps(TinyEncoder):
        def forward(self, patches):
            return self.blocks[0](patches)

    class Broken(TinyEncoder):
        def forward(self, patches):
            return super().forward(patches) / 0

    section = section_of(expression_of())
    with pytest.raises(ValueError, match=r"Maps returned \(2, 8, 8, 8\); expected a tensor \(patches, features\)"):
        fit(section, noise(), encoder=Maps())
    with pytest.raises(ValueError, match="Broken returned values that are not finite"):
        fit(section, noise(), encoder=Broken())


def test_an_encoder_without_repeated_blocks_has_no_last_one(noise, section_of, expression_of, fit):
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, patches):
            return self.layer(patches.mean((2, 3)))

    with pytest.raises(
        ValueError, match='Bare has no Sequential or ModuleList.*use finetune=True in place of finetune="last"'
    ):
        fit(section_of(expression_of()), noise(), encoder=Bare(), part="last")


def test_patches_of_other_sites_are_refused(noise, section_of, expression_of, fit):
    with pytest.raises(ValueError, match="patches of 41 sites, but the section has 40"):
        fit(section_of(expression_of()), noise(41))


def test_divergence_is_an_error_that_names_the_rate(noise, section_of, expression_of, fit):
    with pytest.raises(RuntimeError, match="training diverged.*lower learning_rate in snrmix.Finetuning"):
        fit(section_of(expression_of()), noise(), learning_rate=1e30, head_learning_rate=1e30, clip=None, warm_up=0)


def test_pixel_strategies_work_here_and_not_on_features(noise, section_of, two_folds, expression_of, fit):
    from snrmix.engine.network.crossfit import fit_network
    from snrmix.engine.options import Training

    section = section_of(expression_of())
    with pytest.raises(ValueError, match="CutMix mixes pixels"):
        fit_network(section, two_folds(40), CutMix(), Losses(), Training(), 0)
    assert np.isfinite(fit(section, noise(), mixing=CutMix()).out_of_fold).all()


def test_a_gpu_without_room_gets_half_the_batch(fitted, TinyEncoder, fit, caplog):
    """A batch of b pairs is 3 b patches: with room for 12 of them, pairs of 8 become pairs of 4, and predictions go in parts."""

    class Small(TinyEncoder):
        def forward(self, patches):
            if len(patches) > 12:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().forward(patches)

    section, pixels, _ = fitted
    with caplog.at_level("INFO", "snrmix"):
        found = fit(section, pixels, encoder=Small())
    assert "no room for batches of 8; going on with 4" in caplog.text
    expected = fit(section, pixels, batch_size=4)
    assert same(found, expected) and found.options.batch_size == 4
    np.testing.assert_allclose(found.predict(PatchStore.of(pixels)), expected.predict(PatchStore.of(pixels)), atol=1e-5)


def test_a_gpu_without_room_for_one_patch_is_said(fitted, TinyEncoder, fit):
    class Full(TinyEncoder):
        def forward(self, patches):
            if patches.requires_grad or len(patches) != 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().forward(patches)

    with pytest.raises(MemoryError, match="no room for .* at once.*accelerator='cpu'"):
        fit(*fitted[:2], encoder=Full())
