"""What depth has to do with a layer at held-out spots: values put back to the spot's depth, and scores beyond depth."""

from __future__ import annotations

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

    @property
    def _train(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of ``expression`` that were imputed from, their depths and libraries."""
        spots = self.spots
        rows = np.flatnonzero(spots.measured[spots.observed])
        return rows, spots.expression.depth[rows], spots.sites.library[spots.observed][rows]

    def at_spot(self, values: np.ndarray, genes: np.ndarray) -> np.ndarray:
        """Values of the layer as they would be observed at the spot, (held, genes): those at a typical depth are moved."""
        typical = self.spots.result.typical_depth()
        if typical is None:
            return values
        typical = typical[self.spots.rows]
        rows, depth, _ = self._train
        share = gene_rates(self.spots.expression.values[rows][:, genes], depth)
        moments = tabulate_moments(np.concatenate([depth, self.assumed, typical]))
        return move_depth(values, moments, share, typical, self.assumed).astype(np.float64)

    def alone(self, genes: np.ndarray) -> GivenDepth | None:
        """Genes that follow depth alone, at the depths of the spots, and at those assumed; ``None`` where depths are unknown."""
        if self.spots.depth is None:
            return None
        rows, depth, library = self._train
        train = self.spots.expression.values[rows][:, genes], depth, library, self.spots.library
        return GivenDepth(
            *(constant_share_at(*train, at).astype(np.float64) for at in (self.spots.depth, self.assumed))
        )


def read_depth(spots: HeldOut) -> HeldOutDepth | None:
    """Depths that a result assumes of held-out spots; ``None`` where it knows none, as those of earlier versions."""
    result = spots.result
    if result.name(DEPTH) not in result.table.obs:
        return None
    assumed = result.table.obs[result.name(DEPTH)].to_numpy(float)[spots.rows]
    return HeldOutDepth(spots, assumed) if np.isfinite(assumed).all() else None


def fitted_means(spots: HeldOut, expression: np.ndarray) -> np.ndarray | float:
    """Mean of the measured spots that each held-out spot was predicted from, (held, genes): they differ between folds.

    Parameters
    ----------
    expression
        Shape (observed, genes).

    Returns
    -------
    numpy.ndarray
        0.0 where no held-out spot is a measured one, or folds are not known: a constant changes no correlation.
    """
    result = spots.result
    if result.name(FOLD) not in result.table.obs or not (spots.held & spots.measured).any():
        return 0.0
    fold = result.table.obs[result.name(FOLD)].to_numpy(int)[spots.sites.order]
    measured, library = spots.measured[spots.observed], spots.sites.library[spots.observed]
    means, own_fold = np.empty((spots.held.sum(), expression.shape[1])), fold[spots.held]
    for code in np.unique(spots.library):
        for k in np.unique(own_fold[spots.library == code]):
            train = measured & (library == code) & ((fold[spots.observed] != k) | (k < 0))
            train = train if train.any() else measured
            means[(spots.library == code) & (own_fold == k)] = expression[train].mean(0)
    return means
