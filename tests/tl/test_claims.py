"""What results claim, against simulated truth; margins are about twice what was measured over other seeds."""

import logging

import anndata
import numpy as np
import pandas as pd
import pytest

import snrmix
from snrmix.engine.scores.metrics import pearson

QUICK = {"use_rep": "features", "max_epochs": 2, "hidden": 16, "n_folds": 5, "accelerator": "cpu"}


def field(rng, xy, number, length):
    """Smooth fields of unit variance, (n, number)."""
    waves = rng.standard_normal((2, 60, number)) / length
    return np.cos(np.einsum("nd,dkf->nkf", xy, waves) + rng.uniform(0, 2 * np.pi, (60, number))).sum(1) / np.sqrt(30)


def section(seed, side=20, genes=20, depth=1200, spread=0.9, length=3.0):
    """A grid of spots with features of its looks; its genes follow space, looks, or nothing, at a depth that is smooth."""
    rng = np.random.default_rng(seed)
    xy = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2).astype(float)
    looks = rng.standard_normal((len(xy), 4))
    space, log_depth = field(rng, xy, 3, length), spread * field(rng, xy, 1, 5.0)[:, 0]
    drivers = {"space": space, "image": looks[:, :3], "constant": np.zeros((len(xy), 1))}
    drivers["noise"] = rng.standard_normal((len(xy), 3))  # rates that differ, but follow nothing
    log_rate, kind = [], []
    for name, driver in drivers.items():
        weight = rng.standard_normal((driver.shape[1], genes))
        log_rate.append(0.8 * driver @ (weight / np.linalg.norm(weight, axis=0)))
        kind += [name] * genes
    fold_change = np.exp(np.concatenate(log_rate, axis=1))
    share = np.exp(rng.uniform(np.log(5e-4), np.log(6e-3), fold_change.shape[1])) * fold_change / fold_change.mean(0)
    expected_depth = depth * np.exp(log_depth + 0.15 * rng.standard_normal(len(xy)))
    rest = 1 - share.sum(1, keepdims=True)  # one more gene has all other counts, so that shares are what they are
    counts = rng.poisson(np.column_stack([share, rest]) * expected_depth[:, None]).astype(np.float32)
    names = [f"{k}{i}" for i, k in enumerate(kind)] + ["rest"]
    adata = anndata.AnnData(
        counts, pd.DataFrame(index=[f"s{i}" for i in range(len(xy))]), pd.DataFrame({"kind": [*kind, "rest"]}, names)
    )
    adata.obsm["spatial"], adata.obsm["features"] = xy * 100, looks.astype(np.float32)
    adata.layers["rate"] = np.log1p(1e4 * np.column_stack([share, rest]))
    adata.obs["counts"], adata.obs["column"] = counts.sum(1), xy[:, 0]
    return adata


def of_kind(adata, column, kind):
    return adata.var.loc[adata.var["kind"] == kind, f"snrmix_{column}"]


def observed(adata):
    return np.log1p(1e4 * adata.X / adata.X.sum(1, keepdims=True))


@pytest.fixture(scope="module")
def half():
    """Half of the spots measured at random; a layer at the spots' depths, and one at a typical depth."""
    adata = section(1)
    adata.obs["measured"] = np.random.default_rng(2).permutation(adata.n_obs) < 200
    snrmix.tl.impute(adata, measured="measured", **QUICK)
    snrmix.tl.impute(adata, measured="measured", at_depth="typical", key_added="typical", **QUICK)
    return adata


def test_depth_is_told_apart(half):
    """Constant share: Pearson .17 with depth in it, -.01 given depth (-.05 with another seed); genes that follow space have .64."""
    assert of_kind(half, "pearson", "constant").median() > 0.08
    assert abs(of_kind(half, "pearson_given_depth", "constant").median()) < 0.1
    assert of_kind(half, "explained_given_depth", "constant").median() < 0.01
    assert of_kind(half, "pearson_given_depth", "space").median() > 0.35
    scores = half.uns["snrmix"]["scores"]["mse_ratio"]
    assert scores["snrmix"] < scores["depth"] < scores["mean"] == 1


def test_reliable_are_those_with_a_map_of_their_own(half):
    """Of genes with a true Pearson over .4 all, over ten seeds .91 (space) and .98 (image); constant and noise 0."""
    true = snrmix.tl.evaluate(half, ~half.obs["measured"].to_numpy())["pearson"].reindex(half.var_names)
    for kind in ("space", "image"):
        good = (half.var["kind"] == kind) & (true > 0.4)
        assert good.sum() > 12 and half.var.loc[good, "snrmix_reliable"].mean() > 0.85
    for kind in ("constant", "noise"):
        assert of_kind(half, "reliable", kind).mean() <= 0.05


