"""The tissue of one library, ready to draw spots on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from snrmix._log import logger
from snrmix._names import closest, listing
from snrmix.data.sites import Sites, read_sites
from snrmix.images.arrays import is_image
from snrmix.images.source import SectionImage

BACKDROP_PX = 1200  # the image is drawn with about this many pixels along the tissue
MARGIN = 1.5  # around the spots, in pitches


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
        Distance between neighbouring spots.
    bounds
        Left, right, bottom, top: the spots and a margin.
    backdrop
        uint8, shape (h, w, 3), which fills ``backdrop_bounds``; ``None`` without an image.
    """

    library: str
    rows: np.ndarray
    spots: np.ndarray
    pitch: float
    bounds: tuple[float, float, float, float]
    backdrop: np.ndarray | None = None
    backdrop_bounds: tuple[float, float, float, float] | None = None

    @property
    def height_to_width(self) -> float:
        """Shape of the bounds."""
        left, right, bottom, top = self.bounds
        return (bottom - top) / (right - left)

    def draw_backdrop(self, ax, opacity: float = 1.0) -> None:
        """Draw the image, set the limits of the axes and take its ticks away."""
        if self.backdrop is not None:
            ax.imshow(self.backdrop, extent=self.backdrop_bounds, alpha=opacity, interpolation="antialiased")
        ax.set(xlim=self.bounds[:2], ylim=self.bounds[2:], aspect="equal", xticks=[], yticks=[])
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


def read_scene(data, *, library: str | None, image, **where) -> Scene:
    """Read the spots of a library and, where there is one and it is wanted, its image.

    Parameters
    ----------
    library
        Name; may be ``None`` when there is only one.
    image
        ``True`` for the image of the object, ``False`` for none, or one as in `snrmix.tl.impute`.
    where
        ``table_key``, ``library_key`` and ``image_key`` as in `snrmix.tl.impute`.

    Raises
    ------
    KeyError, ValueError, TypeError
        When coordinates are missing, it is not clear which library is meant, or an image that was given is none, or
        does not fit.
    """
    sites = _read_sites(data, image, where)
    code = choose_library(sites, library)
    chosen = sites.library == code
    rows, positions, pitch = sites.order[chosen], sites.positions[chosen], sites.pitch[code]
    if not sites.images:
        return Scene(sites.libraries[code], rows, positions, pitch, _bounds(positions, pitch))
    return scene_on_image(sites.images[code], sites.libraries[code], rows, positions, pitch)


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


def scene_on_image(image: SectionImage, library: str, rows: np.ndarray, positions: np.ndarray, pitch: float) -> Scene:
    """The scene in pixels of the level that is drawn, so that a rotated or flipped image stays as it is."""
    level = image.level_for(np.ptp(positions, axis=0).max(), BACKDROP_PX)
    spots, pitch = level.locate(positions), pitch * level.scale.mean()
    bounds = _bounds(spots, pitch)
    height, width = level.pixels.shape[:2]
    left, right = np.clip([np.floor(bounds[0]), np.ceil(bounds[1])], 0, width).astype(int)
    top, bottom = np.clip([np.floor(bounds[3]), np.ceil(bounds[2])], 0, height).astype(int)
    if left == right or top == bottom:  # all spots are off the image
        return Scene(library, rows, spots, pitch, bounds)
    step = max(1, max(right - left, bottom - top) // BACKDROP_PX)
    pixels = np.asarray(level.pixels[top:bottom:step, left:right:step])
    reach = (left, left + pixels.shape[1] * step, top + pixels.shape[0] * step, top)
    return Scene(library, rows, spots, pitch, bounds, pixels, reach)


def _bounds(spots: np.ndarray, pitch: float) -> tuple[float, float, float, float]:
    (left, top), (right, bottom) = spots.min(0) - MARGIN * pitch, spots.max(0) + MARGIN * pitch
    return left, right, bottom, top
