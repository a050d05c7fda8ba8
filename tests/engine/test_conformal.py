from types import SimpleNamespace

import numpy as np
import pytest
from scipy import optimize, stats

from snrmix.engine.conformal import (
    LEVELS,
    NORMAL_90,
    SMALLEST_SCALE,
    calibrate,
    features,
    fit_log_scale,
    gene_groups,
)
from snrmix.engine.fit import scale_context
from snrmix.engine.folds import Fold


def simulate(n, genes=60, seed=0, shape="skewed"):
    """Predictions, what is observed, and a context that the noise grows with, one value per spot.

    Noise of gene g at spot i is ``s_g exp(0.5 c_i + 0.3 (f_ig - mean_g))`` times a skewed variable of mean 0.
    """
    rng = np.random.default_rng(seed)
    mean, gene_sd = np.linspace(1, 4, genes), np.random.default_rng(99).uniform(0.2, 0.8, genes)
    predicted = mean + 0.5 * rng.normal(size=(n, genes))
    context = rng.normal(size=(n, 1))
    scale = gene_sd * np.exp(0.5 * context + 0.3 * (predicted - mean))
    draw = {
        "skewed": lambda: (rng.gamma(2, size=(n, genes)) - 2) / np.sqrt(2),
        "normal": lambda: rng.normal(size=(n, genes)),
    }[shape]()
    return (predicted + scale * draw).astype(np.float32), predicted.astype(np.float32), context, scale


@pytest.fixture(scope="module")
def fitted():
    observed, predicted, context, _ = simulate(800)
    return calibrate(observed, predicted, [context])


@pytest.fixture(scope="module")
def fresh():
    return simulate(1500, seed=1)


def ends(calibration, predicted, context, level):
    scale = calibration.scale(predicted, [context])
    low, high = calibration.quantiles(level)
    return predicted + scale * low, predicted + scale * high


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95, 0.98])
def test_intervals_cover_as_promised_on_fresh_data(fitted, fresh, level):
    observed, predicted, context, _ = fresh
    low, high = ends(fitted, predicted, context, level)
    inside = (low <= observed) & (observed <= high)
    assert inside.mean() == pytest.approx(level, abs=0.01)
    assert (observed < low).mean() == pytest.approx((1 - level) / 2, abs=0.01)  # each side, whatever the skew
    for by in (fitted.scale(predicted, [context]), np.broadcast_to(context, inside.shape), predicted):
        quarter = np.searchsorted(np.quantile(by, [0.25, 0.5, 0.75]), by)
        for q in range(4):
            assert inside[quarter == q].mean() == pytest.approx(level, abs=0.035)


def test_widths_follow_the_error(fitted, fresh):
    observed, predicted, context, truth = fresh
    scale, error = fitted.scale(predicted, [context]), np.abs(observed - predicted)
    constant = np.broadcast_to(fitted.gene_scale, error.shape)
    ours, plain = (stats.spearmanr(x.ravel(), error.ravel())[0] for x in (scale, constant))
    assert ours > plain + 0.1  # 0.41 and 0.27
    assert np.corrcoef(np.log(scale).ravel(), np.log(truth).ravel())[0, 1] > 0.98


def test_interval_score_is_better_than_that_of_constant_widths(fitted, fresh):
    observed, predicted, context, _ = fresh
    low, high = ends(fitted, predicted, context, 0.9)
    train = simulate(800)
    residual = train[0] - train[1]
    constant = [predicted + np.quantile(residual, q, axis=0) for q in (0.05, 0.95)]

    def score(low, high):
        return np.mean(high - low + 20 * np.maximum(low - observed, 0) + 20 * np.maximum(observed - high, 0))

    assert score(low, high) < 0.92 * score(*constant)


@pytest.mark.parametrize("shape", ["skewed", "normal"])
def test_sd_is_the_width_of_the_interval(shape):
    observed, predicted, context, truth = simulate(800, shape=shape)
    calibration = calibrate(observed, predicted, [context])
    scale = calibration.scale(predicted, [context])
    low, high = ends(calibration, predicted, context, 0.9)
    np.testing.assert_allclose(calibration.sd(scale), (high - low) / (2 * NORMAL_90), rtol=1e-3)
    if shape == "normal":  # then it is the standard deviation
        np.testing.assert_allclose(np.median(calibration.sd(scale) / truth), 1, atol=0.02)
        assert np.std(np.log(calibration.sd(scale) / truth)) < 0.15


def test_bias_moves_the_interval():
    observed, predicted, context, _ = simulate(800, shape="normal")
    calibration = calibrate(observed + 0.7, predicted, [context])
    low, high = ends(calibration, predicted, context, 0.9)
    inside = (low <= observed + 0.7) & (observed + 0.7 <= high)
    assert inside.mean() == pytest.approx(0.9, abs=0.01)


def test_quantiles_are_monotone_and_interpolated(fitted):
    for side, sign in zip((fitted.low, fitted.high), (-1, 1), strict=True):
        assert (sign * np.diff(side, axis=1) > 0).all()
    low, high = fitted.quantiles(0.85)
    np.testing.assert_allclose(low, fitted.low[fitted.group][:, [3, 4]].mean(1))
    np.testing.assert_allclose(high, fitted.high[fitted.group][:, [3, 4]].mean(1))
    assert LEVELS[3] == 0.8 and LEVELS[4] == 0.9


