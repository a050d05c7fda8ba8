"""Whom every training spot may be mixed with."""

from __future__ import annotations

import numpy as np
import torch

from snrmix.engine.folds import Fold
from snrmix.engine.mix import (
    Mixing,
    PartnerTable,
    expression_bandwidth,
    expression_weights,
    median_distance,
    share_of_all,
)
from snrmix.engine.network.targets import Targets
from snrmix.engine.section import Neighbours


def partner_table(
    targets: list[Targets],
    folds: list[Fold],
    neighbours: Neighbours,
    mixing: Mixing,
    seed: int,
    library: np.ndarray | None = None,
) -> PartnerTable:
    """Candidates and probabilities of every fold's training spots.

    Networks are trained together, so that all need as many spots: folds are cut to the size of the smallest. Where sizes
    differ by more than a tenth, as of whole libraries, spots of smaller ones are repeated instead.
    """
    n, sizes = len(targets[0].values), [len(fold.train) for fold in folds]
    size = min(sizes) if min(sizes) > 0.9 * max(sizes) else max(sizes)
    library = np.zeros(n, int) if library is None else library
    rng = np.random.default_rng(seed)
    train = np.stack([np.sort(_resized(fold.train, size, rng)) for fold in folds])
    parts = _graph_parts(targets, folds, neighbours, mixing, library, rng)
    if getattr(mixing, "needs_labels", False):
        parts["labels"] = np.stack([target.values for target in targets])
        spread = [median_distance(target.values[fold.train], rng) for fold, target in zip(folds, targets, strict=True)]
        parts["spread"] = np.array(spread, np.float32)
    parts |= {"train": train, "library": np.ascontiguousarray(library)}
    return PartnerTable(**{name: torch.from_numpy(values) for name, values in parts.items()})


def _resized(spots: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Some of the spots, or all of them and some once more."""
    rounds, rest = divmod(size, len(spots))
    return np.concatenate([*[spots] * rounds, rng.choice(spots, rest, replace=False)])


def _graph_parts(targets, folds, neighbours: Neighbours, mixing: Mixing, library, rng) -> dict[str, np.ndarray]:
    """Neighbours of the training spots and their weights, as fields of a `PartnerTable`."""
    n, smallest = len(targets[0].values), min(len(fold.train) for fold in folds)
    k = max(min(mixing.k - getattr(mixing, "count_self", False), smallest - 1), 0)
    index = np.zeros((len(folds), n, max(k, 1)), np.int64)
    weight = np.zeros((len(folds), n, max(k, 1)), np.float32)
    parts = {"index": index, "weight": weight}
    if k == 0:
        return parts
    kernel, in_expression = getattr(mixing, "kernel", "gaussian"), getattr(mixing, "graph", "") == "expression"
    if getattr(mixing, "edge", "") == "all":
        parts["share_of_all"] = np.zeros((len(folds), n), np.float32)
    for head, (fold, target) in enumerate(zip(folds, targets, strict=True)):
        values = target.values[fold.train] * target.scale  # in units of the expression, which some kernels depend on
        near = neighbours(fold.train, k, values) if in_expression else neighbours(fold.train, k)
        bandwidth = expression_bandwidth(values, mixing.sigma, rng)
        index[head, fold.train] = fold.train[np.maximum(near, 0)]
        weight[head, fold.train] = expression_weights(near, values, bandwidth, kernel)
        if "share_of_all" in parts:
            parts["share_of_all"][head, fold.train] = share_of_all(near, values, library[fold.train], bandwidth, kernel)
    return parts
