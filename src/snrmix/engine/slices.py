"""Large arrays in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

MOST_VALUES = 10_000_000  # spots times genes at once
MOST_GENES = 1024  # at once


@dataclass(frozen=True)
class Repeated:
    """An array of few distinct rows, each kept once. It is taken from as from an array, by rows, and by rows and columns.

    Parameters
    ----------
    rows
        Shape (distinct, columns).
    which
        Shape (n,): index of the row that each row is.
    """

    rows: np.ndarray
    which: np.ndarray

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, at):
        if isinstance(at, tuple):
            return self.rows[self.which[at[0]], at[1]]
        return Repeated(self.rows, self.which[at])


def rows_of(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Values at some rows, ascending and each once; where these are all of them the values themselves, and no copy."""
    return values if len(rows) == len(values) else values[rows]


def spread_rows(values: np.ndarray, rows: np.ndarray, total: int) -> np.ndarray:
    """Values at some of ``total`` rows, NaN in the others; the values themselves where there are no others."""
    if len(rows) == total:
        return values
    found = np.full((total, *values.shape[1:]), np.nan, values.dtype)
    found[rows] = values
    return found


def slices(total: int, size: int) -> Iterator[slice]:
    """Slices of at most ``size`` that make up ``total``."""
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def gene_slices(spots: int, genes: int) -> Iterator[slice]:
    """Slices of at most 1,024 genes, fewer where there are many spots."""
    return slices(genes, int(np.clip(MOST_VALUES // max(spots, 1), 16, MOST_GENES)))
