"""Who is near whom: the one search within a library that all distances and neighbourhoods come from; compact groups."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

MORE = 12  # neighbours searched beyond those asked for, so that ties at the last can be told


def nearest(
    positions: np.ndarray, library: np.ndarray, train: np.ndarray, targets: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Nearest training sites of every target in its library.

    Parameters
    ----------
    positions, library
        Shape (n, 2) and (n,), of all sites.
    train, targets
        Indices of sites. A target that is a training site is its own nearest.
    k
        Neighbours asked for.

    Returns
    -------
    tuple
        Positions in ``train``, nearest first and ties in the order of ``train``, -1 where the library has fewer; and
        distances, infinite there. Each of shape (targets, k).
    """
    found, distance = np.full((len(targets), k), -1), np.full((len(targets), k), np.inf)
    for code in np.unique(library[targets]):
        rows, own = np.flatnonzero(library[targets] == code), np.flatnonzero(library[train] == code)
        if not len(own):
            continue
        asked = min(k + MORE, len(own))
        away, near = cKDTree(positions[train[own]]).query(positions[targets[rows]], asked)
        away, near = away.reshape(len(rows), asked), near.reshape(len(rows), asked)
        by_tie = np.lexsort((near, np.round(away, 6)), axis=-1)[:, :k]
        columns = np.arange(by_tie.shape[1])
        found[rows[:, None], columns] = own[np.take_along_axis(near, by_tie, 1)]
        distance[rows[:, None], columns] = away[:, :k]
    return found, distance


def distance_to_measured(
    positions: np.ndarray, library: np.ndarray, measured: np.ndarray, sites: np.ndarray | None = None
) -> np.ndarray:
    """Distance of sites (default: the unmeasured) to the nearest measured site of their library, in pitches.

    Sites of libraries without a measured site are given the largest distance found, or are left out by default.
    """
    wanted = np.setdiff1d(np.arange(len(library)), measured) if sites is None else sites
    distance = nearest(positions, library, measured, wanted, 1)[1][:, 0]
    known = np.isfinite(distance)
    if sites is None:
        return distance[known]
    return np.where(known, distance, distance[known].max(initial=1.0))


def clusters(positions: np.ndarray, count: int, seed: int, steps: int = 300) -> np.ndarray:
    """Number compact groups of sites, at most ``count`` and no more than there are places; int, shape (n,)."""
    from sklearn.cluster import KMeans

    count = min(count, len(np.unique(positions, axis=0)))
    return KMeans(count, n_init=1, max_iter=steps, random_state=seed).fit_predict(positions)
