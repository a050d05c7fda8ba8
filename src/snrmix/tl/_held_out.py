"""What is observed at held-out spots, and whether the imputation has seen them."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from snrmix._log import logger
from snrmix.data.expression import Expression, read_expression
from snrmix.data.results import models_of
from snrmix.data.sites import Sites
from snrmix.data.table import dense_block, matrix_of
from snrmix.tl._by_gene import MIN_HELD_OUT


def check_held_out(held: np.ndarray, measured: np.ndarray, fill: str, sites: Sites) -> None:
    """Refuse held-out spots that are few, or that the layer holds the observed values of."""
    if held.sum() < MIN_HELD_OUT:
        raise ValueError(f"held_out marks {held.sum()} spots; at least {MIN_HELD_OUT} are needed to score on.")
    seen = held & measured
    if fill == "unmeasured" and seen.any():
        raise ValueError(
            f"{seen.sum()} of the {held.sum()} held-out spots were measured when the layer was imputed, e.g. "
            f"{sites.names[seen][0]!r}: it holds their observed values and was fitted to them, so scores there would mean "
            "nothing. Impute again with measured= leaving them out, or with fill='all' for out-of-fold values."
        )


def check_observed(table: AnnData, sites: Sites, held: np.ndarray, layer: str | None) -> None:
    """Refuse held-out spots that have no expression."""
    totals = np.asarray(matrix_of(table, layer)[sites.order[held]].sum(axis=1)).ravel()
    empty = ~(np.isfinite(totals) & (totals > 0))
    if empty.any():
        raise ValueError(
            f"{empty.sum()} of the {held.sum()} held-out spots have no expression to compare with, or values that are NaN "
            f"or infinite, e.g. {sites.names[held][empty][0]!r}; leave them out of held_out."
        )


def modelled_genes(table: AnnData, key: str) -> list[str]:
    """Names of the genes that were modelled."""
    column = f"{key}_modelled"
    names = list(table.var_names[table.var[column].to_numpy(bool)]) if column in table.var else []
    if not names:
        raise KeyError(f"var[{column!r}] is missing, or none of its genes is left; run snrmix.tl.impute again.")
    return names


def _modelled_at(table: AnnData, key: str, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Which genes the model of each row knows, bool, (rows, columns): a library may hardly have what others have."""
    if f"{key}_model" not in table.obs:
        return np.ones((len(rows), len(columns)), bool)
    known = np.zeros((table.n_obs, len(columns)), bool)
    for own, group in models_of(table, key):
        known[own] = group[columns] >= 0
    return known[rows]


def check_still_the_same(table, predicted, sites, expression, observed, measured, key: str) -> None:
    """The layer repeats the observed values of measured spots; after subsetting genes their normalisation differs."""
    few = np.flatnonzero(measured)[:50]
    now = expression.values[np.searchsorted(np.flatnonzero(observed), few)]
    same = np.isclose(dense_block(predicted, sites.order[few], expression.columns), now, atol=1e-3)
    if not (same | ~_modelled_at(table, key, sites.order[few], expression.columns)).all():
        raise ValueError(
            f"the values of the measured spots are not those that {key!r} was imputed from: were genes removed, values "
            "changed, or is layer= another one? Scores would compare two normalisations; impute again."
        )


def choose_modelled(table, sites, measured, expression: Expression, genes, layer) -> np.ndarray:
    """Which of the modelled genes are wanted: indices into ``expression.columns``, ascending."""
    if genes is None:
        return np.arange(len(expression.columns))
    chosen = read_expression(table, sites, measured, layer=layer, units=expression.input_units, genes=genes)
    wanted = np.flatnonzero(np.isin(expression.columns, chosen.columns))
    n_chosen = len(chosen.columns) + len(chosen.mean_columns)
    if not len(wanted):
        raise ValueError(f"none of the {n_chosen} genes was modelled; see the var column that ends in '_modelled'.")
    if len(wanted) < n_chosen:
        logger.info("%d of %d genes were not modelled and are left out.", n_chosen - len(wanted), n_chosen)
    return wanted


def read_truth(table: AnnData, truth: str, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Values of a layer in the units of the imputed one, (rows, columns)."""
    values = dense_block(matrix_of(table, truth), rows, columns)
    if not np.isfinite(values).all():
        raise ValueError(f"layers[{truth!r}] is NaN or infinite at held-out spots; leave these out of held_out.")
    if values.max() >= 20 or (values.max() > 0 and np.array_equal(values, np.rint(values))):
        raise ValueError(
            f"layers[{truth!r}] does not look logarithmic; truth= must be in the units of the imputed layer."
        )
    return values