def test_a_typical_depth_leaves_no_pattern_of_depth(half):
    hidden, log_depth = ~half.obs["measured"].to_numpy(), np.log(half.obs["counts"].to_numpy())

    def spread_along_depth(key, kind):
        layer = half.layers[key][hidden][:, half.var["kind"] == kind]
        along = np.broadcast_to(log_depth[hidden][:, None], layer.shape)
        return np.median(layer.std(0) * np.abs(pearson(along, layer)))

    assert spread_along_depth("typical", "constant") < 0.15 * spread_along_depth("snrmix", "constant")  # measured .04
    for kind in ("space", "image"):
        truth = half.layers["rate"][hidden][:, half.var["kind"] == kind]
        kept, before = (
            pearson(truth, half.layers[key][hidden][:, half.var["kind"] == kind]) for key in ("typical", "snrmix")
        )
        assert np.median(kept) > np.median(before) + 0.02  # measured +.04 and +.06
    record = half.uns["typical"]
    assert record["at_depth"] == "typical" and record["typical_depth"] == half.obs["counts"][~hidden].median()
    measured = half.layers["typical"][~hidden]
    np.testing.assert_array_equal(measured, half.layers["snrmix"][~hidden])  # observed values stay


def test_scores_are_those_of_hidden_spots(half):
    for key in ("snrmix", "typical"):  # a layer at a typical depth is put back first
        scores = snrmix.tl.evaluate(half, ~half.obs["measured"].to_numpy(), key=key)
        assert abs(scores.attrs["overall"]["mse_ratio"] - half.uns[key]["scores"]["mse_ratio"]["snrmix"]) < 0.05
        given = scores.loc[half.var_names[half.var["kind"] == "constant"], "pearson_given_depth"]
        assert given.median() < 0.1
    with pytest.raises(ValueError, match="impute with at_depth='spot' to see how often intervals hold"):
        snrmix.tl.coverage(half, ~half.obs["measured"].to_numpy(), key="typical")


def test_out_of_fold_values_at_a_typical_depth_are_scored_at_that_of_the_spot():
    adata = section(3, side=14, genes=8)
    snrmix.tl.impute(adata, at_depth="typical", **QUICK)
    assert adata.uns["snrmix"]["fill"] == "all"
    scores = snrmix.tl.evaluate(adata, np.ones(adata.n_obs, bool))
    ratio = scores["mse"] / adata.var["snrmix_mse"]  # not 1: the layer has as much of a pattern as is seen beyond depth
    assert abs(np.median(ratio) - 1) < 0.03 and ratio.between(0.88, 1.12).all()
    assert abs(scores.attrs["overall"]["mse_ratio"] - adata.uns["snrmix"]["scores"]["mse_ratio"]["snrmix"]) < 0.015
    assert np.corrcoef(scores["pearson"], adata.var["snrmix_pearson"])[0, 1] > 0.9
    assert set(adata.obs["snrmix_fold"]) == set(range(5))


@pytest.mark.parametrize("keep", [12, 6])
def test_half_a_section_is_scored_as_far_away_as_it_lies(keep, caplog):
    """Claimed less true MSE ratio over seeds: within .05 in the mean; coverage of 90 % intervals .89-.93."""
    gaps, covered = [], []
    for seed in (0, 1, 2):
        adata = section(seed, genes=8, length=2.0)
        del adata.obsm["features"]
        adata.obs["measured"] = adata.obs["column"] < keep
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="snrmix"):
            snrmix.tl.impute(adata, measured="measured", n_folds=5)
        away = ~adata.obs["measured"].to_numpy()
        true = snrmix.tl.evaluate(adata, away).attrs["overall"]["mse_ratio"]
        gaps.append(adata.uns["snrmix"]["scores"]["mse_ratio"]["snrmix"] - true)
        found = snrmix.tl.coverage(adata, away, levels=[0.9])
        covered.append(found.loc[found["by"] == "all", "observed"].item())
        assert ("farther from measured ones than any spot" in caplog.text) == (keep == 6)
    assert abs(np.mean(gaps)) < 0.1
    assert 0.85 < np.mean(covered) < 0.95


@pytest.fixture(scope="module")
def shallow_missing():
    """The 40 % shallowest spots are not measured, and their counts are there."""
    adata = section(5, genes=12, spread=0.8)
    adata.obs["measured"] = adata.obs["counts"] > adata.obs["counts"].quantile(0.4)
    return adata


def test_known_depths_make_intervals_hold_where_shallow_spots_are_missing(shallow_missing, caplog):
    """Coverage of 90 % intervals: .76 without the depths, .91 with them."""
    away, covered = ~shallow_missing.obs["measured"].to_numpy(), {}
    for depth_key in (None, "counts"):
        caplog.clear()
        adata = shallow_missing.copy()
        with caplog.at_level(logging.WARNING, logger="snrmix"):
            snrmix.tl.impute(adata, measured="measured", depth_key=depth_key, at_depth="spot", **QUICK)
        assert "are shallower than the measured ones" in caplog.text
        assert ("Intervals use obs['counts']" in caplog.text) == (depth_key is not None)
        found = snrmix.tl.coverage(adata, away, levels=[0.9])
        covered[depth_key] = found.loc[found["by"] == "all", "observed"].item()
    assert 0.85 < covered["counts"] < 0.95
    assert covered["counts"] > covered[None] + 0.03


