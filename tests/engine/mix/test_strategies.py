"""Each strategy against the property that defines it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import cdist, pdist

from snrmix.engine.folds import Fold
from snrmix.engine.losses import Losses
from snrmix.engine.mix import (
    MIXINGS,
    CellMix,
    CMixup,
    CutMix,
    Mixup,
    MixupWithoutHesitation,
    PuzzleMix,
    RCMixup,
    SNRMixing,
    resolve_mixing,
)
from snrmix.engine.network.crossfit import fit_network
from snrmix.engine.network.partners import partner_table
from snrmix.engine.network.targets import make_targets
from snrmix.engine.options import Training
from snrmix.engine.section import Section
from snrmix.plan.graph import spatial_neighbours

NAMES = {
    "none", "mixup", "mixup_without_hesitation", "cutmix", "puzzlemix", "cmixup", "rcmixup", "cellmix", "snr",
    "snr_expression",
}  # fmt: skip
PIXELS = {"cutmix", "puzzlemix", "cellmix"}
TIMES = 20_000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def slides():
    """Two libraries of 30 and 24 spots, expression in two groups of spots, and a fold that holds out every fifth."""
    rng = np.random.default_rng(3)
    library = np.repeat([0, 1], [30, 24])
    positions = rng.uniform(0, 5, (54, 2))
    expression = (rng.normal(size=(54, 6)) + 2 * (np.arange(54) % 2)[:, None]).astype(np.float32)
    held_out = np.arange(0, 54, 5)
    fold = Fold(np.setdiff1d(np.arange(54), held_out), held_out)

    def neighbours(train, k, values=None):
        return spatial_neighbours(positions[train] if values is None else values, library[train], k)

    return positions, library, expression, fold, neighbours


@pytest.fixture(scope="module")
def table_for(slides):
    """The table of one network for a strategy."""
    _, library, expression, fold, neighbours = slides

    def make(mixing):
        table = partner_table([make_targets(expression, fold.train)], [fold], neighbours, mixing, 0, library)
        return mixing.prepare(table)

    return make


def draws(mixing, table, anchor, times=TIMES):
    partners, share = mixing.draw(torch.full((1, times), anchor), table, generator(anchor))
    return partners[0].numpy(), share[0, :, 0].numpy()


def frequencies_agree(partners, candidates, probability):
    """p value of the chi-square test of drawn partners against exact probabilities; rare ones are pooled."""
    counts = np.array([(partners == c).sum() for c in candidates], float)
    assert counts.sum() == len(partners), "a partner that may not be one"
    wanted = probability / probability.sum() * len(partners)
    likely = wanted > 5
    counts, wanted = (np.append(x[likely], x[~likely].sum()) for x in (counts, wanted))
    if wanted[-1] < 5:
        counts, wanted = counts[:-1], wanted[:-1] * counts[:-1].sum() / wanted[:-1].sum()
    return stats.chisquare(counts, wanted).pvalue


def own_library(slides, anchor):
    _, library, _, fold, _ = slides
    return np.array([j for j in fold.train if library[j] == library[anchor]])


def test_all_strategies_are_known_by_name():
    assert NAMES <= set(MIXINGS)
    assert {name for name in MIXINGS if resolve_mixing(name).needs_pixels} == PIXELS
    with pytest.raises(ValueError, match="unknown mix='snr_expresion'; available: .* Did you mean 'snr_expression'"):
        resolve_mixing("snr_expresion")


@pytest.mark.parametrize("name", sorted(NAMES))
def test_no_partner_is_held_out_or_from_another_library(name, slides, table_for):
    _, library, _, fold, _ = slides
    mixing = resolve_mixing(name)
    table = table_for(mixing)
    anchors = table.train.repeat(1, 300)
    partners, share = mixing.draw(anchors, table, generator())
    assert share.shape == (*anchors.shape, 1) and ((share >= 0) & (share <= 1)).all()
    assert not np.isin(partners, fold.held_out).any()
    assert (library[partners] == library[anchors]).all()
    again = mixing.draw(anchors, table, generator())
    assert torch.equal(partners, again[0]) and torch.equal(share, again[1])


@pytest.mark.parametrize("anchor", [1, 31])
def test_mixup_draws_any_spot_of_the_library_equally(anchor, slides, table_for):
    own = own_library(slides, anchor)
    partners, _ = draws(Mixup(), table_for(Mixup()), anchor)
    assert frequencies_agree(partners, own, np.ones(len(own))) > 0.01


@pytest.mark.parametrize("anchor", [1, 31])
def test_cmixup_follows_a_gaussian_kernel_of_labels_over_all_spots(anchor, slides, table_for):
    expression, mixing = slides[2], CMixup(sigma=0.4)
    table = table_for(mixing)
    values = table.labels[0].numpy().astype(float)
    own = np.setdiff1d(own_library(slides, anchor), anchor)
    bandwidth = 0.4 * float(table.spread[0])
    assert bandwidth == pytest.approx(
        0.4 * np.median(pdist(expression[slides[3].train])) / make_targets(expression, slides[3].train).scale, rel=0.05
    )
    probability = np.exp(-(cdist(values[[anchor]], values[own])[0] ** 2) / (2 * bandwidth**2))
    partners, _ = draws(mixing, table, anchor)
    assert frequencies_agree(partners, own, probability) > 0.01
    assert frequencies_agree(partners, own, np.ones(len(own))) < 1e-6


@pytest.mark.parametrize("anchor", [1, 31])
@pytest.mark.parametrize("graph", ["spatial", "expression"])
@pytest.mark.parametrize("kernel", ["gaussian", "exponential"])
@pytest.mark.parametrize("count_self", [False, True])
def test_snr_draws_graph_neighbours_by_the_kernel(anchor, graph, kernel, count_self, slides, table_for):
    positions, _, expression, fold, _ = slides
    mixing = SNRMixing(k=8, sigma=0.5, graph=graph, kernel=kernel, count_self=count_self)
    table, own = table_for(mixing), np.setdiff1d(own_library(slides, anchor), anchor)
    distance = cdist(expression[[anchor]], expression[own])[0]
    space = cdist(positions[[anchor]], positions[own])[0] if graph == "spatial" else distance
    near = np.argsort(space)[: 8 - count_self]
    bandwidth = 0.5 * np.median(pdist(expression[fold.train]))
    exponent = distance[near] ** 2 if kernel == "gaussian" else distance[near]
    probability = np.exp(-exponent / (2 * bandwidth**2))
    index, weight = table.index[0, anchor].numpy(), table.weight[0, anchor].numpy()
    assert set(index) == set(own[near])
    by_spot = dict(zip(own[near], probability / probability.sum(), strict=True))
    np.testing.assert_allclose(
        weight, [by_spot[j] for j in index], rtol=0.15, atol=0.01
    )  # the median is of random pairs
    partners, _ = draws(mixing, table, anchor)
    assert frequencies_agree(partners, index, weight.astype(float)) > 0.01


def test_the_unsquared_kernel_is_flat(table_for):
    """Why the authors' program hardly prefers similar spots."""
    flat, sharp = (
        table_for(SNRMixing(k=8, sigma=0.5, kernel=kernel)).weight[0] for kernel in ("exponential", "gaussian")
    )
    rows = flat.sum(1) > 0
    contrast = [float((w[rows].max(1).values / w[rows].min(1).values).median()) for w in (flat, sharp)]
    assert contrast[0] < 0.5 * contrast[1]


