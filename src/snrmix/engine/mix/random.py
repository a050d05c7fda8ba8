"""Strategies that do not choose: no mixing, and mixing with any spot."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from snrmix import _checks
from snrmix.engine.mix.base import Mixing, beta, random_partners, register


@register("none")
@dataclass(frozen=True)
class NoMixing(Mixing):
    """Plain training: every spot is its own partner."""

    k: int = 0

    def draw(self, anchors, table, generator):
        """See `Mixing`."""
        return anchors, torch.ones(*anchors.shape, 1, device=anchors.device)


@register("mixup")
@dataclass(frozen=True)
class Mixup(Mixing):
    """Mixup (Zhang et al. 2017, arXiv:1710.09412): the partner is any training spot of the library, with equal probability.

    Parameters
    ----------
    alpha
        Parameter of the Beta distribution of the mixing share.
    """

    alpha: float = 1.0
    k: int = 0

    def __post_init__(self):
        _checks.positive("alpha", self.alpha)

    def draw(self, anchors, table, generator):
        """See `Mixing`."""
        return random_partners(anchors, table, generator), beta(self.alpha, anchors.shape, generator)


@register("mixup_without_hesitation")
@dataclass(frozen=True)
class MixupWithoutHesitation(Mixup):
    """Mixup Without Hesitation (Yu et al. 2021, arXiv:2101.04342): mixup early, plain training late.

    Until ``explore`` of the training every batch is mixed, after ``exploit`` none; in between the probability that a batch
    is mixed falls linearly from 1 to 0. (The paper alternates mixed and plain batches in the middle stage.)

    Parameters
    ----------
    alpha
        Parameter of the Beta distribution of the mixing share.
    explore, exploit
        Shares of ``max_epochs`` at which plain batches begin, and at which mixing ends.
    """

    explore: float = 0.6
    exploit: float = 0.9

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.explore <= self.exploit <= 1:
            raise ValueError(f"explore={self.explore!r} and exploit={self.exploit!r} must ascend between 0 and 1.")

    def draw(self, anchors, table, generator):
        """See `Mixing`."""
        partners, share = super().draw(anchors, table, generator)
        span = max(self.exploit - self.explore, 1e-9)
        probability = min(max((self.exploit - table.progress) / span, 0.0), 1.0)
        plain = torch.rand(1, generator=generator, device=anchors.device) >= probability
        return torch.where(plain, anchors, partners), share.masked_fill(plain, 1.0)
