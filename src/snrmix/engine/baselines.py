"""The simple predictors that every result is compared with."""

from __future__ import annotations

import numpy as np

from snrmix.engine.scaling import standardise

NEIGHBOURS = 10
MOST_RIDGE_SPOTS = 6000  # the dual solve is cubic; above, ridge sees an even subset of the spots
PENALTIES = 10.0 ** np.arange(-2, 4.5, 0.5)  # per feature
SKETCH = 512  # of more genes, so many random combinations choose the penalty


def spatial_knn(
    positions: np.ndarray, library: np.ndarray, train: np.ndarray, targets: np.ndarray, expression: np.ndarray
) -> np.ndarray:
    """Mean of the ``10`` nearest training spots of the same library; the mean of all where a library has none.

    Parameters
    ----------
    positions, library
        Shape (n, 2) and (n,), of all sites.
    train, targets
        Indices of the training spots and of the sites to predict.
    expression
        Shape (len(train), genes).
    """
    from scipy.spatial import cKDTree

    predicted = np.broadcast_to(expression.mean(0), (len(targets), expression.shape[1])).copy()
    for code in np.unique(library[targets]):
        own, wanted = np.flatnonzero(library[train] == code), np.flatnonzero(library[targets] == code)
        if not len(own):
            continue
        k = min(NEIGHBOURS, len(own))
        nearest = cKDTree(positions[train[own]]).query(positions[targets[wanted]], k=k)[1].reshape(len(wanted), k)
        for start in range(0, len(wanted), 512):
            rows = slice(start, start + 512)
            predicted[wanted[rows]] = expression[own[nearest[rows]]].mean(1)
    return predicted


def ridge(features: np.ndarray, train: np.ndarray, targets: np.ndarray, expression: np.ndarray) -> np.ndarray:
    """Ridge regression on standardised features, one penalty for all genes, chosen by leave-one-out.

    With many genes the leave-one-out error is that of random combinations of them, an unbiased estimate of the sum.

    Parameters
    ----------
    features
        Shape (n, d), of all sites, not standardised.
    train, targets
        Indices of the training spots and of the sites to predict.
    expression
        Shape (len(train), genes).
    """
    values = standardise(features, train).astype(np.float64)
    stride = -(-len(train) // MOST_RIDGE_SPOTS)
    train, expression = train[::stride], expression[::stride]
    centre, mean = values[train].mean(0), expression.mean(0, dtype=np.float64)
    x, y = values[train] - centre, expression - mean
    eigenvalues, vectors = np.linalg.eigh(x @ x.T)
    genes = y.shape[1]
    judged = y if genes <= SKETCH else y @ np.random.default_rng(0).standard_normal((genes, SKETCH))
    rotated = vectors.T @ judged
    best, best_error = None, np.inf
    for penalty in PENALTIES * values.shape[1]:
        inverse = 1 / (np.maximum(eigenvalues, 0) + penalty)
        dual = vectors @ (inverse[:, None] * rotated)
        leverage = vectors**2 @ inverse - 1 / (len(x) * penalty)  # the intercept takes a degree of freedom
        error = np.mean((dual / leverage[:, None]) ** 2)
        if error < best_error:
            best, best_error = inverse, error
    smoother = ((values[targets] - centre) @ x.T @ vectors * best) @ vectors.T
    return (smoother @ y + mean).astype(np.float32)
