import anndata
import matplotlib
import numpy as np
import pandas as pd
import pytest

import snrmix
from snrmix.engine.folds import Fold
from snrmix.engine.mix import MIXINGS, resolve_mixing
from snrmix.engine.scores.smoothing import diffuse, graph_smoothing, random_walk
from snrmix.tl._methods import available_methods

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FAST = {"encoder": "colour", "max_epochs": 2, "genes": 20, "n_folds": 2, "n_repeats": 1}
SCORES = ["mse", "mse_mean", "pearson"]
ON_FEATURES = [name for name in MIXINGS if not resolve_mixing(name).needs_pixels]


@pytest.fixture(scope="module")
def embedded(small_tissue):
    return snrmix.pp.embed_histology(small_tissue, encoder="colour", copy=True)


@pytest.fixture(scope="module")
def result(embedded):
    """All methods on two random halves."""
    return snrmix.tl.benchmark(embedded, splits=2, **FAST)


def scores_of(result, method, split=None):
    rows = result[(result["method"] == method) & (result["split"] == (split or result["split"].iloc[0]))]
    return rows.set_index("gene")[SCORES]


# The table


def test_one_row_per_split_method_and_gene(result):
    methods = ["mean", "spatial kNN", "graph smoothing", "ridge", "kriging", "network"]
    methods += [f"network ({name})" for name in ON_FEATURES if name != "snr"] + ["snrmix"]
    assert list(result["method"].unique()) == methods
    assert list(result["split"].unique()) == ["random 0.5, seed 0", "random 0.5, seed 1"]
    assert list(result.columns) == ["split", "method", "gene", *SCORES]
    assert len(result) == 2 * len(methods) * 20 and not result.duplicated(["split", "method", "gene"]).any()
    assert np.isfinite(result[SCORES].to_numpy()).all()


def test_all_methods_see_the_same_genes_and_mean(result):
    for _, rows in result.groupby("split", observed=True):
        genes = rows.groupby("method", observed=True)["gene"].apply(tuple)
        assert genes.nunique() == 1
        assert (rows.groupby("gene", observed=True)["mse_mean"].nunique() == 1).all()
    np.testing.assert_allclose(scores_of(result, "mean")["mse"], scores_of(result, "mean")["mse_mean"], rtol=1e-5)
    assert (scores_of(result, "mean")["pearson"] == 0).all()


@pytest.mark.parametrize(
    ("method", "options"),
    [("snrmix", {}), ("network", {"kriging": False}), ("network (none)", {"kriging": False, "mix": "none"})],
)
def test_scores_are_those_of_impute_and_evaluate_on_the_same_spots(embedded, result, method, options):
    adata = snrmix.pp.hold_out(embedded, random_state=1, copy=True)
    snrmix.tl.impute(adata, measured="measured", **FAST, **options)
    expected = snrmix.tl.evaluate(adata, "measured_held_out")
    got = scores_of(result, method, "random 0.5, seed 1")
    assert list(got.index) == list(expected.index)
    pd.testing.assert_frame_equal(got, expected[SCORES], check_names=False, rtol=1e-5)


def test_single_methods_give_what_they_give_among_all(embedded, result):
    alone = snrmix.tl.benchmark(embedded, "kriging", splits=[{"random_state": 0}], **FAST)
    pd.testing.assert_frame_equal(scores_of(alone, "kriging"), scores_of(result, "kriging"), check_exact=True)


def test_the_object_stays_as_it_was(embedded, assert_unchanged):
    adata = embedded.copy()
    del adata.obsm["X_histology"]
    before = adata.copy()
    snrmix.tl.benchmark(adata, ["mean", "ridge"], splits=1, **FAST)
    assert_unchanged(before, adata)


def test_histology_is_embedded_once(tissue, monkeypatch):
    calls = []
    import snrmix.data.embedding as embedding

    original = embedding._embed
    monkeypatch.setattr(embedding, "_embed", lambda *args: calls.append(1) or original(*args))
    snrmix.tl.benchmark(tissue, ["ridge"], splits=3, **FAST)
    assert len(calls) == 1


