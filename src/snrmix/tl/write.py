from __future__ import annotations

import importlib.metadata
from dataclasses import asdict, is_dataclass

import numpy as np
import pandas as pd
from anndata import AnnData

from snrmix.expression import Expression
from snrmix.sites import Sites

PACKAGES = ("snrmix", "anndata", "lightning", "numpy", "squidpy", "torch")
UNITS = {"counts": "log1p(counts per 10,000)", "log": "as given (log)"}


def check_memory(table: AnnData, copies: int = 2) -> None:
    """Refuse what would not fit: layers have the full shape of the table.

    Raises
    ------
    ValueError
        When ``copies`` float32 layers need more than 80 % of the memory that is free.
    """
    import psutil

    needed, free = copies * 4 * table.n_obs * table.n_vars, psutil.virtual_memory().available
    if needed > 0.8 * free:
        raise ValueError(
            f"layers of {table.n_obs} x {table.n_vars} values need {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are "
            "free. Log-normalise first (sc.pp.normalize_total, sc.pp.log1p), then subset to the genes you want: "
            "adata = adata[:, genes].copy()."
        )


def full_layer(
    table: AnnData,
    sites: Sites,
    expression: Expression,
    rows: list[np.ndarray],
    values: list[np.ndarray],
    not_modelled: np.ndarray,
) -> np.ndarray:
    """A layer of the table's shape from values of the modelled genes; NaN for genes that were left out.

    Parameters
    ----------
    rows, values
        Blocks: site indices, and values of shape (len(rows), modelled genes).
    not_modelled
        Given to every site for genes that are seen too rarely.
    """
    layer = np.full(table.shape, np.nan, np.float32)
    for block_rows, block in zip(rows, values, strict=True):
        layer[np.ix_(sites.order[block_rows], expression.columns)] = block
    layer[:, expression.mean_columns] = not_modelled
    return layer


def var_column(table: AnnData, expression: Expression, values: np.ndarray, missing=None) -> np.ndarray:
    """A var column from values of the modelled genes; elsewhere ``missing``, by default NaN or False."""
    values = np.asarray(values)
    if missing is None:
        missing = False if values.dtype == bool else np.nan
    column = np.full(table.n_vars, missing, dtype=values.dtype if values.dtype.kind in "bi" else float)
    column[expression.columns] = values
    return column


def writable(value):
    """What h5ad and zarr can store: no None, tuples, dataclasses or arbitrary objects."""
    if value is None:
        return "none"
    if is_dataclass(value) and not isinstance(value, type):
        return {"name": type(value).__name__, **{k: writable(v) for k, v in asdict(value).items()}}
    if isinstance(value, dict):
        return {str(k): writable(v) for k, v in value.items()}
    if isinstance(value, bool | int | float | str | np.generic):
        return value
    if isinstance(value, np.ndarray | pd.DataFrame):
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(v, bool | int | float | str) for v in value):
        return np.array(value, dtype=object if any(isinstance(v, str) for v in value) else None)
    return getattr(value, "__name__", type(value).__name__)


def versions() -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}
