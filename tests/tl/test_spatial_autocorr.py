import numpy as np
import pytest
import squidpy as sq

import snrmix


def graph(adata):
    sq.gr.spatial_neighbors_knn(adata, n_neighs=6)
    return adata


@pytest.fixture
def adata(made_result):
    return graph(made_result("unmeasured", seed=0))


@pytest.mark.parametrize(("mode", "key"), [("moran", "moranI"), ("geary", "gearyC")])
@pytest.mark.parametrize("two_tailed", [True, False])
def test_of_observed_values_it_is_squidpys_test(adata, mode, key, two_tailed):
    adata.layers["snrmix"], adata.layers["snrmix_sd"] = adata.layers["truth"], np.zeros_like(adata.layers["truth"])
    snrmix.tl.spatial_autocorr(adata, mode=mode, n_draws=2, two_tailed=two_tailed)
    theirs = sq.gr.spatial_autocorr(
        adata, mode=mode, two_tailed=two_tailed, copy=True, n_jobs=1, show_progress_bar=False
    )
    ours = adata.uns[key]
    assert list(ours.columns) == [theirs.columns[0], "pval_norm", "var_norm", "df", "pval_norm_fdr_bh"]
    assert list(ours.index) == list(theirs.index)
    for column in theirs.columns[[0, 2]]:
        np.testing.assert_allclose(ours[column], theirs[column], rtol=1e-5)
    # Theirs, with one tail, is that of the side where the statistic lies; ours is of more pattern than none.
    other_side = ours["pval_norm"] > 0.5 if not two_tailed else np.zeros(len(ours), bool)
    p = np.where(other_side, 1 - theirs["pval_norm"], theirs["pval_norm"])
    np.testing.assert_allclose(ours["pval_norm"], p, atol=1e-5)


def test_genes_without_a_pattern_are_not_found_and_others_are(made_result):
    """120 tests of noise: a fifth to all of them false on the layer, at most one on draws; every real pattern is found."""
    for fill, most in (("unmeasured", 4), ("all", 25)):
        false = plain = missed = 0
        for seed in range(2):
            adata = graph(made_result(fill, seed))
            noise = adata.var["noise"].to_numpy()
            on_layer = sq.gr.spatial_autocorr(adata, layer="snrmix", copy=True, n_jobs=1, show_progress_bar=False)
            plain += (on_layer["pval_norm"].loc[adata.var_names] < 0.05)[noise].sum()
            snrmix.tl.spatial_autocorr(adata, n_draws=10)
            found = adata.uns["moranI"]["pval_norm"].loc[adata.var_names].to_numpy() < 0.05
            false, missed = false + found[noise].sum(), missed + (~found[~noise]).sum()
        assert plain > 2 * most and false <= 0.07 * 60 and missed <= 2


@pytest.mark.parametrize(("fill", "least"), [("unmeasured", 0.75), ("all", 0.5)])
def test_draws_have_the_pattern_of_data(made_result, fill, least):
    """Moran's I of real genes, which the layer overstates where it is denoised. Values of different folds are drawn as if
    their errors had nothing in common, so that draws of such a layer have somewhat less pattern than data."""
    adata = graph(made_result(fill, seed=0))
    real = ~adata.var["noise"].to_numpy()
    options = {"copy": True, "n_jobs": 1, "show_progress_bar": False}
    truth, layer = (
        np.median(sq.gr.spatial_autocorr(adata, layer=name, **options)["I"].loc[adata.var_names][real])
        for name in ("truth", "snrmix")
    )
    snrmix.tl.spatial_autocorr(adata, n_draws=4)
    drawn = np.median(adata.uns["moranI"]["I"].loc[adata.var_names][real])
    assert least < drawn / truth < 1.2 and (layer > 2 * truth or fill == "unmeasured")


def test_names_of_genes_and_of_the_result(adata, capsys):
    adata.var["highly_variable"] = np.arange(adata.n_vars) < 12
    snrmix.tl.spatial_autocorr(adata, n_draws=2, key_added="mine", corr_method=None)
    assert set(adata.uns["mine"].index) == set(adata.var_names[:12]) and "moranI" not in adata.uns
    assert "pval_norm_fdr_bh" not in adata.uns["mine"]
    snrmix.tl.spatial_autocorr(adata, genes=["g050", "g003"], n_draws=2)
    assert set(adata.uns["moranI"].index) == {"g050", "g003"}
    assert capsys.readouterr().out == ""


def test_refusals(adata, assert_unchanged):
    before = adata.copy()
    for options, error, words in (
        ({"n_draws": 1}, ValueError, "takes 2 or more"),
        ({"mode": "ripley"}, ValueError, "mode='ripley' is unknown"),
        ({"genes": ["g999"]}, KeyError, "'g999' is not in var_names"),
        ({"connectivity_key": "graph"}, KeyError, "obsp has no such graph; make one with squidpy"),
        ({"corr_method": "holm"}, ValueError, "corr_method="),
    ):
        with pytest.raises(error, match=words):
            snrmix.tl.spatial_autocorr(adata, **options)
    assert_unchanged(before, adata)
