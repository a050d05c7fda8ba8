"""Positions and images of an AnnData."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from anndata import AnnData

from snrmix._names import closest, listing
from snrmix.data.stored import entry_of, stored_sections
from snrmix.images.source import SectionImage, open_image, scaling


def read_anndata(table: AnnData, labels: np.ndarray, image_key: str | None):
    """Positions, what finds the image of a library, and no micrometres, as `snrmix.data.from_spatialdata.read_spatialdata`."""
    if "spatial" not in table.obsm:
        raise KeyError(
            f"obsm['spatial'] (x, y in full-resolution pixels) is missing; obsm has: {listing(table.obsm)}. "
            "Store the coordinates there first."
        )
    try:
        positions = np.asarray(table.obsm["spatial"], dtype=float)
    except (TypeError, ValueError) as error:
        raise TypeError("obsm['spatial'] must hold numbers: x and y in full-resolution pixels.") from error
    if positions.ndim != 2 or positions.shape[1] != 2:
        raise ValueError(f"obsm['spatial'] has shape {positions.shape}; expected ({table.n_obs}, 2): x and y.")
    known = stored_sections(table)

    def find_image(library: str) -> Callable[[], SectionImage]:
        entry = entry_of(table, library, len(set(labels)) == 1)
        if not entry.get("images"):
            raise KeyError(
                f"no image for library {library!r}: uns['spatial'] has {listing(known)}. Pass image= (path or array in "
                "the pixels of obsm['spatial']), or use_rep= with features that are already in obsm."
                + (" The keys of uns['spatial'] must be the names of the libraries." if known else "")
            )
        return _stored_image(entry, image_key, library)

    return positions, find_image, {}


def _stored_image(entry: Mapping, image_key: str | None, library: str) -> Callable[[], SectionImage]:
    """What opens the image of ``uns["spatial"][library]`` that was asked for, or else the finest."""
    images, factors = entry["images"], entry.get("scalefactors", {})
    if image_key is None:
        scaled = [k for k in images if f"tissue_{k}_scalef" in factors]
        if not scaled:
            raise KeyError(
                f"uns['spatial'][{library!r}]['scalefactors'] has no 'tissue_<image>_scalef' for any of the images "
                f"({listing(images)}), the pixels of the image per pixel of obsm['spatial']; it has {listing(factors)}."
            )
        image_key = max(scaled, key=lambda k: float(factors[f"tissue_{k}_scalef"]))
    if image_key not in images:
        raise KeyError(
            f"image_key={image_key!r} is not in uns['spatial'][{library!r}]['images']; available: {listing(images)}."
            f"{closest(image_key, images)}"
        )
    if f"tissue_{image_key}_scalef" not in factors:
        raise KeyError(
            f"uns['spatial'][{library!r}]['scalefactors'] lacks 'tissue_{image_key}_scalef', the pixels of image "
            f"{image_key!r} per pixel of obsm['spatial']; it has {listing(factors)}."
        )
    factor = float(factors[f"tissue_{image_key}_scalef"])
    if not 0 < factor < np.inf:
        raise ValueError(
            f"uns['spatial'][{library!r}]['scalefactors']['tissue_{image_key}_scalef'] is {factor}; it must be "
            "positive."
        )
    return partial(open_image, images[image_key], scaling(factor), f"image {image_key!r} of library {library!r}")
