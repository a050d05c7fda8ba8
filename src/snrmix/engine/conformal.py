"""Intervals for the value that would be observed, calibrated on out-of-fold residuals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

LEVELS = np.array([0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98])
NORMAL_90 = 1.6448536269514722  # half the width of a 90 % interval of a normal distribution in standard deviations
GENES_PER_GROUP = 25
MOST_GROUPS = 20
MOST_SPOTS = 20_000  # from which intervals are calibrated
SMALLEST_SCALE = 1e-3
MOST_GROWTH = 20.0  # of the log scale
OWN_FEATURES = 2  # of a prediction, before its context


Base = Callable[[np.ndarray], np.ndarray]  # from indices of genes to what scales are proportional to


@dataclass(frozen=True)
class Calibration:
    """A scale for every prediction and the quantiles of residuals in units of it.

    Parameters
    ----------
    group
        Shape (genes,): genes of similar mean expression are calibrated together.
    gene_scale
        Shape (genes,): root mean squared out-of-fold residual.
    coefficients
        Shape (groups, features): how the log scale follows the features of a prediction.
    centre
        Shape (groups, features): means of the features, so that they leave the gene's scale as it is.
    low, high
        Shape (groups, levels): signed quantiles of residual / scale for the levels `LEVELS`.
    mean
        Shape (genes,): mean expression.
    bound
        Shape (groups, features, 2): the range of the features that was seen; beyond it they are clipped, but for the
        context where it is above the range: distances and kriging sd that were never met make the scale grow, up to the
        spread of the gene.
    spread
        Shape (genes,): standard deviation of what was observed.
    """

    group: np.ndarray
    gene_scale: np.ndarray
    coefficients: np.ndarray
    centre: np.ndarray
    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    bound: np.ndarray
    spread: np.ndarray

    def scale(
        self,
        predicted: np.ndarray,
        context: list[np.ndarray],
        genes: slice = slice(None),
        base: Base | None = None,
    ) -> np.ndarray:
        """Scale of every prediction, float32, shape (n, genes); arguments as in `calibrate`."""
        out = np.empty(predicted.shape, np.float32)
        group = self.group[genes]
        for g in np.unique(group):
            columns = np.flatnonzero(group == g)
            values = features(predicted[:, columns], self.mean[genes][columns], [_columns(c, columns) for c in context])
            growth = self._growth(values[OWN_FEATURES:], g)
            _centre(values, self.bound[g], self.centre[g])
            scale = (
                np.exp(self.coefficients[g] @ values).reshape(len(out), len(columns)) * self.gene_scale[genes][columns]
            )
            scale = scale if base is None else scale * base(columns)
            if growth is not None:
                grown = scale * np.exp(np.minimum(growth, MOST_GROWTH)).reshape(scale.shape)
                most = self.spread[genes][columns] / self._half_width[g]
                scale = np.maximum(scale, np.minimum(grown, most))
            out[:, columns] = np.maximum(scale, SMALLEST_SCALE)
        return out

    def _growth(self, context: np.ndarray, g: int) -> np.ndarray | None:
        """By how much the log scale grows with context above its range, shape (values,); ``None`` where all is within."""
        highest = self.bound[g, OWN_FEATURES:, 1:]
        if not (context > highest).any():
            return None
        return np.maximum(self.coefficients[g, OWN_FEATURES:], 0) @ np.maximum(context - highest, 0)

    @property
    def _half_width(self) -> np.ndarray:
        """Standard deviations per unit of scale, shape (groups,)."""
        at = [np.interp(0.9, LEVELS, row) for row in (self.high - self.low)]
        return np.maximum(at, 1e-12) / (2 * NORMAL_90)

    def quantiles(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper quantile of residual / scale per gene, each (genes,), for a level of `LEVELS` or between."""
        low = np.array([np.interp(level, LEVELS, row) for row in self.low])
        high = np.array([np.interp(level, LEVELS, row) for row in self.high])
        return low[self.group], high[self.group]

    def sd(self, scale: np.ndarray) -> np.ndarray:
        """Half the width of the 90 % interval divided by 1.645, float32, shape (n, genes)."""
        low, high = self.quantiles(0.9)
        out = np.empty(scale.shape, np.float32)
        return np.multiply(scale, (high - low) / (2 * NORMAL_90), out=out, casting="same_kind")


