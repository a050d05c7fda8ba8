"""Per-gene weights of several predictors, from sums of products alone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from snrmix.engine.slices import gene_slices

PRIOR_SPREADS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
# What the expectation that all predictors count alike is worth: a few spots must not overrule it, and less so spots of one
# region, which err together.
PRIOR_SPOTS, PRIOR_SPOTS_COMPACT = 10, 40
OWN_WEIGHTS = 80  # spots from which a gene may have weights of its own


@dataclass(frozen=True)
class Stack:
    """Weights of the predictors' deviations from the mean.

    Parameters
    ----------
    weights
        Shape (predictors, genes), not negative.
    shared
        Shape (predictors,): the weights of all genes together, toward which each gene is shrunk.
    spread
        Standard deviation of the prior of a gene's weights around the shared ones; 0 means all genes share them.
    out_of_fold
        float32, shape (n, genes): the mean plus weighted deviations, with weights from the other folds.
    held_out_weights
        Shape (folds, predictors, genes): those weights.
    """

    weights: np.ndarray
    shared: np.ndarray
    spread: float
    out_of_fold: np.ndarray
    held_out_weights: np.ndarray


@dataclass(frozen=True)
class Products:
    """Sums over spots, for every fold and gene: all that least squares needs.

    Parameters
    ----------
    gram
        Shape (folds, predictors, predictors, genes), products of deviations.
    cross
        Shape (folds, predictors, genes), products of deviations with the observed.
    square
        Shape (folds, genes), squares of the observed deviations.
    count
        Shape (folds,), spots.
    """

    gram: np.ndarray
    cross: np.ndarray
    square: np.ndarray
    count: np.ndarray

    def without(self, fold: int) -> Products:
        """The other folds."""
        rest = np.arange(len(self.count)) != fold
        return Products(self.gram[rest], self.cross[rest], self.square[rest], self.count[rest])


def fit_stack(
    observed: np.ndarray, predicted: list[np.ndarray], mean: np.ndarray, fold: np.ndarray, compact: bool = False
) -> Stack:
    """Weight predictors per gene, with the shrinkage that predicts the left-out folds best.

    Gene ``g`` minimises ``|y - mean - sum_p w_p (f_p - mean)|^2 / s_g^2 + |w - shared|^2 / spread^2`` over ``w >= 0``,
    with ``s_g^2`` the residual variance under shared weights: the posterior mode of weights that vary around the shared
    ones. A gene that the predictors do not explain gets weights near 0, which is the mean. Shared weights are those of all
    genes together, shrunk toward equal ones, see `solve`.

    Parameters
    ----------
    observed
        Shape (n, genes).
    predicted
        Out-of-fold values of every predictor, each (n, genes).
    mean
        Shape (folds, genes): the mean of each fold's training spots.
    fold
        Shape (n,), int: the fold that held a spot out.
    compact
        Folds are regions: spots of one err together, gene by gene, so that genes have no weights of their own; nor have they
        where spots are few.
    """
    products = sum_products(observed, predicted, mean, fold)
    folds, alike = range(len(products.count)), compact or len(observed) < OWN_WEIGHTS
    spreads, worth = (0.0,) if alike else PRIOR_SPREADS, PRIOR_SPOTS_COMPACT if compact else PRIOR_SPOTS

    def without(k: int, spread: float) -> np.ndarray:
        return solve(products.without(k), spread, worth)[0]

    errors = [sum(_error(without(k, spread), products, k) for k in folds) for spread in spreads]
    spread = spreads[int(np.argmin(errors))]
    weights, shared = solve(products, spread, worth)
    out_of_fold, others = np.empty(observed.shape, np.float32), [without(k, spread) for k in folds]
    for k in folds:
        rows = fold == k
        out_of_fold[rows] = combine([f[rows] for f in predicted], mean[k], others[k])
    return Stack(weights, shared, spread, out_of_fold, np.stack(others))


def combine(predicted: list[np.ndarray], mean: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``mean + sum_p w_p (f_p - mean)``; values of expression are never negative. float32, shape (n, genes)."""
    total = np.array(np.broadcast_to(mean, predicted[0].shape), dtype=np.float32)
    for values, weight in zip(predicted, weights.astype(np.float32), strict=True):
        total += weight * (values - mean.astype(np.float32))
    return np.maximum(total, 0, out=total)


