"""What all training on mixed spots has in common, whatever the network."""

from __future__ import annotations

from dataclasses import replace

import lightning
import numpy as np
import torch

from snrmix.engine.folds import Fold
from snrmix.engine.losses import Losses
from snrmix.engine.mix import Mixing, PartnerTable
from snrmix.engine.network.selection import Selection
from snrmix.engine.options import Finetuning, Training


class MixedTraining(lightning.LightningModule):
    """Trains K networks on the pairs that a mixing strategy draws; how, is up to the subclass.

    It says what a step does (``training_step``), what its networks predict (`outputs`), and what their averaged weights
    are called (`averaged`, `kept`).

    Parameters
    ----------
    targets
        float32, shape (K, n, outputs), of all measured spots.
    folds
        Training and held-out spots of every network.
    table
        Whom these may be mixed with.
    mixing, losses, options
        The strategy, the weights of the loss terms, and how to train.
    seed
        Of all randomness.
    """

    def __init__(
        self, targets: np.ndarray, folds: list[Fold], table: PartnerTable, mixing: Mixing, losses: Losses,
        options: Training | Finetuning, seed: int,
    ):  # fmt: skip
        super().__init__()
        self.folds, self.table, self.mixing, self.losses = folds, table, mixing, losses
        self.options, self.seed = options, seed
        self.batch, self.steps = self.batches(table.train.shape[1])
        self.register_buffer("targets", torch.from_numpy(targets))
        self.selection = Selection(folds, options)
        self.train_loss: list[np.ndarray] = []

    def batches(self, n_train: int) -> tuple[int, int]:
        """Batch size, and batches per epoch."""
        raise NotImplementedError

    def outputs(self, network: int, rows: torch.Tensor) -> torch.Tensor:
        """What a network predicts for spots with its averaged weights, (rows, outputs)."""
        raise NotImplementedError

    def averaged(self) -> dict[str, torch.nn.Parameter]:
        """Parameters of which an average is kept, by name."""
        return dict(self.named_parameters())

    def kept(self) -> dict[str, torch.Tensor]:
        """What `Selection` keeps of an epoch, each of shape (K, ...); views, not copies."""
        return self.average

    def on_fit_start(self):
        """Move what is not a parameter to the device, and seed the one generator that all randomness comes from."""
        self.table = self.table.to(self.device)
        self.spots = self.table.train
        self.generator = torch.Generator(self.device).manual_seed(self.seed)
        self.average = {name: parameter.detach().clone() for name, parameter in self.averaged().items()}
        self.steps_done = 0

    def train_dataloader(self):
        """The batches of an epoch are drawn on the device; the loader only counts them."""
        return range(self.steps)

    def on_train_epoch_start(self):
        """Shuffle the training spots of every network; fewer spots, once some are sorted out, make smaller batches."""
        self.table = replace(self.table, epoch=self.current_epoch, epochs=self.options.max_epochs)
        spots = self.table.train
        self.batch = max(min(self.batch, spots.shape[1] // self.steps), 1)
        order = torch.rand(spots.shape, generator=self.generator, device=self.device).argsort(1)
        self.order = spots.gather(1, order).repeat(1, -(-self.steps // spots.shape[1]))
        self.epoch_loss = torch.zeros(len(self.folds), device=self.device)

    def draw(self, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Spots of a step, their partners, and mixing shares: (K, b), (K, b) and (K, b, 1)."""
        anchors = self.order[:, step * self.batch : (step + 1) * self.batch]
        return anchors, *self.mixing.draw(anchors, self.table, self.generator)

    def labels(self, spots: torch.Tensor) -> torch.Tensor:
        """Targets of spots (K, b), shape (K, b, outputs)."""
        return self.targets[self.table.heads(), spots]

    def edge_weight(self, anchors: torch.Tensor, partners: torch.Tensor) -> torch.Tensor | None:
        """Weight of every pair in the edge term, (K, b, 1); ``None``: 1."""
        return self.mixing.edge_weight(anchors, partners, self.table) if self.losses.edge else None

    def summed(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss of all networks, each of shape (K,), and a note of it."""
        self.epoch_loss += loss.detach() / self.steps
        return loss.sum()

    def on_train_batch_end(self, *_):
        """Exponential moving average of the weights: what is evaluated and kept."""
        self.steps_done += 1
        rate = max(1 - self.options.weight_average, 1 / (self.steps_done + 1))
        for name, parameter in self.averaged().items():
            self.average[name].lerp_(parameter.detach(), rate)

    def on_train_epoch_end(self):
        """Score the held-out spots of every network, and let `Selection` decide which weights to keep."""
        held_out = [torch.as_tensor(fold.held_out, device=self.device) for fold in self.folds]
        predicted, errors = zip(*(self.judge(k, rows) for k, rows in enumerate(held_out)), strict=True)
        errors = [error.cpu().numpy() for error in errors]
        self.train_loss.append(self.epoch_loss.cpu().numpy().copy())
        if not all(np.isfinite(error).all() for error in errors):
            options = type(self.options).__name__
            raise RuntimeError(f"training diverged (non-finite predictions); lower learning_rate in snrmix.{options}.")
        is_last = self.table.epoch == self.table.epochs - 1
        settled = self.table.progress >= self.mixing.settled or is_last
        stop = self.selection.update(errors, predicted, self.kept(), settled)
        self.trainer.should_stop = stop or self.trainer.should_stop
        if self.mixing.needs_errors:
            errors = torch.stack([self.judge(k, rows)[1] for k, rows in enumerate(self.spots)])
            self.table = self.mixing.sort_out(self.table, self.spots, errors)

    def judge(self, network: int, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What a network predicts for spots and their squared error, (b, outputs) and (b,)."""
        predicted = self.outputs(network, rows)
        return predicted, (predicted - self.targets[network, rows]).square().mean(1)
