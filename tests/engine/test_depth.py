"""What depth does by itself, against counts drawn at other depths."""

import numpy as np
import pytest

from snrmix.engine import slices
from snrmix.engine.at_depth import SiteDepths, at_depth, given_depth, kept_share, shrunk
from snrmix.engine.depth import constant_share_at, fit_depth_reader, gene_rates, pooled_share, tabulate_moments
from snrmix.engine.folds import Fold
from snrmix.engine.scores.reliability import compact_groups, pattern_is_real
from snrmix.engine.section import Section

SHARE = np.geomspace(2e-4, 5e-3, 30)


def drawn(rng, depth, scatter):
    """log1p(counts per 10,000) of genes whose shares scatter (squared coefficient of variation), and follow nothing."""
    shape = len(depth), len(SHARE)
    factor = rng.gamma(1 / scatter, scatter, shape) if scatter else np.ones(shape)
    return np.log1p(1e4 * rng.poisson(SHARE * factor * depth[:, None]) / depth[:, None]).astype(np.float32)


@pytest.mark.parametrize("scatter", [0, 0.3, 1.0])
def test_shares_of_a_gene_are_those_that_it_has(scatter):
    rng = np.random.default_rng(0)
    depth = rng.lognormal(7.5, 1, 4000)
    rates = gene_rates(drawn(rng, depth, scatter), depth)
    assert np.median(rates.mean(0) / SHARE) == pytest.approx(1, abs=0.03)
    found = np.median(rates.var(0) / rates.mean(0) ** 2)
    assert found == pytest.approx(0.77 * scatter, abs=0.06)  # eight parts have somewhat less variance than the whole


@pytest.mark.parametrize("scatter", [0, 1.0])
def test_means_at_other_depths_are_those_of_counts_there(scatter):
    """Error of the mean at 300 and 10,000 counts: .02 in the median over genes, .1 without the scatter where there is some."""
    rng = np.random.default_rng(1)
    depth = rng.lognormal(7.5, 0.5, 3000)
    expression, library = drawn(rng, depth, scatter), np.zeros(3000, int)
    poisson = pooled_share(expression, depth)
    for other in (300.0, 10_000.0):
        true = drawn(rng, np.full(4000, other), scatter).mean(0)
        found = constant_share_at(expression, depth, library, np.zeros(1, int), np.array([other]))[0]
        assert np.median(np.abs(found - true)) < 0.04
        if scatter:
            moments = tabulate_moments(np.append(depth, other))
            without = (
                expression.mean(0) + moments.mean(poisson, np.array([other]))[0] - moments.mean(poisson, depth).mean(0)
            )
            assert np.median(np.abs(without - true)) > 2 * np.median(np.abs(found - true))


def test_the_average_over_sites_is_that_of_their_values():
    depth, rates = np.random.default_rng(3).lognormal(7.5, 1, 500), SHARE * np.array([[0.5], [1.5]])
    moments = tabulate_moments(depth)
    np.testing.assert_allclose(
        moments.average(rates, depth), moments.mean(rates, depth).mean(0, dtype=float), rtol=1e-5
    )


