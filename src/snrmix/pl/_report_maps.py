"""Maps of genes for a report: a byte per value, drawn by the page itself, so that they are small and sharp."""

from __future__ import annotations

import base64

import numpy as np

from snrmix._log import quiet
from snrmix.data.expression import log_values
from snrmix.data.results import SD, Result
from snrmix.data.table import dense_block, matrix_of
from snrmix.pl._report_slides import HIDDEN, MEASURED, Slide

STEPS, NOTHING = 254, 255  # largest value of a byte, and what stands for none
MAP_BYTES = 3_000_000  # of all maps, before they become text of a third more
CHUNK = 32  # genes at once
COLOURS = 64  # stops of a colour map


class Maps:
    """Reads the maps of genes.

    Parameters
    ----------
    result
        What to draw.
    slides
        Where to.
    layer
        Where measured values are; ``None``: nowhere, there are no maps of them.
    """

    def __init__(self, result: Result, slides: list[Slide], layer: str | None):
        self.result, self.slides, self.layer = result, slides, layer
        self.keeps_observed = str(result.record["fill"]) == "unmeasured"

    @property
    def bytes_per_gene(self) -> int:
        """What the maps of a gene take."""
        kinds = 1 + self.result.has_sd
        return sum(int(self._seen(slide).sum() + kinds * self._predicted(slide).sum()) for slide in self.slides)

    def read(self, columns: np.ndarray) -> list[dict]:
        """For every gene its name, and for every slide its maps as text."""
        found = []
        for first in range(0, len(columns), CHUNK):
            some = columns[first : first + CHUNK]
            by_slide = [self._read_slide(slide, some) for slide in self.slides]
            for number, column in enumerate(some):
                found.append({"n": str(self.result.table.var_names[column]), "s": [own[number] for own in by_slide]})
        return found

    def _read_slide(self, slide: Slide, columns: np.ndarray) -> list[dict]:
        table, key = self.result.table, self.result.key
        imputed = _by_place(dense_block(matrix_of(table, key), slide.rows, columns), slide)
        sd = None
        if self.result.has_sd:
            sd = _by_place(dense_block(matrix_of(table, self.result.name(SD)), slide.rows, columns), slide)
        seen = self._observed(slide, columns, imputed)
        own = self._predicted(slide)
        return [
            pack(None if seen is None else seen[:, i], imputed[own, i], None if sd is None else sd[own, i])
            for i in range(len(columns))
        ]

    def _seen(self, slide: Slide) -> np.ndarray:
        """Places with an observed value, bool."""
        return np.isin(slide.kinds, (MEASURED, HIDDEN)) & (self.layer is not None)

    def _predicted(self, slide: Slide) -> np.ndarray:
        """Places with a prediction, bool."""
        return (slide.kinds != MEASURED) | (not self.keeps_observed)

    def _observed(self, slide: Slide, columns: np.ndarray, imputed: np.ndarray) -> np.ndarray | None:
        """Values at the places that were observed."""
        if self.layer is None:
            return None
        values = np.full((len(slide.rows), len(columns)), np.nan)
        kind = slide.kinds[slide.member]
        for one in (MEASURED, HIDDEN):
            rows = kind == one
            if rows.any() and not (one == MEASURED and self.keeps_observed):
                values[rows] = observed_values(self.result, slide.rows[rows], columns, self.layer)
        values = _by_place(values, slide)
        if self.keeps_observed:
            values[slide.kinds == MEASURED] = imputed[slide.kinds == MEASURED]
        return values[self._seen(slide)]


def observed_values(result: Result, rows: np.ndarray, columns: np.ndarray, layer: str) -> np.ndarray:
    """What was observed, in the units of the result, (rows, columns).

    Raises
    ------
    KeyError, TypeError, ValueError
        Where the layer is no longer there.
    """
    with quiet():
        name = None if layer == "X" else layer
        return log_values(result.table, name, rows, columns, "layer", str(result.record["input_units"]))


def pack(seen: np.ndarray | None, imputed: np.ndarray, sd: np.ndarray | None) -> dict:
    """Maps of a gene on a slide.

    Parameters
    ----------
    seen
        Observed values of the places that have one; ``None``: no such map.
    imputed, sd
        Of the places that have predictions.

    Returns
    -------
    dict
        ``d``: the values as bytes, one after the other, as base64. ``v``: the lowest and highest value that the bytes
        stand for, and the lowest and highest of the colours; ``u``: the same of the sd.
    """
    values = imputed if seen is None else np.concatenate([seen, imputed])
    found = {"v": _range(values, values)}
    parts = [] if seen is None else [_bytes(seen, found["v"])]
    parts.append(_bytes(imputed, found["v"]))
    if sd is not None:
        found["u"] = _range(np.append(sd, 0.0), sd)
        parts.append(_bytes(sd, found["u"]))
    return {**found, "d": base64.b64encode(np.concatenate(parts).tobytes()).decode("ascii")}


def _range(values: np.ndarray, coloured: np.ndarray) -> list[float]:
    """Lowest and highest value, and of the colours: all but the outermost hundredth on either side."""
    values, coloured = values[np.isfinite(values)], coloured[np.isfinite(coloured)]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    first, last = map(float, np.quantile(coloured, [0.01, 0.99])) if coloured.size else (low, high)
    if last <= first:
        first, last = low, high
    if high <= low:
        high = low + 1
    return [round(value, 4) for value in (low, high, first, last if last > first else first + 1)]


def _bytes(values: np.ndarray, scale: list[float]) -> np.ndarray:
    steps = np.clip(np.rint((values - scale[0]) / (scale[1] - scale[0]) * STEPS), 0, STEPS)
    return np.where(np.isfinite(values), steps, NOTHING).astype(np.uint8)


def _by_place(values: np.ndarray, slide: Slide) -> np.ndarray:
    """Values of rows as those of places, (places, columns): means over the rows that have one."""
    values = np.asarray(values, float)
    if not slide.is_binned:
        return values
    found = np.full((len(slide.places), values.shape[1]), np.nan)
    for i, column in enumerate(values.T):
        known = np.isfinite(column)
        total, number = (
            np.bincount(slide.member[known], weights, minlength=len(slide.places)) for weights in (column[known], None)
        )
        found[number > 0, i] = total[number > 0] / number[number > 0]
    return found


def geometry(slide: Slide) -> dict:
    """Where the spots of a slide are, for the page."""
    size = np.array([slide.width, slide.height])
    return {
        "name": slide.name,
        "width": slide.width,
        "height": round(slide.height, 1),
        "pitch": round(slide.pitch, 3),
        "um": slide.um_per_px,
        "binned": slide.is_binned,
        "places": base64.b64encode(np.rint(slide.places / size * 65535).astype("<u2").tobytes()).decode("ascii"),
        "kinds": base64.b64encode(slide.kinds.astype(np.uint8).tobytes()).decode("ascii"),
    }


def colour_stops(name: str) -> list[str]:
    """Colours of a map, as the page takes them."""
    import matplotlib
    from matplotlib.colors import to_hex

    return [to_hex(colour) for colour in matplotlib.colormaps[name](np.linspace(0, 1, COLOURS))]
