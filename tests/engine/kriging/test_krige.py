import numpy as np
import pytest
from scipy.spatial import cKDTree

import snrmix
from snrmix.engine.folds import Fold
from snrmix.engine.kriging import choice, systems
from snrmix.engine.kriging import krige as kriging
from snrmix.engine.kriging.choice import choice_spots, leave_one_out
from snrmix.engine.kriging.covariance import Correlations, KrigingSites
from snrmix.engine.kriging.krige import Kriging, cross_krige, krige_section
from snrmix.engine.kriging.systems import NUGGETS, PREDICT_MEAN
from snrmix.engine.scores.baselines import spatial_knn
from snrmix.engine.section import Section


def make_sites(n, seed=0, features=8, libraries=1):
    """Sites at random places whose looks vary smoothly; libraries lie on top of each other."""
    rng = np.random.default_rng(seed)
    positions = rng.uniform(0, np.sqrt(n), (n, 2))
    waves = rng.normal(0, 0.4, (2, features + 4))
    looks = np.sin(positions @ waves + rng.uniform(0, 6, features + 4)) + rng.normal(0, 0.3, (n, features + 4))
    looks = ((looks - looks.mean(0)) / looks.std(0)).astype(np.float32)
    library = np.arange(n) % libraries
    if not features:
        return KrigingSites(positions, library)
    return KrigingSites(positions, library, looks[:, :features], looks[:, features:])


def draw(sites, covariance, components, nugget, rng):
    """Scores of a Gaussian process with noise, shape (n, components)."""
    n = len(sites.library)
    correlations = Correlations(sites, np.arange(n))
    correlation = correlations.candidates[covariance].of(correlations.between(np.arange(n), np.arange(n)))
    factor = np.linalg.cholesky(correlation + 1e-6 * np.eye(n))
    noise = rng.normal(0, np.sqrt(nugget), (n, components))
    return factor @ rng.normal(size=(n, components)) + noise


def draw_expression(sites, genes=40, nugget=0.5, seed=1):
    """Three processes of different reach, loaded on genes, with noise; 4 on average."""
    rng = np.random.default_rng(seed)
    scores = np.hstack([draw(sites, covariance, 1, nugget, rng) for covariance in (0, 1, 3)])
    values = 4 + scores @ rng.normal(size=(3, genes)) * 0.5 + rng.normal(0, 0.5, (len(scores), genes))
    return values.astype(np.float32)


def test_leave_one_out_is_that_of_refits():
    sites, rng = make_sites(40), np.random.default_rng(0)
    correlations = Correlations(sites, np.arange(40))
    correlation = correlations.candidates[3].of(correlations.between(np.arange(40), np.arange(40)))
    values, noise = rng.normal(size=(40, 3)), rng.uniform(0.3, 2, 40)
    error, scale = leave_one_out(correlation, values, noise, NUGGETS[2:4])
    for g, nugget in enumerate(NUGGETS[2:4]):
        residual, variance = np.empty((40, 3)), np.empty(40)
        for i in range(40):
            rest = np.delete(np.arange(40), i)
            system = correlation[np.ix_(rest, rest)] + nugget * np.diag(noise[rest])
            dual = np.linalg.solve(system, correlation[rest, i])
            residual[i] = values[i] - dual @ values[rest]
            variance[i] = 1 + nugget * noise[i] - dual @ correlation[rest, i]
        np.testing.assert_allclose(error[g], (residual**2).mean(0), rtol=1e-6)
        np.testing.assert_allclose(scale[g], (residual**2 / variance[:, None]).mean(0), rtol=1e-6)


def test_neighbourhoods_of_all_spots_are_exact(monkeypatch):
    sites = make_sites(120, libraries=2)
    expression, train, targets = draw_expression(sites)[:90], np.arange(90), np.arange(90, 120)
    monkeypatch.setattr(systems, "NEIGHBOURS", 90)
    exact = Kriging(sites, train).fit(train, expression).predict(targets)
    near = Kriging(sites, train, exact=False).fit(train, expression).predict(targets)
    np.testing.assert_allclose(near.mean, exact.mean, rtol=1e-4)
    np.testing.assert_allclose(near.sd, exact.sd, rtol=1e-4)


