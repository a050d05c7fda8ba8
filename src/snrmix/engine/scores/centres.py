"""What out-of-fold predictions say of a spot of which nothing is known, which correlations do not count.

Spots with high expression, or of great depth, are missing from the training spots of their fold, whose mean, or depth, is
lower for it: without what follows from that, predictions of pure noise would correlate negatively with what was observed.
Where a prediction is made from depth, of which low values mean more noise and other means of logs, the sign may be either.
"""

from __future__ import annotations

import numpy as np

from snrmix.engine.at_depth import GivenDepth
from snrmix.engine.folds import Fold, fold_numbers, held_out_together
from snrmix.engine.scores.by_library import library_means
from snrmix.engine.section import Section
from snrmix.engine.stack import Stack, combine


def fitted_centres(
    section: Section, folds: list[Fold], fine: list[Fold], fine_means: np.ndarray, stack: Stack, members: list[str],
    rates: np.ndarray | None, alone: GivenDepth | None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Such values by method, each float32, (measured, genes); networks see whole folds.

    Parameters
    ----------
    folds, fine
        Of the first repeat, and those of kriging and of the references.
    fine_means
        Out-of-fold means of each library, of the fine folds.
    stack, members
        Weights, and the names of what they are for.
    rates
        See `snrmix.engine.kriging.krige.SectionKriging`; ``None``: they are no member.
    alone
        What depth alone says; ``None`` where depths are not known.
    """
    whole = fine_means if fine is folds else library_means(section, folds)
    found = dict.fromkeys(("mean", "kriging", "spatial kNN", "ridge"), fine_means) | {"network": whole}
    found["depth"] = None if alone is None else alone.centre
    if rates is not None:
        gap = rates - np.stack([section.expression[fold.train].mean(0) for fold in fine])
        found["rates"] = fine_means + gap[held_out_together(fine, len(fine_means))]
    number, found["snrmix"] = fold_numbers(folds, len(whole)), np.full_like(whole, np.nan)
    for k in range(number.max() + 1):
        own = number == k
        centres = [found[name][own] for name in members]
        found["snrmix"][own] = combine(centres, whole[own], stack.held_out_weights[k])
    return found
