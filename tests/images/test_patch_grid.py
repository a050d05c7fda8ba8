"""Patches of dense sites: interpolated from a grid where that saves work, and never on ordinary sections."""

import tracemalloc

import anndata
import numpy as np
import pandas as pd
import pytest

import snrmix
from snrmix.images import Level, read_crops
from snrmix.images import patch_grid as module
from snrmix.images.colour import COLOUR_FEATURES
from snrmix.images.patch_grid import patch_grid
from snrmix.images.source import scaling


def square(n: int, pitch: float, offset: float = 0.0) -> np.ndarray:
    """Centres of n x n bins, shape (n * n, 2)."""
    row, column = (index.ravel() for index in np.indices((n, n)))
    return np.column_stack([column, row]) * pitch + offset


@pytest.fixture(scope="module")
def picture():
    """An H&E-like image, 0.48 px per um."""
    return snrmix.datasets.synthetic_tissue(n_rows=8, n_genes=7, image_px_per_pitch=48).uns["spatial"]["synthetic"][
        "images"
    ]["hires"]


@pytest.fixture
def bins(picture):
    """Bins of 8 um, 2,500 of them, in the middle of the image."""
    n, pitch = 50, 8 * 0.48
    start = (np.array(picture.shape[1::-1]) - n * pitch) / 2
    names = [f"bin_{i:04d}" for i in range(n * n)]
    adata = anndata.AnnData(
        np.ones((n * n, 1), np.float32), obs=pd.DataFrame(index=names), obsm={"spatial": square(n, pitch) + start}
    )
    adata.uns["spatial"] = {"hd": {"images": {}, "scalefactors": {"microns_per_pixel": 1 / 0.48}}}
    return adata


def embed(adata, picture, **options):
    snrmix.pp.embed_histology(adata, image=picture, **{"encoder": "colour", **options})
    return adata.obsm["X_histology"].astype(float), adata.uns["X_histology"]


# The grid


def test_what_is_linear_over_the_frame_is_interpolated_exactly():
    rng = np.random.default_rng(0)
    positions = rng.uniform(-300, 900, (5000, 2))
    grid = patch_grid(positions, side=120.0)
    slope, level = rng.normal(size=(2, 3)), rng.normal(size=3)
    found = grid.at_sites(grid.nodes @ slope + level)
    np.testing.assert_allclose(found, positions @ slope + level, atol=1e-3)
    np.testing.assert_allclose(grid.weights.sum(1), 1, atol=1e-6)


def test_site_at_a_node_has_its_features_unchanged():
    positions = square(60, 30.0)  # a quarter of the side
    grid = patch_grid(np.concatenate([positions] * 3), side=120.0)
    features = np.random.default_rng(0).normal(size=(len(grid.nodes), 2))
    place = {tuple(node): i for i, node in enumerate(grid.nodes)}
    expected = features[[place[tuple(p)] for p in positions]]
    np.testing.assert_allclose(grid.at_sites(features)[: len(positions)], expected, atol=1e-6)


def test_features_of_a_site_do_not_depend_on_the_other_sites():
    positions = np.random.default_rng(0).uniform(0, 1000, (6000, 2))
    of_nodes = lambda nodes: np.sin(nodes / 50)  # noqa: E731
    whole, half = (patch_grid(some, side=200.0) for some in (positions, positions[:3000]))
    np.testing.assert_array_equal(
        whole.at_sites(of_nodes(whole.nodes))[:3000], half.at_sites(of_nodes(half.nodes)).astype(float)
    )


def test_cost_follows_the_area_not_the_number_of_sites():
    few, many = patch_grid(square(100, 8.0), 115.0), patch_grid(square(400, 2.0), 115.0)
    expected = (800 / (115 / 4) + 1) ** 2
    for grid in (few, many):
        assert len(grid.nodes) == pytest.approx(expected, rel=0.1)


def test_ordinary_arrays_keep_a_patch_per_spot():
    row, place = (index.ravel() for index in np.indices((78, 64)))
    visium = np.column_stack([place + row % 2 / 2, row * np.sqrt(3) / 2])
    for scale in (1.15, 2.3, 4.6):
        assert patch_grid(visium, scale) is None
        assert patch_grid(square(35, 1.0), scale) is None


def test_few_sites_keep_a_patch_each():
    assert patch_grid(square(30, 1.0), side=100.0) is None
    assert patch_grid(square(40, 1.0), side=100.0) is not None


