import random

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.stats import norm

from snrmix.engine.folds import Fold
from snrmix.engine.losses import Losses
from snrmix.engine.mix import PartnerTable, SNRMixing
from snrmix.engine.network import heads as heads_module
from snrmix.engine.network import inputs as inputs_module
from snrmix.engine.network import targets as targets_module
from snrmix.engine.network.crossfit import NetworkFit, fit_network
from snrmix.engine.network.heads import forward
from snrmix.engine.network.targets import make_targets
from snrmix.engine.options import Training
from snrmix.engine.scaling import CLIP
from snrmix.engine.scores.metrics import pearson
from snrmix.engine.section import Section

LEARN = {"max_epochs": 60, "learning_rate": 3e-3, "dropout": 0.1}  # for the few, informative features made here


FAST = {"max_epochs": 12, "hidden": 48, "accelerator": "cpu", "progress": False}


def k_folds(n, n_folds, n_repeats=1, seed=0):
    rng, folds = np.random.default_rng(seed), []
    for repeat in range(n_repeats):
        fold = rng.permutation(np.arange(n) % n_folds)
        folds += [Fold(np.flatnonzero(fold != k), np.flatnonzero(fold == k), repeat) for k in range(n_folds)]
    return folds


def section_of(features, expression, positions):
    """All sites measured, one library; the nearest spots from a k-d tree."""
    n = len(features)

    def neighbours(train, k):
        return cKDTree(positions[train]).query(positions[train], k + 1)[1][:, 1:]

    return Section(
        features, np.zeros(features.shape[1], bool), positions, np.zeros(n, int), np.arange(n), expression, np.ones(n),
        neighbours,
    )  # fmt: skip


def linear(n=320, d=24, genes=8, noise=0.3, seed=0):
    """Expression that is linear in smooth features, with noise."""
    rng = np.random.default_rng(seed)
    positions = rng.uniform(0, 18, (n, 2))
    waves = np.sin(positions @ rng.normal(0, 0.35, (2, d)) + rng.uniform(0, 6, d))
    features = (waves + 0.3 * rng.normal(size=(n, d))).astype(np.float32)
    truth = features @ rng.normal(0, 1 / np.sqrt(d), (d, genes))
    expression = 3 + truth / truth.std(0) + noise * rng.normal(size=(n, genes))
    return section_of(features, expression.astype(np.float32), positions)


def fit(section, folds, seed=0, mixing=None, **options):
    mixing = mixing or SNRMixing(k=10)
    return fit_network(section, folds, mixing, Losses(), Training(**{**FAST, **options}), seed)


def ratio(section, folds, fitted):
    """Out-of-fold squared error over that of the training spots' mean."""
    mean = np.empty_like(section.expression)
    for fold in folds:
        mean[fold.held_out] = section.expression[fold.train].mean(0)
    return np.mean((fitted.out_of_fold - section.expression) ** 2) / np.mean((mean - section.expression) ** 2)


@pytest.fixture(scope="module")
def learnt():
    """A section, three folds, and networks trained on them."""
    section = linear()
    folds = k_folds(320, 3)
    return section, folds, fit(section, folds, **LEARN)


def test_a_linear_map_is_learnt(learnt):
    section, folds, fitted = learnt
    assert ratio(section, folds, fitted) < 0.2  # 0.144; 0.08 is noise, and ridge reaches 0.10
    assert pearson(section.expression, fitted.out_of_fold).min() > 0.88


def test_predictions_elsewhere_are_the_mean_of_the_networks(learnt):
    section, _, fitted = learnt
    rows = torch.arange(40)
    features = section.features[:40]
    outputs = forward(fitted.fitted.weights, torch.from_numpy(section.features), rows).numpy()
    wanted = np.mean([t.to_genes(o) for t, o in zip(fitted.targets, outputs, strict=True)], axis=0)
    np.testing.assert_allclose(fitted.predict(features), wanted, rtol=1e-5)
    assert isinstance(fitted, NetworkFit) and fitted.predict(features).dtype == np.float32


def test_predictions_do_not_depend_on_how_rows_are_chunked(learnt):
    section, _, fitted = learnt
    features, rows = torch.from_numpy(section.features), torch.arange(320)
    whole = forward(fitted.fitted.weights, features, rows)
    for chunk in (1, 7, 319):
        np.testing.assert_allclose(forward(fitted.fitted.weights, features, rows, chunk), whole, rtol=1e-4, atol=1e-5)


