"""Whom every training spot may be mixed with."""

from __future__ import annotations

import numpy as np
import torch

from snrmix.engine.folds import Fold
from snrmix.engine.mix import Mixing, PartnerTable, TrainingSpots
from snrmix.engine.network.targets import Targets
from snrmix.engine.section import Neighbours


def partner_table(
    targets: list[Targets], folds: list[Fold], neighbours: Neighbours, mixing: Mixing, seed: int,
    library: np.ndarray | None = None,
) -> PartnerTable:  # fmt: skip
    """What a strategy knows of every fold's training spots.

    Networks are trained together, so that all need as many spots: folds are cut to the size of the smallest. Where sizes
    differ by more than a tenth, as of whole libraries, spots of smaller ones are repeated instead.
    """
    n, sizes = len(targets[0].values), [len(fold.train) for fold in folds]
    size = min(sizes) if min(sizes) > 0.9 * max(sizes) else max(sizes)
    library = np.zeros(n, int) if library is None else np.ascontiguousarray(library)
    rng = np.random.default_rng(seed)
    train = np.stack([np.sort(_resized(fold.train, size, rng)) for fold in folds])
    k = max(min(mixing.k - mixing.count_self, min(sizes) - 1), 0)
    own = [
        mixing.tabulate(TrainingSpots(fold.train, target.values, target.scale, library, neighbours), k, rng)
        for fold, target in zip(folds, targets, strict=True)
    ]
    columns = {name: np.stack([one[name] for one in own]) for name in own[0]}
    return PartnerTable(
        **{name: torch.from_numpy(values) for name, values in {**columns, "train": train, "library": library}.items()}
    )


def _resized(spots: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Some of the spots, or all of them and some once more."""
    rounds, rest = divmod(size, len(spots))
    return np.concatenate([*[spots] * rounds, rng.choice(spots, rest, replace=False)])
