from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral

import numpy as np

from snrmix._names import closest, listing
from snrmix.data.scales import check_scales, choose_scales
from snrmix.data.sites import Sites, patch_sides, read_sites
from snrmix.images.crops import read_crops
from snrmix.images.source import Level, SectionImage, patch_pixels
from snrmix.pl._figure import GREY, INK, drawing, finish, open_panels
from snrmix.pl._scene import Scene, choose_library, scene_on_image

CROP_INCHES = 1.35
SECTION_INCHES = (3.5, 6.5)  # its least and its greatest width
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#000000")  # told apart by all (Okabe and Ito 2008)


@drawing
def crops(
    data,
    *,
    sites=None,
    n: int = 6,
    scales="auto",
    size: int = 128,
    image=None,
    image_key: str | None = None,
    um_per_px: float | Mapping[str, float] | None = None,
    library: str | None = None,
    table_key: str | None = None,
    library_key: str | None = None,
    ax=None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
    save=None,
    dpi: float | None = None,
):
    """Draw what the encoder sees: crops around some sites at every scale, and where they lie on the section.

    Above each column stand the side of its crops and how many pixels of the image they have along it, before they are
    resized.

    Look at them before imputing: if the crops show no tissue, or too few pixels, image and coordinates do not fit. What
    `snrmix.tl.impute` would refuse for that is drawn here, and a warning says why. Off the image its border is repeated.

    Parameters
    ----------
    data
        AnnData or SpatialData. Its expression is not read.
    sites
        Names of observations, one row of crops each; ``None`` for ``n`` that are spread over the section.
    n
        How many sites to show where ``sites`` is ``None``.
    scales
        Sides of the crops in lattice pitches, one column each; ``"auto"``: those that `snrmix.tl.impute` chooses.
    size
        Side in pixels that crops are resized to; 128 is what the default encoder takes.
    image, image_key, um_per_px, table_key, library_key
        As in `snrmix.tl.impute`.
    library
        The library to draw; needed when there are several.
    {figure}

    Raises
    ------
    KeyError, ValueError, TypeError
        When image or coordinates are missing, the library is not clear, a site is not in it, or ``n``, ``scales`` or
        ``size`` is not positive.

    Examples
    --------
    >>> axes = snrmix.pl.crops(adata, n=4)
    """
    scales = check_scales(scales)
    if not isinstance(size, Integral) or size < 1:
        raise ValueError(f"size={size!r} must be a positive number of pixels.")
    found = read_sites(
        data, table_key=table_key, library_key=library_key, image=image, image_key=image_key, um_per_px=um_per_px,
        refuse=False,
    )  # fmt: skip
    code = choose_library(found, library)
    section = _read_section(found, code, choose_scales(scales, found), size)
    chosen = section.spread(n) if sites is None else section.find(sites)
    return finish(_draw(section, chosen, size, ax, figsize), show, save, dpi, ax)