def test_row_and_gene_order_do_not_matter(embedded):
    rng = np.random.default_rng(0)
    shuffled = embedded[rng.permutation(embedded.n_obs)][:, rng.permutation(embedded.n_vars)].copy()
    tables = [
        snrmix.tl.benchmark(adata, ["graph smoothing", "snrmix"], splits=1, **FAST).sort_values(["method", "gene"])
        for adata in (embedded, shuffled)
    ]
    np.testing.assert_array_equal(tables[0]["gene"], tables[1]["gene"])
    np.testing.assert_array_equal(tables[0][SCORES], tables[1][SCORES])


def test_values_of_unmeasured_spots_do_not_matter(embedded):
    measured = np.random.default_rng(0).random(embedded.n_obs) < 0.8
    spoilt = embedded.copy()
    garbage = spoilt.X.toarray()
    garbage[~measured] = np.nan
    spoilt.X = garbage
    tables = [snrmix.tl.benchmark(a, ["ridge"], splits=1, measured=measured, **FAST) for a in (embedded, spoilt)]
    np.testing.assert_array_equal(*(t[SCORES] for t in tables))


def test_spatialdata_gives_the_same(sdata, tissue):
    tables = [snrmix.tl.benchmark(data, ["spatial kNN", "ridge"], splits="block", **FAST) for data in (sdata, tissue)]
    orders = [t.sort_values(["method", "gene"]) for t in tables]
    np.testing.assert_allclose(*(t[SCORES] for t in orders), rtol=0.05)


# Splits


def test_splits_by_kind_and_by_arguments(embedded):
    splits = ["block", {"share": 0.3, "random_state": 4}, {"kind": "block", "n_blocks": 4, "share": 0.25}]
    result = snrmix.tl.benchmark(embedded, ["mean"], splits=splits, **FAST)
    assert list(result.attrs["splits"]) == ["block 0.5, seed 0", "random 0.3, seed 4", "block 0.25 of 4, seed 0"]
    hidden = [sizes["n_hidden"] for sizes in result.attrs["splits"].values()]
    n = embedded.n_obs
    np.testing.assert_allclose(hidden, [n / 2, 0.3 * n, n / 4], atol=4)
    assert all(s["n_measured"] + s["n_hidden"] == n and s["n_genes"] == 20 for s in result.attrs["splits"].values())


def test_a_library_is_held_out(embedded):
    other = embedded.copy()
    other.obs_names = other.obs_names + "-b"
    both = anndata.concat({"a": embedded, "b": other}, label="library")
    split = [{"kind": "library", "library": "b"}]
    options = {**FAST, "use_rep": "X_histology"}
    del options["encoder"]
    result = snrmix.tl.benchmark(both, ["spatial kNN", "ridge"], splits=split, library_key="library", **options)
    np.testing.assert_allclose(scores_of(result, "spatial kNN")["mse"], scores_of(result, "spatial kNN")["mse_mean"])
    assert (scores_of(result, "ridge")["mse"] < scores_of(result, "ridge")["mse_mean"]).mean() > 0.5


def test_without_an_image(tissue, caplog):
    del tissue.uns["spatial"]
    options = {name: value for name, value in FAST.items() if name != "encoder"}
    result = snrmix.tl.benchmark(tissue, splits=1, **options)
    assert list(result["method"].unique()) == ["mean", "spatial kNN", "graph smoothing", "kriging", "snrmix"]
    with pytest.raises(KeyError, match="no image, and 'ridge' need.*image= or use_rep="):
        snrmix.tl.benchmark(tissue, ["mean", "ridge"], splits=1, **options)


# Summary


def made_up(ratios: dict[str, list[float]]) -> pd.DataFrame:
    """Two genes; ``ratios`` by method and split."""
    rows = [
        {
            "split": f"s{split}",
            "method": method,
            "gene": gene,
            "mse": weight * ratio,
            "mse_mean": weight,
            "pearson": 0.5,
        }
        for method, values in ratios.items()
        for split, ratio in enumerate(values)
        for gene, weight in (("A", 1.0), ("B", 3.0))
    ]
    return pd.DataFrame(rows)


