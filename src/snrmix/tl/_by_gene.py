"""Scores of an imputed layer at held-out spots, gene by gene and over all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData

from snrmix.data.expression import MIN_SPOTS, Expression
from snrmix.data.sites import Sites
from snrmix.data.table import dense_block
from snrmix.engine.scores.metrics import gene_scores, moran, pearson, spearman
from snrmix.engine.scores.noise import NEIGHBOURS, SamplingNoise, explainable_variance, sampling_noise
from snrmix.plan.graph import spatial_neighbours

MOST_GENES_AT_ONCE, VALUES_AT_ONCE = 512, 2**21  # bounds the memory of a step
MORAN_NEIGHBOURS = 6
SHALLOW = "_without_shallow"
FLOORS = ("known_depth", "neighbour_depth")


@dataclass(frozen=True)
class Evaluation:
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
        predicted = dense_block(self.predicted, self.sites.order[self.held], columns).astype(np.float64)
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


def score_by_gene(case: Evaluation, wanted: np.ndarray, table: AnnData) -> pd.DataFrame:
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


MIN_HELD_OUT = 10
