from __future__ import annotations

import numpy as np

CLIP = 4.0
DEAD_SHARE = 0.02
ROUNDING = 1e-6  # of float32, relative to the values


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
    chosen = features[rows].astype(np.float32)
    centre, spread = chosen.mean(0), chosen.std(0)
    overall = features.astype(np.float32).std(0)
    dead = (spread <= ROUNDING * np.maximum(np.abs(centre), 1)) | (spread < DEAD_SHARE * overall)
    return centre, np.where(dead, 0.0, 1.0 / np.where(dead, 1.0, spread)).astype(np.float32)


def standardise(features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """z-scores by the given rows, clipped at 4, float32, shape (n, d)."""
    centre, scale = standard_scale(features, rows)
    return np.clip((features.astype(np.float32) - centre) * scale, -CLIP, CLIP)
