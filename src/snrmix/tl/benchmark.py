from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial

import numpy as np
import pandas as pd
from anndata import AnnData

from snrmix import _checks
from snrmix._globals import settled
from snrmix._log import logger
from snrmix._names import closest, listing
from snrmix._progress import displayed, stage
from snrmix.data.expression import read_expression, read_measured
from snrmix.data.sites import read_sites
from snrmix.data.table import read_table
from snrmix.engine.losses import Losses
from snrmix.engine.scores.metrics import gene_scores
from snrmix.plan.features import Features, read_features
from snrmix.plan.hold_out import Split
from snrmix.plan.options import Options, read_options, training_names
from snrmix.plan.parts import Part, plan_models, run_of
from snrmix.plan.source import Source, doubt, read_source
from snrmix.tl._methods import DEPTH_ALONE, Case, Method, available_methods
from snrmix.tl.summarise import OURS, _Summary, summarise

SPLIT_OPTIONS = tuple(field.name for field in fields(Split))
NOT_OPTIONS = ("kriging", "fill", "key_added", "copy")
READING = (
    "units",
    "image",
    "image_key",
    "um_per_px",
    "use_rep",
    "depth_key",
    "group_key",
)  # of the object, beside those of the call
ALSO = ("devices", "early_stopping")  # of the training
ASKED = ("encoder", "scales", "use_rep")  # likewise of what is made of it

MOST_GENES = 250


@settled()
@displayed()
def benchmark(
    data,
    methods=None,
    *,
    splits=3,
    genes="auto",
    measured=None,
    layer: str | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    share="auto",
    mix="snr",
    losses: Losses | None = None,
    n_folds: int = 5,
    n_repeats: int = 1,
    validation=0.2,
    random_state: int = 0,
    accelerator: str = "auto",
    **options,
) -> pd.DataFrame:
    """Compare imputation with simpler predictors on measured spots that are hidden from all of them.

    Every method sees the same spots, genes and embedding. The histology is embedded once, unless ``data`` has the
    embedding already (`snrmix.pp.embed_histology`); ``data`` is never changed.

    Parameters
    ----------
    data
        AnnData or SpatialData.
    methods
        Names, or ``None`` for all:

        ``"mean"``
            Mean of the measured spots.
        ``"depth"``
            A gene that follows depth alone, at the depth that kriging predicts: what depth explains by itself.
        ``"spatial kNN"``
            Mean of the 10 nearest measured spots.
        ``"graph smoothing"``
            Diffusion over the spatial graph, with the number of steps that predicts the folds best.
        ``"ridge"``
            Ridge regression on the same embedding.
        ``"kriging"``
            Kriging by component in space and image, alone.
        ``"network"``
            The networks alone, with the mixing of ``mix``.
        ``"network (NAME)"``
            The networks alone with another mixing strategy, such as ``"network (none)"`` or ``"network (mixup)"``.
        ``"snrmix"``
            What `snrmix.tl.impute` does: networks and kriging, stacked per gene.

        Without an image or depths, ``None`` leaves out what needs them.
    splits
        Which spots to hide: a number of random halves (seeds 0, 1, ...), or a list whose items are kinds of
        `snrmix.pp.hold_out` or dicts of its arguments ``kind``, ``share``, ``library``, ``n_blocks`` and
        ``random_state``, for example ``[{"kind": "block", "share": 0.3, "random_state": 1}]``.
    genes
        As in `snrmix.tl.impute`; a number means the genes of highest mean on the spots that stay measured. ``"auto"``:
        250 of these, or all where there are fewer.
    measured
        Spots with trustworthy expression, as in `snrmix.tl.impute`: the ones to split.
    layer, library_key, table_key, share, mix, losses, n_folds, n_repeats, validation, random_state, accelerator
        As in `snrmix.tl.impute`.
    **options
        Other arguments of `snrmix.tl.impute`, such as ``image``, ``use_rep`` or ``max_epochs``.

    Returns
    -------
    pandas.DataFrame
        One row per split, method and gene: ``split``, ``method``, ``gene``, ``mse`` at the hidden spots, ``mse_mean``
        (of predicting the mean of the measured spots) and ``pearson``. ``attrs["summary"]`` is the table that
        `snrmix.tl.summarise` makes of it, ``attrs["splits"]`` says how many spots each split measured and hid.

    Raises
    ------
    ValueError, KeyError, TypeError
        For an unknown method, split or option, two equal splits, or an object that `snrmix.tl.impute` would refuse.

    Examples
    --------
    >>> adata = snrmix.datasets.synthetic_tissue()
    >>> result = snrmix.tl.benchmark(adata, ["mean", "ridge", "snrmix"], splits=2)
    >>> result.attrs["summary"]
    >>> snrmix.pl.benchmark(result)
    """
    wanted, splits = _read_splits_and_methods(splits, methods)
    reading, given = _sort_options(options)
    checked = read_options(
        share=share, mix=mix, losses=losses, n_folds=n_folds, n_repeats=n_repeats, validation=validation,
        random_state=random_state, accelerator=accelerator, **given,
    )  # fmt: skip
    where = {"library_key": library_key, "table_key": table_key}
    table = read_table(data, table_key)
    genes = min(MOST_GENES, table.n_vars) if isinstance(genes, str) and genes == "auto" else genes
    is_measured = read_measured(table, measured, layer)
    sites = read_sites(data, measured=is_measured, with_images=False, **where)
    hidden_by = {name: sites.to_rows(split.hide(sites, is_measured[sites.order])) for name, split in splits.items()}
    kept = is_measured & ~next(iter(hidden_by.values()))
    source = read_source(data, measured=kept, layer=layer, genes=genes, **where, **reading)
    if not source.has_features:
        wanted = _without_image(wanted, drop=methods is None)
    elif methods is None:
        wanted.pop(f"network ({mix})" if isinstance(mix, str) else "", None)  # the same as "network"
    doubt(source)
    parts = plan_models(source, checked)  # of the first split: what cannot be is refused before anything is embedded
    if DEPTH_ALONE in wanted and parts[0].site_depth is None:
        if methods is not None:
            raise ValueError("the method 'depth' needs the depth of the measured spots: pass depth_key=, or counts.")
        del wanted[DEPTH_ALONE]
    run = run_of(source, checked, parts)
    elsewhere = any(part.elsewhere for part in parts) or any(split.kind == "library" for split in splits.values())
    stages_of = partial(_stages, methods=wanted, splits=splits, folds=run.folds)
    features = read_features(source, checked, run, stages_of, alike=elsewhere)
    rows, sizes = [], {}
    for name, hidden in hidden_by.items():
        source = replace(source, is_measured=(is_measured & ~hidden)[source.sites.order])
        tables = _run_split(source, features, hidden, checked, wanted, name)
        n_measured, n_hidden = int(source.is_measured.sum()), int(hidden.sum())
        sizes[name] = {"n_measured": n_measured, "n_hidden": n_hidden, "n_genes": len(tables[-1])}
        logger.info("%s: MSE as a share of the mean's: %s.", name, _in_words(tables))
        rows += tables
    result = pd.concat(rows, ignore_index=True)
    for column in ("split", "method"):
        result[column] = pd.Categorical(result[column], result[column].unique())
    result.attrs = {"summary": _Summary(summarise(result)), "splits": sizes}
    return result


