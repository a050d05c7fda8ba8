"""Images from files and folders: whole, or lazily with all levels of their pyramid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from snrmix._names import listing

TIFF_SUFFIXES = {".tif", ".tiff", ".btf", ".svs"}
OPENSLIDE_SUFFIXES = {".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".czi", ".dcm"}
OPENSLIDE_CHUNK = 1024
OLD_AXES = "tczyx"  # of OME-Zarr before version 0.3


class ImageFileError(OSError, ValueError):
    """An image file that does not exist or cannot be read."""


def read_file(path: Path) -> list:
    """Read an image file, or the folder of a Zarr.

    JPEG and PNG are read at once. TIFF (BigTIFF, OME-TIFF, SVS), OME-Zarr (NGFF 0.1 to 0.5) and, with the optional
    OpenSlide, NDPI, MRXS and the other formats it knows are read lazily.

    Returns
    -------
    list
        Arrays, shape (y, x, channels), numpy or dask: the levels of the pyramid, finest first.

    Raises
    ------
    ImageFileError, ValueError
        When there is no such file, it cannot be read, or it needs a package that is missing.
    """
    if path.is_dir():
        return _read_zarr(path)
    if not path.is_file():
        raise ImageFileError(f"image={str(path)!r} does not exist; pass a file, or the folder of an OME-Zarr.")
    suffix = path.suffix.lower()
    try:
        if suffix in OPENSLIDE_SUFFIXES:
            return _read_openslide(path, "needs OpenSlide: pip install 'snrmix[openslide]'")
        return _read_tiff(path) if suffix in TIFF_SUFFIXES else [_read_pillow(path)]
    except ImageFileError:
        raise
    except OSError as error:
        raise ImageFileError(
            f"image={str(path)!r} is no image that can be read ({error}); pass JPEG, PNG, TIFF, OME-Zarr or an array."
        ) from error


def _read_pillow(path: Path) -> np.ndarray:
    from PIL import Image

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # sections are larger than Pillow's safety limit
    try:
        with Image.open(path) as opened:
            is_wide = opened.mode.startswith(("I", "F"))  # 16 or 32 bits, which conversion to RGB would clip
            return np.asarray(opened if is_wide else opened.convert("RGB"))
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _read_tiff(path: Path) -> list:
    import dask.array as da
    import tifffile
    import zarr

    try:
        with tifffile.TiffFile(path) as tiff:
            series = tiff.series[0]
            axes, count, page = series.axes, len(series.levels), series.keyframe
            is_known = page.compression in tifffile.TIFF.DECOMPRESSORS
    except (tifffile.TiffFileError, IndexError) as error:
        raise OSError(error) from error
    if not is_known:
        codec = getattr(page.compression, "name", page.compression)
        return _read_openslide(path, f"is compressed as {codec}: pip install imagecodecs or 'snrmix[openslide]'")
    arrays = []
    for level in range(count):
        store = zarr.open(tifffile.imread(path, aszarr=True, series=0, level=level), mode="r")
        arrays.append(_to_yxc(da.from_zarr(store if isinstance(store, zarr.Array) else store["0"]), axes, str(path)))
    return arrays


def _read_zarr(path: Path) -> list:
    """The levels of an OME-Zarr, or a plain array (y, x, channels)."""
    import dask.array as da
    import zarr

    try:
        store = zarr.open(path, mode="r")
    except (OSError, ValueError) as error:
        raise ImageFileError(f"image={str(path)!r} is a folder, but no Zarr; pass a file or an OME-Zarr.") from error
    if isinstance(store, zarr.Array):
        return [da.from_zarr(store)]
    if not _multiscales(store) and isinstance(store.get("0"), zarr.Group):
        store = store["0"]  # the first series, as bioformats2raw lays them out
    found = _multiscales(store)
    if not found:
        raise ImageFileError(
            f"image={str(path)!r} is a Zarr without 'multiscales'; pass the folder of one image. "
            f"It has {listing(store.keys())}."
        )
    axes = [axis["name"] if isinstance(axis, Mapping) else axis for axis in found[0].get("axes", OLD_AXES)]
    levels = [da.from_zarr(store[dataset["path"]]) for dataset in found[0]["datasets"]]
    return [_to_yxc(level, "".join(axes).upper(), str(path)) for level in levels]


def _multiscales(group) -> list:
    """What OME-Zarr says of an image; in version 0.5 it stands under "ome"."""
    return group.attrs.get("ome", group.attrs).get("multiscales", [])


def _read_openslide(path: Path, needs: str) -> list:
    import dask.array as da

    try:
        import openslide
    except ImportError as error:
        raise ImageFileError(f"image={str(path)!r} {needs}, or convert it to OME-TIFF or OME-Zarr.") from error
    try:
        slide = openslide.OpenSlide(path)
    except openslide.OpenSlideError as error:
        raise OSError(error) from error
    chunks = (OPENSLIDE_CHUNK, OPENSLIDE_CHUNK, 3)
    levels = [_SlideLevel(slide, level) for level in range(slide.level_count)]
    meta = np.empty((0, 0, 0), np.uint8)
    return [da.from_array(level, chunks, name=False, asarray=False, meta=meta) for level in levels]


class _SlideLevel:
    """One level of an OpenSlide image, sliced like an array (y, x, channels); what was not scanned is white."""

    dtype, ndim = np.dtype(np.uint8), 3

    def __init__(self, slide, level: int):
        width, height = slide.level_dimensions[level]
        self.slide, self.level, self.shape = slide, level, (height, width, 3)

    def __getitem__(self, key) -> np.ndarray:
        (y, y1, _), (x, x1, _), _ = (part.indices(n) for part, n in zip(key, self.shape, strict=True))
        zoom = self.slide.level_downsamples[self.level]
        region = self.slide.read_region((round(x * zoom), round(y * zoom)), self.level, (x1 - x, y1 - y))
        pixels = np.asarray(region, np.uint16)
        seen = pixels[:, :, 3:]
        return ((pixels[:, :, :3] * seen + 255 * (255 - seen)) // 255).astype(np.uint8)[:, :, key[2]]


def _to_yxc(array, axes: str, name: str):
    axes = axes.replace("S", "C")
    if not set("YX") <= set(axes):
        raise ValueError(f"{name} has axes {axes!r}; an image needs y and x.")
    for axis in [a for a in axes if a not in "YXC"]:
        if array.shape[axes.index(axis)] != 1:
            raise ValueError(
                f"{name} has axes {axes!r} with more than one plane along {axis!r}; pass one plane as array."
            )
        array = array[(slice(None),) * axes.index(axis) + (0,)]
        axes = axes.replace(axis, "")
    return array.transpose([axes.index(a) for a in ("YXC" if "C" in axes else "YX")])
