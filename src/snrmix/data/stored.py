"""Images and scale factors in ``uns["spatial"]``, as they are meant, whoever wrote them."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pandas as pd
from anndata import AnnData

from snrmix._names import listing
from snrmix.data.identity import as_name

UNNAMED = "library"  # a section that is stored without the level of libraries
FULL = "fullres"  # an image of that name is what the coordinates count pixels of
FACTORS, IMAGES = ("scale_factors", "scalefactors_json"), ("image", "img", "imgs")  # what else they have been called
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
        if np.ndim(known) == 2 and np.shape(known) == (table.n_obs, 2):  # positions, which belong to obsm
            return {}
        raise ValueError(MADE)
    if _is_section(known):
        return {UNNAMED: _section(known, "uns['spatial']")}
    sections, has_any = {}, any(isinstance(entry, Mapping) for entry in known.values())
    for key, entry in known.items():
        if isinstance(entry, Mapping):
            name = as_name(key)
            if name in sections:
                raise ValueError(f"uns['spatial'] has {name!r} twice, as text and as number; remove one.")
            sections[name] = _section(entry, f"uns['spatial'][{key!r}]")
        elif np.ndim(entry) >= 2 and not has_any:
            raise ValueError(f"uns['spatial'][{key!r}] is an array. {MADE}")
    return sections


def entry_of(table: AnnData, library: str, is_only: bool) -> dict:
    """What ``uns["spatial"]`` has on a library; a single entry may have another name than the only library."""
    known = stored_sections(table)
    return known.get(library) or (next(iter(known.values())) if len(known) == 1 and is_only else {})


def has_stored_image(table: AnnData) -> bool:
    """Whether there is any image."""
    return any(section["images"] for section in stored_sections(table).values())


def is_nothing(stored) -> bool:
    """Whether ``uns["spatial"]`` is absent, ``None`` or empty."""
    return stored is None or (isinstance(stored, Mapping) and not stored)


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
    given = _factors(next((entry[name] for name in ("scalefactors", *FACTORS) if name in entry), None), where)
    beside = {key: value for key, value in entry.items() if str(key).endswith(("_scalef", "_fullres"))}
    found = {str(key): number(value) for key, value in {**beside, **given}.items()}
    found = {key: value for key, value in found.items() if value is not None}
    images = _images(entry["images"] if "images" in entry else _beside(entry), found, where)
    for name in images:  # Seurat names the factor as the image, and squidpy 1.2 the image as its file
        short = name.removeprefix("tissue_").removesuffix("_image")
        for factor in (name, f"tissue_{short}_scalef", f"{short}_scalef"):
            if factor in found:
                found.setdefault(f"tissue_{name}_scalef", found[factor])
    for short, name in SEURAT.items():
        if short in found:
            found.setdefault(name, found[short])
    if FULL in images:
        found.setdefault(f"tissue_{FULL}_scalef", 1.0)
    return {**entry, "images": images, "scalefactors": found}


def _factors(factors, where: str) -> dict:
    """Scale factors of a dict, of the text of a JSON, of one row of a table, or of these one level below."""
    if isinstance(factors, str | bytes):
        try:
            factors = json.loads(factors)
        except ValueError:
            factors = ()
    if isinstance(factors, pd.DataFrame) and len(factors) == 1:
        factors = factors.iloc[0].to_dict()
    if factors is None:
        return {}
    if not isinstance(factors, Mapping):
        raise ValueError(f"{where}['scalefactors'] must be a dict of numbers, such as 'tissue_hires_scalef'.")
    inner = list(factors.values())
    return dict(inner[0]) if len(inner) == 1 and isinstance(inner[0], Mapping) else dict(factors)


def _beside(entry: Mapping):
    """Images that stand under another name than "images", or each under its own."""
    other = next((entry[name] for name in IMAGES if name in entry), None)
    if other is not None:
        return other
    return {key: value for key, value in entry.items() if np.ndim(value) == 3} or None


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
