import numpy as np
import pytest

import snrmix


def test_training_marks_the_epoch_that_was_kept(adata):
    history = adata.uns["snrmix"]["history"]
    right = snrmix.pl.training(adata)[1]
    (kept,) = right.collections
    expected = np.column_stack([history["best_epoch"] + 1, history["validation_mse"][range(5), history["best_epoch"]]])
    np.testing.assert_allclose(kept.get_offsets(), expected)
    assert len(right.lines) == 6
    np.testing.assert_allclose(right.lines[-1].get_ydata(), history["validation_mse"].mean(0))


def test_training_of_a_single_network(adata):
    curve = np.array([3.0, 2.0, 2.5])
    adata.uns["snrmix"]["history"] = {"train_loss": curve, "validation_mse": curve, "best_epoch": 1}
    left = snrmix.pl.training(adata)[0]
    (line,) = left.lines
    np.testing.assert_array_equal(line.get_xydata(), [[1, 3], [2, 2], [3, 2.5]])
    np.testing.assert_array_equal(left.collections[0].get_offsets(), [[2, 2]])
    del adata.uns["snrmix"]["history"]
    with pytest.raises(KeyError, match="history.*run snrmix.tl.impute first.*'input_units'"):
        snrmix.pl.training(adata)


def test_training_names_slides_and_means_end_where_a_fold_does(adata):
    curves = np.array([[3.0, 2.0, 1.0], [4.0, 3.0, np.nan]])
    history = {"train_loss": curves, "validation_mse": curves, "best_epoch": np.array([2, 1])}
    adata.uns["snrmix"]["libraries"] = {name: {"model": name, "history": history} for name in ("A", "B")}
    axes = snrmix.pl.training(adata)
    assert axes.shape == (2, 2) and [row[0].get_title(loc="left") for row in axes] == ["A", "B"]
    np.testing.assert_array_equal(axes[0, 0].lines[-1].get_xydata(), [[1, 3.5], [2, 2.5]])
