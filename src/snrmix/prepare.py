"""From the user's object to the arrays of the engine, with every check on the way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData

from snrmix._names import closest, listing
from snrmix.embedding import DEFAULT_SCALES, Embedding, compute_embedding, read_cache
from snrmix.engine.crossfit import Section
from snrmix.engine.folds import Fold, make_folds, single_split
from snrmix.expression import Expression, read_expression, read_measured
from snrmix.graph import spatial_neighbours
from snrmix.sites import Sites, read_sites, read_table


@dataclass(frozen=True)
class Prepared:
    """A table, its sites in canonical order, and the section that the engine sees.

    Parameters
    ----------
    is_measured
        Shape (n,), bool, in site order.
    embedding
        ``None`` where features came from ``use_rep``.
    """

    table: AnnData
    sites: Sites
    is_measured: np.ndarray
    expression: Expression
    embedding: Embedding | None
    section: Section


def prepare(
    data, *, measured=None, layer=None, units="auto", genes=None, image=None, image_key=None, um_per_px=None,
    table_key=None, use_rep=None, library_key=None, encoder="efficientnet_lite0", scales=DEFAULT_SCALES, device="cpu",
) -> Prepared:  # fmt: skip
    """Read and check everything that `snrmix.tl.impute` needs; parameters and errors are its own."""
    table = read_table(data, table_key)
    rows_measured = read_measured(table, measured, layer)
    sites = read_sites(
        data, table_key=table_key, library_key=library_key, image=image, image_key=image_key, um_per_px=um_per_px,
        with_images=use_rep is None,
    )  # fmt: skip
    is_measured = rows_measured[sites.order]
    expression = read_expression(table, sites, is_measured, layer=layer, units=units, genes=genes)
    if use_rep is None:
        embedding = compute_embedding(sites, encoder, scales, device, read_cache(table, sites))
        features, colour = embedding.features, embedding.colour_columns
    else:
        embedding, features = None, read_representation(table, use_rep)[sites.order]
        colour = np.zeros(features.shape[1], bool)
    positions, rows = sites.lattice_positions, np.flatnonzero(is_measured)

    def neighbours(train: np.ndarray, k: int) -> np.ndarray:
        return spatial_neighbours(positions[rows[train]], sites.library[rows[train]], k)

    section = Section(features, colour, positions, sites.library, rows, expression.values, expression.depth, neighbours)
    return Prepared(table, sites, is_measured, expression, embedding, section)


def read_representation(table: AnnData, use_rep: str) -> np.ndarray:
    """Features of all rows from ``obsm``, float32, shape (n, d).

    Raises
    ------
    KeyError, ValueError
        When they are missing, or not finite: every site, measured or not, needs its features.
    """
    if use_rep not in table.obsm:
        raise KeyError(
            f"use_rep={use_rep!r} is not in obsm; available: {listing(table.obsm.keys())}.{closest(use_rep, table.obsm.keys())}"
        )
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


def choose_folds(prepared: Prepared, n_folds: int, validation, seed: int) -> list[Fold]:
    """Folds of the measured spots, or with ``n_folds=1`` the one split that ``validation`` says.

    Raises
    ------
    ValueError, KeyError, TypeError
        For a number of folds or a share out of range, or a validation column that does not fit.
    """
    section, rng = prepared.section, np.random.default_rng(seed)
    library = section.library[section.measured]
    if isinstance(n_folds, bool) or not isinstance(n_folds, int | np.integer) or n_folds < 1:
        raise ValueError(f"n_folds={n_folds!r} must be a whole number from 1 up.")
    smallest = np.unique(library, return_counts=True)[1].min()
    if n_folds > max(smallest, 2) // 2:
        raise ValueError(
            f"n_folds={n_folds} is too many for a library with {smallest} measured spots; use at most {max(smallest // 2, 1)}."
        )
    if n_folds > 1:
        return make_folds(library, int(n_folds), rng)
    if isinstance(validation, str):
        return [_validation_column(prepared, validation)]
    if not np.isscalar(validation) or not 0 < validation < 1:
        raise ValueError(
            f"validation={validation!r} must be a share between 0 and 1, or the name of a boolean obs column."
        )
    return single_split(library, float(validation), rng)


def _validation_column(prepared: Prepared, name: str) -> Fold:
    table = prepared.table
    if name not in table.obs:
        raise KeyError(f"validation={name!r} is not in obs; available: {listing(table.obs)}.{closest(name, table.obs)}")
    column = table.obs[name]
    if not pd.api.types.is_bool_dtype(column) or column.isna().any():
        raise TypeError(f"obs[{name!r}] must be boolean without missing values, not {column.dtype}.")
    held_out = column.to_numpy(bool)[prepared.sites.order][prepared.section.measured]
    if not held_out.any() or held_out.all():
        raise ValueError(
            f"obs[{name!r}] must mark some, but not all, of the measured spots; it marks {held_out.sum()} of {len(held_out)}."
        )
    return Fold(np.flatnonzero(~held_out), np.flatnonzero(held_out))


def check_neighbours(mixing, folds: list[Fold]) -> None:
    """Refuse a ``k`` that the user chose and that the training spots cannot give."""
    fewest = min(len(fold.train) for fold in folds)
    if mixing.k >= fewest:
        raise ValueError(
            f"k={mixing.k} neighbours must be fewer than the {fewest} measured spots that a network trains on; "
            f"pass mix=snrmix.SNRMixing(k={max(1, fewest // 3)}) or measure more spots."
        )
