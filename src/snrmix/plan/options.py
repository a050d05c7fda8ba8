"""What a call was told, checked once: device, mixing, losses, training, fine-tuning, splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np

from snrmix import _checks
from snrmix._names import closest, listing
from snrmix._progress import hide
from snrmix.data.scales import AUTO, COARSE_SCALES, check_scales
from snrmix.engine.finetune.fit import check_encoder
from snrmix.engine.fit import Settings
from snrmix.engine.losses import Losses
from snrmix.engine.mix import check_pixels, resolve_mixing
from snrmix.engine.options import Finetuning, Training
from snrmix.engine.patches import check_folder
from snrmix.images.encoder import Encoder
from snrmix.images.encoders import resolve_encoder
from snrmix.plan.presets import PRESETS


@dataclass(frozen=True)
class Options:
    """Options of a call that do not depend on its data, checked.

    Parameters
    ----------
    settings
        What the engine needs to know.
    encoder
        With ``use_rep``, and where it was not asked for yet, ``None``.
    scales
        Shape (scales,), or ``"auto"``: by the pixels of the images.
    share, n_folds, n_repeats, validation
        As in `snrmix.tl.impute`; whether ``validation`` fits is told with the folds.
    k_is_chosen
        Whether the user chose how many neighbours are mixed with: if not, a small section lowers it.
    """

    settings: Settings
    encoder: Encoder | None
    scales: np.ndarray | str
    share: bool | str
    n_folds: int
    n_repeats: int
    validation: object
    k_is_chosen: bool

    @property
    def finetuning(self) -> Finetuning | None:
        """How the encoder is trained; ``None``: not at all."""
        return self.settings.training if isinstance(self.settings.training, Finetuning) else None


def read_options(
    *, encoder="efficientnet_lite0", scales=AUTO, use_rep: str | None = None, share: bool | str = "auto", mix="snr",
    losses: Losses | None = None, kriging: bool = True, n_folds: int = 5, n_repeats: int = 1, validation=0.2,
    random_state: int = 0, accelerator: str = "auto", finetune=False, finetuning: Finetuning | None = None,
    training: Mapping = {}, preset: str | None = None,
) -> Options:  # fmt: skip
    """Check what can be checked without data; parameters are those of `snrmix.tl.impute`, and their defaults.

    Parameters
    ----------
    encoder
        ``None``: it is wanted later.
    training
        Fields of `snrmix.Training`, or with ``finetune`` of `snrmix.Finetuning`, by name. ``max_epochs`` may be ``None``.
    preset
        Where some of these come from: its mixing is no choice of the user's.

    Raises
    ------
    ValueError, TypeError
        For what is unknown, out of range, or does not go together.
    """
    mixing, seed = resolve_mixing(mix), _checks.whole_number("random_state", random_state, 0)
    losses = losses if losses is not None else Losses()
    if not isinstance(losses, Losses):
        raise TypeError(f"losses must be a snrmix.Losses, not {type(losses).__name__}.")
    kriging = _checks.flag("kriging", kriging)
    if not (isinstance(share, bool | np.bool_) or share == "auto"):
        raise TypeError(f"share={share!r} must be True, False or 'auto'.")
    training = {name: value for name, value in training.items() if name != "max_epochs" or value is not None}
    _checks.flag("early_stopping", training.get("early_stopping", True))
    if training.get("progress") is False:
        hide()
    n_folds, n_repeats = _checks.whole_number("n_folds", n_folds), _checks.whole_number("n_repeats", n_repeats)
    scales, device = check_scales(scales), choose_device(accelerator)
    encoder = resolve_encoder(encoder) if use_rep is None and encoder is not None else None
    training["accelerator"] = accelerator
    how = finetuning_options(finetune, finetuning, training, encoder, use_rep)
    if how is None:
        how = training_options(training)
        check_pixels(mixing)
    elif isinstance(scales, str):
        scales = np.array(COARSE_SCALES)  # every further scale passes the encoder forward and backward in each epoch
    settings = Settings(mixing, losses, how, kriging, seed, device, encoder and encoder.function)
    is_own_mix = not isinstance(mix, str) and (preset is None or mix is not PRESETS[preset]["mix"])
    return Options(settings, encoder, scales, share, n_folds, n_repeats, validation, k_is_chosen=is_own_mix)


def complete(given: Mapping) -> dict[str, object]:
    """Arguments of a call, completed by what its ``finetuning`` says of early stopping and device where they do not."""
    finetuning = given.get("finetuning")
    if not isinstance(finetuning, Finetuning):
        return dict(given)
    return {**{name: getattr(finetuning, name) for name in ("early_stopping", "accelerator", "devices")}, **given}


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
    options = replace(finetuning or Finetuning(), **{**extra, **part})
    if options.folder is not None:
        check_folder(options.folder)
    return options


def choose_device(accelerator: str) -> str:
    """The torch device that a Lightning accelerator name means on this machine."""
    import torch

    _checks.choice("accelerator", accelerator, ("auto", "cpu", "gpu", "cuda", "mps"))
    gpu = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else None
    if accelerator in ("gpu", "cuda", "mps") and gpu is None:
        raise ValueError(f"accelerator={accelerator!r}, but torch sees no GPU here; use accelerator='auto' or 'cpu'.")
    return "cpu" if accelerator == "cpu" else gpu or "cpu"


def training_names(finetune) -> list[str]:
    """Options of the training that a call takes beside its own arguments."""
    how = Training if finetune is False else Finetuning
    return [field.name for field in fields(how) if field.name not in ("accelerator", "devices", "early_stopping")]


def training_options(given: Mapping) -> Training:
    """`Training` from options by name.

    Raises
    ------
    TypeError, ValueError
        For an unknown name, or a value out of range.
    """
    known = [field.name for field in fields(Training)]
    for name in given:
        if name not in known:
            raise TypeError(
                f"impute() got an unexpected keyword argument {name!r}.{closest(name, known)} Training options: "
                f"{listing(known, 20)}."
            )
    return Training(**given)
