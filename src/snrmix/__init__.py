"""Impute spatial transcriptomics from histology with SNR-ST-Mix."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for those who read and do not run
    from snrmix import datasets, io, pl, pp, tl
    from snrmix.engine.losses import Losses
    from snrmix.engine.mix import (
        CellMix,
        CMixup,
        CutMix,
        Mixup,
        MixupWithoutHesitation,
        NoMixing,
        PuzzleMix,
        RCMixup,
        SNRMixing,
    )
    from snrmix.engine.options import Finetuning, Training
    from snrmix.images.encoder import Encoder
    from snrmix.model import SNRMix

__version__ = "0.1.0"

_LAZY = {
    "SNRMix": "snrmix.model",
    **dict.fromkeys(
        (
            "SNRMixing",
            "Mixup",
            "MixupWithoutHesitation",
            "CMixup",
            "RCMixup",
            "CutMix",
            "PuzzleMix",
            "CellMix",
            "NoMixing",
        ),
        "snrmix.engine.mix",
    ),
    "Losses": "snrmix.engine.losses",
    "Training": "snrmix.engine.options",
    "Finetuning": "snrmix.engine.options",
    "Encoder": "snrmix.images.encoder",
}
_MODULES = ("datasets", "io", "pl", "pp", "tl")
__all__ = [  # written out, so that type checkers know them
    "CMixup",
    "CellMix",
    "CutMix",
    "Encoder",
    "Finetuning",
    "Losses",
    "Mixup",
    "MixupWithoutHesitation",
    "NoMixing",
    "PuzzleMix",
    "RCMixup",
    "SNRMix",
    "SNRMixing",
    "Training",
    "datasets",
    "io",
    "pl",
    "pp",
    "tl",
]


def __getattr__(name):
    from snrmix._log import quiet

    with quiet():  # what other packages warn of while they are loaded is not about the user's work
        if name in _MODULES:
            return importlib.import_module(f"snrmix.{name}")
        if name in _LAZY:
            return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'snrmix' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
