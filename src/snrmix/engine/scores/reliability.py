"""Which genes are predicted better than by other methods, and than by depth alone, beyond chance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from snrmix.engine.neighbours import clusters
from snrmix.engine.slices import gene_slices

FLIPS = 2000
SPOTS_PER_GROUP, MOST_GROUPS = 8, 32
FALSE_DISCOVERIES = 0.05
ADDED = 0.75  # of a pattern, to a gene that follows depth alone


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

    def gains(some: slice) -> list[np.ndarray]:
        y = observed[rows, some]
        error = (ours[rows, some] - y) ** 2
        return [(other[rows, some] - y) ** 2 - error for other in others]

    return significant(gains, observed.shape[1], compact_groups(positions[rows], library[rows], rng), rng)


def pattern_is_real(
    observed: np.ndarray,
    ours: np.ndarray,
    mean: np.ndarray,
    known: np.ndarray | None,
    predicted: np.ndarray | None,
    group: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Genes that are predicted better than by their mean, and better than by depth alone, as in `better_than_all`.

    Against depth, the deviation of the prediction from a gene that follows depth alone, at the depth that is predicted, is added
    to such a gene at the depth that the spot has; depth is then no merit, however well it is predicted. Three quarters of
    the deviation are added: predictions have more of it than is best where little is seen beyond depth. What of it goes along with depth
    alone is taken off first: more or less of depth than was thought is no map of a gene's own.

    Parameters
    ----------
    observed, ours, mean
        Shape (n, genes), of the spots to compare on; ``mean`` may be broadcast.
    known, predicted
        Genes that follow depth alone, at the depths that spots have and that are predicted, shape (n, genes); ``None`` where
        depths are not known: then the mean alone is compared with.
    group
        Shape (n,): the compact group of a spot.
    rng
        Draws signs.

    Returns
    -------
    numpy.ndarray
        bool, shape (genes,).
    """

    def gains(some: slice) -> list[np.ndarray]:
        y = observed[:, some]
        found = [(mean[:, some] - y) ** 2 - (ours[:, some] - y) ** 2]
        if known is not None:
            rest, pattern = y - known[:, some], without(ours[:, some] - predicted[:, some], known[:, some])
            found.append(rest**2 - (rest - ADDED * pattern) ** 2)
        return found

    return significant(gains, observed.shape[1], group, rng)


def without(pattern: np.ndarray, along: np.ndarray) -> np.ndarray:
    """A pattern less what of it goes along with another, gene by gene, both of shape (n, genes)."""
    along = along - along.mean(0)
    return pattern - along * ((pattern * along).sum(0) / np.maximum((along**2).sum(0), 1e-12))


def significant(
    gains: Callable[[slice], list[np.ndarray]], genes: int, group: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Genes whose gains are all above 0 beyond chance, bool, shape (genes,); see `better_than_all`.

    Parameters
    ----------
    gains
        From some genes to their gains at every spot, each (n, genes).
    genes
        Number of genes.
    group
        Shape (n,): compact group of each spot.
    rng
        Draws signs.
    """
    from scipy.stats import false_discovery_control

    membership = np.eye(group.max() + 1, dtype=np.float32)[:, group]
    signs = rng.choice(np.array([-1, 1], np.float32), size=(FLIPS, len(membership)))
    signs[0] = 1  # as observed
    worst = np.zeros(genes)
    for some in gene_slices(len(group), genes):
        for gain in gains(some):
            total = signs @ (membership @ gain)
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
