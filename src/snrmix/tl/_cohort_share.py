"""Samples that share one model: put together, imputed, and taken apart again."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData

import snrmix
from snrmix._log import logger, quiet
from snrmix._names import listing
from snrmix.data.expression import read_measured
from snrmix.data.paths import read_path
from snrmix.data.stored import entry_of
from snrmix.data.table import read_table
from snrmix.data.words import read_genes
from snrmix.tl._cohort_sheet import LIBRARY, Sample

BY_SAMPLE = ("image", "um_per_px", "measured", "library_key")  # what may differ between samples of a model


def impute_together(unit) -> list[AnnData]:
    """One model of all samples of a unit: their sections with the result, in the order of the samples.

    Raises
    ------
    ValueError, KeyError, TypeError
        For samples that cannot go into one object, and what `snrmix.tl.impute` refuses.
    """
    arguments = _common_arguments(unit)
    tables = [_read(sample, unit.arguments(sample)) for sample in unit.samples]
    names = [sample.name for sample in unit.samples]
    with quiet("anndata"):
        study = anndata.concat(dict(zip(names, tables, strict=True)), label=LIBRARY, index_unique="@", merge="same")
    if not study.n_vars:
        raise ValueError(f"samples {listing(names)} have no gene in common, and cannot share a model.")
    logger.info("%d samples share a model, of the %d genes that they have in common.", len(tables), study.n_vars)
    study.uns["spatial"] = {name: table.uns["spatial"][name] for name, table in zip(names, tables, strict=True)}
    if isinstance(arguments.get("genes"), str):
        arguments["genes"] = read_genes(arguments["genes"], study)
    for argument in ("image", "um_per_px"):
        given = {s.name: unit.arguments(s)[argument] for s in unit.samples if argument in unit.arguments(s)}
        arguments |= {argument: given} if given else {}
    snrmix.tl.impute(study, measured=_MEASURED, library_key=LIBRARY, share=True, **arguments)
    return [_taken_out(study, name) for name in names]


_MEASURED = "snrmix_is_measured"


def _common_arguments(unit) -> dict:
    """Arguments that all samples of a model must agree on."""
    own = [
        {name: value for name, value in unit.arguments(sample).items() if name not in BY_SAMPLE}
        for sample in unit.samples
    ]
    for sample, arguments in zip(unit.samples, own, strict=True):
        for name in {*arguments, *own[0]}:
            if arguments.get(name) != own[0].get(name):
                raise ValueError(
                    f"samples {unit.samples[0].name!r} and {sample.name!r} share a model, but {name} is "
                    f"{own[0].get(name)!r} for one and {arguments.get(name)!r} for the other."
                )
    return dict(own[0])


def _read(sample: Sample, arguments: dict) -> AnnData:
    """A section as part of a study: its library is named after the sample."""
    data = read_path(sample.path, sample.bin_size)
    table = read_table(data, arguments.get("table_key"))
    if data is not table:
        raise TypeError(
            f"sample {sample.name!r} is a SpatialData, whose images cannot be put into one object with others; to share "
            "a model, give AnnData or folders of Space Ranger."
        )
    key = arguments.get("library_key", "library_id")
    if key in table.obs and table.obs[key].nunique() > 1:
        raise ValueError(
            f"sample {sample.name!r} has {table.obs[key].nunique()} libraries in obs[{key!r}]; to share a model, give "
            "each its own row."
        )
    entry = entry_of(table, str(table.obs[key].iloc[0]) if key in table.obs else "", is_only=True)
    table.uns["spatial"] = {sample.name: entry}
    table.obs[_MEASURED] = read_measured(table, arguments.get("measured"), arguments.get("layer"))
    return table


def _taken_out(study: AnnData, name: str) -> AnnData:
    """One section of a study, as it was, with the result."""
    own = study[(study.obs[LIBRARY] == name).to_numpy()].copy()
    own.obs_names = pd.Index([row.removesuffix(f"@{name}") for row in own.obs_names])
    own.uns["spatial"] = {name: study.uns["spatial"][name]}
    del own.obs[_MEASURED]
    own.obs[LIBRARY] = pd.Categorical(np.repeat(name, own.n_obs))
    return own
