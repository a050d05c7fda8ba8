"""Histology features of every site, computed once and recognised when they can be reused."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from snrmix._log import logger
from snrmix.images.crops import read_crops
from snrmix.images.encoders import COLOUR_FEATURES, Encoder, colour_statistics, encode, resolve_encoder
from snrmix.sites import Sites, site_hashes

CACHE_KEY = "X_histology"
DEFAULT_SCALES = (1.15, 2.3, 4.6)
SMALLEST_UNIT_UM = 50.0  # arrays finer than this get patches in multiples of it: one bin of 8 um has no texture


@dataclass(frozen=True)
class Embedding:
    """Features of all sites and what they were computed from.

    Parameters
    ----------
    features
        Shape (n, scales x (encoder features + 12)), float16 (float32 where the encoder's values need it), site order.
    record
        What ``uns`` keeps to recognise the features: encoder, scales, fingerprint of the image, hashes of the sites.
    """

    features: np.ndarray
    record: dict

    @property
    def colour_columns(self) -> np.ndarray:
        """Which features are colour statistics, bool, shape (features,)."""
        per_scale = self.features.shape[1] // len(self.record["scales"])
        return np.tile(np.arange(per_scale) >= per_scale - COLOUR_FEATURES, len(self.record["scales"]))


def patch_sides(sites: Sites, scales) -> np.ndarray:
    """Side of the patches in units of the frame, shape (libraries, scales): multiples of the pitch.

    Where micrometres are known and the pitch is below 50 um, multiples of 50 um.
    """
    smallest = np.where(np.isfinite(sites.um_per_px), SMALLEST_UNIT_UM / sites.um_per_px, 0.0)
    return np.maximum(sites.pitch, smallest)[:, None] * np.asarray(scales, float)[None]


def compute_embedding(
    sites: Sites, encoder="efficientnet_lite0", scales=DEFAULT_SCALES, device: str = "cpu", cached=None
) -> Embedding:
    """Embed the patches around every site, or reuse what is ``cached``.

    Parameters
    ----------
    sites
        With images.
    encoder
        See `snrmix.images.resolve_encoder`.
    scales
        Sides of the patches in lattice pitches.
    device
        torch device of the encoder.
    cached
        ``(features in site order, record)`` of an earlier call, or ``None``.

    Raises
    ------
    ValueError
        For scales that are not positive, or an encoder whose output is not (patches, features) and finite.
    """
    scales = tuple(float(s) for s in np.atleast_1d(scales))
    if not scales or min(scales) <= 0:
        raise ValueError(f"scales={scales} must be positive multiples of the spot pitch, e.g. {DEFAULT_SCALES}.")
    encoder = resolve_encoder(encoder)
    record = {
        "encoder": encoder.name,
        "scales": np.array(scales),
        "image": _image_fingerprint(sites, scales, encoder.size),
        "patch_side": patch_sides(sites, scales),
        "libraries": np.array(sites.libraries, dtype=object),
        "sites": np.sort(site_hashes(sites)),
    }
    if cached is not None and _reusable(cached, record, len(sites)):
        logger.info("reusing the histology embedding in obsm[%r].", CACHE_KEY)
        return Embedding(cached[0], {**record, "sites": cached[1]["sites"]})
    if np.isnan(sites.um_per_px).any():
        unknown = [name for name, um in zip(sites.libraries, sites.um_per_px, strict=True) if np.isnan(um)]
        logger.warning(
            "micrometres per pixel unknown for %s: patches are sized in multiples of the spot pitch. Pass um_per_px= to set it.",
            ", ".join(unknown),
        )  # fmt: skip
    return Embedding(_embed(sites, encoder, record["patch_side"], device), record)


def _embed(sites: Sites, encoder: Encoder, sides: np.ndarray, device: str) -> np.ndarray:
    if hasattr(encoder.function, "to"):
        encoder.function.to(device)
        encoder.function.eval()
    blocks: list[list[np.ndarray]] = [[] for _ in range(sides.shape[1])]
    with tqdm(total=len(sites) * sides.shape[1], desc="embedding histology", unit="patch", leave=False) as progress:
        for scale in range(sides.shape[1]):
            for code, image in enumerate(sites.images):
                rows = np.flatnonzero(sites.library == code)
                blocks[scale].append(
                    _embed_library(sites.positions[rows], image, sides[code, scale], encoder, device, progress)
                )
    by_library = np.concatenate([np.flatnonzero(sites.library == code) for code in range(len(sites.libraries))])
    features = np.concatenate([np.concatenate(block) for block in blocks], axis=1)
    return features[np.argsort(by_library, kind="stable")]


def _embed_library(positions, image, side: float, encoder: Encoder, device: str, progress) -> np.ndarray:
    level, features = image.level_for(side, encoder.size), None
    for chosen, crops in read_crops(level, positions, side, encoder.size, batch=64):
        values = np.concatenate([encode(encoder, crops, device), colour_statistics(crops)], axis=1)
        if features is None:
            dtype = np.float16 if np.abs(values).max() < 1e4 else np.float32
            features = np.empty((len(positions), values.shape[1]), dtype)
        if features.dtype == np.float16 and np.abs(values).max() >= 6e4:
            features = features.astype(np.float32)
        features[chosen] = values
        progress.update(len(chosen))
    return features


def _reusable(cached, record: dict, n_sites: int) -> bool:
    features, old = cached
    same = (
        len(features) == n_sites
        and old.get("encoder") == record["encoder"]
        and np.array_equal(old.get("scales"), record["scales"])
        and old.get("image") == record["image"]
    )
    return bool(same and np.isin(record["sites"], old["sites"]).all())


def _image_fingerprint(sites: Sites, scales, size: int) -> str:
    """Hash of the frames, the patch sizes and a coarse sample of the pixels of every image."""
    digest = hashlib.blake2b(digest_size=12)
    digest.update(repr((scales, size)).encode())
    for code, image in enumerate(sites.images):
        digest.update(np.round(patch_sides(sites, scales)[code], 6).tobytes())
        level = image.levels[-1]
        digest.update(repr([(lv.pixels.shape, str(lv.pixels.dtype)) for lv in image.levels]).encode())
        digest.update(np.round(level.affine, 9).tobytes())
        step = max(1, int(max(level.pixels.shape[:2]) // 256))
        digest.update(np.ascontiguousarray(np.asarray(level.pixels[::step, ::step])).tobytes())
    return digest.hexdigest()


def read_cache(table, sites: Sites):
    """The embedding an earlier call left in the table, in site order, with its record; ``None`` where there is none."""
    if CACHE_KEY not in table.obsm or CACHE_KEY not in table.uns:
        return None
    return np.asarray(table.obsm[CACHE_KEY])[sites.order], table.uns[CACHE_KEY]


def write_cache(table, sites: Sites, embedding) -> None:
    """Store the embedding where the next call looks for it."""
    table.obsm[CACHE_KEY] = sites.to_rows(embedding.features)
    table.uns[CACHE_KEY] = embedding.record


def choose_device(accelerator: str) -> str:
    """The torch device that a Lightning accelerator name means on this machine."""
    import torch

    gpu = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else None
    if accelerator == "auto":
        return gpu or "cpu"
    if accelerator in ("gpu", "cuda", "mps"):
        if gpu is None:
            raise ValueError(
                f"accelerator={accelerator!r}, but torch sees no GPU here; use accelerator='auto' or 'cpu'."
            )
        return gpu
    if accelerator == "cpu":
        return "cpu"
    raise ValueError(f"accelerator={accelerator!r}; choose 'auto', 'cpu', 'gpu' or 'mps'.")
