"""SNR-ST-Mix: the partner is a neighbour in a graph, chosen by its expression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from snrmix import _checks
from snrmix.engine.mix.base import Mixing, TrainingSpots, beta, median_distance, register

CHOICES = {
    "graph": ("spatial", "expression"),
    "kernel": ("gaussian", "exponential"),
    "edge": ("drawn", "all"),
}


@register("snr")
@dataclass(frozen=True)
class SNRMixing(Mixing):
    """SNR-ST-Mix (arXiv:2606.08712): the partner is a spatial neighbour, chosen by similarity of expression.

    ``p_ij`` is proportional to ``exp(-d_ij^2 / (2 s^2))`` over the ``k`` nearest training spots ``j`` of the same
    library, with ``d_ij`` the distance of their expression and ``s = sigma x median(d)`` over random pairs;
    ``lambda ~ Beta(alpha, alpha)``. A spot without neighbours is not mixed.

    The defaults follow the paper. ``mix="snr_expression"`` is what the authors' program does instead:
    ``SNRMixing(k=10, sigma=0.5, graph="expression", kernel="exponential", count_self=True, edge="all")``.

    Parameters
    ----------
    k
        Neighbours to choose from.
    sigma
        Bandwidth as a share of the median distance; the paper uses 1/4 and 1/2.
    alpha
        Parameter of the Beta distribution of the mixing share.
    graph
        ``"spatial"``: nearest in the tissue; ``"expression"``: nearest in expression, positions play no part.
    kernel
        ``"gaussian"``, or ``"exponential"``: ``exp(-d_ij / (2 s^2))``, which makes neighbours almost equally likely. The
        latter depends on the unit of ``d``: log1p of counts per 10,000.
    count_self
        Whether a spot counts as one of its own ``k`` neighbours, so that ``k - 1`` others are left.
    edge
        Weight of a pair in the edge term: ``"drawn"``: 1, as pairs are drawn with probability ``p_ij`` already;
        ``"all"``: the kernel normalised over all training spots, about ``1 / n`` where it is flat.

    Raises
    ------
    ValueError
        When a number is not positive, or a choice unknown.

    Examples
    --------
    >>> snrmix.tl.impute(adata, measured="measured", mix=snrmix.SNRMixing(k=10))
    """

    k: int = 30
    sigma: float = 0.25
    alpha: float = 1.0
    graph: str = "spatial"
    kernel: str = "gaussian"
    count_self: bool = False
    edge: str = "drawn"

    def __post_init__(self):
        for name in ("k", "sigma", "alpha"):
            _checks.positive(name, getattr(self, name))
        if self.k <= self.count_self:
            raise ValueError(f"k={self.k!r} must be 2 or more with count_self=True.")
        for name, known in CHOICES.items():
            _checks.choice(name, getattr(self, name), known)

    def tabulate(self, spots: TrainingSpots, k: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """See `Mixing`: neighbours of the training spots, and the probability of each."""
        if k == 0:
            return super().tabulate(spots, k, rng)
        n, train = len(spots.values), spots.spots
        values = spots.values[train] * spots.scale
        near = spots.neighbours(train, k, *([values] if self.graph == "expression" else []))
        bandwidth = expression_bandwidth(values, self.sigma, rng)
        index, weight = np.zeros((n, k), np.int64), np.zeros((n, k), np.float32)
        index[train] = train[np.maximum(near, 0)]
        weight[train] = expression_weights(near, values, bandwidth, self.kernel)
        if self.edge == "drawn":
            return {"index": index, "weight": weight}
        share = np.zeros(n, np.float32)
        share[train] = share_of_all(near, values, spots.library[train], bandwidth, self.kernel)
        return {"index": index, "weight": weight, "share_of_all": share}

    def draw(self, anchors, table, generator):
        """See `Mixing`."""
        heads = table.heads()
        weight = table.weight[heads, anchors]
        alone = weight.sum(-1) == 0
        flat = weight.masked_fill(alone[..., None], 1.0).flatten(0, 1)
        place = torch.multinomial(flat, 1, generator=generator).view_as(anchors)
        partners = table.index[heads, anchors].gather(2, place[..., None])[..., 0]
        share = beta(self.alpha, anchors.shape, generator)
        return torch.where(alone, anchors, partners), share.masked_fill(alone[..., None], 1.0)

    def edge_weight(self, anchors, partners, table) -> torch.Tensor | None:
        """``w_ij`` of the edge term, shape (K, b, 1); ``None`` for 1."""
        if self.edge == "drawn":
            return None
        heads = table.heads()
        is_partner = table.index[heads, anchors] == partners[..., None]
        probability = (table.weight[heads, anchors] * is_partner).sum(-1)
        return (probability * table.share_of_all[heads, anchors])[..., None]


@register("snr_expression")
def snr_expression() -> SNRMixing:
    """SNR-ST-Mix as in the authors' program, see `SNRMixing`."""
    return SNRMixing(k=10, sigma=0.5, graph="expression", kernel="exponential", count_self=True, edge="all")