def test_scale_of_some_genes_is_that_of_all(fitted, fresh):
    _, predicted, context, _ = fresh
    whole = fitted.scale(predicted, [context])
    some = slice(10, 25)
    np.testing.assert_allclose(fitted.scale(predicted[:, some], [context], some), whole[:, some], rtol=1e-6)


def test_far_away_predictions_get_the_widest_scale_seen(fitted, fresh):
    """Beyond the range of what was seen, the features of the scale are clipped: nothing is extrapolated."""
    _, predicted, context, _ = fresh
    far, farther = (fitted.scale(predicted, [np.full_like(context, value)]) for value in (10.0, 1e6))
    np.testing.assert_array_equal(far, farther)
    assert far.max() < 50


@pytest.mark.parametrize(("genes", "groups"), [(1, 1), (24, 1), (49, 1), (50, 2), (250, 10), (2000, 20)])
def test_groups_hold_genes_of_like_mean(genes, groups):
    mean = np.random.default_rng(0).gamma(1, size=genes)
    group = gene_groups(mean)
    sizes = np.bincount(group)
    assert len(sizes) == groups and np.ptp(sizes) <= 1
    for g in range(groups - 1):
        assert mean[group == g].max() <= mean[group == g + 1].min()


def test_log_scale_minimises_its_quasi_likelihood():
    rng = np.random.default_rng(0)
    design = rng.normal(size=(400, 3)) * [1, 5, 0.1]
    residual = np.exp(design @ [0.4, -0.05, 2.0]) * rng.normal(size=400)
    found = fit_log_scale(design, residual)
    spread, squared = design.std(0), np.minimum(residual**2, 25)

    def objective(b):
        log_scale = b[0] + design @ (b[1:] / spread)
        return np.mean(2 * log_scale + squared * np.exp(-2 * log_scale)) / 2 + 0.005 * np.sum(b[1:] ** 2)

    wanted = optimize.minimize(objective, np.zeros(4), tol=1e-10).x[1:] / spread
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


def test_log_scale_recovers_coefficients_and_finds_none_in_noise():
    rng = np.random.default_rng(0)
    design = rng.normal(size=(20_000, 2))
    residual = np.exp(design @ [0.3, 0.0]) * rng.normal(size=20_000)
    np.testing.assert_allclose(fit_log_scale(design, residual), [0.3, 0.0], atol=0.02)


def test_features_are_shift_square_and_context():
    predicted, mean = np.array([[1.0, 2.0], [3.0, 5.0]]), np.array([1.0, 4.0])
    found = features(predicted, mean, [np.array([[7.0], [8.0]]), np.array([[1.0, 2.0], [3.0, 4.0]])])
    np.testing.assert_array_equal(found[:, 3], [1.0, 1.0, 8.0, 4.0])  # the second spot and gene
    np.testing.assert_array_equal(found[:, :2].T, [[0.0, 0.0, 7.0, 1.0], [-2.0, 4.0, 7.0, 2.0]])


def test_constant_genes_and_perfect_predictions_stay_finite():
    rng = np.random.default_rng(0)
    observed = rng.gamma(2, size=(50, 30)).astype(np.float32)
    predicted = observed + rng.normal(0, 0.1, observed.shape).astype(np.float32)
    observed[:, 3] = predicted[:, 3] = 2.0
    for case in ((observed, predicted), (observed, observed), (observed[:, [3]], predicted[:, [3]])):
        calibration = calibrate(*case, [np.zeros((50, 1))])
        scale = calibration.scale(case[1], [np.zeros((50, 1))])
        assert np.isfinite(scale).all() and (scale >= SMALLEST_SCALE).all()
        assert np.isfinite(calibration.sd(scale)).all()
    assert calibrate(observed, predicted, []).sd(predicted).shape == observed.shape


def test_one_outlier_does_not_widen_the_others():
    observed, predicted, context, _ = simulate(800)
    plain = calibrate(observed, predicted, [context])
    observed[5, 7] += 40.0
    touched = calibrate(observed, predicted, [context])
    np.testing.assert_allclose(touched.coefficients, plain.coefficients, atol=0.02)
    np.testing.assert_allclose(touched.high[:, LEVELS <= 0.95], plain.high[:, LEVELS <= 0.95], rtol=0.03)


def test_context_is_finite_where_kriging_is_certain():
    """Of a gene that is constant in the training spots, kriging has sd 0, whose log is not finite."""
    rng = np.random.default_rng(0)
    n, measured = 40, np.arange(0, 40, 2)
    section = SimpleNamespace(
        positions=rng.uniform(0, 6, (n, 2)), library=np.zeros(n, int), measured=measured, unmeasured=measured + 1
    )
    folds = [Fold(np.arange(10, 20), np.arange(10)), Fold(np.arange(10), np.arange(10, 20))]
    sd = rng.uniform(0, 1, (20, 3)) * [1, 0, 1]
    kriged = SimpleNamespace(out_of_fold_sd=sd, predicted_sd=sd)
    for context in scale_context(section, folds, np.arange(20), kriged):
        assert all(np.isfinite(part).all() for part in context)
        np.testing.assert_allclose(context[1][:, 1], np.log(SMALLEST_SCALE))
        np.testing.assert_allclose(context[1][sd > SMALLEST_SCALE], np.log(sd[sd > SMALLEST_SCALE]))