def test_forward_is_a_two_layer_perceptron_on_z_scores(learnt):
    section, folds, fitted = learnt
    weights = {name: value.numpy().astype(float) for name, value in fitted.fitted.weights.items()}
    found = forward(fitted.fitted.weights, torch.from_numpy(section.features), torch.arange(320)).numpy()
    for k, fold in enumerate(folds):
        train = section.features[fold.train].astype(float)
        z = np.clip((section.features - train.mean(0)) / train.std(0), -CLIP, CLIP)
        hidden = z @ weights["stem_weight"][k] + weights["stem_bias"][k]
        hidden = hidden * norm.cdf(hidden)  # GELU
        wanted = hidden @ weights["head_weight"][k] + weights["head_bias"][k]
        np.testing.assert_allclose(found[k], wanted, atol=2e-4)


def test_many_features_of_few_spots_are_learnt_as_few_would_be():
    few = linear(n=120, d=12)
    mixed = few.features @ np.random.default_rng(1).normal(size=(12, 900)).astype(np.float32)
    many, folds = section_of(mixed, few.expression, few.positions), k_folds(120, 3)
    fitted = fit(many, folds, **{**LEARN, "learning_rate": 4e-4})
    assert fitted.fitted.weights["stem_weight"].shape == (3, 900, 48)
    assert ratio(many, folds, fitted) < 0.22  # 0.163
    outputs = forward(fitted.fitted.weights, torch.from_numpy(mixed), torch.arange(120)).numpy()
    for k, fold in enumerate(folds):
        np.testing.assert_allclose(outputs[k][fold.held_out], fitted.fitted.held_out[k], rtol=1e-3, atol=1e-4)


def test_leading_coordinates_of_many_spots_are_as_good_as_their_features(monkeypatch):
    """The first layer is turned back: a stored model predicts from features, and knows nothing of coordinates."""
    few = linear(n=320, d=12)
    rng = np.random.default_rng(1)
    mixed = few.features @ rng.normal(size=(12, 200)) + 0.5 * rng.normal(size=(320, 200))
    many, folds = section_of(mixed.astype(np.float32), few.expression, few.positions), k_folds(320, 3)
    plain = ratio(many, folds, fit(many, folds, **LEARN))
    for module in (inputs_module, heads_module):
        monkeypatch.setattr(module, "LEADING", 40)
    fitted = fit(many, folds, **LEARN)
    assert isinstance(inputs_module.make_inputs(many.features, folds, *table_of(folds))[0], inputs_module.Coordinates)
    assert ratio(many, folds, fitted) < plain + 0.02  # 0.117 and 0.113
    again = NetworkFit.from_arrays(fitted.to_arrays())
    np.testing.assert_array_equal(again.predict(many.features), fitted.predict(many.features))
    outputs = forward(again.fitted.weights, torch.from_numpy(many.features), torch.arange(320)).numpy()
    for k, fold in enumerate(folds):
        np.testing.assert_allclose(outputs[k][fold.held_out], fitted.fitted.held_out[k], rtol=1e-3, atol=1e-3)


def table_of(folds):
    """Training spots alone, and a seed."""
    least = min(len(fold.train) for fold in folds)
    return PartnerTable(torch.from_numpy(np.stack([fold.train[:least] for fold in folds])), None, None), 0


@pytest.mark.parametrize("early_stopping", [True, False])
def test_held_out_values_come_from_the_kept_weights(learnt, early_stopping):
    section, folds, fitted = learnt
    if not early_stopping:
        fitted = fit(section, folds, early_stopping=False)
    outputs = forward(fitted.fitted.weights, torch.from_numpy(section.features), torch.arange(320)).numpy()
    history = fitted.fitted.history
    curve, best = history["validation_mse"], history["best_epoch"]
    for k, fold in enumerate(folds):
        np.testing.assert_allclose(outputs[k][fold.held_out], fitted.fitted.held_out[k], rtol=1e-4, atol=1e-5)
        error = np.mean(
            (fitted.fitted.held_out[k] - make_targets(section.expression, fold.train).values[fold.held_out]) ** 2
        )
        assert error == pytest.approx(curve[k, best[k]], rel=1e-4)
        others = np.delete(curve, k, axis=0).mean(0)
        assert best[k] == (np.argmin(others) if early_stopping else curve.shape[1] - 1)
    assert history["train_loss"].shape == curve.shape
    if early_stopping:
        assert best.max() + Training().patience + 1 == curve.shape[1] or curve.shape[1] == 60


