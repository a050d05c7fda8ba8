"""Find in an object what `snrmix.tl.impute` left there."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from snrmix._names import closest, listing
from snrmix.data.sites import Sites, read_table


def result_table(data, key: str, table_key: str | None = None) -> AnnData:
    """The table that holds the result ``key``.

    Raises
    ------
    KeyError
        When there is no such result; the message lists what there is.
    """
    table = read_table(data, table_key)
    if key not in table.uns:
        raise KeyError(
            f"no result {key!r} in uns; run snrmix.tl.impute first, or pass the key= it was stored under. "
            f"uns has: {listing(table.uns)}.{closest(key, table.uns)}"
        )
    return table


def gene_column(table: AnnData, name: str, remedy: str) -> np.ndarray:
    """A numeric ``var`` column, float, shape (genes,).

    Raises
    ------
    KeyError
        When there is none; ``remedy`` ends the message.
    """
    if name not in table.var:
        raise KeyError(f"var[{name!r}] is missing; {remedy}. var has: {listing(table.var)}.")
    return table.var[name].to_numpy(dtype=float)


def gene_flags(table: AnnData, name: str) -> np.ndarray | None:
    """A boolean ``var`` column, shape (genes,), missing values as ``False``; ``None`` where there is no such column."""
    if name not in table.var:
        return None
    return table.var[name].astype("boolean").fillna(False).to_numpy(dtype=bool)


def check_libraries(sites: Sites, record, key: str) -> None:
    """Refuse libraries that a result does not know.

    Raises
    ------
    ValueError
        For such libraries.
    """
    known = [str(name) for name in np.atleast_1d(record["image"]["libraries"])]
    if not set(sites.libraries) <= set(known):
        raise ValueError(
            f"libraries are {listing(sites.libraries)} here and were {listing(known)} when {key!r} was imputed; pass the "
            "library_key= of that call."
        )