def test_ordinary_section_is_embedded_patch_by_patch(tissue, monkeypatch):
    image = tissue.uns["spatial"]["synthetic"]["images"]["hires"]
    tissue.obsm["spatial"] *= 0.25
    before, record = embed(tissue.copy(), image)
    monkeypatch.setattr(module, "SHARE", 0.0)
    np.testing.assert_array_equal(embed(tissue.copy(), image)[0], before)
    assert (record["grid_spacing"] == 0).all()


# Agreement with a patch per site


def test_interpolated_features_are_those_of_patches_within_tolerance(bins, picture, monkeypatch):
    found, record = embed(bins.copy(), picture)
    np.testing.assert_allclose(record["grid_spacing"], record["patch_side"] / 4)
    monkeypatch.setattr(module, "SHARE", 0.0)
    exact, record = embed(bins.copy(), picture)
    assert (record["grid_spacing"] == 0).all()
    spread = exact.std(0)
    error = np.sqrt(((found - exact) ** 2).mean(0)) / spread
    assert np.median(error) < 0.15
    assert error.max() < 0.35
    correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(found.T, exact.T, strict=True)]
    assert min(correlation) > 0.93
    # A coarser grid would not do.
    monkeypatch.setattr(module, "SHARE", 0.5)
    monkeypatch.setattr(module, "SPACING", 1.0)
    coarse = embed(bins.copy(), picture)[0]
    assert np.median(np.sqrt(((coarse - exact) ** 2).mean(0)) / spread) > 2 * np.median(error)


def test_network_is_run_on_the_nodes_alone(bins, picture):
    seen = []

    def encoder(patches):
        seen.append(len(patches))
        return patches.mean((2, 3))

    features, record = embed(bins, picture, encoder=encoder)
    grids = [patch_grid(bins.obsm["spatial"], side) for side in record["patch_side"][0]]
    tries = 2 + 25  # they tell encoders apart, and how fast they are
    assert sum(seen) == tries + sum(len(grid.nodes) for grid in grids)
    assert features.shape == (bins.n_obs, 3 * (3 + COLOUR_FEATURES))


# Reuse


def test_dense_embedding_is_reused_for_all_and_for_some_bins(bins, picture, caplog):
    features, record = embed(bins, picture)
    with caplog.at_level("INFO", logger="snrmix"):
        again, record_again = embed(bins, picture)
    assert "reusing" in caplog.text
    np.testing.assert_array_equal(again, features)
    np.testing.assert_array_equal(record_again["grid_spacing"], record["grid_spacing"])
    caplog.clear()
    some = bins[::40].copy()
    with caplog.at_level("INFO", logger="snrmix"):
        embed(some, picture)
    assert "reusing" in caplog.text
    np.testing.assert_array_equal(some.uns["X_histology"]["grid_spacing"], record["grid_spacing"])


def test_embedding_of_an_earlier_version_is_reused(bins, picture, caplog, monkeypatch):
    monkeypatch.setattr(module, "SHARE", 0.0)
    features, _ = embed(bins, picture)
    del bins.uns["X_histology"]["grid_spacing"]
    monkeypatch.undo()
    with caplog.at_level("INFO", logger="snrmix"):
        again, record = embed(bins, picture)
    assert "reusing" in caplog.text
    np.testing.assert_array_equal(again, features)
    assert (record["grid_spacing"] == 0).all()


def test_record_survives_a_file(bins, picture, tmp_path):
    _, record = embed(bins, picture)
    bins.write_h5ad(tmp_path / "bins.h5ad")
    stored = anndata.read_h5ad(tmp_path / "bins.h5ad").uns["X_histology"]
    np.testing.assert_array_equal(stored["grid_spacing"], record["grid_spacing"])


# Streaming


def test_lazy_image_is_read_in_bands_with_bounded_memory():
    import dask.array as da

    chunk, reads = 512, []

    def block(block_info=None):
        (top, _), (left, _), _ = block_info[None]["array-location"]
        reads.append((top // chunk, left // chunk))
        return np.full((chunk, chunk, 3), (top + left) % 251, np.uint8)

    image = da.map_blocks(block, chunks=((chunk,) * 16, (chunk,) * 16, (3,)), dtype=np.uint8)
    tracemalloc.start()
    for _, crops in read_crops(
        Level(image, scaling(1.0)), square(30, 250.0, offset=400.0), side=230.0, size=64, batch=64
    ):
        assert crops.shape[1:] == (64, 64, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < image.nbytes / 3
    rows = np.array([row for row, _ in reads])
    assert len(set(reads)) == 256
    assert (rows >= np.maximum.accumulate(rows) - 2).all()  # never back by more than a batch
    assert len(reads) < 5 * 256
