"""The table to work on, and what is stored in it: matrices and features."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from snrmix import _checks
from snrmix._names import closest, listing
from snrmix.data.stored import has_stored_image


def read_table(data, table_key: str | None = None, *, needs_genes: bool = True) -> AnnData:
    """The table to work on: ``data`` itself, or the named (or only) table of a SpatialData.

    Parameters
    ----------
    needs_genes
        Whether a table without genes is refused; positions and images need none.

    Raises
    ------
    TypeError
        When ``data`` is neither AnnData nor SpatialData.
    ValueError, KeyError
        When the table is ambiguous, missing, empty, backed, or has names that are not unique.
    """
    if isinstance(data, AnnData):
        table = data
    elif hasattr(data, "tables") and hasattr(data, "images"):
        table = _choose_table(data, table_key)
    else:
        raise TypeError(f"data must be an AnnData or a SpatialData, not {type(data).__name__}.{_how_to_read(data)}")
    if not isinstance(table.obs, pd.DataFrame) or table.isbacked:
        raise ValueError("the object is backed by a file; call adata = adata.to_memory() first.")
    if table.n_obs == 0 or (needs_genes and table.n_vars == 0):
        raise ValueError(f"the object is empty: {table.n_obs} observations x {table.n_vars} genes.")
    for what, names, remedy in (
        ("observation", table.obs_names, "obs_names_make_unique()"),
        ("gene", table.var_names, "var_names_make_unique()"),
    ):
        if not names.is_unique:
            repeated = names[names.duplicated()].unique()
            raise ValueError(f"{what} names are not unique ({listing(repeated, 5)}); call adata.{remedy} first.")
    for part, frame in (("obs", table.obs), ("var", table.var)):
        if not frame.columns.is_unique:
            repeated = frame.columns[frame.columns.duplicated()].unique()
            raise ValueError(
                f"{part} has columns twice ({listing(repeated, 5)}); keep the first of each: adata.{part} = "
                f"adata.{part}.loc[:, ~adata.{part}.columns.duplicated()]."
            )
    return table


def _how_to_read(data) -> str:
    """The line that makes an AnnData of what is none."""
    if isinstance(data, str | os.PathLike):
        return " Read the file first: anndata.read_h5ad(path), anndata.read_zarr(path) or spatialdata.read_zarr(path)."
    if isinstance(getattr(data, "mod", None), Mapping):
        names = list(data.mod)
        return (
            f" Choose one of its modalities, {listing(names)}: {type(data).__name__.lower()}.mod[{names[0]!r}]."
            if names
            else ""
        )
    if isinstance(data, list | tuple | dict) and len(data):
        return " Put sections together first: anndata.concat(sections, label='slide', index_unique='-', uns_merge='unique')."
    return " adata.to_adata() makes one." if hasattr(data, "to_adata") else ""


def _choose_table(sdata, table_key: str | None) -> AnnData:
    tables = dict(sdata.tables)
    _checks.key("table_key", table_key, "a table")
    if table_key is not None:
        if table_key not in tables:
            raise KeyError(
                f"table_key={table_key!r} is not a table; available: {listing(tables)}.{closest(table_key, tables)}"
            )
        return tables[table_key]
    if len(tables) == 1:
        return next(iter(tables.values()))
    if "table" in tables:
        return tables["table"]
    raise ValueError(f"the SpatialData has {len(tables)} tables ({listing(tables)}); choose one with table_key=.")


def matrix_name(layer: str | None) -> str:
    """What a matrix is called in a message."""
    return "X" if layer is None else f"layers[{layer!r}]"


def matrix_of(table: AnnData, layer: str | None):
    """``X`` or a layer, in memory.

    Raises
    ------
    KeyError, ValueError, TypeError
        When there is none, or it does not hold numbers.
    """
    _checks.key("layer", layer, "a layer")
    layers = [name for name in table.layers.keys() if name is not None]
    if layer is not None and layer not in layers:
        raise KeyError(f"layer={layer!r} is not in layers; available: {listing(layers)}.{closest(layer, layers)}")
    matrix = table.X if layer is None else table.layers[layer]
    if matrix is None:
        raise ValueError(f"the object has no X; choose one of its layers with layer=: {listing(layers)}.")
    if matrix.dtype.kind not in "buif":
        raise TypeError(
            f"{matrix_name(layer)} has dtype {matrix.dtype}; expected numbers. Choose another layer with layer=."
        )
    return matrix.compute() if hasattr(matrix, "dask") else matrix


def has_image(data, table: AnnData) -> bool:
    """Whether the object holds an image at all."""
    if data is not table:
        return len(data.images) > 0
    return has_stored_image(table)


def read_representation(table: AnnData, use_rep: str, rows: np.ndarray) -> np.ndarray:
    """Features of some rows from ``obsm``, float32, shape (rows, d).

    Raises
    ------
    KeyError, ValueError
        When they are missing, or not finite: every site, measured or not, needs its features.
    """
    _checks.key("use_rep", use_rep, "an entry of obsm")
    if use_rep not in table.obsm:
        known = list(table.obsm.keys())
        raise KeyError(f"use_rep={use_rep!r} is not in obsm; available: {listing(known)}.{closest(use_rep, known)}")
    values = table.obsm[use_rep]
    values = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    if values.ndim != 2 or values.dtype.kind not in "fiu" or not values.shape[1]:
        raise ValueError(
            f"obsm[{use_rep!r}] has shape {values.shape} and dtype {values.dtype}; expected numbers, (n_obs, features)."
        )
    values = values[rows].astype(np.float32)
    bad = ~np.isfinite(values).all(1)
    if bad.any():
        raise ValueError(
            f"obsm[{use_rep!r}] has NaN or infinite features at {bad.sum()} sites, e.g. {listing(table.obs_names[rows][bad][:1])}."
        )
    return values


def dense_block(matrix, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """A block of a sparse or dense matrix, as an array."""
    if sparse.issparse(matrix):
        return matrix[rows][:, columns].toarray()
    return np.asarray(matrix)[np.ix_(rows, columns)]