def sum_products(observed, predicted, mean, fold) -> Products:
    """Accumulate the products fold by fold."""
    n_folds, p, genes = int(fold.max()) + 1, len(predicted), observed.shape[1]
    gram, cross, square = np.zeros((n_folds, p, p, genes)), np.zeros((n_folds, p, genes)), np.zeros((n_folds, genes))
    for k in range(n_folds):
        rows = np.flatnonzero(fold == k)
        for some in gene_slices(len(rows), genes):
            base = mean[k, some].astype(np.float64)
            y = observed[rows, some] - base
            deviations = [f[rows, some] - base for f in predicted]
            square[k, some] = (y * y).sum(0)
            for i, first in enumerate(deviations):
                cross[k, i, some] = (first * y).sum(0)
                for j, second in enumerate(deviations[: i + 1]):
                    gram[k, i, j, some] = gram[k, j, i, some] = (first * second).sum(0)
    return Products(gram, cross, square, np.bincount(fold, minlength=n_folds))


def solve(products: Products, spread: float, prior_spots: float = PRIOR_SPOTS) -> tuple[np.ndarray, np.ndarray]:
    """Weights per gene, (predictors, genes), and shared weights, (predictors,).

    Shared weights minimise ``|y - F w|^2 + prior_spots * v * |w - 1 / p|^2`` over all genes, of the deviations ``F`` of ``p``
    predictors, with ``v`` the mean of their squares over spots and predictors.
    """
    gram, cross, square = products.gram.sum(0), products.cross.sum(0), products.square.sum(0)
    p, genes = cross.shape
    total, count = gram.sum(-1), max(products.count.sum(), 1)
    pull = prior_spots * np.trace(total) / p / count
    shared = non_negative((total + pull * np.eye(p))[..., None], (cross.sum(-1) + pull / p)[:, None])[:, 0]
    if spread == 0:
        return np.repeat(shared[:, None], genes, axis=1), shared
    residual = square - 2 * shared @ cross + np.einsum("i,ijg,j->g", shared, gram, shared)
    variance = np.maximum(residual / count, 1e-12)
    prior = 1 / spread**2
    normal = gram / variance + prior * np.eye(p)[..., None]
    return non_negative(normal, cross / variance + prior * shared[:, None]), shared


def non_negative(normal: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Minimise ``w' A w - 2 c' w`` over ``w >= 0`` for many small problems at once, by trying every support.

    Parameters
    ----------
    normal
        ``A``, shape (p, p, genes), positive semi-definite.
    right
        ``c``, shape (p, genes).
    """
    p, genes = right.shape
    best, best_value = np.zeros((p, genes)), np.zeros(genes)
    for size in range(1, p + 1):
        for support in combinations(range(p), size):
            rows = list(support)
            matrix = np.moveaxis(normal[np.ix_(rows, rows)], -1, 0)
            matrix = (
                matrix + 1e-9 * np.trace(matrix, axis1=1, axis2=2)[:, None, None] * np.eye(size) + 1e-12 * np.eye(size)
            )
            weights = np.linalg.solve(matrix, right[rows].T[..., None])[..., 0]
            value = -(weights * right[rows].T).sum(1)
            better = (weights >= 0).all(1) & (value < best_value)
            best[:, better] = 0.0
            for place, row in enumerate(rows):
                best[row, better] = weights[better, place]
            best_value[better] = value[better]
    return best


def _error(weights: np.ndarray, products: Products, fold: int) -> float:
    """Squared error of a fold, summed over genes, under weights from elsewhere."""
    return float(
        (
            products.square[fold]
            - 2 * (weights * products.cross[fold]).sum(0)
            + np.einsum("ig,ijg,jg->g", weights, products.gram[fold], weights)
        ).sum()
    )
