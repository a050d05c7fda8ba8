"""How the measured spots are split: what the user asked for, checked, as folds of the engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from anndata import AnnData

from snrmix._log import logger
from snrmix.data.flags import read_mask
from snrmix.data.positions import which_matter
from snrmix.data.sites import Sites
from snrmix.engine.folds import Fold, beyond_held_out, make_folds, single_split
from snrmix.engine.mix import Mixing
from snrmix.plan.options import Options

BEYOND = 0.02  # share of sites beyond reach that is worth a warning
MIN_TRAIN = 10  # of the one split that validation says; two folds of the fewest measured spots leave as many


def choose_folds(table: AnnData, sites: Sites, is_measured: np.ndarray, options: Options) -> list[Fold]:
    """Folds of the measured spots, or with ``n_folds=1`` the one split that ``validation`` says.

    Parameters
    ----------
    is_measured
        Shape (n,), bool, in site order.

    Raises
    ------
    ValueError, KeyError, TypeError
        For too many folds, a share out of range, or a validation column that does not fit.
    """
    n_folds, validation = options.n_folds, options.validation
    measured, rng = np.flatnonzero(is_measured), np.random.default_rng(options.settings.seed)
    library, most = sites.library[measured], max(len(measured) // 2, 1)
    if n_folds > most:
        raise ValueError(f"n_folds={n_folds} is too many for {len(library)} measured spots; use at most {most}.")
    if n_folds > 1:
        wanted = wanted_sites(table, sites, is_measured)
        positions, library = sites.lattice_positions[wanted], sites.library[wanted]
        measured = np.flatnonzero(is_measured[wanted])
        folds = make_folds(positions, library, measured, n_folds, options.n_repeats, rng)
        _say_how_far(folds, n_folds, *beyond_held_out(positions, library, measured, folds))
        return folds
    if isinstance(validation, str):
        fold = _validation_column(validation, read_mask(table, validation, "validation")[sites.order][measured])
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


def wanted_sites(table: AnnData, sites: Sites, is_measured: np.ndarray) -> np.ndarray:
    """Sites whose distances folds have to be like, shape (n,), bool: see `snrmix.data.positions.which_matter`."""
    wanted = is_measured.copy()
    for code in range(len(sites.libraries)):
        rows = sites.library == code
        wanted[rows] = which_matter(table.obs.iloc[sites.order[rows]], sites.positions[rows], is_measured[rows])
    return wanted


def _say_how_far(folds: list[Fold], n_folds: int, farthest: float, beyond: float) -> None:
    """Say that folds are compact, and warn where sites are farther away than anything that is held out."""
    count = sum(fold.repeat == 0 for fold in folds)
    if folds[0].compact:
        logger.info(
            "unmeasured spots lie far from measured ones: folds hold out compact groups of spots%s, so that scores, weights "
            "and intervals are those of such distances.",
            f", {count} of them in place of {n_folds}" if count < n_folds else "",
        )  # fmt: skip
    if beyond >= BEYOND:
        logger.warning(
            "%.0f %% of the unmeasured spots are farther from measured ones than any spot that could be held out (%.1f "
            "pitches): scores say nothing of them, and their sd grows with distance.", 100 * beyond, farthest,
        )  # fmt: skip


def _validation_column(name: str, held_out: np.ndarray) -> Fold:
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