def test_edge_weights_of_the_authors_are_normalised_over_all_spots(slides, table_for):
    _, _, expression, fold, _ = slides
    mixing = resolve_mixing("snr_expression")
    table, anchor = table_for(mixing), 1
    partners, _ = mixing.draw(torch.full((1, 50), anchor), table, generator())
    weight = mixing.edge_weight(torch.full((1, 50), anchor), partners, table)
    assert weight.shape == (1, 50, 1)
    own = np.setdiff1d(own_library(slides, anchor), anchor)
    bandwidth = 0.5 * np.median(pdist(expression[fold.train]))
    kernel = np.exp(-cdist(expression[[anchor]], expression[own])[0] / (2 * bandwidth**2))
    wanted = dict(zip(own, kernel / kernel.sum(), strict=True))
    np.testing.assert_allclose(weight[0, :, 0], [wanted[j] for j in partners[0].tolist()], rtol=0.05)
    assert SNRMixing().edge_weight(partners, partners, table) is None


def test_edge_weight_scales_the_edge_term():
    rng = np.random.default_rng(0)
    mixed, *rest = (torch.tensor(rng.normal(size=(2, 5, 3)), dtype=torch.float32) for _ in range(5))
    share, weight = torch.full((2, 5, 1), 0.4), torch.tensor(rng.uniform(size=(2, 5, 1)), dtype=torch.float32)
    only_edge = Losses(vicinal=0, consistency=0, edge=2.0, correlation=0)
    found = only_edge(mixed, tuple(rest[:2]), *rest[2:], share, weight)
    gap = (rest[0] - rest[1]) - (rest[2] - rest[3])
    np.testing.assert_allclose(found, 2 * (weight * gap**2).mean((1, 2)), rtol=1e-5)
    plain = only_edge(mixed, tuple(rest[:2]), *rest[2:], share)
    np.testing.assert_allclose(plain, 2 * (gap**2).mean((1, 2)), rtol=1e-5)


