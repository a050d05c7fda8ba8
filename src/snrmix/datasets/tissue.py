from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

PITCH_UM = 100.0
MARGIN_UM = 150.0

# Optical density of one unit of stain in red, green and blue (Beer-Lambert).
HEMATOXYLIN = np.array([0.66, 0.72, 0.30], np.float32)
EOSIN = np.array([0.05, 0.56, 0.24], np.float32)
GLASS = np.array([246, 243, 244], np.float32)


@dataclass(frozen=True)
class Slide:
    """The glass: tissue is grown in um, so that it does not depend on the resolution it is drawn at."""

    width_um: float
    height_um: float
    um_per_px: float

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the image."""
        return round(self.height_um / self.um_per_px), round(self.width_um / self.um_per_px)

    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """Position in um of the pixel columns, shape (1, w), and rows, shape (h, 1)."""
        y, x = ((np.arange(n, dtype=np.float32) + 0.5) * self.um_per_px for n in self.shape)
        return x[None, :], y[:, None]

    def noise(self, rng: np.random.Generator, length_um: float) -> np.ndarray:
        """Smooth random field of about unit variance, shape (h, w): Gaussian bumps on a lattice."""
        bases = []
        for size_um, pixels in ((self.height_um, self.axes()[1]), (self.width_um, self.axes()[0])):
            knots = np.arange(-3, np.ceil(size_um / length_um) + 4, dtype=np.float32) * length_um
            basis = np.exp(-0.5 * ((pixels.reshape(-1, 1) - knots) / length_um) ** 2)
            bases.append(basis / np.linalg.norm(basis, axis=1, keepdims=True))
        weights = rng.standard_normal((bases[0].shape[1], bases[1].shape[1]), np.float32)
        return bases[0] @ weights @ bases[1].T

    def pixel(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of the pixels that hold points (x, y) in um."""
        column, row = np.floor(points / self.um_per_px).astype(int).T
        return np.clip(row, 0, self.shape[0] - 1), np.clip(column, 0, self.shape[1] - 1)

    def around(self, values: np.ndarray, points: np.ndarray, radius_um: float = 40.0) -> np.ndarray:
        """Average of a map, shape (h, w), over a disc around each point: what a spot catches."""
        reach = round(radius_um / self.um_per_px)
        dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        disc = np.column_stack([dx.ravel(), dy.ravel()])[np.hypot(dx, dy).ravel() <= reach] * self.um_per_px
        return np.stack([values[self.pixel(points + offset)] for offset in disc]).mean(0)

    def lattice(self, rng: np.random.Generator, spacing_um: float, jitter: float) -> np.ndarray:
        """Points (x, y) in um all over the slide, about evenly spaced."""
        x, y = np.meshgrid(*(np.arange(0, size, spacing_um) for size in (self.width_um, self.height_um)))
        x[::2] += spacing_um / 2
        return np.column_stack([x.ravel(), y.ravel()]) + spacing_um * jitter * rng.uniform(-1, 1, (x.size, 2))


def grow_tissue(rng: np.random.Generator, slide: Slide) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Grow a section.

    Parameters
    ----------
    rng
        Random numbers. The same tissue grows at every resolution, but for what rounding moves across a border.
    slide
        Where it grows.

    Returns
    -------
    tuple
        The share of each tissue in each pixel, as a dict of arrays of shape (h, w); the nuclei, shape (n, 6), as
        `_nuclei` describes them; and the phase of the stroma's fibres, shape (h, w).
    """
    rng_fields, rng_fat, rng_glands, rng_nuclei = rng.spawn(4)
    tissue = _outline(rng_fields, slide)
    glandular, fatty = slide.noise(rng_fields, 2.1 * PITCH_UM), slide.noise(rng_fields, 1.5 * PITCH_UM)
    fatty += 0.6 * slide.noise(rng_fields, 4 * PITCH_UM) - 0.8 * glandular
    fatty -= np.quantile(fatty[tissue > 0.5], 0.9)
    aggregates = slide.noise(rng_fields, 0.9 * PITCH_UM) + 0.35 * slide.noise(rng_fields, 3 * PITCH_UM)

    fat, membrane = _fat_cells(rng_fat, slide, tissue * _step(fatty / 0.6))
    glands = _scatter_glands(rng_glands, slide, tissue * (1 - fat) * _step(glandular / 0.5))
    epithelium, lumen = _draw_glands(slide, glands)
    fat = fat * tissue * (1 - np.maximum(epithelium, lumen))
    stroma = tissue * (1 - epithelium) * (1 - lumen) * (1 - fat)
    lymphoid = stroma * _step((aggregates - 1.15) / 0.9)
    maps = {"TISSUE": tissue, "GLAND": epithelium * tissue, "LUMEN": lumen, "STROMA": stroma - lymphoid}
    maps |= {"IMMUNE": lymphoid, "FAT": fat, "MEMBRANE": fat * membrane}
    fibres = _fibres(rng_fields, slide, epithelium + lumen)
    return maps, _nuclei(rng_nuclei, slide, maps, glands, fibres), fibres


def _outline(rng: np.random.Generator, slide: Slide) -> np.ndarray:
    x, y = slide.axes()
    half = np.array([slide.width_um, slide.height_um]) / 2
    reach = half - MARGIN_UM * 0.8
    distance = (np.abs((x - half[0]) / reach[0]) ** 2.7 + np.abs((y - half[1]) / reach[1]) ** 2.7) ** (1 / 2.7)
    edge = 0.07 * slide.noise(rng, 4 * PITCH_UM) + 0.018 * slide.noise(rng, 0.8 * PITCH_UM)
    return _step((0.94 - distance + edge) / 0.01)


def _fat_cells(rng: np.random.Generator, slide: Slide, chance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Area of fat and of its membranes, shape (h, w): a membrane is as far from one cell's centre as from the next."""
    cells = slide.lattice(rng, 46, jitter=0.3)
    filled = rng.random(len(cells)) < chance[slide.pixel(cells)]
    row, column = np.nonzero(ndimage.maximum_filter(chance, round(70 / slide.um_per_px)) > 0)
    pixels = (np.column_stack([column, row]) + 0.5) * slide.um_per_px
    distance, nearest = cKDTree(cells).query(pixels, k=3)
    fat, membrane = np.zeros((2, *slide.shape), np.float32)
    fat[row, column] = filled[nearest[:, 0]]
    gap = distance[:, 1:] - distance[:, :1]
    gap = -4 * np.log(np.exp(-gap / 4).sum(1))  # the smooth minimum rounds the corners
    membrane[row, column] = _step((3.5 - gap) / 4)
    return fat, membrane


