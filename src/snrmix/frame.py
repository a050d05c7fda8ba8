"""Whether an image and the positions of sites can be in the same frame: the commonest mistake with histology."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from snrmix._log import logger
from snrmix.images.source import SectionImage
from snrmix.lattice import Lattice

SMALLEST_UNIT_PX = 4
FEW_PX = 12
WIDEST_SPOT = 2.0  # spot diameter in pitches; real arrays have 0.5 to 1

REMEDIES = {
    "image": "image= must be in the pixels of obsm['spatial']: pass the full-resolution image. A smaller one belongs "
    "in uns['spatial'][library]['images'], with its scale in ['scalefactors']['tissue_<name>_scalef'].",
    "uns": "obsm['spatial'] must be in full-resolution pixels, and uns['spatial'][library]['scalefactors']"
    "['tissue_<name>_scalef'] the pixels of the image per pixel of obsm['spatial'].",
    "spatialdata": "Check the transformations of image and region (spatialdata.transformations.set_transformation), or "
    "choose another image with image_key=.",
}


def check_frame(image: SectionImage, positions: np.ndarray, unit: float, source: str) -> None:
    """Refuse an image whose frame cannot be that of the positions.

    Parameters
    ----------
    positions
        Shape (n, 2), in units of the frame.
    unit
        Side of the smallest patch over its scale, in units of the frame.
    source
        Where the image came from, a key of `REMEDIES`.

    Raises
    ------
    ValueError
        When positions lie outside the image, or a patch of one unit has fewer than 4 pixels along its side.
    """
    level, remedy = image.levels[0], REMEDIES[source]
    pixels = level.locate(positions)
    height, width = level.pixels.shape[:2]
    outside = ((pixels < 0) | (pixels > [width, height])).any(1)
    if outside.any():
        (left, top), (right, bottom) = pixels.min(0), pixels.max(0)
        raise ValueError(
            f"{outside.sum()} of {len(outside)} spots lie outside the {image.name} ({width} x {height} px): they span "
            f"x {left:.0f}..{right:.0f}, y {top:.0f}..{bottom:.0f} in its pixels. {remedy}"
        )
    side = unit * level.scale.min()
    if side < SMALLEST_UNIT_PX:
        raise ValueError(
            f"neighbouring spots are {side:.1f} px apart on the {image.name} ({width} x {height} px), too close for "
            f"patches. {remedy}"
        )
    if side < FEW_PX:
        logger.warning(
            "neighbouring spots are only %.1f px apart on the %s: patches carry colour but little texture; "
            "pass the full-resolution image with image= where you have it.", side, image.name,
        )  # fmt: skip


def check_spot_diameter(factors: Mapping, lattice: Lattice, library: str) -> None:
    """Refuse coordinates that were scaled to an image while the scale factors speak of full-resolution pixels.

    Raises
    ------
    ValueError
        When spots would be more than twice as wide as the array is spaced.
    """
    diameter = float(factors.get("spot_diameter_fullres", np.nan))
    if lattice.is_fitted and diameter > WIDEST_SPOT * lattice.pitch:
        raise ValueError(
            f"uns['spatial'][{library!r}]['scalefactors']['spot_diameter_fullres'] is {diameter:.1f} px, but "
            f"neighbouring spots are {lattice.pitch:.1f} px apart in obsm['spatial']: it is not in full-resolution "
            "pixels. Divide it by 'tissue_hires_scalef' if it was scaled to the hires image."
        )
