from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, is_dataclass

import numpy as np
import pandas as pd
from anndata import AnnData

from snrmix.data.embedding_cache import write_cache
from snrmix.data.results import CALIBRATION, DEPTH, ERRORS, FOLD, MEASURED, MODEL, MODELLED, SD, UNITS, Result, versions
from snrmix.engine.conformal import LEVELS
from snrmix.engine.fit import SectionFit
from snrmix.engine.scores.by_library import FLAGS, Scores
from snrmix.plan.features import Features
from snrmix.plan.parts import Part
from snrmix.plan.source import Source
from snrmix.tl._errors import error_slots

Model = tuple[Part, SectionFit]


def write(
    table: AnnData, source: Source, features: Features, models: list[Model], fill: str, key: str, parameters: dict,
    typical: Sequence[float | None] = (None,),
) -> None:  # fmt: skip
    """Write results and provenance; everything is computed before the first assignment."""
    layers = full_layers(table.shape, models, fill)
    columns = gene_columns(table.n_vars, models)
    several = len(models) > 1
    low, high = (np.concatenate([getattr(fit.calibration, side) for _, fit in models]) for side in ("low", "high"))
    group = calibration_groups(table.n_vars, models)
    units = models[0][0].expression.input_units
    record = {
        "parameters": parameters,
        "versions": versions(),
        "units": UNITS[units],
        "input_units": units,
        "fill": fill,
        "at_depth": parameters["at_depth"],
        **({"typical_depth": np.array(typical) if several else typical[0]} if typical[0] is not None else {}),
        "image": image_record(source, features),
        "history": stacked_history(models),
        "scores": overall(models)[1],
        "n_spots_scored": sum(len(fit.scored) for part, fit in scored_models(models)),
        "calibration": {"low": low, "high": high, "levels": LEVELS},
        **({"models": [part.name for part, _ in models]} if several else models[0][1].record),
    }
    if len(source.sites.libraries) > 1:
        record["libraries"] = {
            storable(name): library_record(table, part, fit, name) for part, fit in models for name in part.libraries
        }
    record = writable(record)
    at_sites, of_genes, record[ERRORS] = error_slots(table.shape, models)
    depth, fold = assumed_depth(table.n_obs, models), held_out_in(table.n_obs, models)
    model_of = pd.Categorical(predicted_by(table.n_obs, models)) if several else None

    result = Result(table, key)
    result.clear()
    for name, values in zip((key, result.name(SD)), layers, strict=True):
        table.layers[name] = values
    for name, column in columns.items():
        table.var[result.name(name)] = column
    if several:
        table.obs[result.name(MODEL)] = model_of
        table.varm[result.name(CALIBRATION)] = group
    else:
        table.var[result.name(CALIBRATION)] = group[:, 0]
    table.obsm[result.name(ERRORS)], table.varm[result.name(ERRORS)] = at_sites, of_genes
    if depth is not None:
        table.obs[result.name(DEPTH)] = depth
    table.obs[result.name(FOLD)] = fold
    table.obs[result.name(MEASURED)] = source.sites.to_rows(source.is_measured)
    table.uns[key] = record
    if features.embedding is not None:
        write_cache(table, source.sites, features.embedding)


def full_layers(shape: tuple[int, int], models: list[Model], fill: str) -> tuple[np.ndarray, np.ndarray]:
    """Values and their sd, float32, of the table's shape; NaN for genes that were left out."""
    layers = values, sds = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    for part, fit in models:
        expression, order = part.expression, part.sites.order
        measured, unmeasured = part.measured, np.flatnonzero(~part.is_measured)
        if fill == "unmeasured":
            at_measured = expression.values, np.zeros_like(expression.values)
        else:
            at_measured = fit.out_of_fold, fit.out_of_fold_sd
        elsewhere, rare = (fit.predicted, fit.predicted_sd), (expression.means, expression.spreads)
        for layer, observed, predicted, constant in zip(layers, at_measured, elsewhere, rare, strict=True):
            for rows, block in ((measured, observed), (unmeasured, predicted)):
                own = part.predicts[rows]
                block = block if own.all() else block[own]
                layer[np.ix_(order[rows[own]], expression.columns)] = block
            layer[np.ix_(order[part.predicts], expression.mean_columns)] = constant
        if fill == "unmeasured":
            own = part.predicts[measured]
            seen = np.ix_(order[measured[own]], expression.mean_columns)
            values[seen], sds[seen] = expression.rare_values.toarray()[own], 0
        fill_unplaced(layers, part)
    return values, sds


