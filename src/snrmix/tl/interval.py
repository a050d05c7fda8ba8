from __future__ import annotations

import numpy as np

from snrmix._names import listing
from snrmix.engine.conformal import LEVELS, NORMAL_90
from snrmix.sites import read_table


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
    table = read_table(data, table_key)
    if key not in table.uns or f"{key}_sd" not in table.layers:
        raise KeyError(f"no imputation under {key!r}: run snrmix.tl.impute first. uns has {listing(table.uns)}.")
    if not LEVELS[0] <= level <= LEVELS[-1]:
        raise ValueError(f"level={level!r} must lie between {LEVELS[0]} and {LEVELS[-1]}.")
    quantiles, group = table.uns[key]["calibration"], table.var[f"{key}_calibration"].to_numpy()
    ends = []
    for side in ("low", "high"):
        rows = np.asarray(quantiles[side])
        at_level, at_90 = (np.array([np.interp(p, LEVELS, row) for row in rows]) for p in (level, 0.9))
        ends.append((at_level, at_90))
    half_width = (ends[1][1] - ends[0][1]) / (2 * NORMAL_90)
    # Genes that were not modelled have no residuals of their own; their sd is taken as normal.
    from scipy.stats import norm

    factors = np.stack(
        [[*(end / half_width), sign * norm.ppf((1 + level) / 2)] for (end, _), sign in zip(ends, (-1, 1), strict=True)]
    )
    low, high = factors[:, group].astype(np.float32)
    values, sd = np.asarray(table.layers[key]), np.asarray(table.layers[f"{key}_sd"])
    return np.maximum(values + low * sd, 0), values + high * sd
