import matplotlib
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import stats

import snrmix
from snrmix.engine.contrasts import rank_sum, welch

matplotlib.use("Agg")


@pytest.fixture
def adata(made_result):
    return made_result("unmeasured", seed=0)


def tested(adata, **options):
    snrmix.tl.rank_genes_groups(adata, "side", **options)
    return (
        sc.get.rank_genes_groups_df(adata, None).set_index(["group", "names"]) if "key_added" not in options else None
    )


@pytest.mark.parametrize("method", ["t-test", "t-test_overestim_var", "wilcoxon"])
def test_of_observed_values_it_is_scanpys_test(method, made_result):
    """Nothing is missing: every draw is the data, and pooling changes nothing but the t distribution's tail."""
    adata = made_result("unmeasured", seed=0)
    adata.layers["snrmix"], adata.layers["snrmix_sd"] = adata.layers["truth"], np.zeros_like(adata.layers["truth"])
    adata.uns["log1p"] = {}
    theirs = adata.copy()
    sc.tl.rank_genes_groups(theirs, "side", method=method, tie_correct=method == "wilcoxon", use_raw=False)
    snrmix.tl.rank_genes_groups(adata, "side", method=method, n_draws=2)
    ours, theirs = (sc.get.rank_genes_groups_df(one, None).set_index(["group", "names"]) for one in (adata, theirs))
    theirs = theirs.loc[ours.index]
    np.testing.assert_allclose(ours["scores"], theirs["scores"], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(ours["pvals"], theirs["pvals"], rtol=0.15, atol=1e-4)
    np.testing.assert_allclose(ours["logfoldchanges"], theirs["logfoldchanges"], rtol=1e-3, atol=1e-4)


def test_genes_without_a_difference_are_not_found_and_others_are(made_result):
    """Left against right. 8 simulations, 240 genes of noise: 2-20 % false on the layer, none to one on draws; real genes are
    found at least nine tenths as often as from the measured half."""
    false, plain, found, wanted = 0, {"unmeasured": 0, "all": 0}, {"unmeasured": 0, "all": 0}, 0
    for seed in range(4):
        for fill in ("unmeasured", "all"):
            adata = made_result(fill, seed)
            left, measured = (adata.obs["side"] == "left").to_numpy(), adata.obs["snrmix_measured"].to_numpy()
            noise = adata.var["noise"].to_numpy()
            layer, truth = adata.layers["snrmix"], adata.layers["truth"]
            plain[fill] += (welch_p(layer[left], layer[~left]) < 0.05)[noise].sum()
            p = tested(adata)["pvals"].loc["left"].loc[adata.var_names].to_numpy()
            false += (p < 0.05)[noise].sum()
            found[fill] += (p < 0.05)[~noise].sum()
        wanted += (welch_p(truth[left & measured], truth[~left & measured]) < 0.05)[~noise].sum()
    assert plain["all"] > 60 and plain["unmeasured"] > 12 and false <= 0.07 * 240
    assert min(found.values()) >= 0.9 * wanted


def welch_p(one, other):
    return stats.ttest_ind(one, other, equal_var=False).pvalue


def test_the_contrasts_are_those_of_scipy():
    rng = np.random.default_rng(0)
    values = rng.poisson(2, (60, 7)).astype(np.float32)
    own, other = np.arange(20), np.arange(20, 60)
    difference, variance, df = welch(values, own, other)
    theirs = stats.ttest_ind(values[own], values[other], equal_var=False)
    np.testing.assert_allclose(difference / np.sqrt(variance), theirs.statistic, rtol=1e-6)
    np.testing.assert_allclose(df, theirs.df, rtol=1e-6)
    above, variance, _ = rank_sum(values, own, other)
    z = above / np.sqrt(variance)
    p = stats.mannwhitneyu(values[own], values[other], method="asymptotic", use_continuity=False).pvalue
    np.testing.assert_allclose(2 * stats.norm.sf(np.abs(z)), p, rtol=1e-6)


def test_scanpy_reads_and_draws_it(adata, tmp_path):
    snrmix.tl.rank_genes_groups(adata, "side", n_draws=2, key_added="mine", n_genes=10)
    frame = sc.get.rank_genes_groups_df(adata, "left", key="mine")
    assert list(frame) == ["names", "scores", "logfoldchanges", "pvals", "pvals_adj"] and len(frame) == 10
    assert frame["scores"].is_monotonic_decreasing
    sc.pl.rank_genes_groups(adata, key="mine", show=False)
    sc.pl.rank_genes_groups_dotplot(adata, key="mine", show=False, n_genes=3, dendrogram=False)
    matplotlib.pyplot.close("all")
    adata.write_h5ad(tmp_path / "mine.h5ad")
    again = sc.read_h5ad(tmp_path / "mine.h5ad")
    pd.testing.assert_frame_equal(sc.get.rank_genes_groups_df(again, "left", key="mine"), frame)


def test_groups_references_and_corrections(adata):
    adata.obs["part"] = pd.Categorical(np.tile(["a", "b", "c", None], 100))
    snrmix.tl.rank_genes_groups(adata, "part", groups=["a", "b"], reference="b", n_draws=2, corr_method="bonferroni")
    record = adata.uns["rank_genes_groups"]
    assert record["names"].dtype.names == ("a",) and record["params"]["reference"] == "b"
    np.testing.assert_allclose(record["pvals_adj"]["a"], np.minimum(record["pvals"]["a"] * adata.n_vars, 1))
    rows = {name: (adata.obs["part"] == name).to_numpy() for name in "ab"}
    drawn = list(snrmix.tl.draws(adata, 2))
    difference = np.mean([d[rows["a"]].mean(0) - d[rows["b"]].mean(0) for d in drawn], 0)
    best = adata.var_names.get_indexer(record["names"]["a"])
    assert (np.sign(record["scores"]["a"]) == np.sign(difference[best])).all()
    snrmix.tl.rank_genes_groups(adata, "part", n_draws=2, rankby_abs=True)
    scores = np.abs(adata.uns["rank_genes_groups"]["scores"]["c"])
    assert (np.diff(scores) <= 0).all()


def test_genes_left_out_are_left_out(adata):
    adata.var.loc[adata.var_names[:5], "snrmix_calibration"] = -1
    adata.layers["snrmix"][:, :5] = np.nan
    adata.layers["snrmix_sd"][:, :5] = np.nan
    snrmix.tl.rank_genes_groups(adata, "side", n_draws=2)
    assert set(adata.uns["rank_genes_groups"]["names"]["left"]) == set(adata.var_names[5:])


def test_refusals(adata, assert_unchanged):
    adata.obs["one"] = "all"
    measured = adata.obs["snrmix_measured"].to_numpy()
    adata.obs["unseen"] = np.where(measured, "seen", np.where(np.arange(adata.n_obs) % 2, "dark", "seen"))
    adata.obs["few"] = np.where(np.arange(adata.n_obs) == 3, "lone", "rest of them")
    before = adata.copy()
    for groupby, error, words in (
        ("one", ValueError, "one group only"),
        ("unseen", ValueError, "group 'dark' of obs\\['unseen'\\] has no measured spot"),
        ("few", ValueError, "one spot only"),
        ("sides", KeyError, "no column of obs.*side"),
    ):
        with pytest.raises(error, match=words):
            snrmix.tl.rank_genes_groups(adata, groupby)
    for options, error, words in (
        ({"n_draws": 1}, ValueError, "takes 2 or more"),
        ({"method": "logreg"}, ValueError, "method='logreg' is unknown"),
        ({"corr_method": "holm"}, ValueError, "corr_method="),
        ({"reference": "up"}, KeyError, "reference='up' is no group"),
        ({"groups": ["up"]}, KeyError, "'up' is no group"),
        ({"groups": ["left"], "reference": "left"}, ValueError, "only the reference"),
        ({"n_genes": 0}, ValueError, "n_genes=0"),
    ):
        with pytest.raises(error, match=words):
            snrmix.tl.rank_genes_groups(adata, "side", **options)
    assert_unchanged(before, adata)
