import anndata
import numpy as np
import pytest
from scipy.stats import norm

import snrmix
from snrmix.engine.conformal import LEVELS, NORMAL_90, calibrate


@pytest.fixture
def made():
    """A result put together by hand, and the calibration it was made with.

    Genes 0-59 are sparse, skewed and modelled; gene 60 got its mean, gene 61 was left out. Of 300 sites the first 100
    hold observed values.
    """
    rng = np.random.default_rng(0)
    n, genes = 300, 60
    rate = np.geomspace(0.02, 1.5, genes) * np.exp(0.4 * rng.normal(size=(n, genes)))
    observed = np.log1p(3 * rng.poisson(rate)).astype(np.float32)
    predicted = np.maximum(observed.mean(0) + 0.3 * (np.log1p(rate) - np.log1p(rate).mean(0)), 0).astype(np.float32)
    calibration = calibrate(observed, predicted, [])
    layer, sd = np.full((n, genes + 2), np.nan, np.float32), np.full((n, genes + 2), np.nan, np.float32)
    layer[:, :genes], sd[:, :genes] = predicted, calibration.sd(calibration.scale(predicted, []))
    layer[:100, :genes], sd[:100] = observed[:100], 0
    layer[:, genes], sd[100:, genes] = 2.0, 0.5
    layer[:, genes + 1] = sd[:, genes + 1] = np.nan
    adata = anndata.AnnData(np.zeros((n, genes + 2), np.float32), layers={"snrmix": layer, "snrmix_sd": sd})
    adata.var["snrmix_calibration"] = [*calibration.group, -1, -1]
    stored = {"low": calibration.low, "high": calibration.high, "levels": LEVELS}
    adata.uns["snrmix"] = {"calibration": stored}
    return adata, calibration, observed, predicted


@pytest.mark.parametrize("level", [0.5, 0.75, 0.9, 0.98])
def test_ends_are_the_calibrated_quantiles(made, level):
    adata, calibration, _, predicted = made
    low, high = snrmix.tl.interval(adata, level)
    scale = calibration.scale(predicted, [])
    for found, quantile in zip((low, high), calibration.quantiles(level), strict=True):
        wanted = np.maximum(predicted + scale * quantile, 0)
        np.testing.assert_allclose(found[100:, :60], wanted[100:], rtol=1e-4, atol=1e-5)
        assert found.dtype == np.float32 and found.shape == adata.shape


def test_observed_values_are_exact_and_missing_ones_missing(made):
    adata = made[0]
    for end in snrmix.tl.interval(adata):
        np.testing.assert_array_equal(end[:100, :61], adata.layers["snrmix"][:100, :61])
        assert np.isnan(end[:, 61]).all() and np.isfinite(end[:, :61]).all()


def test_genes_that_got_their_mean_have_normal_intervals(made):
    low, high = snrmix.tl.interval(made[0], 0.8)
    half = 0.5 * norm.ppf(0.9)
    np.testing.assert_allclose([low[100, 60], high[100, 60]], [2 - half, 2 + half], rtol=1e-5)


def test_intervals_are_nested_ordered_and_never_negative(made):
    """Also at low levels, where most values of a sparse gene lie below its prediction."""
    adata = made[0]
    assert (made[1].high[:, 0] < 0).any()
    last = None
    for level in (0.5, 0.6, 0.72, 0.9, 0.98):
        low, high = (end[:, :61] for end in snrmix.tl.interval(adata, level))
        assert (low >= 0).all() and (low <= high).all()
        if last is not None:
            assert (low <= last[0] + 1e-6).all() and (high >= last[1] - 1e-6).all()
        last = low, high


def test_width_at_90_percent_is_that_of_the_sd(made):
    adata = made[0]
    low, high = snrmix.tl.interval(adata, 0.9)
    free = np.nan_to_num(low) > 0
    free[:100] = False
    wanted = 2 * NORMAL_90 * adata.layers["snrmix_sd"][free]
    np.testing.assert_allclose((high - low)[free], wanted, rtol=1e-3)


def test_observed_values_lie_inside_as_often_as_promised(made):
    adata, _, observed, _ = made
    for level in (0.8, 0.9):
        low, high = snrmix.tl.interval(adata, level)
        inside = (low[100:, :60] <= observed[100:]) & (observed[100:] <= high[100:, :60])
        assert inside.mean() == pytest.approx(level, abs=0.02)


def test_result_of_impute_survives_files_and_subsets(tissue, impute, tmp_path):
    measured = np.random.default_rng(0).random(tissue.n_obs) < 0.6
    impute(tissue, measured=measured, genes=30, kriging=False)
    low, high = snrmix.tl.interval(tissue, 0.9)
    modelled = tissue.var["snrmix_modelled"].to_numpy()
    assert np.isnan(low[:, ~modelled]).all() and (low[:, modelled] <= high[:, modelled]).all()
    np.testing.assert_array_equal(low[measured], tissue.layers["snrmix"][measured])
    assert (high[~measured][:, modelled] > low[~measured][:, modelled]).all()
    tissue.write_h5ad(tmp_path / "a.h5ad")
    again = anndata.read_h5ad(tmp_path / "a.h5ad")[::-1, ::2]
    for end, whole in zip(snrmix.tl.interval(again, 0.9), (low, high), strict=True):
        np.testing.assert_array_equal(end, whole[::-1, ::2])


def test_weights_of_an_earlier_call_do_not_stay(tissue, impute):
    impute(tissue)
    assert {"snrmix_weight_network", "snrmix_weight_kriging"} <= set(tissue.var)
    impute(tissue, kriging=False)
    assert "snrmix_weight_network" in tissue.var and "snrmix_weight_kriging" not in tissue.var


@pytest.mark.parametrize("level", [0.4, 0.99, 90, float("nan")])
def test_level_out_of_range_is_refused(made, level):
    with pytest.raises(ValueError, match="level=.* must lie between 0.5 and 0.98"):
        snrmix.tl.interval(made[0], level)


def test_result_that_is_not_there_is_refused(made, tissue):
    with pytest.raises(KeyError, match="no result 'snrmx' in uns.*Did you mean 'snrmix'"):
        snrmix.tl.interval(made[0], key="snrmx")
    with pytest.raises(KeyError, match="run snrmix.tl.impute first"):
        snrmix.tl.interval(tissue)
