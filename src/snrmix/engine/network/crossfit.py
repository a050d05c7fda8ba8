"""Out-of-fold predictions of the network at measured spots, ensemble predictions everywhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from snrmix._progress import stage
from snrmix.engine.folds import Fold
from snrmix.engine.losses import Losses
from snrmix.engine.mix import (
    Mixing,
    check_pixels,
)
from snrmix.engine.network.heads import Fitted, fit_networks, forward
from snrmix.engine.network.partners import partner_table
from snrmix.engine.network.targets import COMPONENTS, Targets, make_targets
from snrmix.engine.options import Training
from snrmix.engine.section import Section

CHUNK = 8192  # sites predicted at once


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

    def to_arrays(self) -> dict[str, np.ndarray]:
        """What a prediction needs, by name: nothing that refers to the spots that were fitted to."""
        targets = [target.to_arrays() for target in self.targets]
        stacked = {f"targets.{name}": np.stack([one[name] for one in targets]) for name in targets[0]}
        return {f"network.{name}": values for name, values in self.fitted.to_arrays().items()} | stacked

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> NetworkFit:
        """What `to_arrays` gave: it predicts as before, and has no out-of-fold predictions."""
        weights, stacked = (
            {name.removeprefix(start): values for name, values in arrays.items() if name.startswith(start)}
            for start in ("network.", "targets.")
        )
        targets = [
            Targets.from_arrays({name: values[k] for name, values in stacked.items()})
            for k in range(len(stacked["mean"]))
        ]
        return cls(Fitted.from_arrays(weights), targets, np.empty((0, len(targets[0].mean)), np.float32))

    def one(self, k: int) -> NetworkFit:
        """One of the networks alone, for predictions."""
        return self.from_arrays({name: values[k : k + 1] for name, values in self.to_arrays().items()})


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
    with stage("graph"):
        most = min(COMPONENTS, *(len(fold.train) - 1 for fold in folds))
        targets = [make_targets(section.expression, fold.train, most) for fold in folds]
        table = partner_table(targets, folds, section.neighbours, mixing, seed, section.library[section.measured])
    with stage("networks", options.max_epochs):
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
