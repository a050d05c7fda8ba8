from __future__ import annotations

import numpy as np

from snrmix.data.results import Result
from snrmix.pl._figure import BLUE, GREY, INK, ORANGE, drawing, finish, open_axes, open_panels

REMEDY = "run snrmix.tl.impute again; it scores every gene on held-out spots"
LOWEST = -0.5  # what is below is counted there


@drawing
def gene_scores(
    data,
    *,
    key: str = "snrmix",
    n: int = 8,
    table_key: str | None = None,
    ax=None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
    save=None,
    dpi: float | None = None,
):
    """Draw how well each gene is predicted, and how much of that depth would have told.

    Left, genes by rank of their out-of-fold Pearson correlation, and below each its correlation given depth, where known;
    genes that are not reliable are drawn on top. Middle, the best and the worst by name, with both numbers; those that are
    not reliable have a circle. Right, the shares of their variance that are explained, in all and given depth.

    Parameters
    ----------
    {result}
    n
        How many of the best and of the worst genes to name.
    {figure}

    Raises
    ------
    KeyError
        When there is no such result or it has no scores.

    Examples
    --------
    >>> axes = snrmix.pl.gene_scores(adata, n=5)
    """
    result = Result.find(data, key, table_key)
    pearson, explained = (result.column(score, REMEDY) for score in ("pearson", "explained"))
    given = {name: _given_depth(result, name) for name in ("pearson", "explained")}
    scored = np.isfinite(pearson)
    if not scored.any():
        raise KeyError(f"var[{result.name('pearson')!r}] holds no score; {REMEDY}.")
    reliable = result.flags("reliable")
    flagged = np.zeros(scored.sum(), bool) if reliable is None else ~reliable[scored]
    names = result.table.var_names.to_numpy(str)[scored]
    n = min(n, len(names) // 2)
    figsize = figsize or (11, max(4, 0.21 * (2 * n + 5)))
    axes = open_panels(ax, figsize, 1, 3, **({"width_ratios": [1.5, 0.75, 1]} if ax is None else {})).ravel()
    _draw_ranks(axes[0], pearson[scored], given["pearson"][scored], flagged, reliable is not None)
    _write_names(axes[1], names, pearson[scored], given["pearson"][scored], flagged, n)
    _draw_explained(axes[2], explained[np.isfinite(explained)], given["explained"][np.isfinite(given["explained"])])
    return finish(axes, show, save, dpi, ax)


def _given_depth(result: Result, name: str) -> np.ndarray:
    """A score given depth, NaN where it is not known."""
    part = f"{name}_given_depth"
    return result.column(part, REMEDY) if result.has(part) else np.full(result.table.n_vars, np.nan)


def _draw_ranks(ax, pearson: np.ndarray, given: np.ndarray, flagged: np.ndarray, is_known: bool) -> None:
    order = np.argsort(-pearson, kind="stable")
    pearson, given, flagged = pearson[order], given[order], flagged[order]
    rank = np.arange(1, len(order) + 1)
    ax.axhline(0, color=GREY, linewidth=0.8)
    if np.isfinite(given).any():
        ax.vlines(rank, np.minimum(given, pearson), pearson, color=GREY, linewidth=0.5, alpha=0.6)
        ax.scatter(rank, given, s=9, color=GREY, linewidth=0, label="given depth", zorder=2)
    good = f"{(~flagged).sum()} {'reliable' if is_known else 'genes'}"
    ax.scatter(rank[~flagged], pearson[~flagged], s=16, color=BLUE, linewidth=0, label=good, zorder=3)
    if flagged.any():
        style = {"s": 22, "facecolor": "white", "edgecolor": ORANGE, "linewidth": 1.1, "zorder": 4}
        ax.scatter(rank[flagged], pearson[flagged], label=f"{flagged.sum()} not reliable", **style)
    ax.legend(frameon=False, loc="best", fontsize="small", handletextpad=0.2)
    title = f"median Pearson {np.median(pearson):.2f}"
    if np.isfinite(given).any():
        title += f", {np.nanmedian(given):.2f} given depth"
    open_axes(ax, x="rank of the gene", y="out-of-fold Pearson", title=title)


def _write_names(ax, names: np.ndarray, pearson: np.ndarray, given: np.ndarray, flagged: np.ndarray, n: int) -> None:
    """The best and the worst genes with their scores, as a list: it stays legible whatever the curve looks like."""
    order, has_depth = np.argsort(-pearson, kind="stable"), np.isfinite(given).any()
    lines = ["best", *order[:n], "", "worst", *order[len(order) - n :]]
    style = {"color": INK, "fontsize": "small", "va": "center", "transform": ax.transAxes}
    for row, line in enumerate(lines):
        y = 1 - (row + 0.5) / len(lines)
        if isinstance(line, str):
            ax.text(0.42, y, line, fontweight="bold", **style)
            continue
        ax.text(0.14, y, f"{round(pearson[line], 2) + 0.0:.2f}", ha="right", **style)
        if has_depth and np.isfinite(given[line]):
            ax.text(0.32, y, f"{round(given[line], 2) + 0.0:.2f}", ha="right", **(style | {"color": "#8a8a8a"}))
        if flagged[line]:
            look = {"s": 16, "facecolor": "white", "edgecolor": ORANGE, "linewidth": 1.0}
            ax.scatter([0.37], [y], transform=ax.transAxes, clip_on=False, **look)
        ax.text(0.42, y, names[line], parse_math=False, **style)
    ax.set_axis_off()
    if has_depth:
        ax.set_title("Pearson, given depth", loc="left", fontsize="small", color="#8a8a8a")


def _draw_explained(ax, explained: np.ndarray, given: np.ndarray) -> None:
    """Histogram in which zero is the border between two bars, and the outline of that given depth."""
    explained, given = np.maximum(explained, LOWEST), np.maximum(given, LOWEST)
    both = np.concatenate([explained, given])
    low, high = min(both.min(initial=0), 0), max(both.max(initial=0), 0.1)
    step = (high - low) / 30
    edges = np.arange(np.floor(low / step), np.ceil(high / step) + 1) * step
    counts, _ = np.histogram(explained, edges)
    colours = np.where(edges[:-1] > -step / 2, BLUE, GREY)
    ax.bar(edges[:-1], counts, step, align="edge", color=colours, linewidth=0)
    if len(given):
        ax.stairs(np.histogram(given, edges)[0], edges, color=INK, linewidth=1.1, label="given depth")
        ax.legend(frameon=False, fontsize="small")
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.yaxis.get_major_locator().set_params(integer=True)
    shown = given if len(given) else explained
    better = np.mean(shown > 0) if len(shown) else 0.0
    beaten = "depth alone" if len(given) else "their mean"
    open_axes(ax, x="share explained", y="genes", title=f"{better:.0%} of genes beat {beaten}")
