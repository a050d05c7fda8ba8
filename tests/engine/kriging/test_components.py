import numpy as np
import pytest

from snrmix.engine.kriging.components import depth_curves, split_components, spot_noise, trusted_depth


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
