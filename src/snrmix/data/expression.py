"""Measured expression in log units: which spots, which genes, which units."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from snrmix import _checks
from snrmix._log import logger
from snrmix._names import closest, listing
from snrmix.data.sites import Sites
from snrmix.data.table import matrix_of, read_mask

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
    mean_columns, means, spreads
        Chosen genes that are seen in too few measured spots to be modelled, their means and standard deviations.
    rare_values
        Sparse, shape (n measured, genes that are not modelled): their values.
    input_units
        ``"counts"`` or ``"log"``.
    depth
        Shape (n measured,): counts per spot over all genes; for log input what its smallest value implies.
    """

    values: np.ndarray
    columns: np.ndarray
    mean_columns: np.ndarray
    means: np.ndarray
    spreads: np.ndarray
    rare_values: sparse.csc_matrix
    input_units: str
    depth: np.ndarray


def read_measured(table: AnnData, measured, layer: str | None) -> np.ndarray:
    """Which rows of the table are measured, shape (n,), bool.

    Parameters
    ----------
    measured
        Name of a boolean obs column, a boolean array or Series of length n, or ``None``: at least one count, no NaN, and,
        where the column exists, ``in_tissue == 1``.

    Raises
    ------
    KeyError, TypeError, ValueError
        For a missing column, a type that is not boolean, a wrong length, or fewer than 20 measured spots.
    """
    if measured is None:
        matrix = matrix_of(table, layer)
        mask = np.asarray((matrix > 0).sum(axis=1)).ravel() > 0
        if "in_tissue" in table.obs:
            mask &= pd.to_numeric(table.obs["in_tissue"], errors="coerce").to_numpy() == 1
        means = "at least one count" + (" and in_tissue == 1" if "in_tissue" in table.obs else "")
        has_nan = _has_nan(matrix)
        if has_nan.any():
            mask &= ~has_nan
            means += " and no NaN"
            logger.info("%d spots have NaN as expression of some gene: they are taken as unmeasured.", has_nan.sum())
    else:
        mask, means = read_mask(table, measured, "measured"), "measured= set"
    if mask.sum() < MIN_MEASURED:
        raise ValueError(
            f"{mask.sum()} of {len(mask)} spots are measured ({means}); at least {MIN_MEASURED} are needed to train. "
            "Mark them with measured=, or choose another layer with layer=."
        )
    return mask


def _has_nan(matrix) -> np.ndarray:
    """Which rows have a NaN, bool, shape (n,)."""
    if not sparse.issparse(matrix):
        return np.isnan(matrix).any(axis=1)
    entries = matrix.tocoo()
    return np.bincount(entries.row[np.isnan(entries.data)], minlength=matrix.shape[0]) > 0


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
    _checks.choice("units", units, ("auto", "counts", "log"))
    rows, by_name = sites.order[measured], np.argsort(np.asarray(table.var_names, dtype=str), kind="stable")
    values = _read_values(table, rows, layer)[:, by_name]
    values.sum_duplicates()  # sorts too: sums come out the same, however the matrix was stored
    units = _detect_units(values, table) if units == "auto" else units
    depth = np.asarray(values.sum(axis=1)).ravel() if units == "counts" else _depth_of_logs(values)
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
        raise ValueError(
            f"none of the {len(chosen)} chosen genes is seen in {MIN_SPOTS} or more measured spots; choose others with "
            "genes=, or mark more spots as measured."
        )
    dense = np.empty((len(rows), len(modelled)), np.float32)
    for start in range(0, len(modelled), 2048):
        dense[:, start : start + 2048] = values[:, modelled[start : start + 2048]].toarray()
    means = np.asarray(values[:, rare].mean(axis=0)).ravel()
    spreads = np.sqrt(np.maximum(np.asarray(values[:, rare].power(2).mean(axis=0)).ravel() - means**2, 0))
    means, spreads = means.astype(np.float32), spreads.astype(np.float32)
    rare_values = values[:, rare].astype(np.float32)
    return Expression(dense, by_name[modelled], by_name[rare], means, spreads, rare_values, units, depth)


def units_of(table: AnnData, sites: Sites, measured: np.ndarray, layer: str | None) -> str:
    """What ``units="auto"`` takes the values of some measured sites for; parameters and errors as `read_expression`."""
    return _detect_units(_read_values(table, sites.order[measured], layer), table)


def _read_values(table: AnnData, rows: np.ndarray, layer: str | None) -> sparse.csc_matrix:
    values = sparse.csc_matrix(matrix_of(table, layer)[rows], dtype=np.float64)
    _check_values(values, "X" if layer is None else f"layers[{layer!r}]", table.obs_names[rows])
    return values


