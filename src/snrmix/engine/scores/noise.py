"""How much of the variance of log-normalised counts is sampling noise, which no prediction can explain.

A spot of depth ``D`` whose gene has rate ``r`` (share of the spot's counts) gives ``k ~ Poisson(r D)`` counts and the
value ``log1p(1e4 k / D)``, with mean ``m(r, D)`` and variance ``v(r, D)``. Both are exact sums over ``k``; rates are
estimated by pooling the counts of neighbouring spots.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import sparse

from snrmix.engine.counts import log_count_moments

STANDARD_ERRORS = 2.0
RINGS = (6, 18, 36)  # nearest spots over which rates may be pooled; the first says whose depth is guessed from
NEIGHBOURS = RINGS[-1]
EXPECTED_NODES, RATE_NODES = 1024, 256
SPOTS_AT_ONCE = 2048


@dataclass(frozen=True)
class _Axis:
    """Nodes from 0 to ``largest``, even in ``log1p(x / knee)``: dense where values are small."""

    knee: float
    largest: float
    size: int

    @property
    def step(self) -> float:
        return float(np.log1p(self.largest / self.knee)) / (self.size - 1)

    @property
    def nodes(self) -> np.ndarray:
        return self.knee * np.expm1(self.step * np.arange(self.size))

    def locate(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Node below each value and the weight of the next one."""
        place = np.log1p(values / self.knee) / self.step
        below = np.clip(place.astype(np.int32), 0, self.size - 2)
        nodes = self.nodes
        return below, (values - nodes[below]) / (nodes[below + 1] - nodes[below])


