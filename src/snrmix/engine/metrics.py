from __future__ import annotations

import numpy as np


def gene_scores(observed: np.ndarray, predicted: np.ndarray, baseline: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of every gene over all given spots at once.

    Parameters
    ----------
    observed, predicted
        Shape (n, genes), the same units.
    baseline
        Prediction of the mean, broadcastable to (n, genes): each spot's from spots that exclude it.

    Returns
    -------
    dict
        ``pearson`` (0 where either is constant), ``mse``, and ``explained``: 1 - MSE / MSE of the baseline (0 where
        the gene is constant). Each float64, shape (genes,).
    """
    error = np.mean((predicted - observed) ** 2, axis=0, dtype=np.float64)
    reference = np.mean((baseline - observed) ** 2, axis=0, dtype=np.float64)
    explained = np.where(reference > 0, 1 - error / np.where(reference > 0, reference, 1), 0.0)
    return {"pearson": pearson(observed, predicted), "mse": error, "explained": explained}


def pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson correlation of each column over all rows; 0 where a column is constant."""
    a, b = (x - x.mean(0, dtype=np.float64) for x in (a, b))
    product, norm = (a * b).sum(0), np.sqrt((a * a).sum(0) * (b * b).sum(0))
    return np.where(norm > 1e-12, product / np.where(norm > 1e-12, norm, 1), 0.0)
