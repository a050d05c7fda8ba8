import numpy as np
import pytest
import squidpy as sq
from scipy import stats

import snrmix
from snrmix.engine.pooling import barnard_rubin, pool_both, pool_missing, pool_replaced


@pytest.fixture(scope="module")
def adata(made_result):
    return made_result("unmeasured", seed=0)


def test_rubins_rules_by_hand():
    """Five estimates and variances, worked out with a pencil."""
    estimates, variances = np.array([1.0, 2, 3, 4, 5]), np.array([1.0, 1, 2, 2, 4])
    pooled = pool_missing(estimates, variances)
    assert pooled.estimate == 3 and pooled.within == 2 and pooled.between == 2.5
    assert pooled.variance == pytest.approx(2 + 1.2 * 2.5)
    assert pooled.df == pytest.approx(4 * (1 + 2 / 3) ** 2)  # (m - 1) (1 + 1 / r)^2 with r = 3 / 2
    assert pooled.p_value() == pytest.approx(2 * stats.t.sf(3 / np.sqrt(5), pooled.df))
    low, high = pooled.interval(0.9)
    assert high - 3 == pytest.approx(stats.t.ppf(0.95, pooled.df) * np.sqrt(5)) and low == pytest.approx(6 - high)


def test_degrees_of_freedom_of_barnard_and_rubin():
    """Few spots: never more than the analysis of complete data has, and their formula."""
    pooled = pool_missing(np.array([1.0, 2, 3, 4, 5]), np.full(5, 2.0), df=10)
    share = 3 / 5
    old, observed = 4 / share**2, 11 / 13 * 10 * (1 - share)
    assert pooled.df == pytest.approx(1 / (1 / old + 1 / observed)) and pooled.df < 10
    assert barnard_rubin(np.array(0.0), 4, np.inf) == np.inf


def test_what_does_not_differ_between_draws_is_the_ordinary_analysis():
    pooled = pool_missing(np.full((3, 2), 1.5), np.full((3, 2), 0.25), df=12)
    np.testing.assert_allclose(pooled.variance, 0.25)
    np.testing.assert_allclose(pooled.df, 13 / 15 * 12)
    assert pool_missing(np.zeros((3, 1)), np.zeros((3, 1))).score()[0] == 0


def coverage(rule, rounds=3000, m=10, r=2, n=40, missing=20):
    """How often 90 % intervals of a mean hold it, where a half is drawn from its posterior, or all of it."""
    rng, held = np.random.default_rng(0), 0
    x = rng.standard_normal((rounds, n))
    seen = x[:, missing:]
    centre, spread = seen.mean(1), seen.std(1, ddof=1)
    scale = spread[:, None] * np.sqrt((n - missing - 1) / rng.chisquare(n - missing - 1, (rounds, m)))
    place = centre[:, None] + scale * rng.standard_normal((rounds, m)) / np.sqrt(n - missing)
    filled = place[..., None, None] + scale[..., None, None] * rng.standard_normal((rounds, m, 1, missing))
    if rule == "missing":
        full = np.concatenate([filled[:, :, 0], np.broadcast_to(seen[:, None], (rounds, m, n - missing))], 2)
        pooled = pool_missing(full.mean(2).T, full.var(2, ddof=1).T / n, n - 1)
    elif rule == "replaced":
        drawn = rng.standard_normal((rounds, m, n)) * x.std(1, ddof=1)[:, None, None] + x.mean(1)[:, None, None]
        pooled = pool_replaced(drawn.mean(2).T, drawn.var(2, ddof=1).T / n, n - 1)
    else:
        again = centre[:, None, None, None] + spread[:, None, None, None] * rng.standard_normal(
            (rounds, m, r, n - missing)
        )
        full = np.concatenate([np.broadcast_to(filled, (rounds, m, r, missing)), again], 3)
        pooled = pool_both(np.moveaxis(full.mean(3), 0, -1), np.moveaxis(full.var(3, ddof=1), 0, -1) / n, n - 1)
    low, high = pooled.interval(0.9)
    held = ((low < 0) & (high > 0)).mean()
    return held


@pytest.mark.parametrize("rule", ["missing", "replaced", "both"])
def test_intervals_cover_as_promised(rule):
    """3,000 simulations of a normal mean, half of it missing, replaced, or both: standard error .0055."""
    assert 0.875 < coverage(rule) < 0.935


