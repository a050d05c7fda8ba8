"""Which depth results are given for, and whether scores hold for the depths of the unmeasured spots."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from snrmix._log import logger
from snrmix.data.depth import unmeasured_totals
from snrmix.plan.parts import Part
from snrmix.plan.source import Source

WORTH_SAYING = np.log(1.25)  # ratio of median depths
FEWEST_COMPARED = 10
SURE = 1e-3


def choose_depth(at_depth: str, fill: str, parts: Sequence[Part]) -> tuple[str, list[float | None]]:
    """``"spot"`` or ``"typical"``, and for every model the typical depth: the median of the measured spots that it sees.

    Raises
    ------
    ValueError
        For ``"typical"`` where the depths of measured spots are not known.
    """
    known = all(part.site_depth is not None for part in parts)
    if not known:
        logger.info(
            "these are log values, and no obs column tells the depth of spots: what depth alone explains cannot be told. "
            "Pass depth_key= with counts per spot."
        )
    if at_depth == "typical" and not known:
        raise ValueError("at_depth='typical' needs the depth of the measured spots: pass depth_key=, or counts.")
    if at_depth == "auto":
        at_depth = "typical" if fill == "all" and known else "spot"
    if at_depth == "spot":
        return "spot", [None] * len(parts)
    typical = [float(np.median(part.site_depth[part.measured])) for part in parts]
    logger.info(
        "predictions are values as they would be observed at a depth of %s counts%s (at_depth='typical').",
        ", ".join(dict.fromkeys(f"{depth:.0f}" for depth in typical)), ", by model" if len(set(typical)) > 1 else "",
    )  # fmt: skip
    return "typical", typical


def warn_of_other_depths(source: Source, parts: Sequence[Part], depth_key: str | None) -> None:
    """Say so where unmeasured spots have counts, and are shallower or deeper than the measured ones.

    Their totals are looked at for this sentence alone.
    """
    from scipy.stats import mannwhitneyu

    if parts[0].expression.input_units != "counts" or source.is_measured.all():
        return
    others = unmeasured_totals(source.table, source.sites, source.is_measured, source.layer)
    own = np.concatenate([part.expression.depth for part in parts])
    if min(len(others), len(own)) < FEWEST_COMPARED:
        return
    ratio = np.median(others) / np.median(own)
    if abs(np.log(ratio)) < WORTH_SAYING or mannwhitneyu(others, own).pvalue > SURE:
        return
    logger.warning(
        "the unmeasured spots that have counts are %s than the measured ones (median %.0f and %.0f): scores are those of spots "
        "of measured depth. %s", "shallower" if ratio < 1 else "deeper", np.median(others), np.median(own),
        f"Intervals use obs[{depth_key!r}]." if depth_key is not None
        else "To predict what would be observed there, pass depth_key= with their counts per spot.",
    )  # fmt: skip
