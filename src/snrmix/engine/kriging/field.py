"""A table of values that is kriged: taken apart into components, and put together again at other sites."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from snrmix.engine.kriging.components import Components, SpotNoise, split_components

SKETCH = 64  # random projections that stand for the genes' remainders
SMALLEST_VARIANCE = 1e-8  # of a gene that is constant on the training spots


@dataclass(frozen=True)
class Field:
    """Values of the training spots. Make it with `Field.of`.

    Parameters
    ----------
    components
        How the values are made of components.
    mean, centred
        Shape (genes,), and float32, shape (n, genes): their sum are the values.
    """

    components: Components
    mean: np.ndarray
    centred: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, noise: SpotNoise, order: np.ndarray) -> Field:
        """Take float32 values, shape (n, genes), apart; see `split_components`."""
        mean = values.mean(0, dtype=np.float64).astype(np.float32)
        centred = values - mean
        return cls(split_components(centred, noise, order), mean, centred)

    @property
    def scores(self) -> np.ndarray:
        """Of the components, shape (n, components)."""
        return self.components.scores

    def sketch(self) -> np.ndarray:
        """Random combinations of the remainders, see `Components.sketch`."""
        return self.components.sketch(self.centred, SKETCH)

    def join(self, scores: np.ndarray, smoother: np.ndarray | sparse.csr_array) -> np.ndarray:
        """Values at targets, float32, shape (targets, genes).

        Parameters
        ----------
        scores
            Kriged components, shape (targets, components).
        smoother
            Weights of the training spots for the remainder, shape (targets, n).
        """
        parts = self.components
        own = (scores - smoother @ parts.scores) * parts.share
        values = smoother.astype(np.float32) @ self.centred
        values += own.astype(np.float32) @ parts.loadings.T.astype(np.float32)
        values += self.mean
        return values

    def sd(self, variance: np.ndarray, remainder: np.ndarray) -> np.ndarray:
        """Standard deviation of new observations, float32, shape (targets, genes).

        Parameters
        ----------
        variance
            Of the components, shape (targets, components).
        remainder
            Variance of the remainder of an average gene, shape (targets,).
        """
        parts = self.components
        total = (variance * parts.share).astype(np.float32) @ (parts.loadings**2).T.astype(np.float32)
        share = parts.remainder_share(self.centred).astype(np.float32)
        for row, own in zip(total, remainder.astype(np.float32), strict=True):
            row += own * share
        return np.sqrt(np.maximum(total, SMALLEST_VARIANCE, out=total), out=total)
