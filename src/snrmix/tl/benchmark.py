from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from snrmix._log import logger, quiet
from snrmix._names import closest, listing
from snrmix.embedding import choose_device
from snrmix.engine.fit import SectionFit, Settings
from snrmix.engine.folds import Fold
from snrmix.engine.kriging.krige import krige_section
from snrmix.engine.losses import Losses
from snrmix.engine.mix import MIXINGS, Mixing, resolve_mixing
from snrmix.engine.network.crossfit import fit_network
from snrmix.engine.scores.baselines import ridge, spatial_knn
from snrmix.engine.scores.metrics import gene_scores
from snrmix.engine.scores.smoothing import NEIGHBOURS, graph_smoothing, random_walk
from snrmix.engine.section import Section
from snrmix.expression import read_expression, read_measured
from snrmix.graph import spatial_neighbours
from snrmix.libraries import Part, plan_models
from snrmix.pp.hold_out import hold_out
from snrmix.prepare import read_source
from snrmix.sites import read_table
from snrmix.splits import settle_neighbours
from snrmix.tl.impute import training_options

OURS = "snrmix"
SPLIT_OPTIONS = ("kind", "share", "library", "n_blocks", "random_state")
HELD_OUT = "snrmix_benchmark"
NOT_OPTIONS = ("kriging", "fill", "key_added", "copy")
CONFIDENCE = 0.95
RESAMPLES = 2000


