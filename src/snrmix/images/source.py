from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from snrmix._memory import free_memory
from snrmix.images.arrays import as_picture
from snrmix.images.files import read_file
from snrmix.images.picture import rgb_levels

IN_MEMORY_BYTES = 2 * 2**30


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
    """The image of one library: its levels, finest first, and what it is called in messages: a name, or its path."""

    levels: tuple[Level, ...]
    name: str

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels of the finest level."""
        height, width = self.levels[0].pixels.shape[:2]
        return width, height

    def level_for(self, side: float, size: int) -> Level:
        """The coarsest level on which a patch of ``side`` frame units still has ``size`` pixels, else the finest."""
        enough = [level for level in self.levels if side * level.scale.min() >= size]
        return enough[-1] if enough else self.levels[0]

    def record(self, sides: np.ndarray, size: int, um_per_unit: float = np.nan) -> dict:
        """What there is to keep of the image from which patches were read.

        Parameters
        ----------
        sides
            Sides of the patches in units of the frame, shape (scales,).
        size
            Side of the resized patches in pixels.
        um_per_unit
            Micrometres per unit of the frame; NaN where unknown.

        Returns
        -------
        dict
            ``name`` or path; ``width`` and ``height`` in pixels, and ``um_per_px``, of the finest level; ``levels``, how
            many there are; and ``level``, shape (scales,), which was read for each side, 0 the finest.
        """
        width, height = self.size
        numbers = {id(level): number for number, level in enumerate(self.levels)}
        level = np.array([numbers[id(self.level_for(side, size))] for side in sides])
        um = float(um_per_unit / self.levels[0].scale.mean())
        return {
            "name": self.name, "width": width, "height": height, "um_per_px": um, "levels": len(self.levels), "level": level,
        }  # fmt: skip


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
        Path, see `snrmix.images.files.read_file`; an array, DataArray, pyramid or Pillow image, see
        `snrmix.images.arrays.as_picture`; or what is open already, with affine matrices of its own.
    affine
        Shape (2, 3), frame to pixels of the finest level; identity when omitted.
    name
        How messages call the image; files are called by their path.

    Raises
    ------
    ValueError, TypeError
        When it is no image, cannot be read, or not be made RGB.
    """
    if isinstance(image, SectionImage):
        return image
    affine = scaling(1.0) if affine is None else np.asarray(affine, float)
    picture = read_file(Path(image)) if isinstance(image, str | os.PathLike) else as_picture(image, name)
    arrays = rgb_levels(picture)
    height, width = arrays[0].shape[:2]
    shrink = [np.array([[array.shape[1] / width], [array.shape[0] / height]]) for array in arrays]
    levels = (Level(array, affine * factor) for array, factor in zip(arrays, shrink, strict=True))
    return SectionImage(tuple(levels), picture.name)


def section_image(image, affines: list[np.ndarray], name: str) -> SectionImage:
    """An image whose levels, finest first, have frames of their own: one affine matrix, shape (2, 3), for each.

    Raises
    ------
    ValueError, TypeError
        As `open_image`.
    """
    arrays = rgb_levels(as_picture(image, name))
    return SectionImage(tuple(Level(a, affine) for a, affine in zip(arrays, affines, strict=True)), name)
