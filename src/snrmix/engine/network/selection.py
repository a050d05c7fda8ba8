"""Which epoch's weights are kept."""

from __future__ import annotations

import numpy as np
import torch

from snrmix.engine.folds import Fold
from snrmix.engine.options import Training


class Selection:
    """Keeps, for every network, the weights of the best epoch, without letting spots choose their own epoch.

    With several folds, the epoch of a network is judged by the held-out spots of the other folds of its repeat. With one
    fold its weights are judged by all held-out spots, and the predictions that will be scored, half by half, by the
    other half.
    """

    def __init__(self, folds: list[Fold], options: Training):
        self.options = options
        self.repeat = np.array([fold.repeat for fold in folds])
        halves = [np.arange(len(folds[0].held_out)) % 2 == half for half in (0, 1)]
        self.shares = [[np.ones(len(f.held_out), bool)] for f in folds] if len(folds) > 1 else [halves]
        self.best_weights_error = np.full(len(folds), np.inf)
        self.best_share_error = [[np.inf] * len(shares) for shares in self.shares]
        self.best_epoch = np.zeros(len(folds), int)
        self.kept: list[dict | None] = [None] * len(folds)
        self.held_out: list[torch.Tensor | None] = [None] * len(folds)
        self.curve: list[list[float]] = []

    def update(
        self, errors: list[np.ndarray], predicted: list[torch.Tensor], weights: dict, settled: bool = True
    ) -> bool:
        """Take in one epoch; ``True`` when it is time to stop.

        Parameters
        ----------
        errors
            Squared error of every held-out spot, one array per network.
        predicted
            Predictions for the same spots, (held out, outputs) each.
        weights
            Current weights of all networks.
        settled
            Whether this epoch may be kept. One that may not is noted, and training goes on after it.
        """
        epoch = len(self.curve)
        means = np.array([e.mean() for e in errors])
        self.curve.append(list(means))
        if not settled:
            return False
        for k in range(len(errors)):
            others = means[self._others(k)].mean() if len(means) > 1 else means[k]
            if self._better(others, self.best_weights_error[k]):
                self.best_weights_error[k], self.best_epoch[k] = others, epoch
                self.kept[k] = {name: value[k].clone() for name, value in weights.items()}
            for i, some in enumerate(self.shares[k]):
                judge = others if len(means) > 1 else errors[k][~some].mean() if (~some).any() else means[k]
                if self._better(judge, self.best_share_error[k][i]):
                    self.best_share_error[k][i] = judge
                    if self.held_out[k] is None:
                        self.held_out[k] = predicted[k].clone()
                    rows = torch.as_tensor(np.flatnonzero(some), device=predicted[k].device)
                    self.held_out[k][rows] = predicted[k][rows]
        return self.options.early_stopping and epoch - self.best_epoch.max() >= self.options.patience

    def _others(self, k: int) -> np.ndarray:
        """The other networks of the same repeat: together they hold out the spots that network ``k`` trains on."""
        return np.flatnonzero((self.repeat == self.repeat[k]) & (np.arange(len(self.repeat)) != k))

    def _better(self, error: float, best: float) -> bool:
        return error < best or not self.options.early_stopping
