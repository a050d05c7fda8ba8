"""How many counts each site has, as far as it is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

from snrmix._log import logger
from snrmix._names import closest, listing
from snrmix.data.expression import Expression
from snrmix.data.sites import Sites
from snrmix.data.table import matrix_of

KNOWN_COLUMNS = ("total_counts", "n_counts", "nCount_Spatial", "nCount_RNA", "nUMI")  # of obs, where depth often is
LARGEST_SPREAD = 0.5  # of log ratios between a column and the counts, in the median


def check_depth_key(table: AnnData, depth_key: str | None) -> None:
    """Refuse an obs column that is none, or has no numbers.

    Raises
    ------
    KeyError, TypeError
        For such a column.
    """
    if depth_key is None:
        return
    if not isinstance(depth_key, str):
        raise TypeError(f"depth_key must be the name of an obs column, not {type(depth_key).__name__}.")
    if depth_key not in table.obs:
        hint = closest(depth_key, table.obs)
        raise KeyError(f"depth_key={depth_key!r} is not in obs; available: {listing(table.obs)}.{hint}")
    column = table.obs[depth_key].dtype
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        raise TypeError(f"obs[{depth_key!r}] must hold counts per spot, not {column}.")


def site_depths(
    table: AnnData, sites: Sites, is_measured: np.ndarray, expression: Expression, depth_key: str | None
) -> np.ndarray | None:
    """Counts per site, NaN where they are not known, shape (n,); ``None`` where they are not known of measured sites.

    Counts tell them of measured sites; ``depth_key`` also of others, and for log values of all. Without it, log values take
    one of the usual columns for the measured sites alone. A column is scaled to what the expression implies: it may have
    been summed over more genes, or values normalised to something else than 10,000.

    Raises
    ------
    ValueError
        When the column has no number above 0 at a measured site.
    """
    counted, measured = expression.input_units == "counts", np.flatnonzero(is_measured)
    found = np.full(len(sites), np.nan)
    if counted:
        found[measured] = expression.depth
    name = depth_key or next((c for c in KNOWN_COLUMNS if c in table.obs and _is_number(table.obs[c])), None)
    if (counted and depth_key is None) or name is None:
        return found if counted else None
    column = table.obs[name].to_numpy(float)[sites.order]
    bad = ~(np.isfinite(column[measured]) & (column[measured] > 0))
    if bad.any():
        if depth_key is None:
            return None
        raise ValueError(
            f"obs[{name!r}] is not above 0 at {bad.sum()} measured spots, e.g. {sites.names[measured[bad]][0]!r}: depth_key= "
            "must name counts per spot."
        )
    ratio = np.log(expression.depth / column[measured])
    scale = np.median(ratio)
    if np.median(np.abs(ratio - scale)) > LARGEST_SPREAD:
        logger.warning("obs[%r] does not go with the expression of the measured spots: is it their depth?", name)
    column = column * np.exp(scale)
    if not counted:
        found[measured] = column[measured]
    if depth_key is not None:
        others = ~is_measured & np.isfinite(column) & (column > 0)
        found[others] = column[others]
    return found


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype)


def unmeasured_totals(table: AnnData, sites: Sites, is_measured: np.ndarray, layer: str | None) -> np.ndarray:
    """Sums of the expression of those unmeasured sites that have any; nothing of a result may rest on them."""
    totals = np.asarray(matrix_of(table, layer)[sites.order[~is_measured]].sum(axis=1), dtype=float).ravel()
    return totals[np.isfinite(totals) & (totals > 0)]
