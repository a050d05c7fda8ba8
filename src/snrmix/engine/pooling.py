"""One result of the analyses of several draws.

Where values are missing, the rules of Rubin (1987) with the degrees of freedom of Barnard and Rubin (1999,
doi:10.1093/biomet/86.4.948). Where observed values were replaced by draws (a layer that is denoised throughout), what
differs between draws there is not ignorance, and it counts only as far as the number of draws leaves it: the rules for
partially synthetic data (Reiter 2003), and for both at once those of Reiter (2004), which need two draws or more of the
replaced values for each draw of the missing ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import t


@dataclass(frozen=True)
class Pooled:
    """An estimate from several draws. All arrays have the shape of the estimate.

    Parameters
    ----------
    estimate
        Mean over draws.
    variance
        Its variance, of sampling and of what is not known of the values.
    within
        Mean over draws of the variance that a draw states.
    between
        What is not known of the values, as a variance.
    df
        Degrees of freedom of the t distribution that tests and intervals use.
    n_draws
        From how many draws.
    """

    estimate: np.ndarray
    variance: np.ndarray
    within: np.ndarray
    between: np.ndarray
    df: np.ndarray
    n_draws: int

    def score(self, null=0.0) -> np.ndarray:
        """Distance of the estimate from a value in standard errors; 0 where both are 0."""
        away, error = self.estimate - null, np.sqrt(self.variance)
        exact = np.where(away == 0, 0.0, np.copysign(np.inf, away))
        return np.divide(away, error, out=exact, where=error > 0)

    def p_value(self, null=0.0, side: str = "both") -> np.ndarray:
        """Of the hypothesis that what is estimated is ``null``, against ``"both"`` sides, ``"greater"`` or ``"less"``."""
        score = self.score(null)
        if side == "both":
            return 2 * t.sf(np.abs(score), self.df)
        return t.sf(score if side == "greater" else -score, self.df)

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper end of a confidence interval."""
        half = t.ppf((1 + level) / 2, self.df) * np.sqrt(self.variance)
        return self.estimate - half, self.estimate + half


def pool_missing(estimates: np.ndarray, variances: np.ndarray, df=np.inf) -> Pooled:
    """Rubin's rules: each draw fills in what is missing.

    Parameters
    ----------
    estimates, variances
        Shape (draws, ...).
    df
        Degrees of freedom that the analysis would have if nothing were missing.
    """
    m = len(estimates)
    within, between = variances.mean(0), estimates.var(0, ddof=1)
    extra = (1 + 1 / m) * between
    variance = within + extra
    share = np.divide(extra, variance, out=np.zeros_like(variance), where=variance > 0)
    return Pooled(estimates.mean(0), variance, within, between, barnard_rubin(share, m - 1, df), m)


def barnard_rubin(share: np.ndarray, df_between: float, df) -> np.ndarray:
    """Degrees of freedom where a ``share`` of the variance is estimated from draws and the rest has ``df`` of them."""
    df = np.broadcast_to(np.asarray(df, float), share.shape)
    finite = np.where(np.isfinite(df), df, 1.0)
    observed = np.where(np.isfinite(df), (finite + 1) / (finite + 3) * finite, np.inf) * np.maximum(1 - share, 1e-12)
    with np.errstate(divide="ignore"):  # nothing estimated from draws, and no limit otherwise: a normal distribution
        return 1 / (share**2 / df_between + 1 / observed)


def pool_replaced(estimates: np.ndarray, variances: np.ndarray, df=np.inf) -> Pooled:
    """Rules for partially synthetic data: each draw replaces values that were observed; parameters as in `pool_missing`."""
    m = len(estimates)
    within, noise = variances.mean(0), estimates.var(0, ddof=1) / m
    variance = within + noise
    share = np.divide(noise, variance, out=np.zeros_like(variance), where=variance > 0)
    return Pooled(estimates.mean(0), variance, within, np.zeros_like(noise), barnard_rubin(share, m - 1, df), m)


def pool_both(estimates: np.ndarray, variances: np.ndarray, df=np.inf) -> Pooled:
    """Rules for missing and replaced values at once: several replacements for each filling-in.

    Parameters
    ----------
    estimates, variances
        Shape (fillings, replacements, ...).
    df
        As in `pool_missing`.
    """
    m, r = estimates.shape[:2]
    within, of_fillings = variances.mean((0, 1)), estimates.mean(1).var(0, ddof=1)
    of_replacements = estimates.var(1, ddof=1).mean(0)
    between = np.maximum(of_fillings - of_replacements / r, 0)
    noise = of_replacements / (m * r)  # of the mean over draws
    variance = within + (1 + 1 / m) * between + noise
    total = np.where(variance > 0, variance, 1.0)
    filled, replaced = (1 + 1 / m) * of_fillings / total, of_replacements / r / total
    of_draws = filled**2 / (m - 1) + replaced**2 / (m * (r - 1))
    complete = barnard_rubin(np.minimum(1 - within / total, 1), np.inf, df)
    with np.errstate(divide="ignore"):
        df = 1 / (of_draws + 1 / complete)
    return Pooled(estimates.mean((0, 1)), variance, within, between, df, m * r)
