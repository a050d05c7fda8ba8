"""Strategies that choose the partner by its label among all spots."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from snrmix import _checks
from snrmix.engine.mix.base import Mixing, PartnerTable, TrainingSpots, beta, median_distance, register


@register("cmixup")
@dataclass(frozen=True)
class CMixup(Mixing):
    """C-Mixup (Yao et al. 2022, arXiv:2210.05775): the partner is any spot of the library, chosen by its label.

    ``p_ij`` is proportional to ``exp(-d_ij^2 / (2 s^2))`` over all other training spots of the library, with ``d_ij`` the
    distance of their expression and ``s = sigma x median(d)``.

    Parameters
    ----------
    sigma
        Bandwidth as a share of the median distance between random pairs.
    alpha
        Parameter of the Beta distribution of the mixing share.
    """

    sigma: float = 0.25
    alpha: float = 1.0
    k: int = 0

    def __post_init__(self):
        _checks.positive("sigma", self.sigma)
        _checks.positive("alpha", self.alpha)

    def tabulate(self, spots: TrainingSpots, k: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """See `Mixing`: the labels of all spots, and their median distance."""
        spread = np.float32(median_distance(spots.values[spots.spots], rng))
        return {**super().tabulate(spots, k, rng), "labels": spots.values, "spread": spread}

    def draw(self, anchors, table, generator):
        """See `Mixing`."""
        partners = torch.empty_like(anchors)
        alone = torch.zeros_like(anchors, dtype=torch.bool)
        for head in range(len(anchors)):
            probability = partner_probabilities(anchors[head], table, head, self.bandwidths(table)[head])
            alone[head] = probability.sum(1) == 0
            place = torch.multinomial(
                probability.masked_fill(alone[head][:, None], 1.0), 1, generator=generator
            )[:, 0]  # fmt: skip
            partners[head] = table.train[head, place]
        share = beta(self.alpha, anchors.shape, generator)
        return torch.where(alone, anchors, partners), share.masked_fill(alone[..., None], 1.0)

    def bandwidths(self, table: PartnerTable) -> torch.Tensor:
        """Bandwidth of every network, shape (K,)."""
        return self.sigma * table.spread


@register("rcmixup")
@dataclass(frozen=True)
class RCMixup(CMixup):
    """RC-Mixup (Hwang et al. 2024, arXiv:2405.17938): C-Mixup among spots whose labels can be trusted.

    After ``warm_up`` of the training, spots are sorted out anew in every epoch: the share ``trust`` with the smallest error
    under the current network stays, the others are not mixed and are nobody's partner. The bandwidth is chosen
    against noise: among ``sigmas``, the one with which the mean of a spot's partners predicts half of the outputs best when
    the partners are chosen by the other half. (The publication trains a copy of the network with each bandwidth instead.)

    Parameters
    ----------
    sigmas
        Candidate bandwidths as shares of the median distance.
    trust
        Share of the training spots that is trusted.
    warm_up
        Share of ``max_epochs`` during which all spots are.
    alpha
        Parameter of the Beta distribution of the mixing share.
    """

    sigmas: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
    trust: float = 0.9
    warm_up: float = 0.1

    needs_errors = True

    def __post_init__(self):
        super().__post_init__()
        for sigma in self.sigmas:
            _checks.positive("sigmas", sigma)
        if not 0 < self.trust <= 1 or not 0 <= self.warm_up <= 1:
            raise ValueError(f"trust={self.trust!r} and warm_up={self.warm_up!r} must be shares between 0 and 1.")

    def draw(self, anchors, table, generator):
        """See `Mixing`."""
        partners, share = super().draw(anchors, table, generator)
        if table.trusted is None:
            return partners, share
        doubtful = ~table.trusted[table.heads(), anchors]
        return torch.where(doubtful, anchors, partners), share.masked_fill(doubtful[..., None], 1.0)

    def bandwidths(self, table: PartnerTable) -> torch.Tensor:
        """See `CMixup`: chosen once, kept by the table in place of the median distance."""
        return table.spread

    def prepare(self, table: PartnerTable) -> PartnerTable:
        """The table with every network's bandwidth in place of the median distance."""
        chosen = []
        for head, train in enumerate(table.train):
            errors = torch.stack([_halves_error(table, head, train, sigma) for sigma in self.sigmas])
            chosen.append(table.spread[head] * self.sigmas[int(errors.argmin())])
        return replace(table, spread=torch.stack(chosen))

    def sort_out(self, table: PartnerTable, error: torch.Tensor) -> PartnerTable:
        """The table with those spots trusted whose error, shape (K, n_train), is smallest."""
        if table.progress < self.warm_up:
            return table
        limit = torch.quantile(error, self.trust, dim=1, keepdim=True)
        trusted = torch.zeros(table.weight.shape[:2], dtype=torch.bool, device=error.device)
        return replace(table, trusted=trusted.scatter(1, table.train, error <= limit))


def partner_probabilities(
    anchors: torch.Tensor, table: PartnerTable, head: int, bandwidth, labels=None
) -> torch.Tensor:
    """``p_ij`` of some spots (b,) over all training spots of a network, shape (b, n_train); rows of 0 without any."""
    labels, train = table.labels[head] if labels is None else labels, table.train[head]
    logits = -torch.cdist(labels[anchors], labels[train]).square() / (2 * bandwidth.clamp_min(1e-6) ** 2)
    barred = anchors[:, None] == train
    if table.library is not None:
        barred = barred | (table.library[anchors][:, None] != table.library[train])
    if table.trusted is not None:
        barred = barred | ~table.trusted[head, train]
    logits = logits.masked_fill(barred, -torch.inf)
    return torch.softmax(logits, 1).masked_fill(barred.all(1, keepdim=True), 0.0)


def _halves_error(table: PartnerTable, head: int, train: torch.Tensor, sigma: float, most: int = 1024) -> torch.Tensor:
    """Squared error of predicting one half of the outputs by partners chosen by the other half, and the reverse."""
    labels, some = table.labels[head], train[:: -(-len(train) // most)]
    halves, total = (slice(0, None, 2), slice(1, None, 2)), torch.zeros((), device=labels.device)
    for seen, hidden in (halves, halves[::-1]) if labels.shape[1] > 1 else ():
        # A half of the outputs has 1 / sqrt(2) of the distance.
        bandwidth = sigma * table.spread[head] / 2**0.5
        probability = partner_probabilities(some, table, head, bandwidth, labels[:, seen])
        total = total + (probability @ labels[train][:, hidden] - labels[some][:, hidden]).square().mean()
    return total