def _read_splits_and_methods(splits, methods) -> tuple[dict[str, Method], dict[str, Split]]:
    """Methods and splits by name."""
    available = available_methods()
    if isinstance(methods, str):
        methods = [methods]
    names = list(available) if methods is None else list(dict.fromkeys(methods))
    if not names:
        raise ValueError("methods is empty; name at least one, or pass None for all.")
    for name in names:
        if name not in available:
            raise ValueError(f"unknown method {name!r}; available: {listing(available, 20)}.{closest(name, available)}")
    return {name: available[name] for name in names}, _read_splits(splits)


def _read_splits(splits) -> dict[str, Split]:
    """Splits by name."""
    if isinstance(splits, int | np.integer) and not isinstance(splits, bool):
        if splits < 1:
            raise ValueError(f"splits={splits} must be 1 or more: a number of random halves.")
        splits = [{"random_state": seed} for seed in range(splits)]
    elif isinstance(splits, str | Mapping):
        splits = [splits]
    elif not isinstance(splits, list | tuple):
        raise TypeError(f"splits must be a number or a list of kinds or dicts, not {type(splits).__name__}.")
    if not len(splits):
        raise ValueError("splits is empty; pass a number of random halves, or a list of splits.")
    found = {}
    for split in splits:
        split = {"kind": split} if isinstance(split, str) else split
        if not isinstance(split, Mapping):
            raise TypeError(f"a split is a kind or a dict of arguments of snrmix.pp.hold_out, not {split!r}.")
        for option in split:
            if option not in SPLIT_OPTIONS:
                hint = closest(option, SPLIT_OPTIONS)
                raise ValueError(f"split option {option!r} is unknown; available: {listing(SPLIT_OPTIONS)}.{hint}")
        name = _name_split(split)
        if name in found:
            raise ValueError(f"two splits are the same ({name}); give them different random_state.")
        found[name] = Split(**split)
    return found


def _name_split(split: Mapping) -> str:
    kind = split.get("kind", "random")
    if kind == "library":
        held = split.get("library")
        return f"library {held if isinstance(held, str) else listing(held or [])}"
    blocks = f" of {split['n_blocks']}" if "n_blocks" in split else ""
    share = split.get("share", Split.share)
    return f"{kind} {share}{blocks}, seed {split.get('random_state', 0)}"


def _sort_options(options: dict) -> tuple[dict, dict]:
    """Options for `read_source` and for `read_options`; what neither knows is one of the training."""
    for name in NOT_OPTIONS:
        if name in options:
            raise TypeError(f"benchmark() has no {name}=; choose with methods= what to compare.")
    own = [name for name in inspect.signature(benchmark).parameters if name not in ("data", "options")]
    unknown = [name for name in options if name not in (*READING, *ASKED)]
    _checks.arguments("benchmark", unknown, [*own, *READING, *ASKED], [*training_names(False), *ALSO])
    reading = {name: value for name, value in options.items() if name in READING}
    asked = {name: value for name, value in options.items() if name in ASKED}
    training = {name: value for name, value in options.items() if name not in (*READING, *ASKED)}
    return reading, {**asked, "training": training}


