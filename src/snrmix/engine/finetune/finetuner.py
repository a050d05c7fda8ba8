"""The training of one network on mixed patches."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import lightning
import torch

from snrmix.engine.finetune.patch_network import PatchNetwork, predict
from snrmix.engine.folds import Fold
from snrmix.engine.losses import Losses
from snrmix.engine.mix import Mixing, PartnerTable
from snrmix.engine.network.selection import Selection
from snrmix.engine.network.targets import Targets
from snrmix.engine.patches import PatchStore, square_symmetries, to_float, turn

if TYPE_CHECKING:
    from snrmix.engine.options import Finetuning


class Finetuner(lightning.LightningModule):
    """Trains a `PatchNetwork` on the pairs that a mixing strategy draws; see `fit_finetuned`."""

    def __init__(
        self, network: PatchNetwork, patches: PatchStore, targets: Targets, fold: Fold, table: PartnerTable,
        mixing: Mixing, losses: Losses, options: Finetuning, seed: int,
    ):  # fmt: skip
        super().__init__()
        self.network, self.patches, self.fold, self.table = network, patches, fold, table
        self.mixing, self.losses, self.options, self.seed = mixing, losses, options, seed
        self.register_buffer("targets", torch.from_numpy(targets.values))
        n_train = table.train.shape[1]
        self.steps = max(1, round(n_train / options.batch_size))
        self.batch = n_train // self.steps
        self.selection = Selection([fold], options)
        self.train_loss: list[float] = []

    def on_fit_start(self):
        """Move what is not a parameter to the device, and seed the one generator that all randomness comes from."""
        self.table = self.table.to(self.device)
        if hasattr(self.mixing, "prepare"):
            self.table = self.mixing.prepare(self.table)
        self.generator = torch.Generator(self.device).manual_seed(self.seed)
        self.read = self.patches.reader(self.device)
        self.average = {name: p.detach().clone() for name, p in self.network.named_parameters() if p.requires_grad}
        self.steps_done = 0
        self.symmetries = square_symmetries(self.patches.size).to(self.device)
        if self.options.compile:
            self.network.encoder.compile()

    def on_fit_end(self):
        """Let go of what lies on the device."""
        self.read, self.average = None, {}

    def train_dataloader(self):
        """The batches of an epoch are drawn on the device; the loader only counts them."""
        return range(self.steps)

    def on_train_epoch_start(self):
        """Shuffle the training spots."""
        self.table = replace(self.table, progress=self.current_epoch / self.options.max_epochs)
        order = torch.rand(self.table.train.shape, generator=self.generator, device=self.device).argsort(1)
        self.order = self.table.train.gather(1, order)
        self.epoch_loss = torch.zeros((), device=self.device)

    def training_step(self, step):
        """Mix a batch of pairs; all loss terms come from one pass of mixtures, spots and partners."""
        anchors = self.order[:, step * self.batch : (step + 1) * self.batch]
        partners, share = self.mixing.draw(anchors, self.table, self.generator)
        first, second = self.read_pairs(anchors[0], partners[0])
        labels = self.targets[anchors], self.targets[partners]
        mixed, share = self.mix(first, second, share[0], *labels)
        # A batch in which every spot is its own partner has nothing to gain from the terms that compare both.
        paired = self.losses.needs_ends and bool((anchors != partners).any())
        stacked = [mixed, first, second] if paired else [mixed]
        outputs = self.network(torch.cat(stacked), self.dropout_mask(len(mixed)).repeat(len(stacked), 1))
        mixed, *ends = outputs[None].chunk(len(stacked), 1)
        edge_weight = None
        if self.losses.edge and hasattr(self.mixing, "edge_weight"):
            edge_weight = self.mixing.edge_weight(anchors, partners, self.table)
        loss = self.losses(mixed, ends or None, *labels, share[None], edge_weight).sum()
        self.epoch_loss += loss.detach() / self.steps
        return loss

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
        if not hasattr(self.mixing, "blend"):
            return torch.lerp(second, first, share[..., None, None, None]), share
        saliency = None
        if getattr(self.mixing, "needs_saliency", False):
            saliency = self.saliency(first, label_first[0]), self.saliency(second, label_second[0])
        flat = first.flatten(1, 2), second.flatten(1, 2)
        mixed, share = self.mixing.blend(*flat, share, self.generator, saliency)
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

    def on_train_batch_end(self, *_):
        """Exponential moving average of the weights: what is evaluated and kept."""
        self.steps_done += 1
        rate = max(1 - self.options.weight_average, 1 / (self.steps_done + 1))
        parameters = dict(self.network.named_parameters())
        for name, value in self.average.items():
            value.lerp_(parameters[name].detach(), rate)

    def on_train_epoch_end(self):
        """Score the held-out spots, and let `Selection` decide which weights to keep."""
        predicted, error = self.judge(torch.as_tensor(self.fold.held_out, device=self.device))
        self.train_loss.append(float(self.epoch_loss))
        if not torch.isfinite(error).all():
            raise RuntimeError("training diverged (non-finite predictions); lower learning_rate in snrmix.Finetuning.")
        weights = {name: value[None] for name, value in self.average.items()}
        stop = self.selection.update([error.cpu().numpy()], [predicted], weights)
        self.trainer.should_stop = stop or self.trainer.should_stop
        if hasattr(self.mixing, "sort_out"):
            self.table = self.mixing.sort_out(self.table, self.judge(self.table.train[0])[1][None])

    def judge(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs of spots and their squared error, (b, outputs) and (b,)."""
        predicted = predict(self.network, self.average, self.read, rows)
        return predicted, (predicted - self.targets[rows]).square().mean(1)

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
