"""The depth that predictions imply: at which genes that follow depth alone would, all together, be what was predicted.

Kriging predicts log depth by itself. Predicted profiles may know more, or less, of it: with ``a(d)`` what depth alone says of
every gene and ``f`` the prediction of a site,

    step = sum_g s_g (f_g - a_g(d)) / sum_g s_g^2        s = change of a with log d

is how far log depth would have to move for the genes to agree. As much of it is taken, from none to all, as lowers the error
of log depth at the spots of other folds. What is left of ``f - a`` is then no error of depth that all genes share.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from snrmix.engine.at_depth import SiteDepths
from snrmix.engine.depth import SITES_AT_ONCE, constant_share, constant_share_at
from snrmix.engine.folds import Fold, fold_numbers
from snrmix.engine.section import Section
from snrmix.engine.slices import slices

REACH = 0.25  # of log depth, to either side, over which slopes are taken


def imply_depths(
    section: Section, folds: list[Fold], depths: SiteDepths | None, out_of_fold: np.ndarray, predicted: np.ndarray
) -> SiteDepths | None:
    """Depths moved toward what predictions imply, within the depths that were seen; ``None`` where depths are unknown.

    Parameters
    ----------
    folds
        Of the first repeat.
    out_of_fold, predicted
        Shape (measured, genes) and (unmeasured, genes); NaN where a spot was never held out.
    """
    if depths is None:
        return None
    own, known, fold = section.library[section.measured], depths.known, fold_numbers(folds, len(out_of_fold))
    alone = constant_share(section.expression, known, own, folds, *around(depths.out_of_fold))
    step = steps(out_of_fold, *alone)
    missed, moved = np.log(known / depths.out_of_fold), depths.out_of_fold.copy()
    seen = (fold >= 0) & np.isfinite(missed)
    for k in range(fold.max() + 1):
        others, held_out = seen & (fold != k), seen & (fold == k)
        moved[held_out] *= np.exp(taken(missed[others], step[others]) * step[held_out])
    part, there = taken(missed[seen], step[seen]), depths.predicted.copy()
    for some in slices(len(there), SITES_AT_ONCE):
        where = section.library[section.unmeasured[some]]
        alone = [constant_share_at(section.expression, known, own, where, at) for at in around(there[some])]
        there[some] *= np.exp(part * steps(predicted[some], *alone))
    lowest, highest = known.min(), known.max()
    return replace(depths, out_of_fold=np.clip(moved, lowest, highest), predicted=np.clip(there, lowest, highest))


def around(depth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depths, and some on either side."""
    return depth, depth * np.exp(REACH), depth * np.exp(-REACH)


def steps(predicted: np.ndarray, here: np.ndarray, above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """How far log depth would have to move at each site, shape (n,), from values of shape (n, genes)."""
    slope = (above - below) / (2 * REACH)
    square = np.einsum("ng,ng->n", slope, slope)
    return np.einsum("ng,ng->n", slope, predicted - here) / np.maximum(square, 1e-12)


def taken(missed: np.ndarray, step: np.ndarray) -> float:
    """The part of steps, 0 to 1, that fits errors of log depth best."""
    return float(np.clip(missed @ step / max(step @ step, 1e-12), 0, 1))
