"""Draw values from the predictive distribution: right one by one, and right together.

A draw is a field of normal scores, correlated in space and between genes as `snrmix.engine.errors` says, and each score is
then mapped to a value by the predictive quantiles of its own prediction. Fields of exponential covariance are sums of
random cosines (Rahimi and Recht 2007), with new frequencies in every draw, so that time and memory go with the number of
sites.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from scipy.stats import norm

from snrmix.engine.errors import PROBABILITIES, RANGES, Errors

WAVES = 128  # random frequencies of a field, each as cosine and sine
SITES_AT_ONCE = 4096
GRID_Z = np.linspace(-3.6, 3.6, 73)  # normal scores at which a distribution is tabulated
GRID_CENTRE = np.concatenate([np.linspace(0, 1, 21), np.linspace(1.1, 2, 10), np.linspace(2.25, 5, 12), [8.0, 30.0]])
BENT = 0.05  # between this quantile and its opposite a distribution may be bent
STEPS = 40  # of bisection


def draw_scores(
    errors: Errors, positions: np.ndarray, rng: np.random.Generator, lasting: bool = False
) -> Iterator[tuple[slice, np.ndarray]]:
    """Normal scores of sites that are predicted together, some sites at a time.

    Parameters
    ----------
    errors
        How they hang together.
    positions
        Shape (n, 2), in pitches.
    rng
        Where randomness comes from; the result depends on the order of sites and genes.
    lasting
        Without the sampling noise of an observation: a score's variance is then `Errors.lasting` instead of 1.

    Yields
    ------
    tuple
        Which sites, and their scores, float32, shape (sites, genes).
    """
    genes, count = errors.loadings.shape
    loadings = errors.loadings.astype(np.float64)
    rest = 1 - (loadings**2).sum(1)
    spatial = loadings**2 @ errors.factors.sum(1) + rest * errors.own.sum()
    noise = (
        np.sqrt(np.clip((errors.lasting - spatial) / np.maximum(1 - spatial, 1e-9), 0, 1))
        if lasting
        else np.ones(genes)
    )
    shaken = np.sqrt(np.maximum(1 - errors.factors.sum(1), 0))
    waves = []
    for k, reach in enumerate(RANGES):
        frequency = rng.standard_normal((2, WAVES)) / np.sqrt(rng.chisquare(1, WAVES)) / reach
        weight = rng.standard_normal((2 * WAVES, count)) * np.sqrt(errors.factors[:, k]) @ loadings.T
        if errors.own[k] > 0:
            weight += rng.standard_normal((2 * WAVES, genes)) * np.sqrt(errors.own[k] * rest)
        waves.append((frequency, (weight / np.sqrt(WAVES)).astype(np.float32)))
    own_noise = (noise * np.sqrt(rest * max(1 - errors.own.sum(), 0))).astype(np.float32)
    shared_noise = (noise[:, None] * loadings * shaken).T.astype(np.float32)
    for start in range(0, len(positions), SITES_AT_ONCE):
        part = slice(start, min(start + SITES_AT_ONCE, len(positions)))
        scores = rng.standard_normal((part.stop - start, genes), np.float32) * own_noise
        scores += rng.standard_normal((part.stop - start, count), np.float32) @ shared_noise
        for frequency, weight in waves:
            phase = positions[part] @ frequency
            scores += np.concatenate([np.cos(phase), np.sin(phase)], axis=1).astype(np.float32) @ weight
        yield part, scores


class Values:
    """From normal scores to values: the predictive distribution of every prediction.

    In units of its sd it is that of the scaled errors of the gene's group around the prediction, cut off at 0. Cutting
    alone would lift the mean of what is predicted near 0, and draws of rarely seen genes would be higher than what is
    observed; so between its 5 % and 95 % quantiles, which stay, a distribution is bent down until its mean is right.

    Parameters
    ----------
    quantiles
        As in `Errors`.
    """

    def __init__(self, quantiles: np.ndarray):
        self.quantiles = quantiles

    def of(self, scores: np.ndarray, predicted: np.ndarray, sd: np.ndarray, group: np.ndarray) -> np.ndarray:
        """Values, float32, of scores, predictions and sds of shape (n, genes), and a group per gene."""
        centre = np.minimum(predicted / np.maximum(sd, 1e-12), GRID_CENTRE[-1])
        row = np.interp(centre, GRID_CENTRE, np.arange(len(GRID_CENTRE)))
        column = np.clip((scores - GRID_Z[0]) / (GRID_Z[1] - GRID_Z[0]), 0, len(GRID_Z) - 1)
        i, j = (
            np.minimum(row.astype(np.intp), len(GRID_CENTRE) - 2),
            np.minimum(column.astype(np.intp), len(GRID_Z) - 2),
        )
        flat = self.table.reshape(-1)
        at = (group[None, :] * len(GRID_CENTRE) + i) * len(GRID_Z) + j
        row -= i
        column -= j
        below = flat[at] * (1 - column) + flat[at + 1] * column
        at += len(GRID_Z)
        shift = below * (1 - row) + (flat[at] * (1 - column) + flat[at + 1] * column) * row
        return np.maximum(predicted + sd * shift, 0).astype(np.float32)

    @cached_property
    def table(self) -> np.ndarray:
        """Value less prediction, in units of the sd, float32, shape (groups, `GRID_CENTRE`, `GRID_Z`)."""
        u = norm.cdf(GRID_Z)
        share = np.diff(norm.cdf((GRID_Z[1:] + GRID_Z[:-1]) / 2), prepend=0, append=1)
        z = norm.ppf(PROBABILITIES)
        raw = np.array([np.interp(GRID_Z, z, row) for row in self.quantiles])[:, None, :]
        bump = np.maximum((u - BENT) * (1 - BENT - u), 0) / (0.5 - BENT) ** 2
        centre = GRID_CENTRE[None, :, None]
        wanted = centre[..., 0] + raw @ share

        def bent(by: np.ndarray) -> np.ndarray:
            return np.maximum.accumulate(np.maximum(centre + raw - by[..., None] * bump, 0), axis=-1)

        low, high = np.zeros(wanted.shape), np.full(wanted.shape, 6.0)
        for _ in range(STEPS):
            middle = (low + high) / 2
            above = bent(middle) @ share > wanted
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        return (bent(low) - centre).astype(np.float32)


def draw_values(
    errors: Errors,
    values: Values,
    positions: np.ndarray,
    predicted: np.ndarray,
    sd: np.ndarray,
    group: np.ndarray,
    rng: np.random.Generator,
    expected: bool = False,
) -> np.ndarray:
    """Joint draws for sites that are predicted together, float32, shape (n, genes).

    Parameters
    ----------
    errors, values
        Of the model that predicts them.
    positions
        Shape (n, 2), in pitches.
    predicted, sd
        Shape (n, genes).
    group
        Shape (genes,), rows of the quantiles.
    rng
        Where randomness comes from.
    expected
        Draw what would be expected at the site, without the noise of an observation: normal around the prediction.
    """
    out = np.empty(predicted.shape, np.float32)
    for part, scores in draw_scores(errors, positions, rng, lasting=expected):
        if expected:
            out[part] = np.maximum(predicted[part] + sd[part] * scores, 0)
        else:
            out[part] = values.of(scores, predicted[part], sd[part], group)
    return out
