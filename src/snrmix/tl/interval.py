from __future__ import annotations

import numpy as np

from snrmix.data.results import models_of, result_table
from snrmix.engine.conformal import NORMAL_90


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
    """
    from scipy.stats import norm

    table = result_table(data, key, table_key)
    calibration = table.uns[key]["calibration"]
    levels = np.asarray(calibration["levels"])
    if not levels[0] <= level <= levels[-1]:
        raise ValueError(f"level={level!r} must lie between {levels[0]} and {levels[-1]}.")

    def quantiles(side: str, at: float) -> np.ndarray:
        return np.array([np.interp(at, levels, row) for row in np.asarray(calibration[side])])

    half_width = np.maximum((quantiles("high", 0.9) - quantiles("low", 0.9)) / (2 * NORMAL_90), 1e-12)
    values, sd = np.asarray(table.layers[key]), np.asarray(table.layers[f"{key}_sd"])
    ends = []
    for side, sign in (("low", -1), ("high", 1)):
        # Genes that were not modelled, group -1, have no residuals of their own: their sd is taken as normal.
        sds = np.append(quantiles(side, level) / half_width, sign * norm.ppf((1 + level) / 2)).astype(np.float32)
        end = np.empty_like(values)
        for rows, group in models_of(table, key):
            end[rows] = np.maximum(values[rows] + sds[group] * sd[rows], 0)
        ends.append(end)
    return tuple(ends)