def test_held_out_expression_does_not_touch_the_network_of_its_fold():
    """At a fixed epoch; with early stopping it may, through the epoch that the other folds choose."""
    section, folds = linear(n=120), k_folds(120, 3)
    before = fit(section, folds, early_stopping=False)
    changed = section.expression.copy()
    spot = folds[1].held_out[4]
    changed[spot] = 50.0
    after = fit(section_of(section.features, changed, section.positions), folds, early_stopping=False)
    for name, value in before.fitted.weights.items():
        assert torch.equal(value[1], after.fitted.weights[name][1]), name
        if name in ("stem_weight", "head_weight"):
            assert not torch.equal(value[0], after.fitted.weights[name][0])
    np.testing.assert_array_equal(before.out_of_fold[folds[1].held_out], after.out_of_fold[folds[1].held_out])
    assert (before.out_of_fold[folds[0].held_out] != after.out_of_fold[folds[0].held_out]).mean() > 0.9


def test_same_seed_same_bits_and_no_global_random_state_is_touched():
    section, folds = linear(n=90), k_folds(90, 2, n_repeats=2)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first, again, other = (fit(section, folds, seed=seed, max_epochs=3) for seed in (5, 5, 6))
    assert torch.equal(states[0], torch.get_rng_state()) and random.getstate() == states[2]
    np.testing.assert_array_equal(states[1], np.random.get_state()[1])
    np.testing.assert_array_equal(first.out_of_fold, again.out_of_fold)
    assert all(torch.equal(v, again.fitted.weights[name]) for name, v in first.fitted.weights.items())
    assert (first.out_of_fold != other.out_of_fold).mean() > 0.99
    assert len(first.fitted.held_out) == 4 and np.isfinite(first.out_of_fold).all()


def test_no_file_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(linear(n=60), k_folds(60, 2), max_epochs=1)
    assert not list(tmp_path.iterdir())


def test_one_split_leaves_training_spots_without_a_value():
    section, held_out = linear(n=90), np.arange(0, 90, 3)
    fitted = fit(section, [Fold(np.setdiff1d(np.arange(90), held_out), held_out)], max_epochs=3)
    assert np.isfinite(fitted.out_of_fold[held_out]).all()
    assert np.isnan(np.delete(fitted.out_of_fold, held_out, axis=0)).all()


def test_folds_of_unequal_size_train_together():
    section = linear(n=100)
    parts = np.split(np.random.default_rng(0).permutation(100), [10, 60])
    folds = [Fold(np.setdiff1d(np.arange(100), part), np.sort(part)) for part in parts]
    assert np.isfinite(fit(section, folds, max_epochs=2).out_of_fold).all()


def test_a_section_without_any_neighbours_trains_unmixed():
    section, folds = linear(n=60), k_folds(60, 2)
    lonely = Section(**{**section.__dict__, "neighbours": lambda train, k: np.full((len(train), k), -1)})
    assert np.isfinite(fit(lonely, folds, max_epochs=2).out_of_fold).all()


def test_components_stand_for_many_genes(monkeypatch):
    """600 genes of rank 5: predicting components and predicting genes come to the same."""
    rng = np.random.default_rng(0)
    base = linear(genes=5, noise=0.0)
    loadings = rng.normal(size=(5, 600)) * rng.uniform(0.2, 1, 600)
    expression = (base.expression @ loadings + 0.3 * rng.normal(size=(320, 600))).astype(np.float32)
    section, folds = section_of(base.features, expression, base.positions), k_folds(320, 2)
    components = fit(section, folds, **LEARN)
    assert components.targets[0].basis.shape == (targets_module.COMPONENTS, 600)
    monkeypatch.setattr(targets_module, "WIDEST", 10_000)
    genes = fit(section, folds, **LEARN)
    assert genes.targets[0].basis is None
    first, second = (ratio(section, folds, fitted) for fitted in (components, genes))
    assert first < 0.2 and first == pytest.approx(second, abs=0.03)
    agreement = pearson(components.out_of_fold, genes.out_of_fold)
    assert np.median(agreement) > 0.98 and np.quantile(agreement, 0.02) > 0.9


def test_folds_of_unequal_size_have_as_many_components():
    section = linear(n=51, genes=600)
    folds = k_folds(51, 2)
    assert len({len(fold.train) for fold in folds}) == 2
    fitted = fit(section, folds, max_epochs=1)
    assert [target.basis.shape for target in fitted.targets] == [(24, 600)] * 2


def test_diverging_training_says_so():
    with pytest.raises(RuntimeError, match="diverged .* lower learning_rate"):
        fit(linear(n=60), k_folds(60, 2), max_epochs=3, learning_rate=1e30)
