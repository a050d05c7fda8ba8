import numpy as np
import pytest

from snrmix.engine.counts import log_count_moments
from snrmix.engine.depth import tabulate_moments
from snrmix.engine.folds import Fold
from snrmix.engine.kriging.components import depth_curves
from snrmix.engine.kriging.covariance import KrigingSites
from snrmix.engine.kriging.krige import cross_krige
from snrmix.engine.kriging.rates import LogDepth, Rates, depth_design

GENES = 30


@pytest.fixture(scope="module")
def tissue():
    """Counts on a 16 x 16 grid: rates follow one wave, depth another, which colour shows."""
    rng = np.random.default_rng(0)
    x, y = (axis.ravel().astype(float) for axis in np.meshgrid(np.arange(16), np.arange(16)))
    depth = np.round(np.exp(7.5 + 0.8 * np.sin(x / 3) + rng.normal(0, 0.1, 256)))
    share = rng.dirichlet(np.full(GENES, 2.0))
    rates = share * np.exp(0.6 * np.cos(y / 3)[:, None] * rng.normal(size=GENES))
    counts = rng.poisson(0.5 * rates / rates.sum(1, keepdims=True) * depth[:, None])
    colour = np.column_stack([np.sin(x / 3), rng.normal(size=256)]).astype(np.float32)
    looks = np.column_stack([np.cos(y / 3), rng.normal(size=(256, 3))]).astype(np.float32)
    expression = np.log1p(1e4 * counts / depth[:, None]).astype(np.float32)
    sites = KrigingSites(np.column_stack([x, y]), np.zeros(256, int), looks, colour)
    return sites, expression, depth


def krige(tissue, expression=None):
    sites, observed, depth = tissue
    measured, targets = np.arange(0, 256, 2), np.arange(1, 256, 2)
    fold = Fold(np.arange(32, 128), np.arange(32))
    values = (observed if expression is None else expression)[measured]
    return cross_krige(sites, measured, values, depth[measured], [fold], targets, rates=True), targets


def test_depth_is_predicted_where_it_was_not_seen(tissue):
    kriged, targets = krige(tissue)
    missed = np.log(kriged.predicted_depth / tissue[2][targets])
    assert np.mean(missed**2) < 0.1 * np.log(tissue[2]).var()
    missed = np.log(kriged.out_of_fold_depth[:32] / tissue[2][:64:2])
    assert np.mean(missed**2) < 0.2 * np.log(tissue[2]).var() and np.isnan(kriged.out_of_fold_depth[32:]).all()


def test_rates_predict_values_that_were_not_seen(tissue):
    kriged, targets = krige(tissue)
    truth = tissue[1][targets]
    error = [((values - truth) ** 2).mean() for values in (kriged.predicted_rates, kriged.predicted, truth.mean(0))]
    assert error[0] < 0.8 * error[2] and error[0] < 1.1 * error[1]


def test_held_out_spots_do_not_influence_their_own_rates(tissue):
    garbage = tissue[1].copy()
    garbage[:64] = 3.0
    first, other = krige(tissue)[0], krige(tissue, garbage)[0]
    assert (first.out_of_fold_rates[:32] == other.out_of_fold_rates[:32]).all()
    assert np.isnan(first.out_of_fold_rates[32:]).all()
    assert (first.predicted_rates != other.predicted_rates).any()


def test_kriged_changes_and_depth_give_the_poisson_mean(tissue):
    _, expression, depth = tissue
    rates = Rates.of(expression, depth_curves(depth), np.ones(256), tabulate_moments(depth), np.arange(256))
    rng, at = np.random.default_rng(1), np.quantile(depth, [0.05, 0.4, 0.9])
    rate = rates.share * rng.uniform(0.2, 4, (3, GENES))
    found = rates.expected(np.log1p(rate / rates.share) * np.sqrt(rates.share), at)
    for row, d, own in zip(found, at, rate, strict=True):
        np.testing.assert_allclose(row, log_count_moments(own * d, np.array([1e4 / d]))[0][0], rtol=5e-3, atol=5e-3)


def test_changes_of_a_gene_are_counts_over_what_depth_alone_gives(tissue):
    _, expression, depth = tissue
    rates = Rates.of(expression, depth_curves(depth), np.ones(256), tabulate_moments(depth), np.arange(256))
    counts = np.expm1(expression.astype(float)) * depth[:, None] / 1e4
    np.testing.assert_allclose(rates.share, counts.sum(0) / depth.sum(), rtol=1e-4)
    changes = (rates.field.centred + rates.field.mean) / np.sqrt(rates.share)
    np.testing.assert_allclose(changes, np.log1p(counts / (depth[:, None] * rates.share)), atol=1e-3)


@pytest.mark.parametrize("noise", [0.05, 2.0])
def test_kriging_and_regression_of_depth_count_by_their_errors(noise):
    """Regression misses by .3 and the share of depth that its design does not show; kriging by ``noise``."""
    rng = np.random.default_rng(0)
    design, train, targets = rng.normal(size=(300, 2)).astype(np.float32), np.arange(200), np.arange(200, 300)
    log_depth = 7 + design[:, 0] + 0.3 * rng.normal(size=300)
    known = LogDepth(train, log_depth[train], design)
    kriged = log_depth[targets] - log_depth[train].mean() + noise * rng.normal(size=100)
    truth = np.clip(log_depth[targets], log_depth[train].min(), log_depth[train].max())
    missed = np.log(known.depth(kriged, targets, noise**2)) - truth
    assert np.sqrt(np.mean(missed**2)) < 1.15 * min(noise, 0.3)


def test_depth_is_regressed_on_colour_and_on_places_within_each_library():
    rng = np.random.default_rng(0)
    positions, library = rng.uniform(size=(10, 2)), np.arange(10) // 5
    colour = rng.normal(size=(10, 3)).astype(np.float32)
    both = KrigingSites(positions, library, None, colour)
    assert depth_design(both).shape == (10, 9)
    assert (depth_design(both)[library == 0, 6:] == 0).all()
    assert depth_design(KrigingSites(positions, library, None, colour, apart=True)).shape == (10, 3)
    assert depth_design(KrigingSites(positions, library)).shape == (10, 0)
