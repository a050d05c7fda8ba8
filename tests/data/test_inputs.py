"""The same section in any form gives the same result."""

import warnings

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
import xarray as xr
from anndata import AnnData, concat
from PIL import Image
from scipy import sparse

import snrmix

SCALES = (1.15, 2.3, 4.6)
COLOURS = 22  # statistics per scale, first mean, deviation, 10 % and 90 % quantile of red, green and blue


def embedding(data, *, encoder="colour", scales=(1.15, 2.3, 4.6), **options):
    """The embedding as float, one row per observation, from a copy; the same scales whatever the image holds."""
    table = snrmix.pp.embed_histology(data, encoder=encoder, scales=scales, copy=True, **options)
    return pd.DataFrame(table.obsm["X_histology"].astype(float), index=table.obs_names)


def colour_columns(values) -> np.ndarray:
    """Columns of the statistics of colours, without those of texture that follow, of three scales, shape (3, 12)."""
    return np.arange(values.shape[1]).reshape(3, -1)[:, -COLOURS:][:, :12]


def hires(adata):
    return adata.uns["spatial"]["synthetic"]["images"]["hires"]


@pytest.fixture
def framed(tissue):
    """The section with coordinates in the pixels of its image, and no image of its own; and the image."""
    image = hires(tissue)
    tissue.obsm["spatial"] = tissue.obsm["spatial"] * 0.25
    del tissue.uns["spatial"]
    return tissue, image


@pytest.fixture(scope="module")
def expected(small_tissue, impute):
    """What the section in its plain form gives."""
    return impute(small_tissue, copy=True).layers["snrmix"]


# Expression


def unsorted(matrix):
    """The same CSC matrix with the entries of every column in reverse."""
    entries = np.concatenate(
        [np.arange(b - 1, a - 1, -1) for a, b in zip(matrix.indptr, matrix.indptr[1:], strict=False)]
    )
    return sparse.csc_matrix((matrix.data[entries], matrix.indices[entries], matrix.indptr), matrix.shape)


FORMATS = {
    "csr int32": lambda x: x.astype(np.int32),
    "csr float64": lambda x: x.astype(np.float64),
    "csc float32": lambda x: x.tocsc(),
    "csc unsorted": lambda x: unsorted(x.tocsc()),
    "csr with explicit zeros": lambda x: x + sparse.csr_matrix((0 * x.data, x.indices, x.indptr), x.shape),
    "csr array uint16": lambda x: sparse.csr_array(x.astype(np.uint16)),
    "dense float32": lambda x: x.toarray(),
    "dense float64, by column": lambda x: np.asfortranarray(x.toarray().astype(np.float64)),
    "dense int64": lambda x: x.toarray().astype(np.int64),
    "dask": lambda x: da.from_array(x.toarray(), chunks=(50, 20)),
}


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS.keys())
def test_matrix_may_have_any_format_and_type(tissue, impute, expected, form):
    tissue.X = form(tissue.X)
    impute(tissue)
    np.testing.assert_array_equal(tissue.layers["snrmix"], expected)


def test_counts_may_be_in_a_layer(tissue, impute, expected):
    tissue.layers["counts"] = tissue.X
    tissue.X = np.full(tissue.shape, -1.5)
    impute(tissue, layer="counts")
    np.testing.assert_array_equal(tissue.layers["snrmix"], expected)
    assert tissue.uns["snrmix"]["parameters"]["layer"] == "counts"


def test_log_normalised_values_give_what_counts_give(tissue, impute):
    counts = tissue.X.toarray()
    values = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    genes = list(tissue.var_names[:20])
    from_counts = impute(tissue, genes=genes, at_depth="spot", copy=True)
    tissue.X, tissue.obs["total_counts"] = values, counts.sum(1)
    impute(tissue, genes=genes, at_depth="spot")
    got = tissue.layers["snrmix"][:, :20]
    np.testing.assert_allclose(got, from_counts.layers["snrmix"][:, :20], atol=2e-4)
    assert from_counts.uns["snrmix"]["units"] == "log1p(counts per 10,000)"
    assert tissue.uns["snrmix"]["units"] == "as given (log)"
    assert np.ptp(got, axis=0).min() > 0.01


def test_other_logarithms_are_used_as_they_are(tissue, impute):
    counts = tissue.X.toarray()
    tissue.X = np.log2(1 + 1e4 * counts / counts.sum(1, keepdims=True))
    impute(tissue, fill="unmeasured")
    modelled = tissue.var["snrmix_modelled"].to_numpy()
    np.testing.assert_allclose(tissue.layers["snrmix"][:, modelled], tissue.X[:, modelled], rtol=1e-6)
    assert tissue.uns["snrmix"]["units"] == "as given (log)"


def test_large_values_are_log_where_scanpy_says_so(tissue, impute):
    tissue.X = np.log1p(tissue.X.toarray() * 1.5)
    tissue.X *= 21 / tissue.X.max()
    tissue.uns["log1p"] = {"base": None}
    impute(tissue)
    assert tissue.uns["snrmix"]["units"] == "as given (log)"