def calibrate(
    observed: np.ndarray, predicted: np.ndarray, context: list[np.ndarray], base: Base | None = None
) -> Calibration:
    """Fit scales and quantiles to out-of-fold predictions.

    The log scale of a gene's residuals is linear in what is known of a prediction: how far it lies from the gene's mean
    (twice: linear and squared), and the given context. Coefficients are shared by genes of similar mean
    expression and fitted by the Gaussian quasi-likelihood. Signed quantiles of the scaled residuals then make the
    intervals right whatever the shape of the distribution (split conformal prediction on out-of-fold values). Of more than
    20,000 spots, that many are drawn at random.

    Parameters
    ----------
    observed, predicted
        Shape (n, genes): measured spots, and predictions that never saw them.
    context
        Further predictors of the log scale, each (n, genes) or (n, 1): log kriging sd, log distance to measured spots.
    base
        What the scale is proportional to whatever else is known: makes it for some genes by index, shape (n, some);
        ``None``: nothing is.
    """
    drawn = slice(None)
    if len(observed) > MOST_SPOTS:
        drawn = np.sort(np.random.default_rng(0).choice(len(observed), MOST_SPOTS, replace=False))
        observed, predicted, context = observed[drawn], predicted[drawn], [c[drawn] for c in context]
    mean = observed.mean(0, dtype=np.float64)
    gene_scale, spread = np.empty((2, len(mean)))
    group = gene_groups(mean)
    n_features = OWN_FEATURES + len(context)
    count = int(group.max()) + 1
    coefficients, centre = np.zeros((count, n_features)), np.zeros((count, n_features))
    low, high, bound = np.zeros((count, len(LEVELS))), np.zeros((count, len(LEVELS))), np.zeros((count, n_features, 2))
    for g in range(count):
        columns = np.flatnonzero(group == g)
        seen, there = observed[:, columns], predicted[:, columns]
        residual = seen - there if base is None else (seen - there) / base(columns)[drawn]
        gene_scale[columns] = np.maximum(np.sqrt(np.mean(residual**2, axis=0, dtype=np.float64)), SMALLEST_SCALE)
        spread[columns] = seen.std(0, dtype=np.float64)
        scaled = (residual / gene_scale[columns]).astype(np.float64).ravel()
        values = features(there, mean[columns], [_columns(c, columns) for c in context])
        bound[g] = np.quantile(values, [0.005, 0.995], axis=1).T
        centre[g] = _centre(values, bound[g])
        coefficients[g] = fit_log_scale(values.T, scaled)
        ratio = scaled / np.exp(coefficients[g] @ values)
        tail = np.maximum(1 - LEVELS * (1 + 1 / len(observed)), 0) / 2  # of n + 1 spots, the new one included
        low[g], high[g] = np.quantile(ratio, [tail, 1 - tail])
    return Calibration(group, gene_scale, coefficients, centre, low, high, mean, bound, spread)


def gene_groups(mean: np.ndarray) -> np.ndarray:
    """Number genes by mean expression into groups of about 25, at most 20 groups."""
    count = int(np.clip(len(mean) // GENES_PER_GROUP, 1, MOST_GROUPS))
    rank = np.empty(len(mean), int)
    rank[np.argsort(mean, kind="stable")] = np.arange(len(mean))
    return rank * count // len(mean)


def features(predicted: np.ndarray, mean: np.ndarray, context: list[np.ndarray]) -> np.ndarray:
    """Predictors of the log scale, float64, shape (features, n * genes)."""
    shift = predicted - mean
    every = [shift, shift**2, *(np.broadcast_to(c, shift.shape) for c in context)]
    return np.stack(every, dtype=np.float64).reshape(len(every), -1)


def _centre(values: np.ndarray, bound: np.ndarray, centre: np.ndarray | None = None) -> np.ndarray:
    """Clip features to their bounds and take their centres off, by default their means, in place; gives the centres."""
    np.clip(values, bound[:, :1], bound[:, 1:], out=values)
    centre = values.mean(1) if centre is None else centre
    values -= centre[:, None]
    return centre


def fit_log_scale(design: np.ndarray, residual: np.ndarray, penalty: float = 0.01, steps: int = 25) -> np.ndarray:
    """Coefficients ``b`` that minimise ``mean(2 log s + residual^2 / s^2)`` with ``log s = design b`` plus a small ridge.

    Fisher scoring; an intercept is fitted along and dropped, since quantiles absorb it.
    """
    spread = np.maximum(design.std(0), 1e-9)
    x = np.column_stack([np.ones(len(design)), design / spread])
    b = np.zeros(x.shape[1])
    ridge = penalty * np.eye(len(b))
    ridge[0, 0] = 0
    normal = 2 * x.T @ x / len(x) + ridge
    squared = np.minimum(residual**2, 25.0)  # a single outlier must not set the scale of a group
    for _ in range(steps):
        ratio = squared * np.exp(-2 * np.clip(x @ b, -4, 4))
        gradient = x.T @ (1 - ratio) / len(x) + ridge @ b
        step = np.linalg.solve(normal, gradient)
        b = b - np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-6:
            break
    return b[1:] / spread


def _columns(values: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return values if values.shape[1] == 1 else values[:, columns]
