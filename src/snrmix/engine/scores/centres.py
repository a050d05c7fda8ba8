"""What out-of-fold predictions say of a spot of which nothing is known, which correlations do not count.

Spots with high expression, or of great depth, are missing from the training spots of their fold, whose mean, or depth, is
lower for it: without what follows from that, predictions of pure noise would correlate negatively with what was observed.
Where a prediction is made from depth, of which low values mean more noise and other means of logs, the sign may be either.
"""

from __future__ import annotations

import numpy as np

from snrmix.engine.at_depth import GivenDepth
from snrmix.engine.folds import Fold, fold_numbers, held_out_together
from snrmix.engine.scores.by_library import Centres, library_means
from snrmix.engine.section import Section
from snrmix.engine.stack import Stack, combine


def fitted_centres(
    section: Section, folds: list[Fold], fine: list[Fold], fine_means: np.ndarray, stack: Stack, members: list[str],
    rates: np.ndarray | None, alone: GivenDepth | None,
) -> Centres:  # fmt: skip
    """Such values by method, each float32, (rows, genes), for some rows and genes at a time; networks see whole folds.

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
    number, together = fold_numbers(folds, len(whole)), held_out_together(fine, len(whole))
    if rates is not None:
        gap = rates - np.stack([section.expression[fold.train].mean(0) for fold in fine])

    def centres(rows: np.ndarray, some: slice) -> dict[str, np.ndarray]:
        mean = fine_means[rows, some]
        found = dict.fromkeys(("mean", "kriging", "spatial kNN", "ridge"), mean) | {"network": whole[rows, some]}
        found["depth"] = None if alone is None else alone.centre[rows, some]
        if rates is not None:
            found["rates"] = mean + gap[together[rows], some]
        found["snrmix"] = np.full_like(mean, np.nan)
        for k in range(number.max() + 1):
            own = number[rows] == k
            values = [found[name][own] for name in members]
            found["snrmix"][own] = combine(values, found["network"][own], stack.held_out_weights[k][:, some])
        return found

    return centres
