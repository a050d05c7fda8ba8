import numpy as np
import pytest

from snrmix.engine.linear_algebra import leading_directions


@pytest.mark.parametrize("shape", [(40, 2000), (900, 800), (60, 30)])
def test_directions_are_singular_vectors(shape):
    rng = np.random.default_rng(0)
    strong = rng.normal(size=(shape[0], 3)) * [30, 20, 10] @ rng.normal(size=(3, shape[1]))
    values = (strong + rng.normal(size=shape)).astype(np.float32)
    found, expected = leading_directions(values, 3), np.linalg.svd(values, full_matrices=False)[2][:3].T
    np.testing.assert_allclose(found.T @ found, np.eye(3), atol=1e-5)
    np.testing.assert_allclose(np.abs((found * expected).sum(0)), 1, atol=1e-4)
