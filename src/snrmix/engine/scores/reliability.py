"""Out-of-fold scores of the method and of the baselines, on the same spots and folds."""

from __future__ import annotations

import numpy as np
import pandas as pd

from snrmix.engine.folds import Fold
from snrmix.engine.network.crossfit import Section
from snrmix.engine.scores.baselines import ridge, spatial_knn
from snrmix.engine.scores.metrics import gene_scores

GENE_CHUNK = 1024
MOST_VALUES = 10_000_000  # spots times genes at once
FLIPS = 2000
SPOTS_PER_BLOCK, MOST_BLOCKS = 8, 32
FALSE_DISCOVERIES = 0.05


def baselines(section: Section, folds: list[Fold]) -> dict[str, np.ndarray]:
    """Out-of-fold values of the mean, spatial kNN and (with features) ridge, each float32, (measured, genes)."""
    methods = {
        "mean": lambda train, targets, y: y.mean(0),
        "spatial kNN": lambda train, targets, y: spatial_knn(section.positions, section.library, train, targets, y),
    }
    if section.features.shape[1]:
        methods["ridge"] = lambda train, targets, y: ridge(section.features, train, targets, y)
    found = {}
    for name, predict in methods.items():
        values = np.full(section.expression.shape, np.nan, np.float32)
        for fold in folds:
            train, held_out = section.measured[fold.train], section.measured[fold.held_out]
            values[fold.held_out] = predict(train, held_out, section.expression[fold.train])
        found[name] = values
    return found


def score_methods(
    observed: np.ndarray, predicted: dict[str, np.ndarray], rows: np.ndarray
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Score every method on the same spots.

    Parameters
    ----------
    observed
        Shape (spots, genes).
    predicted
        Values of every method, the same shape, with ``"mean"`` among them.
    rows
        Indices of the spots to score on.

    Returns
    -------
    tuple
        A table with one row per method (``mse``, ``mse_ratio`` to the mean's as a ratio of sums over genes, ``pearson``
        as mean over genes), and for every method a table with one row per gene, see `gene_scores`.
    """
    by_gene = {}
    for name, values in predicted.items():
        parts = []
        for some in _gene_blocks(observed.shape[1], len(rows)):
            columns = (array[rows, some] for array in (observed, values, predicted["mean"]))
            parts.append(pd.DataFrame(gene_scores(*columns)))
        by_gene[name] = pd.concat(parts, ignore_index=True)
    table = pd.DataFrame(
        {name: {"mse": genes["mse"].mean(), "pearson": genes["pearson"].mean()} for name, genes in by_gene.items()}
    ).T
    table.insert(1, "mse_ratio", table["mse"] / table.loc["mean", "mse"])
    return table.rename_axis("method"), by_gene


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

    Neighbouring spots are not independent, so the difference in error is summed over compact blocks of 8 spots or more,
    32 blocks at most. Were a method no better than the other, a block's sum would as likely have the other sign: the p value
    is the share of random signs of the blocks that give as large a total (permutation test; few blocks cannot give a
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
        Draws blocks and signs.

    Returns
    -------
    numpy.ndarray
        bool, shape (genes,).
    """
    from scipy.stats import false_discovery_control

    block = spatial_blocks(positions[rows], library[rows], rng)
    membership = np.eye(block.max() + 1, dtype=np.float32)[:, block]
    signs = rng.choice(np.array([-1, 1], np.float32), size=(FLIPS, len(membership)))
    signs[0] = 1  # as observed
    worst = np.zeros(observed.shape[1])
    for some in _gene_blocks(observed.shape[1], len(rows)):
        y = observed[rows, some]
        error = (ours[rows, some] - y) ** 2
        for other in others:
            total = signs @ (membership @ ((other[rows, some] - y) ** 2 - error))
            as_large = total >= total[0] - 1e-5 * np.abs(total[0])  # but for rounding
            worst[some] = np.maximum(worst[some], as_large.mean(0))
    return false_discovery_control(worst) <= FALSE_DISCOVERIES


def _gene_blocks(genes: int, spots: int) -> list[slice]:
    """Blocks of at most 1,024 genes, fewer where there are many spots."""
    step = int(np.clip(MOST_VALUES // max(spots, 1), 16, GENE_CHUNK))
    return [slice(start, start + step) for start in range(0, genes, step)]


def spatial_blocks(positions: np.ndarray, library: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Number compact groups of 8 spots or more, about 32 at most, none across libraries; shape (n,)."""
    from sklearn.cluster import KMeans

    block, first = np.empty(len(positions), int), 0
    for code in np.unique(library):
        own = np.flatnonzero(library == code)
        count = max(1, min(len(own) // SPOTS_PER_BLOCK, round(MOST_BLOCKS * len(own) / len(positions))))
        label = KMeans(count, n_init=1, max_iter=20, random_state=int(rng.integers(2**31))).fit_predict(positions[own])
        _, block[own] = np.unique(label, return_inverse=True)
        block[own] += first
        first = block[own].max() + 1
    return block