def test_total_is_taken_over_all_genes(tissue, impute):
    genes = list(tissue.var_names[:12])
    alone = impute(tissue[:, genes].copy(), genes=None, fill="unmeasured", copy=True)
    within = impute(tissue, genes=genes, fill="unmeasured", copy=True)
    counts = tissue.X.toarray()
    per_10_000 = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))[:, :12]
    np.testing.assert_allclose(within.layers["snrmix"][:, :12], per_10_000, rtol=1e-5)
    assert np.abs(alone.layers["snrmix"] - per_10_000).max() > 0.1


def test_view_gives_what_its_copy_gives(tissue, impute, assert_unchanged):
    before = tissue.copy()
    rows, genes = np.arange(tissue.n_obs) % 4 > 0, np.arange(tissue.n_vars)[::-1]
    view, actual = tissue[rows][:, genes], tissue[rows][:, genes].copy()
    assert view.is_view
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata says that writing makes it a copy
        impute(view)
    impute(actual)
    np.testing.assert_array_equal(view.layers["snrmix"], actual.layers["snrmix"])
    assert_unchanged(before, tissue)


# Images: given in the pixels of the coordinates

ARRAYS = {
    "dask": lambda i: da.from_array(i, chunks=(64, 50, 3)),
    "dask, a chunk per channel": lambda i: da.from_array(i, chunks=(64, 50, 1)),
    "DataArray c, y, x": lambda i: xr.DataArray(i.transpose(2, 0, 1), dims=("c", "y", "x")),
    "DataArray y, x, c": lambda i: xr.DataArray(i, dims=("y", "x", "c")),
    "DataArray x, c, y of dask": lambda i: xr.DataArray(da.from_array(i.transpose(1, 2, 0)), dims=("x", "c", "y")),
    "with opacity": lambda i: np.dstack([i, np.full(i.shape[:2], 255, np.uint8)]),
    "dask with opacity": lambda i: da.from_array(np.dstack([i, np.full(i.shape[:2], 255, np.uint8)])),
    "uint16, full range": lambda i: i.astype(np.uint16) * 257,
    "uint16, shifted": lambda i: i.astype(np.uint16) << 8,
    "uint16, 8 bits used": lambda i: i.astype(np.uint16),
    "dask uint16": lambda i: da.from_array(i.astype(np.uint16) * 257, chunks=(64, 50, 3)),
    "int64": lambda i: i.astype(np.int64),
    "float32 to 1": lambda i: (i / 255).astype(np.float32),
    "float64 to 255": lambda i: i.astype(np.float64),
    "dask float32 to 1": lambda i: da.from_array((i / 255).astype(np.float32), chunks=(64, 50, 3)),
    "dict by library": lambda i: {"synthetic": i, "another": i[:10]},
}


@pytest.mark.parametrize("form", ARRAYS.values(), ids=ARRAYS.keys())
def test_image_as_array(framed, form):
    adata, image = framed
    pd.testing.assert_frame_equal(embedding(adata, image=form(image)), embedding(adata, image=image))


GREY = {
    "y, x": lambda i: i,
    "y, x, 1": lambda i: i[..., None],
    "dask": lambda i: da.from_array(i, chunks=50),
    "DataArray": lambda i: xr.DataArray(i, dims=("y", "x")),
}


@pytest.mark.parametrize("form", GREY.values(), ids=GREY.keys())
def test_grey_image_counts_as_three_equal_channels(framed, form):
    adata, image = framed
    grey = image[..., 1]
    pd.testing.assert_frame_equal(embedding(adata, image=form(grey)), embedding(adata, image=np.dstack([grey] * 3)))


def test_missing_pixels_count_as_glass(framed):
    adata, image = framed
    white, missing = image.copy(), image.astype(float)
    white[:60], missing[:60] = 255, np.nan
    pd.testing.assert_frame_equal(embedding(adata, image=missing), embedding(adata, image=white))


def test_dark_image_is_named(framed, caplog):
    adata, image = framed
    embedding(adata, image=image.astype(np.uint16) // 6)
    assert "image is dark: its brightest pixel has" in caplog.text and "of 255" in caplog.text


def test_data_array_with_other_dimensions_is_refused(framed):
    adata, image = framed
    with pytest.raises(ValueError, match=r"dimensions \['z', 'y', 'x', 'c'\]; they must be 'y' and 'x'"):
        embedding(adata, image=xr.DataArray(np.stack([image] * 2), dims=("z", "y", "x", "c")))


def write_pyramid(path, image, **options):
    """A tiled TIFF with its reduced levels in sub-directories, as slide scanners and bioformats write it."""
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        tiles = {"tile": (64, 64), "photometric": "rgb", **options}
        file.write(image, subifds=2, **tiles)
        for factor in (2, 4):
            size = image.shape[1] // factor, image.shape[0] // factor
            reduced = Image.fromarray(image).resize(size, Image.Resampling.BOX)
            file.write(np.asarray(reduced), subfiletype=1, **tiles)


def write_planar(path, image):
    tifffile.imwrite(
        path, image.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", metadata={"axes": "CYX"}
    )


FILES = {
    "section.png": lambda path, image: Image.fromarray(image).save(path),
    "palette.PNG": lambda path, image: Image.fromarray(image).convert("RGBA").save(path),
    "plain.tif": lambda path, image: tifffile.imwrite(path, image, photometric="rgb"),
    "16bit.tiff": lambda path, image: tifffile.imwrite(path, image.astype(np.uint16) * 257, photometric="rgb"),
    "tiled.tif": lambda path, image: tifffile.imwrite(path, image, tile=(64, 64), compression="zlib"),
    "planes.ome.tif": write_planar,
}


@pytest.mark.parametrize(("name", "write"), FILES.items(), ids=FILES.keys())
@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["str", "Path"])
def test_image_as_file(framed, tmp_path, name, write, kind):
    adata, image = framed
    write(tmp_path / name, image)
    pd.testing.assert_frame_equal(embedding(adata, image=kind(tmp_path / name)), embedding(adata, image=image))


