"""Out-of-fold predictions of the network at measured spots, ensemble predictions everywhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from snrmix.engine.folds import Fold
from snrmix.engine.losses import Losses
from snrmix.engine.mix import (
    Mixing,
    PartnerTable,
    check_pixels,
    expression_bandwidth,
    expression_weights,
    median_distance,
    share_of_all,
)
from snrmix.engine.network.heads import Fitted, Training, fit_networks, forward
from snrmix.engine.network.targets import COMPONENTS, Targets, make_targets
from snrmix.engine.patches import PatchStore

CHUNK = 8192  # sites predicted at once

Neighbours = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Section:
    """Everything the engine needs to know of an object, as arrays in canonical order.

    Parameters
    ----------
    features
        Shape (n, d), of all sites, not standardised.
    colour
        Which features are colour statistics, bool, shape (d,).
    positions
        Shape (n, 2), in lattice pitches.
    library
        Shape (n,), int codes.
    measured
        Shape (m,), indices of the measured sites, ascending.
    expression
        float32, shape (m, genes), of the measured sites, log units.
    depth
        Shape (m,), counts per measured spot.
    neighbours
        From indices of training spots (into the measured ones) and ``k`` to their ``k`` nearest training spots of the
        same library: positions in that list, shape (train, k), -1 where there are fewer. A third argument, values of
        these spots, shape (train, outputs), says in what space they are near; by default in the tissue.
    patches
        Of all sites; only for fine-tuning.
    """

    features: np.ndarray
    colour: np.ndarray
    positions: np.ndarray
    library: np.ndarray
    measured: np.ndarray
    expression: np.ndarray
    depth: np.ndarray
    neighbours: Neighbours
    patches: PatchStore | None = None

    @property
    def unmeasured(self) -> np.ndarray:
        """Indices of the other sites, ascending."""
        return np.setdiff1d(np.arange(len(self.library)), self.measured, assume_unique=True)


@dataclass(frozen=True)
class NetworkFit:
    """Networks of all folds with the targets they predict, and their out-of-fold predictions.

    Parameters
    ----------
    out_of_fold
        float32, shape (measured, genes); NaN where a spot was never held out.
    """

    fitted: Fitted
    targets: list[Targets]
    out_of_fold: np.ndarray

    @property
    def history(self) -> dict[str, np.ndarray]:
        """See `snrmix.engine.network.heads.Fitted`."""
        return self.fitted.history

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Mean of the networks' predictions, float32, shape (len(features), genes)."""
        total = np.zeros((len(features), len(self.targets[0].mean)), np.float32)
        for start in range(0, len(features), CHUNK):
            rows = slice(start, start + CHUNK)
            some = torch.from_numpy(features[rows])
            outputs = forward(self.fitted.weights, some, torch.arange(len(some))).numpy()
            for target, output in zip(self.targets, outputs, strict=True):
                total[rows] += target.to_genes(output)
        return total / len(self.targets)


def fit_network(
    section: Section, folds: list[Fold], mixing: Mixing, losses: Losses, options: Training, seed: int
) -> NetworkFit:
    """Cross-fit the network: everything is fitted on each fold's training spots.

    Parameters
    ----------
    section, folds
        The data, and the splits of its measured spots. A spot that several folds hold out gets the mean.
    mixing, losses, options, seed
        See `snrmix.engine.network.heads.fit_networks`.
    """
    check_pixels(mixing)
    most = min(COMPONENTS, *(len(fold.train) - 1 for fold in folds))
    targets = [make_targets(section.expression, fold.train, most) for fold in folds]
    table = partner_table(targets, folds, section.neighbours, mixing, seed, section.library[section.measured])
    features = section.features[section.measured]
    fitted = fit_networks(features, targets, folds, table, mixing, losses, options, seed)
    out_of_fold = join_folds(section.expression.shape, folds, targets, fitted.held_out)
    targets = [replace(target, values=target.values[:0]) for target in targets]  # large, and learnt
    return NetworkFit(fitted, targets, out_of_fold)


def join_folds(
    shape: tuple[int, int], folds: list[Fold], targets: list[Targets], held_out: list[np.ndarray]
) -> np.ndarray:
    """Expression of all measured spots from the outputs for each fold's held-out ones, float32, of this shape.

    A spot that several folds hold out gets the mean; NaN where none does.
    """
    total, count = np.zeros(shape, np.float32), np.zeros(shape[0], np.float32)
    for fold, target, predicted in zip(folds, targets, held_out, strict=True):
        total[fold.held_out] += target.to_genes(predicted)
        count[fold.held_out] += 1
    with np.errstate(invalid="ignore"):
        return total / count[:, None]


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
