"""Correlations between sites in space and in looks, from which kriging makes its candidates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from snrmix.engine.linear_algebra import squared_distance
from snrmix.engine.neighbours import nearest
from snrmix.engine.scaling import Standardised

SURROUNDINGS = 6  # nearest sites whose mean embedding is what a site's surroundings look like
SITES_AT_ONCE = 16384
REFERENCE_SITES = 1000  # measured sites from which principal axes and median distances are taken
LOOKS = 256  # principal axes of the embedding that distances in looks are made of
EMBEDDING_WIDTHS, COLOUR_WIDTHS = (2.0,), (0.5, 2.0)  # of Gaussian kernels, in median squared distances


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
        Standardised embedding, float32, shape (n, d), or what gives its rows when indexed; ``None`` or no columns where
        there is none.
    colour
        Standardised colour statistics, float32, shape (n, c); ``None`` or no columns where there are none.
    apart
        Whether no two sites are correlated in space: what is learnt then, covariances too, holds for other libraries.
    """

    positions: np.ndarray
    library: np.ndarray
    features: np.ndarray | Standardised | None = None
    colour: np.ndarray | None = None
    apart: bool = False


@dataclass(frozen=True)
class Relations:
    """What relates some sites to others.

    Parameters
    ----------
    distance
        In pitches, infinite between libraries and between sites that are apart; of any shape.
    image
        Correlation of looks, of the same shape; ``None`` without an image.
    """

    distance: np.ndarray
    image: np.ndarray | None


@dataclass(frozen=True)
class Term:
    """``weight * exp(-distance / reach) * image``, either factor being optional.

    Parameters
    ----------
    weight
        At distance 0.
    reach
        In pitches; ``None``: it does not depend on the distance.
    image
        Whether the correlation of looks is a factor.
    """

    weight: float
    reach: float | None = None
    image: bool = False

    def of(self, relations: Relations) -> np.ndarray:
        """Its values, float64, in the shape of the relations."""
        if self.reach is None:
            return self.weight * relations.image
        near = self.weight * np.exp(relations.distance / -self.reach)
        return near * relations.image if self.image else near


@dataclass(frozen=True)
class Covariance:
    """A sum of terms, 1 at distance 0; the name is for the record."""

    name: str
    terms: tuple[Term, ...]

    def of(self, relations: Relations) -> np.ndarray:
        """Correlation, float64, in the shape of the relations."""
        total = np.zeros(relations.distance.shape)
        for term in self.terms:
            total += term.of(relations)
        return total


SPACE = (Covariance("space 3", (Term(1.0, 3.0),)), Covariance("space 25", (Term(1.0, 25.0),)))
WITHOUT_IMAGE = (
    *SPACE,
    Covariance("space 8", (Term(1.0, 8.0),)),
    Covariance("space 3 + 25", (Term(0.5, 3.0), Term(0.5, 25.0))),
)
LOOKS_ALONE = Term(0.3, image=True)
WITH_IMAGE = (
    *SPACE,
    Covariance("image", (Term(1.0, image=True),)),
    Covariance("space 8 + image + space 8 x image", (Term(0.3, 8.0), LOOKS_ALONE, Term(0.4, 8.0, image=True))),
    Covariance("space 8 + image + space 25 x image", (Term(0.4, 8.0), LOOKS_ALONE, Term(0.3, 25.0, image=True))),
)


