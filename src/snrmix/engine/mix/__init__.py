"""Mixing strategies: whom a spot is mixed with, and how."""

from snrmix.engine.mix.base import (
    MIXINGS,
    Mixing,
    PartnerTable,
    TrainingSpots,
    beta,
    check_pixels,
    median_distance,
    register,
    resolve_mixing,
)
from snrmix.engine.mix.labels import CMixup, RCMixup
from snrmix.engine.mix.neighbours import (
    SNRMixing,
    expression_bandwidth,
    expression_weights,
    share_of_all,
)
from snrmix.engine.mix.pixels import CellMix, CutMix
from snrmix.engine.mix.puzzle import PuzzleMix
from snrmix.engine.mix.random import Mixup, MixupWithoutHesitation, NoMixing

__all__ = [
    "MIXINGS",
    "CMixup",
    "CellMix",
    "CutMix",
    "Mixing",
    "Mixup",
    "MixupWithoutHesitation",
    "NoMixing",
    "PartnerTable",
    "PuzzleMix",
    "RCMixup",
    "SNRMixing",
    "TrainingSpots",
    "beta",
    "check_pixels",
    "expression_bandwidth",
    "expression_weights",
    "median_distance",
    "register",
    "resolve_mixing",
    "share_of_all",
]