@pytest.fixture(scope="module")
def two_libraries():
    """Counts of 300 measured spots of two libraries, some never held out, and of 100 others; and guesses of them."""
    rng = np.random.default_rng(5)
    depth, library = rng.lognormal(7, 0.6, 400), np.arange(400) % 2
    expression, measured = drawn(rng, depth, 0.3), np.arange(300)
    folds = [Fold(np.flatnonzero(measured % 4 != k), np.flatnonzero(measured % 4 == k)) for k in range(3)]
    guess = depth * rng.lognormal(0, 0.3, 400)
    depths = SiteDepths(depth[:300], guess[:300], guess[300:], np.where(np.arange(100) % 3, depth[300:], np.nan))
    positions = np.column_stack([np.arange(400) % 20, np.arange(400) // 20]).astype(float)
    section = Section(
        np.empty((400, 0), np.float16), np.empty(0, bool), positions, library, measured, expression[:300], depth[:300],
        None, None, depth,
    )  # fmt: skip
    values = np.maximum(expression.mean(0) + 0.5 * rng.standard_normal(expression.shape), 0).astype(np.float32)
    return section, folds, depths, values


@pytest.mark.parametrize("typical", [None, 900.0])
def test_values_at_a_depth_do_not_depend_on_the_blocks_of_genes(two_libraries, typical, monkeypatch):
    section, folds, depths, values = two_libraries
    scored, far = np.flatnonzero(np.arange(300) % 4 != 3), np.zeros((100, 1))

    def made():
        alone = given_depth(section, folds, depths)
        moved = at_depth(
            section, folds, depths, typical, scored, values[:300], values[300:], [np.zeros((len(scored), 1))], [far]
        )
        names = "out_of_fold", "out_of_fold_sd", "predicted", "predicted_sd", "seen", "seen_sd", "kept"
        return {name: getattr(moved, name) for name in names} | {
            "known": alone.known, "guessed": alone.predicted, "centre": alone.centre[:, :]
        }  # fmt: skip

    whole = made()
    monkeypatch.setattr(slices, "MOST_VALUES", 1)  # 16 genes at once
    blocks = made()
    for name, found in whole.items():
        np.testing.assert_allclose(blocks[name], found, rtol=1e-4, atol=1e-5, err_msg=name)
    held_out = np.isin(np.arange(300), scored)
    assert np.isfinite(whole["known"][held_out]).all() and np.isnan(whole["known"][~held_out]).all()
    assert np.isfinite(whole["out_of_fold_sd"][held_out]).all() and np.isnan(whole["out_of_fold"][~held_out]).all()
    # a plain way to the centre: the mean of the training spots of the library, and what depth does from theirs to the middle
    train = folds[0].train[section.library[folds[0].train] == 0]
    middle = np.exp(np.log(section.depth[folds[0].train]).mean())
    rates, moments = (
        gene_rates(section.expression[folds[0].train], section.depth[folds[0].train]),
        tabulate_moments(section.depth),
    )
    plain = (
        section.expression[train].mean(0)
        + moments.mean(rates, np.array([middle]))[0]
        - moments.mean(rates, section.depth[train]).mean(0)
    )
    np.testing.assert_allclose(whole["centre"][folds[0].held_out[0]], plain, atol=2e-3)


def test_genes_that_scatter_are_not_reliable_where_depth_is_known_and_varies():
    """Shares without any pattern, depths from 5 to 10,000: none is called, not even where the scatter is not known.

    Depth alone is too steep then, and predictions differ from it along depth: a third is called if that counts as a pattern.
    """
    rng = np.random.default_rng(2)
    xy = np.stack(np.meshgrid(np.arange(50), np.arange(50)), -1).reshape(-1, 2).astype(float)
    log_depth = 6.5 + 1.6 * np.sin(xy[:, 0] / 6) + 0.6 * rng.standard_normal(len(xy))
    depth, guess = np.exp(log_depth), np.exp(6.5 + 1.6 * np.sin(xy[:, 0] / 6))
    expression, library = drawn(rng, depth, 1.0), np.zeros(len(xy), int)
    group = compact_groups(xy, library, rng)
    known, predicted = (constant_share_at(expression, depth, library, library, at) for at in (depth, guess))
    moments, share = tabulate_moments(np.append(depth, guess)), pooled_share(expression, depth)
    base = expression.mean(0) - moments.mean(share, depth).mean(0)
    called = []
    for alone in ((known, predicted), (base + moments.mean(share, depth), base + moments.mean(share, guess))):
        how = expression, predicted, np.broadcast_to(expression.mean(0), expression.shape), *alone, group
        called.append(pattern_is_real(*how, np.random.default_rng(0)).mean())
    assert called == [0, 0]


def test_a_strong_depth_is_no_pattern_and_a_weak_pattern_is_one():
    """Predictions that have half as much of depth again: none is called; those with a pattern of r = .1 to what is seen: all are."""
    rng = np.random.default_rng(4)
    xy = np.stack(np.meshgrid(np.arange(50), np.arange(50)), -1).reshape(-1, 2).astype(float)
    group, known = compact_groups(xy, np.zeros(len(xy), int), rng), rng.standard_normal((len(xy), 1)) * np.ones(40)
    seen, noise = rng.standard_normal((2, len(xy), 40))
    mean, predicted = np.zeros((1, 40)), 0.9 * known
    steeper = 1.4 * known + 0.15 * seen + 0.9 * noise  # depth does more than is thought, and little else is seen
    mean = np.broadcast_to(mean, known.shape)
    strong, weak = 1.35 * known, predicted + 0.15 * seen
    for ours, called in ((strong, 0.0), (weak, 1.0)):
        found = pattern_is_real(steeper, ours, mean, known, predicted, group, np.random.default_rng(0))
        assert found.mean() == called


def test_as_much_of_a_pattern_is_kept_as_was_seen():
    rng = np.random.default_rng(3)
    pattern, noise = rng.standard_normal((2, 500, 4))
    rest = pattern * np.array([1.5, 0.5, 0.0, -1.0]) + 0.1 * noise
    np.testing.assert_allclose(kept_share(rest, pattern), [1, 0.5, 0, 0], atol=0.02)
    fold = np.arange(500) % 2
    np.testing.assert_allclose(shrunk(rest, pattern, fold), pattern * kept_share(rest, pattern), atol=0.1)
    spoilt = np.where(fold[:, None] == 0, 10 * pattern, rest)  # what a fold shows is not used for itself
    np.testing.assert_allclose(shrunk(spoilt, pattern, fold)[fold == 0], shrunk(rest, pattern, fold)[fold == 0])


def test_depth_read_from_predictions_that_are_all_alike_is_the_mean():
    depth, alike = np.array([500.0, 1000.0, 2000.0] * 6), np.ones((18, 12), np.float32)
    np.testing.assert_allclose(fit_depth_reader(alike, depth).read(alike[:3]), 1000.0)
