"""What the engine knows of an object, as arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from snrmix.engine.patches import PatchStore

Neighbours = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Section:
    """Everything the engine needs to know of an object, as arrays in canonical order.

    Parameters
    ----------
    features
        Shape (n, d), of all sites, not standardised.
    colour
        Which features are colour statistics, bool, shape (d,).
    positions
        Shape (n, 2), in lattice pitches.
    library
        Shape (n,), int codes.
    measured
        Shape (m,), indices of the measured sites, ascending.
    expression
        float32, shape (m, genes), of the measured sites, log units.
    depth
        Shape (m,), counts per measured spot.
    neighbours
        From indices of training spots (into the measured ones) and ``k`` to their ``k`` nearest training spots of the
        same library: positions in that list, shape (train, k), -1 where there are fewer. A third argument, values of
        these spots, shape (train, outputs), says in what space they are near; by default in the tissue.
    patches
        Of all sites; only for fine-tuning.
    site_depth
        Shape (n,): counts per site where they are known, NaN elsewhere; ``None`` where not even those of measured sites
        are.
    """

    features: np.ndarray
    colour: np.ndarray
    positions: np.ndarray
    library: np.ndarray
    measured: np.ndarray
    expression: np.ndarray
    depth: np.ndarray
    neighbours: Neighbours
    patches: PatchStore | None = None
    site_depth: np.ndarray | None = None

    @property
    def unmeasured(self) -> np.ndarray:
        """Indices of the other sites, ascending."""
        return np.setdiff1d(np.arange(len(self.library)), self.measured, assume_unique=True)
