from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from snrmix._log import logger
from snrmix._result import check_libraries, result_table
from snrmix.engine.scores.metrics import gene_scores, moran, pearson, spearman
from snrmix.engine.scores.noise import NEIGHBOURS, SamplingNoise, explainable_variance, sampling_noise
from snrmix.expression import MIN_SPOTS, Expression, matrix_of, read_expression, read_mask
from snrmix.graph import spatial_neighbours
from snrmix.sites import Sites, read_sites
from snrmix.tl.interval import models_of

MOST_GENES_AT_ONCE, VALUES_AT_ONCE = 512, 2**21  # bounds the memory of a step
MIN_HELD_OUT = 10
MORAN_NEIGHBOURS = 6
SHALLOW = "_without_shallow"
FLOORS = ("known_depth", "neighbour_depth")


def evaluate(
    data,
    held_out,
    *,
    key: str = "snrmix",
    genes=None,
    layer: str | None = None,
    truth: str | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
) -> pd.DataFrame:
    """Compare imputed with observed expression at spots that the imputation never saw.

    Observed counts are noisy, and no prediction can explain their sampling noise. The share of the variance that could
    be explained is estimated for two kinds of ideal predictor: one that knows the sequencing depth of the held-out
    spot, and one that has to guess it from the spots around, see `snrmix.engine.scores.noise.sampling_noise`.

    Parameters
    ----------
    data
        The object that `snrmix.tl.impute` was called on; AnnData or SpatialData.
    held_out
        Where to compare: a boolean obs column, such as ``"measured_held_out"`` from `snrmix.pp.hold_out`, or a boolean
        array. The spots must have expression and have been unmeasured in that call; with ``fill="all"`` measured spots
        will do, since their values are out-of-fold.
    key
        ``key_added`` of that call.
    genes
        Genes to compare, as in `snrmix.tl.impute`; those that were not modelled are left out.
    layer
        Where the observed expression is; by default where that call read it.
    truth
        Layer in the units of the imputed one (log) to compare with instead, such as ``"truth"`` of
        `snrmix.datasets.synthetic_tissue`. What depends on counts is then NaN.
    library_key, table_key
        As in that call.

    Returns
    -------
    pandas.DataFrame
        One row per modelled gene, in the order of ``var``. "The mean" predicts the mean of the measured spots of
        the library (of all where it has none), without the spot itself where it is one of them.

        ``mse``, ``mae``
            Mean squared and mean absolute error, in log units.
        ``mse_mean``, ``mse_ratio``, ``explained``
            Squared error of the mean; ``mse`` as a share of it; 1 less that share (0 for a gene that never leaves the
            mean).
        ``pearson``, ``spearman``
            Correlation over held-out spots, mean over libraries; 0 where either side is constant.
        ``noise_known_depth``, ``noise_neighbour_depth``
            Variance of the sampling noise.
        ``explainable_known_depth``, ``explainable_neighbour_depth``
            Share of the explainable variance, ``mse_mean`` less noise, that is explained; NaN where that variance is
            within two standard errors of zero, and for genes seen in fewer than 5 held-out spots.
        ``moran_observed``, ``moran_predicted``
            Moran's I over the 6 nearest held-out spots of the same library; NaN where constant.
        ``mse_without_shallow``, ``mse_ratio_without_shallow``, ``pearson_without_shallow``
            Without the tenth of the held-out spots that has the fewest counts.

        Expression that was given as log values has no counts: noise, shares of the explainable variance and scores
        without the shallowest spots are NaN.

        ``attrs["overall"]`` has figures over all these genes: ``n_spots``, ``n_genes``, ``mse_ratio`` (a ratio of sums
        over genes), ``pearson_mean``, ``pearson_median``, ``floor_known_depth`` and ``floor_neighbour_depth`` (noise over
        squared error of the mean, a ratio of sums: the ``mse_ratio`` of an ideal predictor), ``explainable_known_depth``
        and ``explainable_neighbour_depth`` (``(1 - mse_ratio) / (1 - floor)``); each also with ``_without_shallow``.

    Raises
    ------
    KeyError, TypeError
        When there is no such result, column or layer.
    ValueError
        When the imputation has seen a held-out spot, a held-out spot has nothing to compare with, or the measured
        values are no longer those that were imputed from.

    Examples
    --------
    >>> snrmix.pp.hold_out(adata)
    >>> snrmix.tl.impute(adata, measured="measured")
    >>> scores = snrmix.tl.evaluate(adata, "measured_held_out")
    >>> scores.attrs["overall"]["mse_ratio"]
    """
    table = result_table(data, key, table_key)
    record, predicted = table.uns[key], matrix_of(table, key)
    sites = read_sites(data, table_key=table_key, library_key=library_key, with_images=False)
    check_libraries(sites, record, key)
    held = read_mask(table, held_out, "held_out")[sites.order]
    measured = read_mask(table, f"{key}_measured", f"{key}_measured")[sites.order]
    _check_held_out(held, measured, record["fill"], sites)
    if layer is None and record["parameters"]["layer"] != "X":
        layer = record["parameters"]["layer"]
    if truth is None:
        _check_observed(table, sites, held, layer)
    observed = measured if truth is not None else measured | held
    expression = read_expression(
        table, sites, observed, layer=layer, units=record["input_units"], genes=_modelled(table, key)
    )
    if record["fill"] == "unmeasured":
        _check_still_the_same(table, predicted, sites, expression, observed, measured, key)
    wanted = _choose(table, sites, measured, expression, genes, layer)
    target = None if truth is None else _read_truth(table, truth, sites.order[held], expression.columns)
    counted = truth is None and expression.input_units == "counts"
    case = _Case(sites, held, measured, observed, expression, target, predicted, counted)
    return _by_gene(case, wanted, table)


