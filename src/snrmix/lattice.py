from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

VISIUM_ROWS, VISIUM_COLUMNS, VISIUM_UM = 78, 128, 100.0
ST_ROWS, ST_COLUMNS, ST_UM = 36, 36, 200.0


@dataclass(frozen=True)
class Lattice:
    """Spacing of an array: ``pitch`` in units of the positions, ``pitch_um`` in micrometres, NaN where not recognised."""

    pitch: float
    pitch_um: float = np.nan


def measure_lattice(positions: np.ndarray, obs: pd.DataFrame, spot_diameter: float = np.nan) -> Lattice:
    """Measure the spacing of the array that sites belong to, and recognise Visium and ST arrays.

    With ``array_row`` and ``array_col`` in ``obs`` it is fitted to all sites, so that missing sites do not widen it;
    otherwise it is the typical distance to the nearest site.

    Parameters
    ----------
    positions
        Shape (n, 2).
    obs
        Annotation of the same sites.
    spot_diameter
        In units of the positions, when known.
    """
    fitted = _fit(positions, obs)
    if fitted is None:
        return Lattice(nearest_distance(positions))
    step_row, step_column, rows, columns = fitted
    by_row, by_column = np.linalg.norm(step_row), np.linalg.norm(step_column)
    hexagonal = len(np.unique((rows + columns) % 2)) == 1 and abs(by_row / by_column - np.sqrt(3)) < 0.15
    if hexagonal:
        pitch = float(np.mean([2 * by_column, np.linalg.norm(step_row + step_column)]))
        is_visium = rows.max() < VISIUM_ROWS and columns.max() < VISIUM_COLUMNS
        return Lattice(pitch, VISIUM_UM if is_visium else np.nan)
    pitch = float((by_row + by_column) / 2)
    # On ST arrays the spot is 100 um wide and the pitch 200 um; other square arrays are not told apart by shape alone.
    is_st = rows.max() < ST_ROWS and columns.max() < ST_COLUMNS and abs(spot_diameter / pitch - 0.52) < 0.05
    return Lattice(pitch, ST_UM if is_st else np.nan)


def _fit(positions: np.ndarray, obs: pd.DataFrame):
    """Steps of one row and one column, by least squares; None where the columns are absent or do not explain it."""
    if not {"array_row", "array_col"} <= set(obs.columns) or len(obs) < 4:
        return None
    rows, columns = (pd.to_numeric(obs[c], errors="coerce").to_numpy(float) for c in ("array_row", "array_col"))
    known = np.isfinite(rows) & np.isfinite(columns)
    design = np.column_stack([rows, columns, np.ones(len(rows))])[known]
    if len(design) < 4 or np.linalg.matrix_rank(design) < 3:
        return None
    steps, *_ = np.linalg.lstsq(design, positions[known], rcond=None)
    residual = np.sqrt(np.mean((design @ steps - positions[known]) ** 2))
    if residual > 0.25 * min(np.linalg.norm(steps[0]), np.linalg.norm(steps[1])):
        return None
    return steps[0], steps[1], np.rint(rows[known]).astype(int), np.rint(columns[known]).astype(int)


def nearest_distance(positions: np.ndarray) -> float:
    """Typical distance to the nearest site, robust to missing sites: the median of those within 25 % of the shortest.

    Raises
    ------
    ValueError
        When there are fewer than two distinct positions.
    """
    from scipy.spatial import cKDTree

    distinct = np.unique(positions, axis=0)
    if len(distinct) < 2:
        raise ValueError(
            f"obsm['spatial'] has {len(distinct)} distinct position(s) in a library; at least two are needed."
        )
    distance = cKDTree(distinct).query(distinct, k=2)[0][:, 1]
    return float(np.median(distance[distance <= 1.25 * np.quantile(distance, 0.05)]))
