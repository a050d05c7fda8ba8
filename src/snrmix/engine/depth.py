"""What sequencing depth does by itself: the value that a gene which follows nothing else has at a spot of a given depth.

With ``k ~ Poisson(share * depth)`` the mean of ``log1p(1e4 k / depth)`` grows with depth, and its variance falls. Depth
follows tissue, so that image and neighbours predict it, and with it every gene, whatever its biology. Where shares scatter,
the mean grows less: it is that over the shares which the gene has, and which are taken to be as likely at one depth as at
another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from snrmix.engine.counts import log_count_moments
from snrmix.engine.folds import Fold
from snrmix.engine.linear_algebra import leading_directions
from snrmix.engine.slices import gene_slices, slices

DEPTH_NODES, SHARE_NODES = 64, 160
SMALLEST_SHARE = 1e-8
RATES, MOST_SCATTER = (
    8,
    5.0,
)  # shares that stand for those of a gene, and their largest squared coefficient of variation
SITES_AT_ONCE = 20_000
AXES = 24  # of a predicted profile, which depth is read from
PENALTIES = 10.0 ** np.arange(-2, 4.5, 0.5)


@dataclass(frozen=True)
class CountMoments:
    """Mean and variance of log-normalised counts by share and depth, tabulated. Make it with `tabulate_moments`.

    Parameters
    ----------
    log_depth, log_share
        Shape (depths,) and (shares,), ascending.
    mean_table, variance_table
        Shape (depths, shares).
    """

    log_depth: np.ndarray
    log_share: np.ndarray
    mean_table: np.ndarray
    variance_table: np.ndarray

    def mean(self, share: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """float32, shape (sites, genes), from depths of sites and shares of genes, or some that are equally likely (rows)."""
        return self._at(self.mean_table, share, depth)

    def variance(self, share: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """As `mean`."""
        return self._at(self.variance_table, share, depth)

    def average(self, share: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Mean of `mean` over sites, float64, shape (genes,)."""
        below, above = _place(np.log(np.maximum(depth, 1e-9)), self.log_depth)
        weight = np.zeros(len(self.log_depth))
        np.add.at(weight, below, 1 - above)
        np.add.at(weight, below + 1, above)
        return weight @ self._by_depth(self.mean_table, share) / len(depth)

    def mean_at(self, share: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """float32, shape (sites, genes), from a share for each site and gene, and depths of sites."""
        below, above = _place(np.log(np.maximum(share, SMALLEST_SHARE)), self.log_share)
        row, far = _place(np.log(np.maximum(depth, 1e-9)), self.log_depth)
        row, far, above = row[:, None], far[:, None].astype(np.float32), above.astype(np.float32)
        table = self.mean_table.astype(np.float32)
        lower = table[row, below] * (1 - above) + table[row, below + 1] * above
        upper = table[row + 1, below] * (1 - above) + table[row + 1, below + 1] * above
        return lower * (1 - far) + upper * far

    def _by_depth(self, table: np.ndarray, share: np.ndarray) -> np.ndarray:
        shares = np.log(np.maximum(np.atleast_2d(share), SMALLEST_SHARE))
        by_depth = np.zeros((len(table), shares.shape[1]), np.float32)
        for one in shares:
            below, above = _place(one, self.log_share)
            by_depth += ((table[:, below] * (1 - above) + table[:, below + 1] * above) / len(shares)).astype(np.float32)
        return by_depth

    def _at(self, table: np.ndarray, share: np.ndarray, depth: np.ndarray) -> np.ndarray:
        by_depth = self._by_depth(table, share)
        below, above = _place(np.log(np.maximum(depth, 1e-9)), self.log_depth)
        above = above[:, None].astype(np.float32)
        return by_depth[below] * (1 - above) + by_depth[below + 1] * above


def _place(values: np.ndarray, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Node below each value, and how far it is to the next, 0 to 1; values beyond the nodes are at the ends."""
    place = np.interp(values, nodes, np.arange(len(nodes)))
    below = np.minimum(place.astype(int), len(nodes) - 2)
    return below, place - below


def tabulate_moments(depth: np.ndarray) -> CountMoments:
    """Moments for depths from half the smallest to twice the largest of those given."""
    nodes = np.geomspace(0.5 * np.nanmin(depth), 2 * np.nanmax(depth), DEPTH_NODES)
    shares = np.geomspace(SMALLEST_SHARE, 1.0, SHARE_NODES)
    tables = [log_count_moments(shares * d, np.array([1e4 / d])) for d in nodes]
    mean, variance = (np.concatenate([moments[part] for moments in tables]) for part in (0, 1))
    return CountMoments(np.log(nodes), np.log(shares), mean, variance)


def pooled_share(expression: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Share of all counts that each gene has over some spots together, shape (genes,).

    Parameters
    ----------
    expression
        log1p(counts per 10,000), shape (n, genes).
    depth
        Shape (n,).
    """
    weight = (depth / depth.sum() / 1e4).astype(np.float32)
    columns = gene_slices(len(expression), expression.shape[1])
    return np.concatenate([weight @ np.expm1(np.minimum(expression[:, some], 30)) for some in columns]).astype(float)


def gene_rates(expression: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Shares of all counts that each gene has at spots, equally likely ones, shape (`RATES`, genes).

    Their mean is the `pooled_share`, and they scatter as counts do beyond Poisson's, by the method of moments: parts of a gamma
    distribution.

    Parameters
    ----------
    expression, depth
        As for `pooled_share`.
    """
    from scipy.stats import gamma

    share, scatter = pooled_share(expression, depth), []
    for some in gene_slices(len(expression), expression.shape[1]):
        counts = np.expm1(np.minimum(expression[:, some], 30)) * (depth[:, None] / 1e4)
        expected = share[some] * depth[:, None]
        excess, square = ((counts - expected) ** 2 - counts).sum(0), (expected**2).sum(0)
        scatter.append(excess / np.maximum(square, 1e-12))
    scatter = np.clip(np.concatenate(scatter), 1e-3, MOST_SCATTER)
    parts = gamma.ppf((np.arange(RATES) + 0.5)[:, None] / RATES, 1 / scatter)
    return share * parts / parts.mean(0)


def constant_share(
    expression: np.ndarray, depth: np.ndarray, library: np.ndarray, folds: Sequence[Fold], *at: np.ndarray
) -> list[np.ndarray]:
    """Out-of-fold values of genes that follow depth alone, with the shares of the training spots, float32, each (measured, genes).

    The mean of the training spots, and what the Poisson distribution says of the difference of depths. The mean is that
    of the spot's library where the training spots have some of it.

    Parameters
    ----------
    expression
        Of the measured spots, shape (measured, genes).
    depth, library
        Of the same spots.
    folds
        Of the same spots.
    at
        Each of shape (measured,): the depth that is assumed of each spot when it is held out, known or predicted.
    """
    at = [np.where(np.isfinite(one), one, np.median(depth)) for one in at]  # nothing is known: as deep as any
    moments, found = tabulate_moments(np.concatenate([depth, *at])), [np.full_like(expression, np.nan) for _ in at]
    for some, fold in product(gene_slices(*expression.shape), folds):
        share = gene_rates(expression[fold.train, some], depth[fold.train])
        for code in np.unique(library[fold.held_out]):
            train = fold.train[library[fold.train] == code]
            train, rows = train if len(train) else fold.train, fold.held_out[library[fold.held_out] == code]
            base = _base(expression[train, some], moments, share, depth[train])
            for values, one in zip(found, at, strict=True):
                values[rows, some] = moments.mean(share, one[rows]) + base
    return found


def constant_share_at(
    expression: np.ndarray, depth: np.ndarray, library: np.ndarray, targets: np.ndarray, at: np.ndarray
) -> np.ndarray:
    """The same for other sites, float32, (targets, genes): ``targets`` are their libraries, ``at`` their depths."""
    moments, share = tabulate_moments(np.append(depth, at)), gene_rates(expression, depth)
    found = moments.mean(share, at)
    for code in np.unique(targets):
        train = np.flatnonzero(library == code) if (library == code).any() else np.arange(len(library))
        found[targets == code] += _base(expression[train], moments, share, depth[train])
    return found


def _base(expression: np.ndarray, moments: CountMoments, share: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """What the mean of spots has beyond Poisson counts of such shares, shape (genes,)."""
    return (expression.mean(0, dtype=np.float64) - moments.average(share, depth)).astype(np.float32)


def move_depth(
    values: np.ndarray, moments: CountMoments, share: np.ndarray, before: np.ndarray, after: np.ndarray
) -> np.ndarray:
    """Values for spots of one depth as they would be at another, not below 0, float32, shape (n, genes).

    The difference of the means that a gene which follows depth alone has at the two depths is added: exact for such genes, and
    an approximation where the local share is another.

    Parameters
    ----------
    values
        Shape (n, genes).
    before, after
        Shape (n,).
    """
    moved = np.empty(values.shape, np.float32)
    for some in slices(len(values), SITES_AT_ONCE):
        shift = moments.mean(share, after[some]) - moments.mean(share, before[some])
        moved[some] = np.maximum(values[some] + shift, 0)
    return moved


@dataclass(frozen=True)
class DepthReader:
    """Depth from a predicted profile, where nothing else tells it: ridge regression of log depth. See `fit_depth_reader`.

    Parameters
    ----------
    coefficients
        Shape (genes,).
    intercept
        Log depth where all genes are 0.
    """

    coefficients: np.ndarray
    intercept: float

    def read(self, predicted: np.ndarray) -> np.ndarray:
        """Depth, shape (n,), from predictions, shape (n, genes)."""
        return np.exp(self.intercept + predicted.astype(np.float64) @ self.coefficients)


def fit_depth_reader(predicted: np.ndarray, depth: np.ndarray) -> DepthReader:
    """Regress log depth on the leading axes of out-of-fold predictions, with the penalty of least leave-one-out error.

    Parameters
    ----------
    predicted
        Shape (n, genes).
    depth
        Shape (n,).
    """
    mean, target = predicted.mean(0, dtype=np.float64), np.log(depth)
    axes = leading_directions((predicted - mean).astype(np.float32), min(AXES, predicted.shape[1], len(depth) // 4))
    scores, centred = (predicted - mean) @ axes, target - target.mean()
    left, singular, right = np.linalg.svd(scores, full_matrices=False)
    rotated, best = left.T @ centred, None
    for penalty in PENALTIES * np.mean(singular**2) / len(depth):
        kept = singular**2 / np.maximum(singular**2 + penalty, 1e-12)  # predictions that are all alike tell nothing
        residual = (centred - left @ (kept * rotated)) / (1 - left**2 @ kept - 1 / len(depth))
        error = np.mean(residual**2)
        if best is None or error < best[0]:
            best = error, axes @ (right.T @ (kept / np.maximum(singular, 1e-12) * rotated))
    return DepthReader(best[1], float(target.mean() - mean @ best[1]))
