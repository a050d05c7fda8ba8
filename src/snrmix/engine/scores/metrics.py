from __future__ import annotations

import numpy as np


def gene_scores(
    observed: np.ndarray, predicted: np.ndarray, baseline: np.ndarray, centre: np.ndarray | float = 0.0
) -> dict[str, np.ndarray]:
    """Scores of every gene over all given spots at once.

    Parameters
    ----------
    observed, predicted
        Shape (n, genes), the same units.
    baseline
        Prediction of the mean, broadcastable to (n, genes): each spot's from spots that exclude it.
    centre
        Broadcastable to (n, genes): the mean of the spots that each prediction was fitted to, where these differ between
        predictions. It is taken off for the correlation alone: a spot with high expression lowers the mean of the
        others, so that out-of-fold values of pure noise would correlate negatively with what was observed.

    Returns
    -------
    dict
        ``pearson`` (0 where either is constant), ``mse``, and ``explained``: the share of the squared error of the
        baseline that is removed (0 where the gene is constant). Each float64, shape (genes,).
    """
    error = np.mean((predicted - observed) ** 2, axis=0, dtype=np.float64)
    reference = np.mean((baseline - observed) ** 2, axis=0, dtype=np.float64)
    explained = np.where(reference > 0, 1 - error / np.where(reference > 0, reference, 1), 0.0)
    return {"pearson": pearson(observed, predicted - centre), "mse": error, "explained": explained}


def pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson correlation of each column over all rows; 0 where a column is constant."""
    a, b = (x - x.mean(0, dtype=np.float64) for x in (a, b))
    product, norm = (a * b).sum(0), np.sqrt((a * a).sum(0) * (b * b).sum(0))
    return np.where(norm > 1e-12, product / np.where(norm > 1e-12, norm, 1), 0.0)


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman rank correlation of each column over all rows, ties sharing their mean rank; 0 where a column is constant."""
    from scipy.stats import rankdata

    return pearson(rankdata(a, axis=0), rankdata(b, axis=0))


def moran(values: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """Moran's I of each column, the weights of a spot's neighbours summing to 1 (Moran 1950, Biometrika 37, 17).

    Parameters
    ----------
    values
        Shape (n, genes).
    neighbours
        Shape (n, k): indices of the neighbours of a spot, -1 where there are fewer. Spots without any count in the
        variance only.

    Returns
    -------
    numpy.ndarray
        Shape (genes,); NaN where the column is constant or no spot has a neighbour.
    """
    present = neighbours >= 0
    degree = present.sum(1)
    centred = values - values.mean(0, dtype=np.float64)
    lagged = np.zeros_like(centred)
    for column, there in zip(neighbours.T, present.T, strict=True):
        lagged[there] += centred[column[there]]
    lagged /= np.maximum(degree, 1)[:, None]
    variance, linked = np.mean(centred**2, axis=0), (degree > 0).sum()
    defined = (variance > 1e-12) & (linked > 0)
    return np.where(defined, (centred * lagged).sum(0) / np.where(defined, variance * linked, 1), np.nan)
