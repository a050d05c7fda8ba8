from __future__ import annotations

import numpy as np

from snrmix._names import listing
from snrmix.data.results import Result
from snrmix.pl._figure import BLUE, GREY, INK, draws, finish, open_axes

CURVES = {"train_loss": "training loss", "validation_mse": "held-out squared error"}


@draws
def training(data, *, key: str = "snrmix", table_key: str | None = None, show: bool | None = None, save=None):
    """Draw how the networks were trained: a thin line per fold, their mean, and the epoch each was taken from.

    Parameters
    ----------
    data
        AnnData or SpatialData after `snrmix.tl.impute`.
    key
        The ``key_added`` of `snrmix.tl.impute`.
    table_key
        As in `snrmix.tl.impute`.
    {figure}

    Raises
    ------
    KeyError
        When there is no such result or it has no history.
    """
    import matplotlib.pyplot as plt

    record = Result.find(data, key, table_key).record
    history = record.get("history", {})
    if not set(CURVES) <= set(history):
        raise KeyError(
            f"uns[{key!r}]['history'] is missing; run snrmix.tl.impute first. uns[{key!r}] has: {listing(record)}."
        )
    best = np.atleast_1d(np.asarray(history.get("best_epoch", []), dtype=int))
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for ax, (name, label) in zip(axes, CURVES.items(), strict=True):
        _draw_curves(ax, np.atleast_2d(np.asarray(history[name], dtype=float)), best, label)
    axes[1].legend(frameon=False, fontsize="small")
    return finish(figure, show, save)


def _draw_curves(ax, curves: np.ndarray, best: np.ndarray, label: str) -> None:
    """Curves, shape (folds, epochs), over epochs counted from one."""
    folds, epochs = curves.shape
    epoch = np.arange(1, epochs + 1)
    ax.plot(epoch, curves.T, color=GREY, linewidth=0.9, label=["one fold"] + [None] * (folds - 1))
    if folds > 1:
        ax.plot(epoch, np.nanmean(curves, 0), color=BLUE, linewidth=2, label=f"mean of {folds} folds")
    known = np.flatnonzero((best[:folds] >= 0) & (best[:folds] < epochs))
    ax.scatter(
        best[known] + 1, curves[known, best[known]], s=26, color=INK, zorder=3, linewidth=0, label="epoch that was kept"
    )
    ax.xaxis.get_major_locator().set_params(integer=True)
    open_axes(ax, x="epoch", y=label, title="")
