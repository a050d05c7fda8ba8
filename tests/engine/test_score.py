import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.linear_model import Ridge

from snrmix.engine.folds import Fold
from snrmix.engine.scaling import standardise
from snrmix.engine.scores import baselines as baselines_module
from snrmix.engine.scores.baselines import NEIGHBOURS, baselines, ridge, spatial_knn
from snrmix.engine.scores.by_library import score_methods
from snrmix.engine.scores.metrics import gene_scores, moran, pearson, spearman
from snrmix.engine.scores.reliability import MOST_GROUPS, better_than_all, compact_groups
from snrmix.engine.section import Section


def square(side):
    return np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2).astype(float)


# Better than every baseline


def errors(positions, genes, reach, rng):
    """Standard normal errors, independent or with correlation ``exp(-distance / reach)``."""
    noise = rng.standard_normal((len(positions), genes))
    if reach:
        noise = np.linalg.cholesky(np.exp(-cdist(positions, positions) / reach) + 1e-9 * np.eye(len(positions))) @ noise
    return noise


def flagged(ours, others, positions, rng, library=None, rows=None):
    library = np.zeros(len(positions), int) if library is None else library
    rows = np.arange(len(positions)) if rows is None else rows
    ours, *others = (x.astype(np.float32) for x in (ours, *others))
    return better_than_all(np.zeros_like(ours), ours, others, rows, positions, library, rng)


@pytest.mark.parametrize(("side", "reach", "most"), [(5, 0, 0.0), (8, 0, 0.08), (20, 0, 0.08), (20, 1.5, 0.13)])
def test_false_discoveries_are_as_many_as_promised(side, reach, most):
    """300 genes of 1,000 are truly better; of those flagged, about 5 % are not, if errors reach less than a block."""
    rng, positions, share = np.random.default_rng(0), square(side), []
    for _ in range(5):
        ours, other = (errors(positions, 1000, reach, rng) for _ in range(2))
        ours[:, :300] *= 0.6
        flags = flagged(ours, [other], positions, rng)
        share.append(flags[300:].sum() / max(flags.sum(), 1))
    assert np.mean(share) <= most


@pytest.mark.parametrize("reach", [0, 1.5])
def test_where_no_gene_is_better_none_is_flagged(reach):
    rng, positions = np.random.default_rng(1), square(15)
    for _ in range(5):
        ours, other = (errors(positions, 1000, reach, rng) for _ in range(2))
        assert flagged(ours, [other], positions, rng).mean() < 0.01


@pytest.mark.parametrize(("side", "least"), [(8, 0.6), (15, 0.98)])
def test_genes_that_are_better_are_found(side, least):
    rng, positions = np.random.default_rng(2), square(side)
    ours, other = (errors(positions, 400, 0, rng) for _ in range(2))
    assert flagged(0.6 * ours, [other, 1.2 * other], positions, rng).mean() > least


def test_all_others_must_be_beaten():
    rng, positions = np.random.default_rng(3), square(15)
    ours, worse, best = (errors(positions, 60, 0, rng) for _ in range(3))
    assert flagged(0.7 * ours, [worse], positions, rng).all()
    for others in ([worse, 0.5 * best], [0.5 * best, worse]):
        assert not flagged(0.7 * ours, others, positions, rng).any()


def test_a_method_is_not_better_than_itself():
    rng, positions = np.random.default_rng(4), square(10)
    ours = errors(positions, 30, 0, rng)
    assert not flagged(ours, [ours.copy()], positions, rng).any()


@pytest.mark.parametrize("n", [1, 6, 16, 30])
def test_a_few_spots_prove_nothing(n):
    rng = np.random.default_rng(5)
    ours, other = errors(square(10), 200, 0, rng), errors(square(10), 200, 0, rng)
    assert not flagged(0.1 * ours, [other + 3], square(10), rng, rows=np.arange(n)).any()


def test_only_the_given_rows_count():
    rng, positions = np.random.default_rng(6), square(15)
    ours, other = (errors(positions, 50, 0, rng) for _ in range(2))
    rows = np.arange(0, 225, 2)
    ours[rows] *= 0.3
    ours[1::2] = np.nan
    assert flagged(ours, [other], positions, rng, rows=rows).all()


