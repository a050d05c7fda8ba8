from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from snrmix._log import logger
from snrmix.data.results import Result
from snrmix.pl._figure import BLUE, GREY, INK, ORANGE, drawing, finish, open_axes, open_panels

KINDS = {
    "own": "own model",
    "shared": "shared model",
    "leave-group-out": "other groups of slides, left out",
    "leave-library-out": "other slides, left out",
    "within-library": "regions of another slide, left out",
}
ASIDE = 0.2  # rows
MARKS = {"snrmix": ("o", BLUE, 48), "own": ("D", ORANGE, 34), "shared": ("s", "#35b779", 34)}


@drawing
def share(
    data,
    *,
    key: str = "snrmix",
    own: str | None = None,
    table_key: str | None = None,
    ax=None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
    save=None,
    dpi: float | None = None,
):
    """Draw what each library's model is worth: its out-of-fold error, next to that of simpler methods and of another model.

    A row per library, with the kind of its model at the right. Where the two models were weighed against each other
    (``share="auto"``), both errors are drawn, and ``own`` is not needed.

    Parameters
    ----------
    {result}
    own
        The ``key_added`` of a result with ``share=False``, to compare a shared model with that of each library.
    {figure}

    Raises
    ------
    KeyError
        When there is no such result, or it has a single library.

    Examples
    --------
    >>> ax = snrmix.pl.share(slides)
    """
    table = _read(Result.find(data, key, table_key))
    if own is not None:
        other = _read(Result.find(data, own, table_key))
        table["own"] = other["snrmix"].reindex(table.index)
    elif not {"own", "shared"} <= set(table):
        logger.info(
            "uns[%r] has the scores of one model per library: pass own=, the key_added of a result with share=False, to "
            "compare.", key,
        )  # fmt: skip
    axes = open_panels(ax, figsize or (7.4, 1.6 + 0.42 * len(table)))[0, 0]
    _draw(axes, table, {"snrmix": key, "own": "own model" if own is None else own, "shared": "shared model"})
    return finish(axes, show, save, dpi, ax)


def _read(result: Result) -> pd.DataFrame:
    """Error of every method as a share of the mean's, one row per library, and the kind of its model."""
    libraries = result.record.get("libraries", {})
    if not libraries:
        raise KeyError(
            f"uns[{result.key!r}]['libraries'] is missing: {result.key!r} is of a single library, which has no other to share "
            "a model with; snrmix.pl.gene_scores draws its scores."
        )
    rows = {name.replace("|", "/"): _row(one) for name, one in libraries.items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def _row(record: Mapping) -> dict:
    weighed = record.get("sharing", {})
    kind = KINDS.get(record["kind"], record["kind"])
    words = f"both, {float(weighed['weight']):.0%} shared" if "weight" in weighed else kind
    row = {"kind": words, **record["scores"]["mse_ratio"].to_dict()}
    return row | {
        name: float(weighed[f"mse_ratio_{name}"]) for name in ("own", "shared") if f"mse_ratio_{name}" in weighed
    }


def _draw(ax, table: pd.DataFrame, names: Mapping[str, str]) -> None:
    place = np.arange(len(table))
    simple = [name for name in table if name not in ("kind", "network", "kriging", "rates", "mean", *MARKS)]
    best = table[simple].min(axis=1)
    ax.axvline(1, color=GREY, linewidth=0.9)
    ax.scatter(best, place, marker="|", s=150, color=INK, linewidth=1.4, label="best baseline")
    for name, (marker, colour, size) in MARKS.items():
        if name in table:
            aside = 0 if name == "snrmix" else ASIDE  # so that equal errors do not hide each other
            ax.scatter(
                table[name],
                place + aside,
                marker=marker,
                s=size,
                color=colour,
                linewidth=0,
                zorder=3,
                label=names[name],
            )
    ax.set_yticks(place, table.index)
    ax.set_ylim(len(table) - 0.4, -0.6)
    for row, kind in enumerate(table["kind"]):
        ax.annotate(
            kind, (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize="small",
            color=INK, annotation_clip=False,
        )  # fmt: skip
    ax.legend(frameon=False, fontsize="small", ncols=4, loc="lower left", bbox_to_anchor=(0, 1), handletextpad=0.3)
    open_axes(ax, x="out-of-fold error, as a share of the mean's (less is better)", y="", title="")
    ax.tick_params(axis="y", length=0)
