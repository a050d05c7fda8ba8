"""A section in every format its makers use gives what it gives as plain AnnData."""

import sys
import types

import dask
import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import snrmix
from snrmix.images import open_image

PITCH = 64  # pixels of the image per pitch of 100 um


COARSE = (1.15, 2.3, 4.6)  # whatever an image holds


def colours(data, *, scales=COARSE, **options) -> np.ndarray:
    """Mean red, green and blue around every site by name, 0 to 1, shape (n, scales, 3)."""
    mean = snrmix.Encoder("mean", lambda patches: patches.mean((2, 3)))
    table = snrmix.pp.embed_histology(data, encoder=mean, scales=scales, copy=True, **options)
    table = table[np.argsort(table.obs_names)]
    scales = len(table.uns["X_histology"]["scales"])
    return table.obsm["X_histology"].astype(float).reshape(table.n_obs, scales, -1)[:, :, :3]


@pytest.fixture(scope="module")
def section():
    """A section whose image has 64 px per pitch, in the frame of this image, and its pixels."""
    adata = snrmix.datasets.synthetic_tissue(12, 40, image_px_per_pitch=PITCH)
    adata.obsm["spatial"] *= 0.25
    image = adata.uns.pop("spatial")["synthetic"]["images"]["hires"]
    return adata, image


@pytest.fixture(scope="module")
def expected(section):
    return colours(section[0], image=section[1])


