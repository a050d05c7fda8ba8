"""What depth has to do with a layer at held-out spots: values put back to the spot's depth, and scores beyond depth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from snrmix.data.results import DEPTH, FOLD
from snrmix.engine.at_depth import GivenDepth
from snrmix.engine.depth import constant_share_at, gene_rates, move_depth, tabulate_moments
from snrmix.tl._held_out import HeldOut


@dataclass(frozen=True)
class HeldOutDepth:
    """Depths of the held-out spots of a result.

    Parameters
    ----------
    spots
        The spots.
    assumed
        Shape (held,): the depth that the imputation assumes of each spot, in counts.
    """

    spots: HeldOut
    assumed: np.ndarray

    def at_spot(self, values: np.ndarray, genes: np.ndarray) -> np.ndarray:
        """Values of the layer as they would be observed at the spot, (held, genes): those at a typical depth are moved."""
        typical = self.spots.result.typical_depth()
        if typical is None:
            return values
        typical = typical[self.spots.rows]
        rows = np.flatnonzero(self.spots.measured[self.spots.observed])
        depth = self.spots.expression.depth[rows]
        share = gene_rates(self.spots.expression.values[rows][:, genes], depth)
        moments = tabulate_moments(np.concatenate([depth, self.assumed, typical]))
        return move_depth(values, moments, share, typical, self.assumed).astype(np.float64)

    def alone(self, genes: np.ndarray) -> GivenDepth | None:
        """Genes that follow depth alone, see `GivenDepth`, with shares of the spots that each spot was predicted from.

        ``None`` where depths are unknown.
        """
        spots = self.spots
        if spots.depth is None:
            return None
        values, depth = spots.expression.values[:, genes], spots.expression.depth
        library, found = spots.sites.library[spots.observed], np.empty((3, len(spots.library), len(genes)))
        for own, train in predicted_from(spots):
            at = spots.depth[own], self.assumed[own], np.full(own.sum(), np.exp(np.log(depth[train]).mean()))
            known = values[train], depth[train], library[train], spots.library[own]
            for part, one in zip(found, at, strict=True):
                part[own] = constant_share_at(*known, one)
        return GivenDepth(*found)


def read_depth(spots: HeldOut) -> HeldOutDepth | None:
    """Depths that a result assumes of held-out spots; ``None`` where it knows none, as those of earlier versions."""
    result = spots.result
    if result.name(DEPTH) not in result.table.obs:
        return None
    assumed = result.table.obs[result.name(DEPTH)].to_numpy(float)[spots.rows]
    return HeldOutDepth(spots, assumed) if np.isfinite(assumed).all() else None


def predicted_from(spots: HeldOut) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Held-out spots that were predicted from the same measured ones: both as bool, shapes (held,) and (observed,).

    Unmeasured spots are predicted from all measured ones, these out-of-fold.
    """
    result, measured = spots.result, spots.measured[spots.observed]
    if result.name(FOLD) not in result.table.obs:
        yield np.ones(len(spots.library), bool), measured
        return
    fold = result.table.obs[result.name(FOLD)].to_numpy(int)[spots.sites.order]
    for k in np.unique(fold[spots.held]):
        yield fold[spots.held] == k, measured & ((fold[spots.observed] != k) | (k < 0))


def fitted_means(spots: HeldOut, expression: np.ndarray) -> np.ndarray | float:
    """Mean of the measured spots that each held-out spot was predicted from, (held, genes): they differ between folds.

    Parameters
    ----------
    expression
        Shape (observed, genes).

    Returns
    -------
    numpy.ndarray
        0.0 where no held-out spot is a measured one: a constant changes no correlation.
    """
    if not (spots.held & spots.measured).any():
        return 0.0
    library, means = spots.sites.library[spots.observed], np.empty((spots.held.sum(), expression.shape[1]))
    for own, train in predicted_from(spots):
        for code in np.unique(spots.library[own]):
            near = train & (library == code)
            near = near if near.any() else spots.measured[spots.observed]
            means[own & (spots.library == code)] = expression[near].mean(0)
    return means
