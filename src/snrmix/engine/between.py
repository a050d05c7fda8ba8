"""How much slides differ from each other, and how little a few of them tell of that."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import t

from snrmix.engine.at_depth import SiteDepths
from snrmix.engine.conformal import NORMAL_90
from snrmix.engine.depth import pooled_share, tabulate_moments
from snrmix.engine.folds import Fold
from snrmix.engine.section import Section
from snrmix.engine.slices import slices

DEPTHS_DIFFER = 0.6  # standard deviation of log depth between slides, whatever those that were measured say
SITES_AT_ONCE = 4096


def widen(
    section: Section, folds: Sequence[Fold], out_of_fold: np.ndarray, sd: np.ndarray, group: np.ndarray,
    depths: SiteDepths | None, typical: float | None,
) -> np.ndarray:  # fmt: skip
    """Standard deviations on slides without measured spots, with what few slides leave unknown, float32, as ``sd``.

    Parameters
    ----------
    folds
        Each holds out slides, or all slides of a group; of a single slide regions, which differ from each other no more
        than slides do.
    out_of_fold
        Shape (measured, genes).
    sd
        Shape (unmeasured, genes), as calibrated on the slides that were left out.
    group
        Shape (genes,): genes whose variances are pooled.
    depths
        Of the sites; ``None`` where not known.
    typical
        Depth that predictions are for; ``None``: that of the spot.
    """
    level = unknown_level([(section.expression - out_of_fold)[fold.held_out] for fold in folds], group)
    variance = sd.astype(np.float64) ** 2 + level
    guessed = np.zeros(len(sd), bool) if depths is None or typical is not None else np.isnan(depths.elsewhere)
    if guessed.any():
        missed = np.log(depths.known / depths.out_of_fold)
        reach = np.exp(unknown_depth([missed[fold.held_out] for fold in folds]))
        share, depth = pooled_share(section.expression, depths.known), depths.predicted[guessed]
        moments = tabulate_moments(np.concatenate([depths.known, depth / reach, depth * reach]))
        for some in slices(len(depth), SITES_AT_ONCE):
            here, (low, high) = depth[some], (depth[some] / reach, depth[some] * reach)
            mean = moments.mean(share, here)
            swing = np.maximum(mean - moments.mean(share, low), moments.mean(share, high) - mean)
            noise = np.maximum(moments.variance(share, low) - moments.variance(share, here), 0)
            variance[np.flatnonzero(guessed)[some]] += swing**2 + noise
    return np.sqrt(variance).astype(np.float32)


def unknown_level(residuals: Sequence[np.ndarray], group: np.ndarray) -> np.ndarray:
    """Variance that errors on a new slide may have beyond those on the slides that were left out, shape (genes,).

    The mean error of a gene differs from slide to slide. With few slides the variance of that is hardly known: an interval
    for one more of ``n`` takes Student's distribution of ``n - 1`` degrees of freedom in place of the normal. What it adds to
    the 90 % interval is given as a variance.

    Parameters
    ----------
    residuals
        Out-of-fold, of every left-out slide or group of slides, each (spots, genes).
    group
        Shape (genes,): genes whose variances are pooled.
    """
    offsets = np.stack([np.nanmean(residual, axis=0, dtype=np.float64) for residual in residuals])
    pooled = np.array([np.mean(offsets[:, group == g] ** 2) for g in range(group.max() + 1)])
    return (_student(len(residuals)) ** 2 - 1) * pooled[group]


def unknown_depth(missed: Sequence[np.ndarray]) -> float:
    """Standard deviation of the log depth of a new slide around what is predicted, from errors on those left out."""
    offsets = np.array([np.nanmean(own) for own in missed])
    return float(np.sqrt(_student(len(missed)) ** 2 * np.mean(offsets**2) + DEPTHS_DIFFER**2))


def _student(n: int) -> float:
    """Half the width of a 90 % interval from ``n`` slides over that of a normal distribution."""
    return t.ppf(0.95, n - 1) / NORMAL_90
