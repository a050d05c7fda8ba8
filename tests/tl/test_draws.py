import tracemalloc

import anndata
import numpy as np
import pytest

import snrmix


@pytest.fixture(scope="module", params=["unmeasured", "all"])
def simulated(request, made_result):
    """A simulated result, and 200 draws of it."""
    adata = made_result(request.param, seed=0)
    return adata, np.array(list(snrmix.tl.draws(adata, 200)))


def hidden(adata):
    return ~adata.obs["snrmix_measured"].to_numpy()


def test_a_draw_has_observed_values_where_the_layer_has_them_and_floats_elsewhere(simulated):
    adata, drawn = simulated
    known = adata.layers["snrmix_sd"] == 0
    assert known.any() == (adata.uns["snrmix"]["fill"] == "unmeasured")
    assert drawn.dtype == np.float32 and drawn.shape[1:] == adata.shape and (drawn >= 0).all()
    np.testing.assert_array_equal(drawn[:, known], np.broadcast_to(adata.layers["truth"][known], drawn[:, known].shape))
    assert (drawn[:, ~known].std(0) > 0).all()


def test_every_value_is_distributed_as_its_interval(simulated):
    adata, drawn = simulated
    low, high = snrmix.tl.interval(adata, 0.9)
    uncertain = adata.layers["snrmix_sd"] > 0
    below, above = (drawn < low)[:, uncertain].mean(), (drawn > high)[:, uncertain].mean()
    assert below == pytest.approx(0.05, abs=0.005) and above == pytest.approx(0.05, abs=0.005)
    sd = adata.layers["snrmix_sd"][uncertain]
    assert abs(((drawn.mean(0) - adata.layers["snrmix"])[uncertain] / sd).mean()) < 0.02


def test_rarely_seen_genes_keep_their_mean_and_their_interval(made_result):
    """Predictions near 0: cutting off at 0 alone would lift the mean by a third of an sd."""
    adata = made_result("all", seed=1)
    adata.layers["snrmix"] = (adata.layers["snrmix_sd"] * 0.3).astype(np.float32)
    drawn = np.array(list(snrmix.tl.draws(adata, 60)))
    high = snrmix.tl.interval(adata, 0.9)[1]
    shift = (drawn.mean(0) - adata.layers["snrmix"]) / adata.layers["snrmix_sd"]
    assert abs(shift.mean()) < 0.03
    cut = np.maximum(
        adata.layers["snrmix"]
        + adata.layers["snrmix_sd"] * np.random.default_rng(0).normal(size=drawn.shape).astype(np.float32),
        0,
    )
    assert ((cut.mean(0) - adata.layers["snrmix"]) / adata.layers["snrmix_sd"]).mean() > 0.2
    assert (drawn > high).mean() == pytest.approx(0.05, abs=0.01)


def test_variance_at_hidden_spots_is_that_of_data_and_not_of_predictions(simulated):
    """Median over genes: .98-1.05 of the truth in eight simulations, where predictions have .1-.4."""
    adata, drawn = simulated
    rows, truth = hidden(adata), adata.layers["truth"]
    ratio = np.median(drawn[:, rows].var(1).mean(0) / truth[rows].var(0))
    assert 0.85 < ratio < 1.15
    assert np.median(adata.layers["snrmix"][rows].var(0) / truth[rows].var(0)) < 0.6


def test_errors_go_together_between_genes_as_in_truth(made_result):
    """The simulation has a shared error; without it in the draws, the sum over genes would vary far too little."""
    adata = made_result("all", seed=3, genes=120, noise_genes=60, shared=0.6)
    rows, truth = hidden(adata), adata.layers["truth"]
    drawn = np.array(list(snrmix.tl.draws(adata, 30)))
    true = (truth - adata.layers["snrmix"])[rows].sum(1).var()
    found = (drawn - adata.layers["snrmix"])[:, rows].sum(2).var(1).mean()
    independent = ((truth - adata.layers["snrmix"])[rows].var(0)).sum()
    assert 0.7 < found / true < 1.3 and independent / true < 0.1


