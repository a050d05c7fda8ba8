import numpy as np
import pytest

from snrmix.engine.network import targets as targets_module
from snrmix.engine.network.targets import make_targets


@pytest.mark.parametrize("genes", [7, 600])
def test_targets_are_fitted_on_training_spots_alone(genes):
    rng = np.random.default_rng(0)
    expression = rng.gamma(2, size=(80, genes)).astype(np.float32)
    train = np.arange(0, 80, 2)
    target = make_targets(expression, train)
    assert np.mean(target.values[train] ** 2) == pytest.approx(1, rel=1e-4)
    changed = expression.copy()
    changed[1::2] = 1e3
    again = make_targets(changed, train)
    np.testing.assert_array_equal(again.mean, target.mean)
    assert again.scale == target.scale
    np.testing.assert_array_equal(again.values[train], target.values[train])
    back = target.to_genes(target.values)
    if genes <= targets_module.WIDEST:
        np.testing.assert_allclose(back, expression, rtol=1e-4, atol=1e-5)
    else:
        np.testing.assert_array_equal(again.basis, target.basis)
        np.testing.assert_allclose(target.basis @ target.basis.T, np.eye(len(target.basis)), atol=1e-4)
        # 39 components span 40 centred spots
        np.testing.assert_allclose(back[train], expression[train], atol=1e-3)
