from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from snrmix._globals import settled
from snrmix.data.results import Result
from snrmix.engine.conformal import NORMAL_90


@settled()
def interval(data, level: float = 0.9, *, key: str = "snrmix", table_key: str | None = None) -> tuple:
    """Interval in which the value that would be observed at a spot lies with a given probability.

    Conformal: calibrated on out-of-fold residuals, so that it covers as promised for spots that are missing as the folds'
    spots are; where whole regions are missing it is approximate.

    Parameters
    ----------
    data
        The object that `snrmix.tl.impute` was called on.
    level
        Probability, 0.5 to 0.98.
    key
        ``key_added`` of that call.
    table_key
        Table of the SpatialData.

    Returns
    -------
    tuple
        Lower and upper ends, float32, each (n_obs, n_vars), in the units of the layer. Never below 0; both equal to the
        layer where it holds the observed value; NaN where the layer is.

    Raises
    ------
    KeyError, ValueError
        When there is no result under ``key``, or ``level`` is out of range.

    Examples
    --------
    >>> snrmix.tl.impute(adata, measured="measured")
    >>> low, high = snrmix.tl.interval(adata, level=0.9)
    >>> bool((low <= high).all())
    True
    """
    result = Result.find(data, key, table_key)
    quantiles = quantiles_in_sds(result.record["calibration"], level)
    return interval_ends(result.layer, result.sd, result.models(), quantiles)


def quantiles_in_sds(calibration: Mapping, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the interval as multiples of the sd: low and high, float32, each (groups + 1,), the last for group -1.

    Parameters
    ----------
    calibration
        Of `snrmix.tl.impute`: quantiles ``low`` and ``high``, each (groups, levels), at ``levels``.
    level
        Probability.

    Raises
    ------
    ValueError
        When ``level`` is out of range.
    """
    from scipy.stats import norm

    levels = np.asarray(calibration["levels"])
    if not levels[0] <= level <= levels[-1]:
        raise ValueError(f"level={level!r} must lie between {levels[0]} and {levels[-1]}.")

    def quantiles(side: str, at: float) -> np.ndarray:
        return np.array([np.interp(at, levels, row) for row in np.asarray(calibration[side])])

    half_width = np.maximum((quantiles("high", 0.9) - quantiles("low", 0.9)) / (2 * NORMAL_90), 1e-12)
    # Genes that were not modelled, group -1, have no residuals of their own: their sd is taken as normal.
    return tuple(
        np.append(quantiles(side, level) / half_width, sign * norm.ppf((1 + level) / 2)).astype(np.float32)
        for side, sign in (("low", -1), ("high", 1))
    )


def interval_ends(values: np.ndarray, sd: np.ndarray, models, quantiles) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends, not negative, each of the shape of the values.

    Parameters
    ----------
    values, sd
        Shape (n, genes).
    models
        Pairs: rows that a model predicted, and the group of every gene in it.
    quantiles
        See `quantiles_in_sds`.
    """
    ends = np.empty_like(values), np.empty_like(values)
    for end, sds in zip(ends, quantiles, strict=True):
        for rows, group in models:
            end[rows] = np.maximum(values[rows] + sds[group] * sd[rows], 0)
    return ends