def test_blocks_are_compact_of_eight_spots_or_more_and_never_across_libraries():
    rng = np.random.default_rng(0)
    for sizes in ([64], [400], [2500, 100], [30, 5, 300]):
        library = np.repeat(np.arange(len(sizes)), sizes)
        positions = rng.uniform(0, 10, (len(library), 2))
        block = compact_groups(positions, library, rng)
        assert set(block) == set(range(block.max() + 1)) and block.max() + 1 <= MOST_GROUPS + len(sizes)
        for b in range(block.max() + 1):
            own = block == b
            assert len(np.unique(library[own])) == 1
            if own.sum() > 1 and sizes == [400]:
                assert positions[own].std(0).max() < positions.std(0).min() / 2
        assert len(block) / (block.max() + 1) >= min(8, min(sizes))


# Baselines


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
    wanted = Ridge(alpha=12).fit(z[train[::2]], y[::2]).predict(z[targets])
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


# Metrics


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    observed = np.round(rng.gamma(1, size=(120, 9)), 1).astype(np.float32)
    predicted = (0.5 * observed + rng.normal(size=(120, 9))).astype(np.float32)
    observed[:, 7], predicted[:, 8] = 1.5, 0.1
    return observed, predicted


def test_correlations_are_those_of_scipy_and_zero_where_constant(pairs):
    observed, predicted = pairs
    for ours, theirs in ((pearson, stats.pearsonr), (spearman, stats.spearmanr)):
        wanted = [theirs(observed[:, g].astype(float), predicted[:, g].astype(float))[0] for g in range(7)]
        np.testing.assert_allclose(ours(observed, predicted), [*wanted, 0, 0], rtol=1e-6)


def test_gene_scores_are_means_over_all_spots(pairs):
    observed, predicted = pairs
    baseline = observed.mean(0) + 0.1
    found = gene_scores(observed, predicted, baseline)
    mse, mse_mean = (((x - observed).astype(float) ** 2).mean(0) for x in (predicted, baseline))
    np.testing.assert_allclose(found["mse"], mse, rtol=1e-6)
    np.testing.assert_allclose(found["explained"], 1 - mse / mse_mean, rtol=1e-4, atol=1e-5)
    assert (gene_scores(observed, observed.mean(0) + 0 * observed, observed.mean(0))["explained"] == 0).all()
    assert all(value.dtype == np.float64 for value in found.values())


def test_moran_is_the_double_sum(pairs):
    observed = pairs[0]
    rng = np.random.default_rng(1)
    neighbours = np.array([rng.choice(120, 4, replace=False) for _ in range(120)])
    neighbours[3, 2:], neighbours[8] = -1, -1
    weight = np.zeros((120, 120))
    for i, row in enumerate(neighbours):
        for j in row[row >= 0]:
            weight[i, j] += 1 / (row >= 0).sum()
    z = observed - observed.mean(0, dtype=float)
    wanted = [120 / weight.sum() * (z[:, g] @ weight @ z[:, g]) / (z[:, g] @ z[:, g]) for g in range(7)]
    found = moran(observed, neighbours)
    np.testing.assert_allclose(found[:7], wanted, rtol=1e-5)
    assert np.isnan(found[7])


def test_score_table_takes_ratios_of_sums(pairs):
    observed, predicted = pairs
    mean = np.broadcast_to(observed.mean(0), observed.shape)
    rows = np.arange(0, 120, 3)
    table, by_gene = score_methods(observed, {"snrmix": predicted, "mean": mean}, rows)
    squared = [((values - observed)[rows] ** 2).mean() for values in (predicted, mean)]
    np.testing.assert_allclose(table["mse"], squared, rtol=1e-5)
    np.testing.assert_allclose(table["mse_ratio"], [squared[0] / squared[1], 1], rtol=1e-5)
    np.testing.assert_allclose(table["pearson"], [pearson(observed[rows], predicted[rows]).mean(), 0], rtol=1e-6)
    assert list(table.index) == ["snrmix", "mean"] and table.index.name == "method"
    np.testing.assert_allclose(by_gene["snrmix"]["mse"], ((predicted - observed)[rows] ** 2).mean(0), rtol=1e-5)
