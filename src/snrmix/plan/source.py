"""What a call is about: sites, which of them are measured, and where to find expression and images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from anndata import AnnData

from snrmix._log import logger
from snrmix.data.depth import check_depth_key
from snrmix.data.expression import read_measured, warn_of_units
from snrmix.data.from_anndata import CONCAT
from snrmix.data.groups import read_groups
from snrmix.data.lattice import count_gaps
from snrmix.data.sites import Located, Sites, locate_sites
from snrmix.data.stored import is_nothing
from snrmix.data.table import has_image, read_representation, read_table

FEWEST_GAPS = 3  # worth a word


@dataclass(frozen=True)
class Source:
    """What was read of an object without a look at a pixel, and where the rest is.

    Parameters
    ----------
    sites
        All of the object, without images.
    is_measured
        Shape (n,), bool, in site order.
    layer, units, genes
        Of the expression, as in `snrmix.tl.impute`.
    located
        What opens the images; ``None``: they are not wanted, or there are none.
    use_rep
        Features that were there already, in site order, shape (n, d); ``None``: there were none.
    depth_key
        obs column with counts per spot, as in `snrmix.tl.impute`.
    group
        Number of the group of every library, such as its patient, shape (libraries,); ``None``: not known.
    """

    table: AnnData
    sites: Sites
    is_measured: np.ndarray
    layer: str | None
    units: str
    genes: object
    located: Located | None = None
    use_rep: np.ndarray | None = None
    depth_key: str | None = None
    group: np.ndarray | None = None

    @property
    def has_features(self) -> bool:
        """Whether there is anything beside positions to learn from."""
        return self.located is not None or self.use_rep is not None


def doubt(source: Source) -> None:
    """Say what is doubtful about the expression, and where the array has places that the table lacks."""
    table, sites = source.table, source.sites
    warn_of_units(table, sites, source.is_measured, source.layer, source.units)
    gaps = sum(
        count_gaps(sites.positions[own], table.obs.iloc[sites.order[own]])
        for own in (sites.library == code for code in range(len(sites.libraries)))
    )
    if gaps >= FEWEST_GAPS:
        logger.info(
            "the array has %d places amid the spots without a row in the table, as after filtering spots: "
            "snrmix.pp.fill_grid(adata, spacing_um=...), at the pitch of the array, brings them back to be imputed.", gaps,
        )  # fmt: skip


def read_source(
    data, *, measured=None, layer=None, units="auto", genes=None, image=None, image_key=None, um_per_px=None,
    table_key=None, use_rep=None, library_key=None, depth_key=None,
    group_key=None, need_features=False,
) -> Source:  # fmt: skip
    """Read and check sites, and find images; parameters and errors are those of `snrmix.tl.impute`.

    An object without any image gets no features, with a warning, unless ``need_features``.
    """
    table = read_table(data, table_key)
    check_depth_key(table, depth_key)
    rows_measured = read_measured(table, measured, layer)
    asked = need_features or image is not None or image_key is not None
    with_images = use_rep is None and (asked or has_image(data, table))
    located = locate_sites(
        data, table_key=table_key, library_key=library_key, image=image, image_key=image_key, um_per_px=um_per_px,
        measured=rows_measured, with_images=with_images,
    )  # fmt: skip
    sites, features = located.sites, None
    group = read_groups(table, sites, group_key)
    if use_rep is not None:
        features = read_representation(table, use_rep, sites.order)
    elif not with_images:
        logger.warning(
            "no image and no use_rep: imputing from the measured neighbours in space alone. Histology adds much: pass "
            "image= (path or array in the pixels of obsm['spatial']), or use_rep= with features that are in obsm.%s",
            f" {CONCAT}" if data is table and is_nothing(table.uns.get("spatial")) else "",
        )
    if isinstance(genes, Iterable) and not isinstance(genes, str):
        genes = list(genes)  # it is read once per model
    is_measured, located = rows_measured[sites.order], located if with_images else None
    return Source(table, sites, is_measured, layer, units, genes, located, features, depth_key, group)
