"""Strategies that change in the course of the training, and the training that lets them."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from snrmix.engine.folds import Fold
from snrmix.engine.losses import Losses
from snrmix.engine.mix import Mixup, MixupWithoutHesitation, RCMixup
from snrmix.engine.network.heads import fit_networks
from snrmix.engine.network.partners import partner_table
from snrmix.engine.network.targets import make_targets
from snrmix.engine.options import Training

FAST = {"max_epochs": 20, "patience": 2, "smallest_batch": 8, "accelerator": "cpu", "progress": False}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def train(mixing, expression, folds, **options):
    """The networks of some folds on features that tell nothing, so that they soon overfit."""
    n = len(expression)
    targets = [make_targets(expression, fold.train) for fold in folds]

    def neighbours(train, k, values=None):
        return np.zeros((len(train), k), int)

    table = partner_table(targets, folds, neighbours, mixing, 0)
    features = np.random.default_rng(0).normal(size=(n, 30)).astype(np.float32)
    return fit_networks(features, targets, folds, table, mixing, Losses(), Training(**{**FAST, **options}), 0)


def noise(n=60, genes=5, seed=0):
    return np.random.default_rng(seed).normal(size=(n, genes)).astype(np.float32)


def two_folds(n):
    odd = np.arange(n) % 2 == 1
    return [Fold(np.flatnonzero(~odd), np.flatnonzero(odd)), Fold(np.flatnonzero(odd), np.flatnonzero(~odd))]


@pytest.mark.parametrize(
    ("epoch", "probability"), [(0, 1), (59, 1), (60, 1), (61, 0), (88, 1), (89, 0), (90, 1), (95, 0.5), (99, 0.1)]
)
def test_mixup_without_hesitation_mixes_then_alternates_then_fades(epoch, probability, table_for):
    """The stages of 100 epochs: all batches, every second epoch, and linearly down to none at the end."""
    mixing = MixupWithoutHesitation()
    table = replace(table_for(mixing), epoch=epoch, epochs=100)
    batches = [mixing.draw(table.train, table, generator(seed)) for seed in range(400)]
    mixed = np.array([bool((share < 1).any()) for _, share in batches])
    assert abs(mixed.mean() - probability) <= (0.08 if 0 < probability < 1 else 0)
    for (partners, share), is_mixed in zip(batches, mixed, strict=True):
        assert is_mixed or (torch.equal(partners, table.train) and (share == 1).all())


def test_early_stopping_waits_for_the_last_stage_of_mixup_without_hesitation():
    """Plain mixup stops within a few epochs on noise, and keeps one of the first; this one sees all of its stages."""
    expression, folds = noise(), two_folds(60)
    plain = train(Mixup(), expression, folds)
    assert len(plain.history["validation_mse"][0]) < 12 and plain.history["best_epoch"].max() < 9
    staged = train(MixupWithoutHesitation(), expression, folds)
    assert staged.history["best_epoch"].min() >= 18
    assert staged.history["validation_mse"].shape[1] == 20
    short = train(MixupWithoutHesitation(explore=0.2, exploit=0.4), expression, folds)
    assert short.history["best_epoch"].min() == 8  # it has overfitted by then, and keeps the first that it may
    last = train(MixupWithoutHesitation(explore=1, exploit=1), expression, folds, max_epochs=3)
    assert (last.history["best_epoch"] == 2).all() and np.isfinite(last.held_out[0]).all()


@dataclass(frozen=True)
class Late(Mixup):
    """Mixup of which only the last fifth of the epochs is kept."""

    settled: float = 0.8


def test_any_strategy_can_say_from_when_on_epochs_are_kept():
    late = train(Late(), noise(), two_folds(60)).history
    assert late["best_epoch"].min() >= 16
    curve = late["validation_mse"]
    for network in (0, 1):  # judged by the other one
        assert late["best_epoch"][network] == 16 + np.argmin(curve[1 - network][16:])


def test_rcmixup_sorts_out_spots_with_large_errors(table_for):
    """A tenth of the spots leaves the training, as spots and as partners, and may come back."""
    mixing = RCMixup(trust=0.8)
    table = replace(table_for(mixing), epochs=100)
    spots, error = table.train, torch.rand(table.train.shape, generator=generator())
    early = mixing.sort_out(replace(table, epoch=5), spots, error)
    assert torch.equal(early.train, spots) and early.bandwidth is None
    assert torch.equal(mixing.bandwidths(early), table.spread * 1.0)  # the widest
    noisy = spots[0, error[0].argsort(descending=True)[: round(0.2 * spots.shape[1])]]
    late = mixing.sort_out(replace(table, epoch=50), spots, error)
    assert late.train[0].tolist() == sorted(set(spots[0].tolist()) - set(noisy.tolist()))
    partners, share = mixing.draw(late.train.repeat(1, 200), late, generator())
    assert not np.isin(partners, noisy).any() and (share < 1).float().mean() > 0.99
    again = mixing.sort_out(late, spots, -error)
    assert np.isin(noisy, again.train).all() and again.bandwidth is late.bandwidth


def test_rcmixup_shares_are_those_of_the_authors(table_for):
    """Beta(2, 2) has a variance of 1 / 20."""
    table = table_for(RCMixup())
    share = RCMixup().draw(table.train.repeat(1, 500), table, generator())[1]
    assert float(share.var()) == pytest.approx(1 / 20, rel=0.05)


def test_rcmixup_trains_on_trusted_spots_alone():
    """After the warm-up no draw has a spot whose labels are wild; before, all are drawn."""
    expression = 0.1 * noise(80)
    wild = np.arange(0, 80, 8)
    expression[wild] += 30 * noise(10, seed=1)
    fold, seen = Fold(np.arange(80)[np.arange(80) % 5 > 0], np.arange(0, 80, 5)), []

    class Spy(RCMixup):
        def draw(self, anchors, table, generator):
            partners, share = super().draw(anchors, table, generator)
            seen.append((table.epoch, anchors, partners))
            return partners, share

    fit = train(Spy(trust=0.85, warm_up=0.2), expression, [fold], early_stopping=False, max_epochs=10)
    assert np.isfinite(fit.held_out[0]).all()
    wild = np.setdiff1d(wild, fold.held_out)
    for epoch in range(10):
        anchors, partners = (np.unique(torch.cat([x[i].ravel() for x in seen if x[0] == epoch])) for i in (1, 2))
        assert np.isin(wild, anchors).all() == (epoch < 2)
        if epoch >= 2:
            assert not np.isin(wild, anchors).any() and not np.isin(wild, partners).any()
            assert len(anchors) == 48  # of 54 that are trusted, in 8 batches of equal size
    assert RCMixup(warm_up=0.2).settled == 0.2


def test_rcmixup_takes_a_narrow_bandwidth_for_clean_labels_and_a_wide_one_for_noisy(slides):
    _, library, _, fold, neighbours = slides
    rng, chosen = np.random.default_rng(0), []
    mixing = RCMixup()
    path = rng.uniform(0, 3, (54, 1)) @ np.ones((1, 40))
    for spread in (0.01, 3.0):
        labels = (np.sin(path + np.linspace(0, 6, 40)) + spread * rng.normal(size=(54, 40))).astype(np.float32)
        table = partner_table([make_targets(labels, fold.train)], [fold], neighbours, mixing, 0, library)
        chosen.append(float(mixing.choose_bandwidths(table)[0] / table.spread[0]))
    assert chosen[0] < chosen[1] == pytest.approx(max(mixing.sigmas))
