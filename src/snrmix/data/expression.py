"""Measured expression in log units: which spots, which genes, which units."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral

import numpy as np
from anndata import AnnData
from scipy import sparse

from snrmix import _checks
from snrmix._log import logger
from snrmix._names import closest, listing
from snrmix.data.flags import read_flags, read_in_tissue, read_mask
from snrmix.data.genes import missing_genes
from snrmix.data.sites import Sites
from snrmix.data.table import matrix_name, matrix_of
from snrmix.data.units import few_counts, find_totals, other_features, read_units, settle_layer, settle_units

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
        mask, means = _by_tissue(table, mask)
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


def _by_tissue(table: AnnData, has_counts: np.ndarray) -> tuple[np.ndarray, str]:
    """Of the rows with counts those that are not known to be off the tissue, and what that means."""
    flags = read_in_tissue(table.obs, strict=True)
    if flags is None:
        return has_counts, "at least one count"
    unknown = has_counts & ~flags.known
    if unknown.any():
        logger.info(
            "obs['in_tissue'] is missing at %d spots with counts, which are taken as measured: where it is unknown, counts "
            "decide.", unknown.sum(),
        )  # fmt: skip
    return has_counts & ~flags.no, "at least one count and in_tissue == 1"


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
    values = _read_values(table, rows, layer)
    units, _ = _settle(values, table, rows, layer, units)
    values = values[:, by_name]
    values.sum_duplicates()  # sorts too: sums come out the same, however the matrix was stored
    depth = np.asarray(values.sum(axis=1)).ravel() if units == "counts" else _depth_of_logs(values)
    if units == "counts":
        empty = depth == 0
        if empty.any():
            raise ValueError(
                f"{empty.sum()} measured spots have no counts, e.g. {listing(table.obs_names[rows[empty]][:1])}: mark them as "
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
    _check_varies(values[:, modelled])
    dense = np.empty((len(rows), len(modelled)), np.float32)
    for start in range(0, len(modelled), 2048):
        dense[:, start : start + 2048] = values[:, modelled[start : start + 2048]].toarray()
    means = np.asarray(values[:, rare].mean(axis=0)).ravel()
    spreads = np.sqrt(np.maximum(np.asarray(values[:, rare].power(2).mean(axis=0)).ravel() - means**2, 0))
    means, spreads = means.astype(np.float32), spreads.astype(np.float32)
    rare_values = values[:, rare].astype(np.float32)
    return Expression(dense, by_name[modelled], by_name[rare], means, spreads, rare_values, units, depth)


def log_values(
    table: AnnData, layer: str | None, rows: np.ndarray, columns: np.ndarray, argument: str, units: str | None = None
) -> np.ndarray:
    """Expression of some rows and genes in the units of an imputed layer, float, shape (rows, columns).

    Counts are normalised by the total over all genes and logged; logs are used as they are.

    Parameters
    ----------
    argument
        What the layer was given as, for messages.
    units
        ``"counts"`` or ``"log"`` where it is known; ``None``: as the values look, by the rows that are finite.

    Raises
    ------
    KeyError, TypeError, ValueError
        For a layer that is missing, no numbers, or neither counts nor logs.
    """
    matrix = sparse.csr_matrix(matrix_of(table, layer)[rows], dtype=np.float64)
    values = matrix[:, columns].toarray()
    if units is None:
        finite = sparse.csc_matrix(matrix[~_has_nan(matrix)])
        units = settle_layer(finite, f"{argument}={layer!r}" if layer else "X")
        if units == "counts" and layer is not None:
            logger.info("%s=%r has counts: they are normalised to 10,000 per spot and logged.", argument, layer)
    if units == "log":
        return values
    depth = np.asarray(matrix.sum(axis=1)).reshape(-1, 1)
    return np.log1p(TARGET_SUM * values / np.where(depth > 0, depth, 1))


def _check_varies(values: sparse.csc_matrix) -> None:
    """Refuse genes that are all constant: there is nothing to learn, and no score of it."""
    lowest, highest = (getattr(values, name)(axis=0).toarray().ravel() for name in ("min", "max"))
    if (highest - lowest <= 1e-6 * np.abs(highest)).all():
        raise ValueError(
            f"every chosen gene has the same value at all measured spots ({listing(highest.round(4), 3)}): there is nothing to "
            "learn. Counts of one gene alone become constant when they are normalised: normalise with all genes first."
        )


def units_of(table: AnnData, sites: Sites, measured: np.ndarray, layer: str | None) -> str:
    """What ``units="auto"`` takes the values of some measured sites for; parameters and errors as `read_expression`."""
    rows = sites.order[measured]
    return _settle(_read_values(table, rows, layer), table, rows, layer, "auto")[0]


def warn_of_units(table: AnnData, sites: Sites, measured: np.ndarray, layer: str | None, units: str) -> None:
    """Say what is doubtful about the values of the measured sites; parameters and errors as `read_expression`."""
    rows = sites.order[measured]
    for doubt in _settle(_read_values(table, rows, layer), table, rows, layer, units)[1]:
        logger.warning("%s", doubt)


def _read_values(table: AnnData, rows: np.ndarray, layer: str | None) -> sparse.csc_matrix:
    values = sparse.csc_matrix(matrix_of(table, layer)[rows], dtype=np.float64)
    _check_values(values, table, rows, layer)
    return values


def _elsewhere(table: AnnData, layer: str | None) -> str:
    """Where else the object has expression without negative values."""
    others = [
        name for name in table.layers.keys() if name not in (None, layer) and not _has_negative(table.layers[name])
    ]
    if others:
        return f" Others: layer={listing(others, 3)}."
    has_raw = table.raw is not None and not _has_negative(table.raw.X)
    return " adata.raw has others: adata = adata.raw.to_adata()." if has_raw else ""


def _has_negative(matrix) -> bool:
    return getattr(matrix, "dtype", np.dtype(object)).kind not in "buif" or bool(matrix.min() < 0)


def _check_values(values: sparse.csc_matrix, table: AnnData, spots: np.ndarray, layer: str | None) -> None:
    for problem, bad in (("NaN or infinite", ~np.isfinite(values.data)), ("negative", values.data < 0)):
        if bad.any():
            rows = np.unique(values.indices[bad])
            remedy = "mark these spots as unmeasured with measured=, or choose another layer with layer=."
            if problem == "negative" and len(rows) > 0.5 * len(spots):
                remedy = (
                    "they look scaled or centred (z-scores, residuals). Choose the layer with counts or log-normalised values "
                    f"with layer=, or put these back into X.{_elsewhere(table, layer)}"
                )
            raise ValueError(
                f"{problem} values of {matrix_name(layer)} in {len(rows)} measured spots, e.g. "
                f"{listing(table.obs_names[spots[rows[:1]]])}: {remedy}"
            )


def _settle(
    values: sparse.csc_matrix, table: AnnData, rows: np.ndarray, layer: str | None, asked: str
) -> tuple[str, list[str]]:
    """Counts or logs, and what is doubtful, see `snrmix.data.units`."""
    name = matrix_name(layer)
    totals = find_totals(table, rows)
    units, doubts = settle_units(asked, read_units(values, totals), name, is_log="log1p" in table.uns)
    if units == "counts":
        doubts += other_features(table, values) + few_counts(values, totals, name, is_sure=asked == "counts")
    return units, doubts


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
        flags = read_flags(table.var[genes], f"var[{genes!r}]")
        if not flags.known.all():
            logger.info("var[%r] is missing for %d genes, which are left out.", genes, (~flags.known).sum())
        chosen = set(table.var_names[flags.yes])
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
        raise KeyError(missing_genes(table, missing, len(chosen)))
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