@dataclass(frozen=True)
class _Section:
    """One library: its sites, image and crops.

    Parameters
    ----------
    names
        Shape (n,), of its sites.
    positions
        Shape (n, 2), in units of the frame.
    pitch
        In units of the frame.
    um_per_px
        Micrometres per unit of the frame, or NaN.
    sides
        Shape (scales,), of the crops in units of the frame.
    pixels
        Shape (scales,), of the image along the side of a crop.
    """

    library: str
    names: np.ndarray
    positions: np.ndarray
    pitch: float
    um_per_px: float
    sides: np.ndarray
    pixels: np.ndarray
    image: SectionImage

    def find(self, sites) -> np.ndarray:
        """Which sites have these names, in their order."""
        wanted = [sites] if isinstance(sites, str) else [str(name) for name in sites]
        place = {name: i for i, name in enumerate(self.names.tolist())}
        missing = [name for name in wanted if name not in place]
        if missing:
            hint = closest(missing[0], place) or f" It has {listing(place, 5)}."
            raise KeyError(f"site {missing[0]!r} is not in library {self.library!r}.{hint}")
        if not wanted:
            raise ValueError("sites is empty; pass the name of at least one observation.")
        return np.array([place[name] for name in wanted])

    def spread(self, n: int) -> np.ndarray:
        """The sites nearest to the centres of ``n`` clusters of all positions, from top to bottom."""
        from sklearn.cluster import KMeans

        if not isinstance(n, Integral) or n < 1:
            raise ValueError(f"n={n!r} must be a positive number of sites.")
        some = self.positions[:: -(-len(self.positions) // 5000)]
        centres = KMeans(min(n, len(some)), n_init=1, random_state=0).fit(some).cluster_centers_
        distance = np.linalg.norm(self.positions[:, None] - centres, axis=2)
        chosen = np.unique(distance.argmin(0))
        return chosen[np.argsort(self.image.levels[0].locate(self.positions[chosen])[:, 1])]

    def read(self, chosen: np.ndarray, size: int) -> np.ndarray:
        """uint8, shape (chosen, scales, size, size, 3)."""
        crops = np.empty((len(chosen), len(self.sides), size, size, 3), np.uint8)
        for scale, side in enumerate(self.sides):
            level = self.image.level_for(side, size)
            for which, pixels in read_crops(level, _brought_near(self.positions[chosen], level, side), side, size):
                crops[which, scale] = pixels
        return crops

    def scene(self) -> Scene:
        return scene_on_image(
            self.image, self.library, np.arange(len(self.names)), self.positions, self.pitch, self.um_per_px
        )

    def titles(self) -> list[str]:
        """How large the crops are, by scale."""
        if np.isnan(self.um_per_px):
            sides = [f"{side / self.pitch:.3g} pitches" for side in self.sides]
        else:
            sides = [f"{side * self.um_per_px:.0f} µm" for side in self.sides]
        return [f"{side}\n{pixels:.0f} px" for side, pixels in zip(sides, self.pixels, strict=True)]


def _read_section(sites: Sites, code: int, scales: np.ndarray, size: int) -> _Section:
    chosen, image, sides = sites.library == code, sites.images[code], patch_sides(sites, scales)[code]
    return _Section(
        sites.libraries[code],
        sites.names[chosen],
        sites.positions[chosen],
        float(sites.pitch[code]),
        float(sites.um_per_px[code]),
        sides,
        patch_pixels(image, sides, size),
        image,
    )


def _brought_near(positions: np.ndarray, level: Level, side: float) -> np.ndarray:
    """Positions far off the image moved beside it: a crop there is the same, without the padding up to it."""
    pixels, reach = level.locate(positions), side * level.scale
    shift = np.clip(pixels, -reach, level.pixels.shape[1::-1] + reach) - pixels
    return np.where(shift.any(1, keepdims=True), positions + shift @ np.linalg.inv(level.affine[:, :2]).T, positions)


def _draw(section: _Section, chosen: np.ndarray, size: int, ax, figsize) -> np.ndarray:
    """The axes: that of the section, then those of the crops, site by site."""
    pixels = section.read(chosen, size)
    rows, columns = pixels.shape[:2]
    scene = section.scene()
    if ax is None:
        of_section, axes = _own_panels(scene, rows, columns, figsize)
    else:
        of_section, *axes = open_panels(ax, None, 1, 1 + rows * columns).ravel()
        axes = np.array(axes).reshape(rows, columns)
    _draw_section(of_section, scene, section, chosen)
    for row, colour in enumerate(_colours(rows)):
        for column, one in enumerate(axes[row]):
            one.imshow(pixels[row, column], interpolation="antialiased")
            one.set(xticks=[], yticks=[])
            one.spines[:].set(color=colour, linewidth=2)
        axes[row, 0].set_ylabel(row + 1, rotation=0, labelpad=9, va="center", color=INK, fontsize="medium")
    for one, title in zip(axes[0], section.titles(), strict=True):
        one.set_title(title, fontsize="medium", color=INK)
    return np.array([of_section, *axes.ravel()])


def _own_panels(scene: Scene, rows: int, columns: int, figsize):
    """Axes of a new figure: the section at the left, and a grid of crops at its right."""
    import matplotlib.pyplot as plt

    width, height = CROP_INCHES * columns + 0.4, CROP_INCHES * (rows + 0.4)
    section_width = np.clip(height / scene.height_to_width, *SECTION_INCHES)
    height = max(height, 0.5 + section_width * scene.height_to_width)
    figure = plt.figure(figsize=figsize or (section_width + width, height), layout="constrained")
    ratios = [section_width, *[width / columns] * columns]
    grid = figure.add_gridspec(rows, columns + 1, width_ratios=ratios)
    axes = [[figure.add_subplot(grid[row, column + 1]) for column in range(columns)] for row in range(rows)]
    return figure.add_subplot(grid[:, 0]), np.array(axes)


def _draw_section(ax, scene: Scene, section: _Section, chosen: np.ndarray) -> None:
    """The section, every site as a dot, and the crops as squares with the number of their row."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    scene.draw_image(ax)
    scene.draw_spots(ax, np.ones(len(scene.spots), bool), 0.12, facecolor=GREY, linewidth=0)
    reach = section.sides / section.pitch * scene.pitch / 2
    for number, (site, colour) in enumerate(zip(chosen, _colours(len(chosen)), strict=True), start=1):
        x, y = scene.spots[site]
        for half in reach:
            frame = Rectangle((x - half, y - half), 2 * half, 2 * half, fill=False, color=colour, linewidth=1.5)
            frame.set_path_effects([withStroke(linewidth=2.7, foreground="white")])  # seen on a dark image as well
            ax.add_patch(frame)
        is_at_top = y - reach.max() < scene.bounds[3] + 0.5 * scene.pitch  # no room above
        ax.text(
            x, y + reach.max() * (1 if is_at_top else -1), number, ha="center", va="center", color="white",
            fontsize="small", fontweight="bold", bbox={"boxstyle": "round,pad=0.2", "facecolor": colour, "linewidth": 0},
        )  # fmt: skip
    scene.draw_scale_bar(ax)
    ax.set_title(section.library, loc="left", fontsize="medium", color=INK, parse_math=False)


def _colours(n: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(n)]
