"""How much of the variance of log-normalised counts is sampling noise, which no prediction can explain.

A spot of depth ``D`` whose gene has rate ``r`` (share of the spot's counts) gives ``k ~ Poisson(r D)`` counts and the
value ``log1p(1e4 k / D)``, with mean ``m(r, D)`` and variance ``v(r, D)``. Both are exact sums over ``k``; how rates are
distributed over spots is estimated from the counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from snrmix.engine.counts import log_count_moments

STANDARD_ERRORS = 2.0
NEIGHBOURS = 6  # whose depth a spot's is guessed from
RATE_NODES = 160  # over eight decades or so: steps of a tenth
RATE_RANGE = 50.0  # how far below the mean rate of a gene a spot's may be
STEPS = 50


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
    rates
        Shape (nodes,), ascending: rates at which the curves are known.
    known_depth, neighbour_depth
        float32, shape (spots, nodes).
    """

    depth: np.ndarray
    spots: np.ndarray
    rates: np.ndarray
    known_depth: np.ndarray
    neighbour_depth: np.ndarray

    def of(self, expression: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Noise variance with known and with neighbour depth, float64, each of shape (spots, genes).

        The mean over the rates that a spot may have, given its count: averaged over spots it is the noise of the rates
        as they are distributed, and not that of rates that were smoothed.

        Parameters
        ----------
        expression
            log1p(counts per 10,000) of some genes at the observed spots, shape (observed, genes).
        """
        counts = np.expm1(expression.astype(np.float64)) * (self.depth[:, None] / 1e4)
        known, neighbour = np.zeros((2, len(self.spots), expression.shape[1]))
        for gene, count in enumerate(counts.T):
            nodes = rate_nodes(count, self.depth, self.rates)
            if not nodes.size:
                continue
            posterior = rate_posterior(count, self.depth, self.rates[nodes])[self.spots]
            known[:, gene] = np.einsum("sn,sn->s", posterior, self.known_depth[:, nodes])
            neighbour[:, gene] = np.einsum("sn,sn->s", posterior, self.neighbour_depth[:, nodes])
        return known, neighbour


def rate_nodes(count: np.ndarray, depth: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Which rates a gene may have at some spot, indices; none where it was never counted."""
    if not count.sum() > 0:
        return np.zeros(0, int)
    highest = ((count + 2 * np.sqrt(count)) / depth).max()
    lowest = min(count.sum() / depth.sum() / RATE_RANGE, highest / RATE_RANGE)
    first, last = np.searchsorted(rates, [lowest, highest])
    return np.arange(max(first - 1, 0), min(last + 1, len(rates)))


def rate_posterior(count: np.ndarray, depth: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """How likely each rate is at each spot, shape (spots, rates): empirical Bayes without a form for the distribution.

    The distribution of rates over spots maximises the likelihood of the counts, ``k_i ~ Poisson(r_i D_i)`` with ``r_i``
    drawn from it (Kiefer & Wolfowitz 1956, doi:10.1214/aoms/1177728066), found by expectation-maximisation.

    Parameters
    ----------
    count, depth
        Shape (spots,).
    rates
        Shape (rates,).
    """
    expected = depth[:, None] * rates
    log_likelihood = count[:, None] * np.log(expected) - expected
    likelihood = np.exp(log_likelihood - log_likelihood.max(1, keepdims=True)).astype(np.float32)
    weight = np.full(len(rates), 1 / len(rates), np.float32)
    for _ in range(STEPS):
        weight = weight * (likelihood.T @ (1 / (likelihood @ weight))) / len(count)
    posterior = likelihood * weight
    return posterior / posterior.sum(1, keepdims=True)


def sampling_noise(depth: np.ndarray, neighbours: np.ndarray, spots: np.ndarray) -> SamplingNoise:
    """Sampling noise that a perfect predictor would still meet, under two assumptions on the depth of a spot.

    With *known depth*, the predictor knows rate ``r_i`` and depth ``D_i``: the noise is ``v(r_i, D_i)``. With *neighbour
    depth*, it must guess the depth from the 6 nearest spots ``j`` and is off by the difference of the means too:
    ``v(r_i, D_i) + (m(r_i, D_i) - mean_j m(r_i, D_j))^2``.

    Rates are not smoothed over neighbours, so that a patchy gene gets the noise of its patches, see `rate_posterior`. All
    that varies between spots beyond Poisson counts as signal, though, also scatter that nothing could predict: where
    there is such, the noise is too low and the share that could be explained too high. A gene that takes up a large share
    of all counts scatters less than Poisson.

    Parameters
    ----------
    depth
        Shape (observed,), counts per spot over all genes, above 0.
    neighbours
        Shape (observed, k), k >= `NEIGHBOURS`: nearest observed spots of the same library, nearest first, the spot
        itself excluded, -1 where there are fewer. A spot without any is taken to know its depth.
    spots
        Indices of the observed spots whose noise is wanted.
    """
    depth, spots = np.asarray(depth, float), np.asarray(spots)
    rates = np.geomspace(0.02 / float(depth.max()), 1.0, RATE_NODES)
    near = _incidence(neighbours[spots, :NEIGHBOURS], len(depth))
    degree = near.sum(axis=1)[:, None]
    mean, variance = _curves(depth, rates)
    guessed = np.where(degree > 0, near @ mean / np.maximum(degree, 1), mean[spots])
    known = variance[spots]
    neighbour = known + ((mean[spots] - guessed) ** 2).astype(np.float32)
    return SamplingNoise(depth, spots, rates, known, neighbour)


def _incidence(neighbours: np.ndarray, n: int) -> sparse.csr_array:
    """1 where a spot (row) has an observed spot (column, of ``n``) as neighbour."""
    rows, columns = np.repeat(np.arange(len(neighbours)), neighbours.shape[1]), neighbours.ravel()
    present = columns >= 0
    return sparse.csr_array((np.ones(present.sum()), (rows[present], columns[present])), shape=(len(neighbours), n))


def _curves(depth: np.ndarray, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance at every depth over the rates, float32, shape (spots, nodes); a table of depths to 1 %."""
    rounded, which = np.unique(np.round(np.log(depth), 2), return_inverse=True)
    mean, variance = np.empty((2, len(rounded), len(rates)), np.float32)
    for row, d in enumerate(np.exp(rounded)):
        moments = log_count_moments(rates * d, np.array([1e4 / d]))
        mean[row], variance[row] = moments[0][0], moments[1][0]
    return mean[which], variance[which]


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
