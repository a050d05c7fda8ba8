"""Unmeasured sites between the measured ones and in holes."""

import logging

import anndata
import dask.array as da
import geopandas
import numpy as np
import pandas as pd
import pytest
import spatialdata
from scipy import sparse
from scipy.interpolate import CloughTocher2DInterpolator
from scipy.spatial import cKDTree
from shapely import Polygon
from spatialdata.models import Labels2DModel, ShapesModel
from spatialdata.transformations import Affine, get_transformation

import snrmix
from snrmix.pp import fill_grid

PITCH = 64.0  # of the fixtures, in full-resolution pixels; 100 um
UM = 100 / PITCH
pytestmark = pytest.mark.filterwarnings("ignore")


def added(filled):
    return filled.obs["snrmix_added"].to_numpy()


def new_positions(filled):
    return filled.obsm["spatial"][added(filled)]


def neighbour_distance(positions):
    return cKDTree(positions).query(positions, k=2)[0][:, 1]


def array(rows, columns, *, staggered=False, pitch=10.0, angle=0.0):
    """An array without an image, counts of 1; names do not follow the positions."""
    row, place = (part.ravel() for part in np.mgrid[:rows, :columns])
    column = 2 * place + row % 2 if staggered else place
    steps = [pitch / 2, pitch * np.sqrt(3) / 2] if staggered else [pitch, pitch]
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    names = np.random.default_rng(0).permutation(len(row)).astype(str)
    adata = anndata.AnnData(
        np.ones((len(row), 3), np.float32),
        obs=pd.DataFrame({"array_row": row, "array_col": column}, index=names),
        obsm={"spatial": np.column_stack([column, row]) * steps @ turn + [300.0, 200.0]},
    )
    return adata


# Where the sites are


