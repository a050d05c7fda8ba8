from __future__ import annotations

import numpy as np

from snrmix.data.results import Result
from snrmix.pl._figure import BLUE, GREY, INK, draws, finish, open_axes

REMEDY = "run snrmix.tl.impute again; it scores every gene on held-out spots"


@draws
def gene_scores(
    data, *, key: str = "snrmix", n: int = 8, table_key: str | None = None, show: bool | None = None, save=None
):
    """Draw how well each gene is predicted: its out-of-fold Pearson by rank, and its share of explained variance.

    Parameters
    ----------
    data
        AnnData or SpatialData after `snrmix.tl.impute`.
    key
        The ``key_added`` of `snrmix.tl.impute`.
    n
        How many of the best and of the worst genes to name.
    table_key
        As in `snrmix.tl.impute`.
    {figure}

    Raises
    ------
    KeyError
        When there is no such result or it has no scores.
    """
    import matplotlib.pyplot as plt

    result = Result.find(data, key, table_key)
    pearson, explained = (result.column(score, REMEDY) for score in ("pearson", "explained"))
    reliable = result.flags("reliable")
    scored = np.isfinite(pearson)
    if not scored.any():
        raise KeyError(f"var[{result.name('pearson')!r}] holds no score; {REMEDY}.")
    names = result.table.var_names.to_numpy(str)[scored]
    n = min(n, len(names) // 2)
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(11, max(4, 0.2 * (2 * n + 4))), width_ratios=[1.5, 0.55, 1], layout="constrained"
    )
    _draw_ranks(left, pearson[scored], None if reliable is None else reliable[scored])
    _write_names(middle, names, pearson[scored], n)
    _draw_explained(right, explained[scored & np.isfinite(explained)])
    return finish(figure, show, save)


def _draw_ranks(ax, pearson: np.ndarray, reliable: np.ndarray | None) -> None:
    order = np.argsort(-pearson, kind="stable")
    groups = {"genes": np.ones(len(order), bool)}
    if reliable is not None:
        groups = {"not reliable": ~reliable[order], "reliable": reliable[order]}
    ax.axhline(0, color=GREY, linewidth=0.8)
    for label, chosen in groups.items():
        rank, colour = np.flatnonzero(chosen) + 1, GREY if label == "not reliable" else BLUE
        ax.scatter(rank, pearson[order][chosen], s=14, color=colour, linewidth=0, label=f"{len(rank)} {label}")
    ax.legend(frameon=False, loc="upper right", fontsize="small", handletextpad=0.2)
    open_axes(ax, x="rank of the gene", y="out-of-fold Pearson", title=f"median Pearson {np.median(pearson):.2f}")


def _write_names(ax, names: np.ndarray, pearson: np.ndarray, n: int) -> None:
    """The best and the worst genes with their scores, as a list: it stays legible whatever the curve looks like."""
    order = np.argsort(-pearson, kind="stable")
    lines = [("best", None), *((names[i], pearson[i]) for i in order[:n]), ("", None)]
    lines += [("worst", None), *((names[i], pearson[i]) for i in order[len(order) - n :])]
    for row, (name, score) in enumerate(lines):
        height = 1 - (row + 0.5) / len(lines)
        style = {"color": INK, "fontsize": "small", "va": "center", "transform": ax.transAxes}
        ax.text(0.3, height, name, fontweight="bold" if score is None else "normal", **style)
        if score is not None:
            ax.text(0.22, height, f"{round(score, 2) + 0.0:.2f}", ha="right", **style)
    ax.set_axis_off()


def _draw_explained(ax, explained: np.ndarray) -> None:
    """Histogram in which zero is the border between two bars; what is below -0.5 is counted there."""
    explained = np.maximum(explained, -0.5)
    low, high = min(explained.min(initial=0), 0), max(explained.max(initial=0), 0.1)
    step = (high - low) / 30
    edges = np.arange(np.floor(low / step), np.ceil(high / step) + 1) * step
    counts, _ = np.histogram(explained, edges)
    colours = np.where(edges[:-1] > -step / 2, BLUE, GREY)
    ax.bar(edges[:-1], counts, step, align="edge", color=colours, linewidth=0)
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.yaxis.get_major_locator().set_params(integer=True)
    better = np.mean(explained > 0) if len(explained) else 0.0
    open_axes(ax, x="explained (1 - MSE / MSE of the mean)", y="genes", title=f"{better:.0%} of genes beat their mean")
