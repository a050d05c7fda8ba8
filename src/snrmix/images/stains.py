"""What haematoxylin and eosin look like on a slide, and patches of several slides as if all were stained alike.

After Macenko et al. (2009, doi:10.1109/ISBI.2009.5193250): optical densities of a slide lie between those of its two stains,
which are thus the ends of the fan that they make in the plane where they vary most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FEWEST_PIXELS = 1000  # stained ones
FAINT = 0.15  # optical density in some channel below which a pixel is glass
ENDS = 1.0  # per cent of the pixels beyond either end of the fan, and beyond the highest amount
NARROW = 0.05  # fan, in radians: a single stain
MOST_CHANGE = 3.0  # of the amount of a stain


@dataclass(frozen=True)
class Stains:
    """The stains of a slide.

    Parameters
    ----------
    densities
        Shape (2, 3): optical density of haematoxylin and of eosin in red, green and blue, each of length 1.
    most
        Shape (2,): how much of each a pixel has, at the 99th percentile.
    """

    densities: np.ndarray
    most: np.ndarray


def fit_stains(pixels: np.ndarray) -> Stains | None:
    """The stains of some pixels, uint8, shape (n, 3); ``None`` where there are not two to be told apart."""
    density = -np.log((pixels.astype(np.float64) + 1) / 256)
    density = density[(density > FAINT).all(1)]
    if len(density) < FEWEST_PIXELS:
        return None
    plane = np.linalg.eigh(np.cov(density.T))[1][:, [2, 1]]
    plane *= np.where(plane.sum(0) < 0, -1, 1)
    x, y = (density @ plane).T
    low, high = np.percentile(np.arctan2(y, x), [ENDS, 100 - ENDS])
    densities = np.array([plane @ [np.cos(angle), np.sin(angle)] for angle in (low, high)])
    if high - low < NARROW or (densities < -0.1).any():
        return None
    densities = densities[np.argsort(-densities[:, 0])]  # haematoxylin takes more of the red
    amounts = density @ np.linalg.pinv(densities)
    most = np.percentile(amounts, 100 - ENDS, axis=0)
    return Stains(densities, most) if (most > 0).all() else None


def to_common(stains: Sequence[Stains]) -> list[np.ndarray]:
    """For every slide the matrix, shape (3, 3), by which its optical densities are those of the mean of all stains."""
    densities = np.mean([own.densities for own in stains], axis=0)
    densities /= np.linalg.norm(densities, axis=1, keepdims=True)
    most = np.mean([own.most for own in stains], axis=0)
    change = [np.clip(most / own.most, 1 / MOST_CHANGE, MOST_CHANGE) for own in stains]
    pairs = zip(stains, change, strict=True)
    return [(np.linalg.pinv(own.densities) * factor @ densities).astype(np.float32) for own, factor in pairs]


def restain(crops: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Patches, uint8, shape (b, size, size, 3), with their optical densities multiplied by a matrix."""
    density = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)
    light = 256 * np.exp(-(density[crops] @ matrix)) - 1
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)
