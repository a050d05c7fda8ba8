"""Maps of genes over the tissue: rows of panels, their colours, and what explains them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from snrmix._names import listing
from snrmix.pl._figure import GREY, INK, PALE, open_panels
from snrmix.pl._scene import Scene

PANEL_INCHES = 3.1
COLUMNS = 4  # of a grid of single maps
SURE_TO_UNSURE = ("magma_r", 0.06, 0.88)  # pale to dark: what is not known stands out, on pale tissue too
HOLLOW, DOT = 0.55, 0.2  # sizes of marks in pitches
HATCHED = 0.75  # quantile of the sd from which on spots are hatched
FAINTEST = 0.12
BELOW, SCALE_BAR = 0.02, 0.08  # gap above a colour bar, without and with a scale bar in it, in heights of a panel
SOME = "#7fb5a5"  # the colour of no value in particular
MODES = ("panel", "alpha", "hatch", None)


@dataclass(frozen=True)
class Row:
    """One gene in one library.

    Parameters
    ----------
    scene
        The library.
    heading, short
        What is written above its panels, or above one panel of a grid.
    maps
        Values by panel, shape (n,) each; they share their colours.
    sd
        Uncertainty, shape (n,), 0 where a value was observed; or ``None``.
    is_spot
        Shape (n,): no site that was added.
    label
        What the colours mean.
    limits
        Of the colours.
    """

    scene: Scene
    heading: str
    short: str
    maps: dict[str, np.ndarray]
    sd: np.ndarray | None
    is_spot: np.ndarray
    label: str
    limits: tuple[float, float] = (0.0, 1.0)

    @property
    def is_observed(self) -> np.ndarray:
        """Where the layer holds the value that was measured, shape (n,)."""
        return np.zeros(len(self.is_spot), bool) if self.sd is None else self.sd == 0


@dataclass(frozen=True)
class Style:
    """How maps are drawn: size in spacings, colours of values, and how the uncertainty is shown, one of `MODES`."""

    size: float = 1.0
    cmap: object = "viridis"
    sd: str | None = "panel"


def choose_panels(available: Sequence[str], asked) -> list[str]:
    """The panels that are drawn, in the order in which they were asked for.

    Raises
    ------
    ValueError
        For one that is not available.
    """
    if asked is None:
        return list(available)
    asked = [asked] if isinstance(asked, str) else list(asked)
    missing = [name for name in asked if name not in available]
    if missing or not asked:
        raise ValueError(f"panels={asked!r} must be some of {listing(available)}.")
    return asked


def draw_rows(rows: list[Row], panels: list[str], style: Style, ax, figsize, title: str | None = None) -> np.ndarray:
    """Draw all rows below each other, or a grid where each has a single panel; returns the axes."""
    if len(panels) == 1:
        return _draw_grid(rows, panels[0], style, ax, figsize, title)
    heights = [PANEL_INCHES * np.clip(row.scene.height_to_width, 0.3, 3) + 1.15 for row in rows]
    figsize = figsize or (PANEL_INCHES * len(panels), sum(heights) + 0.2)
    ratios = {"height_ratios": heights} if ax is None else {}
    axes = open_panels(ax, figsize, len(rows), len(panels), **ratios)
    before = None
    for row, own in zip(rows, axes, strict=True):
        is_new = row.scene is not before
        _draw_row(row, panels, style, own, has_image=is_new)
        _write_heading(own[0], row.heading, own[0].figure.get_figwidth())
        if is_new:
            row.scene.draw_scale_bar(own[0])
        before = row.scene
    _explain(rows, panels, style, axes, is_own=ax is None)
    _write_title(axes, title)
    return axes


def _draw_row(row: Row, panels: list[str], style: Style, axes: np.ndarray, has_image: bool) -> None:
    """The panels of one gene, and under those that share their colours the bar that explains them."""
    of_values = []
    for name, ax in zip(panels, axes, strict=True):
        ax.set_title(name, fontsize="medium", color=INK)
        if name == "H&E" and not (has_image and row.scene.backdrop is not None):
            ax.set_title("")
            ax.set_axis_off()
        else:
            mappable = _draw_panel(row, name, style, ax)
            if name == "uncertainty":
                _colour_bar(mappable, [ax], "standard deviation", SCALE_BAR if ax is axes[0] else BELOW)
            elif mappable is not None:
                of_values.append((mappable, ax))
    if of_values:
        below_scale_bar = of_values[0][1] is axes[0]
        _colour_bar(of_values[0][0], [ax for _, ax in of_values], row.label, SCALE_BAR if below_scale_bar else BELOW)


def _draw_grid(rows: list[Row], panel: str, style: Style, ax, figsize, title) -> np.ndarray:
    """One panel of every gene, wrapped."""
    columns = min(COLUMNS, len(rows)) if ax is None else len(rows)
    lines = -(-len(rows) // columns)
    height = PANEL_INCHES * max(np.clip(row.scene.height_to_width, 0.3, 3) for row in rows) + 0.85
    axes = open_panels(ax, figsize or (PANEL_INCHES * columns, height * lines), lines, columns).ravel()
    for spare in axes[len(rows) :]:
        spare.set_axis_off()
    before = None
    for row, own in zip(rows, axes, strict=False):
        mappable = _draw_panel(row, panel, style, own)
        own.set_title(row.short, fontsize="medium", color=INK, parse_math=False)
        if mappable is not None:
            _colour_bar(mappable, [own], "standard deviation" if panel == "uncertainty" else row.label, SCALE_BAR)
        if row.scene is not before:
            row.scene.draw_scale_bar(own)
        before = row.scene
    _explain(rows, [panel], style, axes, is_own=ax is None)
    _write_title(axes, title)
    return axes[: len(rows)]


def _draw_panel(row: Row, name: str, style: Style, ax):
    """One panel; returns what a colour bar is made of, if anything."""
    if name == "H&E":
        row.scene.draw_image(ax)
        return None
    row.scene.draw_backdrop(ax)
    return _draw_uncertainty(row, style, ax) if name == "uncertainty" else _draw_values(row, name, style, ax)


def _draw_values(row: Row, name: str, style: Style, ax):
    values, scene = row.maps[name], row.scene
    is_missing = row.is_spot & np.isnan(values)
    if is_missing.any() and not scene.is_large:
        scene.draw_spots(ax, is_missing, HOLLOW * style.size, facecolor="none", edgecolor=PALE, linewidth=0.5)
    is_layer = name == "imputed"
    opacity = _opacity(row.sd) if is_layer and style.sd == "alpha" else None
    mappable = _draw(scene, ax, values, style, row.limits, style.cmap, opacity)
    if is_layer and style.sd == "hatch" and row.sd is not None:
        _hatch(scene, ax, row.sd >= np.quantile(row.sd[row.sd > 0], HATCHED), style.size)
    if is_layer and row.is_observed.any() and not scene.is_large:
        size = _spot_size(scene, np.isfinite(values), style)
        scene.draw_spots(ax, row.is_observed, DOT * size, facecolor="white", edgecolor="black", linewidth=0.5)
    return mappable


def _draw_uncertainty(row: Row, style: Style, ax):
    if row.sd is None:
        ax.set_axis_off()
        return None
    is_observed, sd = row.is_observed, np.where(row.is_observed, np.nan, row.sd)
    if is_observed.any() and not row.scene.is_large:
        row.scene.draw_spots(ax, is_observed, DOT * style.size, facecolor="black", linewidth=0)
    return _draw(row.scene, ax, sd, style, limits_of(sd), unsure_colours())


def _draw(scene: Scene, ax, values, style: Style, limits, colours, opacity: np.ndarray | None = None):
    """Values per spot, as discs or as one picture."""
    known = np.isfinite(values)
    if scene.is_large:
        return scene.draw_picture(ax, values, opacity, cmap=colours, clim=limits)
    options = {} if opacity is None else {"alpha": opacity[known]}
    size = _spot_size(scene, known, style)
    return scene.draw_spots(ax, known, size, array=values[known], cmap=colours, clim=limits, linewidth=0, **options)


def _spot_size(scene: Scene, known: np.ndarray, style: Style) -> float:
    """Diameter in pitches: less, where the spots that are drawn lie closer than the pitch."""
    from snrmix.data.lattice import nearest_distance

    if known.sum() < 2:
        return style.size
    return style.size * min(1.0, nearest_distance(scene.spots[known]) / scene.pitch)


def _opacity(sd: np.ndarray | None) -> np.ndarray | None:
    """From opaque where the value is known best to faint where it is least."""
    if sd is None:
        return None
    low, high = limits_of(np.where(sd == 0, np.nan, sd))
    return 1 - (1 - FAINTEST) * np.clip((sd - low) / (high - low), 0, 1)


def _hatch(scene: Scene, ax, chosen: np.ndarray, size: float) -> None:
    if not scene.is_large:
        scene.draw_spots(ax, chosen, size, facecolor="none", edgecolor="white", hatch="/////", linewidth=0)
        return
    inside = np.where(scene.nearest < 0, 0.0, chosen[scene.nearest])
    y = np.linspace(scene.bounds[3], scene.bounds[2], inside.shape[0])
    x = np.linspace(scene.bounds[0], scene.bounds[1], inside.shape[1])
    ax.contourf(x, y, inside, levels=[0.5, 1.5], hatches=["////"], colors="none")


def unsure_colours():
    """Colours of the uncertainty."""
    import matplotlib
    from matplotlib.colors import LinearSegmentedColormap

    name, low, high = SURE_TO_UNSURE
    return LinearSegmentedColormap.from_list("sure to unsure", matplotlib.colormaps[name](np.linspace(low, high, 64)))


def limits_of(values: np.ndarray, vmin=None, vmax=None) -> tuple[float, float]:
    """Range of the colours: all but the outermost hundredth on either side, unless numbers or quantiles (``"p5"``) are given.

    Raises
    ------
    ValueError
        For a limit that is neither.
    """
    values = values[np.isfinite(values)]
    low, high = (_limit(values, *one) for one in (("vmin", vmin, 1), ("vmax", vmax, 99)))
    return (low, high) if high > low else (low, low + 1)


def _limit(values: np.ndarray, name: str, given, percent: float) -> float:
    if isinstance(given, str):
        try:
            percent = float(given.removeprefix("p"))
        except ValueError:
            percent = np.nan
        if not (given.startswith("p") and 0 <= percent <= 100):
            raise ValueError(f"{name}={given!r} must be a number, or a percentile such as 'p5'.")
    elif given is not None:
        return float(given)
    return float(np.percentile(values, percent)) if values.size else percent / 99


def _colour_bar(mappable, axes: list, label: str, pad: float) -> None:
    """A bar below the axes with few ticks, and points where values are cut off."""
    from matplotlib.ticker import MaxNLocator

    low, high = mappable.get_clim()
    values = np.ma.compressed(mappable.get_array())
    ends = (values.min(initial=low) < low, values.max(initial=high) > high)
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get(ends, "neither")
    bar = axes[0].figure.colorbar(
        mappable, ax=axes, location="bottom", extend=extend, extendfrac=0.02 if len(axes) > 1 else 0.04,
        fraction=0.05, pad=pad, aspect=26 * len(axes), shrink=0.9, panchor=(0.5, 1.0),
    )  # fmt: skip
    bar.outline.set_visible(False)
    bar.locator = MaxNLocator(4, steps=[1, 2, 5, 10])
    bar.solids.set(alpha=1, rasterized=True)
    bar.update_ticks()
    bar.ax.tick_params(labelsize="small", length=2, color=GREY)
    bar.set_label(label, fontsize="small", color=INK)


def _write_heading(ax, heading: str, width: float) -> None:
    """Lines above a row of panels of a width in inches, which the panels make room for."""
    lines = textwrap.wrap(heading, max(20, int(8.5 * width)))
    place = {"xy": (0, 1), "xycoords": "axes fraction", "xytext": (0, 22), "textcoords": "offset points"}
    ax.annotate("\n".join(" " for _ in lines), fontsize="large", **place)  # not as wide: it would widen the column
    text = ax.annotate("\n".join(lines), fontsize="large", color=INK, parse_math=False, annotation_clip=False, **place)
    text.set_in_layout(False)


def _write_title(axes: np.ndarray, title: str | None) -> None:
    if title is not None:
        np.ravel(axes)[0].figure.suptitle(title, fontsize="x-large", color=INK, x=0.01, ha="left", parse_math=False)


def _explain(rows: list[Row], panels: list[str], style: Style, axes: np.ndarray, is_own: bool) -> None:
    """A legend of the marks that were used, below all panels, or below the first one in a figure of the user's."""
    marks = _marks(rows, panels, style)
    if not marks:
        return
    options = {
        "handles": list(marks.values()),
        "labels": list(marks),
        "frameon": False,
        "fontsize": "small",
        "handletextpad": 0.3,
        "labelcolor": INK,
    }
    if is_own:
        figure = axes.flat[0].figure
        figure.legend(loc="outside lower left", ncols=len(marks), columnspacing=1.4, **options)
    else:
        axes.flat[0].legend(loc="upper left", bbox_to_anchor=(-0.03, -0.07), borderaxespad=0, **options)


def _marks(rows: list[Row], panels: list[str], style: Style) -> dict[str, object]:
    """What is drawn for each mark that occurs, by what it means."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    def dot(**look):
        return Line2D([], [], linestyle="", marker="o", **{"markersize": 7, "markeredgewidth": 0, "color": SOME} | look)

    small = [row for row in rows if not row.scene.is_large]
    found = {}
    if any(row.is_observed.any() for row in small):
        if "imputed" in panels:
            found |= {
                "observed value": (
                    dot(),
                    dot(markersize=2.2, color="white", markeredgecolor="black", markeredgewidth=0.5),
                )
            }
            found["imputed value"] = dot()
        elif "uncertainty" in panels:
            found["observed value"] = dot(markersize=2, color="black")
    if any((row.is_spot & np.isnan(row.maps[name])).any() for row in small for name in panels if name in row.maps):
        found["not measured"] = dot(markerfacecolor="none", markersize=5, color=PALE, markeredgewidth=0.8)
    if "imputed" in panels and style.sd == "hatch":
        found["least certain quarter"] = Patch(facecolor=SOME, edgecolor="white", hatch="/////", linewidth=0)
    if "imputed" in panels and style.sd == "alpha":
        found["less certain"] = dot(alpha=0.35)
    return found
