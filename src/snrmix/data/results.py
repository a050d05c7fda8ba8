"""Find in an object what `snrmix.tl.impute` left there."""

from __future__ import annotations

import importlib.metadata

import numpy as np
from anndata import AnnData

from snrmix._names import closest, listing
from snrmix.data.sites import Sites
from snrmix.data.table import read_table


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


PACKAGES = ("snrmix", "anndata", "lightning", "numpy", "squidpy", "torch")
UNITS = {"counts": "log1p(counts per 10,000)", "log": "as given (log)"}


def names_of(key: str) -> list[tuple[str, str]]:
    """Where a result of that name is stored: parts of the object, and names in them."""
    columns = ("pearson", "mse", "explained", "reliable", "modelled", "weight_network", "weight_kriging", "calibration")
    return [
        ("uns", key), ("layers", key), ("layers", f"{key}_sd"), ("obs", f"{key}_measured"), ("obs", f"{key}_model"),
        ("varm", f"{key}_calibration"), *(("var", f"{key}_{name}") for name in columns),
    ]  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def models_of(table: AnnData, key: str) -> list[tuple[np.ndarray | slice, np.ndarray]]:
    """Rows that a model predicted, and which row of the calibration it has for every gene, -1 where it has none."""
    if f"{key}_model" not in table.obs:
        return [(slice(None), table.var[f"{key}_calibration"].to_numpy())]
    model, groups = table.obs[f"{key}_model"].to_numpy(str), np.asarray(table.varm[f"{key}_calibration"])
    names = np.atleast_1d(table.uns[key]["models"])
    return [(np.flatnonzero(model == name), group) for name, group in zip(names, groups.T, strict=True)]
