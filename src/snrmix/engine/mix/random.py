"""Strategies that do not choose: no mixing, and mixing with any spot."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from snrmix import _checks
from snrmix.engine.mix.base import Mixing, beta, random_partners, register


@register("none")
@dataclass(frozen=True)
class NoMixing(Mixing):
    """Plain training: every spot is its own partner.

    Examples
    --------
    >>> snrmix.tl.impute(adata, measured="measured", mix=snrmix.NoMixing())
    """

    k: int = 0

    def draw(self, anchors, table, generator):
        """See `Mixing`."""
        return anchors, torch.ones(*anchors.shape, 1, device=anchors.device)


@register("mixup")
@dataclass(frozen=True)
class Mixup(Mixing):
    """Mixup (Zhang et al. 2017, arXiv:1710.09412, section 2): the partner is any training spot of the library.

    All are equally likely, the spot itself included, and ``lambda ~ Beta(alpha, alpha)``. (The authors' program draws
    partners by shuffling the batch, and one lambda for all of it; here, as the paper has it, every pair is drawn by itself.)

    Parameters
    ----------
    alpha
        Parameter of the Beta distribution of the mixing share.

    Examples
    --------
    >>> snrmix.tl.impute(adata, measured="measured", mix=snrmix.Mixup(alpha=0.4))
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
    """Mixup Without Hesitation (Yu et al. 2021, arXiv:2101.04342): plain training takes the place of mixup by and by.

    Three stages, as in the authors' program: every batch is mixed; then every second epoch is, the others are plain (in the
    paper every second batch); then a batch is mixed with a probability that falls linearly to 0 at the end of the training.

    The stages are shares of ``max_epochs``. Early stopping begins with the third one, and only epochs of that one are kept,
    since a network of the first stage is one of plain mixup (``settled``, see `snrmix.engine.mix.Mixing`). Training thus
    takes nearly ``max_epochs``, where other strategies often stop after half of them:
    ``snrmix.Training(max_epochs=40)`` lets the three stages take about as long as these.

    Parameters
    ----------
    alpha
        Parameter of the Beta distribution of the mixing share.
    explore, exploit
        Shares of ``max_epochs`` at which the second stage and the third stage begin.

    Examples
    --------
    >>> snrmix.tl.impute(adata, measured="measured", mix=snrmix.MixupWithoutHesitation())
    """

    alpha: float = 0.5
    explore: float = 0.6
    exploit: float = 0.9

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.explore <= self.exploit <= 1:
            raise ValueError(f"explore={self.explore!r} and exploit={self.exploit!r} must ascend between 0 and 1.")

    @property
    def settled(self) -> float:
        """See `Mixing`: the third stage."""
        return self.exploit

    def probability(self, table) -> float:
        """That a batch of this epoch is mixed."""
        if table.progress < self.explore:
            return 1.0
        if table.progress < self.exploit:
            return float(table.epoch % 2 == 0)
        return (1 - table.progress) / (1 - self.exploit)

    def draw(self, anchors, table, generator):
        """See `Mixing`."""
        partners, share = super().draw(anchors, table, generator)
        plain = torch.rand(1, generator=generator, device=anchors.device) >= self.probability(table)
        return torch.where(plain, anchors, partners), share.masked_fill(plain, 1.0)