def _scatter_glands(rng: np.random.Generator, slide: Slide, chance: np.ndarray) -> dict[str, np.ndarray]:
    """Centres and shapes of glands that do not overlap."""
    centre = slide.lattice(rng, 0.55 * PITCH_UM, jitter=0.5)
    n = len(centre)
    glands = {
        "centre": centre,
        "radius": rng.uniform(34, 60, n),
        "lumen": rng.beta(2, 2.5, n) * 0.5 + 0.08,
        "wave": rng.uniform(0.02, 0.11, (n, 2)),
        "phase": rng.uniform(0, 2 * np.pi, (n, 2)),
        "seed": rng.integers(2**32, size=n),
    }
    kept = rng.random(n) < 0.9 * chance[slide.pixel(centre)]
    for i, j in sorted(cKDTree(centre).query_pairs(1.25 * PITCH_UM)):
        if kept[i] and np.hypot(*(centre[i] - centre[j])) < 1.04 * (glands["radius"][i] + glands["radius"][j]):
            kept[j] = False
    return {name: values[kept] for name, values in glands.items()}


def _gland_radius(glands: dict[str, np.ndarray], i: int, angle: np.ndarray) -> np.ndarray:
    """Radius in um of gland ``i`` along directions: a circle with two and three lobes."""
    lobes = sum(
        w * np.cos(k * angle + p) for k, w, p in zip((2, 3), glands["wave"][i], glands["phase"][i], strict=True)
    )
    return glands["radius"][i] * (1 + lobes)