def test_jpeg_is_the_image_but_for_its_compression(framed, tmp_path):
    adata, image = framed
    Image.fromarray(image).save(tmp_path / "section.jpg", quality=95)
    difference = embedding(adata, image=tmp_path / "section.jpg") - embedding(adata, image=image)
    assert 0 < difference.abs().to_numpy().max() < 0.1 and difference.abs().to_numpy().mean() < 0.01


def test_grey_png_of_16_bits_is_not_clipped(framed, tmp_path):
    adata, image = framed
    grey = image[..., 1]
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "grey.png")
    pd.testing.assert_frame_equal(embedding(adata, image=tmp_path / "grey.png"), embedding(adata, image=grey))


@pytest.mark.parametrize("name", ["pyramid.tif", "pyramid.btf", "pyramid.ome.tif"])
def test_pyramid_is_read_at_the_level_that_suffices(tmp_path, name):
    adata = snrmix.datasets.synthetic_tissue(12, 40, image_px_per_pitch=64)
    image = hires(adata)
    adata.obsm["spatial"] = adata.obsm["spatial"] * 0.25
    del adata.uns["spatial"]
    write_pyramid(tmp_path / name, image)
    from_pyramid = embedding(adata, image=tmp_path / name, scales=(1.5, 5))
    assert [level.pixels.shape[0] for level in snrmix.images.open_image(tmp_path / name).levels] == [
        image.shape[0] // factor for factor in (1, 2, 4)
    ]
    plain = embedding(adata, image=image, scales=(1.5, 5))
    # 1.5 pitches are 96 px and need the finest level; 5 pitches are 320 px, and a quarter of them is enough for 64.
    pd.testing.assert_frame_equal(from_pyramid.iloc[:, :COLOURS], plain.iloc[:, :COLOURS])
    difference = (from_pyramid - plain).abs().to_numpy()[:, COLOURS:]
    assert 0 < difference.max() < 0.03
    for level in (1, 2):
        reduced = tifffile.imread(tmp_path / name, level=level)
        assert reduced.shape[0] == image.shape[0] // 2**level


# The frame: which pixels belong to which spot


def test_full_resolution_and_hires_show_the_same():
    adata = snrmix.datasets.synthetic_tissue(12, 40, image_px_per_pitch=96)
    full = hires(adata)
    size = full.shape[1] // 4, full.shape[0] // 4
    reduced = np.asarray(Image.fromarray(full[: size[1] * 4, : size[0] * 4]).resize(size, Image.Resampling.BOX))
    in_hires = embedding(adata)
    adata.uns["spatial"]["synthetic"]["images"]["hires"] = reduced
    adata.uns["spatial"]["synthetic"]["scalefactors"]["tissue_hires_scalef"] /= 4
    in_reduced = embedding(adata)
    adata.obsm["spatial"] = adata.obsm["spatial"] * 0.25
    in_full = embedding(adata, image=full)
    np.testing.assert_allclose(in_full, in_hires, atol=1e-3)
    means = colour_columns(in_full)[:, :3].ravel()
    assert np.abs(in_reduced - in_full)[means].to_numpy().max() < 0.01
    colours = colour_columns(in_full).ravel()
    assert in_reduced[colours].corrwith(in_full[colours]).min() > 0.9


def pixels(size: int) -> snrmix.Encoder:
    """An encoder that returns the patch itself."""
    return snrmix.Encoder("pixels", lambda patches: patches.flatten(1), size)


def crops_of(adata, size: int, scales, **options) -> np.ndarray:
    """What the encoder saw, uint8, shape (n, scales, size, size, 3)."""
    values = embedding(adata, encoder=pixels(size), scales=scales, **options).to_numpy()
    values = values.reshape(len(values), len(scales), -1)[:, :, :-COLOURS]
    return np.rint(values * 255).astype(np.uint8).reshape(*values.shape[:2], 3, size, size).transpose(0, 1, 3, 4, 2)


def reference_crop(image, x, y, side, size):
    """Pad far, cut generously, resize what lies between two decimals: slow and obvious."""
    margin = int(side) + 2
    padded = Image.fromarray(np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="edge"))
    box = (x - side / 2 + margin, y - side / 2 + margin, x + side / 2 + margin, y + side / 2 + margin)
    return np.asarray(padded.resize((size, size), Image.Resampling.BICUBIC, box=box))


