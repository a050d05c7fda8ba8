"""Measured expression in log units: which spots, which genes, which units."""

from __future__ import annotations

import numbers
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from snrmix._names import closest, listing
from snrmix.sites import Sites

TARGET_SUM = 1e4
MIN_SPOTS = 5  # a gene seen in fewer measured spots is given its mean
MIN_MEASURED = 20


@dataclass(frozen=True)
class Expression:
    """Expression of the measured sites, in canonical order.

    Parameters
    ----------
    values
        float32, shape (n measured, modelled genes): log1p of counts per 10,000, or the given log values.
    columns
        Shape (modelled genes,); gene ``j`` is column ``columns[j]`` of the table. Sorted by gene name.
    mean_columns, means
        Chosen genes that are seen in too few measured spots to be modelled, and their means.
    input_units
        ``"counts"`` or ``"log"``.
    depth
        Shape (n measured,): counts per spot over all genes; for log input the sum of the values.
    """

    values: np.ndarray
    columns: np.ndarray
    mean_columns: np.ndarray
    means: np.ndarray
    input_units: str
    depth: np.ndarray


def matrix_of(table: AnnData, layer: str | None):
    """``X`` or a layer.

    Raises
    ------
    KeyError, ValueError
        When there is none.
    """
    if layer is not None:
        if layer not in table.layers:
            raise KeyError(
                f"layer={layer!r} is not in layers; available: {listing(table.layers.keys())}.{closest(layer, table.layers.keys())}"
            )
        return table.layers[layer]
    if table.X is None:
        raise ValueError(f"the object has no X; choose one of its layers with layer=: {listing(table.layers.keys())}.")
    return table.X


def read_measured(table: AnnData, measured, layer: str | None) -> np.ndarray:
    """Which rows of the table are measured, shape (n,), bool.

    Parameters
    ----------
    measured
        Name of a boolean obs column, a boolean array or Series of length n, or ``None``: at least one count and, where
        the column exists, ``in_tissue == 1``.

    Raises
    ------
    KeyError, TypeError, ValueError
        For a missing column, a type that is not boolean, a wrong length, or fewer than 20 measured spots.
    """
    if measured is None:
        mask = np.asarray((matrix_of(table, layer) > 0).sum(axis=1)).ravel() > 0
        if "in_tissue" in table.obs:
            mask &= pd.to_numeric(table.obs["in_tissue"], errors="coerce").to_numpy() == 1
        origin = "with at least one count" + (" and in_tissue == 1" if "in_tissue" in table.obs else "")
    else:
        mask, origin = _given_measured(table, measured), "marked as measured"
    if mask.sum() < MIN_MEASURED:
        what = "no spot is" if not mask.any() else f"only {mask.sum()} of {len(mask)} spots are"
        raise ValueError(f"{what} {origin}; at least {MIN_MEASURED} measured spots are needed to train.")
    return mask


def _given_measured(table: AnnData, measured) -> np.ndarray:
    if isinstance(measured, str):
        if measured not in table.obs:
            raise KeyError(
                f"measured={measured!r} is not in obs; available: {listing(table.obs)}.{closest(measured, table.obs)}"
            )
        name, measured = f"obs[{measured!r}]", table.obs[measured]
    else:
        name = "measured"
        if isinstance(measured, pd.Series) and not measured.index.equals(table.obs_names):
            if set(measured.index) != set(table.obs_names):
                raise ValueError(
                    "the index of measured differs from obs_names; pass measured.to_numpy() to go by position."
                )
            measured = measured.loc[table.obs_names]
    if pd.api.types.is_bool_dtype(measured) and not pd.isna(measured).any():
        mask = np.asarray(measured, dtype=bool)
    else:
        kind = getattr(measured, "dtype", type(measured).__name__)
        raise TypeError(
            f"{name} must be boolean without missing values, not {kind}; e.g. adata.obs['x'].astype(str) == 'True'."
        )
    if mask.shape != (table.n_obs,):
        raise ValueError(f"measured has shape {mask.shape}; expected ({table.n_obs},), one value per observation.")
    return mask


