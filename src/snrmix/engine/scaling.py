from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CLIP = 4.0
DEAD_SHARE = 0.02
VALUES_AT_ONCE = 30_000_000
ROUNDING = 1e-6  # of float32, relative to the values
PENALTIES = 10.0 ** np.arange(-2, 4.5, 0.5)  # that ridge regressions on z-scores choose from, per feature


def standard_scale(features: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and inverse scale of every feature on the given rows, guarded for features that hardly vary there.

    A feature whose standard deviation there is zero but for rounding, or under 2 % of that over all rows, gets inverse
    scale 0: its z-scores elsewhere would be huge and mean nothing.

    Parameters
    ----------
    features
        Shape (n, d).
    rows
        Indices of the measured training spots.

    Returns
    -------
    tuple
        Centre and inverse scale, float32, each shape (d,).
    """
    centre, spread, overall = np.empty((3, features.shape[1]), np.float32)
    step = max(VALUES_AT_ONCE // max(len(features), 1), 64)
    for start in range(0, features.shape[1], step):
        some = slice(start, start + step)
        chosen = features[rows, some].astype(np.float32)
        centre[some], spread[some] = chosen.mean(0), chosen.std(0)
        overall[some] = features[:, some].astype(np.float32).std(0)
    dead = (spread <= ROUNDING * np.maximum(np.abs(centre), 1)) | (spread < DEAD_SHARE * overall)
    return centre, np.where(dead, 0.0, 1.0 / np.where(dead, 1.0, spread)).astype(np.float32)


def standardise(features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """z-scores by the given rows, clipped at 4, float32, shape (n, d)."""
    return Standardised(features, *standard_scale(features, rows), np.ones(features.shape[1], bool))[:]


@dataclass(frozen=True)
class Standardised:
    """z-scores, clipped at 4, that are made where they are read: those of all sites may not fit in memory.

    Parameters
    ----------
    values
        Features, not standardised.
    centre, scale
        Shape (d,), see `standard_scale`.
    columns
        Shape (d,), bool: which features are wanted.
    """

    values: np.ndarray
    centre: np.ndarray
    scale: np.ndarray
    columns: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Sites and features."""
        return len(self.values), int(self.columns.sum())

    def __getitem__(self, rows) -> np.ndarray:
        """z-scores of some sites, float32."""
        centre, scale = self.centre[self.columns], self.scale[self.columns]
        return np.clip((self.values[rows][..., self.columns].astype(np.float32) - centre) * scale, -CLIP, CLIP)