@pytest.mark.parametrize("angle", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("factor", [2, 3])
def test_square_array_is_divided(factor, angle):
    adata = array(6, 8, angle=angle)
    filled = fill_grid(adata, factor)
    expected = array(5 * factor + 1, 7 * factor + 1, pitch=10 / factor, angle=angle).obsm["spatial"]
    assert filled.n_obs == len(expected)
    assert cKDTree(expected).query(filled.obsm["spatial"])[0].max() < 1e-9
    assert neighbour_distance(filled.obsm["spatial"]).min() > 10 / factor - 1e-9


@pytest.mark.parametrize("angle", [0.0, 0.3, 2.0])
def test_hexagonal_array_is_divided_halfway_along_its_three_directions(angle):
    adata = array(6, 8, staggered=True, angle=angle)
    filled = fill_grid(adata, 2)
    pairs = np.array(sorted(cKDTree(adata.obsm["spatial"]).query_pairs(10.001)))
    halfway = adata.obsm["spatial"][pairs].mean(1)
    new = new_positions(filled)
    assert cKDTree(new).query(halfway)[0].max() < 1e-9  # each of them
    others = new[cKDTree(halfway).query(new)[0] > 1e-9]  # in the indentations at the ends of the rows
    assert len(others) == 4 and cKDTree(adata.obsm["spatial"]).query(others)[0].max() < 5.001
    np.testing.assert_allclose(neighbour_distance(filled.obsm["spatial"]), 5)


def test_hole_is_filled_and_the_outline_is_kept():
    adata = array(7, 9, staggered=True)
    missing = (adata.obs["array_row"] == 3) & (adata.obs["array_col"] == 9)
    notch = (adata.obs["array_row"] < 3) & (adata.obs["array_col"] < 6)
    filled = fill_grid(adata[~(missing | notch).to_numpy()].copy(), 2)
    assert cKDTree(filled.obsm["spatial"]).query(adata.obsm["spatial"][missing])[0].max() < 1e-9
    corner = adata.obsm["spatial"][(adata.obs["array_row"] == 0) & (adata.obs["array_col"] < 4)]
    assert cKDTree(filled.obsm["spatial"]).query(corner)[0].min() > 10  # the notch is concave, and stays


def test_pitch_as_spacing_adds_only_what_is_missing(tissue):
    kept = np.random.default_rng(0).random(tissue.n_obs) > 0.2
    filled = fill_grid(tissue[kept].copy(), spacing_um=100)
    inner = cKDTree(tissue.obsm["spatial"]).query(tissue.obsm["spatial"], k=19)[0][:, 18] < 2.01 * PITCH
    assert (inner & ~kept).sum() > 8
    assert cKDTree(new_positions(filled)).query(tissue.obsm["spatial"][inner & ~kept])[0].max() < 1e-6
    assert neighbour_distance(filled.obsm["spatial"]).min() > PITCH - 1e-6


@pytest.mark.parametrize("spacing_um", [50, 40])
def test_spacing_is_in_micrometres(tissue, spacing_um):
    filled = fill_grid(tissue, spacing_um=spacing_um)
    assert np.median(neighbour_distance(new_positions(filled))) * UM == pytest.approx(spacing_um, rel=1e-6)
    assert neighbour_distance(filled.obsm["spatial"]).min() * UM > spacing_um / 2 - 1e-6


def test_half_the_pitch_is_factor_two(tissue, assert_unchanged):
    assert_unchanged(fill_grid(tissue, 2), fill_grid(tissue, spacing_um=50))


def test_sites_are_on_tissue_only():
    adata = snrmix.datasets.synthetic_tissue(24, 8, image_px_per_pitch=16, random_state=3)
    dense = fill_grid(adata, 3)
    image = adata.uns["spatial"]["synthetic"]["images"]["hires"].astype(int)
    glass = image.min(2) > 235
    column, row = np.floor(new_positions(dense) * 0.25).astype(int).T
    assert glass.mean() > 0.15 and added(dense).sum() > 1000
    share = np.mean([glass[row + dy, column + dx] for dy in (-3, 0, 3) for dx in (-3, 0, 3)], axis=0)
    assert (share > 0.9).mean() < 0.02
    blank = adata.copy()
    del blank.obs["in_tissue"]
    blank.uns["spatial"]["synthetic"]["images"]["hires"][:, : image.shape[1] // 2] = 246  # half the section torn off
    half = fill_grid(blank, 3)
    right = new_positions(half)[:, 0] * 0.25 > image.shape[1] / 2 - 6
    assert right.all() and len(right) > 0.3 * added(dense).sum()


def test_pale_tissue_between_spots_in_tissue_is_filled(tissue):
    tissue.uns["spatial"]["synthetic"]["images"]["hires"][60:110, 60:110] = 246  # fat, as the image shows it
    inside = (np.abs(tissue.obsm["spatial"] * 0.25 - 85) < 20).all(1)
    assert inside.sum() > 4

    def count(filled):
        return (np.abs(new_positions(filled) * 0.25 - 85) < 20).all(1).sum()

    assert count(fill_grid(tissue, 2)) > 2 * inside.sum()


def test_cells_get_a_regular_grid(tissue):
    rng = np.random.default_rng(0)
    positions = rng.uniform(0, 300, (400, 2))
    cells = anndata.AnnData(np.ones((400, 2), np.float32), obsm={"spatial": positions})
    filled = fill_grid(cells, spacing_um=2, um_per_px=0.5)
    new = new_positions(filled)
    np.testing.assert_allclose(np.median(neighbour_distance(new)), 4)
    assert cKDTree(positions).query(new)[0].min() > 2
    inner = rng.uniform(40, 260, (500, 2))
    assert np.mean(cKDTree(filled.obsm["spatial"]).query(inner)[0] < 4) > 0.9


def test_irregular_array_is_followed():
    adata = array(8, 8)
    positions = adata.obsm["spatial"]
    positions += 0.25 * 10 * np.column_stack([np.sin(positions[:, 1] / 15), np.cos(positions[:, 0] / 15)])
    filled = fill_grid(adata, 3)
    assert filled.n_obs == 22 * 22  # no place is taken for another because its site is off the grid
    middle = fill_grid(adata, 2)
    pairs = cKDTree(positions).query_pairs(10.5, output_type="ndarray")
    distance = cKDTree(new_positions(middle)).query(positions[pairs].mean(1))[0]
    assert distance.max() < 1.5 and np.median(distance) < 0.5


@pytest.mark.parametrize("name", ["st_her2_B4.h5ad", "st_mob_1.h5ad", "visium_muscle_2dpi.h5ad"])
def test_real_arrays(real_file, name):
    adata = anndata.read_h5ad(real_file(name))[:, :50].copy()
    adata.uns.pop("spatial", None)
    filled = fill_grid(adata, 2, measured=np.ones(adata.n_obs, bool))
    pitch = np.median(neighbour_distance(adata.obsm["spatial"]))
    assert 2.2 * adata.n_obs < added(filled).sum() < 4 * adata.n_obs
    assert np.median(neighbour_distance(filled.obsm["spatial"])) == pytest.approx(pitch / 2, rel=0.1)
    assert neighbour_distance(filled.obsm["spatial"]).min() > 0.25 * pitch


# What the object holds


def test_sites_that_were_there_keep_everything(tissue, assert_unchanged):
    tissue.X = tissue.X.tocsc()
    tissue.obs["total"] = np.arange(tissue.n_obs)
    tissue.obs["score"] = np.linspace(0, 1, tissue.n_obs)
    tissue.obs["passed"] = np.arange(tissue.n_obs) % 2 == 0
    tissue.obs["cluster"] = pd.Categorical(np.arange(tissue.n_obs) % 3)
    tissue.obs["text"] = [f"spot {i}" for i in range(tissue.n_obs)]
    tissue.obs["seen"] = pd.array(np.arange(tissue.n_obs) % 2 == 0, dtype="boolean")
    tissue.obs["nullable"] = pd.array(np.arange(tissue.n_obs), dtype="Int64")
    tissue.obsm["X_pca"] = np.ones((tissue.n_obs, 3), np.float32)
    tissue.obsm["frame"] = pd.DataFrame({"a": np.ones(tissue.n_obs)}, index=tissue.obs_names)
    tissue.obsm["sparse"] = sparse.csr_matrix(np.ones((tissue.n_obs, 2)))
    tissue.layers["dense"] = tissue.X.toarray().astype(np.int32)
    tissue.varm["loadings"] = np.ones((tissue.n_vars, 2))
    tissue.raw = tissue.copy()
    before = tissue.copy()
    filled = fill_grid(tissue, 2)
    assert_unchanged(before, tissue)
    n = tissue.n_obs
    old, new = filled[:n], filled[n:]
    assert list(old.obs_names) == list(tissue.obs_names) and filled.obs_names.is_unique
    assert filled.X.format == "csc" and filled.X.dtype == tissue.X.dtype and new.X.nnz == 0
    np.testing.assert_array_equal(old.X.toarray(), tissue.X.toarray())
    for name, fill in (("truth", np.nan), ("dense", 0)):
        assert filled.layers[name].dtype == tissue.layers[name].dtype
        np.testing.assert_array_equal(old.layers[name], tissue.layers[name])
        np.testing.assert_array_equal(new.layers[name], np.full(new.shape, fill))
    pd.testing.assert_frame_equal(old.obs[tissue.obs.columns], tissue.obs, check_dtype=False)
    kept = ["passed", "seen", "cluster", "text", "nullable", "score", "library_id", "in_tissue"]
    assert (filled.obs.dtypes[kept] == tissue.obs.dtypes[kept]).all()
    assert new.obs[["total", "score", "cluster", "text", "nullable", "array_row", "array_col"]].isna().all(axis=None)
    assert not new.obs[["passed", "seen"]].any(axis=None) and not new.obs["seen"].isna().any()
    assert (new.obs["in_tissue"] == 1).all()
    assert (new.obs["library_id"] == "synthetic").all()
    assert old.obs["measured"].all() and not new.obs["measured"].any()
    assert filled.obs["measured"].dtype == filled.obs["snrmix_added"].dtype == bool
    assert np.isnan(new.obsm["X_pca"]).all() and new.obsm["frame"].isna().all(axis=None)
    assert new.obsm["sparse"].nnz == 0 and filled.obsm["X_pca"].dtype == np.float32
    np.testing.assert_array_equal(filled.varm["loadings"], tissue.varm["loadings"])
    assert filled.raw.shape == filled.shape and filled.raw[filled.obs_names[n:]].X.nnz == 0
    image = filled.uns["spatial"]["synthetic"]["images"]["hires"]
    np.testing.assert_array_equal(image, tissue.uns["spatial"]["synthetic"]["images"]["hires"])
    image[:] = 0  # is no view
    assert_unchanged(before, tissue)


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_array, np.asarray, da.from_array])
def test_matrix_stays_of_its_kind(tissue, kind):
    tissue.X = kind(tissue.X.toarray())
    filled = fill_grid(tissue, 2)
    assert type(filled.X) is type(tissue.X) and filled.X.dtype == tissue.X.dtype
    rest = filled.X[tissue.n_obs :]
    assert float(abs(rest).sum()) == 0


