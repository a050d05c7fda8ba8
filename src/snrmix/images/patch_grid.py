"""Patches of dense sites, interpolated from those of a grid: the cost follows the area of the image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

SPACING = 0.25  # of the side of a patch
SHARE = 0.5  # of the number of sites: a grid with fewer nodes than that is used
FEWEST_SITES = 1000  # fewer are soon embedded
SITES_AT_ONCE = 4096


@dataclass(frozen=True)
class Grid:
    """The nodes of a square grid around some sites, and their bilinear weights at these sites.

    Parameters
    ----------
    spacing
        Distance between neighbouring nodes in units of the frame.
    nodes
        Shape (nodes, 2), in units of the frame. They are multiples of the spacing, whatever the sites.
    weights
        Shape (sites, nodes), four entries a row that sum to 1.
    """

    spacing: float
    nodes: np.ndarray
    weights: sparse.csr_array

    def at_sites(self, features: np.ndarray) -> np.ndarray:
        """Features of the sites from those of the nodes, in their dtype, shape (sites, d)."""
        values = np.empty((self.weights.shape[0], features.shape[1]), features.dtype)
        features = features.astype(np.float32)
        for start in range(0, len(values), SITES_AT_ONCE):
            values[start : start + SITES_AT_ONCE] = self.weights[start : start + SITES_AT_ONCE] @ features
        return values


def patch_grid(positions: np.ndarray, side: float) -> Grid | None:
    """The grid that stands for patches around sites, or ``None`` where sites are few or it would not save half of them.

    Features of a patch change little over a quarter of its side.

    Parameters
    ----------
    positions
        Shape (n, 2), in units of the frame.
    side
        Side of the patches, likewise.
    """
    if len(positions) < FEWEST_SITES:
        return None
    spacing = side * SPACING
    place = positions / spacing
    low = np.floor(place).astype(np.int64)
    first = low.min(0)
    columns = int(low[:, 0].max() - first[0]) + 2
    corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    corner = (low - first)[:, None] + corners  # (n, 4, 2)
    number, index = np.unique(corner[..., 1] * columns + corner[..., 0], return_inverse=True)
    if len(number) >= SHARE * len(positions):
        return None
    nodes = (np.column_stack([number % columns, number // columns]) + first) * spacing
    beyond = (place - low)[:, None]
    weight = np.where(corners == 1, beyond, 1 - beyond).prod(2).astype(np.float32)
    starts = np.arange(len(positions) + 1) * 4
    shape = (len(positions), len(nodes))
    return Grid(spacing, nodes, sparse.csr_array((weight.ravel(), index.ravel(), starts), shape=shape))
