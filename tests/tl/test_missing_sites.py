"""Spots without expression to trust: no counts, failed quality control, NaN, in tissue but undetected."""

import logging

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import snrmix

MISSING = np.r_[3:23, 60, 71]  # some far from any other, some together


def remove_counts(adata):
    adata.X[MISSING] = 0


def make_nan(adata):
    adata.X[MISSING] = np.nan


def make_some_genes_nan(adata):
    adata.X[np.ix_(MISSING, [0, 7])] = np.nan


def move_off_the_tissue(adata):
    adata.obs.iloc[MISSING, adata.obs.columns.get_loc("in_tissue")] = 0


def lose_in_tissue(adata):
    adata.obs["in_tissue"] = adata.obs["in_tissue"].astype(float)
    adata.obs.iloc[MISSING, adata.obs.columns.get_loc("in_tissue")] = 0.0


WAYS = [remove_counts, make_nan, make_some_genes_nan, move_off_the_tissue, lose_in_tissue]


@pytest.fixture(scope="module")
def marked(impute):
    """The section imputed where a column of obs marks the missing spots."""
    adata = snrmix.datasets.synthetic_tissue(12, 40, image_px_per_pitch=16)
    adata.obs["measured"] = ~np.isin(np.arange(adata.n_obs), MISSING)
    impute(adata, measured="measured")
    return adata


def convert(adata, kind):
    adata.X = {"dense": np.asarray, "float64": np.float64, "csr": sparse.csr_matrix, "csc": sparse.csc_array}[kind](
        adata.X
    )


@pytest.mark.parametrize("kind", ["dense", "float64", "csr", "csc"])
@pytest.mark.parametrize("way", WAYS)
def test_missing_spots_are_found_and_filled(tissue, impute, marked, way, kind):
    tissue.X = tissue.X.toarray()
    way(tissue)
    convert(tissue, kind)
    impute(tissue, fill="unmeasured")
    pd.testing.assert_series_equal(tissue.obs["snrmix_measured"], marked.obs["snrmix_measured"])
    np.testing.assert_array_equal(tissue.layers["snrmix"], marked.layers["snrmix"])
    assert (tissue.layers["snrmix_sd"][MISSING][:, tissue.var["snrmix_modelled"]] > 0).all()


def test_missing_spots_are_nearer_to_the_truth_than_the_mean(marked):
    genes = marked.var["snrmix_modelled"].to_numpy() & (marked.var["programme"] != "NOISE").to_numpy()
    truth, layer = marked.layers["truth"][:, genes], marked.layers["snrmix"][:, genes]
    mean = layer[marked.obs["measured"]].mean(0)
    error = np.mean((layer[MISSING] - truth[MISSING]) ** 2) / np.mean((mean - truth[MISSING]) ** 2)
    assert error < 0.6  # 0.38


def test_bare_call_imputes_what_has_no_counts(tissue, impute):
    tissue.X = tissue.X.toarray()
    remove_counts(tissue)
    impute(tissue)
    assert tissue.uns["snrmix"]["fill"] == "all"
    assert np.isfinite(tissue.layers["snrmix"][:, tissue.var["snrmix_modelled"]]).all()


def test_quality_control_by_a_column(tissue, impute, marked):
    counts = np.asarray(tissue.X.sum(1)).ravel()
    counts[MISSING] = 5
    tissue.obs["passed"] = counts > 100
    impute(tissue, measured="passed")
    np.testing.assert_array_equal(tissue.layers["snrmix"], marked.layers["snrmix"])


def test_nan_is_said(tissue, impute, caplog):
    tissue.X = tissue.X.toarray()
    make_nan(tissue)
    with caplog.at_level(logging.INFO, logger="snrmix"):
        impute(tissue)
    assert "22 spots have NaN as expression of some gene: they are taken as unmeasured" in caplog.text


def test_nan_in_a_layer_that_is_not_used_does_not_matter(tissue, impute):
    tissue.layers["scaled"] = np.full(tissue.shape, np.nan)
    impute(tissue)
    assert tissue.obs["snrmix_measured"].all()


def test_gene_that_is_nan_everywhere_is_refused(tissue, impute):
    tissue.X = tissue.X.toarray()
    tissue.X[:, 4] = np.nan
    with pytest.raises(ValueError, match=r"0 of 117 spots are measured \(at least one count .*and no NaN\)"):
        impute(tissue)


def test_spatialdata_with_nan_rows_and_undetected_bins(sdata, impute):
    table = sdata["table"]
    table.X = table.X.toarray()
    make_nan(table)
    table.X[40] = 0
    impute(sdata)
    missing = np.isin(np.arange(table.n_obs), [*MISSING, 40])
    np.testing.assert_array_equal(table.obs["snrmix_measured"], ~missing)
    assert np.isfinite(table.layers["snrmix"][:, table.var["snrmix_modelled"]]).all()


def test_hold_out_never_holds_out_missing_spots(tissue):
    tissue.X = tissue.X.toarray()
    make_nan(tissue)
    snrmix.pp.hold_out(tissue, share=0.3)
    assert not tissue.obs.iloc[MISSING][["measured", "measured_held_out"]].to_numpy().any()


def test_rows_added_by_a_concatenation(tissue, impute, marked):
    present = tissue[np.setdiff1d(np.arange(tissue.n_obs), MISSING)].copy()
    empty = anndata.AnnData(
        sparse.csr_matrix((len(MISSING), tissue.n_vars), dtype=np.float32),
        obs=tissue.obs.iloc[MISSING],
        var=tissue.var,
        obsm={"spatial": tissue.obsm["spatial"][MISSING]},
    )
    both = anndata.concat([present, empty], merge="same")
    both.uns["spatial"] = tissue.uns["spatial"]
    impute(both, fill="unmeasured")
    np.testing.assert_array_equal(both[tissue.obs_names].layers["snrmix"], marked.layers["snrmix"])