def test_summary_pairs_differences_over_splits():
    summary = snrmix.tl.summarise(made_up({"mean": [1, 1, 1], "ridge": [0.8, 0.9, 0.7], "snrmix": [0.7, 0.7, 0.7]}))
    assert list(summary.index) == ["snrmix", "ridge", "mean"] and summary.attrs["reference"] == "snrmix"
    np.testing.assert_allclose(summary["mse_ratio"], [0.7, 0.8, 1.0])
    np.testing.assert_allclose(summary["difference"], [0, 0.1, 0.3], atol=1e-12)
    ridge, error = summary.loc["ridge"], 0.1 / np.sqrt(3)
    np.testing.assert_allclose(ridge["standard_error"], error)
    np.testing.assert_allclose(
        [ridge["low"], ridge["high"]], [0.1 - 4.302653 * error, 0.1 + 4.302653 * error], rtol=1e-6
    )
    assert summary.loc["mean", "standard_error"] == pytest.approx(0, abs=1e-12)


def test_summary_is_a_ratio_of_sums_over_genes():
    table = made_up({"mean": [1.0], "snrmix": [0.5]})
    table.loc[(table["method"] == "snrmix") & (table["gene"] == "A"), "mse"] = 1.0
    assert snrmix.tl.summarise(table).loc["snrmix", "mse_ratio"] == pytest.approx((1.0 + 1.5) / 4)


def test_summary_of_one_split_resamples_genes(embedded):
    result = snrmix.tl.benchmark(embedded, ["mean", "ridge", "kriging"], splits=1, **FAST)
    summary = snrmix.tl.summarise(result, reference="ridge")
    assert summary.attrs["n_splits"] == 1
    assert (summary.loc["ridge", ["difference", "standard_error", "low", "high"]] == 0).all()
    others = summary.drop("ridge")
    assert (others["low"] < others["difference"]).all() and (others["difference"] < others["high"]).all()
    pd.testing.assert_frame_equal(summary, snrmix.tl.summarise(result, reference="ridge"))


def test_reference_without_ours_is_the_best(embedded):
    table = made_up({"mean": [1, 1], "ridge": [0.8, 0.9]})
    assert snrmix.tl.summarise(table).attrs["reference"] == "ridge"
    with pytest.raises(KeyError, match="reference='rigde' is not a method.*Did you mean 'ridge'"):
        snrmix.tl.summarise(table, reference="rigde")


def test_attrs_hold_the_summary_and_survive_what_pandas_does(result):
    summary = result.attrs["summary"]
    pd.testing.assert_frame_equal(pd.DataFrame(summary), snrmix.tl.summarise(result))
    assert summary["difference"]["snrmix"] == 0
    doubled = pd.concat([result, result.copy()])
    assert len(doubled) == 2 * len(result)
    other = result[result["method"] != "mean"].copy()
    other.attrs["summary"] = snrmix.tl.summarise(other)
    assert len(pd.concat([result, other]))
    assert len(result.merge(other, on=["split", "method", "gene"]))


def test_summary_names_what_is_wrong(result):
    with pytest.raises(KeyError, match="lacks columns 'pearson'.*snrmix.tl.benchmark"):
        snrmix.tl.summarise(result.drop(columns="pearson"))
    some = result[~((result["method"] == "ridge") & (result["split"] == "random 0.5, seed 1"))]
    with pytest.raises(ValueError, match="not every method was run on every split"):
        snrmix.tl.summarise(some)
    with pytest.raises(ValueError, match="no rows"):
        snrmix.tl.summarise(result.iloc[:0])


# Refusals


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"methods": ["rigde"]}, ValueError, "unknown method 'rigde'.*Did you mean 'ridge'"),
        ({"methods": ["network (mix up)"]}, ValueError, r"Did you mean 'network \(mixup\)'"),
        ({"methods": []}, ValueError, "methods is empty"),
        ({"splits": 0}, ValueError, "splits=0 must be 1 or more"),
        ({"splits": True}, TypeError, "splits must be a number or a list"),
        ({"splits": []}, ValueError, "splits is empty"),
        ({"splits": [3]}, TypeError, "a split is a kind or a dict"),
        ({"splits": [{"sahre": 0.3}]}, ValueError, "'sahre' is unknown.*Did you mean 'share'"),
        ({"splits": ["random", "random"]}, ValueError, "two splits are the same"),
        ({"splits": ["blocks"]}, ValueError, "kind='blocks' is unknown.*Did you mean 'block'"),
        ({"splits": [{"share": 0.99}]}, ValueError, "at least 20 are needed"),
        ({"kriging": False}, TypeError, "no kriging=; choose with methods="),
        ({"max_epoch": 3}, TypeError, "'max_epoch'.*Did you mean 'max_epochs'"),
        ({"mix": "snrr"}, ValueError, "unknown mix='snrr'"),
        ({"genes": ["nothing"]}, KeyError, "not in var_names"),
        ({"measured": "misspelt"}, KeyError, "measured='misspelt' is not in obs"),
    ],
)
def test_refusals(embedded, given, error, message):
    options = {**FAST, "methods": ["mean"], "splits": 1, **given}
    with pytest.raises(error, match=message):
        snrmix.tl.benchmark(embedded, **options)