def halves(image: np.ndarray, count: int = 3) -> list[np.ndarray]:
    """A pyramid: each level has half the pixels of the one before."""
    levels = [image]
    while len(levels) < count:
        half = levels[-1][: levels[-1].shape[0] // 2 * 2, : levels[-1].shape[1] // 2 * 2].astype(np.uint16)
        levels.append(
            ((half[::2, ::2] + half[1::2, ::2] + half[::2, 1::2] + half[1::2, 1::2] + 2) // 4).astype(np.uint8)
        )
    return levels


# TIFF


def write_tiff(path, levels, **options):
    """A pyramid as its makers write it: the smaller levels are sub-images of the first."""
    with tifffile.TiffWriter(path, bigtiff=path.suffix == ".btf", ome=path.name.endswith(".ome.tif")) as tiff:
        tiff.write(levels[0], subifds=len(levels) - 1, tile=(64, 64), photometric="rgb", **options)
        for level in levels[1:]:
            tiff.write(level, subfiletype=1, tile=(64, 64), photometric="rgb", **options)


def write_svs(path, levels, **options):
    """Aperio's layout: the full image, a thumbnail, the smaller levels; a description names the scanner."""
    thumbnail = levels[-1][::4, ::4]
    with tifffile.TiffWriter(path) as tiff:
        for picture in (levels[0], thumbnail, *levels[1:]):
            size = f"{picture.shape[1]}x{picture.shape[0]}"
            tiles = {} if picture is thumbnail else {"tile": (64, 64), **options}
            description = f"Aperio Image Library v11.2.1\r\n{size}|AppMag = 20|MPP = 0.5"
            tiff.write(picture, photometric="rgb", description=description, metadata=None, **tiles)


@pytest.mark.parametrize("name", ["section.tif", "section.btf", "section.ome.tif", "section.svs"])
def test_tiff_of_every_kind_is_a_pyramid_that_is_read_piece_by_piece(section, expected, tmp_path, name):
    adata, image = section
    path = tmp_path / name
    (write_svs if name.endswith("svs") else write_tiff)(path, halves(image), compression="zlib")
    assert len(open_image(path).levels) == 3
    np.testing.assert_allclose(colours(adata, image=path), expected, atol=0.01)
    level = open_image(path).levels[0]
    tiles = []
    with dask.config.set(scheduler="synchronous"), Counted(tiles):
        np.testing.assert_array_equal(level.pixels[70:120, 70:120], image[70:120, 70:120])
    assert len(tiles) == 1  # of 168 on this level


class Counted(dask.callbacks.Callback):
    """Count the pieces of an image that are read."""

    def __init__(self, tiles: list):
        self.tiles = tiles
        super().__init__(posttask=self._note)

    def _note(self, key, result, dsk, state, worker_id):
        if isinstance(result, np.ndarray) and "zarr" in str(key):
            self.tiles.append(key)


def test_tiff_of_tiled_jpeg(section, expected, tmp_path):
    pytest.importorskip("imagecodecs", reason="tifffile reads JPEG in TIFF through imagecodecs")
    adata, image = section
    write_svs(tmp_path / "section.svs", halves(image), compression="jpeg", compressionargs={"level": 95})
    np.testing.assert_allclose(colours(adata, image=tmp_path / "section.svs"), expected, atol=0.01)


def test_tiff_whose_compression_needs_another_package_names_it(section, tmp_path, monkeypatch):
    adata, image = section
    write_tiff(tmp_path / "section.tif", [image], compression="zlib")
    monkeypatch.setitem(sys.modules, "openslide", None)
    monkeypatch.setattr(tifffile.TIFF, "DECOMPRESSORS", {})
    with pytest.raises(ValueError, match=r"compressed as ADOBE_DEFLATE: pip install imagecodecs, or openslide-bin"):
        colours(adata, image=tmp_path / "section.tif")


# OpenSlide


@pytest.fixture
def slide(section, monkeypatch, tmp_path):
    """A file of a format that OpenSlide alone knows, and an OpenSlide that knows what it shows."""
    levels = [Image.fromarray(level).convert("RGBA") for level in halves(section[1])]
    levels[0].putpixel((5, 7), (0, 0, 0, 0))  # was not scanned

    class OpenSlide:
        level_count = 3
        level_dimensions = tuple(level.size for level in levels)
        level_downsamples = (1.0, 2.0, 4.0)
        read: list = []

        def __init__(self, path):
            if not path.read_text():
                raise OpenSlideError("Unsupported or missing image file")

        def read_region(self, location, level, size):
            x, y = (round(c / self.level_downsamples[level]) for c in location)
            self.read.append(size)
            return levels[level].crop((x, y, x + size[0], y + size[1]))

    class OpenSlideError(Exception):
        pass

    module = types.SimpleNamespace(OpenSlide=OpenSlide, OpenSlideError=OpenSlideError)
    monkeypatch.setitem(sys.modules, "openslide", module)
    path = tmp_path / "section.mrxs"
    path.write_text("slide")
    return path, module


def test_openslide_format(section, expected, slide, monkeypatch):
    path, module = slide
    monkeypatch.setattr("snrmix.images.slides.OPENSLIDE_CHUNK", 100)
    levels = open_image(path).levels
    assert len(levels) == 3 and not module.OpenSlide.read  # nothing is read yet
    white = section[1].copy()
    white[7, 5] = 255
    np.testing.assert_array_equal(levels[0].pixels[0:30, 90:220], white[0:30, 90:220])
    np.testing.assert_array_equal(levels[0].pixels[:20, :20], white[:20, :20])
    np.testing.assert_array_equal(levels[1].pixels[150:260], halves(section[1])[1][150:260])
    assert max(max(size) for size in module.OpenSlide.read) <= 100
    np.testing.assert_allclose(colours(section[0], image=path), expected, atol=0.01)


def test_openslide_that_is_missing_or_cannot_read_the_file_is_named(section, slide, monkeypatch):
    path, _ = slide
    path.write_text("")
    with pytest.raises(ValueError, match="no image that can be read .Unsupported or missing image file"):
        colours(section[0], image=path)
    monkeypatch.setitem(sys.modules, "openslide", None)
    with pytest.raises(
        ValueError, match=r"section.mrxs' needs OpenSlide: pip install openslide-bin openslide-python, or convert"
    ):
        colours(section[0], image=path)


def test_openslide_itself_reads_what_tifffile_reads(section, tmp_path):
    pytest.importorskip("openslide", reason="the optional extra openslide is not installed")
    from snrmix.images.slides import read_slide

    path = tmp_path / "section.svs"
    write_svs(path, halves(section[1]), compression="jpeg", compressionargs={"level": 95})
    for ours, theirs in zip(read_slide(path, "").levels, open_image(path).levels, strict=True):
        assert np.abs(np.asarray(ours).astype(int) - np.asarray(theirs.pixels)).mean() < 1


# OME-Zarr


def write_ome_zarr(path, image, version: str):
    import zarr
    from ome_zarr.format import FormatV04, FormatV05
    from ome_zarr.writer import write_multiscale

    zarr_format, layout = (2, FormatV04()) if version == "0.4" else (3, FormatV05())
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    write_multiscale([level.transpose(2, 0, 1) for level in halves(image)], group, fmt=layout, axes="cyx")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("place", ["", "0"], ids=["as such", "first series"])
def test_ome_zarr(section, expected, tmp_path, version, place):
    import zarr

    adata, image = section
    path = tmp_path / "section.ome.zarr"
    if place:
        zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    write_ome_zarr(path / place, image, version)
    levels = open_image(path).levels
    assert [level.pixels.shape for level in levels] == [level.shape for level in halves(image)]
    assert hasattr(levels[0].pixels, "dask")
    np.testing.assert_array_equal(levels[0].pixels, image)
    np.testing.assert_allclose(colours(adata, image=str(path)), expected, atol=0.01)


def test_image_of_a_stored_spatialdata_is_an_ome_zarr(tmp_path):
    sdata = snrmix.datasets.synthetic_spatialdata(12, 40, image_px_per_pitch=16)
    sdata.write(tmp_path / "section.zarr")
    levels = open_image(tmp_path / "section.zarr" / "images" / "synthetic_hires_image").levels
    pixels = np.asarray(sdata["synthetic_hires_image"]["scale0"]["image"].transpose("y", "x", "c"))
    assert len(levels) == 3
    np.testing.assert_array_equal(levels[0].pixels, pixels)
    with pytest.raises(ValueError, match="is a Zarr without 'multiscales'.*'images'"):
        open_image(tmp_path / "section.zarr")


def test_plain_zarr_and_a_folder_that_is_none(section, expected, tmp_path):
    import zarr

    adata, image = section
    zarr.save_array(tmp_path / "plain.zarr", image)
    np.testing.assert_allclose(colours(adata, image=tmp_path / "plain.zarr"), expected, atol=1e-3)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder' is a folder, but no Zarr"):
        colours(adata, image=tmp_path / "folder")


# AnnData


def test_hest_with_its_thumbnail_and_with_the_slide(section, expected, tmp_path):
    """HEST: positions in pixels of the slide, a smaller image under another name, coordinates in ``obs`` too."""
    adata, image = section[0].copy(), section[1]
    small = halves(image)[1]
    factor = small.shape[1] / image.shape[1]
    adata.uns["spatial"] = {
        "ST": {
            "images": {"downscaled_fullres": small},
            "scalefactors": {"tissue_downscaled_fullres_scalef": factor, "spot_diameter_fullres": 0.55 * PITCH},
        }
    }
    adata.obs["pxl_col_in_fullres"], adata.obs["pxl_row_in_fullres"] = adata.obsm["spatial"].T
    adata.obs = adata.obs.drop(columns="library_id")
    np.testing.assert_allclose(colours(adata), expected, atol=0.01)
    write_tiff(tmp_path / "slide.tif", halves(image), compression="zlib")
    np.testing.assert_allclose(colours(adata, image=tmp_path / "slide.tif"), expected, atol=0.01)


@pytest.mark.parametrize("encoder", ["colour", "efficientnet_lite0"])
def test_full_resolution_hires_and_lowres_show_the_same(section, encoder):
    """Mean colours agree, and of 20 sites most still look most like themselves; 1 of 20 would by chance.

    Of the coarsest image, 18 px of the smallest patch, 12 did (efficientnet) and 15 (colour); of the other 19 or 20.
    """
    adata, image = section[0][::6].copy(), section[1]
    levels = halves(image, 3)  # 64, 32 and 16 px per pitch
    features, means = [], []
    for level in levels:
        adata.uns["spatial"] = {
            "synthetic": {
                "images": {"hires": level},
                "scalefactors": {"tissue_hires_scalef": level.shape[1] / image.shape[1]},
            }
        }
        table = snrmix.pp.embed_histology(adata, encoder=encoder, scales=COARSE, copy=True)
        features.append(table.obsm["X_histology"].astype(float))
        means.append(colours(adata))
        assert np.abs(means[-1] - means[0]).max() < 0.02
    scale = features[0].std(0) + 1e-3
    for coarser, least in zip(features[1:], (0.9, 0.5), strict=True):
        distance = np.linalg.norm((coarser[:, None] - features[0][None]) / scale, axis=2)
        assert np.mean(distance.argmin(1) == np.arange(adata.n_obs)) >= least


# SpatialData


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    angle=st.floats(-np.pi, np.pi), scale=st.floats(0.05, 20), mirror=st.sampled_from([-1, 1]),
    shift=st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4)),
)  # fmt: skip
def test_the_frame_of_the_coordinate_system_does_not_matter(section, expected, angle, scale, mirror, shift):
    """Turned, mirrored, scaled and moved with image and shapes alike, the same pixels are seen."""
    from spatialdata.transformations import Affine, Sequence, get_transformation, set_transformation

    sdata = cells(section, "polygons", um_per_px=100 / PITCH)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    matrix = np.array([[cos, -sin * mirror, shift[0]], [sin, cos * mirror, shift[1]], [0, 0, 1]])
    affine = Affine(matrix, input_axes=("x", "y"), output_axes=("x", "y"))
    for element in (sdata["cells"], sdata["he"]):
        own = get_transformation(element, "global")
        set_transformation(element, {"turned": Sequence([own, affine])}, set_all=True)
    got = colours(sdata, um_per_px=1 / scale, scales=1.15)
    np.testing.assert_allclose(got[:, 0], expected[:, 0], atol=0.005)


