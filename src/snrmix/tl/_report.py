"""What is said of a result when it is there."""

from __future__ import annotations

import numpy as np

from snrmix._log import logger
from snrmix.data.results import UNITS
from snrmix.engine.fit import MEMBERS
from snrmix.plan.source import Source
from snrmix.tl.write import Model, library_scores, overall


def report(source: Source, models: list[Model], key: str, fill: str, at_depth: str) -> None:
    """Say what was written, and how far to trust it."""
    genes, methods = overall(models)
    scores, several = methods["mse_ratio"], len(library_scores(models)) > 1
    known = bool(np.isfinite(scores["depth"]))
    given = f", {genes['pearson_given_depth'].median():.2f} beyond what depth says" if known else ""
    baselines = scores[[name for name in scores.index if name not in ("snrmix", *MEMBERS)]].dropna()
    baseline = baselines.idxmin() if len(baselines) else scores.index[0]
    logger.info(
        "out-of-fold MSE is %.3f of the mean's (best baseline, %s: %.3f); Pearson per gene %.2f in the median%s; %d of %d "
        "genes are reliable: better than their mean%s%s.",
        scores["snrmix"], baseline, scores[baseline], genes["pearson"].median(), given, genes["reliable"].sum(), len(genes),
        " and than depth alone" if known else "",
        " (means over libraries; reliable in each)" if several else "",
    )  # fmt: skip
    if scores["snrmix"] >= scores[baseline]:
        logger.warning("this is no better than %s here; see uns[%r]['scores'].", baseline, key)
    for part, fit in models:
        if len(models) > 1:
            ratio, pearson = fit.scores.loc["snrmix", ["mse_ratio", "pearson"]]
            logger.info("%s: MSE %.3f of the mean's, mean Pearson %.2f (%s).", part.name, ratio, pearson, part.kind)
        if "sharing" in fit.record:
            logger.info("%s: %s.", part.name, worth_of_sharing(fit.record["sharing"]))
        rare = len(part.expression.mean_columns)
        if rare:
            logger.info("%d genes are seen in too few measured spots to be modelled and got their mean.", rare)
    logger.info(
        "wrote layers[%r]: %d genes at %d measured and %d unmeasured spots, %s, fill=%r, at_depth=%r. For maps; for "
        "statistics use snrmix.tl.draws.",
        key, len(genes), source.is_measured.sum(), (~source.is_measured).sum(),
        UNITS[models[0][0].expression.input_units], fill, at_depth,
    )  # fmt: skip


def worth_of_sharing(record: dict) -> str:
    """What the other libraries did for one, in words, from out-of-fold values."""
    if not record["weight"]:
        return "the other libraries add nothing, and it keeps its own model"
    gain = 1 - record["mse_ratio_both"] / record["mse_ratio_own"]
    return (
        f"the other libraries take {gain:.1%} off the out-of-fold error; the model of all has a weight of "
        f"{record['weight']:.2f}"
    )
