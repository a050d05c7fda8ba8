"""What kriging works on: components of expression, how noisy each spot is, and what sequencing depth does by itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from snrmix.engine.counts import log_count_moments
from snrmix.engine.linear_algebra import leading_directions

RANK = 12
DEPTH_RANK = 2
OWN_NOISE = 0.1  # scatter that does not depend on depth, as a share of the variance
RATE_NODES = 128
DISTINCT_DEPTHS = 5000


@dataclass(frozen=True)
class Depths:
    """Mean and variance of ``log1p(1e4 k / depth)``, ``k ~ Poisson(rate * depth)``, at every spot over a grid of rates.

    Make it with `depth_curves`.

    Parameters
    ----------
    depth
        Shape (n,), counts per spot.
    rates
        Shape (nodes,), share of a spot's counts, ascending.
    mean, variance
        Shape (n, nodes).
    """

    depth: np.ndarray
    rates: np.ndarray
    mean: np.ndarray
    variance: np.ndarray

    def at(self, spots: np.ndarray) -> Depths:
        """The same for some spots."""
        return Depths(self.depth[spots], self.rates, self.mean[spots], self.variance[spots])


def depth_curves(depth: np.ndarray) -> Depths:
    """Tabulate the moments of log-normalised counts for every spot's depth, to 1 % where they are very many."""
    rates = np.geomspace(1e-7, 1.0, RATE_NODES)
    depth = np.asarray(depth, float)
    distinct, which = np.unique(depth, return_inverse=True)
    if len(distinct) > DISTINCT_DEPTHS:
        distinct, which = np.unique(np.exp(np.round(np.log(depth), 2)), return_inverse=True)
    mean, variance = np.empty((2, len(distinct), RATE_NODES))
    for i, d in enumerate(distinct):
        moments = log_count_moments(rates * d, np.array([1e4 / d]))
        mean[i], variance[i] = moments[0][0], moments[1][0]
    return Depths(depth, rates, mean[which], variance[which])


def trusted_depth(expression: np.ndarray, depth: np.ndarray | None) -> np.ndarray:
    """Counts per spot: as given where values agree with them, else from the smallest value of each spot, one count.

    Parameters
    ----------
    expression
        log1p(counts per 10,000), shape (n, genes).
    depth
        Shape (n,), or ``None``; sums of something else than counts are found out.

    Returns
    -------
    numpy.ndarray
        Float, shape (n,).
    """
    if depth is not None and are_counts(expression, depth):
        return np.asarray(depth, float)
    smallest = _smallest(expression)
    seen = np.isfinite(smallest)
    found = np.full(len(expression), np.nan)
    found[seen] = 1e4 / smallest[seen]
    return np.where(seen, found, np.nanmedian(found) if seen.any() else 1e4)


def are_counts(expression: np.ndarray, depth: np.ndarray) -> bool:
    """Whether values are log1p(counts per 10,000) of spots of these depths: the smallest of each spot is a count."""
    smallest = _smallest(expression)
    seen = np.isfinite(smallest)
    count = smallest[seen] * np.asarray(depth, float)[seen] / 1e4
    missed = np.abs(count - np.maximum(np.round(count), 1)) / np.maximum(count, 1)
    return bool(len(count)) and bool(np.median(missed) < 0.01)


def _smallest(expression: np.ndarray) -> np.ndarray:
    """Smallest value above 0 of each spot, per 10,000 counts; infinite where there is none."""
    return np.expm1(np.min(expression, axis=1, where=expression > 0, initial=np.inf).astype(np.float64))


@dataclass(frozen=True)
class SpotNoise:
    """How noisy training spots are, and what their depth does to expression.

    Parameters
    ----------
    level
        Shape (n,): noise variance relative to the average spot.
    shift, loadings
        Shape (n, k) and (genes, k): ``shift @ loadings.T`` is the expected deviation from the mean of a spot of that
        depth if all spots had the same rates: shallow spots have lower log values. No columns where depth is unknown.
    """

    level: np.ndarray
    shift: np.ndarray
    loadings: np.ndarray


def spot_noise(expression: np.ndarray, depths: Depths | None) -> SpotNoise:
    """Noise and shift of training spots from their depth, at the rate that each gene has in all of them together.

    Parameters
    ----------
    expression
        float32, shape (n, genes): log1p(counts per 10,000) of the training spots.
    depths
        Of the same spots; ``None``: all spots are equally noisy, and depth does nothing.
    """
    n, genes = expression.shape
    if depths is None:
        return SpotNoise(np.ones(n), np.zeros((n, 0)), np.zeros((genes, 0)))
    share = (depths.depth / depths.depth.sum() / 1e4).astype(np.float32)
    rate, variance = np.empty((2, genes))
    for start in range(0, genes, 2048):
        some = expression[:, start : start + 2048]
        rate[start : start + 2048] = share @ np.expm1(np.minimum(some, 30))  # given logs may be no log1p
        variance[start : start + 2048] = some.var(0)
    place = np.interp(np.log(np.maximum(rate, 1e-7)), np.log(depths.rates), np.arange(len(depths.rates)))
    below = np.minimum(place.astype(int), len(depths.rates) - 2)
    above = place - below
    nodes = np.bincount(below, 1 - above, len(depths.rates)) + np.bincount(below + 1, above, len(depths.rates))
    level = depths.variance @ nodes / genes + OWN_NOISE * variance.mean() + 1e-12
    return SpotNoise(level / level.mean(), *_depth_shift(depths.mean, nodes, below, above))


