import anndata
import numpy as np
import pandas as pd
import pytest

import snrmix
from snrmix.engine.mix import MIXINGS, resolve_mixing
from snrmix.tl._methods import available_methods

FAST = {"encoder": "colour", "max_epochs": 2, "genes": 20, "n_folds": 2, "n_repeats": 1}
SCORES = ["mse", "mse_mean", "pearson"]
ON_FEATURES = [name for name in MIXINGS if not resolve_mixing(name).needs_pixels]


@pytest.fixture(scope="module")
def result(embedded):
    """All methods on two random halves."""
    return snrmix.tl.benchmark(embedded, splits=2, **FAST)


def scores_of(result, method, split=None):
    rows = result[(result["method"] == method) & (result["split"] == (split or result["split"].iloc[0]))]
    return rows.set_index("gene")[SCORES]


# The table


def test_one_row_per_split_method_and_gene(result):
    methods = ["mean", "depth", "spatial kNN", "graph smoothing", "ridge", "kriging", "network"]
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
    assert list(result["method"].unique()) == ["mean", "depth", "spatial kNN", "graph smoothing", "kriging", "snrmix"]
    with pytest.raises(KeyError, match="no image, and 'ridge' need.*image= or use_rep="):
        snrmix.tl.benchmark(tissue, ["mean", "ridge"], splits=1, **options)


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
