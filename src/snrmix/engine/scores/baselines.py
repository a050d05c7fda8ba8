"""The simple predictors that every result is compared with."""

from __future__ import annotations

import numpy as np

from snrmix.engine.folds import Fold
from snrmix.engine.neighbours import nearest
from snrmix.engine.scaling import PENALTIES, Standardised, standard_scale, standardise
from snrmix.engine.section import Section
from snrmix.engine.slices import gene_slices, slices

NEIGHBOURS = 10
MOST_RIDGE_SPOTS = 6000  # the dual solve is cubic; above, ridge sees an even subset, and solves for features
TARGETS_AT_ONCE = 4096
SKETCH = 512  # of more genes, so many random combinations choose the penalty


def spatial_knn(
    positions: np.ndarray, library: np.ndarray, train: np.ndarray, targets: np.ndarray, expression: np.ndarray
) -> np.ndarray:
    """Mean of the ``10`` nearest training spots of the same library, ties in order; the mean of all where it has none.

    Parameters
    ----------
    positions, library
        Shape (n, 2) and (n,), of all sites.
    train, targets
        Indices of the training spots and of the sites to predict.
    expression
        Shape (len(train), genes).
    """
    predicted = np.broadcast_to(expression.mean(0), (len(targets), expression.shape[1])).copy()
    near = nearest(positions, library, train, targets, NEIGHBOURS)[0]
    count = (near >= 0).sum(1)
    for k in np.unique(count[count > 0]):
        rows = np.flatnonzero(count == k)
        for some in slices(len(rows), 512):
            predicted[rows[some]] = expression[near[rows[some], :k]].mean(1)
    return predicted


def ridge(features: np.ndarray, train: np.ndarray, targets: np.ndarray, expression: np.ndarray) -> np.ndarray:
    """Predictions of `judged_ridge`."""
    return judged_ridge(features, train, targets, expression)[0]


def judged_ridge(
    features: np.ndarray, train: np.ndarray, targets: np.ndarray, expression: np.ndarray
) -> tuple[np.ndarray, float]:
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

    Returns
    -------
    tuple
        Predictions, float32, shape (targets, genes), and the mean squared leave-one-out error.
    """
    if len(train) > MOST_RIDGE_SPOTS:
        some = np.arange(MOST_RIDGE_SPOTS) * len(train) // MOST_RIDGE_SPOTS
        return _primal_ridge(features, train, train[some], targets, expression[some])
    values = standardise(features, train).astype(np.float64)
    centre, mean = values[train].mean(0), expression.mean(0, dtype=np.float64)
    x = values[train] - centre
    eigenvalues, vectors = np.linalg.eigh(x @ x.T)
    judged = _sketch(expression, mean)
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
    predicted = np.empty((len(targets), len(mean)), np.float32)
    for some in gene_slices(*expression.shape):
        predicted[:, some] = smoother @ (expression[:, some] - mean[some]) + mean[some]
    return predicted, float(best_error)


def _primal_ridge(
    features: np.ndarray, train: np.ndarray, used: np.ndarray, targets: np.ndarray, expression: np.ndarray
) -> tuple[np.ndarray, float]:
    """`judged_ridge` by the normal equations, for many sites: ``used`` are the training spots that are fitted."""
    values = Standardised(features, *standard_scale(features, train), np.ones(features.shape[1], bool))
    x, mean = values[used].astype(np.float64), expression.mean(0, dtype=np.float64)
    middle = x.mean(0)
    x, y = x - middle, expression - mean
    eigenvalues, vectors = np.linalg.eigh(x.T @ x)
    rotated_x, judged = x @ vectors, _sketch(expression, mean)
    rotated, squared = rotated_x.T @ judged, rotated_x**2
    best, best_error = None, np.inf
    for penalty in PENALTIES * x.shape[1]:
        inverse = 1 / (np.maximum(eigenvalues, 0) + penalty)
        left = 1 - squared @ inverse - 1 / len(x)  # of a spot's own weight, the intercept's included
        error = np.mean(((judged - rotated_x @ (inverse[:, None] * rotated)) / left[:, None]) ** 2)
        if error < best_error:
            best, best_error = inverse, error
    coefficients = vectors @ (best[:, None] * (rotated_x.T @ y))
    predicted = np.empty((len(targets), y.shape[1]), np.float32)
    for start in range(0, len(targets), TARGETS_AT_ONCE):
        rows = slice(start, start + TARGETS_AT_ONCE)
        predicted[rows] = (values[targets[rows]] - middle) @ coefficients + mean
    return predicted, float(best_error)


def _sketch(expression: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Genes less their means, or random combinations of very many: their mean squared error estimates the sum without bias."""
    genes = expression.shape[1]
    if genes <= SKETCH:
        return expression - mean
    mix = np.random.default_rng(0).standard_normal((genes, SKETCH))
    return sum((expression[:, some] - mean[some]) @ mix[some] for some in gene_slices(*expression.shape))


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
