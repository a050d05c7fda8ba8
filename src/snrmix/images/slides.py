"""Whole slides of the formats that OpenSlide reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from snrmix.images.picture import ImageFileError, Picture

OPENSLIDE_SUFFIXES = {".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".czi", ".dcm"}
OPENSLIDE_CHUNK = 1024
INSTALL = "pip install openslide-bin openslide-python"


def read_slide(path: Path, needs: str) -> Picture:
    """Open a slide with OpenSlide, lazily; ``needs`` ends the sentence on a file that cannot be read without it.

    Raises
    ------
    ImageFileError, OSError
        When OpenSlide is missing or cannot read the file.
    """
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
    arrays = [da.from_array(level, chunks, name=False, asarray=False, meta=meta) for level in levels]
    return Picture(tuple(arrays), str(path))


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
