"""Graph smoothing: measured values diffuse over the spatial graph of all sites, measured or not.

The idea is that of MAGIC (van Dijk et al. 2018, doi:10.1016/j.cell.2018.05.061), on the graph of the tissue instead of a
graph of expression. With ``P`` the random walk over a site and its neighbours, ``M`` the mask of the measured sites and
``y`` their values less the mean, ``t`` steps give ``mean + (P^t M y) / (P^t M 1)``: dividing by the diffused mask leaves
out the sites that have nothing to pass on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from snrmix.engine.folds import Fold

NEIGHBOURS = 6
STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


def graph_smoothing(
    walk: sparse.csr_array, measured: np.ndarray, expression: np.ndarray, folds: Sequence[Fold], targets: np.ndarray
) -> np.ndarray:
    """Predict targets by as many steps as predict the held-out spots of the folds best.

    Parameters
    ----------
    walk
        Transition matrix over all sites, see `random_walk`.
    measured
        Shape (m,), indices of the measured sites.
    expression
        Shape (m, genes).
    folds
        Splits of the measured sites.
    targets
        Indices of the sites to predict.

    Returns
    -------
    numpy.ndarray
        float32, shape (len(targets), genes); the mean where no measured site is within reach.
    """
    error = np.zeros(len(STEPS))
    for fold in folds:
        observed, held_out = expression[fold.held_out], measured[fold.held_out]
        tried = diffuse(walk, measured[fold.train], expression[fold.train], held_out, STEPS)
        error += [float(((predicted - observed) ** 2).sum(dtype=np.float64)) for predicted in tried]
    return diffuse(walk, measured, expression, targets, (STEPS[int(np.argmin(error))],))[0]


def random_walk(neighbours: np.ndarray) -> sparse.csr_array:
    """Transition matrix from every site to itself and its neighbours, all equally likely, shape (n, n).

    Parameters
    ----------
    neighbours
        Shape (n, k), indices, -1 where there are fewer.
    """
    n, k = neighbours.shape
    rows, columns = np.repeat(np.arange(n), k), neighbours.ravel()
    present = columns >= 0
    here = np.arange(n)
    rows, columns = np.concatenate([here, rows[present]]), np.concatenate([here, columns[present]])
    share = 1 / np.bincount(rows, minlength=n)
    return sparse.csr_array((share[rows].astype(np.float32), (rows, columns)), shape=(n, n))


def diffuse(
    walk: sparse.csr_array, sources: np.ndarray, values: np.ndarray, targets: np.ndarray, steps: Sequence[int]
) -> list[np.ndarray]:
    """Values at the targets after each number of steps (ascending), float32, each of shape (len(targets), genes)."""
    mean = values.mean(0, dtype=np.float64).astype(np.float32)
    carried = np.zeros((walk.shape[0], values.shape[1] + 1), np.float32)  # the last column is the mask
    carried[sources, :-1], carried[sources, -1] = values - mean, 1
    found = []
    for step in range(1, steps[-1] + 1):
        carried = walk @ carried
        if step in steps:
            mass = carried[targets, -1:]
            found.append(mean + carried[targets, :-1] / np.where(mass > 0, mass, 1))
    return found
