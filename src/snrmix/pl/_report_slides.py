"""The slides of a report: spots in pixels of a small image, what each spot is, and the patches around some of them."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np

from snrmix.data.flags import read_added
from snrmix.data.results import Result
from snrmix.data.sites import Sites, read_sites
from snrmix.data.table import has_image
from snrmix.pl._scene import Scene, read_scene

MOST_SPOTS = 12_000  # that are drawn each; of more, squares of several are
WIDTH_PX = 1000  # of the frame that spots are placed in
IMAGE_PX, IMAGE_QUALITY = 1500, 78  # the longer side of the image, and of its JPEG
PATCHES = 5  # places at which the patches are drawn
UNMEASURED, MEASURED, ADDED, HIDDEN = 0, 1, 2, 3  # what a spot is


@dataclass(frozen=True)
class Slide:
    """One library as a report draws it.

    Parameters
    ----------
    rows
        Shape (n,), of the table.
    member
        Shape (n,): which drawn place a row belongs to.
    places
        Shape (places, 2), x and y in pixels of the frame, which is ``width`` by ``height``.
    kinds
        Shape (places,): ``UNMEASURED``, ``MEASURED``, ``ADDED`` or ``HIDDEN``.
    pitch
        Between neighbouring places, in pixels of the frame.
    um_per_px
        Micrometres per pixel of the frame; NaN where unknown.
    patch_sides
        In pixels of the frame.
    image
        JPEG of the frame as data for ``src``; empty without an image.
    """

    name: str
    rows: np.ndarray
    member: np.ndarray
    places: np.ndarray
    kinds: np.ndarray
    pitch: float
    um_per_px: float
    width: float
    height: float
    patch_sides: tuple[float, ...]
    image: str = ""

    @property
    def is_binned(self) -> bool:
        """Whether a place stands for several spots."""
        return len(self.places) < len(self.rows)

    def rows_of(self, kind: int) -> np.ndarray:
        """Rows at the places of a kind."""
        return self.rows[self.kinds[self.member] == kind]

    def dots(self, kinds: tuple[int, ...]) -> str:
        """Places of some kinds as an SVG path of points."""
        return "".join(f"M{x:.0f} {y:.0f}h0" for x, y in self.places[np.isin(self.kinds, kinds)])

    def patches(self) -> list[tuple[float, float, float]]:
        """Left, top and side of the patches at some places, spread over the slide."""
        found = []
        for x, y in self.places[_spread(self.places)]:
            found += [(x - side / 2, y - side / 2, side) for side in self.patch_sides]
        return [tuple(round(float(value), 1) for value in patch) for patch in found]


def read_slides(data, result: Result, hidden: np.ndarray, image, where: dict) -> list[Slide]:
    """All libraries of the object.

    Parameters
    ----------
    hidden
        Shape (n_obs,): spots whose observed value the imputation has not seen.
    image, where
        As in `snrmix.pl._scene.read_scene`.
    """
    sites = read_sites(data, with_images=False, table_key=where["table_key"], library_key=where["library_key"])
    if image is True and not has_image(data, result.table):
        image = False
    px = int(IMAGE_PX / max(1, np.sqrt(len(sites.libraries) / 4)))
    slides = []
    for code, library in enumerate(sites.libraries):
        scene = read_scene(data, library=library, image=image, **where)
        slides.append(_slide(scene, result, hidden, _scale(result, sites, code), px))
    return slides


def _scale(result: Result, sites: Sites, code: int) -> tuple[float, np.ndarray]:
    """Micrometres per pitch of a library, NaN where unknown, and sides of its patches in pitches."""
    record, pitch, um = result.record["image"], float(sites.pitch[code]), float(sites.um_per_px[code])
    known = [str(name) for name in np.atleast_1d(record["libraries"])]
    sides = np.zeros(0)
    if sites.libraries[code] in known:
        at = known.index(sites.libraries[code])
        own = float(np.atleast_1d(record["um_per_px"])[at])  # may have been given, and be known there alone
        um = own if np.isfinite(own) else um
        if "patch_side" in record:
            sides = np.atleast_2d(np.asarray(record["patch_side"], float))[at] / pitch
    return um * pitch, sides


def _slide(scene: Scene, result: Result, hidden: np.ndarray, scale: tuple[float, np.ndarray], px: int) -> Slide:
    left, right, bottom, top = scene.bounds
    zoom = WIDTH_PX / (right - left)
    spots, pitch = (scene.spots - [left, top]) * zoom, scene.pitch * zoom
    um_per_pitch, sides = scale
    kinds = np.full(len(scene.rows), UNMEASURED)
    kinds[read_added(result.table.obs)[scene.rows]] = ADDED
    kinds[hidden[scene.rows]] = HIDDEN
    kinds[result.is_measured[scene.rows]] = MEASURED
    member, places, kinds, spacing = _binned(spots, kinds, pitch)
    return Slide(
        scene.library, scene.rows, member, places, kinds, spacing, um_per_pitch / pitch, float(WIDTH_PX),
        (bottom - top) * zoom, tuple(sides * pitch), _jpeg(scene, px),
    )  # fmt: skip


def _binned(spots: np.ndarray, kinds: np.ndarray, pitch: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Squares of several spots where there are very many: member of each, places, kinds (of most), and spacing."""
    spacing = _spacing(spots, kinds, pitch)
    if len(spots) <= MOST_SPOTS:
        return np.arange(len(spots)), spots, kinds, spacing
    side = spacing * np.ceil(np.sqrt(len(spots) / MOST_SPOTS))
    cells, member = np.unique(np.floor(spots / side).astype(int), axis=0, return_inverse=True)
    votes = np.stack([np.bincount(member[kinds == kind], minlength=len(cells)) for kind in range(HIDDEN + 1)])
    return member, (cells + 0.5) * side, votes.argmax(0), float(side)


