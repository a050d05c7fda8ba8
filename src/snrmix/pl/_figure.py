"""What all figures share."""

from __future__ import annotations

import inspect

from snrmix._globals import Function, settled

BLUE, GREY, INK = "#31688e", "#b9b9b9", "#333333"

FIGURE = """show
    Show the figure and return ``None``; by default only in a notebook.
save
    Path to write the figure to.

Returns
-------
matplotlib.figure.Figure
    Unless it was shown."""


def draws(function: Function) -> Function:
    """Give a function that draws ordinary settings, and its docstring what all have in common, in place of ``{figure}``."""
    if function.__doc__ is not None:  # python -OO
        function.__doc__ = inspect.cleandoc(function.__doc__).replace("{figure}", FIGURE)
    return settled()(function)


def finish(figure, show: bool | None, save):
    """Save and show a figure the way scanpy does; the figure is returned unless it was shown.

    Parameters
    ----------
    show
        ``None``: shown in a notebook, where it would otherwise appear twice, and returned elsewhere.
    save
        Path to write to, or ``None``.
    """
    import matplotlib
    import matplotlib.pyplot as plt

    if save is not None:
        figure.savefig(save, dpi=200, bbox_inches="tight")
    if show or (show is None and "inline" in matplotlib.get_backend().lower()):
        plt.show()
        return None
    return figure


def open_axes(ax, *, x: str, y: str, title: str) -> None:
    """Label an axes and leave it only its left and bottom lines."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.set_title(title, loc="left", fontsize="medium")