def read_expression(
    table: AnnData, sites: Sites, measured: np.ndarray, *, layer=None, units="auto", genes=None
) -> Expression:
    """Read, check and normalise the expression of the measured sites; rows that are not measured are never looked at.

    Parameters
    ----------
    measured
        Shape (n,), bool, in site order.
    layer, units, genes
        As in `snrmix.tl.impute`.

    Raises
    ------
    ValueError, KeyError, TypeError
        For negative or missing values, units that cannot be told, empty measured spots, unknown genes.
    """
    if units not in ("auto", "counts", "log"):
        raise ValueError(f"units={units!r}; choose 'auto', 'counts' or 'log'.")
    rows, by_name = sites.order[measured], np.argsort(np.asarray(table.var_names, dtype=str), kind="stable")
    matrix = matrix_of(table, layer)
    values = sparse.csc_matrix(matrix[rows], dtype=np.float64)[:, by_name]
    _check_values(values, table, rows)
    units = _detect_units(values, table) if units == "auto" else units
    depth = np.asarray(values.sum(axis=1)).ravel()
    if units == "counts":
        empty = depth == 0
        if empty.any():
            raise ValueError(
                f"{empty.sum()} measured spots have no counts, e.g. {table.obs_names[rows[empty]][0]!r}: mark them as "
                "unmeasured with measured=, or leave measured=None."
            )
        values = sparse.diags_array(TARGET_SUM / depth) @ values
        values.data = np.log1p(values.data)
        values = sparse.csc_matrix(values)
    chosen = _choose_genes(values, np.asarray(table.var_names, dtype=str)[by_name], table, genes)
    seen = np.asarray((values[:, chosen] > 0).sum(axis=0)).ravel()
    modelled, rare = chosen[seen >= MIN_SPOTS], chosen[seen < MIN_SPOTS]
    if not len(modelled):
        raise ValueError(f"none of the {len(chosen)} chosen genes is seen in {MIN_SPOTS} or more measured spots.")
    dense = np.empty((len(rows), len(modelled)), np.float32)
    for start in range(0, len(modelled), 2048):
        dense[:, start : start + 2048] = values[:, modelled[start : start + 2048]].toarray()
    means = np.asarray(values[:, rare].mean(axis=0)).ravel().astype(np.float32)
    return Expression(dense, by_name[modelled], by_name[rare], means, units, depth)


def _check_values(values: sparse.csc_matrix, table: AnnData, rows: np.ndarray) -> None:
    for problem, bad in (("NaN or infinite", ~np.isfinite(values.data)), ("negative", values.data < 0)):
        if bad.any():
            spots = np.unique(values.indices[bad])
            raise ValueError(
                f"{problem} values in {len(spots)} measured spots, e.g. {table.obs_names[rows[spots[0]]]!r}: mark these spots "
                "as unmeasured with measured=, or choose another layer with layer=."
            )


def _detect_units(values: sparse.csc_matrix, table: AnnData) -> str:
    if np.array_equal(values.data, np.rint(values.data)):
        return "counts"
    if "log1p" in table.uns or values.data.max() < 20:
        return "log"
    raise ValueError(
        f"the expression is neither integer counts nor clearly logarithmic (largest value {values.data.max():.4g}): say "
        "units='counts' (it will be normalised) or units='log' (it will be used as it is), or choose a layer with layer=."
    )


def _choose_genes(values, names: np.ndarray, table: AnnData, genes) -> np.ndarray:
    """Indices into ``names``, ascending."""
    if genes is None:
        return np.arange(len(names))
    if isinstance(genes, numbers.Integral) and not isinstance(genes, bool):
        if not 1 <= genes <= len(names):
            raise ValueError(f"genes={genes} must lie between 1 and the number of genes, {len(names)}.")
        mean = np.asarray(values.mean(axis=0)).ravel()
        return np.sort(np.argsort(-mean, kind="stable")[:genes])
    if isinstance(genes, str):
        if genes not in table.var:
            hint = (
                f" For a single gene pass genes=[{genes!r}]." if genes in table.var_names else closest(genes, table.var)
            )
            raise KeyError(f"genes={genes!r} is not in var; available: {listing(table.var)}.{hint}")
        if not pd.api.types.is_bool_dtype(table.var[genes]):
            raise TypeError(f"var[{genes!r}] must be boolean, not {table.var[genes].dtype}.")
        chosen = set(table.var_names[table.var[genes].to_numpy(bool)])
    elif isinstance(genes, Iterable):
        chosen = {str(g) for g in genes}
    else:
        raise TypeError(
            f"genes must be None, an int, a list of names or a boolean var column, not {type(genes).__name__}."
        )
    if not chosen:
        raise ValueError("genes is empty; pass at least one gene, or None for all.")
    missing = sorted(chosen - set(names))
    if missing:
        hints = " ".join(f"{g!r}:{closest(g, names) or ' nothing like it.'}" for g in missing[:5])
        raise KeyError(f"{len(missing)} of {len(chosen)} genes are not in var_names: {listing(missing, 5)}. {hints}")
    return np.flatnonzero(np.isin(names, list(chosen)))
