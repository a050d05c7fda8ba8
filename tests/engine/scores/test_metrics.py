import numpy as np
import pytest
from scipy import stats

from snrmix.engine.scores.metrics import gene_scores, moran, pearson, spearman


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


@pytest.mark.parametrize(("spots", "near", "naive"), [(20, 0.1, -0.3), (40, 0.05, -0.18), (120, 0.05, -0.06)])
def test_correlation_of_noise_is_zero_out_of_fold(spots, near, naive):
    """Measured: .00, -.01 and .00; with the means of the folds in it -.38, -.23 and -.09."""
    rng = np.random.default_rng(3)
    observed = rng.normal(size=(spots, 400)).astype(np.float32)
    fold, predicted, means = np.arange(spots) % 5, np.empty_like(observed), np.empty_like(observed)
    for k in range(5):
        train, held_out = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        means[held_out] = observed[train].mean(0)
        some = np.stack([rng.choice(train, 10, replace=False) for _ in held_out])
        predicted[held_out] = means[held_out] + 0.3 * (observed[some].mean(1) - means[held_out])
    assert abs(gene_scores(observed, predicted, means, means)["pearson"].mean()) < near
    assert gene_scores(observed, predicted, means)["pearson"].mean() < naive
    assert (gene_scores(observed, means, means, means)["pearson"] == 0).all()


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
