"""The one Lightning trainer, its bar and its device."""

from __future__ import annotations

import lightning
import torch

from snrmix._log import quiet
from snrmix._progress import advance, note
from snrmix.engine.options import Finetuning, Training


class Progress(lightning.Callback):
    """Tells the display of every epoch, and of a training that ends before its last one."""

    def on_train_epoch_end(self, trainer, module):
        """Advance."""
        advance()

    def on_fit_end(self, trainer, module):
        """Skip what early stopping saves."""
        if trainer.current_epoch < trainer.max_epochs:
            advance(trainer.max_epochs - trainer.current_epoch)
            note(f"stopped early, after {trainer.current_epoch} of {trainer.max_epochs} epochs")


def train(module: lightning.LightningModule, options: Training | Finetuning, clip: float | None = None) -> None:
    """Train without a word and without leaving files; gradients with a larger norm than ``clip`` are shortened."""
    with quiet("lightning.pytorch", "lightning.fabric"):
        _trainer(options, [Progress()], clip).fit(module)


def device_of(options: Training | Finetuning) -> torch.device:
    """Where networks are trained with these options."""
    with quiet("lightning.pytorch", "lightning.fabric"):
        return _trainer(options).strategy.root_device


def _trainer(options, callbacks: list | None = None, clip: float | None = None) -> lightning.Trainer:
    return lightning.Trainer(
        max_epochs=options.max_epochs,
        accelerator=options.accelerator,
        devices=1 if options.devices == "auto" else options.devices,
        gradient_clip_val=clip,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