def expression_weights(
    neighbours: np.ndarray, values: np.ndarray, bandwidth: float, kernel: str = "gaussian"
) -> np.ndarray:
    """Kernel of expression distance along the edges of a graph, normalised over each spot's neighbours.

    Parameters
    ----------
    neighbours
        Shape (n, k), rows of ``values``; -1 where a spot has fewer neighbours.
    values
        Shape (n, genes).
    bandwidth
        See `expression_bandwidth`.
    kernel
        See `SNRMixing`.

    Returns
    -------
    numpy.ndarray
        float32, shape (n, k); rows sum to 1, or to 0 without neighbours.
    """
    squared = np.empty(neighbours.shape)
    for start in range(0, len(values), 1024):
        rows = slice(start, start + 1024)
        squared[rows] = ((values[rows, None] - values[neighbours[rows]]) ** 2).sum(-1, dtype=np.float64)
    weight = _kernel(np.where(neighbours < 0, np.inf, squared), bandwidth, kernel)
    return (weight / np.maximum(weight.sum(1, keepdims=True), 1e-300)).astype(np.float32)


def share_of_all(
    neighbours: np.ndarray, values: np.ndarray, library: np.ndarray, bandwidth: float, kernel: str
) -> np.ndarray:
    """The kernel summed over a spot's neighbours over its sum over all other spots of the library, float32, shape (n,)."""
    norm, share = (values.astype(np.float64) ** 2).sum(1), np.zeros(len(values), np.float32)
    for start in range(0, len(values), 1024):
        rows = np.arange(start, min(start + 1024, len(values)))
        squared = np.maximum(norm[rows, None] + norm - 2.0 * (values[rows] @ values.T), 0)
        squared[library[rows, None] != library] = np.inf
        squared[np.arange(len(rows)), rows] = np.inf
        weight = _kernel(squared, bandwidth, kernel)
        near = np.where(neighbours[rows] < 0, 0.0, np.take_along_axis(weight, np.maximum(neighbours[rows], 0), 1))
        share[rows] = near.sum(1) / np.maximum(weight.sum(1), 1e-300)
    return share


def expression_bandwidth(values: np.ndarray, sigma: float, rng: np.random.Generator) -> float:
    """``sigma`` times the median distance between random pairs of rows, at least 1e-6."""
    return max(sigma * median_distance(values, rng), 1e-6)


def _kernel(squared: np.ndarray, bandwidth: float, kernel: str) -> np.ndarray:
    """The kernel of squared distances, row by row in units of its largest value, so that outliers do not underflow."""
    logits = -(squared if kernel == "gaussian" else np.sqrt(squared)) / (2 * bandwidth**2)
    top = logits.max(1, keepdims=True, initial=-np.inf)
    return np.exp(logits - np.where(np.isfinite(top), top, 0.0))