def test_names_and_places_do_not_depend_on_row_order(tissue):
    filled = fill_grid(tissue, 2)
    order = np.random.default_rng(0).permutation(tissue.n_obs)
    other = fill_grid(tissue[order].copy(), 2)
    np.testing.assert_array_equal(filled.obs_names[added(filled)], other.obs_names[added(other)])
    np.testing.assert_array_equal(new_positions(filled), new_positions(other))
    assert list(other.obs_names[: tissue.n_obs]) == list(tissue.obs_names[order])


def test_object_can_be_written_and_read(tissue, tmp_path):
    tissue.obs["text"] = [f"spot {i}" for i in range(tissue.n_obs)]
    tissue.obs["total"] = np.arange(tissue.n_obs)
    filled = fill_grid(tissue, 2)
    filled.write_h5ad(tmp_path / "filled.h5ad")
    back = anndata.read_h5ad(tmp_path / "filled.h5ad")
    np.testing.assert_array_equal(back.obsm["spatial"], filled.obsm["spatial"])
    assert (back.obs["snrmix_added"] == filled.obs["snrmix_added"]).all()


def test_measured_column_is_kept_and_held_out_spots_stay_so(tissue, impute):
    snrmix.pp.hold_out(tissue, share=0.3)
    filled = fill_grid(tissue, 2)
    for name in ("measured", "measured_held_out"):
        np.testing.assert_array_equal(
            filled.obs[name], np.append(tissue.obs[name], np.zeros(added(filled).sum(), bool))
        )
    impute(filled, measured="measured", genes=None)
    assert len(snrmix.tl.evaluate(filled, "measured_held_out")) == tissue.n_vars