@pytest.mark.parametrize(("progress", "probability"), [(0.0, 1), (0.59, 1), (0.75, 0.5), (0.9, 0), (1.0, 0)])
def test_mixup_without_hesitation_mixes_early_and_not_late(progress, probability, table_for):
    mixing = MixupWithoutHesitation()
    table = replace(table_for(mixing), progress=progress)
    batches = [mixing.draw(table.train, table, generator(seed)) for seed in range(400)]
    mixed = np.array([bool((share < 1).any()) for _, share in batches])
    assert abs(mixed.mean() - probability) <= (0.08 if 0 < probability < 1 else 0)
    for (partners, share), is_mixed in zip(batches, mixed, strict=True):
        assert is_mixed or (torch.equal(partners, table.train) and (share == 1).all())


def test_rcmixup_leaves_spots_with_large_errors_alone(table_for):
    mixing = RCMixup(trust=0.8)
    table, error = table_for(mixing), None
    error = torch.zeros(table.train.shape)
    noisy = table.train[0, ::5]
    error[0, ::5] = 10.0
    early = mixing.sort_out(replace(table, progress=0.05), error)
    assert early.trusted is None
    late = mixing.sort_out(replace(table, progress=0.5), error)
    assert not late.trusted[0, noisy].any() and late.trusted[0].sum() == len(error[0]) - len(noisy)
    anchors = table.train.repeat(1, 200)
    partners, share = mixing.draw(anchors, late, generator())
    assert (
        not np.isin(partners, noisy).any()
        or (partners[np.isin(partners, noisy)] == anchors[np.isin(partners, noisy)]).all()
    )
    alone = np.isin(anchors, noisy)
    assert (share[alone] == 1).all() and (share[~alone] < 1).any()


def test_rcmixup_takes_a_narrow_bandwidth_for_clean_labels_and_a_wide_one_for_noisy(slides):
    _, library, _, fold, neighbours = slides
    rng, chosen = np.random.default_rng(0), []
    mixing = RCMixup()
    path = rng.uniform(0, 3, (54, 1)) @ np.ones((1, 40))
    for noise in (0.01, 3.0):
        labels = (np.sin(path + np.linspace(0, 6, 40)) + noise * rng.normal(size=(54, 40))).astype(np.float32)
        table = partner_table([make_targets(labels, fold.train)], [fold], neighbours, mixing, 0, library)
        chosen.append(float(mixing.prepare(table).spread[0] / table.spread[0]))
    assert chosen[0] < chosen[1] == pytest.approx(max(mixing.sigmas))


def images(n=6, size=16, seed=0):
    """Two batches whose pixels are 1 and 0, so that the mixture shows the mask; with a gradient in the second channel."""
    ramp = torch.arange(size * size, dtype=torch.float32).view(1, size, size).expand(n, -1, -1)
    return torch.stack([torch.ones_like(ramp), ramp], 1), torch.stack([torch.zeros_like(ramp), -ramp], 1)


@pytest.mark.parametrize("mixing", [CutMix(), CellMix(), PuzzleMix()])
def test_labels_are_mixed_as_pixels_are(mixing):
    first, second = images(40)
    share = torch.linspace(0, 1, 40)[:, None]
    rng = torch.Generator().manual_seed(1)
    saliency = tuple(torch.rand(40, 16, 16, generator=rng) for _ in range(2))
    mixed, label = mixing.blend(first, second, share, generator(), saliency)
    assert mixed.shape == first.shape and label.shape == (40, 1)
    torch.testing.assert_close(mixed[:, 0].mean((1, 2)), label[:, 0])
    assert np.corrcoef(label[:, 0], share[:, 0])[0, 1] > 0.5
    if not isinstance(mixing, PuzzleMix):  # every pixel keeps its place
        mask = mixed[:, :1] == 1
        torch.testing.assert_close(mixed, torch.where(mask, first, second))
    again, _ = mixing.blend(first, second, share, generator(), saliency)
    assert torch.equal(mixed, again)


def test_cutmix_pastes_one_box_of_the_area_asked_for():
    first, second = images(400, 32)
    share = torch.full((400, 1), 0.75)
    mixed, label = CutMix().blend(first, second, share, generator())
    sides = []
    for mask in (mixed[:, 0] == 0).numpy():
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask.sum() == len(rows) * len(columns), "not a box"
        assert (np.diff(rows) == 1).all() and (np.diff(columns) == 1).all()
        sides.append((len(rows), len(columns)))
    assert (np.array(sides).max(0) == 16).all()  # half the side where the border does not cut it
    assert float(label.min()) == pytest.approx(0.75) and 0.75 < float(label.mean()) < 0.9
    for edge, wanted in ((1.0, 1.0), (0.0, 0.25)):
        label = CutMix().blend(first, second, torch.full((400, 1), edge), generator())[1]
        assert float(label.min()) >= wanted - 1e-6 if edge else float(label.max()) <= 1 - wanted + 1e-6


