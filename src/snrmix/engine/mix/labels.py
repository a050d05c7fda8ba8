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
    """C-Mixup (Yao et al. 2022, arXiv:2210.05775, section 3): the partner is chosen by its label among all spots.

    ``p_ij`` is proportional to ``exp(-d_ij^2 / (2 s^2))`` over all other training spots of the library, with ``d_ij`` the
    distance of their expression and ``s = sigma x median(d)``.

    The authors' program also lets a sample be its own partner. With one label that is rare; with hundreds of genes the
    others are far away against the bandwidth, and a third to two thirds of all draws would be the spot itself (measured on
    three sections), so it is left out here. The authors tune bandwidth and alpha for each data set; here the bandwidth is a
    share of the median distance.

    Parameters
    ----------
    sigma
        Bandwidth as a share of the median distance between random pairs.
    alpha
        Parameter of the Beta distribution of the mixing share.

    Examples
    --------
    >>> snrmix.tl.impute(adata, measured="measured", mix=snrmix.CMixup(sigma=0.5))
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

    During ``warm_up`` all spots are mixed, with the widest bandwidth. From then on spots are sorted out anew before every
    epoch: the share ``trust`` with the smallest error under the current network stays; the others are not trained on in
    that epoch, neither as spots nor as partners. Epochs of the warm-up are not kept.

    What differs from the authors' program: the bandwidth. They train a copy of the network with each of ``sigmas`` for many
    epochs and go on with the best, again after ``L`` epochs, which would multiply the training by their number. Here it is
    chosen once, at the end of the warm-up and among the trusted spots: that with which the mean of a spot's partners
    predicts half of the outputs best when the partners are chosen by the other half. Their warm-up is half of the training,
    and starts it anew from its best epoch; here it is shorter, as early stopping often ends before half.

    Parameters
    ----------
    sigmas
        Candidate bandwidths as shares of the median distance.
    trust
        Share of the training spots that is trusted: one minus the share of noisy spots. The authors put in the noise and
        know its share; of a section it is unknown.
    warm_up
        Share of ``max_epochs`` during which all spots are.
    alpha
        Parameter of the Beta distribution of the mixing share.

    Examples
    --------
    >>> snrmix.tl.impute(adata, measured="measured", mix=snrmix.RCMixup())
    """

    alpha: float = 2.0
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

    @property
    def settled(self) -> float:
        """See `Mixing`: after the warm-up."""
        return self.warm_up

    def bandwidths(self, table: PartnerTable) -> torch.Tensor:
        """See `CMixup`: the widest during the warm-up, then what was chosen."""
        return max(self.sigmas) * table.spread if table.bandwidth is None else table.bandwidth

    def sort_out(self, table: PartnerTable, spots: torch.Tensor, error: torch.Tensor) -> PartnerTable:
        """See `Mixing`: after the warm-up the spots with the smallest errors, and the bandwidth that they ask for."""
        if table.epoch + 1 < self.warm_up * table.epochs:
            return table
        count = max(round(self.trust * spots.shape[1]), 1)
        place = error.topk(count, dim=1, largest=False).indices.sort(1).values
        table = replace(table, train=spots.gather(1, place))
        return table if table.bandwidth is not None else replace(table, bandwidth=self.choose_bandwidths(table))

    def choose_bandwidths(self, table: PartnerTable) -> torch.Tensor:
        """The best of ``sigmas`` for the training spots of every network, times the median distance, shape (K,)."""
        chosen = []
        for head, train in enumerate(table.train):
            errors = torch.stack([_halves_error(table, head, train, sigma) for sigma in self.sigmas])
            chosen.append(table.spread[head] * self.sigmas[int(errors.argmin())])
        return torch.stack(chosen)


def partner_probabilities(
    anchors: torch.Tensor, table: PartnerTable, head: int, bandwidth, labels=None
) -> torch.Tensor:
    """``p_ij`` of some spots (b,) over all training spots of a network, shape (b, n_train); rows of 0 without any."""
    labels, train = table.labels[head] if labels is None else labels, table.train[head]
    logits = -torch.cdist(labels[anchors], labels[train]).square() / (2 * bandwidth.clamp_min(1e-6) ** 2)
    barred = anchors[:, None] == train
    if table.library is not None:
        barred = barred | (table.library[anchors][:, None] != table.library[train])
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
