from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from snrmix._names import closest, listing

BANDWIDTH_PAIRS = 4096


@dataclass(frozen=True)
class PartnerTable:
    """Whom a training spot may be mixed with, for K networks at once.

    Parameters
    ----------
    train
        int64, shape (K, n_train): indices of the training spots of each network.
    index
        int64, shape (K, n, k): graph neighbours of spot ``i`` among the training spots; any value where the weight is 0.
    weight
        float32, shape (K, n, k): probabilities, summing to 1, or to 0 for a spot without neighbours.
    """

    train: torch.Tensor
    index: torch.Tensor
    weight: torch.Tensor

    def to(self, device) -> PartnerTable:
        """The same table on a device."""
        return PartnerTable(self.train.to(device), self.index.to(device), self.weight.to(device))


class Mixing(Protocol):
    """A mixing strategy: how many graph neighbours it wants, and whom it draws.

    One that wants neighbours (``k > 0``) also has ``sigma``: their weights in the table are those of `expression_weights`.
    """

    k: int

    def draw(
        self, anchors: torch.Tensor, table: PartnerTable, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Partners and mixing shares of a batch: anchors (K, b) in; partners (K, b) and lambda (K, b, 1) out."""
        ...


MIXINGS: dict[str, Callable[[], Mixing]] = {}


def register(name: str):
    """Make a strategy known by name."""

    def add(strategy):
        MIXINGS[name] = strategy
        return strategy

    return add


@register("none")
@dataclass(frozen=True)
class NoMixing:
    """Plain training: every spot is its own partner."""

    k: int = 0

    def draw(self, anchors, table, generator):
        """See `Mixing`."""
        return anchors, torch.ones(*anchors.shape, 1, device=anchors.device)


@register("mixup")
@dataclass(frozen=True)
class Mixup:
    """Mixup (Zhang et al. 2017): the partner is any training spot, with equal probability."""

    alpha: float = 1.0
    k: int = 0

    def __post_init__(self):
        _positive("alpha", self.alpha)

    def draw(self, anchors, table, generator):
        """See `Mixing`."""
        place = torch.randint(table.train.shape[1], anchors.shape, generator=generator, device=anchors.device)
        return table.train.gather(1, place), beta(self.alpha, anchors.shape, generator)


@register("snr")
@dataclass(frozen=True)
class SNRMixing:
    """SNR-ST-Mix (arXiv:2606.08712): the partner is a spatial neighbour, chosen by similarity of expression.

    ``p_ij`` is proportional to ``exp(-d_ij^2 / (2 s^2))`` over the ``k`` nearest training spots ``j`` of the same
    library, with ``d_ij`` the distance of their expression and ``s = sigma x median(d)`` over random pairs;
    ``lambda ~ Beta(alpha, alpha)``. A spot without neighbours is not mixed.

    Parameters
    ----------
    k
        Spatial neighbours to choose from.
    sigma
        Bandwidth as a share of the median distance; the paper uses 1/4 and 1/2.
    alpha
        Parameter of the Beta distribution of the mixing share.

    Raises
    ------
    ValueError
        When one of them is not positive.
    """

    k: int = 30
    sigma: float = 0.25
    alpha: float = 1.0

    def __post_init__(self):
        for name in ("k", "sigma", "alpha"):
            _positive(name, getattr(self, name))

    def draw(self, anchors, table, generator):
        """See `Mixing`."""
        heads = torch.arange(len(anchors), device=anchors.device)[:, None]
        weight = table.weight[heads, anchors]
        alone = weight.sum(-1) == 0
        flat = weight.masked_fill(alone[..., None], 1.0).flatten(0, 1)
        place = torch.multinomial(flat, 1, generator=generator).view_as(anchors)
        partners = table.index[heads, anchors].gather(2, place[..., None])[..., 0]
        share = beta(self.alpha, anchors.shape, generator)
        return torch.where(alone, anchors, partners), share.masked_fill(alone[..., None], 1.0)


def resolve_mixing(mix) -> Mixing:
    """A strategy by name or as object.

    Raises
    ------
    ValueError, TypeError
        For an unknown name, or an object without ``draw`` or ``k``.
    """
    if isinstance(mix, str):
        if mix not in MIXINGS:
            raise ValueError(f"unknown mix={mix!r}; available: {listing(MIXINGS)}.{closest(mix, MIXINGS)}")
        return MIXINGS[mix]()
    if isinstance(mix, type) or not callable(getattr(mix, "draw", None)) or not hasattr(mix, "k"):
        raise TypeError(f"mix must be a name ({listing(MIXINGS)}) or a strategy object, not {mix!r}.")
    return mix


def beta(alpha: float, shape, generator: torch.Generator) -> torch.Tensor:
    """Draw from Beta(alpha, alpha), shape (*shape, 1)."""
    size = (*shape, 1)
    if alpha == 1.0:
        return torch.rand(size, generator=generator, device=generator.device)
    gamma = torch._standard_gamma(torch.full((2, *size), float(alpha), device=generator.device), generator=generator)
    return (gamma[0] / gamma.sum(0).clamp_min(torch.finfo(torch.float32).tiny)).clamp(0, 1)


def expression_weights(
    neighbours: np.ndarray, values: np.ndarray, sigma: float, rng: np.random.Generator
) -> np.ndarray:
    """Gaussian kernel of expression distance along the edges of a graph, normalised over each spot's neighbours.

    Parameters
    ----------
    neighbours
        Shape (n, k), rows of ``values``; -1 where a spot has fewer neighbours.
    values
        Shape (n, genes).
    sigma
        Bandwidth as a share of the median distance between random pairs.
    rng
        Draws the pairs.

    Returns
    -------
    numpy.ndarray
        float32, shape (n, k); rows sum to 1, or to 0 without neighbours.
    """
    n = len(values)
    first, second = rng.integers(n, size=(2, BANDWIDTH_PAIRS))
    pairs = np.linalg.norm(values[first] - values[second], axis=1)[first != second]
    bandwidth = max(sigma * float(np.median(pairs)) if len(pairs) else 0.0, 1e-6)
    squared = np.empty(neighbours.shape)
    for start in range(0, n, 1024):
        rows = slice(start, start + 1024)
        squared[rows] = ((values[rows, None] - values[neighbours[rows]]) ** 2).sum(-1, dtype=np.float64)
    logits = np.where(neighbours < 0, -np.inf, -squared / (2 * bandwidth**2))
    top = logits.max(1, keepdims=True, initial=-np.inf)
    weight = np.exp(logits - np.where(np.isfinite(top), top, 0.0))
    return (weight / np.maximum(weight.sum(1, keepdims=True), 1e-300)).astype(np.float32)


def _positive(name: str, value) -> None:
    if not value > 0:
        raise ValueError(f"{name}={value!r} must be positive.")
