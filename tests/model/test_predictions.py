"""What a model predicts is a result like any other: genes, uncertainty, scores, intervals, draws, plots."""

import logging

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import snrmix

FAST = {"encoder": "colour", "max_epochs": 5, "n_folds": 3}


@pytest.fixture(scope="module")
def section():
    """A section, 60 % of whose spots are measured."""
    adata = snrmix.datasets.synthetic_tissue(n_rows=14, n_genes=20, image_px_per_pitch=16)
    adata.obs["measured"] = np.random.default_rng(0).random(adata.n_obs) < 0.6
    return adata


@pytest.fixture(scope="module")
def fitted(section):
    return snrmix.SNRMix(**FAST).fit(section, measured="measured")


@pytest.fixture(scope="module")
def predicted(section, fitted):
    """From the image alone, and with what was measured."""
    return {known: fitted.predict(section, measured=known) for known in (None, "measured")}


def observed(adata, genes):
    counts = adata.X.toarray()
    logs = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    return logs[:, adata.var_names.get_indexer(genes)]


def test_fit_says_how_good_it_is(section, caplog):
    with caplog.at_level(logging.INFO, logger="snrmix"):
        model = snrmix.SNRMix(**FAST).fit(section, measured="measured")
    ratio, n = model.scores["mse_ratio"], int(section.obs["measured"].sum())
    assert (
        f"fitted 20 genes. On {n} spots that were held out, MSE is {ratio['network']:.3f} of the mean's" in caplog.text
    )
    assert f"and {ratio['snrmix']:.3f} with measured neighbours" in caplog.text
    assert f"{model.gene_scores['reliable'].sum()} genes are reliable" in caplog.text


@pytest.mark.parametrize("known", [None, "measured"])
def test_names_uncertainty_and_scores(section, fitted, predicted, known):
    found = predicted[known]
    assert list(found.obs_names) == list(section.obs_names) and list(found.var_names) == list(fitted.genes)
    np.testing.assert_array_equal(found.X, found.layers["snrmix"])
    assert np.isfinite(found.layers["snrmix_sd"]).all() and (found.layers["snrmix_sd"] > 0).all()
    pd.testing.assert_frame_equal(found.uns["snrmix"]["scores"], fitted.scores)
    for name in ("pearson", "explained", "reliable", "pearson_given_depth", "pearson_network"):
        np.testing.assert_array_equal(found.var[f"snrmix_{name}"], fitted.gene_scores[name])
    np.testing.assert_array_equal(found.obs["snrmix_measured"], section.obs["measured"] & (known is not None))


@pytest.mark.parametrize("known", [None, "measured"])
def test_intervals_hold_what_is_observed(section, fitted, predicted, known):
    low, high = snrmix.tl.interval(predicted[known], level=0.9)
    hidden, seen = ~section.obs["measured"].to_numpy(), observed(section, fitted.genes)
    assert 0.85 < ((seen >= low) & (seen <= high))[hidden].mean() < 0.95


@pytest.mark.parametrize("known", [None, "measured"])
def test_draws_are_spread_as_the_intervals(predicted, known):
    found = predicted[known]
    drawn = np.array(list(snrmix.tl.draws(found, 40)))
    np.testing.assert_array_equal(drawn[3], list(snrmix.tl.draws(found, 4))[3])
    ends = snrmix.tl.interval(found, level=0.9)
    below, above = (drawn < ends[0]).mean(), (drawn > ends[1]).mean()
    assert below < 0.06 and above == pytest.approx(0.05, abs=0.015)
    assert np.abs((drawn.mean(0) - found.X) / found.layers["snrmix_sd"]).mean() < 0.2


def test_draws_and_pooled_estimates_survive_files(section, fitted, predicted, tmp_path):
    found, typical = predicted[None], fitted.predict(section, at_depth="typical", key_added="mine")
    assert typical.uns["mine"]["at_depth"] == "typical" and len(list(snrmix.tl.draws(typical, 2, key="mine"))) == 2
    pooled = snrmix.tl.pool(found, lambda drawn: (drawn.X.mean(0), drawn.X.var(0) / drawn.n_obs), 4)
    assert (pooled.between > 0).all()
    found.write_h5ad(tmp_path / "predicted.h5ad")
    again = anndata.read_h5ad(tmp_path / "predicted.h5ad")
    np.testing.assert_array_equal(next(snrmix.tl.draws(again, 1)), next(snrmix.tl.draws(found, 1)))
    fitted.save(tmp_path / "model")
    loaded = snrmix.SNRMix.load(tmp_path / "model").predict(section)
    np.testing.assert_array_equal(next(snrmix.tl.draws(loaded, 1)), next(snrmix.tl.draws(found, 1)))


def test_plots_take_it(predicted):
    for draw in (
        lambda: snrmix.pl.compare(predicted[None], gene=predicted[None].var_names[0]),
        lambda: snrmix.pl.gene_scores(predicted["measured"]),
    ):
        draw()
        assert plt.get_fignums()
        plt.close("all")
