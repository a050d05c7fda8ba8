import numpy as np

from snrmix.engine.folds import Fold
from snrmix.engine.scores.smoothing import diffuse, graph_smoothing, random_walk


def line_graph(n):
    neighbours = np.stack([np.arange(n) - 1, np.arange(n) + 1], axis=1)
    neighbours[-1, 1] = -1
    return neighbours


def test_random_walk_goes_to_itself_and_its_neighbours():
    walk = random_walk(line_graph(4)).toarray()
    np.testing.assert_allclose(walk.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(walk[0], [0.5, 0.5, 0, 0])
    np.testing.assert_allclose(walk[1], [1 / 3, 1 / 3, 1 / 3, 0], rtol=1e-6)


def test_diffusion_is_that_of_dense_powers():
    rng = np.random.default_rng(0)
    walk, sources, values = random_walk(line_graph(12)), np.array([0, 3, 4, 9]), rng.normal(size=(4, 3))
    found = diffuse(walk, sources, values, np.arange(12), (1, 5))
    for step, got in zip((1, 5), found, strict=True):
        power = np.linalg.matrix_power(walk.toarray(), step)[:, sources]
        mass = power.sum(1, keepdims=True)
        expected = np.where(mass > 0, power @ values / np.where(mass > 0, mass, 1), values.mean(0))
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_steps_are_chosen_by_the_folds():
    rng = np.random.default_rng(0)
    n = 400
    smooth = np.sin(np.arange(n) / 40)[:, None] + rng.normal(0, 1, (n, 5))
    measured = np.sort(rng.permutation(n)[:200])
    folds = [Fold(np.flatnonzero(np.arange(200) % 2 != k), np.flatnonzero(np.arange(200) % 2 == k)) for k in (0, 1)]
    targets = np.setdiff1d(np.arange(n), measured)
    walk = random_walk(line_graph(n))
    truth = np.sin(targets / 40)[:, None]
    chosen = graph_smoothing(walk, measured, smooth[measured], folds, targets)
    one = diffuse(walk, measured, smooth[measured], targets, (1,))[0]
    assert np.mean((chosen - truth) ** 2) < 0.3 * np.mean((one - truth) ** 2)
