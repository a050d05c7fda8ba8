"""Where sites are missing: on a finer grid through those there are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from snrmix.data.lattice import _fit as fit_lattice

# Radius of the circle of three sites, in distances between neighbours: 0.58 and 0.71 where they are adjacent on a
# hexagonal and a square array, 1 across a missing site.
ADJACENT, BRIDGE = 0.85, 1.25
BYTES_PER_PLACE = 200  # while places are looked at


@dataclass(frozen=True)
class Grid:
    """Rows and columns through the sites of a library.

    Parameters
    ----------
    origin
        Position of row 0 and column 0, shape (2,).
    steps
        What one more row and one more column add to a position, shape (2, 2).
    is_staggered
        Whether every other place of a row is empty, as on Visium.
    is_array
        Whether it is that of an array, and not one laid over sites without order.
    coordinates
        Rows and columns of the sites that have them, shape (m, 2).
    shifts
        How far these sites are from where the grid has them, shape (m, 2): arrays are not exactly regular.
    """

    origin: np.ndarray
    steps: np.ndarray
    is_staggered: bool
    is_array: bool
    coordinates: np.ndarray
    shifts: np.ndarray


def fit_grid(positions: np.ndarray, obs: pd.DataFrame, pitch: float) -> Grid:
    """The array that the sites belong to, by ``array_row`` and ``array_col``; else a regular hexagonal grid over them.

    Parameters
    ----------
    positions
        Shape (n, 2).
    obs
        Annotation of the same sites.
    pitch
        Distance between neighbours of the hexagonal grid.
    """
    fit = fit_lattice(positions, obs)
    if fit is None:
        origin, steps = positions.min(0), pitch * np.array([[0, np.sqrt(3) / 2], [0.5, 0]])
        coordinates = (positions - origin) @ np.linalg.inv(steps)
        return Grid(origin, steps, True, False, coordinates, np.zeros_like(positions))
    steps = np.stack([fit.step_row, fit.step_column])
    coordinates = np.stack([fit.rows, fit.columns], axis=1)
    coordinates = (coordinates - coordinates[0]).astype(float)
    origin = (positions[fit.used] - coordinates @ steps).mean(0)
    return Grid(origin, steps, fit.is_staggered, True, coordinates, positions[fit.used] - origin - coordinates @ steps)


def count_places(grid: Grid, ratio: float) -> int:
    """About how many places the grid has, with its steps divided by ``ratio``."""
    return int(np.prod(np.ptp(grid.coordinates, axis=0) * ratio + 1) / (1 + grid.is_staggered))


def places(grid: Grid, ratio: float) -> np.ndarray:
    """Places of the grid with its steps divided by ``ratio``, within the rows and columns of the sites, shape (m, 2)."""
    low, high = (ends * ratio for ends in (grid.coordinates.min(0), grid.coordinates.max(0)))
    rows, columns = (np.arange(np.ceil(a - 1e-6), np.floor(b + 1e-6) + 1) for a, b in zip(low, high, strict=True))
    nodes = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    if grid.is_staggered:
        nodes = nodes[nodes.sum(1) % 2 == 0]
    positions = grid.origin + nodes / ratio @ grid.steps
    return positions + _shifts_at(grid, positions)


def _shifts_at(grid: Grid, positions: np.ndarray) -> np.ndarray:
    """The shifts of the sites around, weighted by inverse squared distance."""
    if not grid.shifts.any():
        return np.zeros_like(positions)
    from scipy.spatial import cKDTree

    tree = cKDTree(grid.origin + grid.coordinates @ grid.steps)
    distance, nearest = tree.query(positions, k=4)
    weight = 1 / np.maximum(distance / np.linalg.norm(grid.steps), 1e-4) ** 2
    return ((weight / weight.sum(1, keepdims=True))[:, :, None] * grid.shifts[nearest]).sum(1)


def far_from(positions: np.ndarray, sites: np.ndarray, distance: float) -> np.ndarray:
    """Which positions have no site nearer than ``distance``, bool, shape (m,)."""
    from scipy.spatial import cKDTree

    return cKDTree(sites).query(positions)[0] > distance


def between(positions: np.ndarray, sites: np.ndarray, radius: float) -> np.ndarray:
    """Which positions lie among the sites, bool, shape (m,).

    They lie in a triangle of three sites whose circle is small (an alpha shape), which follows a concave outline.

    Parameters
    ----------
    radius
        Of the largest circle, in distances between neighbours: `ADJACENT` or `BRIDGE`.
    """
    import shapely
    from scipy.spatial import Delaunay, cKDTree

    if len(sites) < 3:
        return np.zeros(len(positions), bool)
    distance = np.quantile(cKDTree(sites).query(sites, k=2)[0][:, 1], 0.95)
    corners = sites[Delaunay(sites).simplices]
    small = corners[_circumradius(corners) <= radius * distance]
    region = shapely.union_all(shapely.polygons(small)).buffer(0.1 * distance)
    shapely.prepare(region)
    return shapely.contains_xy(region, *positions.T)


def _circumradius(corners: np.ndarray) -> np.ndarray:
    """Of triangles, shape (t, 3, 2): the product of the sides over four times the area."""
    a, b, c = (np.linalg.norm(corners[:, i] - corners[:, (i + 1) % 3], axis=1) for i in range(3))
    (x1, y1), (x2, y2) = (corners[:, 1] - corners[:, 0]).T, (corners[:, 2] - corners[:, 0]).T
    return a * b * c / np.maximum(2 * np.abs(x1 * y2 - x2 * y1), 1e-12 * a * b)
