"""Where `snrmix.tl.impute` leaves what joint draws need, and how it is read again: linear in sites and in genes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from snrmix.data.results import ERRORS, Result
from snrmix.engine.errors import PROBABILITIES, RANGES, Errors
from snrmix.engine.fit import SectionFit
from snrmix.plan.parts import Part


def error_slots(shape: tuple[int, int], models: list[tuple[Part, SectionFit]]) -> tuple[np.ndarray, np.ndarray, dict]:
    """What goes into ``obsm``, ``varm`` and ``uns``.

    Returns
    -------
    tuple
        float32, (n_obs, 3): position in pitches, and a number that sites share whose predictions come from the same
        spots; float32, (n_vars, columns): for each model, what lasts of an error and the loadings of the factors, one
        model after the other; the rest, by name.
    """
    sites, columns, first = np.zeros((shape[0], 3), np.float32), [], 0
    for part, fit in models:
        order = part.sites.order
        rest = fit.together.max() + 1  # sites that were never held out, measured or not
        together = np.full(len(order), rest)
        together[part.measured] = np.where(fit.together < 0, rest, fit.together)
        label = first + part.sites.library * (rest + 1) + together
        rows = part.predicts
        sites[order[rows]] = np.column_stack([part.sites.lattice_positions[rows], label[rows]])
        first = int(label.max()) + 1
        columns.append(gene_slot(shape[1], part.expression.columns, fit.errors))
    return sites, np.concatenate(columns, axis=1), errors_record([fit.errors for _, fit in models])


def gene_slot(n_vars: int, columns: np.ndarray, errors: Errors) -> np.ndarray:
    """What lasts of an error, and the loadings, of the genes in some columns; float32, (n_vars, 1 + factors)."""
    found = np.zeros((n_vars, 1 + errors.loadings.shape[1]), np.float32)
    found[columns] = np.column_stack([errors.lasting, errors.loadings])
    return found


def errors_record(every: list[Errors]) -> dict[str, np.ndarray]:
    """What is neither of a site nor of a gene, of the models one after the other."""
    return {
        "probabilities": PROBABILITIES,
        "quantiles": np.concatenate([errors.quantiles for errors in every]),
        "ranges": RANGES,
        "factors": np.concatenate([errors.factors for errors in every]),
        "own": np.stack([errors.own for errors in every]),
        "columns": np.array([1 + errors.loadings.shape[1] for errors in every]),
    }


@dataclass(frozen=True)
class StoredErrors:
    """What a model left for draws.

    Parameters
    ----------
    rows
        The rows it predicts.
    group
        Shape (n_vars,), rows of ``errors.quantiles``; -1 for genes that were not modelled.
    errors
        Of all genes of the table.
    """

    rows: np.ndarray
    group: np.ndarray
    errors: Errors


def read_errors(result: Result) -> Iterator[StoredErrors]:
    """What every model left.

    Raises
    ------
    KeyError
        When a result has none, as those of earlier versions.
    """
    table, name = result.table, result.name(ERRORS)
    held = {f"uns[{result.key!r}][{ERRORS!r}]": ERRORS in result.record}
    held |= {f"{part}[{name!r}]": name in getattr(table, part) for part in ("obsm", "varm")}
    missing = [place for place, there in held.items() if not there]
    if missing:
        raise KeyError(
            f"result {result.key!r} has nothing to make draws of, {missing[0]} is missing: it was made by an older version, "
            "or that part was removed. Run snrmix.tl.impute again."
        )
    record, of_genes = result.record[ERRORS], np.asarray(table.varm[name])
    quantiles, factors, own = (np.asarray(record[name], float) for name in ("quantiles", "factors", "own"))
    columns = np.atleast_1d(record["columns"])
    first_column = np.cumsum(columns) - columns
    first_factor = first_column - np.arange(len(columns))
    for m, (rows, group) in enumerate(result.models()):
        mine = of_genes[:, first_column[m] :][:, : columns[m]]
        some = slice(first_factor[m], first_factor[m] + columns[m] - 1)
        errors = Errors(quantiles, mine[:, 1:], factors[some].reshape(-1, own.shape[1]), own[m], mine[:, 0])
        yield StoredErrors(np.arange(table.n_obs)[rows], group, errors)