def test_every_registered_strategy_is_a_method():
    known = set(available_methods())
    assert {f"network ({name})" for name in ON_FEATURES} <= known
    assert not known & {"network (cutmix)", "network (puzzlemix)", "network (cellmix)"}


# Graph smoothing


def line_graph(n):
    neighbours = np.stack([np.arange(n) - 1, np.arange(n) + 1], axis=1)
    neighbours[-1, 1] = -1
    return neighbours


def test_random_walk_goes_to_itself_and_its_neighbours():
    walk = random_walk(line_graph(4)).toarray()
    np.testing.assert_allclose(walk.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(walk[0], [0.5, 0.5, 0, 0])
    np.testing.assert_allclose(walk[1], [1 / 3, 1 / 3, 1 / 3, 0], rtol=1e-6)


def test_diffusion_is_that_of_dense_powers():
    rng = np.random.default_rng(0)
    walk, sources, values = random_walk(line_graph(12)), np.array([0, 3, 4, 9]), rng.normal(size=(4, 3))
    found = diffuse(walk, sources, values, np.arange(12), (1, 5))
    for step, got in zip((1, 5), found, strict=True):
        power = np.linalg.matrix_power(walk.toarray(), step)[:, sources]
        mass = power.sum(1, keepdims=True)
        expected = np.where(mass > 0, power @ values / np.where(mass > 0, mass, 1), values.mean(0))
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_steps_are_chosen_by_the_folds():
    rng = np.random.default_rng(0)
    n = 400
    smooth = np.sin(np.arange(n) / 40)[:, None] + rng.normal(0, 1, (n, 5))
    measured = np.sort(rng.permutation(n)[:200])
    folds = [Fold(np.flatnonzero(np.arange(200) % 2 != k), np.flatnonzero(np.arange(200) % 2 == k)) for k in (0, 1)]
    targets = np.setdiff1d(np.arange(n), measured)
    walk = random_walk(line_graph(n))
    truth = np.sin(targets / 40)[:, None]
    chosen = graph_smoothing(walk, measured, smooth[measured], folds, targets)
    one = diffuse(walk, measured, smooth[measured], targets, (1,))[0]
    assert np.mean((chosen - truth) ** 2) < 0.3 * np.mean((one - truth) ** 2)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


# Coverage and the figures


@pytest.fixture(scope="module")
def imputed(embedded):
    adata = snrmix.pp.hold_out(embedded, share=0.4, copy=True)
    snrmix.tl.impute(adata, measured="measured", **{**FAST, "max_epochs": 8, "genes": None})
    return adata


def test_coverage_counts_what_the_intervals_hold(imputed):
    table = snrmix.tl.coverage(imputed, levels=[0.8, 0.9])
    held, genes = imputed.obs["measured_held_out"].to_numpy(), imputed.var["snrmix_modelled"].to_numpy()
    counts = imputed.X[held].toarray()
    observed = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))[:, genes]
    low, high = (end[held][:, genes] for end in snrmix.tl.interval(imputed, 0.9))
    inside = (low <= observed) & (observed <= high)
    rows = table[table["level"] == 0.9].set_index(["by", "group"])
    assert rows.loc[("all", "all"), "observed"] == pytest.approx(inside.mean(), abs=2e-4)
    assert rows.loc[("all", "all"), "width"] == pytest.approx((high - low).mean(), rel=1e-5)
    shallow = np.argsort(counts.sum(1), kind="stable")[: held.sum() // 10]
    assert rows.loc[("depth", "shallowest tenth"), "observed"] == pytest.approx(inside[shallow].mean(), abs=0.03)
    for by in ("distance", "sd"):
        quarters = rows.loc[by]
        assert len(quarters) == 4 and quarters["n_values"].sum() == inside.size
        weighted = (quarters["observed"] * quarters["n_values"]).sum() / inside.size
        assert weighted == pytest.approx(inside.mean(), abs=2e-4)
    assert (rows["low"] <= rows["observed"]).all() and (rows["observed"] <= rows["high"]).all()
    assert rows.loc["sd", "width"].is_monotonic_increasing


def test_coverage_of_out_of_fold_values(embedded):
    adata = embedded.copy()
    snrmix.tl.impute(adata, **FAST)
    table = snrmix.tl.coverage(adata, adata.obs["snrmix_measured"], levels=0.9)
    assert table.set_index("by").loc["all", "observed"] == pytest.approx(0.9, abs=0.01)


def test_coverage_of_genes_that_few_held_out_spots_have_seen(imputed):
    adata = imputed.copy()
    held = adata.obs["measured_held_out"].to_numpy()
    counts = adata.X.toarray()
    counts[held, 0] = 0
    adata.X = counts
    table = snrmix.tl.coverage(adata, levels=[0.9])
    assert table.set_index("by").loc["all", "n_values"] == held.sum() * adata.var["snrmix_modelled"].sum()


@pytest.mark.parametrize("function", ["tl.coverage", "pl.calibration"])
@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"key": "snrmx"}, KeyError, "Did you mean 'snrmix'"),
        ({"held_out": "measured_held"}, KeyError, "Did you mean 'measured_held_out'"),
        ({"held_out": "snrmix_measured"}, ValueError, "were measured when the layer was imputed"),
        ({"held_out": "nothing"}, ValueError, "marks no spot"),
        ({"layer": "rwa"}, KeyError, "layer='rwa' is not in layers"),
    ],
)
def test_coverage_names_what_is_wrong(imputed, function, given, error, message):
    module, name = function.split(".")
    adata = imputed.copy()
    adata.obs["nothing"] = False
    with pytest.raises(error, match=message):
        getattr(getattr(snrmix, module), name)(adata, **given)
    with pytest.raises(ValueError, match=r"level=0.3 must lie between 0.5 and 0.98"):
        snrmix.tl.coverage(adata, levels=[0.3])


