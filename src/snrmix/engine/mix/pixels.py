"""Strategies that cut and paste parts of images; they need a network that is trained on pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from snrmix import _checks
from snrmix.engine.mix.base import register
from snrmix.engine.mix.random import Mixup


@register("cutmix")
@dataclass(frozen=True)
class CutMix(Mixup):
    """CutMix (Yun et al. 2019, arXiv:1905.04899): a box of the partner's patch is pasted, labels are mixed by area."""

    needs_pixels = True

    def blend(self, first, second, share, generator, saliency=None) -> tuple[torch.Tensor, torch.Tensor]:
        """Mixed patches and the share of the first one in each.

        Parameters
        ----------
        first, second
            Patches of spots and partners, shape (b, channels, height, width).
        share
            lambda, shape (b, 1): the share of the first patch that is asked for.
        generator
            Draws what is random.
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
class CellMix(Mixup):
    """CellMix (Zhang et al. 2023, arXiv:2301.11513): cells of a grid come from the partner's patch, each in its place.

    Of ``grid x grid`` cells, those to replace are drawn at random; labels are mixed by their number. (The publication
    shuffles cells among all images of a batch; here a patch and its partner are mixed, as in all strategies.)

    Parameters
    ----------
    alpha
        Parameter of the Beta distribution of the share that stays.
    grid
        Cells along a side.
    """

    grid: int = 4

    needs_pixels = True

    def __post_init__(self):
        super().__post_init__()
        _checks.positive("grid", self.grid)

    def blend(self, first, second, share, generator, saliency=None):
        """See `CutMix.blend`."""
        cells = self.grid**2
        rank = torch.rand(len(first), cells, generator=generator, device=first.device).argsort(1).argsort(1)
        kept = rank < torch.round(share * cells)
        return paste(first, second, enlarge(kept.view(-1, self.grid, self.grid), first.shape[2:]))


@register("puzzlemix")
@dataclass(frozen=True)
class PuzzleMix(Mixup):
    """Puzzle Mix (Kim et al. 2020, arXiv:2009.06962): each block comes from the patch where it is more salient.

    On a grid of blocks, the mask minimises the saliency that is lost, plus ``smooth`` for every pair of adjacent blocks
    that differ, plus what makes the share of the first patch about lambda: the least cut of a graph, solved exactly. Then
    the blocks of each patch are moved (optimal transport) so that salient ones come to lie where its mask is, where
    that gains more than ``move`` times the distance. Saliency is the gradient of the loss with respect to the pixels.

    Parameters
    ----------
    alpha
        Parameter of the Beta distribution of the share that is asked for.
    grid
        Blocks along a side.
    smooth, prior, move
        Weights of smoothness, of lambda, and of the distance that blocks are moved, in units of the mean saliency of a block.
    """

    grid: int = 4
    smooth: float = 0.3
    prior: float = 0.2
    move: float = 0.8

    needs_pixels = needs_saliency = True

    def __post_init__(self):
        super().__post_init__()
        _checks.positive("grid", self.grid)

    def blend(self, first, second, share, generator, saliency=None):
        """See `CutMix.blend`."""
        blocks = [functional.adaptive_avg_pool2d(s[:, None].float(), self.grid)[:, 0].cpu().numpy() for s in saliency]
        blocks = [s / np.maximum(s.mean((1, 2), keepdims=True), 1e-12) for s in blocks]
        kept = np.stack([self.cut(a, b, float(s)) for a, b, s in zip(*blocks, share[:, 0].cpu(), strict=True)])
        places = [
            np.stack([self.transport(s, m) for s, m in zip(saliences, mask, strict=True)])
            for saliences, mask in zip(blocks, (kept, ~kept), strict=True)
        ]
        moved = [self.rearrange(x, torch.as_tensor(p)) for x, p in zip((first, second), places, strict=True)]
        return paste(*moved, enlarge(torch.as_tensor(kept, device=first.device), first.shape[2:]))

    def cut(self, first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
        """Blocks (grid, grid) that stay, given the saliency of both patches."""
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import breadth_first_order, maximum_flow

        cells, unit = first.size, 10_000  # capacities are whole numbers
        share = min(max(share, 1e-6), 1 - 1e-6)
        lost_first, lost_second = first.ravel(), second.ravel()  # lost where the other one is taken
        from_first = lost_first - self.prior * np.log(1 - share)
        from_second = lost_second - self.prior * np.log(share)
        number = np.arange(cells).reshape(first.shape)
        pairs = np.concatenate(
            [
                np.stack([number[:, :-1].ravel(), number[:, 1:].ravel()], 1),
                np.stack([number[:-1].ravel(), number[1:].ravel()], 1),
            ]
        )
        source, sink = cells, cells + 1
        rows = np.concatenate([np.full(cells, source), np.arange(cells), pairs[:, 0], pairs[:, 1]])
        columns = np.concatenate([np.arange(cells), np.full(cells, sink), pairs[:, 1], pairs[:, 0]])
        capacity = np.concatenate([from_first, from_second, np.full(2 * len(pairs), self.smooth)])
        graph = coo_matrix((np.rint(unit * capacity).astype(np.int32), (rows, columns)), (cells + 2,) * 2).tocsr()
        residual = graph - maximum_flow(graph, source, sink).flow
        residual.data = np.maximum(residual.data, 0)
        residual.eliminate_zeros()
        reached = breadth_first_order(residual, source, return_predecessors=False)
        return np.isin(number, reached)

    def transport(self, saliency: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Which block comes to lie in each place, shape (cells,): salient blocks go where the mask is."""
        from scipy.optimize import linear_sum_assignment

        place = np.stack(np.divmod(np.arange(mask.size), mask.shape[1]), 1)
        distance = ((place[:, None] - place) ** 2).sum(-1) / max(len(mask) - 1, 1) ** 2
        gain = mask.ravel()[:, None] * saliency.ravel()[None]
        return linear_sum_assignment(gain - self.move * distance, maximize=True)[1]

    def rearrange(self, patches: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Patches whose blocks have been moved; pixels that the grid leaves over stay."""
        b, c, height, width = patches.shape
        h, w, grid = height // self.grid, width // self.grid, self.grid
        inner = patches[:, :, : h * grid, : w * grid]
        blocks = inner.reshape(b, c, grid, h, grid, w).permute(0, 2, 4, 1, 3, 5).reshape(b, grid * grid, c, h, w)
        places = places.to(patches.device)[:, :, None, None, None].expand_as(blocks)
        moved = blocks.gather(1, places).reshape(b, grid, grid, c, h, w).permute(0, 3, 1, 4, 2, 5)
        out = patches.clone()
        out[:, :, : h * grid, : w * grid] = moved.reshape(inner.shape)
        return out


def paste(first: torch.Tensor, second: torch.Tensor, kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first patches where ``kept``, bool (b, height, width), the second elsewhere; and the share that is kept, (b, 1)."""
    return torch.where(kept[:, None], first, second), kept.float().mean((1, 2))[:, None]


def enlarge(cells: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """A grid of cells, bool (b, grid, grid), as masks of (b, height, width); the last row and column take what is left."""
    grid = cells.shape[1]
    rows, columns = (
        (torch.arange(n, device=cells.device) // max(n // grid, 1)).clamp_max(grid - 1) for n in size
    )  # fmt: skip
    return cells[:, rows][:, :, columns]
