"""A library's own model and one of all libraries: folds that agree, and what the one says of the sites of the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from snrmix.engine.at_depth import SiteDepths
from snrmix.engine.fit import Stacked
from snrmix.engine.folds import Fold
from snrmix.engine.sharing import Shared

if TYPE_CHECKING:
    from snrmix.plan.parts import Part


def join_folds(own: Sequence[Part], everything: Part) -> list[Fold]:
    """Folds of a model of all libraries, which hold the same spots out together as the models of each.

    A library with fewer folds than others is trained on as a whole in the last ones.
    """
    held_out, compact = {}, {}
    for part in own:
        measured, count = where(part, everything)[0], {}
        for fold in part.folds:
            key = fold.repeat, count.get(fold.repeat, 0)
            count[fold.repeat] = key[1] + 1
            held_out.setdefault(key, []).append(measured[fold.held_out])
            compact[key] = compact.get(key, False) or fold.compact
    every, joined = np.arange(len(everything.measured)), []
    for key in sorted(held_out):
        held = np.sort(np.concatenate(held_out[key]))
        joined.append(Fold(np.setdiff1d(every, held), held, key[0], compact[key]))
    return joined


def shared_of(part: Part, fit: Stacked) -> Shared:
    """What the partner of a model predicts of the sites and genes of that model."""
    measured, unmeasured = where(part, part.partner)
    genes = _find(part.expression.columns, part.partner.expression.columns)
    depths = fit.depths
    if depths is not None:
        depths = SiteDepths(
            depths.known[measured], depths.out_of_fold[measured], depths.predicted[unmeasured],
            depths.elsewhere[unmeasured],
        )  # fmt: skip
    return Shared(fit.out_of_fold[np.ix_(measured, genes)], fit.predicted[np.ix_(unmeasured, genes)], depths)


def where(part: Part, everything: Part) -> tuple[np.ndarray, np.ndarray]:
    """Which of the measured spots of another model a model's measured spots are, and likewise the unmeasured ones."""
    measured, others = part.is_measured, everything.is_measured
    pairs = ((measured, others), (~measured, ~others))
    return tuple(_find(part.sites.order[own], everything.sites.order[other]) for own, other in pairs)


def _find(wanted: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Where each of the wanted numbers is, all of which are there."""
    ascending = np.argsort(among)
    return ascending[np.searchsorted(among, wanted, sorter=ascending)]
