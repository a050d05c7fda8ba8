import time

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

import snrmix

N_SPOTS = 300


def section(n_spots=N_SPOTS, n_genes=30, seed=0, depth=3000.0):
    """Poisson counts at known smooth rates on a square lattice."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(np.sqrt(n_spots)))
    positions = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)[:n_spots] * 10.0
    rates = np.exp(
        rng.normal(0, 1.5, n_genes) + np.sin(positions @ rng.normal(size=(2, n_genes)) / 50 + rng.uniform(0, 6))
    )
    rates /= rates.sum(1, keepdims=True)
    counts = rng.poisson(rates * depth * rng.lognormal(0, 0.4, (n_spots, 1))).astype(np.float32)
    names = [f"spot{i}" for i in rng.permutation(n_spots)]
    genes = [f"gene{i}" for i in rng.permutation(n_genes)]
    adata = anndata.AnnData(
        sparse.csr_matrix(counts), obs=pd.DataFrame(index=names), var=pd.DataFrame(index=genes),
        obsm={"spatial": positions}, layers={"truth": np.log1p(1e4 * rates).astype(np.float32)},
    )  # fmt: skip
    adata.obs["library_id"] = "one"
    return adata


def pretend_imputed(adata, measured, values, fill="unmeasured", input_units="counts", key="snrmix"):
    """What `snrmix.tl.evaluate` reads of a result, with the given predictions."""
    observed = adata.X.toarray() if input_units == "log" else log_normalised(adata)
    layer = np.where(measured[:, None] & (fill == "unmeasured"), observed, values)
    adata.layers[key] = layer.astype(np.float32)
    adata.obs[f"{key}_measured"] = measured
    adata.var[f"{key}_modelled"] = True
    libraries = np.unique(adata.obs["library_id"].astype(str)).tolist()
    record = {"input_units": input_units, "fill": fill, "parameters": {"layer": "X"}, "image": {"libraries": libraries}}
    adata.uns[key] = record
    return adata


def log_normalised(adata):
    counts = adata.X.toarray().astype(float)
    return np.log1p(1e4 * counts / counts.sum(1, keepdims=True))


@pytest.fixture(scope="module")
def case():
    """A section, which spots were measured, the observed values, and a prediction that is right but for some noise."""
    adata = section()
    rng = np.random.default_rng(1)
    measured = rng.random(adata.n_obs) < 0.5
    predicted = (adata.layers["truth"] + rng.normal(0, 0.1, adata.shape)).astype(np.float32)
    pretend_imputed(adata, measured, predicted)
    adata.obs["held_out"] = ~measured
    return adata, measured, log_normalised(adata), predicted


@pytest.fixture
def adata(case):
    return case[0].copy()


@pytest.fixture(scope="module")
def scores(case):
    return snrmix.tl.evaluate(case[0], "held_out")


def test_closed_forms(case, scores):
    adata, measured, observed, predicted = case
    y, p, mean = observed[~measured], predicted[~measured], observed[measured].mean(0)
    assert list(scores.index) == list(adata.var_names)
    expected = {
        "mse": ((p - y) ** 2).mean(0),
        "mae": np.abs(p - y).mean(0),
        "mse_mean": ((mean - y) ** 2).mean(0),
        "mse_ratio": ((p - y) ** 2).mean(0) / ((mean - y) ** 2).mean(0),
        "explained": 1 - ((p - y) ** 2).mean(0) / ((mean - y) ** 2).mean(0),
        "pearson": [stats.pearsonr(y[:, g], p[:, g]).statistic for g in range(y.shape[1])],
        "spearman": [stats.spearmanr(y[:, g], p[:, g]).statistic for g in range(y.shape[1])],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(scores[name], values, rtol=1e-5, err_msg=name)


def test_without_the_tenth_of_lowest_depth(case, scores):
    adata, measured, observed, predicted = case
    depth = adata.X.toarray().sum(1)[~measured]
    deep = np.argsort(depth, kind="stable")[len(depth) // 10 :]
    y, p, mean = observed[~measured][deep], predicted[~measured][deep], observed[measured].mean(0)
    error, reference = ((p - y) ** 2).mean(0), ((mean - y) ** 2).mean(0)
    np.testing.assert_allclose(scores["mse_without_shallow"], error, rtol=1e-5)
    np.testing.assert_allclose(scores["mse_ratio_without_shallow"], error / reference, rtol=1e-5)
    pearson = [stats.pearsonr(y[:, g], p[:, g]).statistic for g in range(y.shape[1])]
    np.testing.assert_allclose(scores["pearson_without_shallow"], pearson, rtol=1e-5)
    overall = scores.attrs["overall"]
    assert overall["n_spots"] == len(depth) and overall["n_spots_without_shallow"] == len(deep)
    assert overall["mse_ratio_without_shallow"] == pytest.approx(error.sum() / reference.sum(), rel=1e-5)
    assert overall["pearson_mean_without_shallow"] == pytest.approx(np.mean(pearson), rel=1e-5)


def test_overall_figures_are_ratios_of_sums(scores):
    overall = scores.attrs["overall"]
    assert overall["n_genes"] == len(scores)
    assert overall["mse_ratio"] == pytest.approx(scores["mse"].sum() / scores["mse_mean"].sum())
    assert overall["pearson_mean"] == pytest.approx(scores["pearson"].mean())
    assert overall["pearson_median"] == pytest.approx(scores["pearson"].median())
    for floor in ("known_depth", "neighbour_depth"):
        share = scores[f"noise_{floor}"].sum() / scores["mse_mean"].sum()
        assert overall[f"floor_{floor}"] == pytest.approx(share)
        assert overall[f"explainable_{floor}"] == pytest.approx((1 - overall["mse_ratio"]) / (1 - share))
    unknown = {"depth_ratio", "pearson_given_depth_median"}  # the result does not say what depths it assumes
    assert {name for name, figure in overall.items() if not np.isfinite(figure)} == unknown


def test_an_ideal_predictor_explains_all_that_can_be_explained():
    adata = section(n_spots=900)
    counts = adata.X.toarray().astype(float)
    depth, rates = counts.sum(1), np.expm1(adata.layers["truth"].astype(float)) / 1e4
    rng = np.random.default_rng(0)
    draws = np.log1p(1e4 * rng.poisson(rates * depth[:, None], (200, *adata.shape)) / depth[:, None])
    measured = rng.random(900) < 0.3
    pretend_imputed(adata, measured, draws.mean(0))
    scores = snrmix.tl.evaluate(adata, ~measured)
    overall = scores.attrs["overall"]
    assert overall["explainable_known_depth"] == pytest.approx(1, abs=0.05)
    assert overall["explainable_neighbour_depth"] > overall["explainable_known_depth"]
    assert overall["mse_ratio"] == pytest.approx(overall["floor_known_depth"], abs=0.02)
    np.testing.assert_allclose(scores["noise_known_depth"], draws.var(0)[~measured].mean(0), rtol=0.15)


def test_share_of_the_explainable_variance_is_unknown_for_a_gene_of_pure_noise():
    rng = np.random.default_rng(0)
    adata = section(n_spots=400, n_genes=12)
    adata.X = sparse.csr_matrix(rng.poisson(np.geomspace(0.05, 5, 12) * np.ones((400, 1))).astype(np.float32))
    measured = rng.random(400) < 0.5
    pretend_imputed(adata, measured, np.zeros(adata.shape))
    scores = snrmix.tl.evaluate(adata, ~measured)
    assert scores["explainable_known_depth"].isna().mean() > 0.6


def test_moran_is_that_of_squidpy(case, scores):
    import squidpy as sq

    adata, measured, observed, _ = case
    held = anndata.AnnData(observed[~measured], obsm={"spatial": adata.obsm["spatial"][~measured]}, var=adata.var[[]])
    held.obs_names = adata.obs_names[~measured]
    held = held[np.argsort(held.obs_names)].copy()
    sq.gr.spatial_neighbors_knn(held, n_neighs=6)
    wanted = sq.gr.spatial_autocorr(held, mode="moran", transformation=True, copy=True, n_perms=None)
    np.testing.assert_allclose(scores["moran_observed"], wanted["I"].loc[adata.var_names], atol=0.02)
    assert scores["moran_predicted"].mean() > scores["moran_observed"].mean()


def test_a_whole_library_is_scored_within_itself():
    sections = {name: section(n_genes=10, seed=seed) for seed, name in enumerate("abc")}
    for each in sections.values():
        each.var_names = [f"gene{i}" for i in range(10)]
    adata = anndata.concat(sections, index_unique="-")
    adata.obs["library_id"] = np.repeat(["a", "b", "c"], N_SPOTS)
    snrmix.pp.hold_out(adata, kind="library", library=["b", "c"])
    values = np.tile((adata.obs["library_id"] == "b").to_numpy(float)[:, None], adata.n_vars)
    pretend_imputed(adata, adata.obs["measured"].to_numpy(), values)
    scores = snrmix.tl.evaluate(adata, "measured_held_out")
    np.testing.assert_allclose(scores["moran_predicted"], 1)  # the libraries overlap, and are each constant
    assert scores.attrs["overall"]["n_spots"] == 2 * N_SPOTS
    assert scores["noise_known_depth"].gt(0).all()


def test_moran_in_closed_form():
    from snrmix.engine.scores.metrics import moran

    values = np.array([[1.0, 1, 5], [-1, 1, 5], [1, -1, 5], [-1, -1, 5]])
    pairs = np.array([[1, -1], [0, -1], [3, -1], [2, -1]])
    np.testing.assert_allclose(moran(values, pairs), [-1, 1, np.nan])
    assert np.isnan(moran(values, np.full((4, 2), -1))).all()


def test_constant_genes(adata):
    held = adata.obs["held_out"].to_numpy()
    layer = adata.layers["snrmix"]
    layer[held, 0] = layer[~held, 0].mean()
    counts = adata.X.toarray()
    counts[held, 1] = 0
    adata.X = sparse.csr_matrix(counts)
    scores = snrmix.tl.evaluate(adata, "held_out")
    assert scores[["pearson", "spearman"]].iloc[[0, 1]].eq(0).all(axis=None)
    assert np.isnan(scores["moran_predicted"].iloc[0]) and np.isnan(scores["moran_observed"].iloc[1])
    assert np.isnan(scores["explainable_known_depth"].iloc[1])
    assert scores[["mse", "mse_ratio"]].iloc[[0, 1]].notna().all(axis=None)


def test_rows_and_genes_in_another_order_score_the_same(case, scores):
    adata = case[0]
    rng = np.random.default_rng(7)
    other = adata[rng.permutation(adata.n_obs)][:, rng.permutation(adata.n_vars)].copy()
    permuted = snrmix.tl.evaluate(other, "held_out")
    assert list(permuted.index) == list(other.var_names)
    pd.testing.assert_frame_equal(permuted.loc[scores.index], scores, check_exact=True)
    assert permuted.attrs["overall"] == pytest.approx(scores.attrs["overall"], nan_ok=True)


def test_unmeasured_spots_elsewhere_never_matter(case):
    adata, measured = case[0].copy(), case[1]
    held = ~measured & (np.arange(adata.n_obs) % 2 == 0)
    one = snrmix.tl.evaluate(adata, held)
    counts = adata.X.toarray()
    counts[~measured & ~held] = np.nan
    adata.X = counts
    pd.testing.assert_frame_equal(snrmix.tl.evaluate(adata, pd.Series(held, adata.obs_names)), one)


def test_spots_that_were_seen_are_refused(case, adata):
    measured = case[1]
    leak = ~measured
    leak[np.flatnonzero(measured)[:3]] = True
    with pytest.raises(ValueError, match="3 of the .* held-out spots were measured when the layer was imputed"):
        snrmix.tl.evaluate(adata, leak)


def test_out_of_fold_values_are_compared_with_the_mean_of_the_other_spots(case):
    adata, _, observed, predicted = case
    adata, every = adata.copy(), np.ones(adata.n_obs, bool)
    pretend_imputed(adata, every, predicted, fill="all")
    scores = snrmix.tl.evaluate(adata, every)
    others = (observed.sum(0) - observed) / (len(observed) - 1)
    np.testing.assert_allclose(scores["mse_mean"], ((others - observed) ** 2).mean(0), rtol=1e-5)
    np.testing.assert_allclose(scores["mse"], ((predicted - observed) ** 2).mean(0), rtol=1e-5)


@pytest.mark.parametrize("sparse_truth", [False, True])
def test_truth_in_a_layer(case, adata, sparse_truth):
    _, measured, observed, predicted = case
    truth = adata.layers["truth"]
    if sparse_truth:
        adata.layers["truth"] = sparse.csr_matrix(truth)
    held = ~measured
    counts = adata.X.toarray()
    counts[held] = 0
    adata.X = counts
    scores = snrmix.tl.evaluate(adata, held, truth="truth")
    np.testing.assert_allclose(scores["mse"], ((predicted - truth)[held] ** 2).mean(0), rtol=1e-5)
    mean = ((observed[measured].mean(0) - truth[held]) ** 2).mean(0)
    np.testing.assert_allclose(scores["mse_ratio"], scores["mse"] / mean, rtol=1e-5)
    unknown = scores.columns[scores.isna().all()]
    words = ("noise", "explainable", "shallow", "given_depth", "mse_depth")
    assert set(unknown) == {c for c in scores if any(word in c for word in words)}


def test_log_values_have_no_noise_estimate(case):
    adata, measured, observed, predicted = case
    adata = adata.copy()
    adata.X = sparse.csr_matrix(observed)
    pretend_imputed(adata, measured, predicted, input_units="log")
    scores = snrmix.tl.evaluate(adata, "held_out")
    y, p = observed[~measured], predicted[~measured]
    np.testing.assert_allclose(scores["mse"], ((p - y) ** 2).mean(0), rtol=1e-5)
    assert scores["noise_known_depth"].isna().all() and scores["mse_without_shallow"].isna().all()
    overall = scores.attrs["overall"]
    assert np.isnan(overall["floor_known_depth"]) and np.isfinite(overall["mse_ratio"])


def test_choice_of_genes(case, adata, caplog):
    _, measured, observed, _ = case
    few = snrmix.tl.evaluate(adata, "held_out", genes=["gene4", "gene1"])
    assert set(few.index) == {"gene4", "gene1"} and few.attrs["overall"]["n_genes"] == 2
    top = snrmix.tl.evaluate(adata, "held_out", genes=5)
    assert set(top.index) == set(adata.var_names[np.argsort(-observed[measured].mean(0))[:5]])
    adata.var.loc["gene4", "snrmix_modelled"] = False
    assert "gene4" not in snrmix.tl.evaluate(adata, "held_out").index
    few = snrmix.tl.evaluate(adata, "held_out", genes=["gene4", "gene1"])
    assert list(few.index) == ["gene1"] and "1 of 2 genes were not modelled" in caplog.text
    with pytest.raises(ValueError, match="none of the 1 genes was modelled"):
        snrmix.tl.evaluate(adata, "held_out", genes=["gene4"])


def refused(adata, error, message, held_out="held_out", **options):
    with pytest.raises(error, match=message):
        snrmix.tl.evaluate(adata, held_out, **options)


def test_refusals_say_what_to_do(case, adata, assert_unchanged):
    measured = case[1]
    before = adata.copy()
    refused(adata, KeyError, "no result 'other'", key="other")
    refused(adata, KeyError, "held_out='held_ot' is not in obs.*Did you mean 'held_out'", held_out="held_ot")
    refused(adata, TypeError, "held_out must be boolean", held_out=np.arange(adata.n_obs))
    refused(adata, ValueError, r"shape \(3,\)", held_out=[True, False, True])
    refused(adata, ValueError, "marks no spot", held_out=np.zeros(adata.n_obs, bool))
    refused(adata, KeyError, "'nothing' is not in layers", truth="nothing")
    refused(adata, ValueError, "index of held_out differs", held_out=pd.Series(~measured))
    assert_unchanged(before, adata)
    adata.layers["counts"] = adata.X.copy()
    adata.layers["centred"] = adata.X - adata.X.mean(0)
    refused(adata, ValueError, "truth='centred' has negative values.*cannot be compared", truth="centred")
    adata.layers["shares"] = sparse.csr_matrix(adata.X / np.asarray(adata.X.sum(1)).reshape(-1, 1))
    refused(adata, ValueError, "truth='shares' looks linear.*cannot be compared", truth="shares")
    adata.obs["slide"] = "left"
    refused(adata, ValueError, "'left' here and were 'one'.*library_key=", library_key="slide")


def test_empty_or_missing_values_at_held_out_spots_are_refused(case, adata):
    spot = np.flatnonzero(~case[1])[0]
    counts = adata.X.toarray()
    for value in (0, np.nan, np.inf):
        counts[spot] = value
        adata.X = counts.copy()
        refused(adata, ValueError, f"1 of the .* no expression to compare with.*{adata.obs_names[spot]!r}")


def test_genes_removed_after_imputing_are_noticed(adata):
    refused(adata[:, :20].copy(), ValueError, "not those that 'snrmix' was imputed from")


@pytest.mark.parametrize("fill", ["unmeasured", "all"])
def test_after_impute(tissue, impute, fill, tmp_path):
    snrmix.pp.hold_out(tissue, share=0.4)
    impute(tissue, measured="measured", fill=fill)
    scores = snrmix.tl.evaluate(tissue, "measured_held_out")
    assert set(scores.index) == set(tissue.var_names[tissue.var["snrmix_modelled"]])
    assert scores["mse"].notna().all()
    assert scores.attrs["overall"]["n_spots"] == tissue.obs["measured_held_out"].sum()
    if fill == "all":
        snrmix.tl.evaluate(tissue, "measured")
    tissue.write_h5ad(tmp_path / "imputed.h5ad")
    again = snrmix.tl.evaluate(anndata.read_h5ad(tmp_path / "imputed.h5ad"), "measured_held_out")
    pd.testing.assert_frame_equal(again, scores)


def test_after_impute_on_spatialdata(sdata, impute):
    snrmix.pp.hold_out(sdata)
    impute(sdata, measured="measured")
    assert snrmix.tl.evaluate(sdata, "measured_held_out")["mse"].notna().all()


def test_the_size_of_a_step_does_not_matter(case, scores, monkeypatch):
    import importlib

    monkeypatch.setattr(importlib.import_module("snrmix.tl._by_gene"), "MOST_GENES_AT_ONCE", 7)
    pd.testing.assert_frame_equal(snrmix.tl.evaluate(case[0], "held_out"), scores)


def test_many_genes_take_seconds():
    rng = np.random.default_rng(0)
    adata = section(n_spots=1500, n_genes=4000, depth=5000)
    measured = rng.random(1500) < 0.3
    pretend_imputed(adata, measured, adata.layers["truth"])
    adata.var["snrmix_modelled"] = np.asarray((adata.X[measured] > 0).sum(0)).ravel() >= 5
    start = time.process_time()
    snrmix.tl.evaluate(adata, ~measured)
    assert time.process_time() - start < 120  # minutes, if it took genes one by one
