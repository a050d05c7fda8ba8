"""From pixels as they are stored to RGB on white glass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from snrmix._log import logger
from snrmix._names import listing

ORIENTATION = 274  # tag of EXIF and TIFF
DARK_SHARE = 0.25  # glass is the brightest part of a section: below this share of white the values mean something else
DEPTHS = (8, 10, 12, 14, 16)  # bits that scanners and cameras use, in integers of any width
VALUES_AT_ONCE = 2**24  # of a picture in memory, converted band by band
SAMPLE_PX = 256
LARGE_PX = 4096  # lazy pictures above this are sampled in windows, since they are read in whole pieces
WINDOWS, WINDOW_PX = 8, 32
MOST_BETWEEN = 0.5  # share of opacity that is neither none nor all, where a channel that may be opacity is it


class ImageFileError(OSError, ValueError):
    """An image file that does not exist or cannot be read."""


@dataclass(frozen=True)
class Picture:
    """One image as it is stored, and what its numbers mean.

    Parameters
    ----------
    levels
        Arrays, shape (y, x, channels), numpy or dask, finest first.
    name
        How messages call it.
    channels
        Names of the channels; empty where they have none.
    white
        What stands for full light; ``None`` where the values must tell.
    inverted
        Whether 0 is white and ``white`` black.
    opacity
        What the last of 2 or 4 channels is: opacity of ``"straight"`` colours, or of ``"associated"`` ones that are
        multiplied by it already; ``"perhaps"`` where nobody says so, and ``None`` where it is a channel like the others.
    """

    levels: tuple
    name: str
    channels: tuple[str, ...] = ()
    white: float | None = None
    inverted: bool = False
    opacity: Literal["straight", "associated", "perhaps"] | None = None


@dataclass(frozen=True)
class Reading:
    """What the numbers of a picture are found to mean.

    Parameters
    ----------
    white
        What stands for full light.
    opacity
        ``"straight"``, ``"associated"`` or ``None``, as of a `Picture`.
    opaque
        What stands for opaque.
    warnings, notes
        What there is to say of it.
    """

    white: float
    opacity: str | None
    opaque: float
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def rgb_levels(picture: Picture) -> list:
    """The levels in uint8 RGB, shape (y, x, 3), on white glass: what is transparent, or not a number, is white.

    Lazy levels stay lazy.

    Raises
    ------
    ValueError
        When it has not 1 or 3 channels besides opacity, or values that no known white explains.
    """
    check_channels(picture)
    array = picture.levels[-1]
    if array.dtype == np.uint8 and array.shape[2] == 3 and not picture.inverted:
        return list(picture.levels)
    reading = _read_values(picture, sparse_sample(array))
    for text in reading.warnings:
        logger.warning("%s %s", picture.name, text)
    for text in reading.notes:
        logger.info("%s %s", picture.name, text)
    return [map_pixels(level, partial(_to_rgb, picture, reading), 3, np.uint8) for level in picture.levels]


def rgb_sample(picture: Picture) -> np.ndarray:
    """Some 65,000 pixels of a picture in RGB, uint8, shape (n, 3), without those that are transparent."""
    check_channels(picture)
    sample = sparse_sample(picture.levels[-1])
    reading = _read_values(picture, sample)
    pixels = _to_rgb(picture, reading, sample).reshape(-1, 3)
    return pixels[(sample[..., -1] > 0).ravel()] if reading.opacity else pixels


def is_rgb_or_grey(picture: Picture) -> bool:
    """Whether it has 1 or 3 channels besides opacity."""
    shape = picture.levels[0].shape
    return len(shape) == 3 and shape[2] in ((1, 2, 3, 4) if picture.opacity else (1, 3))


def check_channels(picture: Picture) -> None:
    """Refuse what cannot be RGB or grey, by its shape, channels and dtype.

    Raises
    ------
    ValueError
        Which says what there is, and what to pass.
    """
    array, name = picture.levels[0], picture.name
    shape = tuple(array.shape)
    if not is_rgb_or_grey(picture):
        named = f" ({listing(picture.channels)})" if picture.channels else ""
        raise ValueError(
            f"{name} has shape {shape}{named}; expected (y, x, channels) with 1, 3 or 4 channels: grey, RGB, or RGB and "
            "opacity. Pass the plane or the three channels that show the stained section."
        )
    if 0 in shape or not np.isfinite(shape).all():
        raise ValueError(f"{name} has shape {shape}; it must have pixels, and say how many.")
    if array.dtype.kind not in "uif":
        raise ValueError(f"{name} has dtype {array.dtype}; expected uint8, uint16 or float pixels.")


def map_pixels(array, function: Callable[[np.ndarray], np.ndarray], channels: int, dtype):
    """Convert an array (y, x, c) piece by piece: now where it is in memory, on reading where it is lazy."""
    if isinstance(array, np.ndarray):
        height, width, depth = array.shape
        converted = np.empty((height, width, channels), dtype)
        rows = max(1, VALUES_AT_ONCE // (width * depth))
        for top in range(0, height, rows):
            converted[top : top + rows] = function(array[top : top + rows])
        return converted
    array = array.rechunk({2: -1})
    meta = np.empty((0, 0, 0), dtype)
    return array.map_blocks(function, dtype=dtype, chunks=(*array.chunks[:2], (channels,)), meta=meta)


def as_displayed(arrays: list, orientation: int, name: str) -> list:
    """Turn and mirror levels (y, x, c) as EXIF and TIFF say that they are displayed, 1 to 8."""
    if orientation not in range(2, 9):
        return arrays
    logger.info(
        "%s is stored turned or mirrored (orientation %d) and read as it is displayed; positions count pixels there.",
        name, orientation,
    )  # fmt: skip
    down = -1 if orientation in (3, 4, 7, 8) else 1
    right = -1 if orientation in (2, 3, 6, 7) else 1
    turned = [array.transpose(1, 0, 2) if orientation >= 5 else array for array in arrays]
    return [array[::down, ::right] for array in turned]


def coarse_sample(array) -> np.ndarray:
    """About 256 x 256 pixels spread over an image."""
    step = max(1, max(array.shape[:2]) // SAMPLE_PX)
    return np.asarray(array[::step, ::step])


def sparse_sample(array) -> np.ndarray:
    """As many pixels; in windows where the image is large and lazy, so that few of its pieces are read."""
    height, width = array.shape[:2]
    if isinstance(array, np.ndarray) or min(height, width) <= LARGE_PX:
        return coarse_sample(array)
    import dask

    tops, lefts = (np.linspace(0, side - WINDOW_PX, WINDOWS).astype(int) for side in (height, width))
    windows = [[array[y : y + WINDOW_PX, x : x + WINDOW_PX] for x in lefts] for y in tops]
    return np.concatenate([np.concatenate(row, axis=1) for row in dask.compute(*windows)])


def _read_values(picture: Picture, sample: np.ndarray) -> Reading:
    """Find what stands for white and for opaque, from some of the pixels, shape (y, x, c).

    Raises
    ------
    ValueError
        When the values are none that are known, or a fourth channel is no opacity.
    """
    warnings, notes = [], []
    colours, opacity, opaque = sample, None, 1.0
    if sample.shape[2] in (2, 4):
        colours = sample[..., :-1]
        opacity, opaque = _opacity(picture, colours, sample[..., -1], warnings)
    seen = colours[sample[..., -1] > 0] if opacity else colours
    white = picture.white or _white(seen, picture.name, warnings, notes)
    return Reading(white, opacity, opaque, tuple(warnings), tuple(notes))


def _to_rgb(picture: Picture, reading: Reading, region: np.ndarray) -> np.ndarray:
    """Stored pixels, shape (y, x, c), in uint8 RGB on white, shape (y, x, 3)."""
    has_opacity = region.shape[2] in (2, 4)
    pixels = to_uint8(region[..., :-1] if has_opacity else region, reading.white)
    pixels = 255 - pixels if picture.inverted else pixels
    if reading.opacity:
        share = region[..., -1:]
        share = np.nan_to_num(share, nan=0.0) if share.dtype.kind == "f" else share
        share = to_uint8(share, reading.opaque) / np.float32(255)
        colour = pixels * (share if reading.opacity == "straight" else np.float32(1))
        pixels = np.rint(np.minimum(colour + 255 * (1 - share), 255)).astype(np.uint8)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def to_uint8(values: np.ndarray, white: float) -> np.ndarray:
    """Values from 0 to ``white`` in 8 bits; those of floats that are NaN become white, integers lose their last bits."""
    if values.dtype.kind == "f":
        return np.rint(np.clip(np.nan_to_num(values, nan=white), 0, white) * (255 / white)).astype(np.uint8)
    if white < 255:
        return (values.astype(np.uint16) * 255 // int(white)).clip(0, 255).astype(np.uint8)
    return (values >> (int(white).bit_length() - 8)).clip(0, 255).astype(np.uint8)


def _opacity(picture: Picture, colours: np.ndarray, values: np.ndarray, warnings: list) -> tuple[str | None, float]:
    """What the last channel is found to be, and what stands for opaque."""
    is_float, values = values.dtype.kind == "f", np.nan_to_num(values.astype(float), nan=0.0)
    whites = (1, 255) if is_float else (1, *(2**bits - 1 for bits in (*DEPTHS, 31, 32)))
    highest = values.max()
    opaque = next((white for white in whites if highest <= white * 1.001), highest)
    kind = "associated" if picture.opacity == "associated" else "straight"
    if highest <= 0:
        colours = colours.reshape(-1, colours.shape[2])
        if (colours == colours[0]).all():
            return kind, opaque
        warnings.append("is transparent everywhere, though it has colours: they are used as if they were opaque.")
        return None, opaque
    between = np.mean((values > 0) & (values < 0.98 * opaque))
    if picture.opacity == "perhaps" and between > MOST_BETWEEN:
        raise ValueError(
            f"{picture.name} has {colours.shape[2] + 1} channels, of which the last is no opacity: {between:.0%} of its values "
            "lie between none and all. If the others are red, green and blue, pass them alone: image[..., :3]."
        )
    return kind, opaque


def _white(sample: np.ndarray, name: str, warnings: list, notes: list) -> float:
    """What stands for white, from the values: of floats 1 or 255; of integers the least depth that holds them."""
    if sample.dtype == np.uint8 or not sample.size:
        return 255
    known = sample[np.isfinite(sample)]
    lowest, highest = (float(known.min()), float(known.max())) if known.size else (np.nan, np.nan)
    whites, slack = ((1, 255), 1.1) if sample.dtype.kind == "f" else (_integer_whites(sample.dtype, highest), 1)
    white = next((w for w in whites if highest <= w * slack), None)
    if white is None or lowest < -0.1 * highest:
        raise ValueError(
            f"{name} has values from {lowest:.4g} to {highest:.4g}; expected 0..1 or 0..255 for floats, and 0..255 or "
            "0..65,535 for integers: rescale it, or convert it to uint8."
        )
    if highest < DARK_SHARE * white:
        warnings.append(
            f"is dark: its brightest pixel has {highest:.4g} of {white}; rescale it if its white is less than that."
        )
    elif white not in (1, 255, 65535):
        bits = int(white).bit_length()
        notes.append(f"has {sample.dtype} values up to {highest:.0f}: read as {bits} bits, so that white is {white}.")
    return white


def _integer_whites(dtype: np.dtype, highest: float) -> list[int]:
    largest = np.iinfo(dtype).max
    whites = [2**bits - 1 for bits in DEPTHS]
    if dtype.itemsize in (2, 4) and highest >= DARK_SHARE * largest:
        whites.append(largest)
    return sorted(whites)
