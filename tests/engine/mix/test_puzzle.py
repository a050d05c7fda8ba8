"""Puzzle Mix against its energy, over all masks, and against closed forms."""

from itertools import product
from math import comb

import numpy as np
import pytest
import torch

from snrmix.engine.mix import PartnerTable, PuzzleMix
from snrmix.engine.mix.puzzle import _rearranged, _seams

NOTHING = torch.zeros(1, 6, 1)
TABLE = PartnerTable(torch.arange(6)[None], NOTHING.long(), NOTHING)
FLAT = np.zeros((2, 2, 3, 4)), np.zeros((2, 2, 4, 3))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def energy(mixing, mask, first, second, share, down, right):
    """The authors' energy, in their units: saliency sums to 1 over a patch."""
    n, steps = len(mask), mixing.labels - 1
    beta = mixing.smooth / n / 16
    total = ((1 - mask) * first + mask * second).sum() / n**2
    for value in mask.ravel():
        times = round(value * steps)
        total -= mixing.prior / n**2 * np.log(comb(steps, times) * share**times * (1 - share) ** (steps - times) + 1e-8)
    for upper, lower, d in ((mask[:-1], mask[1:], down), (mask[:, :-1], mask[:, 1:], right)):
        alone = upper * (d[1, 0] + d[1, 1]) / 2 + (1 - upper) * (d[0, 0] + d[0, 1]) / 2
        alone += lower * (d[0, 1] + d[1, 1]) / 2 + (1 - lower) * (d[0, 0] + d[1, 0]) / 2
        both = (d[1, 0] + d[0, 1] - d[1, 1] - d[0, 0]) / 2
        total += beta * (mixing.local * alone + (1 + mixing.local * both) * (upper - lower) ** 2).sum()
    return total


@pytest.mark.parametrize(("labels", "grid"), [(2, 3), (3, 2), (4, 2)])
def test_the_mask_is_the_minimum_over_all_masks(labels, grid):
    mixing, rng = PuzzleMix(labels=labels, smooth=6.0, prior=0.5), np.random.default_rng(labels)
    values, seen = np.linspace(0, 1, labels), set()
    for share in (0.1, 0.4, 0.5, 0.7, 0.9):
        saliency = rng.uniform(0, 2, (2, grid, grid))
        seams = rng.uniform(0, 1, (2, 2, grid - 1, grid)), rng.uniform(0, 1, (2, 2, grid, grid - 1))
        found = mixing.mask(*saliency, share, *seams)
        costs = [
            energy(mixing, np.reshape(mask, (grid, grid)), *saliency, share, *seams)
            for mask in product(values, repeat=grid**2)
        ]
        assert energy(mixing, found, *saliency, share, *seams) == pytest.approx(min(costs), abs=1e-4)
        assert np.ptp(costs) > 0.1
        seen |= set(np.round(found.ravel(), 6))
    assert seen == set(np.round(values, 6))  # every step is used


def test_three_labels_are_what_two_are_not():
    """Where both patches are equally salient, a block shows half of each: its prior is twice as large."""
    even = np.ones((4, 4))
    assert (PuzzleMix().mask(even, even, 0.5, *FLAT) == 0.5).all()
    assert set(PuzzleMix(labels=2).mask(even, even, 0.5, *FLAT).ravel()) <= {0.0, 1.0}


def test_a_visible_seam_moves_to_where_it_is_not():
    """Patches that differ only in the left half: the border of the mask is cheaper in the right half."""
    first, second = torch.ones(1, 3, 32, 32), torch.ones(1, 3, 32, 32)
    second[..., :16] = 0
    down, right = (x[0] for x in _seams(first, second, 4, 4))
    np.testing.assert_allclose(right[1, 0], np.tile([1, 0, 0], (4, 1)))
    np.testing.assert_allclose(right[0, 0], np.tile([0, 1, 0], (4, 1)))  # the edge within the second patch
    np.testing.assert_allclose(right[0, 1], np.tile([1, 1, 0], (4, 1)))
    np.testing.assert_allclose(right[1, 1], 0)
    np.testing.assert_allclose(down[1, 0], np.tile([1, 1, 0, 0], (3, 1)))
    salient = np.tile([2.0, 1.0, 1.0, 0.0], (4, 1)), np.tile([0.0, 1.0, 1.0, 2.0], (4, 1))
    mixing = PuzzleMix(labels=2, prior=0.0, smooth=4.0)
    assert (mixing.mask(*salient, 0.5, down, right) == [1, 1, 1, 0]).all()


def test_a_block_moves_where_that_gains_more_than_the_way():
    """On a grid of 4 the authors' weight of 0.8 is 12.8 units of mean saliency: a swap of neighbours costs 2 x 12.8 / 9."""
    mixing, shown = PuzzleMix(), np.zeros((4, 4), bool)
    shown[0, 0] = True
    for gain, moves in ((2.8, False), (2.9, True)):
        saliency = np.zeros((4, 4))
        saliency[0, 1] = gain
        assert (mixing.transport(saliency, shown)[0] == 1) == moves
    rng = np.random.default_rng(0)
    stays = [
        mixing.transport(s / s.mean(), rng.uniform(size=(4, 4)) < 0.5) == np.arange(16)
        for s in rng.gamma(4, size=(50, 4, 4))
    ]
    assert np.mean(stays) > 0.98
    fine = rng.gamma(0.2, size=(16, 16))
    assert np.mean(mixing.transport(fine / fine.mean(), rng.uniform(size=(16, 16)) < 0.5) != np.arange(256)) > 0.05


def test_salient_halves_are_kept_and_labels_follow():
    first, second = torch.ones(1, 2, 16, 16), torch.zeros(1, 2, 16, 16)
    left, right = torch.zeros(1, 16, 16), torch.zeros(1, 16, 16)
    left[:, :, :8], right[:, :, 8:] = 1, 1
    mixed, label = PuzzleMix(grids=(4,)).blend(first, second, torch.tensor([[0.5]]), generator(), TABLE, (left, right))
    assert (mixed[0, 0, :, :8] == 1).all() and (mixed[0, 0, :, 8:] == 0).all() and label.item() == 0.5


def test_grids_are_drawn_from_the_authors():
    first, second, mixing, sizes = torch.ones(4, 1, 32, 32), torch.zeros(4, 1, 32, 32), PuzzleMix(move=100.0), set()
    saliency = tuple(torch.rand(4, 32, 32, generator=generator(k)) ** 20 for k in (0, 1))
    for seed in range(16):
        mixed, _ = mixing.blend(first, second, torch.full((4, 1), 0.5), generator(seed), TABLE, saliency)
        assert set(mixed.unique().tolist()) <= {0.0, 0.5, 1.0}
        changes = torch.diff(mixed[:, 0], dim=2).abs().sum((0, 1)).nonzero()[:, 0] + 1
        sizes.add(32 // int(np.gcd.reduce([32, *changes.tolist()])))
    assert sizes == {2, 4, 8, 16}


def test_blocks_change_places_as_they_are():
    patches = torch.arange(256.0).view(1, 1, 16, 16)
    moved = _rearranged(patches, np.array([[3, 1, 2, 0]]), 2)
    assert torch.equal(moved[..., 8:, 8:], patches[..., :8, :8]) and torch.equal(
        moved[..., :8, 8:], patches[..., :8, 8:]
    )