@pytest.mark.parametrize("lazy", [False, True], ids=["in memory", "lazy"])
def test_crops_are_those_of_a_slow_reference(framed, lazy, monkeypatch):
    monkeypatch.setattr("snrmix.images.source.IN_MEMORY_BYTES", 0)
    adata, image = framed
    height, width = image.shape[:2]
    adata.obsm["spatial"][:4] = [[0, 0], [width, height], [width, 0.5], [3.25, height - 1]]
    given = da.from_array(image, chunks=(70, 70, 3)) if lazy else image
    pitch, scales = 16.0, (1.15, 4.6)
    got = crops_of(adata, 16, scales, image=given)
    for i, (x, y) in enumerate(adata.obsm["spatial"]):
        for j, scale in enumerate(scales):
            expected = reference_crop(image, x, y, scale * pitch, 16)
            difference = np.abs(got[i, j].astype(int) - expected)
            assert difference.max() <= 12 and difference.mean() < 1, (i, scale)


def test_crop_beyond_the_border_repeats_it(framed):
    adata, image = framed
    image = image.copy()
    image[:, :4] = [200, 30, 60]
    adata.obsm["spatial"][0] = [0, 100]
    left = crops_of(adata, 32, (2.0,), image=image)[0, 0][:, :16]
    assert np.abs(left.astype(int) - [200, 30, 60]).max() <= 1


def test_colour_statistics_are_those_of_numpy(framed):
    adata, image = framed
    values = embedding(adata, encoder=pixels(16), image=image, scales=(2.0,)).to_numpy()
    patches = values[:, :-COLOURS].reshape(len(values), 3, -1)
    ordered = np.sort(patches, axis=2)
    expected = [patches.mean(2), patches.std(2), ordered[:, :, round(0.1 * 255)], ordered[:, :, round(0.9 * 255)]]
    np.testing.assert_allclose(values[:, -COLOURS:][:, :12], np.concatenate(expected, axis=1), atol=5e-4)


def test_patches_follow_the_scales(framed):
    adata, image = framed
    both = embedding(adata, image=image, scales=(1.15, 4.6))
    one = embedding(adata, image=image, scales=4.6)
    width = one.shape[1]
    np.testing.assert_array_equal(both.iloc[:, width:], one)
    assert np.abs(both.iloc[:, :width].to_numpy() - one.to_numpy()).max() > 0.1


# Arrays and libraries


def test_array_indices_are_not_needed(tissue, impute, caplog):
    tissue.obs = tissue.obs.drop(columns=["array_row", "array_col"])
    impute(tissue)
    assert "micrometres per pixel unknown for 'synthetic'" in caplog.text and "um_per_px=" in caplog.text
    image = tissue.uns["snrmix"]["image"]
    assert not image["scale_known"] and np.isnan(image["um_per_px"]).all()
    np.testing.assert_allclose(image["pitch"], 64)
    np.testing.assert_allclose(image["patch_side"], [[64 * scale for scale in SCALES]])


def test_visium_is_recognised(tissue, impute, caplog):
    impute(tissue)
    image = tissue.uns["snrmix"]["image"]
    assert image["scale_known"] and "micrometres per pixel unknown" not in caplog.text
    np.testing.assert_allclose(image["um_per_px"], 100 / 64)


@pytest.mark.parametrize("array", ["all", "sparse", "spare"], ids=["all spots", "every third spot", "two clusters"])
def test_pitch_is_that_of_the_array_whatever_is_left_of_it(tissue, array):
    row, column = tissue.obs["array_row"].to_numpy(), tissue.obs["array_col"].to_numpy()
    kept = {"all": row >= 0, "sparse": (row % 3 == 0) & (column % 3 == 0), "spare": (row < 3) | (row > 8)}[array]
    record = snrmix.pp.embed_histology(tissue[kept].copy(), encoder="colour", copy=True).uns["X_histology"]
    np.testing.assert_allclose(record["patch_side"], [[64 * scale for scale in SCALES]])


def test_indices_of_the_array_may_be_categories(tissue):
    expected = embedding(tissue)
    for column in ("array_row", "array_col"):
        tissue.obs[column] = tissue.obs[column].astype(str).astype("category")
    record = snrmix.pp.embed_histology(tissue, encoder="colour", copy=True).uns["X_histology"]
    np.testing.assert_allclose(record["patch_side"], [[64 * scale for scale in SCALES]])
    pd.testing.assert_frame_equal(embedding(tissue), expected)


def test_um_per_px_of_the_user_comes_first(tissue, impute):
    impute(tissue, um_per_px=0.5)
    image = tissue.uns["snrmix"]["image"]
    np.testing.assert_allclose(image["um_per_px"], 0.5)
    np.testing.assert_allclose(image["patch_side"], np.array([SCALES]) * 50 / 0.5)  # a pitch of 32 um: 50 um at least


def test_um_per_px_of_space_ranger_is_used(tissue, impute):
    tissue.obs = tissue.obs.drop(columns=["array_row", "array_col"])
    tissue.uns["spatial"]["synthetic"]["scalefactors"]["microns_per_pixel"] = 1.6
    impute(tissue)
    np.testing.assert_allclose(tissue.uns["snrmix"]["image"]["um_per_px"], 1.6)