def cells(section, kind: str, um_per_px: float):
    """Cells as Xenium and MERSCOPE give them: in "global", which is in um; the image has its scale."""
    import geopandas
    import shapely
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel, Labels2DModel, ShapesModel, TableModel
    from spatialdata.transformations import Identity, Scale

    adata, image = section
    to_um = Scale([um_per_px, um_per_px], axes=("y", "x"))
    picture = Image2DModel.parse(
        image.transpose(2, 0, 1), dims=("c", "y", "x"), transformations={"global": to_um}, scale_factors=[2]
    )
    x, y = adata.obsm["spatial"].T
    table = adata.copy()
    table.obs = pd.DataFrame({"region": pd.Categorical(["cells"] * len(x))}, index=adata.obs_names)
    table.obs["cell_id"] = np.arange(1, len(x) + 1)
    if kind == "polygons":
        squares = [shapely.box(*c) for c in um_per_px * np.column_stack([x - 6, y - 6, x + 6, y + 6])]
        frame = geopandas.GeoDataFrame(geometry=squares, index=table.obs["cell_id"].to_numpy())
        elements = {"shapes": {"cells": ShapesModel.parse(frame, transformations={"global": Identity()})}}
    else:
        raster = np.zeros(image.shape[:2], np.int32)
        for label, (column, row) in enumerate(zip(x.astype(int), y.astype(int), strict=True), start=1):
            raster[row - 6 : row + 6, column - 6 : column + 6] = label
        elements = {
            "labels": {"cells": Labels2DModel.parse(raster, dims=("y", "x"), transformations={"global": to_um})}
        }
    table = TableModel.parse(table[::-1].copy(), region="cells", region_key="region", instance_key="cell_id")
    return SpatialData(images={"he": picture}, tables={"table": table}, **elements)


