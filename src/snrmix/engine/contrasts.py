"""Differences of genes between groups of spots, with their sampling variance."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata, tiecorrect

GENES_AT_ONCE = 256


def welch(values: np.ndarray, own: np.ndarray, other: np.ndarray, overestimate: bool = False):
    """Difference of the means of two groups, its variance and degrees of freedom (Welch), float64, each (genes,).

    Parameters
    ----------
    values
        Shape (n, genes).
    own, other
        Rows of the two groups.
    overestimate
        Take the second group as no larger than the first, which overestimates the variance.
    """
    means, variances = zip(*(moments(values[rows]) for rows in (own, other)), strict=True)
    n_own, n_other = len(own), len(own) if overestimate else len(other)
    first, second = variances[0] / n_own, variances[1] / n_other
    square = first**2 / max(n_own - 1, 1) + second**2 / max(n_other - 1, 1)
    df = np.divide((first + second) ** 2, square, out=np.full(len(square), np.inf), where=square > 0)
    return means[0] - means[1], first + second, df


def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of every column, float64."""
    mean = values.mean(0, dtype=np.float64)
    square = np.einsum("ig,ig->g", values, values, dtype=np.float64, casting="same_kind")
    return mean, np.maximum(square - len(values) * mean**2, 0) / max(len(values) - 1, 1)


def rank_sum(values: np.ndarray, own: np.ndarray, other: np.ndarray):
    """How often a spot of the first group is above one of the second, less a half; and its variance (Wilcoxon).

    The variance is that under the hypothesis that there is no difference, for ties as they are.
    """
    rows, n, m = np.concatenate([own, other]), len(own), len(other)
    above, variance = np.empty((2, values.shape[1]))
    for start in range(0, values.shape[1], GENES_AT_ONCE):
        ranks = rankdata(values[rows, start : start + GENES_AT_ONCE], axis=0)
        part = slice(start, start + ranks.shape[1])
        above[part] = (ranks[:n].sum(0) - n * (n + 1) / 2) / (n * m) - 0.5
        variance[part] = [tiecorrect(column) * (n + m + 1) / (12 * n * m) for column in ranks.T]
    return above, variance, np.full(len(above), np.inf)