@pytest.fixture
def two_libraries():
    """Two sections whose images differ in size, resolution and scale factor; row order mixes them."""
    sections = {
        name: snrmix.datasets.synthetic_tissue(n_rows, 40, image_px_per_pitch=px, random_state=seed)
        for name, n_rows, px, seed in (("left", 12, 16, 0), ("right", 10, 24, 1))
    }
    for name, section in sections.items():
        section.obs["library_id"] = pd.Categorical([name] * section.n_obs)
        section.uns["spatial"][name] = section.uns["spatial"].pop("synthetic")
        section.obs_names = f"{name}_" + section.obs_names
        section.var_names = [f"gene_{i}" for i in range(40)]
    both = concat(sections, uns_merge="unique", merge="same")
    both = both[np.random.default_rng(0).permutation(both.n_obs)].copy()
    assert set(both.uns["spatial"]) == {"left", "right"}
    return both, sections


def test_every_library_has_its_own_image_and_scale(two_libraries, impute):
    both, sections = two_libraries
    impute(both)
    assert np.isfinite(both.layers["snrmix"][:, both.var["snrmix_modelled"]]).all()
    for name, section in sections.items():
        alone = embedding(section)
        together = pd.DataFrame(both.obsm["X_histology"].astype(float), index=both.obs_names).loc[section.obs_names]
        pd.testing.assert_frame_equal(together, alone)
        code = list(both.uns["snrmix"]["image"]["libraries"]).index(name)
        pitch = section.uns["spatial"][name]["scalefactors"]["spot_diameter_fullres"] / 0.65
        np.testing.assert_allclose(both.uns["snrmix"]["image"]["pitch"][code], pitch)


def test_images_of_two_libraries_as_dict(two_libraries):
    both, sections = two_libraries
    stored = embedding(both)
    images = {}
    for name, section in sections.items():
        entry = section.uns["spatial"][name]
        images[name] = entry["images"]["hires"]
        both.obsm["spatial"][both.obs["library_id"] == name] *= 0.25
    del both.uns["spatial"]
    pd.testing.assert_frame_equal(embedding(both, image=images), stored)
    swapped = {"left": images["right"], "right": images["left"]}
    try:
        assert not embedding(both, image=swapped).equals(stored)
    except ValueError as error:
        assert "outside the image of library" in str(error)


def test_libraries_may_be_numbers(framed):
    adata, image = framed
    adata.obs["slide"] = np.where(adata.obs["array_row"] < 6, 1, 2)
    pd.testing.assert_frame_equal(
        embedding(adata, image={1: image, 2: image}, library_key="slide"), embedding(adata, image=image)
    )


def test_library_key_chooses_the_column(two_libraries):
    both, _ = two_libraries
    stored = embedding(both)
    both.obs = both.obs.rename(columns={"library_id": "slide"})
    pd.testing.assert_frame_equal(embedding(both, library_key="slide"), stored)


def test_single_library_of_another_name_is_found(tissue):
    expected = embedding(tissue)
    tissue.uns["spatial"]["V1_Sample"] = tissue.uns["spatial"].pop("synthetic")
    pd.testing.assert_frame_equal(embedding(tissue), expected)


def test_finest_image_is_chosen_unless_another_is_asked_for(tissue):
    expected = embedding(tissue)
    entry = tissue.uns["spatial"]["synthetic"]
    entry["images"] = {"lowres": entry["images"]["hires"][::2, ::2], **entry["images"]}
    entry["scalefactors"]["tissue_lowres_scalef"] = 0.125
    pd.testing.assert_frame_equal(embedding(tissue), expected)
    assert not embedding(tissue, image_key="lowres").equals(expected)


# SpatialData


def test_spatialdata_gives_what_anndata_gives(small_tissue, sdata, impute, expected):
    table = impute(sdata, copy=True)
    got = pd.DataFrame(table.layers["snrmix"], table.obs_names, table.var_names)
    pd.testing.assert_frame_equal(
        got.loc[small_tissue.obs_names], pd.DataFrame(expected, small_tissue.obs_names, small_tissue.var_names)
    )
    np.testing.assert_allclose(table.uns["snrmix"]["image"]["um_per_px"], 100 / 64)