def test_undetected_bins_are_there_and_unmeasured(tissue):
    tissue.X = tissue.X.toarray()
    tissue.X[5] = 0
    tissue.X[6, 3] = np.nan
    filled = fill_grid(tissue, 2, key_added="known")
    assert list(np.flatnonzero(~filled.obs["known"][: tissue.n_obs])) == [5, 6]
    mask = np.arange(tissue.n_obs) > 50
    np.testing.assert_array_equal(fill_grid(tissue, 2, measured=mask).obs["measured"][: tissue.n_obs], mask)


def test_what_does_not_know_the_new_sites_is_left_out(tissue, impute, caplog):
    columns = set(tissue.obs), set(tissue.var), set(tissue.varm)
    impute(tissue)
    impute(tissue, key_added="second")
    tissue.varm["second_calibration"] = np.zeros((tissue.n_vars, 2))
    tissue.obsp["graph_connectivities"] = sparse.eye_array(tissue.n_obs).tocsr()
    tissue.uns["graph_neighbors"] = {"connectivities_key": "graph_connectivities"}
    with caplog.at_level(logging.INFO, logger="snrmix"):
        filled = fill_grid(tissue, 2)
    assert set(filled.layers.keys()) - {None} == {"truth"}
    assert set(filled.uns) == {"spatial"} and not list(filled.obsp) and set(filled.obsm) == {"spatial"}
    assert (set(filled.obs) - {"measured", "snrmix_added"}, set(filled.var), set(filled.varm)) == columns
    assert "left out, because they do not know the added sites" in caplog.text
    impute(filled, measured="measured")
    assert filled.obsm["X_histology"].shape[0] == filled.n_obs


