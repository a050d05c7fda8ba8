"""How errors of predictions hang together: between genes, across space, and how they are distributed.

Out-of-fold residuals in units of their sd are brought to normal scores by the pooled quantiles of their group of genes.
These scores ``z`` (spots, genes) are taken as

    z_g(s) = sum_l a_gl f_l(s) + sqrt(1 - sum_l a_gl^2) e_g(s)

with factors ``f_l`` that genes share and a remainder ``e_g`` of each gene's own, all of variance 1, each a sum of
Gaussian fields with exponential covariances of a few ranges and of noise without any correlation. Errors at two spots go
together because both predictions rest on the same spots, and what one of them says of the other's value would spoil that;
so the covariance over distance is taken from pairs of spots that were held out together, which are to each other as two
unmeasured spots are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls
from scipy.spatial import cKDTree
from scipy.stats import norm

from snrmix.engine.conformal import LEVELS, NORMAL_90, Calibration
from snrmix.engine.kriging.components import depth_curves, trusted_depth
from snrmix.engine.linear_algebra import leading_directions

RANGES = np.array([1.5, 4.0, 12.0])  # of exponential covariances, in lattice pitches
TAILS = (1 - LEVELS) / 2
PROBABILITIES = np.unique(
    np.round(np.concatenate([[0.001, 0.005], TAILS, [0.3, 0.35, 0.4, 0.45, 0.5], 1 - TAILS, 1 - np.arange(0.3, 0.46, 0.05), [0.995, 0.999]]), 6)
)  # fmt: skip
MOST_FACTORS = 16
MOST_SHARED = 0.95  # of a gene's variance, by factors; or of a remainder's, by correlation in space
FEWEST_SPOTS = 20  # held out, below which errors are taken as independent
ANCHORS, NEAR, ANYWHERE = 3000, 20, 20  # spots whose pairs are looked at: with the nearest, and with any
MOST_VALUES, FEWEST_ROWS, MOST_ROWS = 2e7, 500, 5000  # that factors are found in
REMAINDERS = 150  # genes whose remainders tell how these go with distance
BINS = np.array([0, 1.2, 1.8, 2.5, 3.5, 5, 7, 10, 14, 20, 30])  # of distances between spots, in pitches
FEWEST_PAIRS = 10  # of a bin
DEPTH_SPOTS = 200  # at which sampling noise is worked out


@dataclass(frozen=True)
class Errors:
    """The joint distribution of the errors of predictions.

    Parameters
    ----------
    quantiles
        Shape (groups, probabilities): of error / sd, for `PROBABILITIES`, by group of genes as in the calibration.
    loadings
        float32, shape (genes, factors): ``a_gl``.
    factors
        Shape (factors, ranges): share of a factor's variance that follows each of `RANGES`; the rest is without
        correlation in space.
    own
        Shape (ranges,): the same of the remainders of all genes.
    lasting
        Shape (genes,): share of the error's variance that is not the sampling noise of the observation itself, and
        would stay if the spot were observed without it.
    """

    quantiles: np.ndarray
    loadings: np.ndarray
    factors: np.ndarray
    own: np.ndarray
    lasting: np.ndarray


def fit_errors(
    observed: np.ndarray,
    predicted: np.ndarray,
    sd: np.ndarray,
    calibration: Calibration,
    positions: np.ndarray,
    together: np.ndarray,
    depth: np.ndarray | None = None,
) -> Errors:
    """Learn from spots that were held out how errors hang together.

    Parameters
    ----------
    observed, predicted, sd
        Shape (n, genes): observed values, out-of-fold predictions and their sd.
    calibration
        Which genes are pooled, and the quantiles that intervals are made with.
    positions
        Shape (n, 2), in pitches.
    together
        Shape (n,), int: spots with the same number were held out together, and lie in the same library.
    depth
        Shape (n,), counts per spot; ``None`` where unknown.
    """
    n, genes = observed.shape
    rng = np.random.default_rng(0)
    scaled = Scaled(observed, predicted, sd, calibration.group)
    quantiles = scaled_quantiles(scaled, calibration)
    first, second = pairs(positions, together, rng) if n >= FEWEST_SPOTS else (np.zeros(0, int), np.zeros(0, int))
    if not len(first):
        nothing = np.zeros(genes)
        return Errors(quantiles, np.zeros((genes, 0), np.float32), np.zeros((0, len(RANGES))), np.zeros(len(RANGES)),
                      lasting_share(observed, predicted, depth, nothing))  # fmt: skip
    rows, where = np.unique(np.concatenate([first, second]), return_inverse=True)
    first, second = where[: len(first)], where[len(first) :]
    distance = np.sqrt(((positions[rows[first]] - positions[rows[second]]) ** 2).sum(1))
    most = int(np.clip(MOST_VALUES // genes, FEWEST_ROWS, MOST_ROWS))
    some = np.sort(rng.choice(n, most, replace=False)) if n > most else np.arange(n)
    axes, variance = leading_factors(scaled.normal(some, quantiles))
    scores = scaled.projected(rows, quantiles, axes)
    covariance = np.minimum(by_range(scores[first] * scores[second], distance, variance), variance[:, None])
    shared = axes**2 @ variance
    loadings = axes * np.sqrt(variance * np.minimum(1, MOST_SHARED / np.maximum(shared, 1e-12))[:, None])
    kept = np.sort(rng.choice(genes, REMAINDERS, replace=False)) if genes > REMAINDERS else np.arange(genes)
    rest = scaled.normal(rows, quantiles, kept) - (scores @ axes[kept].T).astype(np.float32)
    alike = np.zeros(len(first))
    for column in rest.T:
        alike += column[first] * column[second] / len(kept)
    own = by_range(alike[:, None], distance, np.array([MOST_SHARED]))[0]
    factors = covariance / np.maximum(variance, 1e-12)[:, None]
    spatial = loadings**2 @ factors.sum(1) + (1 - (loadings**2).sum(1)) * own.sum()
    return Errors(
        quantiles, loadings.astype(np.float32), factors, own, lasting_share(observed, predicted, depth, spatial)
    )


@dataclass(frozen=True)
class Scaled:
    """Residuals in units of their sd, a few rows or genes at a time."""

    observed: np.ndarray
    predicted: np.ndarray
    sd: np.ndarray
    group: np.ndarray

    def of(self, columns: np.ndarray, rows=slice(None)) -> np.ndarray:
        """Residual / sd at some spots and genes."""
        at = (rows, columns) if isinstance(rows, slice) else np.ix_(rows, columns)
        return (self.observed[at] - self.predicted[at]) / self.sd[at]

    def normal(self, rows: np.ndarray, quantiles: np.ndarray, genes: np.ndarray | None = None) -> np.ndarray:
        """Normal scores, float32, shape (rows, genes)."""
        genes = np.arange(len(self.group)) if genes is None else genes
        scores, z = np.empty((len(rows), len(genes)), np.float32), norm.ppf(PROBABILITIES)
        for g in np.unique(self.group[genes]):
            own = np.flatnonzero(self.group[genes] == g)
            rising = quantiles[g] + 1e-9 * np.arange(len(z))
            scores[:, own] = np.interp(self.of(genes[own], rows), rising, z)
        return scores

    def projected(self, rows: np.ndarray, quantiles: np.ndarray, axes: np.ndarray) -> np.ndarray:
        """Normal scores of all genes along axes, shape (rows, axes)."""
        total = np.zeros((len(rows), axes.shape[1]))
        for start in range(0, len(self.group), 500):
            genes = np.arange(start, min(start + 500, len(self.group)))
            total += self.normal(rows, quantiles, genes) @ axes[genes]
        return total


def scaled_quantiles(scaled: Scaled, calibration: Calibration) -> np.ndarray:
    """Quantiles of residual / sd for `PROBABILITIES`; at the ends of intervals they are those of the intervals."""
    found = np.empty((len(calibration.low), len(PROBABILITIES)))
    for g, (low, high) in enumerate(zip(calibration.low, calibration.high, strict=True)):
        found[g] = np.quantile(scaled.of(np.flatnonzero(calibration.group == g)), PROBABILITIES)
        half_width = max((np.interp(0.9, LEVELS, high) - np.interp(0.9, LEVELS, low)) / (2 * NORMAL_90), 1e-12)
        found[g, np.searchsorted(PROBABILITIES, TAILS - 1e-6)] = low / half_width
        found[g, np.searchsorted(PROBABILITIES, 1 - TAILS - 1e-6)] = high / half_width
    return np.maximum.accumulate(found, axis=1)


def pairs(positions: np.ndarray, together: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of spots that were held out together: some with their nearest ones, and with any."""
    anchors = np.arange(len(positions))
    if len(anchors) > ANCHORS:
        anchors = np.sort(rng.choice(anchors, ANCHORS, replace=False))
    first, second = [], []
    for label in np.unique(together):
        own, starts = np.flatnonzero(together == label), anchors[together[anchors] == label]
        if len(own) < 2 or not len(starts):
            continue
        near = min(NEAR + 1, len(own))
        found = own[cKDTree(positions[own]).query(positions[starts], near)[1]]
        found = np.concatenate([found, rng.choice(own, (len(starts), ANYWHERE))], axis=1)
        first.append(np.repeat(starts, found.shape[1]))
        second.append(found.ravel())
    if not first:
        return np.zeros(0, int), np.zeros(0, int)
    first, second = np.concatenate(first), np.concatenate(second)
    return first[first != second], second[first != second]


