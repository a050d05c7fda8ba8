"""What a model of all libraries says of the sites of one of them."""

from __future__ import annotations

import numpy as np

from snrmix.engine.at_depth import SiteDepths
from snrmix.engine.fit import Stacked
from snrmix.engine.sharing import Shared
from snrmix.plan.parts import Part, find, where


def shared_of(part: Part, fit: Stacked) -> Shared:
    """What the partner of a model predicts of the sites and genes of that model."""
    measured, unmeasured = where(part, part.partner)
    genes = find(part.expression.columns, part.partner.expression.columns)
    depths = fit.depths
    if depths is not None:
        depths = SiteDepths(
            depths.known[measured], depths.out_of_fold[measured], depths.predicted[unmeasured],
            depths.elsewhere[unmeasured],
        )  # fmt: skip
    return Shared(fit.out_of_fold[np.ix_(measured, genes)], fit.predicted[np.ix_(unmeasured, genes)], depths)
