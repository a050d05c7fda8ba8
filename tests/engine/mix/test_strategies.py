"""Each strategy against the property that defines it."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import cdist, pdist

from snrmix.engine.losses import Losses
from snrmix.engine.mix import (
    MIXINGS,
    CellMix,
    CMixup,
    Mixup,
    MixupWithoutHesitation,
    PuzzleMix,
    RCMixup,
    SNRMixing,
    resolve_mixing,
)
from snrmix.engine.network.crossfit import fit_network
from snrmix.engine.network.targets import make_targets
from snrmix.engine.options import Training
from snrmix.engine.section import Section

NAMES = {
    "none", "mixup", "mixup_without_hesitation", "cutmix", "puzzlemix", "cmixup", "rcmixup", "cellmix", "snr",
    "snr_expression",
}  # fmt: skip
PIXELS = {"cutmix", "puzzlemix", "cellmix"}
TIMES = 20_000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


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
        (lambda: CellMix(cell=0), "cell=0 must be"),
        (lambda: CellMix(fixed=2), "fixed=2 must"),
        (lambda: PuzzleMix(grids=(4, 1)), "grids=1 must be"),
        (lambda: PuzzleMix(labels=1), "labels=1 must be"),
        (lambda: PuzzleMix(move=-1), "move=-1 must"),
    ],
)
def test_parameters_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