@pytest.mark.parametrize("rows", ["permuted", "filtered"])
def test_rows_of_the_table_may_be_permuted_or_filtered(sdata, rows):
    expected = embedding(sdata)
    n = sdata["table"].n_obs
    chosen = np.random.default_rng(3).permutation(n)[: n if rows == "permuted" else n // 2]
    sdata.tables["table"] = sdata["table"][chosen].copy()
    got = embedding(sdata)
    assert list(got.index) == list(sdata["table"].obs_names)
    pd.testing.assert_frame_equal(got, expected.loc[got.index])


def test_spots_may_be_squares_with_names(sdata):
    from geopandas import GeoDataFrame
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import get_transformation

    expected = embedding(sdata)
    circles = sdata.shapes.pop("synthetic")
    squares = GeoDataFrame(geometry=circles.buffer(20, cap_style="square"))
    squares.index = "spot " + circles.index.astype(str)
    transformations = get_transformation(circles, get_all=True)
    sdata.shapes["synthetic"] = ShapesModel.parse(squares, transformations=transformations)
    sdata["table"].obs["spot_id"] = "spot " + sdata["table"].obs["spot_id"].astype(str)
    pd.testing.assert_frame_equal(embedding(sdata), expected)


def test_spots_may_be_labels(sdata):
    from spatialdata.models import Labels2DModel, TableModel
    from spatialdata.transformations import Identity

    expected = embedding(sdata)
    table = sdata.tables.pop("table")
    labels = np.zeros((800, 928), int)
    for label, (x, y) in enumerate(table.obsm["spatial"].astype(int), start=1):
        labels[y - 3 : y + 3, x - 3 : x + 3] = label
    sdata.labels["cells"] = Labels2DModel.parse(labels, dims=("y", "x"), transformations={"synthetic": Identity()})
    table.obs["spot_id"], table.obs["region"] = np.arange(1, table.n_obs + 1), pd.Categorical(["cells"] * table.n_obs)
    del table.uns["spatialdata_attrs"]
    sdata.tables["table"] = TableModel.parse(table, region="cells", region_key="region", instance_key="spot_id")
    assert (embedding(sdata) - expected).abs().to_numpy().max() < 0.05


def test_coordinates_come_from_the_shapes_not_from_the_table(sdata):
    expected = embedding(sdata)
    sdata["table"].obsm["spatial"] = np.zeros((sdata["table"].n_obs, 2))
    pd.testing.assert_frame_equal(embedding(sdata), expected)


def replace_image(sdata, pixels, to_system, system="synthetic"):
    """Another image (y, x, c); ``to_system`` maps its pixels (x, y, 1) to the coordinate system, shape (2, 3)."""
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Affine

    affine = Affine(np.vstack([to_system, [0, 0, 1]]), input_axes=("x", "y"), output_axes=("x", "y"))
    sdata.images["synthetic_hires_image"] = Image2DModel.parse(
        np.ascontiguousarray(pixels.transpose(2, 0, 1)), dims=("c", "y", "x"), transformations={system: affine}
    )


def finest(sdata):
    return np.asarray(sdata["synthetic_hires_image"]["scale0"]["image"].transpose("y", "x", "c"))


@pytest.fixture
def only_image(sdata):
    """The pixels of the finest level, and the embedding with that level alone."""
    image = finest(sdata)
    replace_image(sdata, image, [[4, 0, 0], [0, 4, 0]])
    return sdata, image, embedding(sdata)


def test_any_level_of_the_pyramid_shows_the_same():
    big = snrmix.datasets.synthetic_spatialdata(12, 40, image_px_per_pitch=64)
    pyramid = embedding(big)
    colours = colour_columns(pyramid)
    means, colours = colours[:, :3].ravel(), colours.ravel()
    levels = [np.asarray(big["synthetic_hires_image"][f"scale{k}"]["image"].transpose("y", "x", "c")) for k in range(3)]
    height, width = levels[0].shape[:2]
    for level in levels:
        to_system = [[4 * width / level.shape[1], 0, 0], [0, 4 * height / level.shape[0], 0]]
        replace_image(big, level, to_system)
        alone = embedding(big)
        assert np.abs(alone - pyramid)[means].to_numpy().max() < 0.02
        assert alone[colours].corrwith(pyramid[colours]).min() > 0.85


WIDTH, HEIGHT = 232, 200
TURNS = {
    "by 90 degrees": (lambda i: np.rot90(i), [[0, -4, 4 * WIDTH], [4, 0, 0]]),
    "by 180 degrees": (lambda i: np.rot90(i, 2), [[-4, 0, 4 * WIDTH], [0, -4, 4 * HEIGHT]]),
    "by 270 degrees": (lambda i: np.rot90(i, 3), [[0, 4, 0], [-4, 0, 4 * HEIGHT]]),
    "left to right": (lambda i: i[:, ::-1], [[-4, 0, 4 * WIDTH], [0, 4, 0]]),
    "transposed": (lambda i: i.transpose(1, 0, 2), [[0, 4, 0], [4, 0, 0]]),
    "wider pixels": (lambda i: i.repeat(2, axis=0), [[4, 0, 0], [0, 2, 0]]),
    "moved": (lambda i: np.pad(i, ((7, 0), (11, 0), (0, 0)), mode="edge"), [[4, 0, -44], [0, 4, -28]]),
}


@pytest.mark.parametrize(("turn", "to_system"), TURNS.values(), ids=TURNS.keys())
def test_transformation_of_the_image_is_honoured(only_image, turn, to_system):
    sdata, image, expected = only_image
    assert image.shape == (HEIGHT, WIDTH, 3)
    replace_image(sdata, turn(image), to_system)
    difference = (embedding(sdata) - expected).abs().to_numpy()
    assert difference.max() < 0.03


def test_ignoring_the_transformation_would_show(only_image):
    sdata, image, expected = only_image
    replace_image(sdata, image[:, ::-1], [[4, 0, 0], [0, 4, 0]])
    assert (embedding(sdata) - expected).abs().to_numpy().max() > 0.2


def test_rotation_by_any_angle_is_honoured(only_image):
    sdata, image, expected = only_image
    from scipy import ndimage

    angle = np.deg2rad(25)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])  # pixels of the turned image to
    shift = np.array([WIDTH, HEIGHT]) / 2 - turn @ np.array([180.0, 180.0])  # those of the image, (x, y) at pixel edges
    centre = turn @ [0.5, 0.5] + shift - 0.5  # scipy counts from pixel centres, and (y, x)
    turned = [
        ndimage.affine_transform(channel, turn[::-1, ::-1], centre[::-1], (360, 360), order=1, mode="nearest")
        for channel in image.transpose(2, 0, 1)
    ]
    replace_image(sdata, np.stack(turned, axis=2), np.column_stack([4 * turn, 4 * shift]))
    got = embedding(sdata)
    means = colour_columns(expected)[:, :3].ravel()
    assert got[means].corrwith(expected[means]).min() > 0.97


