"""Predictions of a model as an object that everything takes which takes a result of `snrmix.tl.impute`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData

from snrmix.data.results import CALIBRATION, FOLD, MEASURED, MODELLED, SD, UNITS, Result, versions
from snrmix.data.sites import Sites
from snrmix.engine.conformal import LEVELS, Calibration


@dataclass(frozen=True)
class Predicted:
    """What a model says of an object, in site order.

    Parameters
    ----------
    values, sd
        float32, each (n, genes); ``sd`` is ``None`` where a model of an earlier version knows none.
    calibration
        Of these.
    row
        Shape (genes,): which row of the calibration's quantiles a gene has.
    measured
        bool, shape (n,).
    at_depth, typical_depth
        As in `snrmix.tl.impute`.
    """

    values: np.ndarray
    sd: np.ndarray | None
    calibration: tuple[np.ndarray, np.ndarray] | None
    row: np.ndarray | None
    measured: np.ndarray
    at_depth: str
    typical_depth: float | None


def quantiles_of(calibration: Calibration) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper quantiles, each (groups, levels)."""
    return calibration.low, calibration.high


def as_result(table: AnnData, sites: Sites, genes: np.ndarray, predicted: Predicted, key: str, model: dict) -> AnnData:
    """A new object of the sites and the modelled genes.

    Parameters
    ----------
    table
        Whose ``obs`` and images are taken.
    genes
        Names.
    key
        Name of the result.
    model
        ``scores``, ``gene_scores``, ``input_units`` and ``options`` of the model.
    """
    scores = model["gene_scores"].set_axis(pd.Index(genes, name=None))
    var = scores.rename(columns=lambda name: f"{key}_{name}")
    found = AnnData(sites.to_rows(predicted.values), obs=table.obs.copy(), var=var)
    result = Result(found, key)
    found.layers[key] = found.X.copy()
    if predicted.sd is not None:
        found.layers[result.name(SD)] = sites.to_rows(predicted.sd)
        found.var[result.name(CALIBRATION)] = predicted.row
    found.var[result.name(MODELLED)] = True
    found.obs[result.name(MEASURED)] = sites.to_rows(predicted.measured)
    found.obs[result.name(FOLD)] = np.int16(-1)
    found.obsm["spatial"] = (
        np.asarray(table.obsm["spatial"]) if "spatial" in table.obsm else sites.to_rows(sites.positions)
    )
    if "spatial" in table.uns:
        found.uns["spatial"] = table.uns["spatial"]
    low, high = predicted.calibration or (np.zeros((0, len(LEVELS))),) * 2
    found.uns[key] = {
        "parameters": {**model["options"], "measured": "array" if predicted.measured.any() else "none"},
        "versions": versions(),
        "units": UNITS[model["input_units"]],
        "input_units": model["input_units"],
        "fill": "all",
        "at_depth": predicted.at_depth,
        **({"typical_depth": predicted.typical_depth} if predicted.typical_depth is not None else {}),
        "image": {"libraries": list(sites.libraries), "um_per_px": sites.um_per_px, "pitch": sites.pitch},
        "history": {},
        "scores": model["scores"],
        "calibration": {"low": low, "high": high, "levels": LEVELS},
    }
    return found
