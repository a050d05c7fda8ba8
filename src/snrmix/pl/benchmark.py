from __future__ import annotations

import numpy as np
import pandas as pd

from snrmix.pl._figure import BLUE, GREY, INK, draws, finish, open_axes


@draws
def benchmark(result: pd.DataFrame, *, reference: str | None = None, show: bool | None = None, save=None):
    """Draw how much larger the error of each method is than that of the reference, on the same spots.

    A dot and a bar per method: the mean difference over splits and its 95 % confidence interval; small dots are single
    splits. Left of the line a method is better than the reference, right of it worse.

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
    """
    import matplotlib.pyplot as plt

    from snrmix.tl.summarise import summarise

    if not isinstance(result, pd.DataFrame):
        raise TypeError(f"result must be what snrmix.tl.benchmark returns, not {type(result).__name__}.")
    summary = summarise(result, reference)
    single = summary.attrs["n_splits"] == 1
    others = summary.drop(summary.attrs["reference"])
    figure, ax = plt.subplots(figsize=(7.4, 1.3 + 0.36 * max(len(others), 1)), layout="constrained")
    place = np.arange(len(others))
    ax.axvline(0, color=INK, linewidth=0.9)
    ax.hlines(place, others["low"], others["high"], color=BLUE, linewidth=2.2)
    if not single:
        _draw_splits(ax, result, others.index, summary.attrs["reference"])
    ax.scatter(others["difference"], place, s=46, color=BLUE, linewidth=0, zorder=3)
    ax.set_yticks(place, others.index)
    ax.set_ylim(len(others) - 0.4, -0.6)
    _write_ratios(ax, others)
    name, ratio = summary.attrs["reference"], summary.loc[summary.attrs["reference"], "mse_ratio"]
    what = "genes" if single else f"{summary.attrs['n_splits']} splits"
    label = f"MSE / MSE of the mean, less that of {name} (mean and 95 % interval over {what})"
    open_axes(ax, x=label, y="", title=f"{name}: {ratio:.3f} of the mean's squared error")
    ax.tick_params(axis="y", length=0)
    return finish(figure, show, save)


def _draw_splits(ax, result: pd.DataFrame, methods, reference: str) -> None:
    sums = result.groupby(["split", "method"], observed=True)[["mse", "mse_mean"]].sum()
    ratio = (sums["mse"] / sums["mse_mean"]).unstack("split")
    difference = (ratio - ratio.loc[reference]).loc[methods].to_numpy()
    place = np.repeat(np.arange(len(methods)), difference.shape[1])
    ax.scatter(difference.ravel(), place, s=14, color=GREY, linewidth=0, zorder=2)


def _write_ratios(ax, others: pd.DataFrame) -> None:
    """The absolute ratio of every method, at the right."""
    style = {"va": "center", "fontsize": "small", "color": INK, "annotation_clip": False}
    for place, text in [(-0.75, "ratio"), *((i, f"{ratio:.3f}") for i, ratio in enumerate(others["mse_ratio"]))]:
        ax.annotate(text, (1.02, place), xycoords=("axes fraction", "data"), **style)
