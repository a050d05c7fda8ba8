from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from snrmix.images.source import Level

BATCH_BYTES = 256 * 2**20


def read_crops(level: Level, positions: np.ndarray, side: float, size: int, batch: int = 256) -> Iterator[tuple]:
    """Cut a square patch around every position and resize it, in raster order.

    Borders are padded with the nearest pixel. Patches are cut along the image's own axes, at sub-pixel positions,
    and resized with antialiasing.

    Parameters
    ----------
    level
        Image level to read.
    positions
        Shape (n, 2), in units of the frame.
    side
        Side of the patch in units of the frame.
    size
        Side of the result in pixels.
    batch
        Most patches in memory at once; fewer where they are large.

    Yields
    ------
    tuple
        Indices into ``positions``, shape (b,), and crops, uint8, shape (b, size, size, 3).
    """
    half, size_of_level = side * level.scale / 2, np.array(level.pixels.shape[1::-1])
    # All that is farther beyond the border looks like the border.
    centres = np.clip(level.locate(positions), -half - 1, size_of_level + half + 1)
    low, high = centres - half, centres + half
    start = np.floor(low).astype(int)
    stop = np.ceil(high).astype(int)
    bytes_each = int(np.prod((stop - start).max(0))) * level.pixels.shape[2]
    batch = max(1, min(batch, BATCH_BYTES // max(bytes_each, 1)))
    order = raster_order(centres, 2 * half[1])
    for first in range(0, len(order), batch):
        chosen = order[first : first + batch]
        regions = _slices(level.pixels, start[chosen], stop[chosen])
        crops = np.empty((len(chosen), size, size, 3), np.uint8)
        for out, region, i in zip(crops, regions, chosen, strict=True):
            box = (*(low[i] - start[i]), *(high[i] - start[i]))
            out[:] = _resize(region, box, size)
        yield chosen, crops


def raster_order(centres: np.ndarray, band: float) -> np.ndarray:
    """Order positions in horizontal bands, so that neighbouring reads hit the same chunks of the image."""
    return np.lexsort((centres[:, 0], np.floor(centres[:, 1] / max(band, 1.0))))


def _slices(pixels, start: np.ndarray, stop: np.ndarray) -> list[np.ndarray]:
    """Read regions (x, y bounds), repeating the border outside the image."""
    limit = np.array([pixels.shape[1], pixels.shape[0]])
    inner_start = np.clip(start, 0, limit - 1)
    inner_stop = np.clip(stop, inner_start + 1, limit)
    regions = [pixels[y0:y1, x0:x1] for (x0, y0), (x1, y1) in zip(inner_start, inner_stop, strict=True)]
    if not isinstance(pixels, np.ndarray) and hasattr(pixels, "dask"):
        import dask

        regions = dask.compute(*regions)
    before, after = np.maximum(inner_start - start, 0), np.maximum(stop - inner_stop, 0)
    padded = []
    for region, (left, top), (right, bottom) in zip(regions, before, after, strict=True):
        pad = ((top, bottom), (left, right), (0, 0))
        padded.append(np.pad(region, pad, mode="edge") if np.any(pad) else np.asarray(region))
    return padded


def _resize(region: np.ndarray, box: tuple, size: int) -> np.ndarray:
    from PIL import Image

    box = (*np.maximum(box[:2], 0), *np.minimum(box[2:], region.shape[1::-1]))
    image = Image.fromarray(np.ascontiguousarray(region))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0))
