"""Strategies that cut and paste parts of patches."""

from collections import Counter

import numpy as np
import pytest
import torch

from snrmix.engine.mix import CellMix, CutMix, PartnerTable, PuzzleMix


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def at(epoch=0, epochs=100, n=6):
    """The table of one network in some epoch."""
    nothing = torch.zeros(1, n, 1)
    return PartnerTable(torch.arange(n)[None], nothing.long(), nothing, epoch=epoch, epochs=epochs)


def images(n=6, size=16, seed=0):
    """Two batches whose pixels are 1 and 0, so that the mixture shows the mask; with a gradient in the second channel."""
    ramp = torch.linspace(0, 1, size * size).view(1, size, size).expand(n, -1, -1)
    return torch.stack([torch.ones_like(ramp), ramp], 1), torch.stack([torch.zeros_like(ramp), -ramp], 1)


@pytest.mark.parametrize("mixing", [CutMix(), CellMix(), PuzzleMix()])
def test_labels_are_mixed_as_pixels_are(mixing):
    first, second = images(40)
    share = torch.linspace(0, 1, 40)[:, None]
    rng = torch.Generator().manual_seed(1)
    saliency = tuple(torch.rand(40, 16, 16, generator=rng) for _ in range(2))
    mixed, label = mixing.blend(first, second, share, generator(), at(), saliency)
    assert mixed.shape == first.shape and label.shape == (40, 1)
    torch.testing.assert_close(mixed[:, 0].mean((1, 2)), label[:, 0])
    assert np.corrcoef(label[:, 0], share[:, 0])[0, 1] > 0.5
    if not isinstance(mixing, PuzzleMix):  # every pixel keeps its place
        mask = mixed[:, :1] == 1
        torch.testing.assert_close(mixed, torch.where(mask, first, second))
    again, _ = mixing.blend(first, second, share, generator(), at(), saliency)
    assert torch.equal(mixed, again)


def test_cutmix_pastes_one_box_of_the_area_asked_for():
    first, second = images(400, 32)
    share = torch.full((400, 1), 0.75)
    mixed, label = CutMix().blend(first, second, share, generator(), at())
    sides = []
    for mask in (mixed[:, 0] == 0).numpy():
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask.sum() == len(rows) * len(columns), "not a box"
        assert (np.diff(rows) == 1).all() and (np.diff(columns) == 1).all()
        sides.append((len(rows), len(columns)))
    assert (np.array(sides).max(0) == 16).all()  # half the side where the border does not cut it
    assert float(label.min()) == pytest.approx(0.75) and 0.75 < float(label.mean()) < 0.9
    for edge, wanted in ((1.0, 1.0), (0.0, 0.25)):
        label = CutMix().blend(first, second, torch.full((400, 1), edge), generator(), at())[1]
        assert float(label.min()) >= wanted - 1e-6 if edge else float(label.max()) <= 1 - wanted + 1e-6


def cells_of(mixed, side):
    """Whether each cell is of the first patch, (b, rows, columns); every cell must be of one patch alone."""
    b, size = len(mixed), mixed.shape[2]
    cells = mixed[:, 0].reshape(b, size // side, side, size // side, side)
    assert (cells.amax((2, 4)) == cells.amin((2, 4))).all()
    return cells[:, :, 0, :, 0] == 1


def test_cellmix_fixes_some_cells_and_draws_the_others_from_either_patch():
    """A quarter is fixed, the same cells in a batch; of the rest about half is swapped, each by itself."""
    first, second = images(300, 64)
    mixed, label = CellMix().blend(first, second, torch.full((300, 1), 0.25), generator(), at(12))
    own = cells_of(mixed, 16)
    fixed = own.all(0)
    assert fixed.sum() == 4
    assert abs(own[:, ~fixed].float().mean(0) - 0.5).max() < 0.12
    assert abs(np.corrcoef(own[:, ~fixed].T.float()) - np.eye(12)).max() < 0.25
    torch.testing.assert_close(label[:, 0], own.float().mean((1, 2)))
    again = CellMix().blend(first, second, torch.full((300, 1), 0.25), generator(1), at(12))[0]
    assert not torch.equal(cells_of(again, 16).all(0), fixed)


def test_cellmix_goes_through_all_sizes_and_fixes_less_and_less():
    """The authors' list for patches of 384 pixels, in a loop after the warm-up, and their decay from 0.9 to 0.25."""
    mixing = CellMix()
    sides = [mixing.side(at(epoch), 384) for epoch in range(100)]
    assert set(sides[:10]) == {32}
    assert sides[10:17] == [16, 32, 48, 64, 96, 128, 192] and sides[17:24] == sides[10:17]
    shares = np.array([mixing.fixed_share(at(epoch)) for epoch in range(100)])
    assert (shares[:10] == 0.5).all() and shares[10] == pytest.approx(0.9) and shares[-1] == pytest.approx(0.25)
    np.testing.assert_allclose(shares[10:75], 0.9 * (1 - np.arange(65) / 90), atol=1e-12)
    first, second = images(50, 64)
    for epoch, side in ((10, 16), (11, 32), (12, 16)):
        mixed, _ = mixing.blend(first, second, torch.full((50, 1), 0.5), generator(), at(epoch))
        cells_of(mixed, side)
    assert [mixing.side(at(epoch), 30) for epoch in (0, 20, 21)] == [15, 15, 15]  # no multiple of 16 divides 30


def test_cellmix_mixes_half_of_the_batches():
    mixing, seen = CellMix(), Counter()
    for seed in range(400):
        partners, share = mixing.draw(torch.zeros(1, 20, dtype=torch.long), at(20), generator(seed))
        seen[round(float(share[0, 0, 0]), 6)] += 1
        assert (share == share[0, 0, 0]).all()
        assert bool((partners != 0).any()) == (float(share[0, 0, 0]) < 1)
    assert set(seen) == {1.0, 0.8} and abs(seen[1.0] - 200) < 40
    first, second = images(5, 64)
    assert torch.equal(mixing.blend(first, second, torch.ones(5, 1), generator(), at(20))[0], first)
