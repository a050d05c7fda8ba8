"""The array that sites belong to: its spacing, and what that is in micrometres."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from snrmix.data.flags import read_added

VISIUM_ROWS, VISIUM_COLUMNS, VISIUM_UM = 128, 224, 100.0  # the 11 mm array; that of 6.5 mm has 78 x 128
ST_ROWS, ST_COLUMNS, ST_UM = 80, 80, 200.0
ST_SPOT = 0.52  # of the pitch: spots are about 100 um wide

MOST_SITES = 0.8  # that the array has to explain
SMALLEST_UNIT_UM = 50.0  # arrays finer than this get patches in multiples of it: one bin of 8 um has no texture


@dataclass(frozen=True)
class Lattice:
    """Spacing of an array.

    Parameters
    ----------
    pitch
        Distance between neighbouring sites in units of the positions.
    um_per_px
        Micrometres per unit of the positions; NaN where it is not known.
    is_fitted
        Whether ``array_row`` and ``array_col`` explain the positions.
    array_um
        Distance between neighbouring sites in micrometres on the array that was recognised; NaN where none was.
    """

    pitch: float
    um_per_px: float
    is_fitted: bool
    array_um: float = np.nan


@dataclass(frozen=True)
class _Fit:
    """Rows and columns of the ``used`` sites, and what one more row and one more column adds to their position."""

    used: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    step_row: np.ndarray
    step_column: np.ndarray

    @property
    def is_staggered(self) -> bool:
        """Whether every other place of a row is empty, as on Visium."""
        return len(np.unique((self.rows + self.columns) % 2)) == 1

    @property
    def steps_near(self) -> list[tuple[int, int]]:
        """Rows and columns to the nearest sites on one side, 2 or 3: those within 20 % of the shortest."""
        steps = [(0, 2), (2, 0), (1, 1), (1, -1)] if self.is_staggered else [(0, 1), (1, 0)]
        lengths = self._lengths(steps)
        return [step for step, length in zip(steps, lengths, strict=True) if length <= 1.2 * lengths.min()]

    @property
    def near(self) -> np.ndarray:
        """Lengths of these steps, shape (2 or 3,)."""
        return self._lengths(self.steps_near)

    def _lengths(self, steps: list[tuple[int, int]]) -> np.ndarray:
        return np.linalg.norm([i * self.step_row + j * self.step_column for i, j in steps], axis=1)

    @property
    def is_hexagonal(self) -> bool:
        return self.is_staggered and len(self.near) == 3

    @property
    def pitch(self) -> float:
        return float(self.near.mean())

    def is_within(self, rows: int, columns: int) -> bool:
        return bool(self.rows.max() < rows and self.columns.max() < columns)


def measure_lattice(positions: np.ndarray, obs: pd.DataFrame, factors: Mapping, um_per_px: float = np.nan) -> Lattice:
    """Measure the spacing of the array that sites belong to, and find out what it is in micrometres.

    With ``array_row`` and ``array_col`` in ``obs`` it is fitted to all sites, so that missing sites do not widen it;
    otherwise it is the typical distance to the nearest site, sites of `snrmix.pp.fill_grid` apart, if there are others.
    Where micrometres are not known, they follow from the pitch of an array that is recognised: Visium or ST.

    Parameters
    ----------
    positions
        Shape (n, 2).
    obs
        Annotation of the same sites.
    factors
        Space Ranger's scale factors, which may be empty; for Visium HD they state micrometres.
    um_per_px
        Micrometres per unit of the positions, where they are known.
    """
    fit = _fit(positions, obs)
    own = ~read_added(obs)
    own = own if own.sum() > 1 else slice(None)
    pitch = nearest_distance(positions[own]) if fit is None else fit.pitch
    array_um = _pitch_um(fit, pitch, factors)
    known = (um for um in (um_per_px, float(factors.get("microns_per_pixel", np.nan)), array_um / pitch) if um > 0)
    return Lattice(pitch, next(known, np.nan), fit is not None, array_um)


def count_gaps(positions: np.ndarray, obs: pd.DataFrame) -> int:
    """Places of the array without a site, but with a site at nearly all places around: 4 of 4, or 5 of 6.

    Parameters
    ----------
    positions, obs
        As in `measure_lattice`.
    """
    fit = _fit(positions, obs)
    if fit is None:
        return 0
    steps = fit.steps_near
    rows, columns = fit.rows - fit.rows.min() + 2, fit.columns - fit.columns.min() + 2
    taken = np.zeros((rows.max() + 3, columns.max() + 3), bool)
    taken[rows, columns] = True
    around = sum(np.roll(taken, (sign * i, sign * j), (0, 1)).astype(int) for i, j in steps for sign in (1, -1))
    return int((~taken & (around >= 2 * len(steps) - (len(steps) == 3))).sum())


def patch_units(lattices: Sequence[Lattice]) -> np.ndarray:
    """What the patches of each library are multiples of, in units of its positions, shape (libraries,).

    It is the pitch, but at least 50 um where that is known. But where micrometres are known for all libraries, those without
    an array, such as a grid laid over an H&E image, get patches of the size in micrometres that those with an array have
    (the median of these).
    """
    pitch, um = (np.array([getattr(lattice, name) for lattice in lattices]) for name in ("pitch", "um_per_px"))
    fitted = np.array([lattice.is_fitted for lattice in lattices])
    with np.errstate(invalid="ignore"):
        unit = np.fmax(pitch, SMALLEST_UNIT_UM / um)
    if np.isfinite(um).all() and fitted.any():
        unit[~fitted] = np.median((unit * um)[fitted]) / um[~fitted]
    return unit


def _pitch_um(fit: _Fit | None, pitch: float, factors: Mapping) -> float:
    if fit is None:
        return np.nan
    if fit.is_hexagonal:
        return VISIUM_UM if fit.is_within(VISIUM_ROWS, VISIUM_COLUMNS) else np.nan
    # Square arrays are not told apart by their shape alone; those of ST by how wide a spot is.
    diameter = float(factors.get("spot_diameter_fullres", np.nan))
    is_st = fit.is_within(ST_ROWS, ST_COLUMNS) and abs(diameter / pitch - ST_SPOT) < 0.05
    return ST_UM if is_st else np.nan


def _fit(positions: np.ndarray, obs: pd.DataFrame) -> _Fit | None:
    """Fit by least squares; ``None`` where the columns are absent or do not explain the positions.

    Up to a fifth of the sites may lie elsewhere, as spots do that failed and were put at one place.
    """
    if not {"array_row", "array_col"} <= set(obs.columns):
        return None
    rows, columns = (pd.to_numeric(obs[c], errors="coerce").to_numpy(float) for c in ("array_row", "array_col"))
    known = np.flatnonzero(np.isfinite(rows) & np.isfinite(columns))
    design = np.column_stack([rows, columns, np.ones(len(rows))])[known]
    if len(design) < 4 or np.linalg.matrix_rank(design) < 3:
        return None
    steps, *_ = np.linalg.lstsq(design, positions[known], rcond=None)
    if not _explains(steps, design, positions[known]):
        steps, inside = _robust_steps(design, positions[known])
        design, known = design[inside], known[inside]
        if inside.mean() < MOST_SITES or not _explains(steps, design, positions[known]):
            return None
    used = np.zeros(len(rows), bool)
    used[known] = True
    return _Fit(used, np.rint(rows[known]).astype(int), np.rint(columns[known]).astype(int), steps[0], steps[1])


def _explains(steps: np.ndarray, design: np.ndarray, positions: np.ndarray) -> bool:
    residual = np.sqrt(np.mean((design @ steps - positions) ** 2))
    return bool(residual <= 0.25 * min(np.linalg.norm(steps[0]), np.linalg.norm(steps[1])))


def _robust_steps(design: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit by least absolute distances, then by least squares to the sites within a step, and which these are."""
    weight = np.ones(len(design))
    for _ in range(30):
        root = np.sqrt(weight)[:, None]
        steps, *_ = np.linalg.lstsq(root * design, root * positions, rcond=None)
        away = np.linalg.norm(design @ steps - positions, axis=1)
        weight = 1 / np.maximum(away, 1e-6 * away.max() + 1e-12)
    inside = away <= min(np.linalg.norm(steps[0]), np.linalg.norm(steps[1]))
    if inside.sum() < 4 or np.linalg.matrix_rank(design[inside]) < 3:
        return steps, inside
    return np.linalg.lstsq(design[inside], positions[inside], rcond=None)[0], inside


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
            f"obsm['spatial'] has {len(distinct)} distinct position(s) in a library; at least two are needed: drop "
            "such libraries, or choose another library_key=."
        )
    distance = cKDTree(distinct).query(distinct, k=2)[0][:, 1]
    return float(np.median(distance[distance <= 1.25 * np.quantile(distance, 0.05)]))