def fill_unplaced(layers: tuple[np.ndarray, np.ndarray], part: Part) -> None:
    """At rows without a position the mean of every gene over the measured spots, and its deviation."""
    rows, expression = part.unplaced, part.expression
    if len(rows):
        for layer, modelled, rare in zip(
            layers,
            (expression.values.mean(0), expression.values.std(0)),
            (expression.means, expression.spreads),
            strict=True,
        ):
            layer[np.ix_(rows, expression.columns)] = modelled
            layer[np.ix_(rows, expression.mean_columns)] = rare


def scored_models(models: list[Model]) -> list[Model]:
    """Those that hold out spots of the libraries they predict; all, where there are none."""
    return [model for model in models if not model[0].elsewhere] or models


def library_scores(models: list[Model]) -> list[tuple[Part, Scores]]:
    """Scores of each library with measured spots, by its own or the shared model."""
    return [(part, scores) for part, fit in scored_models(models) for scores in fit.by_library.values()]


def overall(models: list[Model]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores per gene, by its column in the table, and per method: means over libraries, see `gene_columns`."""
    found = library_scores(models)
    genes = [scores.genes.set_axis(part.expression.columns) for part, scores in found]
    methods = [scores.methods for _, scores in found]
    if len(found) == 1:
        return genes[0], methods[0]
    known = pd.Index(np.unique(np.concatenate([one.index for one in genes])))
    stacked = np.stack([one.reindex(known).to_numpy(float) for one in genes])
    mean = pd.DataFrame(np.nanmean(stacked, axis=0), known, genes[0].columns)
    for flag in FLAGS:
        mean[flag] = np.logical_and.reduce([one[flag].reindex(known, fill_value=False) for one in genes])
    return mean, sum(methods) / len(methods)


def gene_columns(n_vars: int, models: list[Model]) -> dict[str, np.ndarray]:
    """Columns of ``var``: means over the libraries in which a gene was modelled; reliable where it is so in all."""
    genes = overall(models)[0]
    columns = genes.index.to_numpy()
    found = {name: var_column(n_vars, columns, genes[name].to_numpy()) for name in genes}
    return {**found, MODELLED: var_column(n_vars, columns, np.ones(len(columns), bool))}


def var_column(n_vars: int, columns: np.ndarray, values: np.ndarray, missing=None) -> np.ndarray:
    """A var column from values of some genes; elsewhere ``missing``, by default NaN or False."""
    values = np.asarray(values)
    if missing is None:
        missing = False if values.dtype == bool else np.nan
    column = np.full(n_vars, missing, dtype=values.dtype if values.dtype.kind in "bi" else float)
    column[columns] = values
    return column


def calibration_groups(n_vars: int, models: list[Model]) -> np.ndarray:
    """Which row of the stacked quantiles a gene's intervals are made with, (n_vars, models); -1 where not modelled."""
    groups, first = [], 0
    for part, fit in models:
        group = fit.calibration.group + first
        groups.append(var_column(n_vars, part.expression.columns, group, missing=-1))
        first += len(fit.calibration.low)
    return np.column_stack(groups)


def predicted_by(n_obs: int, models: list[Model]) -> np.ndarray:
    """Name of the model of every row."""
    names = np.empty(n_obs, dtype=object)
    for part, _ in models:
        names[part.sites.order[part.predicts]] = part.name
        names[part.unplaced] = part.name
    return names


def assumed_depth(n_obs: int, models: list[Model]) -> np.ndarray | None:
    """Counts that the prediction of every row assumes of it, float32: as known, else as predicted; ``None``: unknown."""
    if any(fit.depths is None for _, fit in models):
        return None
    depth = np.full(n_obs, np.nan, np.float32)
    for part, fit in models:
        for rows, values in ((part.is_measured, fit.depths.out_of_fold), (~part.is_measured, fit.depths.assumed)):
            own = part.predicts[rows]
            depth[part.sites.order[rows][own]] = values[own]
    return depth


def held_out_in(n_obs: int, models: list[Model]) -> np.ndarray:
    """In which fold of its model a row was held out, int16, -1 for none."""
    number = np.full(n_obs, -1, np.int16)
    for part, _ in models:
        order, own = part.sites.order[part.measured], part.predicts[part.measured]
        for k, fold in enumerate(fold for fold in part.folds if fold.repeat == 0):
            number[order[fold.held_out[own[fold.held_out]]]] = k
    return number


def stacked_history(models: list[Model]) -> dict[str, np.ndarray]:
    """Training of the networks of all models, (networks, epochs), NaN after a model's last epoch."""
    histories = [fit.network.history for _, fit in models if fit.network is not None]
    if len(histories) < 2:
        return histories[0] if histories else {}
    epochs = max(history["train_loss"].shape[1] for history in histories)
    found = {"best_epoch": np.concatenate([history["best_epoch"] for history in histories])}
    for name in ("train_loss", "validation_mse"):
        curves = [
            np.pad(h[name].astype(float), ((0, 0), (0, epochs - h[name].shape[1])), constant_values=np.nan)
            for h in histories
        ]
        found[name] = np.concatenate(curves)
    return found


def library_record(table: AnnData, part: Part, fit: SectionFit, name: str) -> dict:
    """What ``uns`` keeps of one library: how good its predictions are, and what they rest on."""
    sites = part.sites
    scores = fit.by_library.get(sites.libraries.index(name)) if not part.elsewhere else None
    genes, methods = (scores.genes, scores.methods) if scores else (fit.genes, fit.scores)
    n_spots = scores.n_spots if scores else sum(each.n_spots for each in fit.by_library.values())
    record = {
        "model": part.name,
        "kind": part.kind,
        "genes": genes.set_axis(table.var_names[part.expression.columns].rename("gene")),
        "scores": methods,
        "n_spots_scored": n_spots,
        "history": fit.network.history if fit.network is not None else {},
        **fit.record,
    }
    if part.elsewhere:
        held_out = {sites.libraries[code]: scores for code, scores in fit.by_library.items()}
        rows = [
            {
                "mse_ratio": s.methods["mse_ratio"]["snrmix"],
                "pearson": s.methods["pearson"]["snrmix"],
                "n_spots": s.n_spots,
            }
            for s in held_out.values()
        ]
        record["held_out"] = pd.DataFrame(rows, pd.Index(held_out, name="library"))
    return record


def image_record(source: Source, features: Features) -> dict:
    """Scale of the section, sizes of the patches, which image was read for each library, and how it was seen."""
    sites = source.sites
    record = {
        "libraries": list(sites.libraries),
        "um_per_px": sites.um_per_px,
        "pitch": sites.pitch,
        "scale_known": bool(np.isfinite(sites.um_per_px).all()),
    }
    if features.record is not None:
        record |= {name: features.record[name] for name in ("scales", "scales_by", "patch_side")}
        record["read"] = {storable(name): one for name, one in features.images.items()}
        record |= {"stained_alike": True} if features.alike is not None else {}
    return record


def storable(library: str) -> str:
    """The name of a library as a key of ``uns``: h5ad and zarr take a slash for a level of their own."""
    return library.replace("/", "|")


def writable(value):
    """What h5ad and zarr can store: no None, tuples, dataclasses or arbitrary objects."""
    if value is None:
        return "none"
    if is_dataclass(value) and not isinstance(value, type):
        return {"name": type(value).__name__, **{k: writable(v) for k, v in asdict(value).items()}}
    if isinstance(value, dict):
        return {str(k): writable(v) for k, v in value.items()}
    if isinstance(value, bool | int | float | str | np.generic):
        return value
    if isinstance(value, np.ndarray | pd.DataFrame):
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(v, bool | int | float | str) for v in value):
        return np.array(value, dtype=object if any(isinstance(v, str) for v in value) else None)
    return getattr(value, "__name__", type(value).__name__)
