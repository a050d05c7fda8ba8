from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from snrmix._log import logger
from snrmix._memory import free_memory
from snrmix.images.files import read_file

IN_MEMORY_BYTES = 2 * 2**30
DARK_SHARE = 0.25  # glass is the brightest part of a section: below this share of white the values mean something else


@dataclass(frozen=True)
class Level:
    """One resolution of a section image.

    Parameters
    ----------
    pixels
        uint8 RGB, shape (y, x, 3); sliced lazily when it is a dask array.
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

    def in_memory(self) -> Level:
        """The level read at once where that takes at most 2 GiB and a quarter of the free memory, else as it is.

        Patches overlap, and a lazy array may stand for a file that is decoded as a whole for every piece of it.
        """
        fits = self.pixels.nbytes <= min(IN_MEMORY_BYTES, free_memory() / 4)
        return replace(self, pixels=np.asarray(self.pixels)) if fits else self


@dataclass(frozen=True)
class SectionImage:
    """The image of one library: its levels, finest first, and what it is called in messages."""

    levels: tuple[Level, ...]
    name: str

    def level_for(self, side: float, size: int) -> Level:
        """The coarsest level on which a patch of ``side`` frame units still has ``size`` pixels, else the finest."""
        enough = [level for level in self.levels if side * level.scale.min() >= size]
        return enough[-1] if enough else self.levels[0]


def patch_pixels(image: SectionImage, sides: np.ndarray, size: int) -> np.ndarray:
    """Pixels along the sides of patches, before they are resized to ``size``, on the levels that are read for them."""
    return np.array([side * image.level_for(side, size).scale.min() for side in sides])


def scaling(factor: float) -> np.ndarray:
    """Affine matrix, shape (2, 3), of a pure scaling."""
    return np.array([[factor, 0.0, 0.0], [0.0, factor, 0.0]])


def open_image(image, affine: np.ndarray | None = None, name: str = "image") -> SectionImage:
    """Open an image whose pixels are the frame of the site positions, or related to it by ``affine``.

    Parameters
    ----------
    image
        Path (see `snrmix.images.files.read_file`), array or dask array of shape (y, x, channels), or a DataArray, read
        by its dimension names.
    affine
        Shape (2, 3), frame to pixels of the finest level; identity when omitted.
    name
        How messages call the image.

    Raises
    ------
    ValueError, TypeError
        When it is not an image of 1, 3 or 4 channels, or cannot be read.
    """
    affine = scaling(1.0) if affine is None else np.asarray(affine, float)
    if isinstance(image, str | Path):
        arrays, name = read_file(Path(image)), str(image)
    elif hasattr(image, "dims") and hasattr(image, "transpose"):
        arrays = [_from_data_array(image, name)]
    elif hasattr(image, "ndim") and hasattr(image, "shape"):
        arrays = [image]
    else:
        raise TypeError(
            f"image must be a path, an array (y, x, channels) or a DataArray, not {type(image).__name__}. "
            "For several libraries pass a dict: image={library: image}."
        )
    height, width = arrays[0].shape[:2]
    shrink = [np.array([[array.shape[1] / width], [array.shape[0] / height]]) for array in arrays]
    return section_image(arrays, [affine * factor for factor in shrink], name)


def section_image(arrays: list, affines: list[np.ndarray], name: str) -> SectionImage:
    """The levels of one image, shape (y, x, channels), finest first, with their frames.

    Raises
    ------
    ValueError
        For arrays that are no picture: shape, dtype or values.
    """
    arrays = [_picture(array, name) for array in arrays]
    convert = _conversion(arrays[-1], name)
    levels = (Level(_convert(a, convert), affine) for a, affine in zip(arrays, affines, strict=True))
    return SectionImage(tuple(levels), name)


def _from_data_array(image, name: str):
    dims = [str(d) for d in image.dims]
    if not {"y", "x"} <= set(dims) <= {"y", "x", "c"}:
        raise ValueError(f"{name} has dimensions {dims}; they must be 'y' and 'x', and 'c' for channels.")
    return image.transpose(*[d for d in ("y", "x", "c") if d in dims]).data


def _picture(array, name: str):
    """The array with its channels last, as numpy or dask."""
    if not isinstance(array, np.ndarray) and not hasattr(array, "dask"):
        array = _from_array_like(array)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        channel_first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        hint = " It looks channel-first: pass image.transpose(1, 2, 0)." if channel_first else ""
        raise ValueError(
            f"{name} has shape {tuple(array.shape)}; expected (y, x, channels) with 1, 3 or 4 channels.{hint}"
        )
    if array.dtype.kind not in "uif":
        raise ValueError(f"{name} has dtype {array.dtype}; expected uint8, uint16 or float pixels.")
    return array


def _from_array_like(array):
    """Zarr and h5py arrays stay on disk; anything else becomes a numpy array."""
    if not hasattr(array, "chunks"):
        return np.asarray(array)
    import dask.array as da

    return da.from_array(array)


def _conversion(array, name: str) -> Callable[[np.ndarray], np.ndarray] | None:
    """How pixels become uint8 RGB; ``None`` where they are."""
    channels, is_float = array.shape[2], array.dtype.kind == "f"
    if array.dtype == np.uint8 and channels == 3:
        return None
    white = 255 if array.dtype == np.uint8 else _white_level(coarse_sample(array), name)

    def convert(region: np.ndarray) -> np.ndarray:
        region = np.repeat(region, 3, axis=2) if channels == 1 else region[:, :, :3]
        if is_float:  # missing pixels are taken as glass
            return np.rint(np.clip(np.nan_to_num(region, nan=white), 0, white) * (255 / white)).astype(np.uint8)
        return (region >> 8 if white > 255 else region.clip(0, 255)).astype(np.uint8)

    return convert


def _white_level(sample: np.ndarray, name: str) -> int:
    """What stands for white, from the values: 1 or 255 for floats; for integers 255 where none is larger, else 65,535.

    Raises
    ------
    ValueError
        When the values are none of these.
    """
    known = sample[np.isfinite(sample)]
    lowest, highest = (float(known.min()), float(known.max())) if known.size else (np.nan, np.nan)
    whites, slack = ((1, 255), 1.1) if sample.dtype.kind == "f" else ((255, 65535), 1)
    white = next((w for w in whites if highest <= w * slack), None)
    if white is None or lowest < -0.1 * highest:
        raise ValueError(
            f"{name} has values from {lowest:.4g} to {highest:.4g}; expected 0..1 or 0..255 for floats, and 0..255 or "
            "0..65,535 for integers: rescale it, or convert it to uint8."
        )
    if highest < DARK_SHARE * white:
        logger.warning(
            "%s is dark: its brightest pixel has %.4g of %d; rescale it if its white is less than that.",
            name, highest, white,
        )  # fmt: skip
    return white


def coarse_sample(array) -> np.ndarray:
    """About 256 x 256 pixels spread over an image."""
    step = max(1, max(array.shape[:2]) // 256)
    return np.asarray(array[::step, ::step])


def _convert(array, convert):
    if convert is None:
        return array
    if isinstance(array, np.ndarray):
        return convert(array)
    array = array.rechunk({2: -1})
    return array.map_blocks(convert, dtype=np.uint8, chunks=(*array.chunks[:2], (3,)))
