"""The one Lightning trainer, its bar and its device."""

from __future__ import annotations

import lightning

from snrmix._log import quiet
from snrmix.engine.options import Finetuning


class Progress(lightning.Callback):
    """One bar over the epochs."""

    def __init__(self, max_epochs: int):
        from tqdm.auto import tqdm

        self.bar = tqdm(total=max_epochs, desc="training", unit="epoch", leave=False)

    def on_train_epoch_end(self, trainer, module):
        """Advance, and show the mean error of the held-out spots."""
        self.bar.update()

    def teardown(self, trainer, module, stage):
        """Remove the bar, also after an error."""
        self.bar.close()


def make_trainer(options: Finetuning, callbacks: list | None = None) -> lightning.Trainer:
    """A trainer that leaves no files."""
    with quiet("lightning.pytorch", "lightning.fabric"):
        return lightning.Trainer(
            max_epochs=options.max_epochs,
            accelerator=options.accelerator,
            devices=1 if options.devices == "auto" else options.devices,
            gradient_clip_val=options.clip,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
