import numpy as np

from snrmix.engine.scaling import CLIP, standard_scale, standardise


def test_dead_features_are_silenced_and_others_standardised():
    rng = np.random.default_rng(0)
    features = rng.normal(3, 2, (200, 5)).astype(np.float32)
    train = np.arange(100)
    features[:, 1] = 1000.1  # constant, but for rounding of its mean
    features[:, 2] = 1000.1
    features[150, 2] = 1005.0  # varies only elsewhere, a little
    features[train, 3] = 0.5 + 1e-3 * rng.normal(size=100)  # hardly varies where it is measured
    features[:, 4] *= 1e-3
    centre, scale = standard_scale(features, train)
    assert list(scale > 0) == [True, False, False, False, True]
    np.testing.assert_allclose(centre, features[train].mean(0), rtol=1e-6)
    z = standardise(features, train)
    np.testing.assert_allclose(z[train][:, [0, 4]].std(0), 1, atol=0.02)
    assert (z[:, 1:4] == 0).all() and np.abs(z).max() <= CLIP
    np.testing.assert_allclose(standardise(features.astype(np.float16), train)[:, 0], z[:, 0], atol=0.01)
