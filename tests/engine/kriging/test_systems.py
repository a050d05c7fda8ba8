import numpy as np
import pytest

from snrmix.engine.kriging import systems
from snrmix.engine.kriging.covariance import Correlations, KrigingSites
from snrmix.engine.kriging.systems import NUGGETS, Choice, Observed, solve_exact, solve_near
from snrmix.engine.neighbours import nearest


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


def one_choice(covariance, nugget, scale=2.0):
    return Choice(np.array([covariance]), np.array([nugget]), np.ones(1), np.full(1, scale), np.ones(1))


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
            (smoother,) = (one if solve is solve_exact else one.toarray() for one in solved.smoothers)
            np.testing.assert_allclose(smoother, dual, rtol=1e-5, atol=2e-6)
            np.testing.assert_allclose(solved.remainder_variance[:, 0], variance, rtol=1e-5)


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
    (smoother,) = (one if solve is solve_exact else one.toarray() for one in solved.smoothers)
    other = sites.library[targets][:, None] != sites.library[train][None]
    assert np.abs(smoother[other]).max() < 1e-12
    assert np.abs(smoother[~other]).max() > 0.1
