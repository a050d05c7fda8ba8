"""Which genes are predicted better than by every other method, beyond chance."""

from __future__ import annotations

import numpy as np

from snrmix.engine.neighbours import clusters
from snrmix.engine.slices import gene_slices

FLIPS = 2000
SPOTS_PER_GROUP, MOST_GROUPS = 8, 32
FALSE_DISCOVERIES = 0.05


def better_than_all(
    observed: np.ndarray,
    ours: np.ndarray,
    others: list[np.ndarray],
    rows: np.ndarray,
    positions: np.ndarray,
    library: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Genes on which a method has a lower squared error than each of the others, at a false discovery rate of 5 %.

    Neighbouring spots are not independent, so the difference in error is summed over compact groups of 8 spots or more,
    32 groups at most. Were a method no better than the other, a group's sum would as likely have the other sign: the p value
    is the share of random signs of the groups that give as large a total (permutation test; few groups cannot give a
    small one). A gene's p value is the largest of those against each other method: all must be beaten (intersection-union
    test); Benjamini-Hochberg over genes.

    Parameters
    ----------
    observed, ours, others
        Shape (n, genes).
    rows
        Indices of the spots to compare on.
    positions, library
        Of the n spots.
    rng
        Draws groups and signs.

    Returns
    -------
    numpy.ndarray
        bool, shape (genes,).
    """
    from scipy.stats import false_discovery_control

    group = compact_groups(positions[rows], library[rows], rng)
    membership = np.eye(group.max() + 1, dtype=np.float32)[:, group]
    signs = rng.choice(np.array([-1, 1], np.float32), size=(FLIPS, len(membership)))
    signs[0] = 1  # as observed
    worst = np.zeros(observed.shape[1])
    for some in gene_slices(len(rows), observed.shape[1]):
        y = observed[rows, some]
        error = (ours[rows, some] - y) ** 2
        for other in others:
            total = signs @ (membership @ ((other[rows, some] - y) ** 2 - error))
            as_large = total >= total[0] - 1e-5 * np.abs(total[0])  # but for rounding
            worst[some] = np.maximum(worst[some], as_large.mean(0))
    return false_discovery_control(worst) <= FALSE_DISCOVERIES


def compact_groups(positions: np.ndarray, library: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Number compact groups of 8 spots or more, about 32 at most, none across libraries; shape (n,)."""
    group, first = np.empty(len(positions), int), 0
    for code in np.unique(library):
        own = np.flatnonzero(library == code)
        count = max(1, min(len(own) // SPOTS_PER_GROUP, round(MOST_GROUPS * len(own) / len(positions))))
        label = clusters(positions[own], count, int(rng.integers(2**31)), steps=20)
        _, group[own] = np.unique(label, return_inverse=True)
        group[own] += first
        first = group[own].max() + 1
    return group
