"""Whether a stored embedding is that of these sites, images and encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import pandas as pd

from snrmix.data.sites import Sites, patch_sides
from snrmix.images.colour import COLOUR_FEATURES
from snrmix.images.encoder import Encoder, probe
from snrmix.images.picture import coarse_sample
from snrmix.images.source import SectionImage

CACHE_KEY = "X_histology"
SIDE_TOLERANCE = 0.02  # the pitch measured on some of the sites differs a little from that of all
PROBE_TOLERANCE = 2e-3  # of the root mean square: what devices differ by


def describe(sites: Sites, encoder: Encoder, scales: np.ndarray, device: str) -> dict:
    """What an embedding depends on, in types that ``uns`` can store."""
    return {
        "encoder": encoder.name,
        "encoder_size": encoder.size,
        "colour_features": COLOUR_FEATURES,
        "encoder_probe": probe(encoder, device),
        "scales": scales,
        "libraries": np.array(sites.libraries, dtype=object),
        "images": np.array([_image_fingerprint(image) for image in sites.images], dtype=object),
        "patch_side": patch_sides(sites, scales),
        "sites": np.sort(site_hashes(sites)),
    }


def is_reusable(cached, record: dict) -> bool:
    """Whether features of these sites, or of these and others, were computed in the same way."""
    features, old = cached
    if not isinstance(old, Mapping) or not set(record) <= set(old):
        return False
    if not set(record["libraries"]) <= {str(name) for name in old["libraries"]}:
        return False
    rows = _library_rows(old, record)
    return (
        features.ndim == 2
        and features.shape[1] % len(record["scales"]) == 0
        and all(old[key] == record[key] for key in ("encoder", "encoder_size", "colour_features"))
        and np.array_equal(old["scales"], record["scales"])
        and same_encoder(np.asarray(old["encoder_probe"]), record["encoder_probe"])
        and np.array_equal(old["images"][rows], record["images"])
        and np.allclose(old["patch_side"][rows], record["patch_side"], rtol=SIDE_TOLERANCE)
        and bool(np.isin(record["sites"], old["sites"]).all())
    )


def same_encoder(old: np.ndarray, new: np.ndarray) -> bool:
    """Whether two probes, see `snrmix.images.encoder.probe`, are of one encoder."""
    if old.shape != new.shape:
        return False
    return not new.size or bool(np.abs(old - new).max() <= PROBE_TOLERANCE * np.sqrt(np.mean(new**2)))


def made_from(old: Mapping, record: dict) -> dict:
    """Sides of the patches, spacing of the grid, and what ran the encoder, of an older embedding, for a record's libraries."""
    rows = _library_rows(old, record)
    sides = old["patch_side"][rows]
    spacing = old["grid_spacing"][rows] if "grid_spacing" in old else 0 * sides
    return {"patch_side": sides, "grid_spacing": spacing, "run_time": str(old.get("run_time", "torch"))}


def _library_rows(old: Mapping, record: dict) -> list[int]:
    """Where the libraries of a record are in an older one, which may have more."""
    known = [str(name) for name in old["libraries"]]
    return [known.index(name) for name in record["libraries"]]


def site_hashes(sites: Sites) -> np.ndarray:
    """One 64-bit hash per site of its name, library and position: the same in any order and any subset."""
    x, y = sites.positions.astype(np.float32).T + 0.0  # single precision forgives what reading again may round
    library = np.asarray(sites.libraries, dtype=object)[sites.library]
    frame = pd.DataFrame({"name": sites.names.astype(object), "library": library, "x": x, "y": y})
    return pd.util.hash_pandas_object(frame, index=False).to_numpy()


def _image_fingerprint(image: SectionImage) -> str:
    """Hash of the frame and a coarse sample of the pixels of an image."""
    digest = hashlib.blake2b(digest_size=12)
    digest.update(repr([level.pixels.shape for level in image.levels]).encode())
    digest.update(np.round(image.levels[-1].affine, 9).tobytes())
    digest.update(np.ascontiguousarray(coarse_sample(image.levels[-1].pixels)).tobytes())
    return digest.hexdigest()


def read_cache(table, sites: Sites):
    """The embedding an earlier call left in the table, in site order, with its record; ``None`` where there is none."""
    if CACHE_KEY not in table.obsm or CACHE_KEY not in table.uns:
        return None
    return np.asarray(table.obsm[CACHE_KEY])[sites.order], table.uns[CACHE_KEY]


def check_cache_free(table) -> None:
    """Refuse to write over something else of the same name.

    Raises
    ------
    ValueError
        Where ``obsm["X_histology"]`` is no embedding of this package.
    """
    record = table.uns.get(CACHE_KEY)
    is_ours = isinstance(record, Mapping) and "encoder_probe" in record
    if not is_ours and (CACHE_KEY in table.obsm or record is not None):
        raise ValueError(
            f"obsm[{CACHE_KEY!r}] or uns[{CACHE_KEY!r}] is there and not of snrmix, and would be overwritten: rename it, e.g. "
            f"adata.obsm['histology'] = adata.obsm.pop({CACHE_KEY!r}); use_rep='histology' uses it."
        )


def write_cache(table, sites: Sites, embedding) -> None:
    """Store the embedding where the next call looks for it."""
    table.obsm[CACHE_KEY] = sites.to_rows(embedding.features)
    table.uns[CACHE_KEY] = embedding.record
