from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from snrmix.engine.neighbours import clusters, distance_to_measured

CLUSTERS = (16, 8, 4, 2, 1)  # candidate clusters per fold; random folds are the limit of many
FEW = (3, 2)  # candidate numbers of folds that are one region each, where a side of the section is missing
HALVED_SPOTS = 800  # measured, up to which kriging has finer folds than networks
WORTH = 0.15  # pitches by which distances have to match better than those of random folds: regions cost training spots


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

    Random folds fit scattered missing spots. Where whole regions are missing, spots are held out in clusters, as many and as
    large as make the two distributions of the distance to the nearest spot most alike (k-fold nearest neighbour distance
    matching, Linnenbrink et al. 2024, doi:10.5194/gmd-17-5897-2024). Where a side is missing, two or three folds of one
    region each may do that best.

    Parameters
    ----------
    positions, library
        Shape (n, 2), in pitches, and (n,), of all sites.
    measured
        Indices of the measured sites.
    n_folds, n_repeats
        At least 2 folds, in regions perhaps fewer; every repeat draws its own.
    rng
        Draws random folds, and those of further repeats.

    Returns
    -------
    list
        The folds, repeat by repeat.
    """
    own, first = library[measured], None
    wanted = distance_to_measured(positions, library, measured)
    if len(wanted):
        first = match_distances(positions[measured], own, wanted, n_folds)
    if first is None:
        chosen = [random_assignment(own, n_folds, rng) for _ in range(n_repeats)]
    else:
        fold, count, each = first
        more = [clustered_assignment(positions[measured], own, count, each, rng) for _ in range(n_repeats - 1)]
        chosen = [fold, *more]
    return [
        Fold(np.flatnonzero(fold != k), np.flatnonzero(fold == k), repeat, first is not None)
        for repeat, fold in enumerate(chosen)
        for k in np.unique(fold)
    ]


def match_distances(
    positions: np.ndarray, library: np.ndarray, wanted: np.ndarray, n_folds: int
) -> tuple[np.ndarray, int, int] | None:
    """Compact folds whose held-out spots are as far from training spots as is wanted; ``None``: random ones will do.

    The choice does not depend on any seed.

    Parameters
    ----------
    positions, library
        Of the measured spots.
    wanted
        Distances of the unmeasured sites to the nearest measured spot, in pitches.
    n_folds
        At most so many.

    Returns
    -------
    tuple
        Fold of every spot, shape (n,), number of folds, and clusters per fold.
    """
    from scipy.stats import wasserstein_distance

    def mismatch(fold: np.ndarray) -> float:
        return wasserstein_distance(wanted, held_out_distance(positions, library, fold))

    least = mismatch(random_assignment(library, n_folds, np.random.default_rng(0))) - WORTH
    if least <= 0:
        return None
    best = None
    for count, each in [(n_folds, c) for c in CLUSTERS] + [(few, 1) for few in FEW if few < n_folds]:
        fold = clustered_assignment(positions, library, count, each, np.random.default_rng(0))
        missed = mismatch(fold)
        if missed < least:
            best, least = (fold, count, each), missed
    return best


def beyond_held_out(
    positions: np.ndarray, library: np.ndarray, measured: np.ndarray, folds: Sequence[Fold]
) -> tuple[float, float]:
    """How far the farthest held-out spot is from training spots, in pitches, and which share of the other sites is farther."""
    farthest = max(
        distance_to_measured(positions, library, measured[fold.train], measured[fold.held_out]).max() for fold in folds
    )
    wanted = distance_to_measured(positions, library, measured)
    return float(farthest), float((wanted > 1.01 * farthest).mean()) if len(wanted) else 0.0


def fold_numbers(folds: Sequence[Fold], n: int) -> np.ndarray:
    """Number of the fold that holds a spot out, -1 where none does, shape (n,); two halves where there is one fold."""
    number = np.full(n, -1)
    for k, fold in enumerate(folds):
        number[fold.held_out] = k if len(folds) > 1 else np.arange(len(fold.held_out)) % 2
    return number


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


def settle_folds(folds: list[Fold], n: int) -> tuple[list[Fold], list[Fold], np.ndarray]:
    """Folds of the first repeat, finer ones for kriging, and which of ``n`` measured spots are held out by them."""
    first = [fold for fold in folds if fold.repeat == 0]
    return first, finer(first, n), np.sort(np.concatenate([fold.held_out for fold in first]))


def finer(folds: list[Fold], n: int) -> list[Fold]:
    """Halved folds for all but the networks: on a small section the last spots count, and most for what uses neighbours.

    Compact folds stay whole, because a half would have the other half next to it.
    """
    if n > HALVED_SPOTS or len(folds) == 1 or folds[0].compact:
        return folds
    halves = []
    for fold in folds:
        for half in (fold.held_out[::2], fold.held_out[1::2]):
            halves.append(Fold(np.setdiff1d(np.arange(n), half), half))
    return halves


def held_out_together(folds: list[Fold], n: int) -> np.ndarray:
    """Number of the fold that holds a measured spot out, int, shape (n,); -1 where none does."""
    together = np.full(n, -1)
    for number, fold in enumerate(folds):
        together[fold.held_out] = number
    return together