def test_pitch_stays_that_of_the_array(tissue, impute):
    filled = fill_grid(tissue, 3)
    impute(tissue)
    impute(filled, measured="measured")
    for name in ("pitch", "um_per_px"):
        np.testing.assert_allclose(filled.uns["snrmix"]["image"][name], tissue.uns["snrmix"]["image"][name], rtol=1e-9)
    sides = [adata.uns["X_histology"]["patch_side"] for adata in (filled, tissue)]
    np.testing.assert_allclose(*sides, rtol=1e-9)


def test_filling_what_is_filled_adds_nothing(tissue, caplog):
    filled = fill_grid(tissue, 2)
    again = fill_grid(filled, 2)
    assert list(again.obs_names) == list(filled.obs_names)
    np.testing.assert_array_equal(added(again), added(filled))
    assert "no place for another site" in caplog.text


def test_libraries_are_filled_each_on_its_own(tissue):
    other = snrmix.datasets.synthetic_tissue(10, 40, image_px_per_pitch=16, random_state=1)
    other.var_names = tissue.var_names
    both = anndata.concat({"B": tissue, "A": other}, label="slide", index_unique="-")
    images = {
        name: adata.uns["spatial"]["synthetic"]["images"]["hires"].repeat(4, 0).repeat(4, 1)
        for name, adata in (("B", tissue), ("A", other))
    }
    filled = fill_grid(both, 2, library_key="slide", image=images)
    for name, adata in (("B", tissue), ("A", other)):
        alone = fill_grid(adata, 2)
        rows = added(filled) & (filled.obs["slide"] == name).to_numpy()
        distance = cKDTree(new_positions(alone)).query(filled.obsm["spatial"][rows])[0]
        assert abs(rows.sum() - added(alone).sum()) <= 3 and np.mean(distance < 1e-6) > 0.98
    assert filled.obs["slide"].dtype == "category" and filled.obs_names.is_unique


# SpatialData


def test_spatialdata_gets_shapes_and_rows(sdata, tissue, impute, assert_unchanged):
    before_table, before_shapes = sdata["table"].copy(), sdata["synthetic"].copy()
    filled = fill_grid(sdata, 2)
    assert_unchanged(before_table, sdata["table"])
    pd.testing.assert_frame_equal(before_shapes, sdata["synthetic"])
    table, shapes = filled["table"], filled["synthetic"]
    new = table[added(table)]
    expected = new_positions(fill_grid(tissue, 2))
    assert len(new) == len(expected) and len(shapes) == table.n_obs
    centres = shapes.loc[new.obs["spot_id"]]
    np.testing.assert_allclose(np.column_stack([centres.geometry.x, centres.geometry.y]), new.obsm["spatial"])
    assert cKDTree(expected).query(new.obsm["spatial"])[0].max() < 1e-6
    assert shapes["radius"].nunique() == 1 and new.obs["spot_id"].dtype == before_table.obs["spot_id"].dtype
    assert (new.obs["region"] == "synthetic").all()
    assert set(get_transformation(shapes, get_all=True)) == set(get_transformation(sdata["synthetic"], get_all=True))
    impute(filled, measured="measured")
    assert np.isfinite(table.layers["snrmix"][:, table.var["snrmix_modelled"]]).all()