def test_slight_shear_of_a_registration_is_accepted(only_image):
    sdata, image, expected = only_image
    replace_image(sdata, image, [[4, 0.05, 0], [0, 4, 0]])
    assert embedding(sdata).corrwith(expected).min() > 0.9


def test_image_with_most_pixels_is_chosen_and_unsuitable_ones_are_passed_over(sdata, caplog):
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Affine, Scale

    expected = embedding(sdata)
    shear = Affine([[1, 1, 0], [0, 1, 0], [0, 0, 1]], input_axes=("x", "y"), output_axes=("x", "y"))
    for name, channels, step, transformation in (
        ("a_lowres", 3, 2, Scale([8, 8], axes=("x", "y"))),
        ("b_proteins", 7, 1, Scale([0.5, 0.5], axes=("x", "y"))),
        ("c_sheared", 3, 1, shear),
    ):
        values = np.resize(finest(sdata).transpose(2, 0, 1)[:, ::step, ::step], (channels, 200 // step, 232 // step))
        sdata.images[name] = Image2DModel.parse(values, transformations={"synthetic": transformation})
    pd.testing.assert_frame_equal(embedding(sdata), expected)
    assert "image 'synthetic_hires_image' in coordinate system 'synthetic'" in caplog.text
    assert not embedding(sdata, image_key="a_lowres").equals(expected)
    with pytest.raises(ValueError, match="'b_proteins' has .*'c': 7"):
        embedding(sdata, image_key="b_proteins")


def test_features_need_no_fitting_image_in_spatialdata(sdata, impute):
    from spatialdata.transformations import Identity, set_transformation

    features = embedding(sdata)
    set_transformation(sdata["synthetic_hires_image"], {"elsewhere": Identity()}, set_all=True)
    sdata["table"].obsm["X_uni"] = features.to_numpy()
    impute(sdata, use_rep="X_uni")
    assert np.isfinite(sdata["table"].layers["snrmix"][:, sdata["table"].var["snrmix_modelled"]]).all()


@pytest.fixture
def two_regions(sdata):
    """A SpatialData of two regions, each with an image, and the two that it was put together from."""
    from spatialdata import concatenate
    from spatialdata.models import TableModel

    other = snrmix.datasets.synthetic_spatialdata(10, 40, image_px_per_pitch=24, random_state=1)
    whole = snrmix.datasets.synthetic_spatialdata(10, 40, image_px_per_pitch=24, random_state=1)
    table = other.tables.pop("table")
    table.obs["region"] = pd.Categorical(["other"] * table.n_obs)
    table.uns["spatialdata_attrs"]["region"] = "other"
    table.var_names = sdata["table"].var_names
    other.shapes["other"] = other.shapes.pop("synthetic")
    other.images["other_hires_image"] = other.images.pop("synthetic_hires_image")
    from spatialdata.transformations import get_transformation, set_transformation

    for element in (other["other"], other["other_hires_image"]):
        system = get_transformation(element, get_all=True)["synthetic"]
        set_transformation(element, {"other": system}, set_all=True)
    other.tables["table"] = TableModel.parse(table)
    return concatenate([sdata, other], concatenate_tables=True), sdata, whole


def test_two_regions_have_their_own_images(two_regions):
    both, first, second = two_regions
    got, expected, expected_other = embedding(both), embedding(first), embedding(second)
    pd.testing.assert_frame_equal(got.loc[expected.index], expected)
    pd.testing.assert_frame_equal(got.loc[expected_other.index], expected_other)


def test_image_may_be_given_for_spatialdata(sdata):
    expected = embedding(sdata)
    full = finest(sdata).repeat(4, axis=0).repeat(4, axis=1)
    assert (embedding(sdata, image=full) - expected)[[0, 1, 2]].abs().to_numpy().max() < 0.05


def test_an_image_for_one_of_two_regions_leaves_the_other_its_own(two_regions):
    both, *_ = two_regions
    expected = embedding(both)
    changed = 255 - np.asarray(both["other_hires_image"]["scale0"]["image"].transpose("y", "x", "c"))
    got = embedding(both, image={"other": changed.repeat(4, axis=0).repeat(4, axis=1)})
    is_other = (both["table"].obs["region"] == "other").to_numpy()
    pd.testing.assert_frame_equal(got[~is_other], expected[~is_other])
    assert (got - expected)[is_other].abs().to_numpy().max() > 0.1


def test_an_image_for_no_region_is_refused_in_the_words_of_a_spatialdata(two_regions):
    both, *_ = two_regions
    with pytest.raises(
        KeyError, match="no entry for library 'other', 'synthetic'; it has 'othr', and the SpatialData has"
    ):
        embedding(both, image={"othr": np.zeros((9, 9, 3), np.uint8)})
    for name in list(both.images):
        del both.images[name]
    with pytest.raises(
        KeyError, match="no entry for library 'synthetic'; it has 'other', and the SpatialData has images of none"
    ):
        embedding(both, image={"other": np.zeros((9, 9, 3), np.uint8)})


# Encoders and features


class Tiny(torch.nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 5, stride=4), torch.nn.Dropout(), torch.nn.BatchNorm2d(8)
        )

    def forward(self, patches):
        return self.layers(patches).mean((2, 3))


def test_encoder_may_be_a_module_which_is_left_as_it_was(tissue, impute):
    with torch.random.fork_rng():
        encoder = Tiny()
    weights = {name: value.clone() for name, value in encoder.state_dict().items()}
    assert encoder.training
    impute(tissue, encoder=encoder)
    assert tissue.obsm["X_histology"].shape == (tissue.n_obs, 3 * (8 + COLOURS))
    assert tissue.uns["snrmix"]["parameters"]["encoder"] == "Tiny"
    assert all(module.training for module in encoder.modules())
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, weights[name])
    with torch.inference_mode():
        patches = torch.from_numpy(crops_of(tissue, 128, SCALES[:1])[:, 0]).permute(0, 3, 1, 2) / 255
        expected = encoder.eval()(patches)
    np.testing.assert_allclose(tissue.obsm["X_histology"][:, :8], expected, atol=2e-3)


