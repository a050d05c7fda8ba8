"""The tissue of one library, ready to draw spots on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from snrmix._log import logger
from snrmix._names import closest, listing
from snrmix.data.lattice import nearest_distance
from snrmix.data.sites import Sites, read_sites
from snrmix.images.arrays import is_image
from snrmix.images.source import SectionImage
from snrmix.pl._figure import INK

BACKDROP_PX = 1200  # the image is drawn with about this many pixels along the tissue
MARGIN = 1.5  # around the spots, in pitches
MANY_SPOTS = 10_000  # from here on spots are drawn as one picture: the outline of each could not be seen
PICTURE_PX = 1400
PALENESS = 0.72  # of the image under a map: grey and light, so that colours are those of the map


@dataclass(frozen=True)
class Scene:
    """Spots and image in one frame.

    Parameters
    ----------
    library
        Its name.
    rows
        Shape (n,), the table's rows in the library.
    spots
        Shape (n, 2), x and y; y points down.
    pitch
        Distance between neighbouring spots of the array.
    um
        Micrometres per unit of the frame; NaN where unknown.
    bounds
        Left, right, bottom, top: the spots and a margin.
    backdrop
        uint8, shape (h, w, 3), which fills ``backdrop_bounds``; ``None`` without an image.
    """

    library: str
    rows: np.ndarray
    spots: np.ndarray
    pitch: float
    um: float
    bounds: tuple[float, float, float, float]
    backdrop: np.ndarray | None = None
    backdrop_bounds: tuple[float, float, float, float] | None = None

    @property
    def height_to_width(self) -> float:
        """Shape of the bounds."""
        left, right, bottom, top = self.bounds
        return (bottom - top) / (right - left)

    @property
    def is_large(self) -> bool:
        """Whether its spots are drawn as one picture."""
        return len(self.rows) >= MANY_SPOTS

    @cached_property
    def spacing(self) -> float:
        """Distance between neighbouring spots that are drawn, at most the pitch: sites of `snrmix.pp.fill_grid` are closer."""
        return min(self.pitch, nearest_distance(self.spots)) if len(self.spots) > 1 else self.pitch

    @cached_property
    def nearest(self) -> np.ndarray:
        """The spot that each pixel of a picture of the bounds belongs to, -1 where none is near, shape (h, w)."""
        from scipy.spatial import cKDTree

        left, right, bottom, top = self.bounds
        step = max(right - left, bottom - top) / PICTURE_PX
        x, y = np.arange(left + step / 2, right, step), np.arange(top + step / 2, bottom, step)
        pixels = np.stack(np.meshgrid(x, y), axis=-1)
        _, found = cKDTree(self.spots).query(pixels, distance_upper_bound=0.75 * self.spacing)
        return np.where(found == len(self.spots), -1, found)

    def draw_image(self, ax) -> None:
        """Draw the image, set the limits of the axes and take its ticks away."""
        if self.backdrop is not None:
            ax.imshow(self.backdrop, extent=self.backdrop_bounds, interpolation="antialiased")
        self._frame(ax)

    def draw_backdrop(self, ax) -> None:
        """The same for an image under a map: in light grey."""
        if self.backdrop is not None:
            grey = self.backdrop.astype(np.float32).mean(-1)
            pale = (255 - (1 - PALENESS) * (255 - grey)).astype(np.uint8)
            style = {"cmap": "gray", "vmin": 0, "vmax": 255, "interpolation": "antialiased"}
            ax.imshow(pale, extent=self.backdrop_bounds, **style)
        self._frame(ax)

    def _frame(self, ax) -> None:
        ax.set(xlim=self.bounds[:2], ylim=self.bounds[2:], aspect="equal", anchor="N", xticks=[], yticks=[])
        ax.spines[:].set_visible(False)

    def draw_spots(self, ax, chosen: np.ndarray, size: float, **style):
        """Draw the chosen spots as discs of ``size`` pitches, in data coordinates."""
        from matplotlib.collections import EllipseCollection

        spots, diameter = self.spots[chosen], np.full(np.count_nonzero(chosen), size * self.pitch)
        discs = EllipseCollection(
            diameter, diameter, np.zeros_like(diameter), units="xy", offsets=spots, offset_transform=ax.transData,
            rasterized=True, **style,
        )  # fmt: skip
        return ax.add_collection(discs, autolim=False)

    def draw_picture(self, ax, values: np.ndarray, opacity: np.ndarray | None = None, **style):
        """Draw a value per spot, NaN for none, as one picture; ``opacity`` is that of each spot, 0 to 1."""
        at = self.nearest
        shown = np.ma.masked_invalid(np.where(at < 0, np.nan, values[at]))
        alpha = None if opacity is None else np.where(at < 0, 0, opacity[at])
        return ax.imshow(shown, extent=self.bounds, interpolation="nearest", alpha=alpha, **style)

    def draw_scale_bar(self, ax) -> None:
        """A bar of a round length below the lower left corner, in micrometres, or in spots where these are unknown."""
        from matplotlib.transforms import blended_transform_factory

        left, right, *_ = self.bounds
        unit, names = (self.um, ("µm", "mm")) if np.isfinite(self.um) else (1 / self.pitch, ("spots", "thousand spots"))
        length = _round_length((right - left) * unit / 3.5)
        text = f"{length:g} {names[0]}" if length < 1000 else f"{length / 1000:g} {names[1]}"
        place = blended_transform_factory(ax.transData, ax.transAxes)
        style = {"transform": place, "color": INK, "clip_on": False}
        ax.plot([left, left + length / unit], [-0.035] * 2, linewidth=2.5, solid_capstyle="butt", **style)
        ax.annotate(
            text, (left + length / unit, -0.035), (4, 0), xycoords=place, textcoords="offset points", va="center",
            fontsize="small", color=INK, annotation_clip=False,
        )  # fmt: skip


def _round_length(most: float) -> float:
    """The largest 1, 2 or 5 times a power of ten up to ``most``."""
    power = 10.0 ** np.floor(np.log10(most))
    return power * max(digit for digit in (1, 2, 5) if digit * power <= most * (1 + 1e-9))


def read_scenes(data, *, library: str | Sequence[str] | None, image, **where) -> list[Scene]:
    """Read the spots of libraries and, where there are such and they are wanted, their images.

    Parameters
    ----------
    library
        Name, names, or ``None`` for all.
    image
        ``True`` for the image of the object, ``False`` for none, or one as in `snrmix.tl.impute`.
    where
        ``table_key``, ``library_key``, ``image_key`` and ``um_per_px`` as in `snrmix.tl.impute`.

    Raises
    ------
    KeyError, ValueError, TypeError
        When coordinates are missing, there is no such library, or an image that was given is none, or does not fit.
    """
    sites = _read_sites(data, image, where)
    names = sites.libraries if library is None else [library] if isinstance(library, str) else list(library)
    if not len(names):
        raise ValueError("library is empty; pass the name of at least one library.")
    return [scene_of(sites, choose_library(sites, name)) for name in names]


def read_scene(data, *, library: str | None, image, **where) -> Scene:
    """The scene of one library, which must be named where there are several; see `read_scenes`."""
    sites = _read_sites(data, image, where)
    return scene_of(sites, choose_library(sites, library))


def scene_of(sites: Sites, code: int) -> Scene:
    """The scene of one library."""
    chosen = sites.library == code
    rows, positions = sites.order[chosen], sites.positions[chosen]
    pitch, um, name = sites.pitch[code], sites.um_per_px[code], sites.libraries[code]
    if not sites.images:
        return Scene(name, rows, positions, pitch, um, _bounds(positions, pitch))
    return scene_on_image(sites.images[code], name, rows, positions, pitch, um)


def _read_sites(data, image, where: dict) -> Sites:
    if not isinstance(image, bool | np.bool_):
        if not (isinstance(image, Mapping) or is_image(image)):
            raise TypeError(
                f"image={image!r} must be True, False, a path, an array (y, x, channels), or a dict of these by library."
            )
        return read_sites(data, image=image, **where)
    if not image:
        return read_sites(data, with_images=False, **where)
    try:
        return read_sites(data, **where)
    except (KeyError, ValueError) as error:
        problem = error.args[0]
    sites = read_sites(data, with_images=False, **where)  # raises again where it is not the image that is missing
    logger.warning(
        "drawn without the image: %s Here, pass image= (a path, an array, or a dict of them by library), or image=False to "
        "draw the spots alone.", problem,
    )  # fmt: skip
    return sites


def choose_library(sites: Sites, library: str | None) -> int:
    if library is None:
        if len(sites.libraries) > 1:
            raise ValueError(
                f"there are {len(sites.libraries)} libraries; choose one with library=: {listing(sites.libraries)}."
            )
        return 0
    if library not in sites.libraries:
        hint = closest(library, sites.libraries)
        raise KeyError(f"library={library!r} is not there; available: {listing(sites.libraries)}.{hint}")
    return sites.libraries.index(library)


def scene_on_image(
    image: SectionImage, library: str, rows: np.ndarray, positions: np.ndarray, pitch: float, um: float
) -> Scene:
    """The scene in pixels of the level that is drawn, so that a rotated or flipped image stays as it is."""
    level = image.level_for(np.ptp(positions, axis=0).max(), BACKDROP_PX)
    scale = level.scale.mean()
    spots, pitch, um = level.locate(positions), pitch * scale, um / scale
    bounds = _bounds(spots, pitch)
    height, width = level.pixels.shape[:2]
    left, right = np.clip([np.floor(bounds[0]), np.ceil(bounds[1])], 0, width).astype(int)
    top, bottom = np.clip([np.floor(bounds[3]), np.ceil(bounds[2])], 0, height).astype(int)
    if left == right or top == bottom:  # all spots are off the image
        return Scene(library, rows, spots, pitch, um, bounds)
    step = max(1, max(right - left, bottom - top) // BACKDROP_PX)
    pixels = np.asarray(level.pixels[top:bottom:step, left:right:step])
    reach = (left, left + pixels.shape[1] * step, top + pixels.shape[0] * step, top)
    return Scene(library, rows, spots, pitch, um, bounds, pixels, reach)


def _bounds(spots: np.ndarray, pitch: float) -> tuple[float, float, float, float]:
    (left, top), (right, bottom) = spots.min(0) - MARGIN * pitch, spots.max(0) + MARGIN * pitch
    return left, right, bottom, top
