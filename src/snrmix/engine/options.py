"""How networks are trained: what may be asked for, checked."""

from __future__ import annotations

from dataclasses import dataclass

from snrmix import _checks


@dataclass(frozen=True)
class Training:
    """How the networks are trained.

    Parameters
    ----------
    max_epochs
        Most passes over the training spots.
    early_stopping
        Keep the weights of the best epoch, and stop after ``patience`` epochs without a better one. Without it, the
        weights of the last epoch are kept.
    hidden, dropout
        Units of the hidden layer; share of the features and of these units that is dropped in a step. Where coordinates
        stand for many features, so few are dropped that it makes as much noise.
    learning_rate, weight_decay
        Of AdamW, with a cosine to zero. With fewer than 4,000 features the first layer learns faster in proportion, up to
        ``stem_boost`` times; where coordinates stand for them, by the root of features per coordinate.
    weight_average
        Memory of the exponential moving average of the weights, per step. The average is what is scored and kept.
    steps_per_epoch, smallest_batch, largest_batch
        Steps wanted per epoch; the batches that makes are kept within these sizes. An epoch has at most 64 steps (32
        where leading coordinates stand for features of many spots), or as many as were asked for: a larger section is
        seen in random parts.
    accelerator, devices
        Passed to ``lightning.Trainer``.
    progress
        Show what the run is at, and how long the rest will take.

    Raises
    ------
    ValueError
        For a value out of range.

    Examples
    --------
    >>> snrmix.tl.impute(adata, measured="measured", max_epochs=5, hidden=64)  # fields by name
    """

    max_epochs: int = 80
    early_stopping: bool = True
    patience: int = 10
    hidden: int = 256
    dropout: float = 0.5
    learning_rate: float = 4e-4
    weight_decay: float = 1e-2
    weight_average: float = 0.95
    stem_boost: float = 30.0
    steps_per_epoch: int = 16
    smallest_batch: int = 32
    largest_batch: int = 256
    accelerator: str = "auto"
    devices: object = "auto"
    progress: bool = True

    def __post_init__(self):
        for name in ("max_epochs", "patience", "hidden", "steps_per_epoch", "smallest_batch", "largest_batch"):
            _checks.whole_number(name, getattr(self, name))
        _check_device(self.devices)
        _checks.share("dropout", self.dropout, below_one=True)
        _checks.share("weight_average", self.weight_average)
        _checks.positive("learning_rate", self.learning_rate)
        _checks.not_negative("weight_decay", self.weight_decay)
        if not self.stem_boost >= 1:
            raise ValueError(f"stem_boost={self.stem_boost!r} must be at least 1.")


CHOICES = {"part": ("all", "last"), "start": ("ridge", "zero"), "precision": ("auto", "bf16", "fp32")}


@dataclass(frozen=True)
class Finetuning:
    """How an encoder is trained together with a linear head.

    Batch norms keep the statistics that they come with: a batch of mixed patches of one section is too small and too
    uniform to estimate them, and a patch must not depend on those beside it.

    Parameters
    ----------
    part
        ``"all"`` parameters of the encoder, or those of the ``"last"`` block and what follows it.
    max_epochs, early_stopping, patience
        As in `snrmix.Training`.
    batch_size
        Spots per step; with their partners and mixtures, three times as many patches pass the encoder.
    learning_rate, head_learning_rate, min_learning_rate
        Of AdamW, for the encoder (the publication takes 3e-5 for a large transformer) and for the head: a linear rise
        over ``warm_up`` steps, then a cosine that ends at ``min_learning_rate`` for the encoder, and at the same share
        for the head.
    weight_decay, betas, eps
        Of AdamW. Biases and norms do not decay.
    weight_average
        Memory of the exponential moving average of the weights, per step. The average is what is scored and kept.
    clip
        Largest norm of the gradient; ``None``: any.
    dropout
        Share of the features that is dropped before the head, the same ones for a spot, its partner and their mixture.
    start
        The first head: ``"ridge"`` regression on the features of the untrained encoder, or ``"zero"``.
    augment
        Turn and flip the patches of every pair, both partners alike, by one of the eight symmetries of the square.
    precision
        ``"bf16"`` (autocast of the encoder), ``"fp32"``, or ``"auto"``: bf16 on a GPU that has it.
    checkpointing
        Keep less for the backward pass and compute it again: larger batches fit, for one more forward pass a step.
    compile
        Use ``torch.compile``.
    size
        Side of the patches in pixels; ``None``: what the encoder is made for.
    folder
        Where patches go that do not fit in memory; ``None``: the folder for temporary files of the system.
    accelerator, devices, progress
        As in `snrmix.Training`.

    Raises
    ------
    ValueError
        For a value out of range.

    Examples
    --------
    >>> options = {"finetune": True, "finetuning": snrmix.Finetuning(learning_rate=1e-4)}  # of snrmix.tl.impute
    """

    part: str = "all"
    max_epochs: int = 30
    early_stopping: bool = True
    patience: int = 8
    batch_size: int = 32
    learning_rate: float = 5e-4
    head_learning_rate: float = 5e-4
    min_learning_rate: float = 1e-7
    warm_up: int = 10
    weight_decay: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_average: float = 0.95
    clip: float | None = 1.0
    dropout: float = 0.2
    start: str = "ridge"
    augment: bool = True
    precision: str = "auto"
    checkpointing: bool = False
    compile: bool = False
    size: int | None = None
    folder: str | None = None
    accelerator: str = "auto"
    devices: object = "auto"
    progress: bool = True

    def __post_init__(self):
        for name, known in CHOICES.items():
            _checks.choice(name, getattr(self, name), known)
        for name, least in {"max_epochs": 1, "patience": 1, "batch_size": 2, "warm_up": 0}.items():
            _checks.whole_number(name, getattr(self, name), least)
        if self.size is not None:
            _checks.whole_number("size", self.size)
        for name in ("learning_rate", "head_learning_rate", "eps", *(["clip"] if self.clip is not None else [])):
            _checks.positive(name, getattr(self, name))
        _check_device(self.devices)
        if not 0 <= self.min_learning_rate <= self.learning_rate:
            raise ValueError(f"min_learning_rate={self.min_learning_rate!r} must lie between 0 and learning_rate.")
        _checks.not_negative("weight_decay", self.weight_decay)
        if _checks.share("weight_average", self.weight_average) == 1:
            raise ValueError("weight_average=1 must lie between 0 and 1, and be less than 1.")
        _checks.share("dropout", self.dropout, below_one=True)


def _check_device(devices) -> None:
    """Refuse more than one device."""
    one = devices == "auto" or (isinstance(devices, list | tuple) and len(devices) == 1)
    if not one and (isinstance(devices, bool) or devices != 1):
        raise ValueError(f"devices={devices!r}: one device trains all networks; use 'auto', 1 or [index].")
