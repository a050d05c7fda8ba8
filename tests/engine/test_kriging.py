import numpy as np
import pytest
from scipy.spatial import cKDTree

from snrmix.engine.folds import Fold
from snrmix.engine.kriging import krige as kriging
from snrmix.engine.kriging import systems
from snrmix.engine.kriging.components import depth_curves, split_components, spot_noise, trusted_depth
from snrmix.engine.kriging.covariance import Correlations, KrigingSites
from snrmix.engine.kriging.krige import Kriging, choice_spots, cross_krige, leave_one_out
from snrmix.engine.kriging.systems import NUGGETS, PREDICT_MEAN, Choice, Observed, solve_exact, solve_near
from snrmix.engine.linear_algebra import leading_directions
from snrmix.engine.neighbours import nearest
from snrmix.engine.scores.baselines import spatial_knn


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


def one_choice(covariance, nugget, scale=2.0):
    return Choice(np.array([covariance]), np.array([nugget]), np.ones(1), np.full(1, scale))


@pytest.mark.parametrize("features", [0, 8])
@pytest.mark.parametrize("solve", [solve_exact, solve_near])
def test_systems_agree_with_textbook(solve, features, monkeypatch):
    sites, rng = make_sites(70, features=features, libraries=2), np.random.default_rng(3)
    train, targets = np.arange(50), np.arange(50, 70)
    monkeypatch.setattr(systems, "NEIGHBOURS", 50)
    scores, noise = rng.normal(size=(50, 2)), rng.uniform(0.5, 1.5, 50)
    correlations = Correlations(sites, train)
    choices = [one_choice(3, 1), one_choice(1, 2, 0.7), one_choice(3, 3)]
    solved = solve(Observed(correlations, train, scores, noise, choices), targets)

    # From the definitions: distances in a loop, kernels written out.
    near = nearest(sites.positions, sites.library, train, targets, 6)[0]
    for c, (covariance, nugget, scale) in enumerate([(3, NUGGETS[1], 2.0), (1, NUGGETS[2], 0.7), (3, NUGGETS[3], 2.0)]):
        system = np.array([[textbook(correlations, covariance, i, j) for j in train] for i in train])
        system += nugget * np.diag(noise)
        right = np.array([[textbook(correlations, covariance, i, j) for j in train] for i in targets])
        dual = np.linalg.solve(system, right.T).T
        expected = noise[near].mean(1)
        variance = scale * (1 - (dual * right).sum(1) + nugget * expected)
        if c < 2:
            np.testing.assert_allclose(solved.mean[:, c], dual @ scores[:, c], rtol=1e-5, atol=2e-6)
            np.testing.assert_allclose(solved.variance[:, c], variance, rtol=1e-5)
        else:
            smoother = solved.smoother if solve is solve_exact else solved.smoother.toarray()
            np.testing.assert_allclose(smoother, dual, rtol=1e-5, atol=2e-6)
            np.testing.assert_allclose(solved.remainder_variance, variance, rtol=1e-5)


def textbook(correlations, covariance, i, j):
    sites = correlations.sites
    d = np.linalg.norm(sites.positions[i] - sites.positions[j])
    same = float(sites.library[i] == sites.library[j])

    def space(reach):
        return same * np.exp(-d / reach)

    if sites.features is None:
        return {1: space(25), 3: 0.5 * space(3) + 0.5 * space(25)}[covariance]
    embedding, colour = correlations._looks
    image = 0.5 * np.exp(-((embedding[0][i] - embedding[0][j]) ** 2).sum() / embedding[1][0])
    image += 0.25 * sum(np.exp(-((colour[0][i] - colour[0][j]) ** 2).sum() / width) for width in colour[1])
    return {1: space(25), 3: 0.3 * space(8) + 0.3 * image + 0.4 * space(8) * image}[covariance]


def test_looks_are_embedding_and_surroundings():
    sites = make_sites(60, features=8)
    correlations = Correlations(sites, np.arange(60))
    looks = correlations._looks[0][0]
    distance = np.linalg.norm(sites.positions[:, None] - sites.positions[None], axis=-1)
    around = np.argsort(distance, axis=1)[:, 1:7]
    both = np.hstack([sites.features, sites.features[around].mean(1)])
    squared = ((both[:, None] - both[None]) ** 2).sum(-1)
    np.testing.assert_allclose(((looks[:, None] - looks[None]) ** 2).sum(-1), squared, rtol=1e-3, atol=1e-3)


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