def test_neighbourhoods_lose_little():
    sites = make_sites(900)
    expression = draw_expression(sites)
    train, targets = np.arange(600), np.arange(600, 900)
    fitted = [Kriging(sites, train, exact=exact).fit(train, expression[:600]) for exact in (True, False)]
    error = [np.mean((kriging.predict(targets).mean - expression[600:]) ** 2) for kriging in fitted]
    assert error[1] < 1.02 * error[0]


@pytest.mark.parametrize("exact", [True, False])
def test_library_without_measured_spots(exact):
    sites = make_sites(320, libraries=2)
    train, targets = np.flatnonzero(sites.library == 0), np.flatnonzero(sites.library == 1)
    expression = draw_expression(sites)[train]
    result = Kriging(sites, train, exact=exact).fit(train, expression).predict(targets)
    assert np.isfinite(result.mean).all() and np.isfinite(result.sd).all()
    space = KrigingSites(sites.positions, sites.library)
    result = Kriging(space, train, exact=exact).fit(train, expression).predict(targets)
    np.testing.assert_allclose(result.mean, np.broadcast_to(expression.mean(0), result.mean.shape), rtol=1e-5)


@pytest.mark.parametrize("spacing", [1.0, 0.1])
@pytest.mark.parametrize("exact", [True, False])
def test_sites_that_are_apart_learn_nothing_from_their_neighbours(spacing, exact, monkeypatch):
    """For other libraries: a smooth field tells nothing but the mean, however close the sites lie, as cells do."""
    n = 300
    positions = spacing * np.stack(np.meshgrid(np.arange(20.0), np.arange(15.0)), -1).reshape(-1, 2)
    field = np.sin(np.arange(20) / 4)[np.arange(n) % 20]
    expression = np.repeat(3 + field[:, None], 5, axis=1).astype(np.float32)
    expression += np.random.default_rng(0).normal(0, 0.1, expression.shape).astype(np.float32)
    nothing = np.zeros((n, 0), np.float32)
    folds = [Fold(np.flatnonzero(np.arange(n) % 3 != k), np.flatnonzero(np.arange(n) % 3 == k)) for k in range(3)]
    section = Section(
        nothing, np.zeros(0, bool), positions, np.zeros(n, int), np.arange(n), expression, np.full(n, 1000.0), None
    )
    if not exact:
        monkeypatch.setattr(kriging, "EXACT_SPOTS", 10)
    kriged = krige_section(section, folds, apart=True)
    assert kriged.record["exact"] == exact
    for fold in folds:
        mean = np.broadcast_to(expression[fold.train].mean(0), (len(fold.held_out), 5))
        np.testing.assert_allclose(kriged.out_of_fold[fold.held_out], mean, atol=1e-5)
    near = krige_section(section, folds).out_of_fold
    assert np.mean((near - expression) ** 2) < 0.2 * np.mean((kriged.out_of_fold - expression) ** 2)


@pytest.mark.parametrize("count", [2, 7, 8, 30])
@pytest.mark.parametrize("measured", ["some", "none", "all"])
@pytest.mark.parametrize("exact", [True, False])
def test_sites_at_one_place_are_sites(count, measured, exact, monkeypatch):
    """Failed spots parked at one place, cells that share a position: however many, measured or not."""
    n = 120
    sites, expression = make_sites(n, libraries=2), draw_expression(make_sites(n, libraries=2))
    sites.positions[:count] = sites.positions[0]
    missing = {"none": np.arange(count), "all": np.arange(90, n), "some": np.append(np.arange(0, count, 2), 100)}[
        measured
    ]
    known = np.setdiff1d(np.arange(n), missing)
    folds = [
        Fold(np.flatnonzero(np.arange(len(known)) % 2 == k), np.flatnonzero(np.arange(len(known)) % 2 != k))
        for k in (0, 1)
    ]
    if not exact:
        monkeypatch.setattr(kriging, "EXACT_SPOTS", 10)
    kriged = cross_krige(sites, known, expression[known], None, folds, missing)
    assert kriged.record["exact"] == exact
    for values in (kriged.predicted, kriged.predicted_sd, kriged.out_of_fold, kriged.out_of_fold_sd):
        assert np.isfinite(values).all()


