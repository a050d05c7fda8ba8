import numpy as np
import pytest

import snrmix


def test_coverage_counts_what_the_intervals_hold(half_imputed):
    table = snrmix.tl.coverage(half_imputed, levels=[0.8, 0.9])
    held, genes = half_imputed.obs["measured_held_out"].to_numpy(), half_imputed.var["snrmix_modelled"].to_numpy()
    counts = half_imputed.X[held].toarray()
    observed = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))[:, genes]
    low, high = (end[held][:, genes] for end in snrmix.tl.interval(half_imputed, 0.9))
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


def test_coverage_of_out_of_fold_values(embedded, fast):
    adata = embedded.copy()
    snrmix.tl.impute(adata, at_depth="spot", **fast)
    table = snrmix.tl.coverage(adata, adata.obs["snrmix_measured"], levels=0.9)
    assert table.set_index("by").loc["all", "observed"] == pytest.approx(0.9, abs=0.01)


def test_coverage_of_genes_that_few_held_out_spots_have_seen(half_imputed):
    adata = half_imputed.copy()
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
def test_coverage_names_what_is_wrong(half_imputed, function, given, error, message):
    module, name = function.split(".")
    adata = half_imputed.copy()
    adata.obs["nothing"] = False
    with pytest.raises(error, match=message):
        getattr(getattr(snrmix, module), name)(adata, **given)
    with pytest.raises(ValueError, match=r"level=0.3 must lie between 0.5 and 0.98"):
        snrmix.tl.coverage(adata, levels=[0.3])


def test_genes_removed_after_imputing_are_noticed(half_imputed):
    with pytest.raises(ValueError, match="not those that 'snrmix' was imputed from"):
        snrmix.tl.coverage(half_imputed[:, :20].copy())
