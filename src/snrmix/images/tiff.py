"""Pictures from TIFF, lazily, with the colours that their photometric interpretation means."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from snrmix._names import in_short
from snrmix.images.picture import ORIENTATION, ImageFileError, Picture, as_displayed, map_pixels, to_uint8
from snrmix.images.slides import read_slide

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
COLOURS = {"MINISWHITE": 1, "MINISBLACK": 1, "RGB": 3, "PALETTE": 1, "SEPARATED": 4, "YCBCR": 3}  # samples each
OPACITY = {1: "associated", 2: "perhaps"}  # by the tag ExtraSamples; writers give the latter to any fourth channel
WHOLE_BYTES = (8, 16, 32, 64)
JPEG = (6, 7, 34892, 33007)  # compressions whose decoder turns YCbCr into RGB
APERIO_YCBCR = 33003  # subsampled, which tifffile does not undo
LOSSLESS = (1, 5, 8, 32773, 32946, 34925, 50000)  # and those that leave it as it is
YCBCR_OF_JPEG = {529: (0.299, 0.587, 0.114), 532: (0, 255, 128, 255, 128, 255)}  # tags for its coefficients and range
CMYK_INKS, INK_SET = 1, 332
TAGS = (ORIENTATION, INK_SET, *YCBCR_OF_JPEG)


def is_tiff(path: Path) -> bool:
    """Whether a file begins as TIFF and BigTIFF do."""
    with path.open("rb") as file:
        return file.read(4) in MAGIC


def read_tiff(path: Path) -> Picture:
    """Open the first image of a TIFF with its pyramid.

    Raises
    ------
    ImageFileError, OSError, ValueError
        When it is damaged, or made in a way that cannot be read here; the message says which.
    """
    import tifffile

    name = str(path)
    try:
        with tifffile.TiffFile(path) as tiff:
            series = tiff.series[0]
            axes, count, page = series.axes, len(series.levels), series.keyframe
            tags = {code: page.tags[code].value for code in TAGS if code in page.tags}
            is_known = page.compression in tifffile.TIFF.DECOMPRESSORS and page.compression != APERIO_YCBCR
            decode = _decoder(page, tags, name) if is_known else None
    except (tifffile.TiffFileError, IndexError) as error:
        raise OSError(error) from error
    if not is_known:
        codec = getattr(page.compression, "name", page.compression)
        return read_slide(path, f"is compressed as {codec}: pip install imagecodecs, or openslide-bin openslide-python")
    arrays = [to_yxc(_open_level(path, level, _glass(page)), axes, name) for level in range(count)]
    if page.compression != 1 or page.bitspersample not in WHOLE_BYTES:
        _try_to_read(arrays[-1], page, name)
    places, opacity = _samples(page, arrays[0].shape[2])
    arrays = [array if places is None else array[:, :, places] for array in arrays]
    white = None
    if decode is not None:
        arrays, white = [map_pixels(array, decode, 4 if opacity else 3, np.uint8) for array in arrays], 255
    elif page.dtype.kind != "f" and page.bitspersample not in WHOLE_BYTES:
        arrays, white = [array.astype(np.uint16) for array in arrays], 2**page.bitspersample - 1
    arrays = as_displayed(arrays, tags.get(ORIENTATION, 1), name)
    return Picture(tuple(arrays), name, white=white, inverted=page.photometric == 0, opacity=opacity)


def _open_level(path: Path, level: int, glass: float):
    import dask.array as da
    import tifffile
    import zarr

    store = tifffile.imread(path, aszarr=True, series=0, level=level, fillvalue=glass)
    store = zarr.open(store, mode="r")
    return da.from_zarr(store if isinstance(store, zarr.Array) else store["0"])


def _glass(page) -> float:
    """What a tile holds that was not scanned, so that it becomes white."""
    if page.photometric.name not in ("MINISBLACK", "RGB", "YCBCR"):
        return 0
    return np.nan if page.dtype.kind == "f" else 2**page.bitspersample - 1


def _try_to_read(array, page, name: str) -> None:
    """Decode one piece, so that what cannot be decoded is said at once.

    Raises
    ------
    ImageFileError
        With what to install or convert.
    """
    try:
        np.asarray(array[:1, :1])
    except Exception as error:  # of many decoders
        codec = getattr(page.compression, "name", page.compression)
        raise ImageFileError(
            f"image={name!r} cannot be decoded ({codec}, {page.bitspersample} bits, {page.photometric.name}): "
            f"{in_short(error)} Install imagecodecs (pip install imagecodecs) if it is missing, else convert the image to "
            "8-bit RGB."
        ) from error


def _samples(page, count: int) -> tuple[list[int] | None, str | None]:
    """Which samples of a pixel are wanted, ``None`` for all; and what the last of these is, see `Picture`."""
    base = COLOURS[page.photometric.name]
    extras = [int(kind) for kind in page.extrasamples]
    if count != base + len(extras) or not extras or (base == 1 and len(extras) > 1):
        return None, None
    declared = next((i for i, kind in enumerate(extras) if kind in OPACITY), None)
    if declared is not None:
        return [*range(base), base + declared], OPACITY[extras[declared]]
    if base == 3 and len(extras) == 1:
        return None, "perhaps"
    return list(range(base)), None


def _decoder(page, tags: dict, name: str) -> Callable[[np.ndarray], np.ndarray] | None:
    """What makes RGB of stored colours, uint8; opacity stays behind them. ``None`` where they are grey or RGB.

    Raises
    ------
    ImageFileError
        For colours that cannot be converted here.
    """
    kind = page.photometric.name
    why = None
    if page.dtype is None:
        why = f"has samples of {page.bitspersample} bits that are no known numbers"
    elif kind not in COLOURS:
        why = f"has colours of the kind {kind}"
    elif kind == "PALETTE":
        return partial(_look_up, _palette(page))
    elif kind == "SEPARATED":
        if tags.get(INK_SET, CMYK_INKS) == CMYK_INKS and page.compression not in JPEG and page.dtype.kind == "u":
            return partial(_through_pillow, "CMYK", 2**page.bitspersample - 1)
        why = "has inks that are not plain CMYK (or CMYK in JPEG)"
    elif kind == "YCBCR" and page.compression not in JPEG:
        if page.is_subsampled or page.compression not in LOSSLESS or page.dtype != np.uint8 or not _is_jpeg_like(tags):
            why = "has YCbCr colours that are subsampled, or not those of JPEG"
        else:
            return partial(_through_pillow, "YCbCr", 255)
    if why is not None:
        raise ImageFileError(f"image={name!r} {why}; convert it to RGB.")
    return None


def _is_jpeg_like(tags: dict) -> bool:
    """Whether YCbCr is that of JPEG, by the tags for its coefficients and range, whose fractions are pairs."""
    for code, expected in YCBCR_OF_JPEG.items():
        value = np.array(tags.get(code, expected), float)
        if value.size == 2 * len(expected):
            value = value[::2] / np.maximum(value[1::2], 1)
        if value.size != len(expected) or not np.allclose(value, expected, atol=1e-3):
            return False
    return True


def _palette(page) -> np.ndarray:
    """Colours by index, uint8, shape (colours, 3); some writers store 8 bits where 16 are meant."""
    colours = np.asarray(page.colormap).T
    return (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)


def _look_up(palette: np.ndarray, region: np.ndarray) -> np.ndarray:
    index = region[..., 0].astype(np.intp)
    colours = palette[np.minimum(index, len(palette) - 1)]
    return np.concatenate([colours, to_uint8(region[..., 1:], 255)], axis=2) if region.shape[2] > 1 else colours


def _through_pillow(mode: str, white: int, region: np.ndarray) -> np.ndarray:
    """Convert CMYK or YCbCr to RGB."""
    from PIL import Image

    values = to_uint8(region, white)
    samples = Image.getmodebands(mode)
    stored = np.ascontiguousarray(values[..., :samples])
    image = Image.frombytes(mode, (stored.shape[1], stored.shape[0]), stored.tobytes())
    return np.concatenate([np.asarray(image.convert("RGB")), values[..., samples:]], axis=2)


def to_yxc(array, axes: str, name: str):
    """An array with axes that are named by one letter each, shape (y, x, channels).

    Raises
    ------
    ValueError
        When y or x is missing, or there are several planes besides channels.
    """
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
    array = array.transpose([axes.index(a) for a in ("YXC" if "C" in axes else "YX")])
    return array if "C" in axes else array[:, :, None]
