"""Which patches are cut around a site: their sides as multiples of the pitch of the array."""

from __future__ import annotations

import numpy as np

from snrmix._log import logger
from snrmix._names import listing
from snrmix.data.sites import Sites, patch_sides
from snrmix.images.patch_grid import Grid, patch_grid

AUTO = "auto"
COARSE_SCALES = (1.15, 2.3, 4.6)
FINE_SCALES = {0.3: 40.0, 0.6: 19.0}  # pixels of the image along a patch, from which it adds to those above it


def check_scales(scales) -> np.ndarray | str:
    """Sides of the patches in pitches as an array, or ``"auto"``; refused where they are not positive numbers."""
    if isinstance(scales, str) and scales == AUTO:
        return scales
    try:
        values = np.atleast_1d(np.asarray(scales, float))
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.ndim != 1 or not len(values) or not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(
            f"scales={scales!r} must be positive multiples of the spot pitch, e.g. {COARSE_SCALES}, or {AUTO!r}."
        )
    return values


def choose_scales(scales: np.ndarray | str, sites: Sites) -> np.ndarray:
    """The given scales; for ``"auto"`` `COARSE_SCALES`, and those of `FINE_SCALES` that the images of all libraries resolve.

    Where sites are so dense that even large patches are embedded on a grid, fine ones would be cut for nearly every site: they
    are left out.

    Parameters
    ----------
    scales
        See `check_scales`.
    sites
        With images.
    """
    if not isinstance(scales, str):
        return scales
    fine, pixels = [], pixels_per_side(sites)
    if not any(grid for row in patch_grids(sites, patch_sides(sites, COARSE_SCALES)) for grid in row):
        fine = [scale for scale, fewest in FINE_SCALES.items() if scale * pixels.min() >= fewest]
    return np.array(sorted((*fine, *COARSE_SCALES)))


def pixels_per_side(sites: Sites) -> np.ndarray:
    """Pixels along the side of a patch of one pitch, on the finest level of the image of each library."""
    sides = patch_sides(sites, [1.0])[:, 0]
    return np.array([side * image.levels[0].scale.min() for side, image in zip(sides, sites.images, strict=True)])


def tell_scales(scales: np.ndarray, sites: Sites) -> None:
    """Log which scales were chosen, and where the image of one library keeps finer ones from all."""
    pixels, fine = pixels_per_side(sites), [scale for scale in FINE_SCALES if scale not in scales]
    coarse = [name for name, own in zip(sites.libraries, pixels, strict=True) if own <= 1.02 * pixels.min()]
    why = ""
    if any((scale * pixels.max()) >= FINE_SCALES[scale] for scale in fine):
        why = f"; the image of {listing(coarse)} holds no more, and one model takes the same from all"
    logger.info(
        "patches of %s spot pitches, the smallest of %.0f px%s.",
        ", ".join(f"{scale:.3g}" for scale in scales), scales.min() * pixels.min(), why,
    )  # fmt: skip


def patch_grids(sites: Sites, sides: np.ndarray) -> list[list[Grid | None]]:
    """For every library and scale the grid of patches that is embedded, ``None`` where every site has its own patch.

    Parameters
    ----------
    sides
        See `patch_sides`.
    """
    positions = [sites.positions[sites.library == code] for code in range(len(sites.libraries))]
    return [[patch_grid(own, side) for side in row] for own, row in zip(positions, sides, strict=True)]