def test_errors_go_together_in_space_as_in_truth(made_result):
    """Means of blocks of hidden spots: draws differ by as much as truth lies off, which independent errors would not."""
    z, naive = [], []
    for seed in range(4):
        adata = made_result("unmeasured", seed=seed, noise_genes=0, weight=0.2)  # too smooth: errors have a pattern
        rows, truth = hidden(adata), adata.layers["truth"]
        drawn = np.array(list(snrmix.tl.draws(adata, 40)))
        block = (adata.obsm["spatial"] // 500).astype(int) @ [10, 1]
        for label in np.unique(block):
            own = rows & (block == label)
            means = drawn[:, own].mean(1)
            away = truth[own].mean(0) - means.mean(0)
            z.append(away / means.std(0, ddof=1))
            naive.append(away / np.sqrt((adata.layers["snrmix_sd"][own] ** 2).sum(0)) * own.sum())
    z, naive = (np.sqrt(np.mean(np.square(each))) for each in (z, naive))
    assert 0.8 < z < 1.3 and naive > 1.15 * z


def test_expected_values_vary_less_than_observed_ones(simulated):
    adata, drawn = simulated
    expected = np.array(list(snrmix.tl.draws(adata, 50, kind="expected")))
    uncertain = adata.layers["snrmix_sd"] > 0
    ratio = expected.std(0)[uncertain].mean() / drawn.std(0)[uncertain].mean()
    lasting = adata.varm["snrmix_errors"][:, 0]
    assert ((lasting >= 0) & (lasting <= 1)).all() and ratio == pytest.approx(np.sqrt(lasting).mean(), abs=0.05)
    shift = (expected.mean(0) - adata.layers["snrmix"])[uncertain] / adata.layers["snrmix_sd"][uncertain]
    assert abs(shift.mean()) < 0.02


def test_the_same_seed_gives_the_same_draws_however_many_and_another_seed_others(simulated):
    adata, drawn = simulated
    again = list(snrmix.tl.draws(adata, 2))
    np.testing.assert_array_equal(again, drawn[:2])
    assert not np.array_equal(next(snrmix.tl.draws(adata, 1, random_state=1)), drawn[0])
    assert not np.array_equal(again[0], again[1])


def test_order_of_rows_and_genes_does_not_matter(simulated):
    adata, drawn = simulated
    rng = np.random.default_rng(0)
    rows, genes = rng.permutation(adata.n_obs), rng.permutation(adata.n_vars)
    np.testing.assert_array_equal(next(snrmix.tl.draws(adata[rows][:, genes].copy(), 1)), drawn[0][rows][:, genes])


def test_a_stored_result_gives_the_same_draws(simulated, tmp_path):
    adata, drawn = simulated
    adata.write_h5ad(tmp_path / "made.h5ad")
    adata.write_zarr(tmp_path / "made.zarr")
    for read in (anndata.read_h5ad(tmp_path / "made.h5ad"), anndata.read_zarr(tmp_path / "made.zarr")):
        np.testing.assert_array_equal(next(snrmix.tl.draws(read, 1)), drawn[0])


def test_libraries_have_errors_of_their_own(made_result):
    """Two halves of the grid as two libraries: errors across the border do not go together, those within do."""
    adata = made_result("unmeasured", seed=0, noise_genes=0, weight=0.5, libraries=2)
    label = adata.obsm["snrmix_errors"][hidden(adata), 2]
    assert len(np.unique(label)) == 2


def test_what_impute_stores_suffices_and_is_small(small_tissue, impute):
    """A run of `impute` with several libraries, genes left out and genes that are too rare to be modelled."""
    other = small_tissue.copy()
    other.obs_names += "-b"
    adata = anndata.concat([small_tissue, other], label="slide", merge="same")
    adata.uns["spatial"] = {
        "a": small_tissue.uns["spatial"]["synthetic"],
        "b": small_tissue.uns["spatial"]["synthetic"],
    }
    adata.obs["slide"] = np.repeat(["a", "b"], small_tissue.n_obs)
    dense = adata.X.toarray()
    dense[:, 0] = 0
    dense[:4, 0] = 1
    adata.X = dense
    measured = np.random.default_rng(0).random(adata.n_obs) < 0.5
    impute(adata, measured=measured, library_key="slide", genes=list(adata.var_names[:30]))
    drawn = np.array(list(snrmix.tl.draws(adata, 30)))
    assert np.isnan(drawn[:, :, 30:]).all() and np.isfinite(drawn[:, :, :30]).all()
    np.testing.assert_array_equal(
        drawn[:, measured, :30], np.repeat(adata.layers["snrmix"][None, measured, :30], 30, 0)
    )
    assert not adata.var["snrmix_modelled"].iloc[0] and (drawn[:, ~measured, 0].std(0) > 0).any()
    assert adata.obsm["snrmix_errors"].shape == (adata.n_obs, 3)
    assert adata.varm["snrmix_errors"].shape[1] <= 2 * 17


def test_memory_goes_with_the_layer(made_result):
    """20,000 sites take a few times the layer, nothing that grows with their square."""
    adata = made_result("all", seed=0, genes=25, noise_genes=5)
    times = 50
    many = anndata.AnnData(
        obs={"snrmix_measured": np.tile(adata.obs["snrmix_measured"], times)}, var=adata.var,
        layers={name: np.tile(adata.layers[name], (times, 1)) for name in ("snrmix", "snrmix_sd")},
        obsm={"snrmix_errors": np.tile(adata.obsm["snrmix_errors"], (times, 1))}, varm=dict(adata.varm), uns=dict(adata.uns),
    )  # fmt: skip
    many.X = many.layers["snrmix"]
    layer = many.layers["snrmix"].nbytes
    tracemalloc.start()
    drawn = next(snrmix.tl.draws(many, 1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(drawn) == 20_000 and peak < 10 * layer + 60e6


def test_refusals(simulated):
    adata = simulated[0].copy()
    with pytest.raises(ValueError, match="kind='mean' is unknown"):
        snrmix.tl.draws(adata, kind="mean")
    with pytest.raises(ValueError, match="n_draws=0 must be a whole number from 1"):
        snrmix.tl.draws(adata, 0)
    with pytest.raises(ValueError, match="random_state="):
        snrmix.tl.draws(adata, random_state=-1)
    with pytest.raises(KeyError, match="no result 'other'"):
        snrmix.tl.draws(adata, key="other")
    del adata.varm["snrmix_errors"]
    with pytest.raises(KeyError, match="made by an older version.*Run snrmix.tl.impute again"):
        snrmix.tl.draws(adata)
