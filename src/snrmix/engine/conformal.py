"""Intervals for the value that would be observed, calibrated on out-of-fold residuals."""

from __future__ import annotations

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
        base: np.ndarray | None = None,
    ) -> np.ndarray:
        """Scale of every prediction, float32, shape (n, genes); arguments as in `calibrate`."""
        out = np.empty(predicted.shape, np.float32)
        group = self.group[genes]
        for g in np.unique(group):
            columns = np.flatnonzero(group == g)
            values = features(predicted[:, columns], self.mean[genes][columns], [_columns(c, columns) for c in context])
            seen = np.clip(values, self.bound[g, :, 0], self.bound[g, :, 1])
            scale = np.exp((seen - self.centre[g]) @ self.coefficients[g]) * self.gene_scale[genes][columns]
            scale = scale if base is None else scale * base[:, columns]
            beyond = np.maximum(values[..., OWN_FEATURES:] - self.bound[g, OWN_FEATURES:, 1], 0)
            if beyond.any():
                growth = beyond @ np.maximum(self.coefficients[g, OWN_FEATURES:], 0)
                grown = scale * np.exp(np.minimum(growth, MOST_GROWTH))
                most = self.spread[genes][columns] / self._half_width[g]
                scale = np.maximum(scale, np.minimum(grown, most))
            out[:, columns] = np.maximum(scale, SMALLEST_SCALE)
        return out

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
        return (scale * ((high - low) / (2 * NORMAL_90))).astype(np.float32)


def calibrate(
    observed: np.ndarray, predicted: np.ndarray, context: list[np.ndarray], base: np.ndarray | None = None
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
        What the scale is proportional to whatever else is known, shape (n, genes); ``None``: nothing is.
    """
    if len(observed) > MOST_SPOTS:
        drawn = np.sort(np.random.default_rng(0).choice(len(observed), MOST_SPOTS, replace=False))
        observed, predicted, context = observed[drawn], predicted[drawn], [c[drawn] for c in context]
        base = base if base is None else base[drawn]
    mean = observed.mean(0, dtype=np.float64)
    residual = observed - predicted if base is None else (observed - predicted) / base
    gene_scale = np.maximum(np.sqrt(np.mean(residual**2, axis=0, dtype=np.float64)), SMALLEST_SCALE)
    group = gene_groups(mean)
    n_features = OWN_FEATURES + len(context)
    count = int(group.max()) + 1
    coefficients, centre = np.zeros((count, n_features)), np.zeros((count, n_features))
    low, high, bound = np.zeros((count, len(LEVELS))), np.zeros((count, len(LEVELS))), np.zeros((count, n_features, 2))
    for g in range(count):
        columns = np.flatnonzero(group == g)
        values = features(predicted[:, columns], mean[columns], [_columns(c, columns) for c in context])
        flat = values.reshape(-1, n_features)
        bound[g] = np.quantile(flat, [0.005, 0.995], axis=0).T
        flat = np.clip(flat, bound[g, :, 0], bound[g, :, 1])
        centre[g] = flat.mean(0)
        scaled = (residual[:, columns] / gene_scale[columns]).astype(np.float64).ravel()
        coefficients[g] = fit_log_scale(flat - centre[g], scaled)
        ratio = scaled / np.exp((flat - centre[g]) @ coefficients[g])
        tail = np.maximum(1 - LEVELS * (1 + 1 / len(observed)), 0) / 2  # of n + 1 spots, the new one included
        low[g], high[g] = np.quantile(ratio, tail), np.quantile(ratio, 1 - tail)
    spread = observed.std(0, dtype=np.float64)
    return Calibration(group, gene_scale, coefficients, centre, low, high, mean, bound, spread)


def gene_groups(mean: np.ndarray) -> np.ndarray:
    """Number genes by mean expression into groups of about 25, at most 20 groups."""
    count = int(np.clip(len(mean) // GENES_PER_GROUP, 1, MOST_GROUPS))
    rank = np.empty(len(mean), int)
    rank[np.argsort(mean, kind="stable")] = np.arange(len(mean))
    return rank * count // len(mean)


def features(predicted: np.ndarray, mean: np.ndarray, context: list[np.ndarray]) -> np.ndarray:
    """Predictors of the log scale, shape (n, genes, features)."""
    shift = predicted - mean
    columns = [shift, shift**2, *(np.broadcast_to(c, shift.shape) for c in context)]
    return np.stack(columns, axis=-1).astype(np.float64)


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
