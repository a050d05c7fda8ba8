"""K small networks on frozen features, trained together with feature-space mixing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from snrmix.engine.folds import Fold
from snrmix.engine.losses import Losses
from snrmix.engine.mix import Mixing, PartnerTable
from snrmix.engine.network.inputs import LEADING, make_inputs, width_of
from snrmix.engine.network.targets import Targets
from snrmix.engine.network.training import MixedTraining
from snrmix.engine.options import Training
from snrmix.engine.scaling import CLIP
from snrmix.engine.trainer import train

MOST_STEPS = 64  # per epoch
WEIGHTS = ("stem_weight", "stem_bias", "head_weight", "head_bias", "centre", "inverse_scale")  # of trained networks
WIDE = 4000  # inputs for which learning_rate is meant


@dataclass(frozen=True)
class Fitted:
    """Trained networks, one per fold, as arrays.

    Parameters
    ----------
    weights
        ``stem_weight`` (K, d, hidden), ``stem_bias`` (K, 1, hidden), ``head_weight`` (K, hidden, outputs),
        ``head_bias`` (K, 1, outputs), ``centre`` and ``inverse_scale`` (K, 1, d).
    held_out
        Predictions for each fold's held-out spots, in the targets' units, from weights whose epoch these spots did not choose.
    history
        ``train_loss`` and ``validation_mse``, (K, epochs), and ``best_epoch``, (K,).
    """

    weights: dict[str, torch.Tensor]
    held_out: list[np.ndarray]
    history: dict[str, np.ndarray]

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The weights by name."""
        return {name: values.numpy() for name, values in self.weights.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Fitted:
        """Networks of these weights alone."""
        return cls({name: torch.from_numpy(arrays[name]) for name in WEIGHTS}, [], {})


class Heads(MixedTraining):
    """K two-layer perceptrons whose matrix products are batched; see `fit_networks`."""

    def __init__(
        self, features: np.ndarray, targets: list[Targets], folds: list[Fold], table: PartnerTable, mixing: Mixing,
        losses: Losses, options: Training, seed: int,
    ):  # fmt: skip
        super().__init__(np.stack([t.values for t in targets]), folds, table, mixing, losses, options, seed)
        self.inputs, *scales = make_inputs(features, folds, table, seed)
        self.centre, self.inverse_scale = (torch.from_numpy(values)[:, None] for values in scales)
        self.batch, self.steps = batches(table.train.shape[1], options, features.shape[1])
        k, d, start = len(folds), features.shape[1], torch.Generator().manual_seed(seed)
        bound, outputs = 1 / math.sqrt(d), self.targets.shape[2]
        first = torch.rand(k, self.inputs.width, options.hidden, generator=start)
        self.stem_weight = torch.nn.Parameter((first * 2 - 1) * bound)
        self.stem_bias = torch.nn.Parameter(torch.zeros(k, 1, options.hidden))
        self.head_weight = torch.nn.Parameter(torch.zeros(k, options.hidden, outputs))
        self.head_bias = torch.nn.Parameter(torch.zeros(k, 1, outputs))
        # A step of Adam moves a sum over d inputs by d times the rate: few features need, and stand, a larger one. Over
        # their coordinates, each with more of the sum of squares, its length is what counts: rate times root of inputs.
        wide = float(np.clip(WIDE / d, 1, options.stem_boost))
        self.stem_rate = options.learning_rate * wide * math.sqrt(d / self.inputs.width)

    def batches(self, n_train):
        """See `batches`."""
        return batches(n_train, self.options)

    def outputs(self, network, rows):
        """What a network predicts for spots with its averaged weights, (rows, outputs)."""
        stem_weight, stem_bias, *head = (self.average[name][network] for name in WEIGHTS[:4])
        hidden = functional.gelu(torch.addmm(stem_bias, self.inputs.of(network, rows), stem_weight))
        return torch.addmm(head[1], hidden, head[0])

    def fitted(self) -> dict[str, torch.Tensor]:
        """What was kept of the training, as `forward` takes it."""
        kept = self.selection.kept
        weights = {
            name: torch.stack([one[name] for one in kept]).cpu() for name in WEIGHTS[:4]
        }  # as all after training
        weights["stem_weight"] = self.inputs.to_features(weights["stem_weight"])
        return weights | {"centre": self.centre, "inverse_scale": self.inverse_scale}

    def training_step(self, step):
        """Mix a batch of pairs in feature space; all loss terms come from one pass.

        Dropout removes the same inputs from all spots of a step.
        The first layer is then linear in its input and the same for a spot, its partner and their mixture: the mixture
        of the pre-activations is the pre-activation of the mixture, and it is computed once.
        """
        anchors, partners, share = self.draw(step)
        stem = self.stem_weight, self.stem_bias, self.options.dropout, self.generator
        first, second = self.inputs.product(torch.cat([anchors, partners], 1), *stem).split(anchors.shape[1], dim=1)
        stacked = [torch.lerp(second, first, share), *((first, second) if self.losses.needs_ends else ())]
        hidden = functional.gelu(torch.cat(stacked, 1))
        hidden = hidden * self._mask(first.shape).repeat(1, len(stacked), 1)
        mixed, *ends = torch.baddbmm(self.head_bias, hidden, self.head_weight).split(anchors.shape[1], dim=1)
        labels, edge_weight = (self.labels(anchors), self.labels(partners)), self.edge_weight(anchors, partners)
        return self.summed(self.losses(mixed, ends or None, *labels, share, edge_weight))

    def _mask(self, shape):
        keep = 1 - self.options.dropout
        return torch.empty(shape, device=self.device).bernoulli_(keep, generator=self.generator).div_(keep)

    def configure_optimizers(self):
        """AdamW with a cosine to zero; biases do not decay."""
        options = self.options
        groups = [
            {"params": [self.stem_weight], "lr": self.stem_rate},
            {"params": [self.head_weight]},
            {"params": [self.stem_bias, self.head_bias], "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups, lr=options.learning_rate, weight_decay=options.weight_decay, fused=True)
        total = max(self.steps * options.max_epochs, 1)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: 0.5 * (1 + math.cos(math.pi * step / total))
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def batches(n_train: int, options: Training, features: int = 0) -> tuple[int, int]:
    """Batch size and batches per epoch: about ``steps_per_epoch`` batches of 32 to 256 spots of equal size.

    There are at most 64, or as many as were asked for, and half as many where leading coordinates stand for the features:
    of more spots than that takes, an epoch sees a random part.
    """
    wanted = np.clip(n_train / options.steps_per_epoch, options.smallest_batch, options.largest_batch)
    steps = max(1, round(n_train / wanted))
    most = MOST_STEPS // 2 if width_of(n_train, features) == LEADING else MOST_STEPS
    return n_train // steps, min(steps, max(most, options.steps_per_epoch))


def forward(
    weights: dict[str, torch.Tensor], features: torch.Tensor, rows: torch.Tensor, chunk: int = 4096
) -> torch.Tensor:
    """Predictions of all networks, shape (K, len(rows), outputs), in the targets' units."""
    parts = []
    with torch.no_grad():
        for some in rows.split(chunk):
            values = ((features[some].float() - weights["centre"]) * weights["inverse_scale"]).clamp_(-CLIP, CLIP)
            hidden = functional.gelu(torch.baddbmm(weights["stem_bias"], values, weights["stem_weight"]))
            parts.append(torch.baddbmm(weights["head_bias"], hidden, weights["head_weight"]))
    return torch.cat(parts, 1)


def fit_networks(
    features: np.ndarray, targets: list[Targets], folds: list[Fold], table: PartnerTable, mixing: Mixing,
    losses: Losses, options: Training, seed: int,
) -> Fitted:  # fmt: skip
    """Train one network per fold, all at once.

    Parameters
    ----------
    features
        Shape (n measured, d), as they are; every network standardises by its own training spots.
    targets
        One per fold, values of shape (n measured, outputs).
    folds
        Training and held-out spots of every network.
    table
        Partners, see `snrmix.engine.mix.PartnerTable`.
    mixing, losses, options
        The strategy, the weights of the loss terms, and how to train.
    seed
        Seed of all randomness; torch's global state is left as it was.
    """
    from lightning.pytorch.utilities.seed import isolate_rng

    model = Heads(features, targets, folds, table, mixing, losses, options, seed)
    with isolate_rng():
        train(model, options)
    selection = model.selection
    history = {
        "train_loss": np.array(model.train_loss).T,
        "validation_mse": np.array(selection.curve).T,
        "best_epoch": selection.best_epoch,
    }
    return Fitted(model.fitted(), [p.cpu().numpy() for p in selection.held_out], history)
