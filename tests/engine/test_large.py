"""The ways that are taken for very many sites give what the ordinary ones give, within tolerance."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import snrmix
from snrmix.engine import conformal, linear_algebra, slices, stack
from snrmix.engine.kriging import components, covariance, systems
from snrmix.engine.kriging.covariance import Correlations, KrigingSites
from snrmix.engine.neighbours import nearest
from snrmix.engine.network import targets
from snrmix.engine.network.heads import batches
from snrmix.engine.scores import baselines
from snrmix.engine.scores.by_library import score_methods


@pytest.fixture(scope="module")
def regression():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(500, 30)).astype(np.float16)
    expression = (features[:, :5] @ rng.normal(size=(5, 8)) + rng.normal(size=(500, 8))).astype(np.float32)
    return features, expression


def test_ridge_by_normal_equations_is_ridge(regression):
    features, expression = regression
    train, targets_ = np.arange(400), np.arange(400, 500)
    dual, error = baselines.judged_ridge(features, train, targets_, expression[train])
    primal, other = baselines._primal_ridge(features, train, train, targets_, expression[train])
    assert abs(other / error - 1) < 1e-3
    np.testing.assert_allclose(primal, dual, atol=1e-4)
    assert np.abs(dual - expression[targets_]).mean() < 0.9 * np.abs(expression[targets_] - expression.mean(0)).mean()


def test_components_are_taken_where_values_are_many(monkeypatch):
    rng = np.random.default_rng(0)
    expression = (rng.normal(size=(300, 4)) @ rng.normal(size=(4, 40)) + 3).astype(np.float32)
    train = np.arange(200)
    assert targets.make_targets(expression, train).basis is None
    monkeypatch.setattr(targets, "MOST_VALUES", 1000)
    found = targets.make_targets(expression, train, most=6)
    assert found.values.shape == (300, 6)
    np.testing.assert_allclose(found.basis @ found.basis.T, np.eye(6), atol=1e-5)
    np.testing.assert_allclose(found.to_genes(found.values), expression, atol=1e-3)  # it has rank 4


def test_leading_directions_do_not_depend_on_how_many_spots_are_read_at_once(monkeypatch):
    values = np.random.default_rng(0).normal(size=(500, 30)).astype(np.float32) * np.arange(1, 31)
    whole = linear_algebra.leading_directions(values, 4)
    monkeypatch.setattr(linear_algebra, "SPOTS_AT_ONCE", 64)
    parts = linear_algebra.leading_directions(values, 4)
    np.testing.assert_allclose(whole @ whole.T, parts @ parts.T, atol=1e-8)
    assert not np.array_equal(whole, parts)  # sums were rounded elsewhere


def test_curves_of_many_depths_are_rounded_to_one_percent(monkeypatch):
    depth = np.random.default_rng(0).uniform(50, 500, 300)
    exact = components.depth_curves(depth)
    monkeypatch.setattr(components, "DISTINCT_DEPTHS", 100)
    rounded = components.depth_curves(depth)
    np.testing.assert_array_equal(rounded.depth, depth)
    for name in ("mean", "variance"):
        assert not np.array_equal(getattr(exact, name), getattr(rounded, name))
        np.testing.assert_allclose(getattr(rounded, name), getattr(exact, name), rtol=0.02, atol=1e-3)


def test_neighbourhoods_do_not_depend_on_how_many_are_searched_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    n = 1000
    sites = KrigingSites(rng.uniform(0, 30, (n, 2)), np.zeros(n, int), rng.normal(size=(n, 5)).astype(np.float32))
    train, wanted = np.arange(600), np.arange(600, n)
    correlations = Correlations(sites, train)
    monkeypatch.setattr(systems, "TARGETS_AT_ONCE", 100)
    monkeypatch.setattr(systems, "SEARCHED_AT_ONCE", 400)
    searches = []
    monkeypatch.setattr(systems, "nearest", lambda *given: searches.append(len(given[3])) or nearest(*given))
    at_once = systems.neighbourhoods(correlations, train, wanted)
    monkeypatch.setattr(systems, "SEARCHED_AT_ONCE", 100)
    np.testing.assert_array_equal(systems.neighbourhoods(correlations, train, wanted), at_once)
    assert searches == [400, 100, 100, 100, 100]


def test_looks_do_not_depend_on_how_many_sites_are_read_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    sites = KrigingSites(
        rng.uniform(0, 20, (300, 2)), np.zeros(300, int), rng.normal(size=(300, 400)).astype(np.float32)
    )
    whole = covariance.principal_looks(sites, np.arange(100), 16)
    monkeypatch.setattr(covariance, "SITES_AT_ONCE", 64)
    read = []

    class Features(np.ndarray):
        def __getitem__(self, rows):
            if isinstance(rows, slice):
                read.append(len(range(*rows.indices(len(self)))))
            return np.asarray(self)[rows]

    sites = replace(sites, features=sites.features.view(Features))
    np.testing.assert_allclose(covariance.principal_looks(sites, np.arange(100), 16), whole, atol=1e-4)
    assert read and max(read) == 64


def test_intervals_from_some_of_the_spots_are_those_of_all(monkeypatch):
    rng = np.random.default_rng(0)
    predicted = rng.gamma(2, 1, (6000, 10)).astype(np.float32)
    context = [rng.normal(size=(6000, 1)).astype(np.float32)]
    observed = predicted + rng.normal(size=predicted.shape) * np.exp(0.5 * context[0])
    whole = conformal.calibrate(observed, predicted, context)
    monkeypatch.setattr(conformal, "MOST_SPOTS", 2000)
    some = conformal.calibrate(observed, predicted, context)
    assert not np.array_equal(some.low, whole.low)
    np.testing.assert_allclose(
        some.sd(some.scale(predicted, context)), whole.sd(whole.scale(predicted, context)), rtol=0.1
    )


def test_scores_and_weights_do_not_depend_on_the_blocks_of_genes(monkeypatch):
    rng = np.random.default_rng(0)
    observed = rng.normal(size=(400, 50)).astype(np.float32)
    methods = {"mean": np.zeros_like(observed), "snrmix": observed + rng.normal(size=observed.shape).astype(np.float32)}
    rows, fold = np.arange(400), np.arange(400) % 4

    def centres(*at) -> dict:
        return {name: values[at] for name, values in methods.items()}

    table, genes = score_methods(observed, methods, centres, rows)
    weights = stack.fit_stack(observed, list(methods.values()), np.zeros((4, 50)), fold).weights
    monkeypatch.setattr(slices, "MOST_VALUES", 1)
    assert len(list(slices.gene_slices(len(rows), 50))) == 4  # 16 genes at once in place of all
    blocks, genes_of_blocks = score_methods(observed, methods, centres, rows)
    pd.testing.assert_frame_equal(blocks, table)
    pd.testing.assert_frame_equal(genes_of_blocks["snrmix"], genes["snrmix"])
    np.testing.assert_allclose(
        stack.fit_stack(observed, list(methods.values()), np.zeros((4, 50)), fold).weights, weights, rtol=1e-6
    )


def test_an_epoch_has_a_bounded_number_of_steps():
    options = snrmix.Training()
    sizes = [100, 1000, 10_000, 16_000, 100_000, 1_000_000]
    found = [batches(n, options) for n in sizes]
    assert [steps for _, steps in found][-2:] == [64, 64]
    assert all(batch < 260 for batch, _ in found)
    for n, (batch, steps) in list(zip(sizes, found, strict=True))[:4]:  # all spots are seen
        assert batch * steps > n - steps
    assert batches(100_000, snrmix.Training(steps_per_epoch=500)) == (200, 500)
    assert [batches(100_000, options, features)[1] for features in (66, 3906)] == [64, 32]
    assert batches(1500, options, 3906) == batches(1500, options)
