"""Predictions of a model as an object that everything takes which takes a result of `snrmix.tl.impute`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData

from snrmix.data.results import CALIBRATION, ERRORS, FOLD, MEASURED, MODELLED, SD, UNITS, Result, versions
from snrmix.data.sites import Sites
from snrmix.engine.conformal import LEVELS, Calibration
from snrmix.engine.errors import Errors
from snrmix.tl._errors import errors_record, gene_slot


@dataclass(frozen=True)
class JointErrors:
    """What draws need.

    Parameters
    ----------
    errors
        Of some genes.
    columns
        Which these are.
    together
        Shape (n,): sites of a library with the same number are predicted from the same spots.
    """

    errors: Errors
    columns: np.ndarray
    together: np.ndarray


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
    joint
        For draws; ``None`` where a model of an earlier version knows nothing of errors.
    """

    values: np.ndarray
    sd: np.ndarray | None
    calibration: Calibration | None
    row: np.ndarray | None
    measured: np.ndarray
    at_depth: str
    typical_depth: float | None
    joint: JointErrors | None = None


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
    calibration, nothing = predicted.calibration, np.zeros((0, len(LEVELS)))
    low, high = (nothing, nothing) if calibration is None else (calibration.low, calibration.high)
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
    if predicted.joint is not None:
        add_errors(result, sites, predicted.joint)
    return found


def add_errors(result: Result, sites: Sites, joint: JointErrors) -> None:
    """What draws need, where `snrmix.tl.impute` leaves it."""
    name, table = result.name(ERRORS), result.table
    label = sites.library * (joint.together.max() + 1) + joint.together
    table.obsm[name] = sites.to_rows(np.column_stack([sites.lattice_positions, label]).astype(np.float32))
    table.varm[name] = gene_slot(table.n_vars, joint.columns, joint.errors)
    table.uns[result.key][ERRORS] = errors_record([joint.errors])