FUNCTIONS = {
    "tensor": lambda patches: patches.mean((2, 3)),
    "numpy": lambda patches: patches.mean((2, 3)).numpy(),
    "numpy float64": lambda patches: patches.numpy().astype(float).mean((2, 3)),
    "half precision": lambda patches: patches.mean((2, 3)).to(torch.float16),
    "bfloat16": lambda patches: patches.mean((2, 3)).to(torch.bfloat16),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_encoder_may_be_a_function(tissue, function):
    values = embedding(tissue, encoder=function).to_numpy().reshape(tissue.n_obs, 3, 3 + COLOURS)
    np.testing.assert_allclose(values[:, :, :3], values[:, :, 3:6], atol=3e-3)


def test_large_features_keep_their_value(tissue):
    values = embedding(tissue, encoder=lambda patches: patches.mean((2, 3)) * 1e6).to_numpy()
    values = values.reshape(tissue.n_obs, 3, 3 + COLOURS)
    np.testing.assert_allclose(values[:, :, :3] / 1e6, values[:, :, 3:6], atol=2e-4)


def test_features_may_be_given(tissue, impute):
    features = embedding(tissue).to_numpy()
    results = []
    for form in (
        np.asarray,
        np.float32,
        sparse.csr_matrix,
        lambda x: pd.DataFrame(x, index=tissue.obs_names).add_prefix("f"),
    ):
        adata = tissue.copy()
        del adata.uns["spatial"]
        adata.obsm["X_uni"] = form(features)
        impute(adata, use_rep="X_uni")
        assert "X_histology" not in adata.obsm
        results.append(adata.layers["snrmix"])
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


@pytest.mark.parametrize("constant", [0.0, 3.5, 1000.1], ids=["zero", "small", "far from zero"])
def test_feature_that_varies_only_at_unmeasured_spots_changes_nothing(tissue, impute, constant):
    """Unguarded, its z-scores there would be without bounds."""
    measured = np.arange(tissue.n_obs) % 2 == 0
    features = embedding(tissue).to_numpy()
    dead = np.full(tissue.n_obs, constant)
    wild = np.where(measured, dead, np.random.default_rng(0).normal(0, 1e6, tissue.n_obs))
    results = []
    for channel in (dead, wild):
        tissue.obsm["X_uni"] = np.column_stack([features, channel])
        results.append(impute(tissue, use_rep="X_uni", measured=measured, copy=True).layers["snrmix"])
    np.testing.assert_array_equal(*results)
    modelled = np.isfinite(results[0]).any(0)
    assert np.isfinite(results[0][:, modelled]).all()


def test_nearly_constant_feature_keeps_predictions_in_range(tissue, impute):
    measured = np.arange(tissue.n_obs) % 2 == 0
    rng = np.random.default_rng(0)
    channel = np.where(measured, 1 + rng.normal(0, 1e-5, tissue.n_obs), rng.normal(0, 1e6, tissue.n_obs))
    tissue.obsm["X_uni"] = np.column_stack([embedding(tissue), channel])
    impute(tissue, use_rep="X_uni", measured=measured, max_epochs=10)
    modelled = tissue.var["snrmix_modelled"].to_numpy() & np.isfinite(tissue.layers["snrmix"]).all(0)
    values = tissue.layers["snrmix"][:, modelled]
    assert np.isfinite(values).all()
    assert values[~measured].max() < values[measured].max() + 1 and values[~measured].min() > -1


def test_anndata_read_from_a_file(tissue, impute, expected, tmp_path):
    import anndata

    tissue.obs["in_tissue"] = tissue.obs["in_tissue"].astype(str).astype("category")
    tissue.write_h5ad(tmp_path / "section.h5ad")
    back = anndata.read_h5ad(tmp_path / "section.h5ad")
    assert isinstance(back, AnnData)
    impute(back)
    np.testing.assert_array_equal(back.layers["snrmix"], expected)