def test_order_does_not_matter():
    sites, rng = make_sites(150, libraries=2), np.random.default_rng(5)
    expression, measured, targets = draw_expression(sites)[:100], np.arange(100), np.arange(100, 150)
    fold = Fold(np.arange(20, 100), np.arange(20))
    depth = rng.uniform(500, 5000, 100)
    first = cross_krige(sites, measured, expression, depth, [fold], targets)

    new = rng.permutation(150)  # site i becomes site old.index(i)
    place = np.argsort(new)
    moved = KrigingSites(sites.positions[new], sites.library[new], sites.features[new], sites.colour[new])
    rows, genes = rng.permutation(100), rng.permutation(40)
    spot = np.argsort(rows)
    other = cross_krige(
        moved, place[rows], expression[np.ix_(rows, genes)], depth[rows],
        [Fold(spot[fold.train], spot[fold.held_out])], place[targets],
    )  # fmt: skip
    np.testing.assert_allclose(other.predicted, first.predicted[:, genes], rtol=2e-3)
    np.testing.assert_allclose(other.predicted_sd, first.predicted_sd[:, genes], rtol=5e-3)
    np.testing.assert_allclose(other.out_of_fold[spot[:20]], first.out_of_fold[:20][:, genes], rtol=2e-3)


def test_same_bits_again_and_no_global_randomness():
    sites = make_sites(100)
    expression, depth = draw_expression(sites)[:80], np.full(80, 1000.0)
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    folds = [Fold(np.arange(40), np.arange(40, 80)), Fold(np.arange(40, 80), np.arange(40))]
    results = [cross_krige(sites, np.arange(80), expression, depth, folds, np.arange(80, 100)) for _ in range(2)]
    assert (np.random.get_state()[1] == before).all()
    for name in ("out_of_fold", "out_of_fold_sd", "predicted", "predicted_sd"):
        assert (getattr(results[0], name) == getattr(results[1], name)).all()


def test_held_out_spots_do_not_influence_their_own_values():
    sites = make_sites(100)
    expression, depth = np.abs(draw_expression(sites)[:80]), np.full(80, 1000.0)
    fold = Fold(np.arange(20, 80), np.arange(20))
    first = cross_krige(sites, np.arange(80), expression, depth, [fold], np.arange(80, 100))
    garbage = expression.copy()
    garbage[:20] = 30
    other = cross_krige(sites, np.arange(80), garbage, depth, [fold], np.arange(80, 100))
    assert (first.out_of_fold[:20] == other.out_of_fold[:20]).all()
    assert np.isnan(first.out_of_fold[20:]).all() and np.isnan(first.out_of_fold_sd[20:]).all()


def test_noise_falls_back_to_the_mean():
    ratios = []
    for seed in range(3):
        sites, rng = make_sites(220, seed), np.random.default_rng(seed)
        expression = draw_expression(sites, seed=seed)
        expression[:, 20:] = rng.normal(3, 0.7, (220, 20))
        for genes in (slice(20, 40), slice(0, 40)):
            values = expression[:, genes]
            result = Kriging(sites, np.arange(140)).fit(np.arange(140), values[:140]).predict(np.arange(140, 220))
            error = ((result.mean - values[140:]) ** 2)[:, -20:].mean()
            ratios.append(error / ((values[:140].mean(0) - values[140:]) ** 2)[:, -20:].mean())
    # Over 20 seeds: noise alone 1.001 on average and 1.002 at most; beside 20 genes with signal 1.007 and 1.014.
    assert max(ratios) < 1.02


def test_beats_neighbours_on_simulated_fields():
    ratios = []
    for seed in range(3):
        sites = make_sites(300, seed)
        expression = draw_expression(sites, seed=seed)
        train, targets = np.arange(200), np.arange(200, 300)
        result = Kriging(sites, train).fit(train, expression[:200]).predict(targets)
        knn = spatial_knn(sites.positions, sites.library, train, targets, expression[:200])
        ratios.append(np.mean((result.mean - expression[200:]) ** 2) / np.mean((knn - expression[200:]) ** 2))
    # Over 10 seeds: 0.94 on average, 0.98 at most.
    assert np.mean(ratios) < 0.97


@pytest.mark.parametrize("exact", [True, False])
def test_sd_is_calibrated(exact):
    squared, inside = [], []
    for seed in range(4):
        sites = make_sites(400, seed)
        expression = draw_expression(sites, seed=seed)
        train, targets = np.arange(250), np.arange(250, 400)
        result = Kriging(sites, train, exact=exact).fit(train, expression[:250]).predict(targets)
        z = (expression[250:] - result.mean) / result.sd
        squared.append(np.mean(z**2))
        inside.append(np.mean(np.abs(z) < 1.645))
    assert 0.9 < np.mean(squared) < 1.15
    assert 0.87 < np.mean(inside) < 0.93


