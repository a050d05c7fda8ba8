from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

TIFF_SUFFIXES = {".tif", ".tiff", ".btf", ".svs"}


@dataclass(frozen=True)
class Level:
    """One resolution of a section image.

    Parameters
    ----------
    pixels
        Array, shape (y, x, channels); sliced lazily when it is a dask array.
    affine
        Shape (2, 3); maps a site position (x, y) of the section's frame to (x, y) pixels of this level.
    """

    pixels: object
    affine: np.ndarray

    @property
    def scale(self) -> np.ndarray:
        """Pixels per unit of the frame along the image's own x and y axes."""
        return np.linalg.norm(self.affine[:, :2], axis=1)

    def locate(self, positions: np.ndarray) -> np.ndarray:
        """Pixel coordinates (x, y) of positions of the frame."""
        return positions @ self.affine[:, :2].T + self.affine[:, 2]


@dataclass(frozen=True)
class SectionImage:
    """The image of one library: its levels, finest first, and what it is called in messages."""

    levels: tuple[Level, ...]
    name: str

    def level_for(self, side: float, size: int) -> Level:
        """The coarsest level on which a patch of ``side`` frame units still has ``size`` pixels, else the finest."""
        enough = [level for level in self.levels if side * level.scale.min() >= size]
        return enough[-1] if enough else self.levels[0]


def scaling(factor: float, factor_y: float | None = None) -> np.ndarray:
    """Affine matrix, shape (2, 3), of a pure scaling."""
    return np.array([[factor, 0.0, 0.0], [0.0, factor if factor_y is None else factor_y, 0.0]])


def open_image(image, affine: np.ndarray | None = None, name: str = "image") -> SectionImage:
    """Open an image whose pixels are the frame of the site positions, or related to it by ``affine``.

    Parameters
    ----------
    image
        Path (JPEG, PNG, TIFF; TIFF is read lazily, with its pyramid), array or dask array of shape
        (y, x, channels), or a DataArray, read by its dimension names.
    affine
        Shape (2, 3), frame to pixels of the finest level; identity when omitted.
    name
        How messages call the image.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        When it is not an image of 1, 3 or 4 channels, or cannot be read.
    """
    affine = scaling(1.0) if affine is None else np.asarray(affine, float)
    if isinstance(image, str | Path):
        arrays = _read_path(Path(image))
        name = str(image)
    elif hasattr(image, "dims") and hasattr(image, "transpose"):
        arrays = [_from_data_array(image, name)]
    elif hasattr(image, "ndim") and hasattr(image, "shape"):
        arrays = [image]
    else:
        raise TypeError(
            f"image must be a path, an array (y, x, channels) or a DataArray, not {type(image).__name__}. "
            "For several libraries pass a dict: image={library: image}."
        )
    arrays = [_check(array, name) for array in arrays]
    height, width = arrays[0].shape[:2]
    levels = []
    for array in arrays:
        shrink = np.array([array.shape[1] / width, array.shape[0] / height])
        levels.append(Level(array, affine * shrink[:, None]))
    return SectionImage(tuple(levels), name)


def _read_path(path: Path) -> list:
    if not path.is_file():
        raise FileNotFoundError(f"image file {str(path)!r} does not exist.")
    if path.suffix.lower() in TIFF_SUFFIXES:
        return _read_tiff(path)
    from PIL import Image, UnidentifiedImageError

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # sections are larger than Pillow's safety limit
    try:
        with Image.open(path) as opened:
            return [np.asarray(opened.convert("RGB"))]
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{str(path)!r} is not an image that can be read; pass JPEG, PNG, TIFF or an array."
        ) from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _read_tiff(path: Path) -> list:
    import dask.array as da
    import tifffile
    import zarr

    with tifffile.TiffFile(path) as tiff:
        series = tiff.series[0]
        axes = series.axes
        count = len(series.levels)
    arrays = []
    for level in range(count):
        store = zarr.open(tifffile.imread(path, aszarr=True, series=0, level=level), mode="r")
        arrays.append(_to_yxc(da.from_zarr(store if isinstance(store, zarr.Array) else store["0"]), axes, str(path)))
    return arrays


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


def _from_data_array(image, name: str):
    dims = [str(d) for d in image.dims]
    if not {"y", "x"} <= set(dims):
        raise ValueError(f"{name} has dimensions {dims}; they must include 'y' and 'x' (and 'c' for channels).")
    return image.transpose(*[d for d in ("y", "x", "c") if d in dims]).data


def _check(array, name: str):
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        hint = (
            " It looks channel-first: pass image.transpose(1, 2, 0)."
            if array.ndim == 3 and array.shape[0] in (1, 3, 4)
            else ""
        )
        raise ValueError(
            f"{name} has shape {tuple(array.shape)}; expected (y, x, channels) with 1, 3 or 4 channels.{hint}"
        )
    if array.dtype.kind not in "uif":
        raise ValueError(f"{name} has dtype {array.dtype}; expected uint8, uint16 or float pixels.")
    return array
