from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from snrmix._names import listing
from snrmix.data.results import Result
from snrmix.pl._figure import BLUE, GREY, INK, drawing, finish, open_axes, open_panels

CURVES = {"train_loss": "training loss", "validation_mse": "held-out squared error"}


@drawing
def training(
    data,
    *,
    key: str = "snrmix",
    table_key: str | None = None,
    ax=None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
    save=None,
    dpi: float | None = None,
):
    """Draw how the networks were trained: a thin line per fold, their mean, and the epoch each was taken from.

    Each model of several libraries has a row of its own. The mean goes on as long as every fold does.

    Parameters
    ----------
    {result}
    {figure}

    Raises
    ------
    KeyError
        When there is no such result or it has no history.

    Examples
    --------
    >>> axes = snrmix.pl.training(adata)
    """
    histories = _read_histories(Result.find(data, key, table_key).record, key)
    axes = open_panels(ax, figsize or (9, 0.5 + 3.1 * len(histories)), len(histories), 2)
    for (model, history), row in zip(histories.items(), axes, strict=True):
        best = np.atleast_1d(np.asarray(history.get("best_epoch", []), dtype=int))
        for own, (name, label) in zip(row, CURVES.items(), strict=True):
            _draw_curves(own, np.atleast_2d(np.asarray(history[name], dtype=float)), best, label)
        row[0].set_title(model, loc="left", fontsize="medium", color=INK, parse_math=False)
    _explain(axes[0, 1])
    return finish(axes if len(axes) > 1 else axes[0], show, save, dpi, ax)


def _read_histories(record: Mapping, key: str) -> dict[str, Mapping]:
    """Histories by model; one without a name where there is one model."""
    by_model = {}
    for library, one in record.get("libraries", {}).items():
        if set(CURVES) <= set(one.get("history", {})):
            by_model.setdefault(str(one.get("model", library)), one["history"])
    history = record.get("history", {})
    if len(by_model) < 2:
        by_model = {"": history} if set(CURVES) <= set(history) else by_model
    if not by_model:
        raise KeyError(
            f"uns[{key!r}]['history'] is missing; run snrmix.tl.impute first. uns[{key!r}] has: {listing(record)}."
        )
    return by_model


def _draw_curves(ax, curves: np.ndarray, best: np.ndarray, label: str) -> None:
    """Curves, shape (folds, epochs), over epochs counted from one."""
    folds, epochs = curves.shape
    epoch = np.arange(1, epochs + 1)
    ax.plot(epoch, curves.T, color=GREY, linewidth=0.9)
    in_all = np.isfinite(curves).all(axis=0)
    if folds > 1 and in_all.any():
        ax.plot(epoch[in_all], curves[:, in_all].mean(axis=0), color=BLUE, linewidth=2)
    known = np.flatnonzero((best[:folds] >= 0) & (best[:folds] < epochs))
    ax.scatter(best[known] + 1, curves[known, best[known]], s=22, color=INK, zorder=3, linewidth=0)
    ax.xaxis.get_major_locator().set_params(integer=True)
    open_axes(ax, x="epoch", y=label, title="")


def _explain(ax) -> None:
    """A legend outside of the data, whose dot cannot be taken for one of them."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=GREY, linewidth=0.9, label="one fold"),
        Line2D([], [], color=BLUE, linewidth=2, label="mean, as long as all folds train"),
        Line2D([], [], color=INK, marker="o", markersize=4, linestyle="", label="epoch that was kept"),
    ]
    ax.legend(handles=handles, frameon=False, fontsize="small", loc="lower right", bbox_to_anchor=(1, 1), ncols=3,
              columnspacing=1.2, handletextpad=0.5, borderaxespad=0.2)  # fmt: skip
