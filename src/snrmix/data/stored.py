"""Images and scale factors in ``uns["spatial"]``, as they are meant, whoever wrote them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from anndata import AnnData

from snrmix._names import listing
from snrmix.data.identity import as_name

UNNAMED = "library"  # a section that is stored without the level of libraries
FULL = "fullres"  # an image of that name is what the coordinates count pixels of
SEURAT = {"spot": "spot_diameter_fullres", "fiducial": "fiducial_diameter_fullres"}
MADE = (
    "uns['spatial'] must be a dict by library, each with 'images' and 'scalefactors', as Space Ranger's readers make it: "
    "rename what is there, or make it so."
)


def stored_sections(table: AnnData) -> dict[str, dict]:
    """What ``uns["spatial"]`` has, by library: ``"images"`` and ``"scalefactors"`` of each; empty where there is nothing.

    Entries that are no sections, such as ``is_single``, are left out, and so are images and factors that are ``None``.
    Factors may be arrays of one number, or text.

    Raises
    ------
    ValueError
        When it cannot be read so.
    """
    known = table.uns.get("spatial")
    if known is None:
        return {}
    if not isinstance(known, Mapping):
        raise ValueError(MADE)
    if _is_section(known):
        return {UNNAMED: _section(known, "uns['spatial']")}
    sections = {}
    for key, entry in known.items():
        if isinstance(entry, Mapping):
            name = as_name(key)
            if name in sections:
                raise ValueError(f"uns['spatial'] has {name!r} twice, as text and as number; remove one.")
            sections[name] = _section(entry, f"uns['spatial'][{key!r}]")
        elif np.ndim(entry) >= 2:
            raise ValueError(f"uns['spatial'][{key!r}] is an array. {MADE}")
    return sections


def entry_of(table: AnnData, library: str, is_only: bool) -> dict:
    """What ``uns["spatial"]`` has on a library; a single entry may have another name than the only library."""
    known = stored_sections(table)
    return known.get(library) or (next(iter(known.values())) if len(known) == 1 and is_only else {})


def has_stored_image(table: AnnData) -> bool:
    """Whether there is any image."""
    return any(section["images"] for section in stored_sections(table).values())


def number(value) -> float | None:
    """A finite number, of an array of one or text too; ``None`` for anything else."""
    try:
        found = float(np.asarray(value).reshape(-1)[0]) if np.size(value) == 1 else np.nan
    except (TypeError, ValueError):
        return None
    return found if np.isfinite(found) else None


def _is_section(known: Mapping) -> bool:
    """Whether the level of libraries is missing."""
    images = known.get("images")
    of_library = isinstance(images, Mapping) and ("images" in images or "scalefactors" in images)
    return ("images" in known and not of_library) or ("scalefactors" in known and "images" not in known)


def _section(entry: Mapping, where: str) -> dict:
    factors = entry.get("scalefactors")
    if factors is not None and not isinstance(factors, Mapping):
        raise ValueError(f"{where}['scalefactors'] must be a dict of numbers, such as 'tissue_hires_scalef'.")
    beside = {key: value for key, value in entry.items() if str(key).endswith(("_scalef", "_fullres"))}
    found = {str(key): number(value) for key, value in {**beside, **(factors or {})}.items()}
    found = {key: value for key, value in found.items() if value is not None}
    images = _images(entry.get("images"), found, where)
    for name in images:  # Seurat names the factor as the image
        if name in found:
            found.setdefault(f"tissue_{name}_scalef", found[name])
    for short, name in SEURAT.items():
        if short in found:
            found.setdefault(name, found[short])
    if FULL in images:
        found.setdefault(f"tissue_{FULL}_scalef", 1.0)
    return {**entry, "images": images, "scalefactors": found}


def _images(images, factors: Mapping, where: str) -> dict:
    """Images by name; one that stands alone gets the name of the only factor, or "hires"."""
    if images is None:
        return {}
    if isinstance(images, Mapping):
        return {str(name): image for name, image in images.items() if image is not None}
    if np.ndim(images) < 2 and not isinstance(images, str) and not hasattr(images, "__fspath__"):
        raise ValueError(f"{where}['images'] must be a dict of images by name, not {type(images).__name__}.")
    names = [key.removeprefix("tissue_").removesuffix("_scalef") for key in factors if key.endswith("_scalef")]
    return {names[0] if len(names) == 1 else "hires": images}


def describe_factors(section: Mapping) -> str:
    """Names of the scale factors, for a message."""
    return listing(section["scalefactors"])