def _spacing(spots: np.ndarray, kinds: np.ndarray, pitch: float) -> float:
    """Distance between neighbours: sites of fill_grid lie closer than the pitch."""
    from snrmix.data.lattice import nearest_distance

    some = spots if len(spots) < MOST_SPOTS else spots[: MOST_SPOTS // 2]
    return min(pitch, float(nearest_distance(some))) if (kinds == ADDED).any() and len(spots) > 1 else pitch


def _spread(places: np.ndarray) -> np.ndarray:
    """Places far from each other: each next one is the farthest from those before, away from the rim."""
    centre = places.mean(0)
    inner = np.argsort(np.linalg.norm(places - centre, axis=1))[: max(1, int(0.8 * len(places)))]
    chosen, distance = [inner[0]], np.full(len(inner), np.inf)
    while len(chosen) < min(PATCHES, len(inner)):
        distance = np.minimum(distance, np.linalg.norm(places[inner] - places[chosen[-1]], axis=1))
        chosen.append(inner[distance.argmax()])
    return np.array(chosen)


def _jpeg(scene: Scene, px: int) -> str:
    """The image of the bounds, white beyond its border."""
    if scene.backdrop is None:
        return ""
    from PIL import Image

    (left, right, bottom, top), (from_x, to_x, to_y, from_y) = scene.bounds, scene.backdrop_bounds
    shrink = min(1.0, px / max(right - left, bottom - top))
    image = Image.fromarray(np.ascontiguousarray(scene.backdrop))
    size = max(1, round((to_x - from_x) * shrink)), max(1, round((to_y - from_y) * shrink))
    page = Image.new("RGB", (round((right - left) * shrink), round((bottom - top) * shrink)), "white")
    resized = image.resize(size, Image.Resampling.LANCZOS)
    page.paste(resized, (round((from_x - left) * shrink), round((from_y - top) * shrink)))
    file = io.BytesIO()
    page.save(file, "JPEG", quality=IMAGE_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
