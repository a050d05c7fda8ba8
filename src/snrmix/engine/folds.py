from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Fold:
    """One split of the measured spots: indices into them, ascending."""

    train: np.ndarray
    held_out: np.ndarray


def make_folds(library: np.ndarray, n_folds: int, rng: np.random.Generator) -> list[Fold]:
    """Split spots into folds of equal size within each library.

    Parameters
    ----------
    library
        Shape (n,), int codes of the measured spots.
    n_folds
        At least 2.
    """
    fold = np.empty(len(library), dtype=int)
    for code in np.unique(library):
        rows = rng.permutation(np.flatnonzero(library == code))
        fold[rows] = (np.arange(len(rows)) + rng.integers(n_folds)) % n_folds
    return [Fold(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(n_folds)]


def single_split(library: np.ndarray, share: float, rng: np.random.Generator) -> list[Fold]:
    """Hold out a share of the spots of each library, as one fold."""
    held = np.zeros(len(library), dtype=bool)
    for code in np.unique(library):
        rows = np.flatnonzero(library == code)
        held[rng.choice(rows, size=max(1, round(share * len(rows))), replace=False)] = True
    return [Fold(np.flatnonzero(~held), np.flatnonzero(held))]