def _without_image(methods: dict[str, Method], drop: bool) -> dict[str, Method]:
    """The methods that need no image; the others are dropped, or refused when they were named."""
    impossible = [name for name, method in methods.items() if method.needs_image]
    if impossible and not drop:
        raise KeyError(f"there is no image, and {listing(impossible)} need one: pass image= or use_rep=.")
    return {name: method for name, method in methods.items() if not method.needs_image}


def _run_split(
    source: Source, features: Features, hidden: np.ndarray, options: Options, methods: dict[str, Method], split: str
) -> list[pd.DataFrame]:
    """Scores at the hidden spots, a table per method; ``hidden`` is in the order of the table."""
    parts = plan_models(source, options)
    how, partner = (options.settings, options.k_is_chosen), parts[0].partner
    if partner is not None:
        partner = Case(partner, features, _sites_of(partner, hidden), *how)
    cases = [Case(part, features, _sites_of(part, hidden), *how, part.partner and partner) for part in parts]
    by_case = [_compare(case, source, methods, split) for case in cases if len(case.hidden)]
    return [_join([one for tables in by_case for one in tables[method]]) for method in methods]


def _stages(seconds: Mapping[str, float], methods, splits, folds: int) -> dict[str, float]:
    """Seconds of every method on every split, from those of one imputation; what a method has made, others use."""
    kriging, networks = seconds["kriging"], seconds["networks"]
    own = dict.fromkeys(methods, seconds["scores"] / 4)
    own |= {name: networks for name in methods if name.startswith("network (")}
    if OURS in methods:
        own[OURS] = sum(seconds[stage] for stage in ("graph", "networks", "kriging", "stack", "intervals", "scores"))
    elif "network" in methods:
        own["network"] = networks
    for name in [name for name in (DEPTH_ALONE, "kriging") if name in methods][:1]:
        own[name] = kriging / (folds + 1)
    return {"embedding": seconds["embedding"]} | {
        _stage(split, name): own[name] for split in splits for name in methods
    }


def _stage(split: str, method: str) -> str:
    return f"{split}, {method}"


def _sites_of(part: Part, hidden: np.ndarray) -> np.ndarray:
    """Which sites of a model are hidden and for it to predict: indices, ascending."""
    return np.flatnonzero(hidden[part.sites.order] & part.predicts)


def _compare(case: Case, source: Source, methods: dict[str, Method], split: str) -> dict[str, list[pd.DataFrame]]:
    """Scores of every method, a table per library."""
    part, library, table = case.part, case.section.library[case.hidden], source.table
    known, names = part.is_measured.copy(), list(table.var_names[part.expression.columns])
    known[case.hidden] = True
    observed = read_expression(
        table, part.sites, known, layer=source.layer, units=part.expression.input_units, genes=names
    ).values[np.searchsorted(np.flatnonzero(known), case.hidden)]
    ours_first = sorted(methods, key=OURS.__ne__)  # it trains networks that others use
    predicted = {}
    for method in ours_first:
        with stage(_stage(split, method)):
            predicted[method] = methods[method].predict(case)
    return {
        method: [
            _score(case, table, observed, split, method, predicted[method], library == code)
            for code in np.unique(library)
        ]
        for method in methods
    }


def _score(
    case: Case, table: AnnData, observed: np.ndarray, split: str, method: str, predicted: np.ndarray, rows
) -> pd.DataFrame:
    """Scores of one method on some of the hidden sites, one row per gene, in the order of ``var``."""
    observed, mean = observed[rows], case.means[rows]
    scores = gene_scores(observed, predicted[rows], mean)
    columns = case.part.expression.columns
    found = pd.DataFrame(
        {
            "split": split,
            "method": method,
            "gene": table.var_names[columns],
            "mse": scores["mse"],
            "mse_mean": np.mean((observed - mean) ** 2, axis=0),
            "pearson": scores["pearson"],
            "place": columns,
            "n": len(observed),
        }
    )
    return found.iloc[np.argsort(columns)]


def _join(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """One row per gene: squared errors over the spots of all libraries, Pearson as mean over libraries."""
    if len(tables) == 1:
        return tables[0].drop(columns=["place", "n"])
    every = pd.concat(tables)
    for name in ("mse", "mse_mean"):
        every[name] *= every["n"]
    by_gene = every.groupby("place", sort=True)
    joined = by_gene.agg(dict.fromkeys(("split", "method", "gene"), "first"))
    for name in ("mse", "mse_mean"):
        joined[name] = by_gene[name].sum() / by_gene["n"].sum()
    return joined.assign(pearson=by_gene["pearson"].mean())


def _in_words(rows: list[pd.DataFrame]) -> str:
    return ", ".join(f"{part['method'].iloc[0]} {part['mse'].sum() / part['mse_mean'].sum():.3f}" for part in rows)
