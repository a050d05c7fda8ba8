"""What hidden spots say of a result: scores, and whether intervals keep their promise."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from snrmix.data.flags import read_mask
from snrmix.data.results import Result

HELD_OUT = "measured_held_out"  # of `snrmix.pp.hold_out`
EXPECTED = (ValueError, KeyError, TypeError)
CURVES = (  # by, group, name, marker, dash
    ("all", "all", "all values", "circle", ""),
    ("distance", "quarter 4", "quarter farthest from measured spots", "triangle", "5 3"),
    ("depth", "shallowest tenth", "tenth with the fewest counts", "square", "2 3"),
)
PLOT, PAD = 260, 44  # of the figure, in pixels


@dataclass(frozen=True)
class Checks:
    """What there is to say.

    Parameters
    ----------
    said
        Sentences.
    scores
        Of `snrmix.tl.evaluate`; ``None`` without hidden spots.
    hidden
        Shape (n_obs,): spots with an observed value that the imputation has not seen.
    curves
        To draw: ``name``, ``marker``, ``dash``, ``points`` (x, y), ``rows`` (promised, held).
    """

    said: list[str]
    hidden: np.ndarray
    scores: pd.DataFrame | None = None
    curves: list[dict] = field(default_factory=list)


def check(data, result: Result, held_out: str | None, where: dict) -> Checks:
    """Compare with hidden spots where there are any, else, where the layer has values out-of-fold, with measured ones.

    Raises
    ------
    KeyError, TypeError, ValueError
        Where ``held_out`` was given and is of no use.
    """
    from snrmix.tl.evaluate import evaluate

    table, nothing = result.table, np.zeros(result.table.n_obs, bool)
    column = held_out if held_out is not None else HELD_OUT
    if held_out is None and column not in table.obs:
        return Checks(*_measured_instead(data, result, where))
    options = {"key": result.key, **{name: where.get(name) for name in ("library_key", "table_key")}}
    try:
        scores = evaluate(data, column, **options)
        hidden = read_mask(table, column, "held_out")
    except EXPECTED as error:
        if held_out is not None:
            raise
        return Checks([f"Spots that obs[{column!r}] marks could not be compared with: {in_words(error)}"], nothing)
    overall = scores.attrs["overall"]
    claimed = float(result.record["scores"]["mse_ratio"]["snrmix"])
    said = [
        f"{int(overall['n_spots']):,} spots were measured and hidden from the run. There the squared error is "
        f"{100 * overall['mse_ratio']:.0f} % of the mean's, where {100 * claimed:.0f} % had been claimed, and for the median "
        f"gene predicted and measured values correlate with {overall['pearson_median']:.2f}."
    ]
    curves, more = _curves(data, column, options)
    return Checks([*said, *more], hidden & ~result.is_measured, scores, curves)


def _measured_instead(data, result: Result, where: dict) -> tuple[list[str], np.ndarray, None, list[dict]]:
    nothing = np.zeros(result.table.n_obs, bool)
    said = [
        "Intervals were made so that nine of ten values that would be observed lie in them, by the errors at measured spots "
        "that were left out. To see whether they do, hide some spots before the run (snrmix.pp.hold_out, snrmix hold-out)."
    ]
    if (
        str(result.record["fill"]) != "all"
        or result.record.get("typical_depth") is not None
        or not result.is_measured.any()
    ):
        return said, nothing, None, []
    options = {"key": result.key, **{name: where.get(name) for name in ("library_key", "table_key")}}
    curves, more = _curves(data, result.name("measured"), options)
    return (more or said) if curves else said, nothing, None, curves


def _curves(data, column: str, options: dict) -> tuple[list[dict], list[str]]:
    """How often intervals hold what was observed, by level; and a sentence."""
    from snrmix.tl.coverage import coverage

    try:
        table = coverage(data, column, **options)
    except EXPECTED as error:
        return [], [f"Whether intervals hold what was observed cannot be said: {in_words(error)}"]
    found = []
    for by, group, name, marker, dash in CURVES:
        rows = table[(table["by"] == by) & (table["group"] == group)]
        if len(rows):
            points = [
                (_x(level), _y(observed)) for level, observed in zip(rows["level"], rows["observed"], strict=True)
            ]
            pairs = [(100 * a, 100 * b) for a, b in zip(rows["level"], rows["observed"], strict=True)]
            band = [(_x(a), _y(b)) for a, b in zip(rows["level"], rows["high"], strict=True)]
            band += [(_x(a), _y(b)) for a, b in zip(rows["level"][::-1], rows["low"][::-1], strict=True)]
            found.append({"name": name, "marker": marker, "dash": dash, "points": points, "rows": pairs, "band": band})
    overall = table[table["by"] == "all"]
    at_90 = float(np.interp(0.9, overall["level"], overall["observed"]))
    return found, [f"Intervals that promise to hold nine of ten observed values (90 %) held {100 * at_90:.1f} %."]


def _x(level: float) -> float:
    return round(PAD + (float(level) - 0.4) / 0.6 * PLOT, 1)


def _y(share: float) -> float:
    return round(10 + (1 - max(float(share), 0.4)) / 0.6 * PLOT, 1)


def ticks() -> list[dict]:
    """Of both axes of the figure."""
    return [{"text": f"{100 * at:.0f}", "x": _x(at), "y": _y(at)} for at in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)]


def in_words(error: Exception) -> str:
    """The message of an error, in one line."""
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(message).split())
