from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from snrmix.engine.linear_algebra import leading_directions
from snrmix.engine.slices import MOST_VALUES

WIDEST = 512  # up to this many genes the network predicts genes; above, principal components
COMPONENTS = 128


@dataclass(frozen=True)
class Targets:
    """What one network learns to predict: centred expression, or its leading principal components, in one scale.

    The pooled standard deviation is 1 whatever the units and genes, so loss weights keep their meaning. Components are
    orthonormal: squared error on them is squared error on the genes, less a constant.

    Parameters
    ----------
    values
        float32, shape (n, outputs), for all measured spots.
    mean
        Shape (genes,), of the training spots.
    scale
        Pooled standard deviation of the training spots.
    basis
        Shape (outputs, genes), or ``None`` when outputs are genes.
    """

    values: np.ndarray
    mean: np.ndarray
    scale: float
    basis: np.ndarray | None

    def to_genes(self, predicted: np.ndarray) -> np.ndarray:
        """Expression, float32, shape (m, genes), of predicted outputs, shape (m, outputs)."""
        predicted = predicted * self.scale
        return (predicted if self.basis is None else predicted @ self.basis) + self.mean

    def to_arrays(self) -> dict[str, np.ndarray]:
        """What a prediction needs, by name: all but the values."""
        arrays = {"mean": self.mean, "scale": np.array(self.scale, float)}
        return arrays if self.basis is None else {**arrays, "basis": self.basis}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Targets:
        """What `to_arrays` gave."""
        mean, basis = arrays["mean"], arrays.get("basis")
        outputs = len(mean if basis is None else basis)
        return cls(np.empty((0, outputs), np.float32), mean, float(arrays["scale"]), basis)


def make_targets(expression: np.ndarray, train: np.ndarray, most: int = COMPONENTS) -> Targets:
    """Fit centre, scale and (for many genes) components on the training spots alone.

    Parameters
    ----------
    expression
        float32, shape (n, genes), log units.
    train
        Indices of the training spots.
    most
        Number of components, where there are so many: networks that are trained together need as many each.
    """
    mean = expression[train].mean(0)
    centred = expression - mean
    basis = None
    if expression.shape[1] > WIDEST or expression.size > MOST_VALUES:
        basis = _leading_components(centred[train], most)
        centred = centred @ basis.T
    scale = max(float(np.sqrt(np.mean(centred[train] ** 2, dtype=np.float64))), 1e-6)
    return Targets(centred / np.float32(scale), mean, scale, basis)


def _leading_components(centred: np.ndarray, most: int) -> np.ndarray:
    """Principal axes of the training spots, float32, shape (components, genes)."""
    rank = min(most, len(centred) - 1, centred.shape[1])
    if centred.shape[1] <= WIDEST:
        return np.ascontiguousarray(leading_directions(centred, rank).T, dtype=np.float32)
    from sklearn.utils.extmath import randomized_svd

    return randomized_svd(centred, rank, n_iter=4, random_state=0)[2].astype(np.float32)
