"""From the user's object to the arrays of the engine, with every check on the way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from anndata import AnnData

from snrmix._log import logger
from snrmix._names import closest, listing
from snrmix.embedding import DEFAULT_SCALES, Embedding, compute_embedding, read_cache
from snrmix.engine.crossfit import Section
from snrmix.expression import Expression, read_expression, read_measured
from snrmix.graph import spatial_neighbours
from snrmix.sites import Sites, read_sites, read_table, stored_sections


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
    need_features=False,
) -> Prepared:  # fmt: skip
    """Read and check everything that `snrmix.tl.impute` needs; parameters and errors are its own.

    An object without any image gets no features, with a warning, unless ``need_features``.
    """
    table = read_table(data, table_key)
    rows_measured = read_measured(table, measured, layer)
    asked = need_features or image is not None or image_key is not None
    with_images = use_rep is None and (asked or has_image(data, table))
    sites = read_sites(
        data, table_key=table_key, library_key=library_key, image=image, image_key=image_key, um_per_px=um_per_px,
        with_images=with_images,
    )  # fmt: skip
    is_measured = rows_measured[sites.order]
    expression = read_expression(table, sites, is_measured, layer=layer, units=units, genes=genes)
    if with_images:
        embedding = compute_embedding(sites, encoder, scales, device, read_cache(table, sites))
        features, colour = embedding.features, embedding.colour_columns
    elif use_rep is None:
        logger.warning(
            "no image and no use_rep: imputing from the measured neighbours in space alone. Histology adds much: pass "
            "image= (path or array in the pixels of obsm['spatial']), or use_rep= with features that are in obsm."
        )
        embedding, features, colour = None, np.zeros((len(sites), 0), np.float32), np.zeros(0, bool)
    else:
        embedding, features = None, read_representation(table, use_rep)[sites.order]
        colour = np.zeros(features.shape[1], bool)
    positions, rows = sites.lattice_positions, np.flatnonzero(is_measured)

    def neighbours(train: np.ndarray, k: int, values: np.ndarray | None = None) -> np.ndarray:
        space = positions[rows[train]] if values is None else values
        return spatial_neighbours(space, sites.library[rows[train]], k)

    section = Section(features, colour, positions, sites.library, rows, expression.values, expression.depth, neighbours)
    return Prepared(table, sites, is_measured, expression, embedding, section)


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
