from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from anndata import AnnData

from snrmix._names import listing
from snrmix.data.expression import read_expression
from snrmix.data.results import check_libraries, models_of, result_table
from snrmix.data.sites import Sites, read_sites
from snrmix.data.table import matrix_of, read_mask
from snrmix.engine.conformal import LEVELS
from snrmix.engine.neighbours import distance_to_measured
from snrmix.tl.interval import interval

QUARTERS = 4
SHALLOW_SHARE = 10
RESAMPLES = 500
BAND = 0.95


def coverage(
    data,
    held_out="measured_held_out",
    *,
    key: str = "snrmix",
    levels=LEVELS,
    layer: str | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
) -> pd.DataFrame:
    """How often the intervals of `snrmix.tl.interval` hold what was observed at spots that the imputation never saw.

    Parameters
    ----------
    data
        The object that `snrmix.tl.impute` was called on; AnnData or SpatialData.
    held_out
        Boolean obs column, such as that of `snrmix.pp.hold_out`, or boolean array: spots with expression that were
        unmeasured in that call; with ``fill="all"`` measured spots will do.
    key
        ``key_added`` of that call.
    levels
        Nominal probabilities, each from 0.5 to 0.98.
    layer
        Where the observed expression is; by default where that call read it.
    library_key, table_key
        As in that call.

    Returns
    -------
    pandas.DataFrame
        One row per group of values and level: ``by``, ``group``, ``level``, ``observed`` (share of the values, over
        spots and modelled genes, inside the interval), ``low`` and ``high`` (95 % band from resampling spots), ``width``
        (mean width of the interval), ``n_values``. Groups are ``"all"``; quarters of the spots by ``"distance"`` to the
        nearest measured spot, nearest first; quarters of the values by predicted ``"sd"``, smallest first; and for
        counts, by ``"depth"``, the tenth of the spots that has the fewest; and where there are several, each
        ``"library"``.

    Raises
    ------
    KeyError, TypeError, ValueError
        When there is no such result, column or layer, the imputation has seen a held-out spot, or a level is out of
        range.

    Examples
    --------
    >>> snrmix.pp.hold_out(adata)
    >>> snrmix.tl.impute(adata, measured="measured")
    >>> snrmix.tl.coverage(adata, levels=[0.9])
    """
    table = result_table(data, key, table_key)
    sites = read_sites(data, table_key=table_key, library_key=library_key, with_images=False)
    check_libraries(sites, table.uns[key], key)
    held = read_mask(table, held_out, "held_out")[sites.order]
    measured = read_mask(table, f"{key}_measured", f"{key}_measured")[sites.order]
    _check_unseen(table, sites, held, measured, key)
    observed, columns, depth = _observed(table, sites, held, measured, key, layer)
    modelled = _modelled(table, key)[np.ix_(sites.order[held], columns)]
    somewhere = modelled.any(0)
    observed, columns, modelled = observed[:, somewhere], columns[somewhere], modelled[:, somewhere]
    block = np.ix_(sites.order[held], columns)
    distance = distance_to_measured(
        sites.lattice_positions, sites.library, np.flatnonzero(measured & ~held), np.flatnonzero(held)
    )
    libraries = np.array(sites.libraries)[sites.library[held]]
    groups = list(_groups(distance, np.asarray(table.layers[f"{key}_sd"])[block], depth, libraries))
    count = np.random.default_rng(0).multinomial(held.sum(), np.full(held.sum(), 1 / held.sum()), size=RESAMPLES)
    rows = []
    for level in np.atleast_1d(np.asarray(levels, dtype=float)):
        low, high = (end[block] for end in interval(data, float(level), key=key, table_key=table_key))
        inside, width = (low <= observed) & (observed <= high), high - low
        rows += [
            {"by": by, "group": name, "level": level, **_share(inside, width, chosen & modelled, count)}
            for by, name, chosen in groups
        ]
    return pd.DataFrame(rows).sort_values(["by", "group", "level"], kind="stable", ignore_index=True)


