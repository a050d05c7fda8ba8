"""What a result comes to, in a few figures."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from snrmix.data.results import MODELLED, Result

OURS = ("snrmix", "network", "kriging", "rates")
REMEDY = "impute again"


def figures_of(table: AnnData, key: str = "snrmix") -> dict[str, object]:
    """Sizes and out-of-fold scores of a result, as plain numbers and words.

    Parameters
    ----------
    table
        AnnData with a result of `snrmix.tl.impute`.
    key
        Its name.

    Returns
    -------
    dict
        ``n_spots``, ``n_measured``, ``n_genes``, ``n_modelled``, ``n_reliable``; ``mse_ratio`` (squared error as a share
        of the mean's) and ``best_baseline`` with its own; ``pearson_median`` over modelled genes; and where the result has
        them, ``pearson_given_depth_median`` and ``depth_share``, the share of what is explained that sequencing depth
        alone explains.

    Raises
    ------
    KeyError
        When there is no such result.
    """
    result = Result.find(table, key)
    record, modelled, reliable = result.record, result.flags(MODELLED), result.flags("reliable")
    ratios = record["scores"]["mse_ratio"].astype(float)
    baselines = ratios.drop([name for name in OURS if name in ratios.index])
    found = {
        "n_spots": table.n_obs,
        "n_measured": int(result.is_measured.sum()),
        "n_genes": table.n_vars,
        "n_modelled": int(modelled.sum()),
        "n_reliable": int(reliable.sum()),
        "units": str(record["units"]),
        "fill": str(record["fill"]),
        "mse_ratio": _number(ratios["snrmix"]),
        "best_baseline": str(baselines.idxmin()),
        "best_baseline_mse_ratio": _number(baselines.min()),
        "pearson_median": _median(result.column("pearson", REMEDY)[modelled]),
    }
    if result.has("pearson_given_depth"):
        found["pearson_given_depth_median"] = _median(result.column("pearson_given_depth", REMEDY)[modelled])
    if "depth" in ratios.index and ratios["snrmix"] < 1:
        found["depth_share"] = _number(np.clip((1 - ratios["depth"]) / (1 - ratios["snrmix"]), 0, 1))
    return found


def _median(values: np.ndarray) -> float | None:
    return _number(np.nanmedian(values)) if np.isfinite(values).any() else None


def _number(value) -> float | None:
    """Rounded to four digits; ``None`` for NaN, which JSON has not."""
    return round(float(value), 4) if np.isfinite(value) else None