def _draw_glands(slide: Slide, glands: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Area of epithelium and of lumen, shape (h, w)."""
    epithelium, lumen = np.zeros((2, *slide.shape), np.float32)
    x, y = slide.axes()
    reach = round(70 / slide.um_per_px)
    for i, (row, column) in enumerate(zip(*slide.pixel(glands["centre"]), strict=True)):
        window = slice(max(row - reach, 0), row + reach), slice(max(column - reach, 0), column + reach)
        dx, dy = x[:, window[1]] - glands["centre"][i, 0], y[window[0]] - glands["centre"][i, 1]
        outside = np.hypot(dx, dy) / _gland_radius(glands, i, np.arctan2(dy, dx))
        hollow = _step((glands["lumen"][i] - outside) / 0.05)
        np.maximum(epithelium[window], _step((1 - outside) / 0.05), out=epithelium[window])
        np.maximum(lumen[window], hollow, out=lumen[window])
    return epithelium * (1 - lumen), lumen


def _fibres(rng: np.random.Generator, slide: Slide, obstacles: np.ndarray) -> np.ndarray:
    """Phase in um whose contour lines are collagen fibres; they bend around the glands."""
    x, y = slide.axes()
    bend = 110 * slide.noise(rng, 260) + 9 * slide.noise(rng, 45)
    around = 60 * ndimage.gaussian_filter(obstacles, 35 / slide.um_per_px)
    return 0.8 * y + 0.6 * x + bend + around


def _nuclei(rng: np.random.Generator, slide: Slide, maps, glands, fibres) -> np.ndarray:
    """One row per nucleus: x, y, half length, half width (um), direction (rad), darkness."""
    slope_y, slope_x = np.gradient(fibres)
    along = np.arctan2(slope_x, -slope_y)
    groups = [_gland_nuclei(glands, i) for i in range(len(glands["radius"]))]
    for area, spacing, share, length, width, dark in (
        ("STROMA", 15, 0.42, 5.6, 1.9, 0.85),
        ("IMMUNE", 8.5, 0.95, 3.3, 3.1, 1.25),
        ("STROMA", 12, 0.07, 3.2, 3.0, 1.15),
    ):
        points = slide.lattice(rng, spacing, jitter=0.5)
        points = points[rng.random(len(points)) < share * maps[area][slide.pixel(points)]]
        n = len(points)
        shape = np.array([length, width]) * rng.lognormal(0, 0.14, (n, 2))
        direction = along[slide.pixel(points)] + rng.normal(0, 0.25, n)
        groups.append(np.column_stack([points, shape, direction, dark * rng.lognormal(0, 0.18, n)]))
    nuclei = np.concatenate(groups)
    return nuclei[maps["TISSUE"][slide.pixel(nuclei[:, :2])] > 0.9]


def _gland_nuclei(glands: dict[str, np.ndarray], i: int) -> np.ndarray:
    """Columnar nuclei near the base of the epithelium, pointing at the lumen."""
    rng = np.random.default_rng(glands["seed"][i])
    n = int(2 * np.pi * glands["radius"][i] * 0.8 / 6.2)
    angle = np.arange(n) / n * 2 * np.pi + rng.normal(0, 0.03, n)
    depth = np.clip(rng.normal(0.76, 0.07, n), glands["lumen"][i] + 0.1, 0.88)
    away = (_gland_radius(glands, i, angle) * depth)[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    shape = np.array([5.2, 2.7]) * rng.lognormal(0, 0.12, (n, 2))
    return np.column_stack([glands["centre"][i] + away, shape, angle, rng.normal(1.0, 0.15, n)])


def stain(rng: np.random.Generator, slide: Slide, maps, nuclei, fibres) -> np.ndarray:
    """Light that passes the stained section, uint8, shape (h, w, 3); takes what `grow_tissue` returns."""
    wave = np.sin(2 * np.pi * fibres / 15 + 1.2 * slide.noise(rng, 9))
    strand = 0.5 + 0.5 * wave * np.clip(0.7 + 0.4 * slide.noise(rng, 40), 0, 1)
    cleft = _step((wave - 1.05 + 0.1 * slide.noise(rng, 30)) / 0.1)
    grain = slide.noise(rng, 3.5)
    eosin = maps["STROMA"] * (0.42 + 0.5 * strand) * (1 - 0.85 * cleft) + maps["IMMUNE"] * 0.45
    eosin += maps["GLAND"] * (0.62 + 0.08 * grain) + 0.7 * maps["MEMBRANE"] + 0.03 * maps["FAT"] + maps["LUMEN"] * 0.05
    purple = 0.07 * maps["STROMA"] * (1 - cleft) + 0.16 * maps["IMMUNE"] + (0.26 + 0.05 * grain) * maps["GLAND"]
    purple += _stamp(slide, nuclei)
    thickness = maps["TISSUE"] * (1 + 0.07 * slide.noise(rng, 4.5 * PITCH_UM) + 0.05 * grain)
    density = purple[..., None] * HEMATOXYLIN + eosin[..., None] * EOSIN
    light = np.exp(-density * thickness[..., None])
    light = ndimage.gaussian_filter(light, (0.45, 0.45, 0)) * GLASS
    light += rng.standard_normal(slide.shape, np.float32)[..., None] * 1.5
    return np.clip(light, 0, 255).astype(np.uint8)


def _stamp(slide: Slide, nuclei: np.ndarray) -> np.ndarray:
    """Draw all nuclei at once: shape (h, w)."""
    canvas = np.zeros(slide.shape, np.float32)
    x, y, length, width, direction, dark = nuclei.astype(np.float32).T[:, :, None, None]
    reach = int(np.ceil(nuclei[:, 2].max() / slide.um_per_px)) + 1
    row, column = slide.pixel(nuclei[:, :2])
    offset = np.arange(-reach, reach + 1)
    rows, columns = row[:, None, None] + offset[:, None], column[:, None, None] + offset
    dx, dy = (columns + 0.5) * slide.um_per_px - x, (rows + 0.5) * slide.um_per_px - y
    along, across = dx * np.cos(direction) + dy * np.sin(direction), dy * np.cos(direction) - dx * np.sin(direction)
    inside = (1 - np.hypot(along / length, across / width)) * width / slide.um_per_px + 0.5
    ink = dark * np.clip(inside, 0, 1)
    rows, columns = np.broadcast_arrays(np.clip(rows, 0, slide.shape[0] - 1), np.clip(columns, 0, slide.shape[1] - 1))
    np.maximum.at(canvas, (rows, columns), ink)
    return canvas


def _step(x: np.ndarray) -> np.ndarray:
    """Smooth step from 0 at -0.5 to 1 at 0.5."""
    x = np.clip(x + 0.5, 0, 1).astype(np.float32)
    return x * x * (3 - 2 * x)
