"""Whether an image shows a stained section in the light, or fluorescence; and which of several to take."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from snrmix._log import logger
from snrmix._names import listing
from snrmix.images.arrays import as_picture
from snrmix.images.files import read_file
from snrmix.images.picture import is_rgb_or_grey, rgb_sample, sparse_sample
from snrmix.images.source import SectionImage

BRIGHTFIELD, UNCLEAR, BLANK, FLUORESCENCE = RANKS = ("brightfield", "unclear", "blank", "fluorescence")

# Light as a share of white, the mean of red, green and blue.
BRIGHT = 0.45  # median of sections: 0.65 and more, since glass and pale tissue take up half of any
DARK = 0.25  # median of fluorescence: most of it is background
BLACK = 0.06  # what lies beside a picture that was turned or cut out
COLOUR = 0.02  # mean difference between the strongest and the weakest of red, green and blue; 0.05 and more of H&E
LEAST_SHOWN = 0.05  # share of pixels that are not black
FEW_PIXELS = 16
GREY = "it is light, but grey"

STAINS = re.compile(
    r"dapi|hoechst|draq5|sytox|to-?pro|alexa|\baf ?\d{3}|fitc|\bcy ?[357]\b|tritc|texas.?red|[gry]fp\b|mcherry|opal ?\d|"
    r"18s|poly-?t\b|cell ?bound|boundary|\bcd\d+|pan-?ck|cytokeratin|vimentin|cadherin|autofluor|fluor",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Kind:
    """What an image looks like, and by what.

    Parameters
    ----------
    label
        ``"brightfield"`` (H&E and other stains on light glass), ``"fluorescence"``, ``"blank"`` (of one colour) or
        ``"unclear"``.
    reason
        In words.
    """

    label: str
    reason: str

    def __str__(self) -> str:
        return f"{self.label}: {self.reason}"


def kind_of(image) -> Kind:
    """Judge an image by its channels and by some of its pixels.

    Parameters
    ----------
    image
        A path, or as `snrmix.images.arrays.as_picture` takes it; of a pyramid the coarsest level is looked at.
    """
    try:
        picture = read_file(Path(image)) if isinstance(image, str | os.PathLike) else as_picture(image, "image")
        stains = [channel for channel in picture.channels if STAINS.search(channel)]
        if stains:
            return Kind(FLUORESCENCE, f"it has the channels {listing(stains)}")
        if not is_rgb_or_grey(picture):
            return Kind(FLUORESCENCE, f"it has shape {tuple(picture.levels[0].shape)}, neither RGB nor grey")
        pixels = rgb_sample(picture)
    except (TypeError, ValueError) as error:  # opening it says the same
        return Kind(UNCLEAR, str(error))
    return kind_of_pixels(pixels)


def kind_of_pixels(pixels: np.ndarray) -> Kind:
    """Judge pixels, uint8 RGB, shape (n, 3)."""
    if len(pixels) < FEW_PIXELS or (pixels == pixels[0]).all():
        return Kind(BLANK, "it is of one colour")
    shown = pixels.astype(np.float32) / 255
    light = shown.mean(1)
    median = float(np.median(light))
    is_black = light < BLACK
    if median < DARK and LEAST_SHOWN < 1 - is_black.mean() and _is_stained(shown[~is_black]):
        return Kind(BRIGHTFIELD, "it is light and stained, but for what is black around it")
    if median < DARK:
        return Kind(FLUORESCENCE, f"it is dark: half of its pixels have less than {max(median, 0.01):.0%} of white")
    if median < BRIGHT:
        return Kind(UNCLEAR, f"it is neither light nor dark: half of its pixels have less than {median:.0%} of white")
    if np.ptp(shown, axis=1).mean() < COLOUR:
        return Kind(UNCLEAR, GREY)
    return Kind(BRIGHTFIELD, "it is light and coloured")


def _is_stained(pixels: np.ndarray) -> bool:
    """Light, in the colours that haematoxylin and eosin leave: they take away green most."""
    red, green, blue = pixels.mean(0)
    return np.median(pixels.mean(1)) >= BRIGHT and np.ptp(pixels, axis=1).mean() >= COLOUR and green <= min(red, blue)


def say_what_it_shows(image: SectionImage) -> None:
    """Warn of an image that was passed and plainly is not H&E: it is taken all the same."""
    kind = kind_of_pixels(np.asarray(sparse_sample(image.levels[-1].pixels)).reshape(-1, 3))
    if kind.label == FLUORESCENCE:
        says = "looks like fluorescence, or like a negative"
    elif kind.label == BLANK or kind.reason == GREY:
        says = "does not look like H&E"
    else:
        return
    logger.warning(
        "%s %s (%s), and is used because it was passed. Encoder and stain features were made for H&E: they mean little here.",
        image.name, says, kind.reason,
    )  # fmt: skip


def likeliest(kinds: Mapping[str, Kind]) -> list[str]:
    """Names of the images that are most like H&E."""
    best = min(RANKS.index(kind.label) for kind in kinds.values())
    return [name for name, kind in kinds.items() if RANKS.index(kind.label) == best]


def check_choice(chosen: str, kinds: Mapping[str, Kind], where: str, *, is_asked: bool) -> None:
    """Say what is doubtful about the image that was chosen, and refuse fluorescence that nobody asked for.

    Parameters
    ----------
    chosen
        Its name.
    kinds
        Of all candidates, by name.
    where
        What the image is of, to begin messages with.
    is_asked
        Whether the user named it.

    Raises
    ------
    ValueError
        When it is fluorescence and was not asked for.
    """
    kind = kinds[chosen]
    if kind.label == FLUORESCENCE and is_asked:
        logger.warning(
            "%s: image %r looks like fluorescence (%s), and is used because image_key= names it. Encoder and stain "
            "features were made for H&E: they mean little here.",
            where, chosen, kind.reason,
        )  # fmt: skip
    elif kind.label == FLUORESCENCE:
        others = "".join(f" Image {name!r}: {other}." for name, other in kinds.items() if name != chosen)
        raise ValueError(
            f"{where}: image {chosen!r} looks like fluorescence ({kind.reason}); encoder and stain features need H&E, or "
            f"another stain on light glass.{others} Pass image_key={chosen!r} to go ahead with it all the same, an H&E image "
            "as image=, or features of another kind as use_rep=."
        )
    elif kind.label != BRIGHTFIELD and {other.label for other in kinds.values()} != {BLANK} and len(kinds) > 1:
        logger.warning(
            "%s: image %r is taken, but none is plainly H&E: %s. Name the right one with image_key=.",
            where, chosen, "; ".join(f"{name!r} ({one})" for name, one in kinds.items()),
        )  # fmt: skip
    elif len({other.label for other in kinds.values()}) > 1:
        logger.info(
            "%s: image %r is taken (%s), before %s.",
            where, chosen, kind, "; ".join(f"{n!r} ({k})" for n, k in kinds.items() if k.label != kind.label),
        )  # fmt: skip
