"""How the measured spots are split: what the user asked for, checked, as folds of the engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from snrmix._log import logger
from snrmix.data.table import read_mask
from snrmix.engine.folds import Fold, make_folds, single_split
from snrmix.engine.mix import Mixing
from snrmix.plan.source import Prepared

MIN_TRAIN = 10  # of the one split that validation says; two folds of the fewest measured spots leave as many


def choose_folds(prepared: Prepared, n_folds: int, n_repeats: int, validation, seed: int) -> list[Fold]:
    """Folds of the measured spots, or with ``n_folds=1`` the one split that ``validation`` says.

    Raises
    ------
    ValueError, KeyError, TypeError
        For a number of folds or a share out of range, or a validation column that does not fit.
    """
    check_numbers(n_folds, n_repeats)
    section, rng = prepared.section, np.random.default_rng(seed)
    library = section.library[section.measured]
    if n_folds > max(len(library) // 2, 1):
        raise ValueError(
            f"n_folds={n_folds} is too many for {len(library)} measured spots; use at most {max(len(library) // 2, 1)}."
        )
    if n_folds > 1:
        folds = make_folds(section.positions, section.library, section.measured, n_folds, n_repeats, rng)
        if folds[0].compact:
            logger.info(
                "unmeasured spots lie far from measured ones: folds hold out compact groups of spots, so that scores and "
                "weights are those of such distances (approximate)."
            )
        return folds
    if isinstance(validation, str):
        fold = _validation_column(prepared, validation)
    elif np.isscalar(validation) and 0 < validation < 1:
        fold = single_split(library, float(validation), rng)
    else:
        raise ValueError(
            f"validation={validation!r} must be a share between 0 and 1, or the name of a boolean obs column."
        )
    if len(fold.train) < MIN_TRAIN:
        raise ValueError(
            f"validation={validation!r} leaves {len(fold.train)} of the {len(library)} measured spots to train on; at least "
            f"{MIN_TRAIN} are needed."
        )
    return [fold]


def check_numbers(n_folds: int, n_repeats: int) -> None:
    """Refuse what is not a whole number from 1 up."""
    for name, value in (("n_folds", n_folds), ("n_repeats", n_repeats)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name}={value!r} must be a whole number from 1 up.")


def _validation_column(prepared: Prepared, name: str) -> Fold:
    mask = read_mask(prepared.table, name, "validation")
    held_out = mask[prepared.sites.order][prepared.section.measured]
    if not held_out.any() or held_out.all():
        raise ValueError(
            f"obs[{name!r}] must mark some, but not all, of the measured spots; it marks {held_out.sum()} of "
            f"{len(held_out)}."
        )
    return Fold(np.flatnonzero(~held_out), np.flatnonzero(held_out))


def settle_neighbours(mixing: Mixing, folds: list[Fold], chosen: bool) -> Mixing:
    """Check ``k`` against the training spots; a default that is too large for a small section is lowered.

    Raises
    ------
    ValueError
        When the user chose ``k``, and there are not more training spots than that.
    """
    fewest = min(len(fold.train) for fold in folds)
    lowered = max(1 + mixing.count_self, fewest // 3)
    if mixing.k < fewest:
        return mixing
    if chosen:
        raise ValueError(
            f"k={mixing.k} neighbours must be fewer than the {fewest} measured spots that a network trains on; pass "
            f"mix=snrmix.{type(mixing).__name__}(k={lowered}) or mark more spots as measured."
        )
    logger.info("only %d spots to train on: k=%d neighbours instead of %d.", fewest, lowered, mixing.k)
    return replace(mixing, k=lowered)
