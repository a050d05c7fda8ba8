"""What all figures share: colours, the part of a docstring that all have, axes, and how a figure is saved and shown."""

from __future__ import annotations

import inspect
import re

import numpy as np

from snrmix._globals import Function, settled

BLUE, GREY, INK, ORANGE = "#31688e", "#b9b9b9", "#333333", "#d55e00"
PALE = "#8a8a8a"  # of what explains: lines, remarks
DPI = 200

SHARED = {
    "result": """data
    AnnData or SpatialData after `snrmix.tl.impute`.
key
    The ``key_added`` of `snrmix.tl.impute`.
table_key
    As in `snrmix.tl.impute`.""",
    "figure": """ax
    Axes to draw into, one per panel; ``None`` makes a figure.
figsize
    Width and height of that figure in inches.
show
    Show the figure and return ``None``; ``None``: only in a notebook, and not where ``ax`` was given.
save
    Path to write the figure to.
dpi
    Dots per inch of the file, 200 by default.

Returns
-------
matplotlib.axes.Axes
    What was drawn into: one, or an array where there are several panels, unless the figure was shown. The figure itself
    is ``ax.figure``.""",
}


def drawing(function: Function) -> Function:
    """Give a function that draws ordinary settings, and its docstring the texts of `SHARED` in place of their names."""
    if function.__doc__ is not None:  # python -OO
        doc = inspect.cleandoc(function.__doc__)
        function.__doc__ = re.sub(r"\{(\w+)\}", lambda found: SHARED.get(found[1], found[0]), doc)
    return settled()(function)


def open_panels(ax, figsize, rows: int = 1, columns: int = 1, **layout) -> np.ndarray:
    """Axes that were given, or those of a new figure, shape (rows, columns).

    Raises
    ------
    ValueError
        When another number of axes was given than there are panels.
    """
    import matplotlib.pyplot as plt

    if ax is None:
        return plt.subplots(rows, columns, figsize=figsize, squeeze=False, layout="constrained", **layout)[1]
    given = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
    if len(given) != rows * columns:
        raise ValueError(f"ax= holds {len(given)} axes, and this takes {rows * columns}: one per panel.")
    return given.reshape(rows, columns)


def finish(axes, show: bool | None, save, dpi: float | None = None, ax=None):
    """Save and show a figure the way scanpy does; its axes are returned unless it was shown.

    Parameters
    ----------
    axes
        What was drawn into.
    show, save, dpi
        As the function was given them.
    ax
        The axes that the user gave, or ``None``: a figure of the user's own is shown by the user.
    """
    import matplotlib
    import matplotlib.pyplot as plt

    if save is not None:
        np.ravel(axes)[0].figure.savefig(save, dpi=dpi or DPI, bbox_inches="tight")
    if show or (show is None and ax is None and "inline" in matplotlib.get_backend().lower()):
        plt.show()
        return None
    return axes


def open_axes(ax, *, x: str, y: str, title: str) -> None:
    """Label an axes and leave it only its left and bottom lines."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.set_title(title, loc="left", fontsize="medium", color=INK)