def test_neighbours_are_the_most_correlated(monkeypatch):
    sites = make_sites(400, libraries=2)
    train, targets = np.arange(300), np.arange(300, 400)
    correlations = Correlations(sites, train)
    monkeypatch.setattr(systems, "CLOSE", 150)
    monkeypatch.setattr(systems, "ANCHORS", 70)
    near = systems.neighbourhoods(correlations, train, targets)
    assert near.shape == (100, 64)
    assert (np.diff(near, axis=1) > 0).all()
    relations = correlations.between(targets, train)
    similar = np.mean([c.of(relations) for c in correlations.candidates], axis=0)
    best = np.argsort(-similar, axis=1)[:, :32]
    found = (best[:, :, None] == near[:, None, :]).any(2)
    assert found.mean() > 0.9


@pytest.mark.parametrize("solve", [solve_exact, solve_near])
def test_libraries_do_not_mix_in_space(solve):
    sites = make_sites(400, features=0, libraries=2)
    train, targets = np.arange(300), np.arange(300, 400)
    choices = [one_choice(1, 1), one_choice(3, 1)]
    scores = np.random.default_rng(0).normal(size=(300, 1))
    solved = solve(Observed(Correlations(sites, train), train, scores, np.ones(300), choices), targets)
    smoother = solved.smoother if solve is solve_exact else solved.smoother.toarray()
    other = sites.library[targets][:, None] != sites.library[train][None]
    assert np.abs(smoother[other]).max() < 1e-12
    assert np.abs(smoother[~other]).max() > 0.1


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


def poisson_expression(rng, n=200, genes=300):
    """Log-normalised counts at rates that do not vary between spots; depth does, fiftyfold."""
    depth = np.exp(rng.uniform(np.log(200), np.log(10_000), n))
    rates = rng.dirichlet(np.full(genes, 0.5))
    counts = rng.poisson(depth[:, None] * rates)
    total = np.maximum(counts.sum(1), 1)
    return np.log1p(counts / total[:, None] * 1e4).astype(np.float32), total.astype(float)


def test_noise_and_shift_follow_from_depth():
    expression, depth = poisson_expression(np.random.default_rng(0))
    noise = spot_noise(expression, depth_curves(depth))
    centred = expression - expression.mean(0)
    residual = centred - noise.shift @ noise.loadings.T
    scatter = (residual**2).mean(1)
    assert noise.level.mean() == pytest.approx(1)
    assert np.corrcoef(np.log(scatter), np.log(noise.level))[0, 1] > 0.95
    shallow = depth < np.quantile(depth, 0.2)
    # Without the shift, the mean of shallow spots would be off by its own size.
    assert np.abs(residual[shallow].mean()) < 0.1 * np.abs(centred[shallow].mean())


def test_depth_is_taken_from_values_where_it_is_not_of_counts():
    expression, depth = poisson_expression(np.random.default_rng(1))
    np.testing.assert_array_equal(trusted_depth(expression, depth), depth)
    for wrong in (None, expression.sum(1)):
        found = trusted_depth(expression, wrong)
        assert np.median(np.abs(found / depth - 1)) < 0.01
    assert (trusted_depth(np.zeros((3, 2), np.float32), None) > 0).all()


def test_components_and_remainder_add_up():
    rng = np.random.default_rng(2)
    expression, depth = poisson_expression(rng, n=90)
    noise = spot_noise(expression, depth_curves(depth))
    centred = expression - expression.mean(0)
    parts = split_components(centred, noise, np.arange(90))
    assert len(parts.names) == len(parts.share) == parts.scores.shape[1] == parts.loadings.shape[1]
    remainders = [centred - parts.scores[:, way] @ parts.loadings[:, way].T for way in parts.ways]
    total = sum(remainders) / len(parts.ways) + (parts.scores * parts.share) @ parts.loadings.T
    np.testing.assert_allclose(total, centred, atol=1e-5)
    square = np.mean([(r**2).mean(0) for r in remainders], axis=0)
    np.testing.assert_allclose(parts.remainder_share(centred), square / square.mean(), rtol=1e-3)
    sketch = parts.sketch(centred, 4000)
    assert np.mean(sketch**2) == pytest.approx(square.mean(), rel=0.05)


@pytest.mark.parametrize("shape", [(40, 2000), (900, 800), (60, 30)])
def test_directions_are_singular_vectors(shape):
    rng = np.random.default_rng(0)
    strong = rng.normal(size=(shape[0], 3)) * [30, 20, 10] @ rng.normal(size=(3, shape[1]))
    values = (strong + rng.normal(size=shape)).astype(np.float32)
    found, expected = leading_directions(values, 3), np.linalg.svd(values, full_matrices=False)[2][:3].T
    np.testing.assert_allclose(found.T @ found, np.eye(3), atol=1e-5)
    np.testing.assert_allclose(np.abs((found * expected).sum(0)), 1, atol=1e-4)


def test_choice_keeps_the_spacing(monkeypatch):
    monkeypatch.setattr(kriging, "CHOICE_SPOTS", 500)
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