def test_a_function_gets_each_draw_as_a_table_and_cannot_harm_the_object(adata, assert_unchanged):
    before, seen = adata.copy(), []

    def mean(drawn):
        seen.append(drawn.X.copy())
        drawn.X[:] = -1
        drawn.obs["new"] = 1
        del drawn.uns["snrmix"]
        return seen[-1].mean(0), seen[-1].var(0, ddof=1) / len(seen[-1])

    pooled = snrmix.tl.pool(adata, mean, 4)
    assert_unchanged(before, adata)
    for one, draw in zip(seen, snrmix.tl.draws(adata, 4), strict=True):
        np.testing.assert_array_equal(one, draw)
    means = np.array([one.mean(0, dtype=float) for one in seen])
    np.testing.assert_allclose(pooled.estimate, means.mean(0), rtol=1e-5)
    np.testing.assert_allclose(pooled.between, means.var(0, ddof=1), rtol=1e-2)
    assert pooled.n_draws == 4 and (pooled.variance > pooled.within).all()


def test_replaced_values_count_less_than_missing_ones(made_result):
    """With fill="all", pairs of draws share the values of hidden spots, and others differ."""
    adata = made_result("all", seed=0)
    seen = []

    def keep(drawn):
        seen.append(drawn.X)
        return drawn.X.mean(0), drawn.X.var(0) / drawn.n_obs

    pooled = snrmix.tl.pool(adata, keep, 7)
    measured = adata.obs["snrmix_measured"].to_numpy()
    assert len(seen) == pooled.n_draws == 6
    np.testing.assert_array_equal(seen[0][~measured], seen[1][~measured])
    assert (seen[0][measured] != seen[1][measured]).any() and (seen[1][~measured] != seen[2][~measured]).any()
    naive = pool_missing(
        np.array([one.mean(0) for one in seen[::2]]), np.array([one.var(0) / len(one) for one in seen[::2]])
    )
    assert np.median(pooled.variance / naive.variance) < 1


def test_everything_measured_and_replaced(adata, made_result):
    """Then nothing is missing, and only the number of draws adds to the variance."""
    adata = made_result("all", seed=0)
    adata = adata[adata.obs["snrmix_measured"]].copy()
    pooled = snrmix.tl.pool(adata, lambda drawn: (drawn.X.mean(0), drawn.X.var(0) / drawn.n_obs), 5)
    assert (pooled.between == 0).all() and np.median(pooled.variance / pooled.within) < 1.3


def test_scalars_and_degrees_of_freedom(adata):
    pooled = snrmix.tl.pool(adata, lambda drawn: (drawn.X.mean(), 0.01, 30), 3)
    assert pooled.estimate.shape == () and pooled.df < 30 * 31 / 33 + 1e-9


def test_refusals(adata, made_result):
    with pytest.raises(ValueError, match="n_draws=1: what is not known shows in how draws differ"):
        snrmix.tl.pool(adata, lambda drawn: (0, 1), 1)
    with pytest.raises(ValueError, match="takes 4 or more, with fill='all'"):
        snrmix.tl.pool(made_result("all", seed=0), lambda drawn: (0, 1), 3)
    with pytest.raises(ValueError, match="must return an estimate and its variance"):
        snrmix.tl.pool(adata, lambda drawn: 1.0, 2)
    with pytest.raises(ValueError, match="shape"):
        snrmix.tl.pool(adata, lambda drawn: (np.zeros(2), np.zeros(3)), 2)


@pytest.mark.parametrize(
    "function",
    [
        lambda adata: snrmix.tl.pool(adata, lambda drawn: (0, 1), 2),
        lambda adata: snrmix.tl.rank_genes_groups(adata, "side"),
        lambda adata: snrmix.tl.spatial_autocorr(adata),
        lambda adata: snrmix.tl.leiden_consensus(adata, function=lambda drawn: drawn.obs["side"]),
    ],
    ids=["pool", "rank_genes_groups", "spatial_autocorr", "leiden_consensus"],
)
def test_a_result_of_an_older_version_has_no_draws(function, made_result, assert_unchanged):
    adata = made_result("unmeasured", seed=0, side=8)
    sq.gr.spatial_neighbors_knn(adata, n_neighs=4)
    del adata.uns["snrmix"]["errors"]
    before = adata.copy()
    with pytest.raises(KeyError, match="made by an older version.*Run snrmix.tl.impute again"):
        function(adata)
    assert_unchanged(before, adata)