@pytest.mark.parametrize("kind", ["polygons", "labels"])
def test_cells_in_micrometres(section, expected, kind):
    sdata = cells(section, kind, um_per_px=100 / PITCH)
    got = colours(sdata, um_per_px=1.0)
    # Labels lie on whole pixels, so their centres are off by up to one.
    np.testing.assert_allclose(got, expected, atol=0.003 if kind == "polygons" else 0.05)
    table = snrmix.pp.embed_histology(sdata, encoder="colour", um_per_px=1.0, scales=COARSE, copy=True)
    np.testing.assert_allclose(table.uns["X_histology"]["patch_side"], [[115, 230, 460]], rtol=0.01)


def test_visium_circles_in_micrometres_are_recognised_by_their_array(section, expected):
    sdata = cells(section, "polygons", um_per_px=100 / PITCH)
    table = sdata["table"]
    for name in ("array_row", "array_col"):
        table.obs[name] = section[0].obs[name].loc[table.obs_names]
    embedded = snrmix.pp.embed_histology(sdata, encoder="colour", scales=COARSE, copy=True)
    np.testing.assert_allclose(embedded.uns["X_histology"]["patch_side"], [[115, 230, 460]], rtol=1e-6)
    np.testing.assert_allclose(colours(sdata), expected, atol=0.003)
