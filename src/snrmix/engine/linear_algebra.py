"""Matrix products and decompositions that several methods share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

WIDEST_GRAM = 700
SPOTS_AT_ONCE = 20_000


@contextmanager
def one_thread() -> Iterator[None]:
    """Factorise many small matrices: on a machine that is busy, threads wait for each other longer than they work.

    An eigendecomposition of 982 spots took 7.4 seconds of two processors with two threads, and 0.4 of one with one thread.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


def leading_directions(values: np.ndarray, rank: int) -> np.ndarray:
    """Leading right singular vectors, float64, shape (columns, rank), from the smaller Gram matrix or by iteration."""
    n, genes = values.shape
    if genes <= WIDEST_GRAM:
        some = (values[start : start + SPOTS_AT_ONCE].astype(np.float64) for start in range(0, n, SPOTS_AT_ONCE))
        return np.linalg.eigh(sum(part.T @ part for part in some))[1][:, ::-1][:, :rank]
    if n <= WIDEST_GRAM:
        left = np.linalg.eigh((values @ values.T).astype(np.float64))[1][:, ::-1][:, :rank]
    else:
        left = np.random.default_rng(0).standard_normal((n, rank + 8))
        for _ in range(6):
            left = np.linalg.qr((values @ (values.T @ left.astype(np.float32))).astype(np.float64))[0]
    right = (values.T @ left.astype(np.float32)).astype(np.float64)
    return np.linalg.svd(right, full_matrices=False)[0][:, :rank]


def squared_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances, float64, shape (..., len(a), len(b)); products in the precision of the input."""
    squared = (a**2).sum(-1, dtype=np.float64)[..., :, None] + (b**2).sum(-1, dtype=np.float64)[..., None, :]
    squared -= 2.0 * (a @ np.swapaxes(b, -1, -2))
    return np.maximum(squared, 0, out=squared)
