import numpy as np
import pytest

from snrmix.engine.kriging.covariance import Correlations, KrigingSites, surroundings


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


def test_looks_are_embedding_and_surroundings():
    sites = make_sites(60, features=8)
    correlations = Correlations(sites, np.arange(60))
    looks = correlations._looks[0][0]
    distance = np.linalg.norm(sites.positions[:, None] - sites.positions[None], axis=-1)
    around = np.argsort(distance, axis=1)[:, 1:7]
    both = np.hstack([sites.features, sites.features[around].mean(1)])
    squared = ((both[:, None] - both[None]) ** 2).sum(-1)
    np.testing.assert_allclose(((looks[:, None] - looks[None]) ** 2).sum(-1), squared, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("count", [2, 7, 8, 9, 30])
def test_surroundings_are_other_sites_even_at_one_place(count):
    sites = make_sites(40)
    sites.positions[:count] = sites.positions[0]
    around = surroundings(sites)
    assert around.shape == (40, 6)
    assert not (around == np.arange(40)[:, None]).any()
    assert all(len(set(row)) == 6 for row in around)
    away = np.linalg.norm(sites.positions[around] - sites.positions[:, None], axis=-1)
    every = np.sort(np.linalg.norm(sites.positions[:, None] - sites.positions[None], axis=-1), axis=1)[:, 1:7]
    np.testing.assert_allclose(np.sort(away, axis=1), every, atol=1e-9)
