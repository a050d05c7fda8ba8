"""Correlations between sites in space and in looks, from which kriging makes its candidates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

RINGS = 6  # sites around a site whose mean embedding describes its surroundings
MEDIAN_SITES = 1500  # sites from which median distances are taken


@dataclass(frozen=True)
class KrigingSites:
    """All sites, measured or not, in canonical order.

    Parameters
    ----------
    positions
        Shape (n, 2), in lattice pitches.
    library
        Shape (n,), int codes. Sites of different libraries have no spatial correlation.
    features
        Standardised embedding, float32, shape (n, d); ``None`` or no columns where there is none.
    colour
        Standardised colour statistics, float32, shape (n, c); ``None`` or no columns where there are none.
    """

    positions: np.ndarray
    library: np.ndarray
    features: np.ndarray | None = None
    colour: np.ndarray | None = None

    @property
    def has_image(self) -> bool:
        """Whether sites have looks at all."""
        return any(x is not None and x.shape[1] > 0 for x in (self.features, self.colour))


@dataclass(frozen=True)
class Covariance:
    """A sum of terms ``weight * exp(-distance / reach) * image``, either factor being optional; 1 at distance 0.

    Parameters
    ----------
    name
        For the record.
    terms
        Each (weight, reach in pitches or ``None``, whether the image correlation is a factor).
    """

    name: str
    terms: tuple[tuple[float, float | None, bool], ...]

    def of(self, block: Block) -> np.ndarray:
        """Correlation of two sets of sites, float64, shape (rows, columns)."""
        total = np.zeros(block.distance.shape)
        for weight, reach, image in self.terms:
            term = block.image if reach is None else np.exp(block.distance / -reach)
            total += weight * (term * block.image if image and reach is not None else term)
        return total


SPACE = (
    Covariance("space 3", ((1.0, 3.0, False),)),
    Covariance("space 25", ((1.0, 25.0, False),)),
)
NO_IMAGE = (*SPACE, Covariance("space 3 + 25", ((0.5, 3.0, False), (0.5, 25.0, False))))
WITH_IMAGE = (
    *SPACE,
    Covariance("image", ((1.0, None, True),)),
    Covariance("space 8 + image + space 25 x image", ((0.4, 8.0, False), (0.3, None, True), (0.3, 25.0, True))),
    Covariance("space 8 + image + space 8 x image", ((0.3, 8.0, False), (0.3, None, True), (0.4, 8.0, True))),
)


@dataclass(frozen=True)
class Block:
    """What relates two sets of sites, each array of shape (rows, columns).

    Parameters
    ----------
    distance
        In pitches, infinite between libraries.
    image
        Correlation of looks; ``None`` without an image.
    """

    distance: np.ndarray
    image: np.ndarray | None

    def at(self, rows: np.ndarray, columns: np.ndarray) -> Block:
        """The same for some rows and columns."""
        index = np.ix_(rows, columns)
        return Block(self.distance[index], None if self.image is None else self.image[index])


class Correlations:
    """Distances and image correlations of any sites.

    The image correlation averages a Gaussian kernel on the embedding together with the mean embedding of the nearest
    six sites, and a sum of a narrow and a wide Gaussian kernel on colour. Widths are multiples of the median squared
    distance between measured sites.

    Parameters
    ----------
    sites
        All sites.
    measured
        Indices of the measured ones: median distances are theirs.
    """

    def __init__(self, sites: KrigingSites, measured: np.ndarray):
        self.sites = sites
        self._parts: list[tuple[np.ndarray, tuple[float, ...]]] = []
        chosen = measured[:: -(-len(measured) // MEDIAN_SITES)]
        for values, widths in ((_with_surroundings(sites), (2.0,)), (sites.colour, (0.5, 2.0))):
            if values is not None and values.shape[1]:
                median = _median_distance(values[chosen])
                self._parts.append((values, tuple(width * median for width in widths)))

    @property
    def candidates(self) -> tuple[Covariance, ...]:
        """Covariances to choose from."""
        return WITH_IMAGE if self._parts else NO_IMAGE

    def block(self, rows: np.ndarray, columns: np.ndarray) -> Block:
        """Relate two sets of sites, given by index."""
        s = self.sites
        distance = np.sqrt(_squared_distance(s.positions[rows], s.positions[columns]))
        distance[s.library[rows][:, None] != s.library[columns][None]] = np.inf
        return Block(distance, self.image(rows, columns))

    def image(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray | None:
        """Correlation of looks, float64, shape (rows, columns)."""
        if not self._parts:
            return None
        total = np.zeros((len(rows), len(columns)))
        for values, widths in self._parts:
            squared = _squared_distance(values[rows], values[columns])
            for width in widths:
                total += np.exp(squared / -width) / (len(widths) * len(self._parts))
        return total


def _with_surroundings(sites: KrigingSites) -> np.ndarray | None:
    """Embedding beside the mean embedding of the nearest six sites of the library, shape (n, 2 d)."""
    features = sites.features
    if features is None or not features.shape[1]:
        return features
    around = np.array(features, np.float32)
    for code in np.unique(sites.library):
        own = np.flatnonzero(sites.library == code)
        k = min(RINGS + 1, len(own))
        if k > 1:
            near = cKDTree(sites.positions[own]).query(sites.positions[own], k)[1][:, 1:]
            for start in range(0, len(own), 1024):
                rows = slice(start, start + 1024)
                around[own[rows]] = features[own[near[rows]]].mean(1)
    return np.concatenate([features, around], axis=1)


def _squared_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances, float64, shape (len(a), len(b)); products in the precision of the input."""
    squared = (a**2).sum(1, dtype=np.float64)[:, None] + (b**2).sum(1, dtype=np.float64) - 2.0 * (a @ b.T)
    return np.maximum(squared, 0, out=squared)


def _median_distance(values: np.ndarray) -> float:
    squared = _squared_distance(values, values)[np.triu_indices(len(values), 1)]
    return max(float(np.median(squared)) if len(squared) else 0.0, 1e-12)
