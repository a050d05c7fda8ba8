"""The table to work on, and what is stored in it: matrices, masks, images, features."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from snrmix._names import closest, listing


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
        raise TypeError(f"data must be an AnnData or a SpatialData, not {type(data).__name__}.")
    if table.isbacked:
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
    return table


def _choose_table(sdata, table_key: str | None) -> AnnData:
    tables = dict(sdata.tables)
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


def stored_sections(table: AnnData) -> Mapping:
    """What ``uns["spatial"]`` has, by library; empty where there is nothing.

    Raises
    ------
    ValueError
        When it is not made as Space Ranger's readers make it.
    """
    known = table.uns.get("spatial", {})
    if not isinstance(known, Mapping) or not all(isinstance(entry, Mapping) for entry in known.values()):
        raise ValueError(
            "uns['spatial'] must be a dict by library, with 'images' and 'scalefactors'; rename what is there, or make "
            "it so."
        )
    return known


def entry_of(table: AnnData, library: str) -> Mapping:
    """What ``uns["spatial"]`` has on a library; a single entry may have another name than the only library."""
    known = stored_sections(table)
    return known.get(library) or (next(iter(known.values())) if len(known) == 1 else {})


def matrix_of(table: AnnData, layer: str | None):
    """``X`` or a layer, in memory.

    Raises
    ------
    KeyError, ValueError, TypeError
        When there is none, or it does not hold numbers.
    """
    layers = [name for name in table.layers.keys() if name is not None]
    if layer is not None and layer not in layers:
        raise KeyError(f"layer={layer!r} is not in layers; available: {listing(layers)}.{closest(layer, layers)}")
    matrix = table.X if layer is None else table.layers[layer]
    if matrix is None:
        raise ValueError(f"the object has no X; choose one of its layers with layer=: {listing(layers)}.")
    if matrix.dtype.kind not in "buif":
        name = "X" if layer is None else f"layers[{layer!r}]"
        raise TypeError(f"{name} has dtype {matrix.dtype}; expected numbers. Choose another layer with layer=.")
    return matrix.compute() if hasattr(matrix, "dask") else matrix


def read_mask(table: AnnData, value, name: str) -> np.ndarray:
    """A boolean obs column by its name, or a boolean array or Series over observations: bool, shape (n_obs,).

    Parameters
    ----------
    value
        What the user passed.
    name
        The argument it was passed as.

    Raises
    ------
    KeyError, TypeError, ValueError
        For a missing column, a type that is not boolean, missing values, or a wrong length or index.
    """
    label = name
    if isinstance(value, str):
        if value not in table.obs:
            raise KeyError(
                f"{name}={value!r} is not in obs; available: {listing(table.obs)}.{closest(value, table.obs)}"
            )
        label, value = f"obs[{value!r}]", table.obs[value]
    elif isinstance(value, list | tuple):
        value = np.array(value)
    elif isinstance(value, pd.Series) and not value.index.equals(table.obs_names):
        if len(value) != table.n_obs or set(value.index) != set(table.obs_names):
            raise ValueError(f"the index of {name} differs from obs_names; pass {name}.to_numpy() to go by position.")
        value = value.loc[table.obs_names]
    if not pd.api.types.is_bool_dtype(value):
        kind = getattr(value, "dtype", type(value).__name__)
        column = f"adata.{label}" if label != name else "adata.obs['x']"
        example = f"{column} == 1" if pd.api.types.is_numeric_dtype(value) else f"{column}.astype(str) == 'True'"
        raise TypeError(
            f"{label} must be boolean, not {kind}: compare it with the value that stands for yes, e.g. {name}={example}."
        )
    if pd.isna(value).any():
        raise TypeError(f"{label} has {pd.isna(value).sum()} missing values; fill them, e.g. with .fillna(False).")
    mask = np.asarray(value, dtype=bool)
    if mask.shape != (table.n_obs,):
        raise ValueError(f"{label} has shape {mask.shape}; expected ({table.n_obs},), one value per observation.")
    return mask


def has_image(data, table: AnnData) -> bool:
    """Whether the object holds an image at all."""
    if data is not table:
        return len(data.images) > 0
    return any(entry.get("images") for entry in stored_sections(table).values())


def read_representation(table: AnnData, use_rep: str) -> np.ndarray:
    """Features of all rows from ``obsm``, float32, shape (n, d).

    Raises
    ------
    KeyError, ValueError
        When they are missing, or not finite: every site, measured or not, needs its features.
    """
    if use_rep not in table.obsm:
        known = list(table.obsm.keys())
        raise KeyError(f"use_rep={use_rep!r} is not in obsm; available: {listing(known)}.{closest(use_rep, known)}")
    values = table.obsm[use_rep]
    values = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    if values.ndim != 2 or values.dtype.kind not in "fiu" or not values.shape[1]:
        raise ValueError(
            f"obsm[{use_rep!r}] has shape {values.shape} and dtype {values.dtype}; expected numbers, (n_obs, features)."
        )
    values = values.astype(np.float32)
    bad = ~np.isfinite(values).all(1)
    if bad.any():
        raise ValueError(
            f"obsm[{use_rep!r}] has NaN or infinite features at {bad.sum()} sites, e.g. {table.obs_names[bad][0]!r}."
        )
    return values


def dense_block(matrix, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """A block of a sparse or dense matrix, as an array."""
    if sparse.issparse(matrix):
        return matrix[rows][:, columns].toarray()
    return np.asarray(matrix)[np.ix_(rows, columns)]