def benchmark(
    data,
    methods=None,
    *,
    splits=3,
    genes=250,
    measured=None,
    layer: str | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    share: bool = False,
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

        Without an image, ``None`` leaves out what needs one.
    splits
        Which spots to hide: a number of random halves (seeds 0, 1, ...), or a list whose items are kinds of
        `snrmix.pp.hold_out` or dicts of its arguments ``kind``, ``share``, ``library``, ``n_blocks`` and
        ``random_state``, for example ``[{"kind": "block", "share": 0.3, "random_state": 1}]``.
    genes
        As in `snrmix.tl.impute`; a number means the genes of highest mean on the spots that stay measured.
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
    reading, training = _sort_options(options)
    is_measured = read_measured(read_table(data, table_key), measured, layer)
    where = {"layer": layer, "library_key": library_key, "table_key": table_key}
    device = choose_device(accelerator)
    if not isinstance(share, bool | np.bool_):
        raise TypeError(f"share={share!r} must be True or False.")
    mixing, options = resolve_mixing(mix), training_options(training, accelerator=accelerator)
    settings = Settings(mixing, losses if losses is not None else Losses(), options, True, int(random_state), device)
    kept, _ = _hide(data, is_measured, next(iter(splits.values())), where)
    source = read_source(data, measured=kept, genes=genes, device=device, **where, **reading)  # embeds, once
    if source.features.shape[1] == 0:
        wanted = _without_image(wanted, drop=methods is None)
    elif methods is None:
        wanted.pop(f"network ({mix})" if isinstance(mix, str) else "", None)  # the same as "network"
    rows, sizes = [], {}
    for name, split in splits.items():
        kept, hidden = _hide(data, is_measured, split, where)
        source = replace(source, is_measured=kept[source.sites.order])
        parts = plan_models(source, bool(share), n_folds, n_repeats, validation, settings.seed)
        cases = [Case(part, _sites_of(part, hidden), settings, isinstance(mix, str)) for part in parts]
        by_case = [_compare(case, wanted, layer, name) for case in cases if len(case.hidden)]
        rows += [_join([one for tables in by_case for one in tables[method]]) for method in wanted]
        sizes[name] = {"n_measured": int(kept.sum()), "n_hidden": int(hidden.sum()), "n_genes": len(rows[-1])}
        logger.info("%s: MSE as a share of the mean's: %s.", name, _in_words(rows[-len(wanted) :]))
    result = pd.concat(rows, ignore_index=True)
    for column in ("split", "method"):
        result[column] = pd.Categorical(result[column], result[column].unique())
    result.attrs = {"summary": _Summary(summarise(result)), "splits": sizes}
    return result


def summarise(result: pd.DataFrame, reference: str | None = None) -> pd.DataFrame:
    """Put the rows of `snrmix.tl.benchmark` together: one row per method.

    Parameters
    ----------
    result
        Of `snrmix.tl.benchmark`, or a part of it.
    reference
        The method that others are compared with; ``None``: ``"snrmix"``, or without it the one of lowest error.

    Returns
    -------
    pandas.DataFrame
        One row per method, the best first.

        ``mse_ratio``
            Squared error as a share of the mean's: a ratio of sums over genes, averaged over splits.
        ``pearson``
            Mean over genes and splits.
        ``difference``
            ``mse_ratio`` less that of the reference on the same split, averaged over splits: above 0, the reference is
            better.
        ``standard_error``, ``low``, ``high``
            Of ``difference``; ``low`` to ``high`` is its 95 % confidence interval by Student's t over splits, which
            treats splits as independent although they share spots. With a single split both come from resampling genes,
            and say nothing about other splits.

        ``attrs["reference"]`` names the reference, ``attrs["n_splits"]`` the number of splits.

    Raises
    ------
    KeyError, ValueError
        When columns are missing, a method was not run on every split, or there is no such reference.
    """
    columns = ("split", "method", "gene", "mse", "mse_mean", "pearson")
    missing = [name for name in columns if name not in result]
    if missing:
        raise KeyError(f"result lacks columns {listing(missing)}; pass what snrmix.tl.benchmark returned.")
    if not len(result):
        raise ValueError("result has no rows; pass what snrmix.tl.benchmark returned.")
    by_split = result.groupby(["split", "method"], observed=True, sort=False)
    sums = by_split[["mse", "mse_mean"]].sum()
    ratio = (sums["mse"] / sums["mse_mean"]).unstack("split")
    if ratio.isna().to_numpy().any():
        raise ValueError("not every method was run on every split; differences would not be paired.")
    if reference is None:
        reference = OURS if OURS in ratio.index else ratio.mean(axis=1).idxmin()
    if reference not in ratio.index:
        raise KeyError(
            f"reference={reference!r} is not a method of this result; it has {listing(ratio.index)}."
            f"{closest(reference, ratio.index)}"
        )
    difference = ratio - ratio.loc[reference]
    spread = _over_splits(difference) if ratio.shape[1] > 1 else _over_genes(result, reference)
    pearson = by_split["pearson"].mean().unstack("split").mean(axis=1)
    summary = pd.DataFrame({"mse_ratio": ratio.mean(axis=1), "pearson": pearson, "difference": difference.mean(axis=1)})
    summary = summary.join(spread).sort_values("mse_ratio", kind="stable")
    summary.index = pd.Index(summary.index.astype(str), name="method")
    summary.attrs = {"reference": str(reference), "n_splits": ratio.shape[1]}
    return summary


class _Summary(pd.DataFrame):
    """A table that is equal to another or not, in one answer: pandas compares ``attrs`` whenever it joins tables."""

    def __eq__(self, other):
        return isinstance(other, pd.DataFrame) and self.equals(other)

    def __deepcopy__(self, memo=None):
        return _Summary(self.copy())


def _over_splits(difference: pd.DataFrame) -> pd.DataFrame:
    """Standard error and confidence interval of the mean over columns."""
    from scipy.stats import t

    n = difference.shape[1]
    error = difference.std(axis=1, ddof=1) / np.sqrt(n)
    reach = t.ppf((1 + CONFIDENCE) / 2, n - 1) * error
    mean = difference.mean(axis=1)
    return pd.DataFrame({"standard_error": error, "low": mean - reach, "high": mean + reach})


def _over_genes(result: pd.DataFrame, reference: str) -> pd.DataFrame:
    """The same for a single split, by resampling genes together for all methods."""
    mse = result.pivot_table(index="method", columns="gene", values="mse", observed=True, sort=False)
    mean = result.groupby("gene", observed=True)["mse_mean"].first()[mse.columns].to_numpy()
    n = mse.shape[1]
    count = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    difference = (mse.to_numpy() - mse.loc[reference].to_numpy()) @ count.T / (count @ mean)
    low, high = np.quantile(difference, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=1)
    return pd.DataFrame({"standard_error": difference.std(axis=1), "low": low, "high": high}, index=mse.index)


@dataclass(frozen=True)
class Case:
    """One split, and what its methods share: networks are trained once, when first needed.

    Parameters
    ----------
    part
        A model of the spots that stay measured.
    hidden
        Indices of the sites to predict, ascending.
    settings
        As for `snrmix.engine.fit.fit_section`.
    named_mixing
        Whether the mixing was chosen by name, so that its number of neighbours may be lowered for a small section.
    """

    part: Part
    hidden: np.ndarray
    settings: Settings
    named_mixing: bool

    @property
    def section(self) -> Section:
        """What the engine sees."""
        return self.part.prepared.section

    @property
    def folds(self) -> list[Fold]:
        """Of the measured spots."""
        return self.part.folds

    @property
    def first_folds(self) -> list[Fold]:
        """Folds of the first repeat."""
        return [fold for fold in self.folds if fold.repeat == 0]

    @cached_property
    def fit(self) -> SectionFit:
        """What `snrmix.tl.impute` makes of the split."""
        return self.part.fit(replace(self.settings, mixing=self.mixing))

    @property
    def mixing(self) -> Mixing:
        """The default mixing."""
        return settle_neighbours(self.settings.mixing, self.folds, chosen=not self.named_mixing)

    def network(self, mixing: Mixing | None = None) -> np.ndarray:
        """Predictions of the networks with a mixing strategy, by default that of the settings."""
        section, settings = self.section, self.settings
        mixing = self.mixing if mixing is None else settle_neighbours(mixing, self.folds, chosen=False)
        name = repr(mixing)
        if name not in self._networks:
            fit = self.fit.network if "fit" in self.__dict__ and mixing == self.mixing else None
            if fit is None:
                fit = fit_network(section, self.folds, mixing, settings.losses, settings.training, settings.seed)
            self._networks[name] = fit.predict(section.features[section.unmeasured])
        return self._networks[name]

    @cached_property
    def _networks(self) -> dict[str, np.ndarray]:
        return {}

    def at_hidden(self, predicted: np.ndarray) -> np.ndarray:
        """The rows of the hidden sites among those of all unmeasured ones."""
        return predicted[np.searchsorted(self.section.unmeasured, self.hidden)]

    @cached_property
    def means(self) -> np.ndarray:
        """Mean of the measured spots of each hidden site's library, or of all where it has none, (hidden, genes)."""
        section, own = self.section, self.section.library[self.section.measured]
        means = np.empty((len(self.hidden), section.expression.shape[1]))
        for code in np.unique(section.library[self.hidden]):
            rows = own == code if (own == code).any() else slice(None)
            means[section.library[self.hidden] == code] = section.expression[rows].mean(0, dtype=np.float64)
        return means


def _mean(case: Case) -> np.ndarray:
    return case.means


def _spatial_knn(case: Case) -> np.ndarray:
    section = case.section
    return spatial_knn(section.positions, section.library, section.measured, case.hidden, section.expression)


def _graph_smoothing(case: Case) -> np.ndarray:
    section = case.section
    walk = random_walk(spatial_neighbours(section.positions, section.library, NEIGHBOURS))
    return graph_smoothing(walk, section.measured, section.expression, case.first_folds, case.hidden)


def _ridge(case: Case) -> np.ndarray:
    return ridge(case.section.features, case.section.measured, case.hidden, case.section.expression)


def _kriging(case: Case) -> np.ndarray:
    kriged = krige_section(case.section, [], case.settings.device, apart=case.part.elsewhere)
    return case.at_hidden(kriged.predicted)


def _network(case: Case, mixing: str | None = None) -> np.ndarray:
    return case.at_hidden(case.network(None if mixing is None else MIXINGS[mixing]()))


def _ours(case: Case) -> np.ndarray:
    return case.at_hidden(case.fit.predicted)


Predict = Callable[[Case], np.ndarray]
METHODS: dict[str, Predict] = {
    "mean": _mean,
    "spatial kNN": _spatial_knn,
    "graph smoothing": _graph_smoothing,
    "ridge": _ridge,
    "kriging": _kriging,
    "network": _network,
    OURS: _ours,
}
NEED_NO_IMAGE = ("mean", "spatial kNN", "graph smoothing", "kriging", OURS)


def available_methods() -> dict[str, Predict]:
    """All methods by name, those with a mixing strategy after the default network."""
    on_features = [name for name, strategy in MIXINGS.items() if not strategy().needs_pixels]
    strategies = {f"network ({name})": lambda case, name=name: _network(case, name) for name in on_features}
    names = [name for name in METHODS if name != OURS]
    return {name: METHODS[name] for name in names} | strategies | {OURS: METHODS[OURS]}


def _read_splits_and_methods(splits, methods) -> tuple[dict[str, Predict], dict[str, dict]]:
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


def _read_splits(splits) -> dict[str, dict]:
    """Arguments of `snrmix.pp.hold_out` by the name of the split."""
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
        found[name] = dict(split)
    return found


def _name_split(split: Mapping) -> str:
    kind = split.get("kind", "random")
    if kind == "library":
        held = split.get("library")
        return f"library {held if isinstance(held, str) else listing(held or [])}"
    blocks = f" of {split['n_blocks']}" if "n_blocks" in split else ""
    share = split.get("share", inspect.signature(hold_out).parameters["share"].default)
    return f"{kind} {share}{blocks}, seed {split.get('random_state', 0)}"


def _sort_options(options: dict) -> tuple[dict, dict]:
    """Options that say how to read the object, and those of the training."""
    for name in NOT_OPTIONS:
        if name in options:
            raise TypeError(f"benchmark() has no {name}=; choose with methods= what to compare.")
    ours = ("data", "device", "check", "need_features", "finetuning")
    reading = [name for name in inspect.signature(read_source).parameters if name not in ours]
    return (
        {name: value for name, value in options.items() if name in reading},
        {name: value for name, value in options.items() if name not in reading},
    )


def _without_image(methods: dict[str, Predict], drop: bool) -> dict[str, Predict]:
    """The methods that need no image; the others are dropped, or refused when they were named."""
    impossible = [name for name in methods if name not in NEED_NO_IMAGE]
    if impossible and not drop:
        raise KeyError(f"there is no image, and {listing(impossible)} need one: pass image= or use_rep=.")
    return {name: predict for name, predict in methods.items() if name in NEED_NO_IMAGE}


def _hide(data, is_measured: np.ndarray, split: dict, where: dict) -> tuple[np.ndarray, np.ndarray]:
    """Spots that stay measured and hidden ones, bool, shape (n_obs,), in the order of the table."""
    with quiet("snrmix"):
        obs = hold_out(data, measured=is_measured, key_added=HELD_OUT, copy=True, **split, **where).obs
    return obs[HELD_OUT].to_numpy(), obs[f"{HELD_OUT}_held_out"].to_numpy()


def _sites_of(part: Part, hidden: np.ndarray) -> np.ndarray:
    """Which sites of a model are hidden and for it to predict: indices, ascending."""
    return np.flatnonzero(hidden[part.prepared.sites.order] & part.predicts)


def _compare(case: Case, methods: dict[str, Predict], layer: str | None, split: str) -> dict[str, list[pd.DataFrame]]:
    """Scores of every method, a table per library."""
    prepared, library = case.part.prepared, case.section.library[case.hidden]
    sites, columns = prepared.sites, prepared.expression.columns
    known, names = prepared.is_measured.copy(), list(prepared.table.var_names[columns])
    known[case.hidden] = True
    observed = read_expression(
        prepared.table, sites, known, layer=layer, units=prepared.expression.input_units, genes=names
    ).values[np.searchsorted(np.flatnonzero(known), case.hidden)]
    predicted = {method: methods[method](case) for method in sorted(methods, key=OURS.__ne__)}  # ours trains networks
    return {
        method: [
            _score(case, observed, split, method, predicted[method], library == code) for code in np.unique(library)
        ]
        for method in methods
    }


def _score(case: Case, observed: np.ndarray, split: str, method: str, predicted: np.ndarray, rows) -> pd.DataFrame:
    """Scores of one method on some of the hidden sites, one row per gene, in the order of ``var``."""
    observed, mean = observed[rows], case.means[rows]
    scores = gene_scores(observed, predicted[rows], mean)
    columns = case.part.prepared.expression.columns
    table = pd.DataFrame(
        {
            "split": split,
            "method": method,
            "gene": case.part.prepared.table.var_names[columns],
            "mse": scores["mse"],
            "mse_mean": np.mean((observed - mean) ** 2, axis=0),
            "pearson": scores["pearson"],
            "place": columns,
            "n": len(observed),
        }
    )
    return table.iloc[np.argsort(columns)]


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
