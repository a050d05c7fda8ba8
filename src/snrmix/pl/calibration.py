from __future__ import annotations

import numpy as np
import pandas as pd

from snrmix.pl._figure import BLUE, GREY, INK, drawing, finish, open_axes, open_panels

PANELS = {
    "distance": ("by distance to the nearest measured spot", ("nearest", "farthest")),
    "sd": ("by predicted sd", ("smallest", "largest")),
}


@drawing
def calibration(
    data,
    held_out="measured_held_out",
    *,
    key: str = "snrmix",
    layer: str | None = None,
    table_key: str | None = None,
    library_key: str | None = None,
    cmap="viridis",
    ax=None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
    save=None,
    dpi: float | None = None,
):
    """Draw how often the intervals hold the observed value, against how often they promise to.

    A point on the diagonal keeps its promise; above it intervals are wider than they need to be, below they are too
    narrow. Three panels: all values with, for counts, the tenth of the spots of lowest depth; quarters of the spots by
    distance to the nearest measured spot; quarters of the values by predicted sd. Bands come from resampling spots.

    Parameters
    ----------
    {result}
    held_out
        Spots to compare at, as in `snrmix.tl.coverage`.
    layer, library_key
        As in `snrmix.tl.coverage`.
    cmap
        Colours of the quarters.
    {figure}

    Raises
    ------
    KeyError, TypeError, ValueError
        As `snrmix.tl.coverage` does.

    Examples
    --------
    >>> axes = snrmix.pl.calibration(adata, "measured_held_out")
    """
    from snrmix.tl.coverage import coverage

    table = coverage(data, held_out, key=key, layer=layer, table_key=table_key, library_key=library_key)
    axes = open_panels(
        ax, figsize or (11.4, 4.1), 1, 3, **({"sharex": True, "sharey": True} if ax is None else {})
    ).ravel()
    _draw_overall(axes[0], table)
    for one, (by, (title, ends)) in zip(axes[1:], PANELS.items(), strict=True):
        _draw_quarters(one, table[table["by"] == by], ends, cmap)
        open_axes(one, x="nominal coverage", y="", title=title)
    low = max(0.0, min(0.45, table["low"].min() - 0.02))
    for one in axes:
        one.set(xlim=(0.47, 1.01), ylim=(low, 1.01))
    return finish(axes, show, save, dpi, ax)


def _draw_overall(ax, table: pd.DataFrame) -> None:
    overall = table[table["by"] == "all"]
    at_90 = np.interp(0.9, overall["level"], overall["observed"])
    _draw_curve(ax, overall, BLUE, "all values", width=2)
    shallow = table[table["by"] == "depth"]
    if len(shallow):
        _draw_curve(ax, shallow, INK, "tenth with fewest counts", dashed=True)
    _draw_diagonal(ax)
    ax.legend(frameon=False, loc="upper left", fontsize="small")
    open_axes(ax, x="nominal coverage", y="observed coverage", title=f"90 % intervals hold {100 * at_90:.1f} %")


def _draw_quarters(ax, table: pd.DataFrame, ends: tuple[str, str], cmap) -> None:
    import matplotlib

    names = sorted(table["group"].unique())
    colours = matplotlib.colormaps.get_cmap(cmap)(np.linspace(0.1, 0.85, len(names)))
    for place, (name, colour) in enumerate(zip(names, colours, strict=True)):
        label = {0: f"{ends[0]} quarter", len(names) - 1: f"{ends[1]} quarter"}.get(place, name)
        _draw_curve(ax, table[table["group"] == name], colour, label)
    _draw_diagonal(ax)
    ax.legend(frameon=False, loc="upper left", fontsize="small")


def _draw_curve(ax, rows: pd.DataFrame, colour, label: str, width: float = 1.4, dashed: bool = False) -> None:
    ax.fill_between(rows["level"], rows["low"], rows["high"], color=colour, alpha=0.15, linewidth=0)
    style = "--" if dashed else "-"
    ax.plot(
        rows["level"], rows["observed"], style, color=colour, linewidth=width, marker="o", markersize=3, label=label
    )


def _draw_diagonal(ax) -> None:
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.9, zorder=0)