def _check_values(values: sparse.csc_matrix, name: str, spots: pd.Index) -> None:
    for problem, bad in (("NaN or infinite", ~np.isfinite(values.data)), ("negative", values.data < 0)):
        if bad.any():
            rows = np.unique(values.indices[bad])
            remedy = "mark these spots as unmeasured with measured=, or choose another layer with layer=."
            if problem == "negative" and len(rows) > 0.5 * len(spots):
                remedy = (
                    "they look scaled or centred. Choose the layer with counts or log-normalised values with layer=, or "
                    "put these back into X."
                )
            raise ValueError(
                f"{problem} values of {name} in {len(rows)} measured spots, e.g. {spots[rows[0]]!r}: {remedy}"
            )


def _detect_units(values: sparse.csc_matrix, table: AnnData) -> str:
    if np.array_equal(values.data, np.rint(values.data)):
        return "counts"
    if "log1p" in table.uns or values.data.max() < 20:
        return "log"
    raise ValueError(
        f"the expression is neither integer counts nor clearly logarithmic (largest value {values.data.max():.4g}): "
        "say units='counts' (it will be normalised) or units='log' (it will be used as it is), or choose a layer with "
        "layer=."
    )


def _depth_of_logs(values: sparse.csc_matrix) -> np.ndarray:
    """Counts per spot before normalisation to 10,000: the smallest step between the values of a spot is one count."""
    entries = values.tocoo()
    rows, linear = entries.row[entries.data > 0], np.expm1(entries.data[entries.data > 0])
    order = np.lexsort((linear, rows))
    rows, linear = rows[order], linear[order]
    is_first = np.diff(rows, prepend=-1) > 0
    step = np.where(is_first, linear, np.diff(linear, prepend=0))
    smallest = linear[is_first][np.cumsum(is_first) - 1]
    step[step < 1e-3 * smallest + 1e-5 * linear] = np.inf  # equal counts, but for rounding
    unit = np.full(values.shape[0], np.inf)
    np.minimum.at(unit, rows, step)
    depth = TARGET_SUM / unit
    return np.clip(np.where(depth > 0, depth, np.median(depth)), 1, 1e6)


def _choose_genes(values, names: np.ndarray, table: AnnData, genes) -> np.ndarray:
    """Indices into ``names``, ascending."""
    if genes is None:
        return np.arange(len(names))
    if isinstance(genes, Integral) and not isinstance(genes, bool):
        if not 1 <= genes <= len(names):
            raise ValueError(f"genes={genes} must lie between 1 and the number of genes, {len(names)}.")
        return _highest(values, genes)
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
        genes = list(genes)
        number = number_among(genes, names)
        chosen = _gene_names(gene for gene in genes if gene is not number)
        if number is not None:
            chosen |= set(names[_highest(values, min(number, len(names)))].tolist())
    else:
        raise TypeError(
            f"genes must be None, an int, a list of names or a boolean var column, not {type(genes).__name__}."
        )
    if not chosen:
        raise ValueError("genes is empty; pass at least one gene, or None for all.")
    missing = sorted(chosen - set(names.tolist()))
    if missing:
        hints = [closest(gene, names) for gene in missing[:5]]
        said = [
            f"{gene!r}" + (f" ({hint.strip()})" if hint else "") for gene, hint in zip(missing, hints, strict=False)
        ]
        more = f", ... ({len(missing)} in all)" if len(missing) > len(said) else ""
        raise KeyError(f"{len(missing)} of {len(chosen)} genes are not in var_names: {', '.join(said)}{more}.")
    return np.flatnonzero(np.isin(names, list(chosen)))


def _highest(values, n: int) -> np.ndarray:
    """Columns of the ``n`` genes of highest mean, ascending."""
    mean = np.asarray(values.mean(axis=0)).ravel()
    return np.sort(np.argsort(-mean, kind="stable")[:n])


def number_among(genes: list, names) -> int | None:
    """The number in a list such as ``[500, "ERBB2"]``: how many genes of highest mean are asked for, beside the named."""
    numbers = [gene for gene in genes if isinstance(gene, Integral) and not isinstance(gene, bool)]
    alone = len(numbers) == 1 and numbers[0] > 0 and str(numbers[0]) not in set(names)
    return numbers[0] if alone else None


def _gene_names(genes: Iterable) -> set[str]:
    genes = list(genes)
    if genes and all(isinstance(gene, bool | np.bool) for gene in genes):
        raise TypeError("genes is a boolean mask; pass the name of the boolean var column, or adata.var_names[mask].")
    return {str(gene) for gene in genes}
