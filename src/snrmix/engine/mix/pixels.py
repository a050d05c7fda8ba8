"""Strategies that cut and paste parts of images; they need a network that is trained on pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from snrmix import _checks
from snrmix.engine.mix.base import Mixing, PartnerTable, random_partners, register
from snrmix.engine.mix.random import Mixup


@register("cutmix")
@dataclass(frozen=True)
class CutMix(Mixup):
    """CutMix (Yun et al. 2019, arXiv:1905.04899, equations 1 and 2): a box of the partner's patch is pasted.

    Its sides are ``sqrt(1 - lambda)`` of the patch's, its centre lies anywhere, and what lies outside is cut off; labels are
    mixed by area. All batches are mixed, as the authors do for ImageNet (half of them for CIFAR). (In the authors' program
    all pairs of a batch share one box; here every pair has its own.)

    Examples
    --------
    >>> options = {"finetune": True, "mix": snrmix.CutMix()}  # of snrmix.tl.impute: it needs pixels
    """

    needs_pixels = True

    def blend(
        self, first, second, share, generator, table: PartnerTable, saliency=None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mixed patches and the share of the first one in each.

        Parameters
        ----------
        first, second
            Patches of spots and partners in 0..1, shape (b, channels, height, width).
        share
            What ``draw`` returned for them, shape (b, 1): lambda, the share of the first patch that is asked for.
        generator
            Draws what is random.
        table
            Tells the epoch to strategies with a schedule.
        saliency
            For strategies with ``needs_saliency``: of both patches, each (b, height, width).

        Returns
        -------
        tuple
            Mixed patches, and shape (b, 1): the share of the first patch in their area, by which labels are mixed.
        """
        height, width = first.shape[2:]
        cut = (1 - share).sqrt()
        centre = torch.rand(len(first), 2, generator=generator, device=first.device)
        inside = torch.ones(len(first), height, width, dtype=torch.bool, device=first.device)
        for axis, size in enumerate((height, width)):
            middle, half = centre[:, [axis]] * size, cut * size / 2
            places = torch.arange(size, device=first.device) + 0.5
            near = (places >= middle - half) & (places < middle + half)
            inside = inside & (near[:, :, None] if axis == 0 else near[:, None])
        return paste(first, second, ~inside)


@register("cellmix")
@dataclass(frozen=True)
class CellMix(Mixing):
    """CellMix (Zhang et al. 2023, arXiv:2301.11513): cells of two patches change places, each within its own position.

    Some cells are fixed, the same ones in a batch; each of the others comes from either patch with equal probability;
    labels are mixed by the number of cells. This is the authors' ``CellMix-Group``, which shuffles pairs; their
    ``CellMix-Split`` shuffles the whole batch, so that a patch has as many labels, which the losses here do not know.

    The authors' curriculum, with their ``"loop"`` for the size of cells and ``"ratio-decay"`` for the fixed share: after a
    warm-up the size changes with every epoch, from small to large and over again, through all multiples of ``cell`` that
    divide the side of the patch into two or more (half the side where there is none), and the share that is fixed falls
    linearly from three times ``fixed``, at most 0.9, to half of it, at least 0.2. Their variants that slow the decay down
    where the loss is above a threshold of cross-entropy have no counterpart for squared error.

    Parameters
    ----------
    cell
        Side of the smallest cells in pixels.
    fixed
        Share of the cells that stay during the warm-up.
    warm_up
        Share of ``max_epochs`` with this share, and cells of twice ``cell``.
    probability
        That a batch is mixed at all.

    Examples
    --------
    >>> options = {"finetune": True, "mix": snrmix.CellMix()}  # of snrmix.tl.impute: it needs pixels
    """

    cell: int = 16
    fixed: float = 0.5
    warm_up: float = 0.1
    probability: float = 0.5
    k: int = 0

    needs_pixels = True

    def __post_init__(self):
        _checks.whole_number("cell", self.cell)
        for name in ("fixed", "warm_up", "probability"):
            _checks.share(name, getattr(self, name))

    def draw(self, anchors, table, generator):
        """See `Mixing`; the share is that of the cells that are fixed."""
        partners = random_partners(anchors, table, generator)
        plain = torch.rand(1, generator=generator, device=anchors.device) >= self.probability
        share = torch.full((*anchors.shape, 1), self.fixed_share(table), device=anchors.device)
        return torch.where(plain, anchors, partners), share.masked_fill(plain, 1.0)

    def fixed_share(self, table: PartnerTable) -> float:
        """Share of the cells that are fixed in this epoch."""
        if table.progress < self.warm_up:
            return self.fixed
        left = (1 - table.progress) / (1 - self.warm_up)
        most, least = min(3 * self.fixed, 0.9), max(self.fixed / 2, 0.2)
        return min(max(left * most, least), most)

    def side(self, table: PartnerTable, size: int) -> int:
        """Side of the cells in this epoch, for patches of this size, in pixels."""
        sides = [side for side in range(self.cell, size // 2 + 1, self.cell) if size % side == 0] or [max(size // 2, 1)]
        if table.progress < self.warm_up:
            return min(sides, key=lambda side: abs(side - 2 * self.cell))
        first = next(epoch for epoch in range(table.epochs) if epoch / table.epochs >= self.warm_up)
        return sides[(table.epoch - first) % len(sides)]

    def blend(self, first, second, share, generator, table: PartnerTable, saliency=None):
        """See `CutMix.blend`."""
        size = min(first.shape[2:])
        grid = size // self.side(table, size)
        cells = grid**2
        rank = torch.rand(1, cells, generator=generator, device=first.device).argsort(1).argsort(1)
        fixed = rank < torch.floor(share * cells + 1e-4)
        own = torch.rand(len(first), cells, generator=generator, device=first.device) < 0.5
        return paste(first, second, enlarge((fixed | own).view(-1, grid, grid), first.shape[2:]))


def paste(first: torch.Tensor, second: torch.Tensor, kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first patches to the extent of ``kept``, bool or 0..1, (b, height, width), and the second; and its mean, (b, 1)."""
    kept = kept.to(first.dtype)
    return torch.lerp(second, first, kept[:, None]), kept.mean((1, 2))[:, None]


def enlarge(cells: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """A grid of cells, (b, grid, grid), as masks of (b, height, width); the last row and column take what is left."""
    grid = cells.shape[1]
    rows, columns = (
        (torch.arange(n, device=cells.device) // max(n // grid, 1)).clamp_max(grid - 1) for n in size
    )  # fmt: skip
    return cells[:, rows][:, :, columns]
