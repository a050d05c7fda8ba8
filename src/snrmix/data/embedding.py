"""Histology features of every site, computed once and recognised when they can be reused."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from snrmix._log import logger
from snrmix._names import listing
from snrmix._progress import advance, fastest, stage
from snrmix.data.embedding_cache import CACHE_KEY, describe, is_reusable, made_from
from snrmix.data.scales import AUTO, check_scales, choose_scales, patch_grids, tell_scales
from snrmix.data.sites import Sites, patch_sides
from snrmix.images.colour import COLOUR_FEATURES, colour_statistics
from snrmix.images.crops import read_crops
from snrmix.images.encoder import Encoder, on_device
from snrmix.images.encoders import resolve_encoder
from snrmix.images.patch_grid import Grid
from snrmix.images.run_time import Running, running
from snrmix.images.source import Level
from snrmix.images.stains import Stains, fit_stains, restain, to_common

FEW_PATCHES = 200  # take no time that would be worth an estimate
STAIN_SITES = 150  # by whose patches the stains of a slide are known
STAIN_SIZE, STAIN_SCALE = 64, 1.15  # their pixels and spot pitches


@dataclass(frozen=True)
class Embedding:
    """Features of all sites and what they were computed from.

    Parameters
    ----------
    features
        Shape (n, scales x (encoder features + 22)), float16 (float32 where the encoder's values need it), site order.
    record
        What ``uns`` keeps: what recognises the features (encoder, scales, fingerprints of the images, hashes of the
        sites), and ``grid_spacing``, (libraries, scales), in units of the frame: the spacing of the grid of patches that
        features are interpolated from, 0 where every site has a patch of its own; ``run_time``, what ran the encoder; and
        ``scales_by``, whether the scales were given, or chosen by the pixels of the image.
    """

    features: np.ndarray
    record: dict

    @property
    def colour_columns(self) -> np.ndarray:
        """Which features are colour statistics, bool, shape (features,)."""
        per_scale = self.features.shape[1] // len(self.record["scales"])
        return np.tile(np.arange(per_scale) >= per_scale - COLOUR_FEATURES, len(self.record["scales"]))


@dataclass(frozen=True)
class EmbeddingPlan:
    """What it takes to embed the patches around every site, or the embedding that can be reused.

    Parameters
    ----------
    sites, encoder, device
        What will be embedded, with what, and where.
    record
        See `Embedding`.
    reused
        Features of an earlier call; ``None``: there are none, or they are of something else.
    grids
        See `patch_grids`.
    width
        Features of a site, over all scales.
    patches
        Patches to embed.
    patch_seconds
        Time that the encoder takes for one; 0 where they are few.
    stains
        For every library the matrix that brings its stains to those of all, see `snrmix.images.stains.to_common`; ``None``:
        patches are seen as they are.
    """

    sites: Sites
    encoder: Encoder
    device: str
    record: dict
    reused: np.ndarray | None
    grids: list[list[Grid | None]]
    width: int
    patches: int = 0
    patch_seconds: float = 0.0
    stains: list[np.ndarray] | None = None

    @property
    def scales(self) -> int:
        """Number of scales."""
        return len(self.record["scales"])

    def embed(self) -> Embedding:
        """Do it.

        Raises
        ------
        ValueError, TypeError
            For an encoder whose output is not (patches, features) and finite.
        """
        if self.reused is not None:
            return Embedding(self.reused, self.record)
        with running(self.encoder, self.device) as encode:
            features = _embed(self.sites, encode, self.record["patch_side"], self.grids, self.stains)
            return Embedding(features, {**self.record, "run_time": encode.name})

    def in_common_stains(self) -> EmbeddingPlan | None:
        """The same for patches as if all slides were stained alike; ``None`` where their stains cannot be told."""
        stains = [own for own in map(self._stains, range(len(self.sites.images))) if own is not None]
        if len(stains) < max(len(self.sites.images), 2):
            return None
        grids = self.grids or patch_grids(self.sites, self.record["patch_side"])
        patches, seconds = count_patches(self.sites, grids), self.patch_seconds
        if self.reused is not None and patches > FEW_PATCHES:
            with on_device(self.encoder.function, self.device):
                seconds = patch_seconds(self.encoder, self.device)
        how = {"grids": grids, "patches": patches, "patch_seconds": seconds}
        return replace(self, reused=None, stains=to_common(stains), **how)

    def _stains(self, code: int) -> Stains | None:
        """Of a library, by the looks of its sites."""
        positions, image = self.sites.positions[self.sites.library == code], self.sites.images[code]
        some = np.unique(np.linspace(0, len(positions) - 1, STAIN_SITES).astype(int))
        side = patch_sides(self.sites, np.array([STAIN_SCALE]))[code, 0]
        crops = read_crops(image.level_for(side, STAIN_SIZE), positions[some], side, STAIN_SIZE)
        return fit_stains(np.concatenate([own.reshape(-1, 3) for _, own in crops]))


def plan_embedding(
    sites: Sites, encoder="efficientnet_lite0", scales=AUTO, device: str = "cpu", cached=None
) -> EmbeddingPlan:
    """Find out what it takes to embed the patches around every site, and whether that is needed.

    Parameters
    ----------
    sites
        With images.
    encoder
        See `snrmix.images.resolve_encoder`.
    scales
        Sides of the patches in lattice pitches, or ``"auto"``, see `snrmix.data.scales.choose_scales`.
    device
        torch device of the encoder.
    cached
        ``(features in site order, record)`` of an earlier call, or ``None``.

    Raises
    ------
    ValueError, TypeError
        For scales that are not positive, or an encoder whose output is not (patches, features) and finite.
    """
    given = check_scales(scales)
    scales, encoder = choose_scales(given, sites), resolve_encoder(encoder)
    with on_device(encoder.function, device):
        record = describe(sites, encoder, scales, device)
        by = {"scales_by": "pixels" if isinstance(given, str) else "call"}
        if cached is not None and is_reusable(cached, record):
            logger.info("reusing the histology embedding in obsm[%r].", CACHE_KEY)
            record = {**record, **made_from(cached[1], record), **by}
            return EmbeddingPlan(sites, encoder, device, record, cached[0], [], cached[0].shape[1])
        record |= by
        if isinstance(given, str):
            tell_scales(scales, sites)
        _warn_of_unknown_scale(sites)
        grids = patch_grids(sites, record["patch_side"])
        patches, features = count_patches(sites, grids), len(record["encoder_probe"]) // 2 + COLOUR_FEATURES
        seconds = patch_seconds(encoder, device) if patches > FEW_PATCHES else 0.0
        record["grid_spacing"] = np.array([[grid.spacing if grid else 0.0 for grid in own] for own in grids])
        return EmbeddingPlan(sites, encoder, device, record, None, grids, features * len(scales), patches, seconds)


def compute_embedding(sites: Sites, *args, **options) -> Embedding:
    """Embed the patches around every site, or reuse what there is; parameters and errors are those of `plan_embedding`."""
    return plan_embedding(sites, *args, **options).embed()


def _warn_of_unknown_scale(sites: Sites) -> None:
    unknown = [name for name, um in zip(sites.libraries, sites.um_per_px, strict=True) if np.isnan(um)]
    if unknown:
        logger.warning(
            "micrometres per pixel unknown for %s: patches are sized in multiples of the spot pitch. "
            "Pass um_per_px= to set it.", listing(unknown),
        )  # fmt: skip


def count_patches(sites: Sites, grids: list[list[Grid | None]]) -> int:
    """Patches to cut and encode, over all libraries and scales."""
    own = np.bincount(sites.library, minlength=len(grids))
    return sum(len(grid.nodes) if grid else int(n) for n, row in zip(own, grids, strict=True) for grid in row)


def patch_seconds(encoder: Encoder, device: str, times: int = 24) -> float:
    """Time that the encoder takes for a patch: the fastest of some tries, short ones, that other work leaves alone."""
    count = 1 if device == "cpu" else 64
    crops = np.random.default_rng(0).integers(256, size=(count, encoder.size, encoder.size, 3), dtype=np.uint8)
    with running(encoder, device) as encode:
        return fastest(lambda: (encode(crops), colour_statistics(crops)), times) / count


def _embed(sites: Sites, encode: Running, sides: np.ndarray, grids, stains=None) -> np.ndarray:
    libraries, size = [], encode.encoder.size
    with stage("embedding", count_patches(sites, grids)):
        for code, image in enumerate(sites.images):
            positions, scales, level = sites.positions[sites.library == code], [], None
            for side, grid in zip(sides[code], grids[code], strict=True):
                wanted = image.level_for(side, size)
                if wanted is not level:
                    level, pixels = wanted, wanted.in_memory()
                centres = positions if grid is None else grid.nodes
                features = _embed_scale(centres, pixels, side, encode, stains and stains[code])
                scales.append(features if grid is None else grid.at_sites(features))
            libraries.append(np.concatenate(scales, axis=1))
    return libraries[0] if len(libraries) == 1 else np.concatenate(libraries)  # sites are sorted by library


def _embed_scale(positions, level: Level, side: float, encode: Running, stains: np.ndarray | None) -> np.ndarray:
    features = None
    for chosen, crops in read_crops(level, positions, side, encode.encoder.size, batch=64):
        crops = crops if stains is None else restain(crops, stains)
        values = np.concatenate([encode(crops), colour_statistics(crops)], axis=1)
        if features is None:
            dtype = np.float16 if np.abs(values).max() < 1e4 else np.float32
            features = np.empty((len(positions), values.shape[1]), dtype)
        if features.dtype == np.float16 and np.abs(values).max() >= 6e4:
            features = features.astype(np.float32)
        features[chosen] = values
        advance(len(chosen))
    return features
