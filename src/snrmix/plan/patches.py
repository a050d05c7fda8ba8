"""Patches of all sites of a section, read once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from snrmix._progress import advance, stage
from snrmix.engine.patches import PatchStore, allocate
from snrmix.images.crops import read_crops

if TYPE_CHECKING:
    from snrmix.data.sites import Sites


def read_patches(sites: Sites, sides, size: int, folder: str | None = None) -> PatchStore:
    """Decode the patches around every site.

    Parameters
    ----------
    sites
        With images.
    sides
        Sides of the patches in units of the frame, shape (libraries, scales), see `snrmix.data.sites.patch_sides`.
    size
        Side of the result in pixels.
    folder
        Where patches that do not fit in memory may be put.

    Returns
    -------
    PatchStore
        In site order.

    Raises
    ------
    ValueError
        When neither memory nor disk can hold them; nothing was read then.
    """
    scales = sides.shape[1]
    pixels = allocate(len(sites), scales, size, folder)
    with stage("reading patches", len(sites) * scales):
        for code, image in enumerate(sites.images):
            rows, level = (sites.library == code).nonzero()[0], None
            for scale, side in enumerate(sides[code]):
                wanted = image.level_for(side, size)
                if wanted is not level:
                    level, loaded = wanted, wanted.in_memory()
                for chosen, crops in read_crops(loaded, sites.positions[rows], side, size):
                    pixels[rows[chosen], scale] = crops
                    advance(len(chosen))
    return PatchStore.of(pixels)
