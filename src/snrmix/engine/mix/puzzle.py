"""Puzzle Mix: a cut of a graph decides what each block shows, and optimal transport moves salient blocks there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import comb
from torch.nn import functional

from snrmix import _checks
from snrmix.engine.mix.base import PartnerTable, register
from snrmix.engine.mix.pixels import enlarge, paste
from snrmix.engine.mix.random import Mixup

UNIT, ENDLESS = 10_000, 10**9  # capacities are whole numbers: of a cost of 1, and of what must not be cut
AUTHORS_SMOOTH = 16  # the authors' weight of smoothness is divided by this and by the blocks along a side


@register("puzzlemix")
@dataclass(frozen=True)
class PuzzleMix(Mixup):
    """Puzzle Mix (Kim et al. 2020, arXiv:2009.06962, section 4): each block comes from the patch where it is more salient.

    A grid of blocks is drawn for each batch. The share of the first patch in a block is one of ``labels`` steps from 0 to 1.
    The mask of shares minimises the saliency that is lost, plus what it costs neighbouring blocks to differ (``smooth``, and
    more where the seam would be visible: ``local``), less ``prior`` times the logarithm of its binomial probability under
    lambda. Then the blocks of each patch are moved so that salient ones come to lie where the mask shows them, where that
    gains more than ``move`` times the squared distance in sides of the patch. Labels are mixed by the mean of the mask.
    Saliency is the norm of the gradient of the loss with respect to each pixel.

    Weights and their units are those of the authors' program: saliency sums to 1 over a patch. It solves both problems
    approximately (swap moves; a few rounds of transport), here both are solved exactly. Lambda is drawn for every pair, in
    the program for the batch. Adversarial noise, off there by default, is left out.

    Parameters
    ----------
    alpha
        Parameter of the Beta distribution of the share that is asked for.
    grids
        Numbers of blocks along a side that are drawn from.
    labels
        Steps of the mask: 2 for all or nothing.
    smooth, local, prior, move
        Weights as above; the authors' beta, gamma, eta and epsilon.
    seam
        Pixels on both sides of a seam that are compared.

    Examples
    --------
    >>> options = {"finetune": True, "mix": snrmix.PuzzleMix()}  # of snrmix.tl.impute: it needs pixels
    """

    grids: tuple[int, ...] = (2, 4, 8, 16)
    labels: int = 3
    smooth: float = 1.2
    local: float = 0.5
    prior: float = 0.2
    move: float = 0.8
    seam: int = 4

    needs_pixels = needs_saliency = True

    def __post_init__(self):
        super().__post_init__()
        for grid in self.grids:
            _checks.whole_number("grids", grid, 2)
        _checks.whole_number("labels", self.labels, 2)
        _checks.whole_number("seam", self.seam)
        for name in ("smooth", "local", "prior", "move"):
            _checks.not_negative(name, getattr(self, name))

    def blend(self, first, second, share, generator, table: PartnerTable, saliency=None):
        """See `snrmix.engine.mix.CutMix.blend`."""
        which = int(torch.randint(len(self.grids), (1,), generator=generator, device=generator.device))
        grid = min(self.grids[which], *first.shape[2:])
        salient = [_blocks_of(values, grid) for values in saliency]
        seams = _seams(first, second, grid, self.seam)
        masks = np.stack(
            [self.mask(*one) for one in zip(*salient, share[:, 0].double().cpu().numpy(), *seams, strict=True)]
        )
        moved = [
            _rearranged(
                patches, np.stack([self.transport(s, m > 0) for s, m in zip(salience, shown, strict=True)]), grid
            )
            for patches, salience, shown in zip((first, second), salient, (masks, 1 - masks), strict=True)
        ]
        return paste(*moved, enlarge(torch.as_tensor(masks, device=first.device), first.shape[2:]))

    def mask(self, first: np.ndarray, second: np.ndarray, share: float, down: np.ndarray, right: np.ndarray):
        """Share of the first patch in every block: the exact minimum of the authors' energy.

        Parameters
        ----------
        first, second
            Saliency of the blocks of both patches, in units of its mean, shape (grid, grid).
        share
            lambda.
        down, right
            Visibility of seams, see `_seams`, shapes (2, 2, grid - 1, grid) and (2, 2, grid, grid - 1).
        """
        grid, steps = len(first), self.labels - 1
        smooth = self.smooth * grid / AUTHORS_SMOOTH
        number = np.arange(grid * grid).reshape(grid, grid)
        ends = [(number[:-1].ravel(), number[1:].ravel()), (number[:, :-1].ravel(), number[:, 1:].ravel())]
        ends = np.concatenate(ends, axis=1)
        seams = np.concatenate([down.reshape(2, 2, -1), right.reshape(2, 2, -1)], axis=2) * (smooth * self.local)
        # A pairwise cost of two choices is a cost of each choice, plus one of differing.
        shown = np.stack([second.ravel(), first.ravel()]).astype(float)  # lost where the first, the second is shown
        for choice, here in enumerate((1, 0)):
            np.add.at(shown[choice], ends[0], seams[here].mean(0))
            np.add.at(shown[choice], ends[1], seams[:, here].mean(0))
        differ = np.maximum(smooth + (seams[1, 0] + seams[0, 1] - seams[1, 1] - seams[0, 0]) / 2, 0)
        levels = np.arange(self.labels)
        prior = comb(steps, levels) * share ** (steps - levels) * (1 - share) ** levels
        cost = shown[0][:, None] * (1 - levels / steps) + shown[1][:, None] * (levels / steps)
        cost = cost - self.prior * np.log(prior + 1e-8)
        return 1 - _least_cut(cost, ends, differ).reshape(grid, grid) / np.float32(steps)

    def transport(self, saliency: np.ndarray, shown: np.ndarray) -> np.ndarray:
        """Which block comes to lie in each place, shape (cells,), given saliency in units of its mean and where it shows."""
        from scipy.optimize import linear_sum_assignment

        place = np.stack(np.divmod(np.arange(shown.size), len(shown)), 1)
        distance = ((place[:, None] - place) ** 2).sum(-1) / (len(shown) - 1) ** 2
        gain = shown.ravel()[:, None] * saliency.ravel()[None]
        return linear_sum_assignment(gain - self.move * shown.size * distance, maximize=True)[1]


def _least_cut(cost: np.ndarray, ends: np.ndarray, differ: np.ndarray) -> np.ndarray:
    """Labels that minimise ``sum cost[i, l_i] + sum differ (l_i - l_j)^2 / (labels - 1)^2``, shape (n,).

    A block is a chain of nodes from source to sink, and its label the number of nodes on the source's side of the least cut
    (Ishikawa 2003). Links of equal weight between all nodes of two chains cost the squared difference of their labels, and
    a cost of each label alone, which is taken off.

    Parameters
    ----------
    cost
        Shape (n, labels).
    ends, differ
        Pairs, shape (2, pairs), and what differing costs them, shape (pairs,), not negative.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    n, steps = len(cost), cost.shape[1] - 1
    weight = differ / steps**2
    level = np.arange(steps + 1)
    cost = cost - np.bincount(ends.ravel(), np.tile(weight, 2), n)[:, None] * (steps * level - level**2)
    cost = cost - cost.min(1, keepdims=True)
    node = np.arange(n * steps).reshape(n, steps)
    source, sink = n * steps, n * steps + 1
    chain = np.column_stack([np.full(n, source), node, np.full(n, sink)])
    a, b = (
        np.broadcast_to(x, (len(weight), steps, steps)) for x in (node[ends[0]][:, :, None], node[ends[1]][:, None])
    )
    links = np.broadcast_to(weight[:, None, None], a.shape)
    rows, columns, capacity = (
        np.concatenate([np.ravel(part) for part in parts])
        for parts in (
            (chain[:, :-1], node[:, 1:], a, b),
            (chain[:, 1:], node[:, :-1], b, a),
            (np.rint(UNIT * cost), np.full((n, steps - 1), ENDLESS), np.rint(UNIT * links), np.rint(UNIT * links)),
        )
    )
    graph = coo_matrix((capacity.astype(np.int32), (rows, columns)), (n * steps + 2,) * 2).tocsr()
    residual = graph - maximum_flow(graph, source, sink).flow
    residual.data = np.maximum(residual.data, 0)
    residual.eliminate_zeros()
    reached = breadth_first_order(residual, source, return_predecessors=False)
    return np.isin(node, reached).sum(1)