class Correlations:
    """Distances and correlations of looks between any sites.

    Looks correlate by Gaussian kernels: one on the leading principal axes of the embedding together with that of the
    surroundings, averaged with a narrow and a wide one on colour. Widths are in median squared distances between
    measured sites.

    Parameters
    ----------
    sites
        All sites.
    measured
        Indices of the measured ones, from which axes and medians are taken.
    looks
        Number of principal axes of the embedding.
    """

    def __init__(self, sites: KrigingSites, measured: np.ndarray, looks: int = LOOKS):
        self.sites = sites
        reference = measured[:: -(-len(measured) // REFERENCE_SITES)]
        self._looks: list[tuple[np.ndarray, np.ndarray]] = []
        if sites.features is not None and sites.features.shape[1]:
            self._add(principal_looks(sites, reference, looks), reference, EMBEDDING_WIDTHS)
        if sites.colour is not None and sites.colour.shape[1]:
            self._add(sites.colour, reference, COLOUR_WIDTHS)

    def _add(self, values: np.ndarray, reference: np.ndarray, widths: tuple[float, ...]) -> None:
        squared = squared_distance(values[reference], values[reference])[np.triu_indices(len(reference), 1)]
        median, mean = (float(np.median(squared)), float(squared.mean())) if len(squared) else (1.0, 1.0)
        # Where most sites look the same, the median is rounding error, and kernels of that width are no correlations.
        median = max(median, 0.01 * mean, 1e-6)
        self._looks.append((values.astype(np.float32), median * np.array(widths)))

    @property
    def candidates(self) -> tuple[Covariance, ...]:
        """Covariances to choose from."""
        return WITH_IMAGE if self._looks else WITHOUT_IMAGE

    def between(self, rows: np.ndarray, columns: np.ndarray) -> Relations:
        """Relate sites to sites, all given by index.

        Parameters
        ----------
        rows, columns
            Shapes (r,) and (c,) give relations of shape (r, c); shapes (batch, r) and (batch, c) give (batch, r, c).
        """
        s = self.sites
        distance = np.sqrt(squared_distance(s.positions[rows], s.positions[columns]))
        own, other = (index if s.apart else s.library[index] for index in (rows, columns))
        distance[own[..., :, None] != other[..., None, :]] = np.inf
        return Relations(distance, self._image(rows, columns))

    def _image(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray | None:
        if not self._looks:
            return None
        total = 0.0
        for values, widths in self._looks:
            squared = squared_distance(values[rows], values[columns])
            for width in widths:
                total += np.exp(squared / -width) / (len(widths) * len(self._looks))
        return total


def principal_looks(sites: KrigingSites, reference: np.ndarray, looks: int) -> np.ndarray:
    """Embedding of every site and of its surroundings along the principal axes at some sites, float32, (n, <= looks).

    The mean over surroundings is linear, so it is taken of the coordinates and never of the whole embedding.
    """
    features = sites.features
    around = surroundings(sites)
    d = features.shape[1]
    both = np.concatenate([features[reference], _around(features, around[reference])], axis=1).astype(np.float32)
    both -= both.mean(0)
    if 2 * d <= looks:
        axes = np.eye(2 * d, dtype=np.float32)
    else:
        vectors = np.linalg.eigh((both @ both.T).astype(np.float64))[1][:, ::-1][:, :looks]
        axes = np.linalg.qr(both.T @ vectors.astype(np.float32))[0]
    return _project(features, axes[:d]) + _around(_project(features, axes[d:]), around)


def surroundings(sites: KrigingSites) -> np.ndarray:
    """The nearest `SURROUNDINGS` sites of every site in its library, or as many as there are, the site itself if none.

    Returns
    -------
    numpy.ndarray
        Indices, shape (n, `SURROUNDINGS`), repeated where there are fewer.
    """
    around = np.repeat(np.arange(len(sites.library))[:, None], SURROUNDINGS, axis=1)
    for code in np.unique(sites.library):
        own = np.flatnonzero(sites.library == code)
        k = min(SURROUNDINGS, len(own) - 1)
        if k > 0:
            near = nearest(sites.positions, sites.library, own, own, k + 1)[0]
            # The site itself goes; where more sites than that lie at its place, it may not be among them.
            itself = near == np.arange(len(own))[:, None]
            others = np.take_along_axis(near, np.argsort(itself, axis=1, kind="stable")[:, :k], 1)
            around[own] = own[others[:, np.arange(SURROUNDINGS) % k]]
    return around


def _project(features: np.ndarray | Standardised, axes: np.ndarray) -> np.ndarray:
    """Coordinates of all sites along some axes, float32, some sites at a time."""
    starts = range(0, features.shape[0], SITES_AT_ONCE)
    return np.concatenate([features[start : start + SITES_AT_ONCE] @ axes for start in starts])


def _around(values: np.ndarray, around: np.ndarray) -> np.ndarray:
    """Mean of the values at the sites around, a few sites at a time."""
    mean = np.empty((len(around), values.shape[1]), np.float32)
    for start in range(0, len(around), 512):
        mean[start : start + 512] = values[around[start : start + 512]].mean(1)
    return mean