def _check_held_out(held: np.ndarray, measured: np.ndarray, fill: str, sites: Sites) -> None:
    if held.sum() < MIN_HELD_OUT:
        raise ValueError(f"held_out marks {held.sum()} spots; at least {MIN_HELD_OUT} are needed to score on.")
    seen = held & measured
    if fill == "unmeasured" and seen.any():
        raise ValueError(
            f"{seen.sum()} of the {held.sum()} held-out spots were measured when the layer was imputed, e.g. "
            f"{sites.names[seen][0]!r}: it holds their observed values and was fitted to them, so scores there would mean "
            "nothing. Impute again with measured= leaving them out, or with fill='all' for out-of-fold values."
        )


def _check_observed(table: AnnData, sites: Sites, held: np.ndarray, layer: str | None) -> None:
    totals = np.asarray(matrix_of(table, layer)[sites.order[held]].sum(axis=1)).ravel()
    empty = ~(np.isfinite(totals) & (totals > 0))
    if empty.any():
        raise ValueError(
            f"{empty.sum()} of the {held.sum()} held-out spots have no expression to compare with, or values that are NaN "
            f"or infinite, e.g. {sites.names[held][empty][0]!r}; leave them out of held_out."
        )


def _modelled(table: AnnData, key: str) -> list[str]:
    column = f"{key}_modelled"
    names = list(table.var_names[table.var[column].to_numpy(bool)]) if column in table.var else []
    if not names:
        raise KeyError(f"var[{column!r}] is missing, or none of its genes is left; run snrmix.tl.impute again.")
    return names


