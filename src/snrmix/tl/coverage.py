from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from snrmix._globals import settled
from snrmix.data.results import SD
from snrmix.engine.conformal import LEVELS
from snrmix.engine.neighbours import distance_to_measured
from snrmix.tl._held_out import HeldOut, modelled_at, models_at, read_held_out
from snrmix.tl.interval import interval_ends, quantiles_in_sds

QUARTERS = 4
SHALLOW_SHARE = 10
RESAMPLES = 500
BAND = 0.95


@settled()
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
        When there is no such result, column or layer, the imputation has seen a held-out spot, the layer is one at a
        typical depth, or a level is out of range.

    Examples
    --------
    >>> snrmix.pp.hold_out(adata)
    >>> snrmix.tl.impute(adata, measured="measured")
    >>> snrmix.tl.coverage(adata, levels=[0.9])
    """
    spots = read_held_out(data, held_out, key=key, layer=layer, library_key=library_key, table_key=table_key)
    if spots.result.record.get("typical_depth") is not None:
        raise ValueError(
            f"the layer {key!r} holds values at a typical depth, and its intervals are for spots of that depth, which the "
            "observed ones are not: impute with at_depth='spot' to see how often intervals hold."
        )
    calibration, columns = spots.result.record["calibration"], spots.expression.columns
    by_level = {
        float(level): quantiles_in_sds(calibration, float(level)) for level in np.atleast_1d(np.asarray(levels, float))
    }
    modelled = modelled_at(spots.result, spots.rows, columns)
    somewhere = modelled.any(0)
    observed, columns, modelled = spots.expression.values[spots.places], columns[somewhere], modelled[:, somewhere]
    observed = observed[:, somewhere]
    values, sd = (spots.values(name, columns) for name in (key, spots.result.name(SD)))
    models, groups = models_at(spots.result, spots.rows, columns), list(_groups(spots, sd))
    count = np.random.default_rng(0).multinomial(len(sd), np.full(len(sd), 1 / len(sd)), size=RESAMPLES)
    rows = []
    for level, quantiles in by_level.items():
        low, high = interval_ends(values, sd, models, quantiles)
        inside, width = (low <= observed) & (observed <= high), high - low
        rows += [
            {"by": by, "group": name, "level": level, **_share(inside, width, chosen & modelled, count)}
            for by, name, chosen in groups
        ]
    return pd.DataFrame(rows).sort_values(["by", "group", "level"], kind="stable", ignore_index=True)


def _groups(spots: HeldOut, sd: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
    """What coverage is told apart by: name, group, and which values belong to it, bool, broadcastable to the values."""
    sites, depth = spots.sites, spots.depth
    distance = distance_to_measured(
        sites.lattice_positions, sites.library, np.flatnonzero(spots.measured & ~spots.held), np.flatnonzero(spots.held)
    )
    library = np.array(sites.libraries)[spots.library]
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
