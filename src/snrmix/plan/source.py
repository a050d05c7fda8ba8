"""From the user's object to the arrays of the engine, with every check on the way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from anndata import AnnData

from snrmix._log import logger
from snrmix.data.embedding import DEFAULT_SCALES, Embedding, compute_embedding
from snrmix.data.embedding_cache import read_cache
from snrmix.data.expression import Expression, read_expression, read_measured
from snrmix.data.sites import Sites, patch_sides, read_sites, restrict_sites
from snrmix.data.table import has_image, read_representation, read_table
from snrmix.engine.patches import PatchStore
from snrmix.engine.section import Section
from snrmix.images.encoders import resolve_encoder
from snrmix.plan.graph import spatial_neighbours
from snrmix.plan.patches import read_patches


@dataclass(frozen=True)
class Source:
    """What was read of an object, but for its expression.

    Parameters
    ----------
    is_measured
        Shape (n,), bool, in site order.
    features, colour
        Of all sites, see `snrmix.engine.section.Section`.
    embedding
        ``None`` where features came from ``use_rep``, and of a part of the libraries.
    layer, units, genes
        Of the expression, as in `snrmix.tl.impute`.
    patches
        Of all sites; only for fine-tuning.
    """

    table: AnnData
    sites: Sites
    is_measured: np.ndarray
    features: np.ndarray
    colour: np.ndarray
    embedding: Embedding | None
    layer: str | None
    units: str
    genes: object
    patches: PatchStore | None = None


@dataclass(frozen=True)
class Prepared:
    """A table, its sites in canonical order, and the section that the engine sees.

    Parameters
    ----------
    sites
        All sites of the table, or those of some of its libraries.
    is_measured
        Shape (n,), bool, in site order.
    embedding
        See `Source`.
    """

    table: AnnData
    sites: Sites
    is_measured: np.ndarray
    expression: Expression
    embedding: Embedding | None
    section: Section


def prepare(data, **options) -> Prepared:
    """Read and check everything that a model of all libraries together needs; parameters are those of `read_source`."""
    return read_expression_of(read_source(data, **options))


def read_source(
    data, *, measured=None, layer=None, units="auto", genes=None, image=None, image_key=None, um_per_px=None,
    table_key=None, use_rep=None, library_key=None, encoder="efficientnet_lite0", scales=DEFAULT_SCALES, device="cpu",
    need_features=False, check=None, finetuning=None,
) -> Source:  # fmt: skip
    """Read and check sites and features; parameters and errors are those of `snrmix.tl.impute`.

    An object without any image gets no features, with a warning, unless ``need_features``. ``check`` is called before the
    image is embedded, with table, sites, the measured ones (in rows of the table) and ``genes``, and by name with what
    `snrmix.data.embedding.compute_embedding` says.
    """
    table = read_table(data, table_key)
    rows_measured = read_measured(table, measured, layer)
    asked = need_features or image is not None or image_key is not None
    with_images = use_rep is None and (asked or has_image(data, table))
    sites = read_sites(
        data, table_key=table_key, library_key=library_key, image=image, image_key=image_key, um_per_px=um_per_px,
        with_images=with_images,
    )  # fmt: skip
    check = partial(check, table, sites, rows_measured, genes) if check is not None else None
    embedding = None
    if with_images:
        embedding = compute_embedding(sites, encoder, scales, device, read_cache(table, sites), check)
        features, colour = embedding.features, embedding.colour_columns
    elif use_rep is None:
        logger.warning(
            "no image and no use_rep: imputing from the measured neighbours in space alone. Histology adds much: pass "
            "image= (path or array in the pixels of obsm['spatial']), or use_rep= with features that are in obsm."
        )
        features, colour = np.zeros((len(sites), 0), np.float32), np.zeros(0, bool)
    else:
        features = read_representation(table, use_rep)[sites.order]
        colour = np.zeros(features.shape[1], bool)
    if embedding is None and check is not None:
        check(features=features.shape[1])
    patches = None
    if finetuning is not None:
        size = finetuning.size or resolve_encoder(encoder).size
        patches = read_patches(sites, patch_sides(sites, embedding.record["scales"]), size, finetuning.folder)
    if isinstance(genes, Iterable) and not isinstance(genes, str):
        genes = list(genes)  # it is read once per model
    return Source(table, sites, rows_measured[sites.order], features, colour, embedding, layer, units, genes, patches)


def read_expression_of(source: Source) -> Prepared:
    """Read the expression of the measured sites, and put together what the engine sees."""
    sites, is_measured = source.sites, source.is_measured
    expression = read_expression(
        source.table, sites, is_measured, layer=source.layer, units=source.units, genes=source.genes
    )
    positions, rows = sites.lattice_positions, np.flatnonzero(is_measured)

    def neighbours(train: np.ndarray, k: int, values: np.ndarray | None = None) -> np.ndarray:
        space = positions[rows[train]] if values is None else values
        return spatial_neighbours(space, sites.library[rows[train]], k)

    section = Section(
        source.features,
        source.colour,
        positions,
        sites.library,
        rows,
        expression.values,
        expression.depth,
        neighbours,
        source.patches,
    )
    return Prepared(source.table, sites, is_measured, expression, source.embedding, section)


def restrict(source: Source, libraries: Sequence[int]) -> Source:
    """The source with the sites of some libraries alone, just as if the object had no others.

    Parameters
    ----------
    libraries
        Codes, ascending.
    """
    if len(libraries) == len(source.sites.libraries):
        return source
    rows, kept = restrict_sites(source.sites, libraries)
    return replace(
        source,
        sites=kept,
        is_measured=source.is_measured[rows],
        features=source.features[rows],
        embedding=None,
        patches=None if source.patches is None else source.patches[rows],
    )
