from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from snrmix.engine.neighbours import clusters, distance_to_measured

CLUMPINESS = (2, 4, 8, 16)  # candidate clusters per fold; random folds are the limit of many


@dataclass(frozen=True)
class Fold:
    """One split of the measured spots.

    Parameters
    ----------
    train, held_out
        Indices into the measured spots, ascending.
    repeat
        The folds of one repeat hold out every measured spot once.
    compact
        Whether compact groups of spots are held out, at the distances of the unmeasured sites.
    """

    train: np.ndarray
    held_out: np.ndarray
    repeat: int = 0
    compact: bool = False


def make_folds(
    positions: np.ndarray,
    library: np.ndarray,
    measured: np.ndarray,
    n_folds: int,
    n_repeats: int,
    rng: np.random.Generator,
) -> list[Fold]:
    """Folds whose held-out spots are as far from training spots as unmeasured sites are from measured ones.

    Random folds fit scattered missing spots. Where whole regions are missing, spots are held out in clusters, with the
    number of clusters for which the two distributions of the distance to the nearest spot match best (k-fold nearest
    neighbour distance matching, Linnenbrink et al. 2024, doi:10.5194/gmd-17-5897-2024).

    Parameters
    ----------
    positions, library
        Shape (n, 2), in pitches, and (n,), of all sites.
    measured
        Indices of the measured sites.
    n_folds, n_repeats
        At least 2 folds; every repeat draws its own.
    rng
        Draws folds and clusters.

    Returns
    -------
    list
        The folds, repeat by repeat.
    """
    from scipy.stats import wasserstein_distance

    own = library[measured]
    wanted = distance_to_measured(positions, library, measured)
    first, best = [random_assignment(own, n_folds, rng)], 0
    if len(wanted):
        first += [clustered_assignment(positions[measured], own, n_folds, c, rng) for c in CLUMPINESS]
        mismatch = [wasserstein_distance(wanted, held_out_distance(positions[measured], own, fold)) for fold in first]
        # Clusters cost training spots where they are needed, so they have to match clearly better.
        best = int(np.argmin(mismatch))
        best = best if mismatch[best] < 0.8 * mismatch[0] else 0
    chosen, groups = [first[best]], (0, *CLUMPINESS)[best]
    for _ in range(n_repeats - 1):
        chosen.append(
            clustered_assignment(positions[measured], own, n_folds, groups, rng)
            if groups
            else random_assignment(own, n_folds, rng)
        )
    return [
        Fold(np.flatnonzero(fold != k), np.flatnonzero(fold == k), repeat, groups > 0)
        for repeat, fold in enumerate(chosen)
        for k in range(n_folds)
    ]


def random_assignment(library: np.ndarray, n_folds: int, rng: np.random.Generator) -> np.ndarray:
    """Fold of every spot, shape (n,): equal sizes within each library, and no fold empty."""
    fold = np.empty(len(library), dtype=int)
    for code in np.unique(library):
        rows = rng.permutation(np.flatnonzero(library == code))
        fold[rows] = (np.arange(len(rows)) + rng.integers(n_folds)) % n_folds
    return _without_empty(fold, n_folds)


def clustered_assignment(
    positions: np.ndarray, library: np.ndarray, n_folds: int, groups: int, rng: np.random.Generator
) -> np.ndarray:
    """Fold of every spot, shape (n,): ``groups`` compact groups per fold and library, dealt out by size; none empty."""
    fold = np.empty(len(library), dtype=int)
    for code in np.unique(library):
        rows = np.flatnonzero(library == code)
        count = min(groups * n_folds, max(len(rows) // 2, 1))
        label = clusters(positions[rows], count, int(rng.integers(2**31)))
        sizes, filled = np.bincount(label), np.zeros(n_folds)
        for cluster in np.argsort(-sizes, kind="stable"):
            smallest = int(np.argmin(filled))
            filled[smallest] += sizes[cluster]
            fold[rows[label == cluster]] = smallest
    return _without_empty(fold, n_folds)


def _without_empty(fold: np.ndarray, n_folds: int) -> np.ndarray:
    """The same where every fold has spots; else the empty ones, of libraries smaller than folds, get one of the largest."""
    for k in np.setdiff1d(np.arange(n_folds), fold):
        largest = np.bincount(fold).argmax()
        fold[np.flatnonzero(fold == largest)[-1]] = k
    return fold


def single_split(library: np.ndarray, share: float, rng: np.random.Generator) -> Fold:
    """Hold out a share of the spots of each library: one spot or more, but not the last one."""
    held = np.zeros(len(library), dtype=bool)
    for code in np.unique(library):
        rows = np.flatnonzero(library == code)
        size = min(max(1, round(share * len(rows))), len(rows) - 1)
        held[rng.choice(rows, size=size, replace=False)] = True
    return Fold(np.flatnonzero(~held), np.flatnonzero(held))


def held_out_distance(positions: np.ndarray, library: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Distance of every measured spot to the nearest one outside its fold and in its library, shape (n,), in pitches."""
    distance = np.empty(len(fold))
    for k in np.unique(fold):
        rows = np.flatnonzero(fold == k)
        distance[rows] = distance_to_measured(positions, library, np.flatnonzero(fold != k), rows)
    return distance
