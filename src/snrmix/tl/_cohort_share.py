"""Samples that share one model: put together, imputed, and taken apart again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData

import snrmix
from snrmix._log import logger, quiet
from snrmix._names import listing
from snrmix.data.embedding_cache import CACHE_KEY
from snrmix.data.expression import read_measured
from snrmix.data.paths import read_path
from snrmix.data.results import Result
from snrmix.data.sites import locate_sites
from snrmix.data.stored import entry_of
from snrmix.data.table import has_image, read_table
from snrmix.data.words import read_genes
from snrmix.tl._cohort_sheet import LIBRARY, Sample

BY_SAMPLE = ("image", "um_per_px", "measured", "library_key")  # what may differ between samples of a model
BY_OBJECT = ("table_key", "image_key")  # what is heeded when a SpatialData is read, and is not for the study
MEASURED = "snrmix_is_measured"


@dataclass(frozen=True)
class _Member:
    """A sample of a study.

    Parameters
    ----------
    data
        What was read.
    table
        AnnData that goes into the study.
    image, um_per_px
        Of `snrmix.tl.impute`, where they are not in the table.
    """

    data: object
    table: AnnData
    image: object = None
    um_per_px: float | None = None


def impute_together(unit) -> list:
    """One model of all samples of a unit: their sections with the result, in the order of the samples.

    Raises
    ------
    ValueError, KeyError, TypeError
        For samples that cannot go into one object, and what `snrmix.tl.impute` refuses.
    """
    arguments = _common_arguments(unit)
    members = {sample.name: _read(sample, unit.arguments(sample)) for sample in unit.samples}
    tables = {name: member.table for name, member in members.items()}
    with quiet("anndata"):
        study = anndata.concat(tables, label=LIBRARY, index_unique="@", merge="same")
    if not study.n_vars:
        raise ValueError(f"samples {listing(members)} have no gene in common, and cannot share a model.")
    logger.info("%d samples share a model, of the %d genes that they have in common.", len(tables), study.n_vars)
    study.uns["spatial"] = {
        name: table.uns["spatial"][name] for name, table in tables.items() if "spatial" in table.uns
    }
    if isinstance(arguments.get("genes"), str):
        arguments["genes"] = read_genes(arguments["genes"], study)
    images = {name: member.image for name, member in members.items() if member.image is not None}
    arguments |= ({"image": images} if images else {}) | _um_per_px(members)
    if all(member.data is not member.table for member in members.values()):
        arguments = {name: value for name, value in arguments.items() if name not in BY_OBJECT}
    snrmix.tl.impute(study, measured=MEASURED, library_key=LIBRARY, share=True, **arguments)
    return [_taken_out(study, name, member, unit) for name, member in members.items()]


def _um_per_px(members: Mapping[str, _Member]) -> dict:
    """Where micrometres are said of one sample, they have to be known of all."""
    if all(member.um_per_px is None for member in members.values()):
        return {}
    um = {
        name: _um_of_array(member.table) if member.um_per_px is None else member.um_per_px
        for name, member in members.items()
    }
    unknown = [name for name, value in um.items() if np.isnan(value)]
    if unknown:
        raise ValueError(
            f"samples {listing(members)} share a model, and um_per_px is known of some and not of {listing(unknown)}: name it "
            "for each."
        )
    return {"um_per_px": um}


def _um_of_array(table: AnnData) -> float:
    """Micrometres per unit of the positions as the array tells them; NaN where it does not."""
    return float(locate_sites(table, with_images=False).sites.um_per_px[0])


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


def _read(sample: Sample, arguments: dict) -> _Member:
    """A section as part of a study: its library is named after the sample."""
    data = read_path(sample.path, sample.bin_size)
    table = read_table(data, arguments.get("table_key"))
    if data is not table:
        return _read_spatialdata(sample, data, table, arguments)
    key = arguments.get("library_key", "library_id")
    if key in table.obs:
        _check_one_slide(sample, table.obs[key].unique(), f"obs[{key!r}]")
    entry = entry_of(table, str(table.obs[key].iloc[0]) if key in table.obs else "", is_only=True)
    table.uns["spatial"] = {sample.name: entry}
    table.obs[MEASURED] = read_measured(table, arguments.get("measured"), arguments.get("layer"))
    return _Member(table, table, arguments.get("image"), arguments.get("um_per_px"))


def _read_spatialdata(sample: Sample, data, table: AnnData, arguments: dict) -> _Member:
    """Its table with positions in the coordinate system that region and image share, and that image, open."""
    own, measured = table.copy(), read_measured(table, arguments.get("measured"), arguments.get("layer"))
    wanted = {name: arguments.get(name) for name in ("table_key", "library_key", "image", "image_key", "um_per_px")}
    with_images = arguments.get("use_rep") is None and (wanted["image"] is not None or has_image(data, table))
    sites = locate_sites(data, measured=measured, with_images=with_images, **wanted).open()
    _check_one_slide(sample, sites.libraries, "its regions")
    own.obsm = {name: values for name, values in own.obsm.items() if name != CACHE_KEY}  # it is in another frame
    own.obsm["spatial"] = sites.to_rows(sites.positions)
    own.uns, own.obs[MEASURED] = {}, measured
    um = float(sites.um_per_px[0])
    is_told = np.isclose(um, _um_of_array(own), equal_nan=True)
    return _Member(data, own, sites.images[0] if sites.images else None, None if is_told else um)


def _check_one_slide(sample: Sample, libraries, where: str) -> None:
    if len(libraries) > 1:
        raise ValueError(
            f"sample {sample.name!r} has {len(libraries)} libraries in {where}; to share a model, give each its own row."
        )


def _taken_out(study: AnnData, name: str, member: _Member, unit):
    """One section of a study, as it was, with the result; of its genes those that all samples have."""
    own = study[(study.obs[LIBRARY] == name).to_numpy()].copy()
    own.obs_names = pd.Index([row.removesuffix(f"@{name}") for row in own.obs_names])
    del own.obs[MEASURED]
    own.obs[LIBRARY] = pd.Categorical(np.repeat(name, own.n_obs))
    if member.data is member.table:
        own.uns["spatial"] = {name: study.uns["spatial"][name]}
        return own
    sdata, table_key = member.data, unit.arguments(unit.samples[0]).get("table_key")
    table = read_table(sdata, table_key)
    key = next(key for key, other in sdata.tables.items() if other is table)
    result = table[:, own.var_names].copy()
    for part, slot in [*Result(own, unit.key).taken(), ("obs", LIBRARY)]:
        getattr(result, part)[slot] = getattr(own, part)[slot]
    del sdata.tables[key]
    sdata.tables[key] = result
    return sdata