def test_spatialdata_is_written_and_read(sdata, tmp_path):
    filled = fill_grid(sdata, 2)
    filled.write(tmp_path / "filled.zarr")
    back = spatialdata.read_zarr(tmp_path / "filled.zarr")
    assert len(back["synthetic"]) == back["table"].n_obs == filled["table"].n_obs


def test_polygons_under_an_affine_transformation(sdata):
    circles = sdata["synthetic"]
    matrix = np.array([[0.5, 0.1, 30], [-0.1, 0.5, 7], [0, 0, 1]])
    points = np.column_stack([circles.geometry.x, circles.geometry.y, np.ones(len(circles))])
    own = (points @ np.linalg.inv(matrix).T)[:, :2]
    corners = np.array([[-9, -9], [9, -9], [9, 9], [-9, 9]])
    element = ShapesModel.parse(
        geopandas.GeoDataFrame(geometry=[Polygon(p + corners) for p in own], index=circles.index),
        transformations={"synthetic": Affine(matrix, ("x", "y"), ("x", "y"))},
    )
    reference = fill_grid(sdata, 2)["table"]
    del sdata.shapes["synthetic"]
    sdata.shapes["synthetic"] = element
    del sdata["table"].obsm["spatial"]
    filled = fill_grid(sdata, 2)
    table = filled["table"]
    shapes = filled["synthetic"].loc[table.obs["spot_id"][added(table)]]
    np.testing.assert_allclose(shapes.area, 18**2)
    centres = np.column_stack([shapes.centroid.x, shapes.centroid.y, np.ones(len(shapes))])
    assert cKDTree(new_positions(reference)).query((centres @ matrix.T)[:, :2])[0].max() < 1e-6
    assert "spatial" not in table.obsm


def test_names_as_instances_and_other_elements(sdata):
    circles = sdata.shapes.pop("synthetic")
    circles.index = [f"spot {i}" for i in circles.index]
    circles["area"] = 1.0
    sdata.shapes["synthetic"] = circles
    sdata["table"].obs["spot_id"] = [f"spot {i}" for i in sdata["table"].obs["spot_id"]]
    filled = fill_grid(sdata, 2)
    new = filled["table"].obs[added(filled["table"])]
    assert (new["spot_id"] == new.index).all()
    assert filled["synthetic"].loc[new["spot_id"], "area"].isna().all()
    assert set(filled.images) == set(sdata.images) and filled is not sdata


def test_filtered_table_of_a_spatialdata(sdata):
    kept = sdata["table"][:80].copy()
    del sdata.tables["table"]
    sdata.tables["table"] = kept
    filled = fill_grid(sdata, 2)
    table = filled["table"]
    assert set(table.obs["spot_id"]) <= set(filled["synthetic"].index) and table.obs["spot_id"].is_unique
    assert filled["synthetic"].index.is_unique


def test_squidpy_draws_it(tissue):
    import matplotlib.pyplot as plt
    import squidpy as sq

    tissue.obs["cluster"] = pd.Categorical(np.arange(tissue.n_obs) % 3)
    filled = fill_grid(tissue, 2)
    sq.pl.spatial_scatter(filled, color=["GLAND_01", "cluster"], library_key="library_id", return_ax=True)
    plt.close("all")


def test_spatialdata_plot_draws_it(sdata):
    pytest.importorskip("spatialdata_plot", reason="spatialdata-plot is optional")
    import matplotlib.pyplot as plt

    filled = fill_grid(sdata, 2)
    figure, ax = plt.subplots()
    filled.pl.render_images("synthetic_hires_image").pl.render_shapes("synthetic", color="snrmix_added").pl.show(
        ax=ax, coordinate_systems="synthetic"
    )
    assert ax.collections
    plt.close("all")


