from __future__ import annotations

import numpy as np
import pandas as pd

from snrmix.pl._figure import BLUE, GREY, INK, PALE, drawing, finish, open_axes, open_panels

FAR = 2.5  # times the difference of the next one: such a method is written at the border, so that it stretches nothing


@drawing
def benchmark(
    result: pd.DataFrame,
    *,
    reference: str | None = None,
    ax=None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
    save=None,
    dpi: float | None = None,
):
    """Draw how much larger the error of each method is than that of the reference, on the same spots.

    A dot and a bar per method: the mean difference over splits and its 95 % confidence interval; small dots are single
    splits. Left of the line a method is better than the reference, right of it worse. A method that is far worse than all
    others, as the mean often is, is an arrow at the border.

    Parameters
    ----------
    result
        Of `snrmix.tl.benchmark`, or a part of it.
    reference
        As in `snrmix.tl.summarise`: ``"snrmix"`` unless it is not there.
    {figure}

    Raises
    ------
    KeyError, ValueError, TypeError
        When ``result`` is not what `snrmix.tl.benchmark` returns, or has no such reference.

    Examples
    --------
    >>> ax = snrmix.pl.benchmark(result)
    """
    from snrmix.tl.summarise import summarise

    if not isinstance(result, pd.DataFrame):
        raise TypeError(f"result must be what snrmix.tl.benchmark returns, not {type(result).__name__}.")
    summary = summarise(result, reference)
    name, splits = summary.attrs["reference"], summary.attrs["n_splits"]
    own = open_panels(ax, figsize or (7.4, 1.5 + 0.36 * len(summary)))[0, 0]
    place = pd.Series(np.arange(len(summary)), summary.index)
    is_far = _is_far(summary["difference"])
    near = summary[~is_far & (summary.index != name)]
    own.axvline(0, color=INK, linewidth=0.9)
    own.hlines(place[near.index], near["low"], near["high"], color=BLUE, linewidth=2.2)
    if splits > 1:
        _draw_splits(own, result, place[near.index], name)
    own.scatter(0, place[name], s=60, color=INK, marker="D", linewidth=0, zorder=3)
    own.scatter(near["difference"], place[near.index], s=46, color=BLUE, linewidth=0, zorder=3)
    own.set_yticks(place, summary.index)
    own.set_ylim(len(summary) - 0.4, -0.6)
    _write_far(own, summary.loc[is_far, "difference"], place)
    _write_ratios(own, summary)
    _write_directions(own)
    what = "genes" if splits == 1 else f"{splits} splits"
    label = f"error less that of {name}, as a share of the mean's (mean and 95 % interval over {what})"
    open_axes(own, x=label, y="", title="")
    own.tick_params(axis="y", length=0)
    return finish(own, show, save, dpi, ax)


def _is_far(difference: pd.Series) -> pd.Series:
    """Which of three and more other methods is so much worse than the next one that it would set the scale alone."""
    ordered = difference.sort_values()
    is_last = difference.index == ordered.index[-1]
    return pd.Series(
        is_last & (len(ordered) > 3) & (ordered.iloc[-1] > FAR * max(ordered.iloc[-2], 0)), difference.index
    )


def _draw_splits(ax, result: pd.DataFrame, place: pd.Series, reference: str) -> None:
    sums = result.groupby(["split", "method"], observed=True)[["mse", "mse_mean"]].sum()
    ratio = (sums["mse"] / sums["mse_mean"]).unstack("split")
    difference = (ratio - ratio.loc[reference]).loc[place.index].to_numpy()
    ax.scatter(difference.ravel(), np.repeat(place, difference.shape[1]), s=14, color=GREY, linewidth=0, zorder=2)


def _write_far(ax, difference: pd.Series, place: pd.Series) -> None:
    style = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": "small", "color": BLUE}
    for method, value in difference.items():
        ax.annotate(f"{value:+.3f}  ▶", (0.995, place[method]), ha="right", **style)


def _write_ratios(ax, summary: pd.DataFrame) -> None:
    """The error of every method itself, at the right."""
    style = {"va": "center", "fontsize": "small", "color": INK, "annotation_clip": False}
    for place, text in [
        (-0.95, "share of the\nmean's error"),
        *enumerate(f"{one:.3f}" for one in summary["mse_ratio"]),
    ]:
        ax.annotate(text, (1.02, place), xycoords=("axes fraction", "data"), **style)


def _write_directions(ax) -> None:
    """Which side is better."""
    style = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "fontsize": "small", "color": PALE}
    ax.annotate("◀ better", (0, 1), (-6, 3), ha="right", **style)
    ax.annotate("worse ▶", (0, 1), (6, 3), ha="left", **style)