def _modelled_at(table: AnnData, key: str, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Which genes the model of each row knows, bool, (rows, columns): a library may hardly have what others have."""
    if f"{key}_model" not in table.obs:
        return np.ones((len(rows), len(columns)), bool)
    known = np.zeros((table.n_obs, len(columns)), bool)
    for own, group in models_of(table, key):
        known[own] = group[columns] >= 0
    return known[rows]


def _check_still_the_same(table, predicted, sites, expression, observed, measured, key: str) -> None:
    """The layer repeats the observed values of measured spots; after subsetting genes their normalisation differs."""
    few = np.flatnonzero(measured)[:50]
    now = expression.values[np.searchsorted(np.flatnonzero(observed), few)]
    same = np.isclose(_dense(predicted, sites.order[few], expression.columns), now, atol=1e-3)
    if not (same | ~_modelled_at(table, key, sites.order[few], expression.columns)).all():
        raise ValueError(
            f"the values of the measured spots are not those that {key!r} was imputed from: were genes removed, values "
            "changed, or is layer= another one? Scores would compare two normalisations; impute again."
        )


def _choose(table, sites, measured, expression: Expression, genes, layer) -> np.ndarray:
    """Which of the modelled genes are wanted: indices into ``expression.columns``, ascending."""
    if genes is None:
        return np.arange(len(expression.columns))
    chosen = read_expression(table, sites, measured, layer=layer, units=expression.input_units, genes=genes)
    wanted = np.flatnonzero(np.isin(expression.columns, chosen.columns))
    n_chosen = len(chosen.columns) + len(chosen.mean_columns)
    if not len(wanted):
        raise ValueError(f"none of the {n_chosen} genes was modelled; see the var column that ends in '_modelled'.")
    if len(wanted) < n_chosen:
        logger.info("%d of %d genes were not modelled and are left out.", n_chosen - len(wanted), n_chosen)
    return wanted


def _read_truth(table: AnnData, truth: str, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    values = _dense(matrix_of(table, truth), rows, columns)
    if not np.isfinite(values).all():
        raise ValueError(f"layers[{truth!r}] is NaN or infinite at held-out spots; leave these out of held_out.")
    if values.max() >= 20 or (values.max() > 0 and np.array_equal(values, np.rint(values))):
        raise ValueError(
            f"layers[{truth!r}] does not look logarithmic; truth= must be in the units of the imputed layer."
        )
    return values


def _dense(matrix, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """A block of a sparse or dense matrix, as an array."""
    if sparse.issparse(matrix):
        return matrix[rows][:, columns].toarray()
    return np.asarray(matrix)[np.ix_(rows, columns)]


@dataclass(frozen=True)
class _Case:
    """What is compared, in site order.

    Parameters
    ----------
    held, measured, observed
        bool, shape (n,): spots to score on, spots that were imputed from, spots of ``expression``.
    target
        Values to compare with, shape (held, genes); ``None`` for the observed ones.
    predicted
        The imputed layer, in table order.
    counted
        Whether sampling noise can be told.
    """

    sites: Sites
    held: np.ndarray
    measured: np.ndarray
    observed: np.ndarray
    expression: Expression
    target: np.ndarray | None
    predicted: np.ndarray
    counted: bool

    @property
    def held_rows(self) -> np.ndarray:
        """Rows of ``expression`` of the held-out spots; only of the observed ones among them."""
        return np.flatnonzero(self.held[self.observed])

    @property
    def library(self) -> np.ndarray:
        """Codes of the held-out spots."""
        return self.sites.library[self.held]

    def values(self, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Target, prediction and the prediction of the mean at the held-out spots, float64, each (held, genes)."""
        expression, measured = self.expression.values[:, genes].astype(np.float64), self.measured[self.observed]
        target = expression[self.held_rows] if self.target is None else self.target[:, genes].astype(np.float64)
        columns = self.expression.columns[genes]
        predicted = _dense(self.predicted, self.sites.order[self.held], columns).astype(np.float64)
        baseline, library = np.empty_like(target), self.sites.library[self.observed]
        for code in np.unique(self.library):
            rows = measured & (library == code)
            rows = rows if rows.sum() > 1 else measured
            n, mean, held = rows.sum(), expression[rows].mean(0), self.library == code
            baseline[held] = mean
            own = expression[self.held[self.observed] & measured & (library == code)]
            baseline[held & self.measured[self.held]] = (n * mean - own) / (n - 1)
        return target, predicted, baseline

    def noise(self) -> SamplingNoise | None:
        if not self.counted:
            return None
        positions, library = self.sites.lattice_positions[self.observed], self.sites.library[self.observed]
        return sampling_noise(self.expression.depth, spatial_neighbours(positions, library, NEIGHBOURS), self.held_rows)

    def deep(self) -> np.ndarray | None:
        """All held-out spots but the tenth of lowest depth, ascending; ``None`` where depth is not known."""
        if not self.counted:
            return None
        depth = self.expression.depth[self.held_rows]
        return np.sort(np.argsort(depth, kind="stable")[len(depth) // 10 :])


def _by_gene(case: _Case, wanted: np.ndarray, table: AnnData) -> pd.DataFrame:
    """Score a few genes at a time, then put together genes and overall figures."""
    noise, deep = case.noise(), case.deep()
    neighbours = spatial_neighbours(
        case.sites.lattice_positions[case.held], case.sites.library[case.held], MORAN_NEIGHBOURS
    )
    everywhere, at_depth = [], []
    at_once = min(max(VALUES_AT_ONCE // case.observed.sum(), 1), MOST_GENES_AT_ONCE)
    for start in range(0, len(wanted), at_once):
        genes = wanted[start : start + at_once]
        values = case.values(genes)
        noises = noise.of(case.expression.values[:, genes]) if noise else [np.full_like(values[0], np.nan)] * 2
        everywhere.append(
            _scores(*values, *noises, case.library) | _rank_and_map_scores(*values[:2], case.library, neighbours)
        )
        if deep is not None:
            at_depth.append(_scores(*(array[deep] for array in (*values, *noises, case.library))))
    columns = case.expression.columns[wanted]
    scores = _table(everywhere, columns, table)
    without_shallow = _table(at_depth, columns, table) if at_depth else scores * np.nan
    overall = _overall(scores, case.held.sum()) | {
        name + SHALLOW: figure
        for name, figure in _overall(without_shallow, 0 if deep is None else len(deep)).items()
        if name != "n_genes"
    }
    for name in ("mse", "mse_ratio", "pearson"):
        scores[name + SHALLOW] = without_shallow[name]
    scores.attrs["overall"] = overall
    return scores


def _scores(observed, predicted, baseline, known, neighbour, library) -> dict[str, np.ndarray]:
    """Scores that are computed with and without the shallowest spots, each of shape (genes,)."""
    scores = gene_scores(observed, predicted, baseline)
    reference = (baseline - observed) ** 2
    mse, mse_mean = scores["mse"], reference.mean(0)
    seen = (observed > 0).sum(0) >= MIN_SPOTS
    found = {
        "mse": mse,
        "mae": np.abs(predicted - observed).mean(0),
        "mse_mean": mse_mean,
        "mse_ratio": 1 - scores["explained"],
        "explained": scores["explained"],
        "pearson": _within_libraries(pearson, observed, predicted, library),
    }
    for name, noise in zip(FLOORS, (known, neighbour), strict=True):
        found[f"noise_{name}"] = noise.mean(0)
        found[f"explainable_{name}"] = np.where(seen, (mse_mean - mse) / explainable_variance(reference, noise), np.nan)
    return found


def _within_libraries(correlation, observed, predicted, library: np.ndarray) -> np.ndarray:
    """Mean over libraries, but for those with few spots: differences between libraries are no merit of a map."""
    codes, count = np.unique(library, return_counts=True)
    rows = [library == code for code in codes[count >= min(MIN_HELD_OUT, count.max())]]
    return np.mean([correlation(observed[own], predicted[own]) for own in rows], axis=0)


def _rank_and_map_scores(observed, predicted, library, neighbours) -> dict[str, np.ndarray]:
    return {
        "spearman": _within_libraries(spearman, observed, predicted, library),
        "moran_observed": moran(observed, neighbours),
        "moran_predicted": moran(predicted, neighbours),
    }


ORDER = (
    "mse", "mae", "mse_mean", "mse_ratio", "explained", "pearson", "spearman", "noise_known_depth",
    "noise_neighbour_depth", "explainable_known_depth", "explainable_neighbour_depth", "moran_observed", "moran_predicted",
)  # fmt: skip


def _table(parts: list[dict[str, np.ndarray]], columns: np.ndarray, table: AnnData) -> pd.DataFrame:
    """One row per gene, in the order of ``var``."""
    names = [name for name in ORDER if name in parts[0]]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in names}
    order = np.argsort(columns)
    return pd.DataFrame(joined, index=table.var_names[columns]).iloc[order]


def _overall(scores: pd.DataFrame, n_spots: int) -> dict[str, float]:
    """Figures over all genes; sums keep NaN, so that what is unknown stays so."""
    total = scores.sum(skipna=False)
    reference = total["mse_mean"] if total["mse_mean"] > 0 else np.nan
    overall = {
        "n_spots": int(n_spots),
        "n_genes": len(scores),
        "mse_ratio": float(total["mse"] / reference),
        "pearson_mean": float(np.mean(scores["pearson"])),
        "pearson_median": float(np.median(scores["pearson"])),
    }
    for name in FLOORS:
        floor = float(total[f"noise_{name}"] / reference)
        overall[f"floor_{name}"] = floor
        overall[f"explainable_{name}"] = (1 - overall["mse_ratio"]) / (1 - floor) if floor < 1 else np.nan
    return overall
