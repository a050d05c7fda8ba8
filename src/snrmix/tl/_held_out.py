"""Spots that an imputation never saw, and what was observed there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from snrmix._log import logger
from snrmix._names import listing
from snrmix.data.expression import Expression, log_values, read_expression
from snrmix.data.flags import read_mask
from snrmix.data.results import Result
from snrmix.data.sites import Sites, read_sites
from snrmix.data.table import dense_block, matrix_of

MIN_HELD_OUT = 10  # to score on


@dataclass(frozen=True)
class HeldOut:
    """Held-out spots of a result, in site order.

    Parameters
    ----------
    result
        Where the result is.
    held, measured, observed
        bool, shape (n,): spots to compare at, spots that were imputed from, spots of ``expression``.
    expression
        Of the modelled genes.
    layer
        Where it was read.
    """

    result: Result
    sites: Sites
    held: np.ndarray
    measured: np.ndarray
    observed: np.ndarray
    expression: Expression
    layer: str | None

    @property
    def rows(self) -> np.ndarray:
        """Rows of the table, shape (held,)."""
        return self.sites.order[self.held]

    @property
    def library(self) -> np.ndarray:
        """Codes of the libraries, shape (held,)."""
        return self.sites.library[self.held]

    @property
    def places(self) -> np.ndarray:
        """Rows of ``expression``; only of the observed ones among the held-out spots."""
        return np.flatnonzero(self.held[self.observed])

    def values(self, layer: str, columns: np.ndarray) -> np.ndarray:
        """A layer at the held-out spots, (held, columns)."""
        return dense_block(matrix_of(self.result.table, layer), self.rows, columns)

    @property
    def depth(self) -> np.ndarray | None:
        """Counts of the held-out spots; ``None`` where expression is not counts, or not all of them were observed."""
        counted = self.expression.input_units == "counts" and self.observed[self.held].all()
        return self.expression.depth[self.places] if counted else None


def read_held_out(
    data,
    held_out,
    *,
    key: str,
    layer: str | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    fewest: int = 1,
    compare: bool = True,
) -> HeldOut:
    """Read what was observed at held-out spots, and make sure that the imputation has not seen it.

    Parameters
    ----------
    data, held_out, key, layer, library_key, table_key
        As in `snrmix.tl.evaluate`.
    fewest
        How many held-out spots are needed.
    compare
        Read their expression; otherwise that of the measured spots alone.

    Raises
    ------
    KeyError, TypeError, ValueError
        As `snrmix.tl.evaluate` does.
    """
    result = Result.find(data, key, table_key)
    table, record = result.table, result.record
    sites = read_sites(data, table_key=table_key, library_key=library_key, with_images=False)
    result.check_libraries(sites)
    held = read_mask(table, held_out, "held_out")[sites.order]
    measured = result.is_measured[sites.order]
    _check_unseen(held, measured, record["fill"], sites, fewest)
    if layer is None and record["parameters"]["layer"] != "X":
        layer = record["parameters"]["layer"]
    if compare:
        _check_observed(table, sites, held, layer)
    observed = measured | held if compare else measured
    expression = read_expression(
        table, sites, observed, layer=layer, units=record["input_units"], genes=result.modelled_genes()
    )
    spots = HeldOut(result, sites, held, measured, observed, expression, layer)
    if record["fill"] == "unmeasured":
        _check_still_the_same(spots)
    return spots


def _check_unseen(held: np.ndarray, measured: np.ndarray, fill: str, sites: Sites, fewest: int) -> None:
    """Refuse held-out spots that are few, or that the layer holds the observed values of."""
    if not held.any():
        raise ValueError("held_out marks no spot; there is nothing to compare with.")
    if held.sum() < fewest:
        raise ValueError(f"held_out marks {held.sum()} spots; at least {fewest} are needed to score on.")
    seen = held & measured
    if fill == "unmeasured" and seen.any():
        raise ValueError(
            f"{seen.sum()} of the {held.sum()} held-out spots were measured when the layer was imputed, e.g. "
            f"{listing(sites.names[seen][:1])}: it holds their observed values and was fitted to them, so scores and intervals "
            "there would mean nothing. Impute again with measured= leaving them out, or with fill='all' for out-of-fold "
            "values."
        )


def _check_observed(table, sites: Sites, held: np.ndarray, layer: str | None) -> None:
    """Refuse held-out spots that have no expression."""
    totals = np.asarray(matrix_of(table, layer)[sites.order[held]].sum(axis=1)).ravel()
    empty = ~(np.isfinite(totals) & (totals > 0))
    if empty.any():
        raise ValueError(
            f"{empty.sum()} of the {held.sum()} held-out spots have no expression to compare with, or values that are NaN "
            f"or infinite, e.g. {listing(sites.names[held][empty][:1])}; leave them out of held_out."
        )


def models_at(result: Result, rows: np.ndarray, columns: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """`snrmix.data.results.Result.models` of a block: which of the rows a model predicted, and its calibration.

    Parameters
    ----------
    rows, columns
        Of the table, without repeats.
    """
    place = np.full(result.table.n_obs, -1)
    place[rows] = np.arange(len(rows))
    found = [(place[own], group[columns]) for own, group in result.models()]
    return [(own[own >= 0], group) for own, group in found]


def modelled_at(result: Result, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Which of some modelled genes the model of each row knows, bool: a library may hardly have what others have."""
    if not result.is_of_several:
        return np.ones((len(rows), len(columns)), bool)
    known = np.zeros((len(rows), len(columns)), bool)
    for own, group in models_at(result, rows, columns):
        known[own] = group >= 0
    return known


def _check_still_the_same(spots: HeldOut) -> None:
    """The layer repeats the observed values of measured spots; after subsetting genes their normalisation differs."""
    few, columns, key = np.flatnonzero(spots.measured)[:50], spots.expression.columns, spots.result.key
    now, rows = spots.expression.values[np.searchsorted(np.flatnonzero(spots.observed), few)], spots.sites.order[few]
    same = np.isclose(dense_block(matrix_of(spots.result.table, key), rows, columns), now, atol=1e-3)
    if not (same | ~modelled_at(spots.result, rows, columns)).all():
        raise ValueError(
            f"the values of the measured spots are not those that {key!r} was imputed from: were genes removed, values "
            "changed, or is layer= another one? Scores would compare two normalisations; impute again."
        )


def choose_modelled(spots: HeldOut, genes) -> np.ndarray:
    """Which of the modelled genes are wanted: indices into ``expression.columns``, ascending."""
    columns = spots.expression.columns
    if genes is None:
        return np.arange(len(columns))
    chosen = read_expression(
        spots.result.table,
        spots.sites,
        spots.measured,
        layer=spots.layer,
        units=spots.expression.input_units,
        genes=genes,
    )
    wanted = np.flatnonzero(np.isin(columns, chosen.columns))
    n_chosen = len(chosen.columns) + len(chosen.mean_columns)
    if not len(wanted):
        raise ValueError(f"none of the {n_chosen} genes was modelled; see the var column that ends in '_modelled'.")
    if len(wanted) < n_chosen:
        logger.info("%d of %d genes were not modelled and are left out.", n_chosen - len(wanted), n_chosen)
    return wanted


def read_truth(spots: HeldOut, truth: str) -> np.ndarray:
    """Values of a layer in the units of the imputed one, (held, modelled genes)."""
    values = log_values(spots.result.table, truth, spots.rows, spots.expression.columns, "truth")
    if not np.isfinite(values).all():
        raise ValueError(f"layers[{truth!r}] is NaN or infinite at held-out spots; leave these out of held_out.")
    return values