def _interpolate(table: np.ndarray, below: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Values of row ``i`` of the table at the places of row ``i``, shape (n, places)."""
    flat, index = table.ravel(), below + np.arange(len(table))[:, None] * table.shape[1]
    low = flat[index]
    return low + weight * (flat[index + 1] - low)


@dataclass(frozen=True)
class SamplingNoise:
    """Variance of the sampling noise of any gene at given spots, as curves over the gene's rate there.

    Make it with `sampling_noise`.

    Parameters
    ----------
    depth
        Shape (observed,).
    spots
        Shape (spots,), indices into the observed spots.
    rings
        Sparse, each of shape (spots, observed): who is among the 6 nearest spots, the next 12, the next 18.
    axis
        Rates at which the curves are known.
    known_depth, neighbour_depth
        float32, shape (spots, nodes).
    """

    depth: np.ndarray
    spots: np.ndarray
    rings: tuple[sparse.csr_array, ...]
    axis: _Axis
    known_depth: np.ndarray
    neighbour_depth: np.ndarray

    def of(self, expression: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Noise variance with known and with neighbour depth, float64, each of shape (spots, genes).

        Parameters
        ----------
        expression
            log1p(counts per 10,000) of some genes at the observed spots, shape (observed, genes).
        """
        place = self.axis.locate(self.rates(expression))
        return _interpolate(self.known_depth, *place), _interpolate(self.neighbour_depth, *place)

    def rates(self, expression: np.ndarray) -> np.ndarray:
        """Share of a spot's counts that each gene has, ``sum k / sum D`` over the spot and its nearest 6, 18 or 36.

        For every gene it is the number whose pooled rate, without the spot itself, predicts the spot best: the sum over
        spots of ``D (k / D - rate)^2`` is least.

        Parameters
        ----------
        expression
            As in `of`.
        """
        counts = np.expm1(expression.astype(np.float64)) * (self.depth[:, None] / 1e4)
        own, own_depth = counts[self.spots], self.depth[self.spots][:, None]
        near, near_depth = np.zeros_like(own), np.zeros_like(own_depth)
        rates, least = np.zeros_like(own), np.full(own.shape[1], np.inf)
        for ring in self.rings:
            near += ring @ counts
            near_depth += (ring @ self.depth)[:, None]
            error = (own_depth * (own / own_depth - near / np.maximum(near_depth, 1)) ** 2).sum(0)
            better = error < least
            rates[:, better] = ((near + own) / (near_depth + own_depth))[:, better]
            least = np.minimum(error, least)
        return rates


def sampling_noise(depth: np.ndarray, neighbours: np.ndarray, spots: np.ndarray) -> SamplingNoise:
    """Sampling noise that a perfect predictor would still meet, under two assumptions on the depth of a spot.

    With *known depth*, the predictor knows rate ``r_i`` and depth ``D_i``: the noise is ``v(r_i, D_i)``. With *neighbour
    depth*, it must guess the depth from the 6 nearest spots ``j`` and is off by the difference of the means too:
    ``v(r_i, D_i) + (m(r_i, D_i) - mean_j m(r_i, D_j))^2``.

    Rates are pooled over neighbours, see `SamplingNoise.rates`. Real differences between neighbours are averaged out
    that way, which makes the noise of a patchy gene slightly too high. Scatter beyond Poisson is not counted, which
    makes it too low where there is any. A gene that takes up a large share of all counts scatters less than Poisson.

    Parameters
    ----------
    depth
        Shape (observed,), counts per spot over all genes, above 0.
    neighbours
        Shape (observed, k), best with k = `NEIGHBOURS`: nearest observed spots of the same library, nearest first, the
        spot itself excluded, -1 where there are fewer. A spot without any is taken to know its depth.
    spots
        Indices of the observed spots whose noise is wanted.
    """
    depth, chosen = np.asarray(depth, float), neighbours[spots]
    rings = [_incidence(chosen[:, start:stop], len(depth)) for start, stop in pairwise((0, *RINGS))]
    rates = _Axis(0.02 / float(np.median(depth)), 1.0, RATE_NODES)
    mean, variance = _curves(depth, rates)
    degree = rings[0].sum(axis=1)[:, None]
    guessed = np.where(degree > 0, rings[0] @ mean / np.maximum(degree, 1), mean[spots])
    known = variance[spots]
    neighbour = known + ((mean[spots] - guessed) ** 2).astype(np.float32)
    return SamplingNoise(depth, np.asarray(spots), tuple(rings), rates, known, neighbour)


def _incidence(neighbours: np.ndarray, n: int) -> sparse.csr_array:
    """1 where a spot (row) has an observed spot (column, of ``n``) as neighbour."""
    rows, columns = np.repeat(np.arange(len(neighbours)), neighbours.shape[1]), neighbours.ravel()
    present = columns >= 0
    return sparse.csr_array((np.ones(present.sum()), (rows[present], columns[present])), shape=(len(neighbours), n))


def _curves(depth: np.ndarray, rates: _Axis) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance at every depth over the rates, float32, shape (spots, nodes), a few spots at a time."""
    expected = _Axis(0.02, float(depth.max()) * rates.largest, EXPECTED_NODES)
    nodes, rate_nodes = expected.nodes, rates.nodes
    mean, variance = np.empty((2, len(depth), rates.size), np.float32)
    for start in range(0, len(depth), SPOTS_AT_ONCE):
        rows = slice(start, start + SPOTS_AT_ONCE)
        place = expected.locate(depth[rows, None] * rate_nodes)
        for curves, moment in zip((mean, variance), log_count_moments(nodes, 1e4 / depth[rows]), strict=True):
            curves[rows] = _interpolate(moment, *place)
    return mean, variance


def explainable_variance(reference: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Mean squared error of the mean less sampling noise: what a perfect predictor could explain, per gene.

    Parameters
    ----------
    reference
        Squared deviations from the prediction of the mean, shape (spots, genes).
    noise
        Noise variance, shape (spots, genes).

    Returns
    -------
    numpy.ndarray
        Shape (genes,); NaN where the difference is within two standard errors (over spots) of zero or below.
    """
    difference = reference - noise
    signal = difference.mean(0)
    error = difference.std(0) / np.sqrt(max(len(difference), 1))
    return np.where(signal > STANDARD_ERRORS * error, signal, np.nan)