def test_cellmix_replaces_whole_cells_and_their_share_is_lambda():
    first, second = images(300, 16)
    mixed, label = CellMix(grid=4).blend(first, second, torch.full((300, 1), 0.25), generator())
    cells = mixed[:, 0].reshape(300, 4, 4, 4, 4)
    assert (cells.amax((2, 4)) == cells.amin((2, 4))).all()
    assert (label == 0.25).all()
    kept = cells[:, :, 0, :, 0].mean(0).numpy()  # every cell as often
    assert abs(kept - 0.25).max() < 0.1


def test_puzzlemix_cut_is_the_minimum_over_all_masks():
    mixing, rng = PuzzleMix(grid=3, smooth=0.4, prior=0.3), np.random.default_rng(0)
    masks = np.array([[(i >> b) & 1 for b in range(9)] for i in range(512)], bool).reshape(512, 3, 3)
    for share in (0.2, 0.5, 0.8):
        first, second = rng.uniform(0, 2, (2, 3, 3))

        def cost(mask, first=first, second=second, share=share):
            lost = second[mask].sum() + first[~mask].sum()
            rough = (mask[:, 1:] != mask[:, :-1]).sum() + (mask[1:] != mask[:-1]).sum()
            return lost + 0.4 * rough - 0.3 * (mask.sum() * np.log(share) + (~mask).sum() * np.log(1 - share))

        assert cost(mixing.cut(first, second, share)) == pytest.approx(min(map(cost, masks)), abs=2e-3)


def test_puzzlemix_keeps_what_is_salient_and_moves_it_into_the_mask():
    first, second = images(1, 16)
    left, right = torch.zeros(1, 16, 16), torch.zeros(1, 16, 16)
    left[:, :, :8], right[:, :, 8:] = 1, 1
    mixed, label = PuzzleMix(grid=4).blend(first, second, torch.tensor([[0.5]]), generator(), (left, right))
    assert (mixed[0, 0, :, :8] == 1).all() and (mixed[0, 0, :, 8:] == 0).all() and label.item() == 0.5
    still = PuzzleMix(grid=4, move=1e6)
    mask = np.eye(4, dtype=bool)
    assert (still.transport(np.random.default_rng(0).uniform(size=(4, 4)), mask) == np.arange(16)).all()
    saliency = np.zeros((4, 4))
    saliency[0, 1] = 5.0  # next to a place of the mask
    assert 1 in PuzzleMix(grid=4, move=0.1).transport(saliency, mask)[mask.ravel()]
    swapped = PuzzleMix(grid=2).rearrange(first, torch.tensor([[3, 1, 2, 0]]))
    assert torch.equal(swapped[:, :, 8:, 8:], first[:, :, :8, :8]) and torch.equal(
        swapped[:, :, :8, 8:], first[:, :, :8, 8:]
    )


@pytest.mark.parametrize("name", sorted(NAMES))
def test_strategies_train_on_features_or_say_that_they_need_pixels(name, slides):
    positions, library, expression, fold, neighbours = slides
    features = np.random.default_rng(0).normal(size=(54, 5)).astype(np.float32)
    section = Section(
        features, np.zeros(5, bool), positions, library, np.arange(54), expression, np.ones(54), neighbours
    )
    options = Training(max_epochs=12, accelerator="cpu", smallest_batch=8, progress=False)
    if name in PIXELS:
        with pytest.raises(ValueError, match=r"mixes pixels.*finetune=True.*'snr'"):
            fit_network(section, [fold], resolve_mixing(name), Losses(), options, 0)
        return
    fit = fit_network(section, [fold], resolve_mixing(name), Losses(), options, 0)
    assert np.isfinite(fit.out_of_fold[fold.held_out]).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SNRMixing(graph="spatail"), "graph='spatail' is unknown; choose one of 'spatial', 'expression'"),
        (lambda: SNRMixing(kernel="flat"), "kernel='flat' is unknown"),
        (lambda: SNRMixing(edge="none"), "edge='none' is unknown"),
        (lambda: CMixup(sigma=0), "sigma=0 must be positive"),
        (lambda: RCMixup(trust=2), "trust=2 and warm_up=.* must be shares"),
        (lambda: RCMixup(sigmas=(0.1, -1)), "sigmas=-1 must be positive"),
        (lambda: MixupWithoutHesitation(explore=0.9, exploit=0.5), "explore=0.9 and exploit=0.5 must ascend"),
        (lambda: CellMix(grid=0), "grid=0 must be positive"),
    ],
)
def test_parameters_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