# Truth


@pytest.fixture(scope="module", params=[0, 1])
def thinned(request):
    """A dense section of known truth, and every fourth of its spots as the array that was measured."""
    dense = snrmix.datasets.synthetic_tissue(28, 40, image_px_per_pitch=24, random_state=request.param)
    row, column = dense.obs["array_row"], dense.obs["array_col"]
    coarse = dense[(row % 2 == 0) & (column % 2 == 0) & ((row // 2 + column // 2) % 2 == 0)].copy()
    coarse.obs[["array_row", "array_col"]] //= 2
    return dense, coarse


def test_denser_map_is_nearer_to_the_truth_than_bicubic_interpolation(thinned):
    dense, coarse = thinned
    filled = fill_grid(coarse, 2)
    snrmix.tl.impute(filled, measured="measured", encoder="colour", max_epochs=15, n_folds=3)
    distance, spot = cKDTree(dense.obsm["spatial"]).query(filled.obsm["spatial"])
    counts = coarse.X.toarray()
    observed = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)
    bicubic = CloughTocher2DInterpolator(coarse.obsm["spatial"], observed)(filled.obsm["spatial"])
    compared = added(filled) & (distance < 1) & np.isfinite(bicubic).all(1)
    assert compared.sum() > 400
    truth = dense.layers["truth"][spot[compared]]
    error = np.mean((filled.layers["snrmix"][compared] - truth) ** 2, axis=0)
    of_bicubic = np.mean((bicubic[compared] - truth) ** 2, axis=0)
    assert error.mean() < 0.65 * of_bicubic.mean()  # 0.51 and 0.49
    assert np.mean(error < of_bicubic) > 0.9  # all genes, in both


# Refusals


@pytest.mark.parametrize("factor", [1, 0, -2, 2.0, True, "2"])
def test_factor_out_of_range_is_refused(tissue, factor):
    with pytest.raises(ValueError, match=r"factor=.* must be a whole number from 2 up"):
        fill_grid(tissue, factor)


@pytest.mark.parametrize("spacing", [0, -3, np.nan, np.inf, True, "50"])
def test_spacing_that_is_not_positive_is_refused(tissue, spacing):
    with pytest.raises(ValueError, match="spacing_um=.* must be a positive number"):
        fill_grid(tissue, spacing_um=spacing)


def test_both_or_neither_are_refused(tissue):
    for options in ({}, {"factor": 2, "spacing_um": 50}):
        with pytest.raises(ValueError, match="pass one of factor= .* and spacing_um="):
            fill_grid(tissue, **options)


def test_spacing_larger_than_the_pitch_is_refused(tissue):
    with pytest.raises(ValueError, match="spacing_um=120 is larger than the pitch of library 'synthetic', 100 um"):
        fill_grid(tissue, spacing_um=120)


def test_spacing_without_a_scale_is_refused():
    with pytest.raises(ValueError, match="spacing_um=5 needs micrometres per pixel, which are unknown for library"):
        fill_grid(array(6, 8), spacing_um=5)


def test_more_sites_than_memory_holds_are_refused(tissue, monkeypatch, assert_unchanged):
    import psutil

    before = tissue.copy()
    with pytest.raises(ValueError, match="places to look at need .* GiB are free: choose a smaller factor="):
        fill_grid(tissue, 100_000)
    free = psutil.virtual_memory()._replace(available=200_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    with pytest.raises(ValueError, match=r"\d+ sites of 40 genes need, once imputed, .* subset to the genes you want"):
        fill_grid(tissue, 2)
    assert_unchanged(before, tissue)


def test_image_that_is_not_there_is_refused(tissue):
    with pytest.raises(KeyError, match="image_key='lowres' is not in"):
        fill_grid(tissue, 2, image_key="lowres")


def test_without_an_image_a_warning_says_so(tissue, caplog):
    del tissue.uns["spatial"]
    fill_grid(tissue, 2)
    assert "no image: sites are added only between the sites there are" in caplog.text


@pytest.mark.parametrize("key", ["", "a/b", "snrmix_added", 3])
def test_name_that_cannot_be_is_refused(tissue, key):
    with pytest.raises(ValueError, match="key_added=.* must be a name without '/'"):
        fill_grid(tissue, 2, key_added=key)


def test_region_of_labels_is_refused(sdata):
    labels = np.zeros((200, 200), np.int32)
    centres = sdata["synthetic"]
    for i, point in zip(centres.index, centres.geometry, strict=True):
        labels[int(point.y / 8), int(point.x / 8)] = i + 1
    sdata["table"].obs["spot_id"] += 1
    del sdata.shapes["synthetic"]
    transformation = spatialdata.transformations.Scale([8, 8], ("y", "x"))
    sdata.labels["synthetic"] = Labels2DModel.parse(
        labels, dims=("y", "x"), transformations={"synthetic": transformation}
    )
    with pytest.raises(ValueError, match="region 'synthetic' is made of labels.*to_circles"):
        fill_grid(sdata, 2)


def test_pitch_stays_without_array_coordinates(tissue, impute):
    tissue.obs = tissue.obs.drop(columns=["array_row", "array_col"])
    filled = fill_grid(tissue, 2)
    impute(tissue)
    impute(filled, measured="measured")
    np.testing.assert_allclose(*(a.uns["snrmix"]["image"]["pitch"] for a in (filled, tissue)), rtol=1e-9)


def test_a_library_of_added_sites_alone_has_their_spacing(tissue):
    tissue.obs = tissue.obs.drop(columns=["array_row", "array_col"])
    filled = fill_grid(tissue, 2)
    left = filled[added(filled)].copy()
    snrmix.pp.embed_histology(left, encoder="colour")
    spacing = np.median(neighbour_distance(left.obsm["spatial"]))
    np.testing.assert_allclose(left.uns["X_histology"]["patch_side"][0] / spacing, (1.15, 2.3, 4.6), rtol=0.02)


@pytest.mark.parametrize(("kind", "expected"), [(np.float32, np.nan), (np.int32, 0), (sparse.csr_matrix, 0)])
def test_layers_that_are_no_counts_are_missing_at_added_sites(tissue, kind, expected):
    tissue.layers["values"] = kind(np.full(tissue.shape, 0.5))
    tissue.layers["counts"] = np.ones(tissue.shape, np.float32)
    filled = fill_grid(tissue, 2)[tissue.n_obs :]
    values = filled.layers["values"]
    values = values.toarray() if sparse.issparse(values) else values
    np.testing.assert_array_equal(values, np.full(filled.shape, expected))
    assert (filled.layers["counts"] == 0).all()


@pytest.mark.parametrize(
    "form",
    [
        np.float64,
        np.float32,
        bool,
        "Int64",
        "Float64",
        "boolean",
        lambda column: column.astype(str),
        lambda column: column.astype(str).astype("category"),
        lambda column: column.where(np.arange(len(column)) > 3),
    ],
    ids=["float64", "float32", "bool", "Int64", "Float64", "boolean", "text", "category", "missing"],
)
def test_added_sites_are_in_tissue_whatever_the_column_is_made_of(tissue, form):
    tissue.obs["in_tissue"] = form(tissue.obs["in_tissue"]) if callable(form) and not isinstance(form, type) else (
        tissue.obs["in_tissue"].astype(form)
    )  # fmt: skip
    new = fill_grid(tissue, 2)
    column, added = new.obs["in_tissue"], new.obs["snrmix_added"].to_numpy()
    assert column.dtype == tissue.obs["in_tissue"].dtype and added.any()
    assert (pd.to_numeric(column[added].astype(object)) == 1).all()
    pd.testing.assert_series_equal(column[~added], tissue.obs["in_tissue"], check_exact=True)