def _blocks_of(saliency: torch.Tensor, grid: int) -> np.ndarray:
    """Saliency of blocks in units of their mean, (b, grid, grid)."""
    blocks = functional.adaptive_avg_pool2d(saliency[:, None].float(), grid)[:, 0].cpu().numpy()
    return blocks / np.maximum(blocks.mean((1, 2), keepdims=True), 1e-12)


def _seams(first: torch.Tensor, second: torch.Tensor, grid: int, width: int) -> list[np.ndarray]:
    """Mean absolute difference of colour across the borders of blocks.

    Two arrays, (b, 2, 2, grid - 1, grid) downwards and (b, 2, 2, grid, grid - 1) to the right. Place ``[i, u, v]`` is for
    the patch ``u`` on the upper or left side and ``v`` on the other: 1 for the first patch, 0 for the second. Pixels are
    averaged in squares of about ``width``.
    """
    sides = [n // grid for n in first.shape[2:]]
    per_block = max(min(sides) // width, 1)
    inner = [patches[:, :, : sides[0] * grid, : sides[1] * grid].float() for patches in (second, first)]
    pooled = [functional.adaptive_avg_pool2d(patches, grid * per_block) for patches in inner]
    found = []
    for views in (pooled, [view.transpose(2, 3) for view in pooled]):
        across = [
            (upper[:, :, per_block - 1 : -1 : per_block] - lower[:, :, per_block::per_block]).abs().mean(1)
            for upper in views
            for lower in views
        ]
        table = torch.stack(across, 1).unflatten(1, (2, 2)).unflatten(-1, (grid, per_block)).mean(-1)
        found.append(table.double().cpu().numpy())
    return [found[0], found[1].swapaxes(3, 4)]


def _rearranged(patches: torch.Tensor, places: np.ndarray, grid: int) -> torch.Tensor:
    """Patches whose blocks have been moved; pixels that the grid leaves over stay."""
    b, c, height, width = patches.shape
    h, w = height // grid, width // grid
    inner = patches[:, :, : h * grid, : w * grid]
    blocks = inner.reshape(b, c, grid, h, grid, w).permute(0, 2, 4, 1, 3, 5).reshape(b, grid * grid, c, h, w)
    places = torch.as_tensor(places, device=patches.device)[:, :, None, None, None].expand_as(blocks)
    moved = blocks.gather(1, places).reshape(b, grid, grid, c, h, w).permute(0, 3, 1, 4, 2, 5)
    out = patches.clone()
    out[:, :, : h * grid, : w * grid] = moved.reshape(inner.shape)
    return out