def _depth_shift(
    curves: np.ndarray, nodes: np.ndarray, below: np.ndarray, above: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Low-rank factors of the expected log values of every gene at every spot's depth, less their mean over spots.

    Expected values are curves at the spots, shape (n, nodes), interpolated at the genes: ``nodes`` counts the genes
    near each node, and a gene lies ``above`` node ``below`` by a fraction.
    """
    centred = curves - curves.mean(0)
    used = np.flatnonzero(nodes > 0)
    left, singular, right = np.linalg.svd(centred[:, used] * np.sqrt(nodes[used]), full_matrices=False)
    basis = np.zeros((min(DEPTH_RANK, len(singular)), curves.shape[1]))
    basis[:, used] = right[: len(basis)] / np.sqrt(nodes[used])
    shift = left[:, : len(basis)] * singular[: len(basis)]
    return shift, (basis[:, below] * (1 - above) + basis[:, below + 1] * above).T


@dataclass(frozen=True)
class Components:
    """Several ways to take expression apart: each a sum of components and a remainder, to be averaged.

    Parameters
    ----------
    scores
        Shape (n, components).
    loadings
        Shape (genes, components): a way's components times their loadings, plus its remainder, are expression.
    share
        Shape (components,), weight of each component in the average over ways.
    ways
        Indices of the components of every way.
    names
        Of the components, for the record.
    """

    scores: np.ndarray
    loadings: np.ndarray
    share: np.ndarray
    ways: list[np.ndarray]
    names: list[str]

    def sketch(self, centred: np.ndarray, size: int) -> np.ndarray:
        """Random combinations of the genes' remainders, spread evenly over the ways, float64, shape (n, <= ``size``).

        Their mean square is an estimate of the remainder's mean square over genes.
        """
        genes, each = centred.shape[1], max(size // len(self.ways), 1)
        rng = np.random.default_rng(0)
        by_variance = np.argsort(-np.einsum("ig,ig->g", centred, centred), kind="stable")
        columns = []
        for way in self.ways:
            mix = np.empty((genes, each))
            mix[by_variance] = rng.standard_normal((genes, each)) / np.sqrt(genes)
            rest = centred @ mix.astype(np.float32) - self.scores[:, way] @ (self.loadings[:, way].T @ mix)
            columns.append(rest.astype(np.float64))
        return np.concatenate(columns, axis=1)

    def remainder_share(self, centred: np.ndarray) -> np.ndarray:
        """Mean square of each gene's remainder over that of the average gene, shape (genes,)."""
        total = np.einsum("ig,ig->g", centred, centred, dtype=np.float64)
        cross = (centred.T @ self.scores.astype(np.float32)).astype(np.float64)
        square = np.zeros(len(total))
        for way in self.ways:
            loadings, scores = self.loadings[:, way], self.scores[:, way]
            explained = np.einsum("gi,ij,gj->g", loadings, scores.T @ scores, loadings)
            square += np.maximum(total - 2 * (loadings * cross[:, way]).sum(1) + explained, 0)
        return square / max(square.mean(), 1e-30)


def split_components(centred: np.ndarray, noise: SpotNoise, order: np.ndarray) -> Components:
    """Principal components of random halves of the spots, of expression as it is and less what depth does.

    Directions that the halves do not agree on are thus shrunk toward the remainder. What depth does is a component of
    its own, with known scores, so that it may be smoother or rougher than the rest. Spots count by the inverse of their
    noise.

    Parameters
    ----------
    centred
        float32, shape (n, genes): expression less its mean.
    noise
        Of the same spots.
    order
        Shape (n,), a permutation that sorts the spots in a canonical way, so that halves do not depend on their order.
    """
    n, genes = centred.shape
    rank, pairs = min(RANK, genes, max(n // 6, 1)), int(np.clip(1000 // n, 1, 2))
    has_shift = noise.shift.shape[1] > 0
    root = np.sqrt(noise.level)[:, None].astype(np.float32)
    shift = [np.zeros((n, 0)), noise.shift] if has_shift else [np.zeros((n, 0))] * 2
    rng = np.random.default_rng(0)
    scores, loadings = [], []
    for _ in range(pairs):
        for removed in shift:
            shuffled = order[rng.permutation(n)]
            taken = noise.loadings[:, : removed.shape[1]]
            for half in (shuffled[: n // 2], shuffled[n // 2 :]):
                rows = np.sort(half)
                values = centred[rows] - (removed[rows] @ taken.T).astype(np.float32)
                basis = leading_directions(values / root[rows], rank)
                loadings.append(basis)
                scores.append(centred @ basis.astype(np.float32) - removed @ (taken.T @ basis))
    ways = [np.arange(b * rank, (b + 1) * rank) for b in range(len(scores))]
    share = np.full(len(ways) * rank, 1 / len(ways))
    names = [f"{b + 1}.{c + 1}" for b in range(len(ways)) for c in range(rank)]
    if has_shift:
        extra = len(share) + np.arange(noise.shift.shape[1])
        ways = [np.append(way, extra) if b // 2 % 2 else way for b, way in enumerate(ways)]
        share = np.append(share, np.full(len(extra), 0.5))
        names += [f"depth {c + 1}" for c in range(len(extra))]
        scores.append(noise.shift)
        loadings.append(noise.loadings)
    return Components(np.concatenate(scores, 1).astype(np.float64), np.concatenate(loadings, 1), share, ways, names)
