"""What a call says itself of images and of micrometres, beside what the object holds."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Collection, Mapping
from functools import partial

import numpy as np
from anndata import AnnData

from snrmix._names import listing
from snrmix.data.identity import as_name
from snrmix.data.stored import stored_sections
from snrmix.images.arrays import is_image
from snrmix.images.kind import say_what_it_shows
from snrmix.images.source import SectionImage, open_image


def given_um(um_per_px: float | Mapping[str, float] | None, libraries: tuple[str, ...]) -> dict[str, float]:
    """Micrometres per unit of the positions that the user says, by library."""
    if um_per_px is None:
        return {}
    if not isinstance(um_per_px, Mapping):
        um_per_px = dict.fromkeys(libraries, um_per_px)
    given = {as_name(name): um for name, um in um_per_px.items()}
    missing = [name for name in libraries if name not in given]
    if missing:
        raise KeyError(
            f"um_per_px= has no entry for library {listing(missing)}; it has {listing(given)}. Give micrometres per unit of "
            "obsm['spatial'] for each library, or one number for all."
        )
    for um in given.values():
        if isinstance(um, bool) or not isinstance(um, numbers.Real) or not 0 < um < np.inf:
            raise ValueError(f"um_per_px={um!r} must be a positive number: micrometres per unit of obsm['spatial'].")
    return given


def stored_images(data, table: AnnData, libraries: tuple[str, ...]) -> tuple[str, Collection[str]]:
    """What holds the images that come with an object, and libraries that may have one."""
    if data is not table:  # which of the images a region has, and what is wrong with it, is said when it is looked for
        return "the SpatialData", libraries if len(data.images) else ()
    return "uns['spatial']", [name for name, entry in stored_sections(table).items() if entry.get("images")]


def _open_given(image, name: str = "image") -> SectionImage:
    opened = open_image(image, name=name)
    say_what_it_shows(opened)
    return opened


def given_images(
    image, libraries: tuple[str, ...], where: str, stored: Collection[str]
) -> dict[str, Callable[[], SectionImage]]:
    """What opens the image of each library that ``image`` has; the others must be ``stored``."""
    if is_image(image) or not isinstance(image, Mapping):
        if len(libraries) > 1:
            raise ValueError(
                f"there are {len(libraries)} libraries ({listing(libraries)}); pass image={{library: image}}."
            )
        return {libraries[0]: partial(_open_given, image)}
    given = {as_name(name): one for name, one in image.items()}
    is_misspelt = not set(given) <= set(libraries)
    missing = [name for name in libraries if name not in given and (is_misspelt or name not in stored)]
    if missing:
        raise KeyError(
            f"image= has no entry for library {listing(missing)}; it has {listing(given)}, and {where} has images of "
            f"{listing(stored)}."
        )
    return {name: partial(_open_given, one, name=f"image of library {name!r}") for name, one in given.items()}