def leading_factors(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Directions in which genes vary together, shape (genes, factors), and the variance along each that they share.

    Of the leading principal components those count whose variance noise alone would not reach (Marchenko and Pastur),
    and their variances are shrunk to what is best for a covariance (Frobenius norm; Donoho, Gavish and Johnstone 2018,
    doi:10.1214/17-AOS1601).
    """
    n, genes = scores.shape
    centred = scores - scores.mean(0)
    axes = leading_directions(centred, min(MOST_FACTORS, genes, max(n // 8, 1)))
    variance = ((centred @ axes.astype(np.float32)).astype(np.float64) ** 2).mean(0)
    total, ratio, count = float(np.mean(centred**2, dtype=np.float64)) * genes, genes / n, 0
    noise = total / genes
    for _ in range(len(variance)):  # less noise, more factors, and so on
        count = int((variance > 1.02 * noise * (1 + np.sqrt(ratio)) ** 2).sum())
        noise = max(total - variance[:count].sum(), 1e-6 * total) / max(genes - count, 1)
    axes, scaled = axes[:, :count], variance[:count] / noise
    middle = scaled + 1 - ratio
    true = (middle + np.sqrt(np.maximum(middle**2 - 4 * scaled, 0))) / 2
    excess = np.maximum(true - 1, 1e-9)
    aligned = np.clip((1 - ratio / excess**2) / (1 + ratio / excess), 0, 1)
    return axes, noise * excess * aligned


def by_range(products: np.ndarray, distance: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Covariance over distance as a sum of exponentials of `RANGES`, none negative, together at most ``most``.

    Parameters
    ----------
    products
        Shape (pairs, columns).
    distance
        Shape (pairs,).
    most
        Shape (columns,).

    Returns
    -------
    numpy.ndarray
        Shape (columns, ranges).
    """
    found = np.zeros((products.shape[1], len(RANGES)))
    bins = np.digitize(distance, BINS) - 1
    used = [b for b in range(len(BINS) - 1) if (bins == b).sum() >= FEWEST_PAIRS]
    if not used:
        return found
    root = np.sqrt([(bins == b).sum() for b in used])
    shape = np.exp(-np.array([distance[bins == b].mean() for b in used])[:, None] / RANGES)
    mean = np.array([products[bins == b].mean(0) for b in used])
    for c in range(len(found)):
        found[c] = nnls(shape * root[:, None], mean[:, c] * root)[0]
    return found * np.minimum(1, most / np.maximum(found.sum(1), 1e-12))[:, None]


def lasting_share(
    observed: np.ndarray, predicted: np.ndarray, depth: np.ndarray | None, spatial: np.ndarray
) -> np.ndarray:
    """Share of the error's variance that is not the noise of counting at the predicted rate; at least the spatial one.

    A spot of depth ``D`` at which ``log1p(1e4 k / D)``, ``k`` a Poisson count, has the predicted mean has the variance
    that goes with it, see `snrmix.engine.kriging.components.Depths`.
    """
    n, genes = observed.shape
    some = np.unique(np.linspace(0, n - 1, min(n, DEPTH_SPOTS)).astype(int))
    depths = depth_curves(trusted_depth(observed, depth)[some])
    noise = np.zeros(genes)
    for row, mean, variance in zip(some, depths.mean, depths.variance, strict=True):
        noise += np.interp(predicted[row], mean, variance) / len(some)
    mse = ((observed[some] - predicted[some]) ** 2).mean(0, dtype=np.float64)
    return np.clip(1 - noise / np.maximum(mse, 1e-12), spatial, 1.0)
