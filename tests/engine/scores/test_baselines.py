import numpy as np
import pytest
from sklearn.linear_model import Ridge

from snrmix.engine.folds import Fold
from snrmix.engine.scaling import standardise
from snrmix.engine.scores import baselines as baselines_module
from snrmix.engine.scores.baselines import NEIGHBOURS, baselines, ridge, spatial_knn
from snrmix.engine.section import Section


@pytest.fixture(scope="module")
def regression():
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(90, 12)) * rng.uniform(0.1, 10, 12) + rng.normal(size=12)).astype(np.float32)
    truth = (features - features.mean(0)) / features.std(0) @ rng.normal(size=(12, 5))
    expression = (4 + truth + 2 * rng.normal(size=(90, 5))).astype(np.float32)
    return features, np.arange(60), np.arange(60, 90), expression[:60]


def leave_one_out_error(x, y, alpha):
    """By fitting again without each spot in turn, with an intercept."""
    squared = []
    for i in range(len(x)):
        rest = np.delete(np.arange(len(x)), i)
        predicted = Ridge(alpha=alpha, solver="cholesky").fit(x[rest], y[rest]).predict(x[[i]])
        squared.append(np.mean((predicted - y[i]) ** 2))
    return np.mean(squared)


@pytest.mark.parametrize("penalty", [0.1, 10.0, 1000.0])
def test_ridge_is_that_of_scikit_learn(regression, monkeypatch, penalty):
    features, train, targets, y = regression
    monkeypatch.setattr(baselines_module, "PENALTIES", np.array([penalty]))
    z = standardise(features, train).astype(float)
    wanted = Ridge(alpha=penalty * 12).fit(z[train], y).predict(z[targets])
    np.testing.assert_allclose(ridge(features, train, targets, y), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("noise", [0.5, 2.0, 8.0])
def test_ridge_takes_the_penalty_of_least_leave_one_out_error(monkeypatch, noise):
    """On a fine grid and few spots, so that an error in the leave-one-out formula shows."""
    monkeypatch.setattr(baselines_module, "PENALTIES", np.geomspace(0.003, 30, 60))
    rng = np.random.default_rng(3)
    features = rng.normal(size=(20, 4)).astype(np.float32)
    train, targets = np.arange(12), np.arange(12, 20)
    y = (features @ rng.normal(size=(4, 6)) + noise * rng.normal(size=(20, 6)))[train].astype(np.float32)
    z = standardise(features, train).astype(float)
    found = [leave_one_out_error(z[train], y, 4 * penalty) for penalty in baselines_module.PENALTIES]
    best = int(np.argmin(found))
    assert 0 < best < 59
    wanted = Ridge(alpha=4 * baselines_module.PENALTIES[best]).fit(z[train], y).predict(z[targets])
    np.testing.assert_allclose(ridge(features, train, targets, y), wanted, rtol=1e-4, atol=1e-4)


def test_ridge_with_more_features_than_spots_and_constant_ones(regression):
    features, train, targets, y = regression
    wide = np.concatenate([np.tile(features, 10), np.ones((90, 3), np.float32)], 1)
    assert np.isfinite(ridge(wide, train, targets, y)).all()


def test_penalty_of_many_genes_is_chosen_from_combinations_of_them(regression, monkeypatch):
    features, train, targets, y = regression
    rng = np.random.default_rng(0)
    many = (y @ rng.normal(size=(5, 800)) + 2 * rng.normal(size=(60, 800))).astype(np.float32)
    sketched = ridge(features, train, targets, many)
    monkeypatch.setattr(baselines_module, "SKETCH", 10_000)
    np.testing.assert_allclose(sketched, ridge(features, train, targets, many), rtol=1e-5)


def test_ridge_of_very_many_spots_sees_an_even_subset(regression, monkeypatch):
    features, train, targets, y = regression
    monkeypatch.setattr(baselines_module, "MOST_RIDGE_SPOTS", 30)
    monkeypatch.setattr(baselines_module, "PENALTIES", np.array([1.0]))
    z = standardise(features, train).astype(float)
    some = np.arange(30) * len(train) // 30
    wanted = Ridge(alpha=12).fit(z[train[some]], y[some]).predict(z[targets])
    np.testing.assert_allclose(ridge(features, train, targets, y), wanted, rtol=1e-4, atol=1e-4)


def test_one_spot_more_does_not_halve_what_ridge_sees(regression, monkeypatch):
    """At 6,001 spots ridge sees 6,000 of them, not every other one."""
    features, train, targets, y = regression
    monkeypatch.setattr(baselines_module, "MOST_RIDGE_SPOTS", len(train) - 1)
    monkeypatch.setattr(baselines_module, "PENALTIES", np.array([1.0]))
    z = standardise(features, train).astype(float)
    used = np.arange(len(train) - 1)  # the last one is left out
    wanted = Ridge(alpha=12).fit(z[train[used]], y[used]).predict(z[targets])
    np.testing.assert_allclose(ridge(features, train, targets, y), wanted, rtol=1e-4, atol=1e-4)


def test_spatial_knn_is_a_loop_within_the_library():
    rng = np.random.default_rng(0)
    positions, library = rng.uniform(0, 9, (200, 2)), rng.choice(4, 200, p=[0.5, 0.4, 0.05, 0.05])
    train = np.flatnonzero((rng.random(200) < 0.6) & (library != 3))
    targets = np.setdiff1d(np.arange(200), train)
    expression = rng.normal(size=(len(train), 6)).astype(np.float32)
    found = spatial_knn(positions, library, train, targets, expression)
    assert {1, 2, 3} <= set(library[targets])
    for place, site in enumerate(targets):
        own = [i for i, spot in enumerate(train) if library[spot] == library[site]]
        own.sort(key=lambda i: np.hypot(*(positions[train[i]] - positions[site])))
        wanted = expression[own[:NEIGHBOURS]].mean(0) if own else expression.mean(0)
        np.testing.assert_allclose(found[place], wanted, rtol=1e-4, atol=1e-6)


def test_of_equally_near_spots_the_first_count():
    """On a lattice the tenth neighbour is a tie: which spot is taken must not rest on how the search tree was built."""
    positions = np.stack(np.meshgrid(np.arange(20.0), np.arange(20.0)), -1).reshape(-1, 2)
    targets = np.arange(3, 400, 7)
    train = np.setdiff1d(np.arange(400), targets)
    expression = np.random.default_rng(0).normal(size=(len(train), 3)).astype(np.float32)
    squared = np.round(((positions[targets][:, None] - positions[train]) ** 2).sum(2))
    first = np.argsort(squared, axis=1, kind="stable")[:, :NEIGHBOURS]
    found = spatial_knn(positions, np.zeros(400, int), train, targets, expression)
    np.testing.assert_allclose(found, expression[first].mean(1), rtol=1e-5, atol=1e-6)


def test_baselines_predict_held_out_spots_from_the_others():
    rng = np.random.default_rng(0)
    n, measured = 80, np.arange(0, 80, 2)
    expression = rng.normal(3, 1, (40, 4)).astype(np.float32)
    features = rng.normal(size=(n, 6)).astype(np.float32)
    section = Section(
        features, np.zeros(6, bool), rng.uniform(0, 9, (n, 2)), np.zeros(n, int), measured, expression, np.ones(40),
        lambda train, k: None,
    )  # fmt: skip
    folds = [Fold(np.flatnonzero(np.arange(40) % 3 != k), np.arange(k, 40, 3)) for k in range(2)]
    found = baselines(section, folds)
    assert list(found) == ["mean", "spatial kNN", "ridge"]
    changed = expression.copy()
    changed[folds[0].held_out] += 100
    again = baselines(Section(**{**section.__dict__, "expression": changed}), folds)
    for name, values in found.items():
        assert np.isnan(values[2::3]).all() and np.isfinite(values[0::3]).all() and np.isfinite(values[1::3]).all()
        np.testing.assert_array_equal(values[folds[0].held_out], again[name][folds[0].held_out])
    np.testing.assert_allclose(found["mean"][0], expression[folds[0].train].mean(0), rtol=1e-6)
    assert list(baselines(Section(**{**section.__dict__, "features": features[:, :0]}), folds)) == [
        "mean",
        "spatial kNN",
    ]
