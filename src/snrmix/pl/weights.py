from __future__ import annotations

import numpy as np

from snrmix.data.results import Result
from snrmix.pl._figure import GREY, INK, draws, finish, open_axes

REMEDY = "run snrmix.tl.impute with kriging, which weighs it against the network gene by gene"


@draws
def weights(data, *, key: str = "snrmix", table_key: str | None = None, show: bool | None = None, save=None):
    """Draw what each gene's prediction rests on: the weight of the network against that of kriging.

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
        When there is no such result or it has no weights.
    """
    import matplotlib.pyplot as plt

    result = Result.find(data, key, table_key)
    network, kriging = (result.column(f"weight_{part}", REMEDY) for part in ("network", "kriging"))
    known = np.isfinite(network) & np.isfinite(kriging)
    network, kriging = network[known], kriging[known]
    pearson = result.column("pearson", REMEDY)[known] if result.has("pearson") else None

    figure, ax = plt.subplots(figsize=(5.6, 4.8), layout="constrained")
    is_shared = len(network) > 1 and np.ptp(network) == np.ptp(kriging) == 0
    has_colours = pearson is not None and not is_shared  # in one point the last one hides the others
    colours = {"c": pearson, "cmap": "viridis"} if has_colours else {"color": INK}
    points = ax.scatter(network, kriging, s=16, linewidth=0, alpha=0.85, zorder=3, **colours)
    if has_colours:
        bar = figure.colorbar(points, ax=ax, aspect=40, pad=0.02, label="out-of-fold Pearson")
        bar.outline.set_visible(False)
    _draw_medians(ax, network, kriging)
    title = "one weight for all genes" if is_shared else f"{len(network)} genes"
    open_axes(ax, x="weight of the network", y="weight of kriging", title=title)
    return finish(figure, show, save)


def _draw_medians(ax, network: np.ndarray, kriging: np.ndarray) -> None:
    """Equal axes from zero, the line of weights that sum to one, and both medians written at the borders."""
    reach = 1.08 * max(network.max(initial=0.5), kriging.max(initial=0.5), 1.0)
    low = min(network.min(initial=0), kriging.min(initial=0)) - 0.03
    ax.set(xlim=(low, reach), ylim=(low, reach), aspect="equal")
    ax.plot([0, 1], [1, 0], color=GREY, linewidth=0.9, linestyle=":")
    ax.text(1, 0.03, "sum of 1", rotation=-45, rotation_mode="anchor", ha="right", fontsize="small", color="#8a8a8a")
    if not len(network):
        return
    x, y = np.median(network), np.median(kriging)
    ax.axvline(x, color=GREY, linewidth=0.9, linestyle="--")
    ax.axhline(y, color=GREY, linewidth=0.9, linestyle="--")
    ax.annotate(
        f"median {x:.2f}",
        (x, 1),
        (4, -3),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        va="top",
        color=INK,
    )
    ax.annotate(
        f"median {y:.2f}",
        (1, y),
        (-3, 4),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        color=INK,
    )
