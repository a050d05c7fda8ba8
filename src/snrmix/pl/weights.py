from __future__ import annotations

import numpy as np

from snrmix.data.results import Result
from snrmix.pl._figure import BLUE, GREY, INK, PALE, drawing, finish, open_axes, open_panels

REMEDY = "run snrmix.tl.impute with kriging, which weighs it against the network gene by gene"
PARTS = {"network": BLUE, "kriging": "#35b779", "kriging of rates": "#b5de2b", "mean of the gene": "#dddddd"}


@drawing
def weights(
    data,
    *,
    key: str = "snrmix",
    cmap="viridis",
    table_key: str | None = None,
    ax=None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
    save=None,
    dpi: float | None = None,
):
    """Draw what each gene's prediction rests on: the weight of the network against that of kriging.

    The latter is that of log values and of rates together. Where all genes share their weights, they are parts of one
    bar. What is missing to 1 is the mean of the gene, which predictions are drawn to.

    Parameters
    ----------
    {result}
    cmap
        Colours of the out-of-fold Pearson correlation.
    {figure}

    Raises
    ------
    KeyError
        When there is no such result or it has no weights.

    Examples
    --------
    >>> ax = snrmix.pl.weights(adata)
    """
    result = Result.find(data, key, table_key)
    network, kriging = (result.column(f"weight_{part}", REMEDY) for part in ("network", "kriging"))
    rates = np.zeros(len(kriging))
    if result.has("weight_rates"):
        rates = np.nan_to_num(result.column("weight_rates", REMEDY))
    known = np.isfinite(network) & np.isfinite(kriging)
    network, kriging, rates = network[known], kriging[known], rates[known]
    if len(network) and max(np.ptp(weight) for weight in (network, kriging, rates)) < 1e-6:
        own = open_panels(ax, figsize or (6.4, 1.5))[0, 0]
        _draw_bar(own, [float(network[0]), float(kriging[0]), float(rates[0])], len(network))
        return finish(own, show, save, dpi, ax)
    kriging = kriging + rates
    own = open_panels(ax, figsize or (5.6, 4.8))[0, 0]
    pearson = result.column("pearson", REMEDY)[known] if result.has("pearson") else None
    colours = {"color": INK} if pearson is None else {"c": pearson, "cmap": cmap}
    points = own.scatter(network, kriging, s=16, linewidth=0, alpha=0.85, zorder=3, **colours)
    if pearson is not None:
        bar = own.figure.colorbar(points, ax=own, aspect=40, pad=0.02, label="out-of-fold Pearson")
        bar.outline.set_visible(False)
    _draw_medians(own, network, kriging)
    open_axes(own, x="weight of the network", y="weight of kriging", title=f"{len(network)} genes")
    return finish(own, show, save, dpi, ax)


def _draw_bar(ax, weights: list[float], genes: int) -> None:
    """One bar of the parts that a prediction is made of."""
    start = 0.0
    for (name, colour), width in zip(PARTS.items(), [*weights, 1 - sum(weights)], strict=True):
        if width > 0.005:
            ax.barh(0, width, left=start, color=colour, label=f"{name} {width:.2f}", height=0.6)
            start += width
    ax.set(xlim=(0, max(start, 1)), ylim=(-0.4, 0.4), yticks=[])
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.3), ncols=4, frameon=False, fontsize="small")
    open_axes(ax, x="", y="", title=f"one weight for all {genes} genes")
    ax.spines["left"].set_visible(False)


def _draw_medians(ax, network: np.ndarray, kriging: np.ndarray) -> None:
    """Equal axes from zero, the line of weights that sum to one, and both medians written at the borders."""
    reach = 1.08 * max(network.max(initial=0.5), kriging.max(initial=0.5), 1.0)
    low = min(network.min(initial=0), kriging.min(initial=0)) - 0.03
    ax.set(xlim=(low, reach), ylim=(low, reach), aspect="equal")
    ax.plot([0, 1], [1, 0], color=GREY, linewidth=0.9, linestyle=":")
    ax.text(1, 0.03, "sum of 1", rotation=-45, rotation_mode="anchor", ha="right", fontsize="small", color=PALE)
    if not len(network):
        return
    x, y = np.median(network), np.median(kriging)
    ax.axvline(x, color=GREY, linewidth=0.9, linestyle="--")
    ax.axhline(y, color=GREY, linewidth=0.9, linestyle="--")
    style = {"textcoords": "offset points", "color": INK}
    ax.annotate(f"median {x:.2f}", (x, 1), (4, -3), xycoords=("data", "axes fraction"), va="top", **style)
    ax.annotate(f"median {y:.2f}", (1, y), (-3, 4), xycoords=("axes fraction", "data"), ha="right", **style)
