"""What a call was told, checked: device, training, fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

import numpy as np

from snrmix._names import closest, listing
from snrmix.engine.finetune.fit import check_encoder
from snrmix.engine.options import Finetuning, Training
from snrmix.images.encoder import Encoder


def finetuning_options(
    finetune, finetuning: Finetuning | None, extra: Mapping, encoder: Encoder, use_rep: str | None = None
) -> Finetuning | None:
    """How to fine-tune; ``None``: not at all.

    Parameters
    ----------
    finetune
        ``False``, ``True`` (all parameters, or what ``finetuning`` says), or ``"last"`` (the last block).
    finetuning
        Options; ``None``: their defaults.
    extra
        Single options by name, which win over ``finetuning``.
    encoder
        What would be trained.
    use_rep
        Features in place of an image.

    Raises
    ------
    ValueError, TypeError
        For options that are unknown or do not fit, an encoder that has nothing to train, or features without pixels.
    """
    if finetuning is not None and not isinstance(finetuning, Finetuning):
        raise TypeError(f"finetuning must be a snrmix.Finetuning, not {type(finetuning).__name__}.")
    if finetune is False:
        if finetuning is not None:
            raise ValueError("finetuning= has no effect with finetune=False; pass finetune=True or finetune='last'.")
        return None
    if finetune is not True and not (isinstance(finetune, str) and finetune == "last"):
        raise ValueError(f"finetune={finetune!r}; choose False, True or 'last'.")
    if use_rep is not None:
        raise ValueError(
            f"finetune={finetune!r} needs pixels, but use_rep={use_rep!r} are features: pass image= and encoder= instead of "
            "use_rep=, or finetune=False."
        )
    check_encoder(encoder.function, encoder.name)
    known = [field.name for field in fields(Finetuning)]
    for name in extra:
        if name not in known:
            raise TypeError(
                f"impute() got an unexpected keyword argument {name!r}.{closest(name, known)} Finetuning options: "
                f"{listing(known, 30)}."
            )
    part = {"part": "last"} if finetune == "last" else {}
    return replace(finetuning or Finetuning(), **{**extra, **part})


def choose_device(accelerator: str) -> str:
    """The torch device that a Lightning accelerator name means on this machine."""
    import torch

    gpu = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else None
    if accelerator == "auto":
        return gpu or "cpu"
    if accelerator in ("gpu", "cuda", "mps"):
        if gpu is None:
            raise ValueError(
                f"accelerator={accelerator!r}, but torch sees no GPU here; use accelerator='auto' or 'cpu'."
            )
        return gpu
    if accelerator == "cpu":
        return "cpu"
    raise ValueError(f"accelerator={accelerator!r}; choose 'auto', 'cpu', 'gpu' or 'mps'.")


def training_options(extra: dict, **given) -> Training:
    """`Training` from keyword arguments.

    Raises
    ------
    TypeError, ValueError
        For an unknown name, or a value out of range.
    """
    known = [f.name for f in fields(Training)]
    for name in extra:
        if name not in known:
            raise TypeError(
                f"impute() got an unexpected keyword argument {name!r}.{closest(name, known)} Training options: {listing(known, 20)}."
            )
    return Training(**given, **extra)


def _seed(random_state) -> int:
    if isinstance(random_state, bool) or not isinstance(random_state, int | np.integer) or random_state < 0:
        raise ValueError(f"random_state={random_state!r} must be a whole number from 0 up.")
    return int(random_state)
