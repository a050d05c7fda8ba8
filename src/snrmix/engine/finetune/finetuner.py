"""The training of one network on mixed patches."""

from __future__ import annotations

import math

import torch

from snrmix.engine.finetune.patch_network import PatchNetwork, predict
from snrmix.engine.folds import Fold
from snrmix.engine.losses import Losses
from snrmix.engine.mix import Mixing, PartnerTable
from snrmix.engine.network.targets import Targets
from snrmix.engine.network.training import MixedTraining
from snrmix.engine.options import Finetuning
from snrmix.engine.patches import PatchStore, square_symmetries, to_float, turn


class Finetuner(MixedTraining):
    """Trains a `PatchNetwork` on mixed patches; see `fit_finetuned`."""

    def __init__(
        self, network: PatchNetwork, patches: PatchStore, targets: Targets, fold: Fold, table: PartnerTable,
        mixing: Mixing, losses: Losses, options: Finetuning, seed: int,
    ):  # fmt: skip
        super().__init__(targets.values[None], [fold], table, mixing, losses, options, seed)
        self.network, self.patches = network, patches

    def batches(self, n_train):
        """Batches of equal size, about as large as was asked for."""
        steps = max(1, round(n_train / self.options.batch_size))
        return n_train // steps, steps

    def outputs(self, network, rows):
        """What the network predicts for spots with its averaged weights, (rows, outputs)."""
        return predict(self.network, self.average, self.read, rows)

    def averaged(self):
        """Parameters that are trained, by their names in the network."""
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad}

    def kept(self):
        """The average of these, each of shape (1, ...)."""
        return {name: value[None] for name, value in self.average.items()}

    def on_fit_start(self):
        """Bring patches within reach, too."""
        super().on_fit_start()
        self.read = self.patches.reader(self.device)
        self.symmetries = square_symmetries(self.patches.size).to(self.device)
        if self.options.compile:
            self.network.encoder.compile()

    def on_fit_end(self):
        """Let go of what lies on the device."""
        self.read, self.average = None, {}

    def training_step(self, step):
        """Mix a batch of pairs; all loss terms come from one pass of mixtures, spots and partners."""
        anchors, partners, share = self.draw(step)
        first, second = self.read_pairs(anchors[0], partners[0])
        labels = self.labels(anchors), self.labels(partners)
        mixed, share = self.mix(first, second, share[0], *labels)
        # A batch in which every spot is its own partner has nothing to gain from the terms that compare both.
        paired = self.losses.needs_ends and bool((anchors != partners).any())
        stacked = [mixed, first, second] if paired else [mixed]
        outputs = self.network(torch.cat(stacked), self.dropout_mask(len(mixed)).repeat(len(stacked), 1))
        mixed, *ends = outputs[None].chunk(len(stacked), 1)
        edge_weight = self.edge_weight(anchors, partners)
        return self.summed(self.losses(mixed, ends or None, *labels, share[None], edge_weight))

    def read_pairs(self, anchors: torch.Tensor, partners: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches of spots and partners, float in 0..1, (b, scales, 3, size, size) each; both are turned alike."""
        pairs = [self.read(anchors), self.read(partners)]
        if self.options.augment:
            which = torch.randint(8, anchors.shape, generator=self.generator, device=self.device)
            pairs = [turn(pixels, self.symmetries[which]) for pixels in pairs]
        return tuple(to_float(pixels) for pixels in pairs)

    def mix(self, first, second, share, label_first, label_second) -> tuple[torch.Tensor, torch.Tensor]:
        """Mixed patches, and the share of the first one in each, (b, 1), which labels are to be mixed by.

        Strategies that paste take the scales of a spot as channels of one image: a mask holds for all of them.
        """
        if not self.mixing.needs_pixels:
            return torch.lerp(second, first, share[..., None, None, None]), share
        saliency = None
        if self.mixing.needs_saliency:
            saliency = self.saliency(first, label_first[0]), self.saliency(second, label_second[0])
        flat = first.flatten(1, 2), second.flatten(1, 2)
        mixed, share = self.mixing.blend(*flat, share, self.generator, self.table, saliency)
        return mixed.view_as(first), share

    def saliency(self, patches: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Norm of the gradient of the squared error with respect to each pixel, (b, size, size)."""
        with torch.enable_grad():
            pixels = patches.detach().requires_grad_()
            error = (self.network(pixels) - labels).square().mean(1).sum()
            (gradient,) = torch.autograd.grad(error, pixels)
        return gradient.square().sum((1, 2)).sqrt()

    def dropout_mask(self, count: int) -> torch.Tensor:
        """What features are multiplied by, (count, features)."""
        kept = 1 - self.options.dropout
        mask = torch.empty(count, len(self.network.centre), device=self.device)
        return mask.bernoulli_(kept, generator=self.generator).div_(kept)

    def configure_optimizers(self):
        """AdamW with two rates, a warm-up and a cosine."""
        options, groups = self.options, []
        for parameters, rate in (
            (self.network.encoder.parameters(), options.learning_rate),
            ((self.network.weight, self.network.bias), options.head_learning_rate),
        ):
            trained = [p for p in parameters if p.requires_grad]
            groups.append({"params": [p for p in trained if p.ndim > 1], "lr": rate})
            groups.append({"params": [p for p in trained if p.ndim < 2], "lr": rate, "weight_decay": 0.0})
        optimiser = torch.optim.AdamW(
            groups, betas=options.betas, eps=options.eps, weight_decay=options.weight_decay, fused=True
        )  # fmt: skip
        total, least = self.steps * options.max_epochs, options.min_learning_rate / options.learning_rate

        def factor(step: int) -> float:
            cosine = 0.5 * (1 + math.cos(math.pi * min(step / total, 1)))
            return min(1.0, (step + 1) / (options.warm_up + 1)) * (least + (1 - least) * cosine)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