def texts(figure):
    return " | ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def test_calibration_draws_coverage(imputed, tmp_path):
    figure = snrmix.pl.calibration(imputed, save=tmp_path / "figure.png")
    table = snrmix.tl.coverage(imputed)
    overall = table[table["by"] == "all"]
    assert len(figure.axes) == 3 and (tmp_path / "figure.png").stat().st_size > 5000
    np.testing.assert_allclose(figure.axes[0].lines[0].get_xydata(), overall[["level", "observed"]])
    assert [len(ax.lines) for ax in figure.axes] == [3, 5, 5]
    at_90 = overall.set_index("level").loc[0.9, "observed"]
    assert f"90 % intervals hold {100 * at_90:.1f} %" in texts(figure)
    assert all(word in texts(figure) for word in ("nearest quarter", "largest quarter", "tenth with fewest counts"))


def test_benchmark_figure_draws_every_difference(result, tmp_path, monkeypatch):
    figure = snrmix.pl.benchmark(result, save=tmp_path / "figure.png")
    summary = result.attrs["summary"].drop("snrmix")
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == list(summary.index)
    np.testing.assert_allclose(ax.collections[-1].get_offsets()[:, 0], summary["difference"])
    assert len(ax.collections[-2].get_offsets()) == 2 * len(summary)
    assert "95 % interval over 2 splits" in texts(figure) and (tmp_path / "figure.png").stat().st_size > 5000
    single = result[result["split"] == "random 0.5, seed 0"]
    assert "less that of ridge (mean and 95 % interval over genes)" in texts(
        snrmix.pl.benchmark(single, reference="ridge")
    )
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    assert snrmix.pl.benchmark(result, show=True) is None and shown


def test_benchmark_figure_names_what_is_wrong(result, embedded):
    with pytest.raises(TypeError, match="what snrmix.tl.benchmark returns, not AnnData"):
        snrmix.pl.benchmark(embedded)
    with pytest.raises(KeyError, match="reference='best' is not a method"):
        snrmix.pl.benchmark(result, reference="best")
    with pytest.raises(KeyError, match="lacks columns"):
        snrmix.pl.benchmark(result[["split", "method"]])
