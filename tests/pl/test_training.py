import numpy as np
import pytest

import snrmix


def test_training_marks_the_epoch_that_was_kept(adata):
    history = adata.uns["snrmix"]["history"]
    right = snrmix.pl.training(adata).axes[1]
    (kept,) = right.collections
    expected = np.column_stack([history["best_epoch"] + 1, history["validation_mse"][range(5), history["best_epoch"]]])
    np.testing.assert_allclose(kept.get_offsets(), expected)
    assert len(right.lines) == 6
    np.testing.assert_allclose(right.lines[-1].get_ydata(), history["validation_mse"].mean(0))


def test_training_of_a_single_network(adata):
    curve = np.array([3.0, 2.0, 2.5])
    adata.uns["snrmix"]["history"] = {"train_loss": curve, "validation_mse": curve, "best_epoch": 1}
    left = snrmix.pl.training(adata).axes[0]
    (line,) = left.lines
    np.testing.assert_array_equal(line.get_xydata(), [[1, 3], [2, 2], [3, 2.5]])
    np.testing.assert_array_equal(left.collections[0].get_offsets(), [[2, 2]])
    del adata.uns["snrmix"]["history"]
    with pytest.raises(KeyError, match="history.*run snrmix.tl.impute first.*'input_units'"):
        snrmix.pl.training(adata)
