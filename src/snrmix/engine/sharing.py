"""What other slides add to the model of one: its own predictions and those of a model of all slides, weighed.

The value of a gene is ``own + w (shared - own)``, ``w`` from 0 to 1, by out-of-fold values of both. Both held out the same
spots together, so that the weights which score a fold come from spots that neither fitted with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from snrmix.engine.at_depth import SiteDepths
from snrmix.engine.slices import gene_slices
from snrmix.engine.stack import PRIOR_SPREADS

EXPECTED, SCATTER = 1.0, 0.25  # weight of the shared model before folds are looked at, and its standard deviation


@dataclass(frozen=True)
class Shared:
    """What a model of all libraries predicts of one of them.

    Parameters
    ----------
    out_of_fold, predicted
        float32, (measured, genes) and (unmeasured, genes), of the library's sites and of the genes that it models.
    depths
        Of the same sites; ``None`` where depths are not known.
    """

    out_of_fold: np.ndarray
    predicted: np.ndarray
    depths: SiteDepths | None


@dataclass(frozen=True)
class Sharing:
    """How much a library takes from a model of all.

    Parameters
    ----------
    weights
        Shape (genes,), of the shared model.
    weight
        That of all genes together, toward which each gene is shrunk; 0: the library keeps its own model.
    out_of_fold
        float32, shape (n, genes), with weights from the other folds.
    error
        Mean squared out-of-fold error of ``"own"``, ``"shared"`` and ``"both"``, the last with those weights.
    """

    weights: np.ndarray
    weight: float
    out_of_fold: np.ndarray
    error: dict[str, float]

    def record(self, of_mean: float) -> dict[str, float]:
        """What ``uns`` keeps: weight of the shared model, and errors as shares of that of the mean."""
        return {"weight": self.weight, **{f"mse_ratio_{name}": value / of_mean for name, value in self.error.items()}}

    def take(self, scored: np.ndarray, own, shared: Shared) -> tuple[np.ndarray, np.ndarray, SiteDepths | None]:
        """Out-of-fold values, predictions and depths of both together.

        Parameters
        ----------
        scored
            Indices of the measured spots that were weighed.
        own
            A `snrmix.engine.fit.Stacked`.
        """
        if self.weight == 0:
            return own.out_of_fold, own.predicted, own.depths
        out_of_fold = np.full_like(own.out_of_fold, np.nan)
        out_of_fold[scored] = self.out_of_fold
        predicted = own.predicted + self.weights.astype(np.float32) * (shared.predicted - own.predicted)
        return out_of_fold, predicted, self._depths(own.depths, shared.depths)

    def _depths(self, own: SiteDepths | None, shared: SiteDepths | None) -> SiteDepths | None:
        if own is None or shared is None:
            return own

        def between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
            return first ** (1 - self.weight) * second**self.weight

        mixed = {name: between(getattr(own, name), getattr(shared, name)) for name in ("out_of_fold", "predicted")}
        return replace(own, **mixed)


@dataclass(frozen=True)
class Sums:
    """Over spots, by fold and gene, each of shape (folds, genes), of ``d = shared - own`` and ``r = observed - own``.

    Parameters
    ----------
    square, cross, residual
        Of ``d^2``, ``d r`` and ``r^2``.
    count
        Spots, shape (folds,).
    """

    square: np.ndarray
    cross: np.ndarray
    residual: np.ndarray
    count: np.ndarray

    def without(self, fold: int) -> Sums:
        """The other folds."""
        rest = np.arange(len(self.count)) != fold
        return Sums(self.square[rest], self.cross[rest], self.residual[rest], self.count[rest])

    def error(self, weights: np.ndarray) -> np.ndarray:
        """Squared error of every fold, summed over genes, (folds,)."""
        return (self.residual - 2 * weights * self.cross + weights**2 * self.square).sum(1)


def weigh_sharing(observed: np.ndarray, own: np.ndarray, shared: np.ndarray, fold: np.ndarray) -> Sharing:
    """Weigh two models by their out-of-fold values.

    Parameters
    ----------
    observed, own, shared
        Shape (n, genes).
    fold
        Shape (n,), int: the fold that held a spot out.
    """
    sums = _sums(observed, own, shared, fold)
    folds = range(len(sums.count))

    def crossed(spread: float) -> list[np.ndarray]:
        return [solve(sums.without(k), spread)[0] for k in folds]

    def missed(weights: list[np.ndarray]) -> float:
        return sum(float(sums.error(own)[k]) for k, own in enumerate(weights))

    by_spread = [crossed(spread) for spread in PRIOR_SPREADS]
    best = int(np.argmin([missed(weights) for weights in by_spread]))
    weights, weight = solve(sums, PRIOR_SPREADS[best])
    both = np.empty(observed.shape, np.float32)
    for k, others in enumerate(by_spread[best]):
        rows = fold == k
        both[rows] = own[rows] + others.astype(np.float32) * (shared[rows] - own[rows])
    error = {name: _error(observed, values) for name, values in (("own", own), ("shared", shared), ("both", both))}
    if error["both"] >= error["own"]:
        return Sharing(np.zeros(observed.shape[1]), 0.0, own, error)
    return Sharing(weights, weight, both, error)


def solve(sums: Sums, spread: float) -> tuple[np.ndarray, float]:
    """Weights per gene, shape (genes,), and that of all together; each gene's is the mode given a normal prior around it.

    Slides of a study are mostly alike: the weight of all is drawn to that of the shared model alone, as far as folds differ in
    what they ask for (jackknife).
    """
    square, cross, residual = (values.sum(0) for values in (sums.square, sums.cross, sums.residual))
    weight, error = slope(sums)
    if error is not None:
        weight = (weight / error + EXPECTED / SCATTER**2) / (1 / error + 1 / SCATTER**2)
    weight = float(np.clip(weight, 0, 1))
    if spread == 0:
        return np.full(len(square), weight), weight
    variance = np.maximum((residual - 2 * weight * cross + weight**2 * square) / max(sums.count.sum(), 1), 1e-12)
    prior = 1 / spread**2
    return np.clip((cross / variance + prior * weight) / (square / variance + prior), 0, 1), weight


def slope(sums: Sums) -> tuple[float, float | None]:
    """The weight of least error over all genes and folds, and the square of its standard error; ``None``: of one fold."""
    square, cross, n = sums.square.sum(1), sums.cross.sum(1), len(sums.count)
    weight = cross.sum() / max(square.sum(), 1e-12)
    if n < 2:
        return weight, None
    others = (cross.sum() - cross) / np.maximum(square.sum() - square, 1e-12)
    return weight, max((n - 1) / n * ((others - others.mean()) ** 2).sum(), 1e-12)


def _sums(observed: np.ndarray, own: np.ndarray, shared: np.ndarray, fold: np.ndarray) -> Sums:
    count = np.bincount(fold)
    found = np.zeros((3, len(count), observed.shape[1]))
    for k in range(len(count)):
        rows = np.flatnonzero(fold == k)
        for some in gene_slices(len(rows), observed.shape[1]):
            base = own[rows, some].astype(np.float64)
            d, r = shared[rows, some] - base, observed[rows, some] - base
            found[:, k, some] = (d * d).sum(0), (d * r).sum(0), (r * r).sum(0)
    return Sums(*found, count)


def _error(observed: np.ndarray, predicted: np.ndarray) -> float:
    pieces = gene_slices(*observed.shape)
    total = sum(((observed[:, some] - predicted[:, some]) ** 2).sum(dtype=np.float64) for some in pieces)
    return float(total / observed.size)