def test_sd_grows_away_from_measured_spots():
    sites = make_sites(300)
    inner = np.linalg.norm(sites.positions - sites.positions.mean(0), axis=1) < 5
    train, targets = np.flatnonzero(~inner), np.flatnonzero(inner)
    result = Kriging(sites, train).fit(train, draw_expression(sites)[train]).predict(targets)
    away = np.linalg.norm(sites.positions[targets][:, None] - sites.positions[train][None], axis=-1).min(1)
    assert np.corrcoef(away, result.sd.mean(1))[0, 1] > 0.5


def test_choice_keeps_the_spacing(monkeypatch):
    monkeypatch.setattr(choice, "CHOICE_SPOTS", 500)
    sites, train = make_sites(4000, features=0), np.arange(4000)
    some = choice_spots(sites, train, np.arange(4000))
    assert len(some) == len(np.unique(some)) == 500

    def spacing(index):
        return np.median(cKDTree(sites.positions[index]).query(sites.positions[index], 2)[0][:, 1])

    assert spacing(some) < 1.15 * spacing(train)
    assert spacing(train[::8]) > 2 * spacing(train)


@pytest.mark.parametrize("n, genes", [(4, 1), (20, 3), (25, 900)])
def test_small_and_degenerate_data(n, genes):
    sites, rng = make_sites(n + 5, features=0), np.random.default_rng(0)
    expression = rng.poisson(1.0, (n, genes)).astype(np.float32)
    expression[:, 0] = 2.0
    folds = [Fold(np.arange(n // 2), np.arange(n // 2, n))]
    result = cross_krige(sites, np.arange(n), expression, None, folds, np.arange(n, n + 5))
    assert np.isfinite(result.predicted).all() and np.isfinite(result.predicted_sd).all()
    np.testing.assert_allclose(result.predicted[:, 0], 2.0, atol=5e-3)
    nobody = cross_krige(sites, np.arange(n), expression, None, folds, np.arange(0))
    assert nobody.predicted.shape == (0, genes)
    assert np.array_equal(nobody.out_of_fold, result.out_of_fold, equal_nan=True)


def test_record_says_what_was_used():
    sites = make_sites(120)
    record = Kriging(sites, np.arange(100)).fit(np.arange(100), draw_expression(sites)[:100]).record
    assert record["component"][-1] == "remainder"
    assert {len(values) for values in record.values()} == {len(record["component"])}
    assert (record["weight"] > 0).all() and (record["weight"] <= 1).all()
    assert record["nugget"].max() <= NUGGETS[PREDICT_MEAN]


def test_features_that_hardly_any_site_has_do_not_break_kriging():
    """Most sites look exactly the same, so that the median distance in looks is nothing but rounding error."""
    rng = np.random.default_rng(0)
    positions, library = rng.uniform(0, 10, (120, 2)), np.zeros(120, int)
    features = np.full((120, 6), 1.7, np.float32) + 1e-6 * rng.normal(size=(120, 6)).astype(np.float32)
    features[:10] += rng.normal(0, 3, (10, 6))
    sites = KrigingSites(positions, library, features, features)
    expression = np.abs(rng.normal(size=(80, 12))).astype(np.float32)
    fold = Fold(np.arange(60), np.arange(60, 80))
    kriged = cross_krige(sites, np.arange(80), expression, None, [fold], np.arange(80, 120))
    assert np.isfinite(kriged.predicted).all() and np.isfinite(kriged.out_of_fold[60:]).all()


def test_small_systems_are_solved_with_one_thread(monkeypatch):
    """Else a busy machine spends its time on threads that wait; and the limit ends with the solving."""
    from threadpoolctl import threadpool_info, threadpool_limits

    from snrmix.engine.kriging import choice as module

    seen, leave_one_out = [], module.leave_one_out

    def watch(*arguments):
        seen.append({pool["num_threads"] for pool in threadpool_info()})
        return leave_one_out(*arguments)

    monkeypatch.setattr(module, "leave_one_out", watch)
    with threadpool_limits(2):
        before = {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()}
        adata = snrmix.datasets.synthetic_tissue(n_rows=9, n_genes=24, image_px_per_pitch=16)
        snrmix.tl.impute(adata, encoder="colour", n_folds=2, max_epochs=1)
        assert seen
        assert all(counts == {1} for counts in seen)
        after = {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()}
        assert before.items() <= after.items()
