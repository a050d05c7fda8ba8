"""Rates apart from depth: the share of a spot's counts that a gene has, and how many counts there are.

A gene's log fold-change at a spot is ``v = log1p(k / (D share))``, of its counts ``k`` among the ``D`` of the spot, with
``share`` what it has of all counts of the training spots. Genes count by the root of that share, so that the sampling
noise of every gene is about the same at a spot. Kriged ``v`` and a predicted depth ``d`` give the value to expect,

    E[log1p(1e4 k / d)],  k ~ Poisson(r d),  r = share (exp(v) - 1)

where kriging of log values has the effect of depth and that of the rates in one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from snrmix.engine.depth import SMALLEST_SHARE, CountMoments, pooled_share
from snrmix.engine.kriging.components import Depths, SpotNoise
from snrmix.engine.kriging.covariance import KrigingSites
from snrmix.engine.kriging.field import Field
from snrmix.engine.scores.baselines import judged_ridge
from snrmix.engine.slices import gene_slices


@dataclass(frozen=True)
class Rates:
    """Log fold-changes of the training spots. Make it with `Rates.of`.

    Parameters
    ----------
    field
        Log fold-changes times the root of the share.
    share
        Shape (genes,), of all counts of the training spots.
    log_depth
        Mean of log depth of the training spots.
    moments
        What counts of a share and depth give.
    """

    field: Field
    share: np.ndarray
    log_depth: float
    moments: CountMoments

    @classmethod
    def of(cls, expression: np.ndarray, depths: Depths, noise: np.ndarray, moments: CountMoments, order) -> Rates:
        """From log1p(counts per 10,000), float32, shape (n, genes), of training spots; ``noise`` and ``order`` are theirs."""
        share = np.maximum(pooled_share(expression, depths.depth), SMALLEST_SHARE)
        changes = np.empty(expression.shape, np.float32)
        for some in gene_slices(*expression.shape):
            changes[:, some] = np.log1p(np.expm1(expression[:, some]) / (1e4 * share[some]).astype(np.float32))
        changes *= np.sqrt(share).astype(np.float32)
        n, genes = expression.shape
        without_shift = SpotNoise(noise, np.zeros((n, 0)), np.zeros((genes, 0)))
        return cls(Field.of(changes, without_shift, order), share, np.mean(np.log(depths.depth)), moments)

    @property
    def centre(self) -> np.ndarray:
        """Expression at a site of which nothing is known, float32, shape (genes,)."""
        return self.expected(self.field.mean[None], np.exp(self.log_depth)[None])[0]

    def expected(self, changes: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Expression at targets, float32, shape (targets, genes), from kriged changes and predicted depths, (targets,)."""
        found = np.empty(changes.shape, np.float32)
        for some in gene_slices(*changes.shape):
            share = self.share[some]
            rate = share * np.expm1(changes[:, some] / np.sqrt(share))
            found[:, some] = self.moments.mean_at(np.clip(rate, SMALLEST_SHARE, 1.0), depth)
        return found


@dataclass(frozen=True)
class LogDepth:
    """Log depth of the training spots, which is kriged as one more component. Make it with `LogDepth.of`.

    Parameters
    ----------
    train
        Shape (n,), indices of the training sites.
    values
        Shape (n,).
    design
        What a ridge regression sees of every site, shape (sites, columns).
    """

    train: np.ndarray
    values: np.ndarray
    design: np.ndarray

    @property
    def scores(self) -> np.ndarray:
        """Less the mean, shape (n, 1)."""
        return (self.values - self.values.mean())[:, None]

    def depth(self, kriged: np.ndarray, targets: np.ndarray, error: float) -> np.ndarray:
        """Depth at targets, shape (targets,): kriging and ridge regression, within what was seen.

        Either knows what the other does not: kriging what is near and looks alike, ridge regression what goes on rising. They
        count by the inverse of their mean squared leave-one-out errors; ``error`` is that of kriging.
        """
        log_depth = kriged + self.values.mean()
        if self.design.shape[1] and len(targets):
            seen, other = judged_ridge(self.design, self.train, targets, self.values[:, None])
            share = other / max(error + other, 1e-12)
            log_depth = share * log_depth + (1 - share) * seen[:, 0]
        return np.exp(np.clip(log_depth, self.values.min(), self.values.max()))


def depth_design(sites: KrigingSites) -> np.ndarray:
    """What log depth is regressed on: colour, and in every library a level and a slope; (sites, columns), float32.

    No columns without colour.
    """
    if sites.colour is None or not sites.colour.shape[1]:
        return np.zeros((len(sites.library), 0), np.float32)
    columns = [sites.colour]
    for code in () if sites.apart else np.unique(sites.library):
        own = sites.library == code
        places = sites.positions - sites.positions[own].mean(0)
        columns.append(np.column_stack([np.ones(len(own)), places]) * own[:, None])
    return np.concatenate(columns, axis=1).astype(np.float32)