def test_counts_of_unmeasured_spots_change_nothing_but_the_warning(shallow_missing):
    away, results = ~shallow_missing.obs["measured"].to_numpy(), []
    for spoil in (False, True):
        adata = shallow_missing.copy()
        if spoil:
            adata.X[away] = np.nan
        snrmix.tl.impute(adata, measured="measured", depth_key="counts", **QUICK)
        results.append(adata)
    for part in ("snrmix", "snrmix_sd"):
        np.testing.assert_array_equal(*(adata.layers[part] for adata in results))


def test_log_values_need_a_column_to_tell_depth_apart(caplog):
    adata = section(4, side=14, genes=8)
    counted, adata.X = adata.copy(), observed(adata)
    with caplog.at_level(logging.INFO, logger="snrmix"):
        snrmix.tl.impute(adata, **QUICK)
    assert caplog.text.count("no obs column tells the depth") == 1
    assert adata.var["snrmix_pearson_given_depth"].isna().all() and adata.uns["snrmix"]["at_depth"] == "spot"
    assert np.isnan(adata.uns["snrmix"]["scores"].loc["depth", "mse"]) and "snrmix_depth" not in adata.obs
    snrmix.tl.impute(counted, **QUICK)
    for scale, name in ((1, "total_counts"), (0.7, "depth of my own")):
        known = adata.copy()
        known.obs[name] = scale * known.obs["counts"]
        snrmix.tl.impute(known, depth_key=None if name == "total_counts" else name, **QUICK)
        assert known.uns["snrmix"]["at_depth"] == "typical"
        np.testing.assert_allclose(
            known.var["snrmix_pearson_given_depth"], counted.var["snrmix_pearson_given_depth"], atol=0.05
        )


@pytest.mark.parametrize(("n", "limit"), [(20, 0.1), (40, 0.07)])
def test_noise_has_no_correlation_with_few_spots(n, limit):
    """Of no method: -.06 to .05, where means of folds alone give -.3 to -.6.

    The genes are all counts of these spots, so that depth is noise too: rates had .14 before it was taken off.
    """
    xy = np.stack(np.meshgrid(np.arange(n // 5), np.arange(5)), -1).reshape(-1, 2).astype(float)
    found = []
    for seed in (0, 1, 2):
        rng = np.random.default_rng(seed)
        adata = anndata.AnnData(rng.poisson(3, (n, 60)).astype(np.float32))
        adata.obsm["spatial"], adata.obsm["features"] = xy, rng.standard_normal((n, 4)).astype(np.float32)
        snrmix.tl.impute(adata, **QUICK)
        again = snrmix.tl.evaluate(adata, np.ones(n, bool))  # of a layer at a typical depth, out-of-fold
        given = {
            "given depth": adata.var["snrmix_pearson_given_depth"],
            "again, given depth": again["pearson_given_depth"],
        }
        means = pd.DataFrame({"of genes": adata.var["snrmix_pearson"], "again": again["pearson"], **given}).mean()
        found.append(pd.concat([adata.uns["snrmix"]["scores"]["pearson"], means]))
    found = pd.DataFrame(found).mean()
    assert {"snrmix", "network", "kriging", "rates", "depth", "mean", "spatial kNN", "ridge"} < set(found.index)
    again = found.index.str.startswith("again")  # flatter where folds contradict: -.12 and -.08, see docs/results.md
    assert found["mean"] == 0 and (found[~again].abs() < limit).all(), found
    assert (found[again].abs() < 1.6 * limit).all(), found


def test_noise_has_no_correlation_at_hidden_spots():
    """Each method's predictions come from the same measured spots, so that a benchmark needs no such care: at most .05."""
    rng, n = np.random.default_rng(1), 80
    adata = anndata.AnnData(rng.poisson(3, (n, 60)).astype(np.float32))
    adata.obsm["spatial"] = np.stack(np.meshgrid(np.arange(16), np.arange(5)), -1).reshape(-1, 2).astype(float)
    found = snrmix.tl.benchmark(adata, splits=2, n_folds=5).groupby("method", observed=True)["pearson"].mean()
    assert "depth" in found and (found.abs() < 0.1).all()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"depth_key": "nothing"}, KeyError, r"depth_key='nothing' is not in obs; available: 'counts'"),
        ({"depth_key": "name"}, TypeError, r"obs\['name'\] must hold counts per spot"),
        ({"depth_key": "zero"}, ValueError, r"obs\['zero'\] is not above 0 at 196 measured spots"),
        ({"at_depth": "deep"}, ValueError, "at_depth='deep'"),
    ],
)
def test_depths_that_cannot_be_are_refused(options, error, words):
    adata = section(4, side=14, genes=3)
    adata.obs["name"], adata.obs["zero"] = "a", 0.0
    before = set(adata.obs) | set(adata.layers) | set(adata.uns)
    with pytest.raises(error, match=words):
        snrmix.tl.impute(adata, **{**QUICK, **options})
    assert set(adata.obs) | set(adata.layers) | set(adata.uns) == before
