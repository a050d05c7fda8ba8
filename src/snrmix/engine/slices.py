"""Large arrays in pieces."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

MOST_VALUES = 10_000_000  # spots times genes at once
MOST_GENES = 1024  # at once


def slices(total: int, size: int) -> Iterator[slice]:
    """Slices of at most ``size`` that make up ``total``."""
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def gene_slices(spots: int, genes: int) -> Iterator[slice]:
    """Slices of at most 1,024 genes, fewer where there are many spots."""
    return slices(genes, int(np.clip(MOST_VALUES // max(spots, 1), 16, MOST_GENES)))
