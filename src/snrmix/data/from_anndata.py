"""Positions and images of an AnnData."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from anndata import AnnData

from snrmix._names import closest, listing
from snrmix.data.positions import read_positions
from snrmix.data.stored import entry_of, stored_sections
from snrmix.images.kind import check_choice, kind_of, likeliest
from snrmix.images.source import SectionImage, open_image, scaling

CONCAT = "Where it was put together with ad.concat, that dropped the images: pass it uns_merge='unique'."


def read_anndata(table: AnnData, labels: np.ndarray, image_key: str | None):
    """Positions, what finds the image of a library, and no micrometres, as `snrmix.data.from_spatialdata.read_spatialdata`."""
    positions = read_positions(table)
    known = stored_sections(table)

    def find_image(library: str) -> Callable[[], SectionImage]:
        entry = entry_of(table, library, len(set(labels)) == 1)
        if not entry.get("images"):
            raise KeyError(
                f"no image for library {library!r}: uns['spatial'] has {listing(known)}. Pass image= (path or array in "
                "the pixels of obsm['spatial']), or use_rep= with features that are already in obsm."
                + (_how_to_rename(library, known) if known else f" {CONCAT}")
            )
        return _stored_image(entry, image_key, library)

    return positions, find_image, {}


def _how_to_rename(library: str, known: Mapping) -> str:
    """The line that names a stored section as its library, where only one name holds the other."""
    says = " The keys of uns['spatial'] must be the names of the libraries"
    like = [name for name in known if library.casefold() in name.casefold() or name.casefold() in library.casefold()]
    if len(like) != 1:
        return says + "."
    return f"{says}: adata.uns['spatial'][{library!r}] = adata.uns['spatial'].pop({like[0]!r})."


def _stored_image(entry: Mapping, image_key: str | None, library: str) -> Callable[[], SectionImage]:
    """What opens the image of ``uns["spatial"][library]`` that was asked for, or else the likeliest, see `_open_likeliest`."""
    images, factors = entry["images"], entry.get("scalefactors", {})
    wanted = [key for key in images if f"tissue_{key}_scalef" in factors] if image_key is None else [image_key]
    if not wanted:
        raise KeyError(
            f"uns['spatial'][{library!r}]['scalefactors'] has no 'tissue_<image>_scalef' for any of the images "
            f"({listing(images)}), the pixels of the image per pixel of obsm['spatial']; it has {listing(factors)}. "
            f"Store it: adata.uns['spatial'][{library!r}]['scalefactors'] = {{'tissue_{next(iter(images))}_scalef': width of the "
            "image / width of the full-resolution image}."
        )
    if image_key is not None and image_key not in images:
        raise KeyError(
            f"image_key={image_key!r} is not in uns['spatial'][{library!r}]['images']; available: {listing(images)}."
            f"{closest(image_key, images)}"
        )
    scales = {key: _scale_of(key, factors, library) for key in wanted}
    return partial(_open_likeliest, images, scales, library, is_asked=image_key is not None)


def _scale_of(image: str, factors: Mapping, library: str) -> float:
    """Pixels of an image per pixel of ``obsm["spatial"]``."""
    name = f"tissue_{image}_scalef"
    if name not in factors:
        raise KeyError(
            f"uns['spatial'][{library!r}]['scalefactors'] lacks {name!r}, the pixels of image {image!r} per pixel of "
            f"obsm['spatial']; it has {listing(factors)}."
        )
    factor = float(factors[name])
    if not 0 < factor < np.inf:
        raise ValueError(f"uns['spatial'][{library!r}]['scalefactors'][{name!r}] is {factor}; it must be positive.")
    return factor


def _open_likeliest(images: Mapping, scales: Mapping[str, float], library: str, *, is_asked: bool) -> SectionImage:
    """Open the finest of those images that look most like H&E; ``scales`` names the ones to choose from."""
    kinds = {key: kind_of(images[key]) for key in scales}
    key = max(likeliest(kinds), key=scales.__getitem__)
    check_choice(key, kinds, f"library {library!r}", is_asked=is_asked)
    return open_image(images[key], scaling(scales[key]), f"image {key!r} of library {library!r}")