def _check_unseen(table: AnnData, sites: Sites, held: np.ndarray, measured: np.ndarray, key: str) -> None:
    if not held.any():
        raise ValueError("held_out marks no spot; there is nothing to compare with.")
    seen = held & measured
    if table.uns[key]["fill"] == "unmeasured" and seen.any():
        raise ValueError(
            f"{seen.sum()} of the {held.sum()} held-out spots were measured when the layer was imputed, e.g. "
            f"{sites.names[seen][0]!r}: it holds their observed values, which have no interval. Impute again with "
            "measured= leaving them out, or with fill='all' for out-of-fold values."
        )


def _observed(table: AnnData, sites: Sites, held: np.ndarray, measured: np.ndarray, key: str, layer: str | None):
    """Observed values of the modelled genes at held-out spots, their columns, and the depth of counts or ``None``."""
    record, column = table.uns[key], f"{key}_modelled"
    names = list(table.var_names[table.var[column].to_numpy(bool)]) if column in table.var else []
    if not names:
        raise KeyError(f"var[{column!r}] is missing or marks no gene; run snrmix.tl.impute again.")
    if layer is None and record["parameters"]["layer"] != "X":
        layer = record["parameters"]["layer"]
    total = np.asarray(matrix_of(table, layer)[sites.order[held]].sum(axis=1)).ravel()
    empty = ~(total > 0)
    if empty.any():
        raise ValueError(
            f"{empty.sum()} of the {held.sum()} held-out spots have no expression to compare with, e.g. "
            f"{listing(sites.names[held][empty], 3)}; leave them out of held_out."
        )
    known = measured | held
    found = read_expression(table, sites, known, layer=layer, units=record["input_units"], genes=names)
    rows = held[known]
    return found.values[rows], found.columns, found.depth[rows] if record["input_units"] == "counts" else None


def _modelled(table: AnnData, key: str) -> np.ndarray:
    """Which genes the model of each spot knows, bool, (n_obs, n_vars)."""
    modelled = np.zeros(table.shape, bool)
    for rows, group in models_of(table, key):
        modelled[rows] = group >= 0
    return modelled


def _groups(
    distance: np.ndarray, sd: np.ndarray, depth: np.ndarray | None, library: np.ndarray
) -> Iterator[tuple[str, str, np.ndarray]]:
    """What coverage is told apart by: name, group, and which values belong to it, bool, broadcastable to the values."""
    yield "all", "all", np.ones((len(distance), 1), bool)
    for quarter, chosen in enumerate(_quarters(distance), 1):
        yield "distance", f"quarter {quarter}", chosen[:, None]
    for quarter, chosen in enumerate(_quarters(sd.ravel()), 1):
        yield "sd", f"quarter {quarter}", chosen.reshape(sd.shape)
    if depth is not None and len(depth) >= SHALLOW_SHARE:
        shallow = np.zeros(len(depth), bool)
        shallow[np.argsort(depth, kind="stable")[: len(depth) // SHALLOW_SHARE]] = True
        yield "depth", "shallowest tenth", shallow[:, None]
    names = np.unique(library)
    for name in names if len(names) > 1 else ():
        yield "library", name, (library == name)[:, None]


def _quarters(values: np.ndarray) -> list[np.ndarray]:
    """Masks of the quarters of the values in ascending order; ties are split by their order."""
    rank = np.empty(len(values), int)
    rank[np.argsort(values, kind="stable")] = np.arange(len(values))
    return [rank * QUARTERS // len(values) == quarter for quarter in range(QUARTERS)]


def _share(inside: np.ndarray, width: np.ndarray, chosen: np.ndarray, count: np.ndarray) -> dict[str, float]:
    """Share of the chosen values inside, its band when whole spots are resampled, and the mean width."""
    chosen = np.broadcast_to(chosen, inside.shape)
    number, hits = chosen.sum(1), (inside & chosen).sum(1)
    resampled = (count @ hits) / np.maximum(count @ number, 1)
    low, high = np.quantile(resampled, [(1 - BAND) / 2, (1 + BAND) / 2])
    total = number.sum()
    mean_width = float(width[chosen].mean()) if total else np.nan
    observed = float(hits.sum() / total) if total else np.nan
    return {"observed": observed, "low": low, "high": high, "width": mean_width, "n_values": int(total)}
