"""Scores of an imputed layer at held-out spots, gene by gene and over all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from snrmix.data.expression import MIN_SPOTS
from snrmix.engine.at_depth import GivenDepth
from snrmix.engine.scores.metrics import gene_scores, moran, pearson, spearman
from snrmix.engine.scores.noise import NEIGHBOURS, SamplingNoise, explainable_variance, sampling_noise
from snrmix.plan.graph import spatial_neighbours
from snrmix.tl._given_depth import HeldOutDepth, fitted_means, read_depth
from snrmix.tl._held_out import MIN_HELD_OUT, HeldOut

MOST_GENES_AT_ONCE, VALUES_AT_ONCE = 512, 2**21  # bounds the memory of a step
MORAN_NEIGHBOURS = 6
SHALLOW = "_without_shallow"
FLOORS = ("known_depth", "neighbour_depth")
DEPTH_SCORES = ("mse_depth", "pearson_given_depth", "explained_given_depth")
ORDER = (
    "mse", "mae", "mse_mean", "mse_ratio", "explained", "pearson", "spearman", "noise_known_depth",
    "noise_neighbour_depth", "explainable_known_depth", "explainable_neighbour_depth", "moran_observed", "moran_predicted",
    "mse_depth", "pearson_given_depth", "explained_given_depth",
)  # fmt: skip


@dataclass(frozen=True)
class Evaluation:
    """What is compared.

    Parameters
    ----------
    spots
        Where, and what was observed there.
    target
        Values to compare with, shape (held, genes); ``None`` for the observed ones.
    """

    spots: HeldOut
    target: np.ndarray | None

    @cached_property
    def assumed(self) -> HeldOutDepth | None:
        """Depths that the imputation assumes; ``None`` where values are compared with others than the observed."""
        return read_depth(self.spots) if self.target is None else None

    @property
    def depth(self) -> np.ndarray | None:
        """Counts of the held-out spots; ``None`` where sampling noise cannot be told."""
        return self.spots.depth if self.target is None else None

    def values(self, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Target, prediction and the prediction of the mean at the held-out spots, float64, each (held, genes)."""
        spots = self.spots
        expression = spots.expression.values[:, genes].astype(np.float64)
        target = expression[spots.places] if self.target is None else self.target[:, genes].astype(np.float64)
        predicted = spots.values(spots.result.key, spots.expression.columns[genes]).astype(np.float64)
        if self.assumed is not None:
            predicted = self.assumed.at_spot(predicted, genes)
        return target, predicted, _means_of_others(spots, expression, np.empty_like(target))

    def centre(self, genes: np.ndarray, alone: GivenDepth | None) -> np.ndarray | float:
        """What is taken off predictions for correlations, see `snrmix.engine.scores.metrics.gene_scores`.

        Values that were put back from a typical depth follow the depth of the spots that they were predicted from.
        """
        if alone is not None and self.spots.result.typical_depth() is not None:
            return alone.centre
        return fitted_means(self.spots, self.spots.expression.values[:, genes].astype(np.float64))

    def noise(self) -> SamplingNoise | None:
        """Of the held-out spots."""
        if self.depth is None:
            return None
        sites, observed = self.spots.sites, self.spots.observed
        neighbours = spatial_neighbours(sites.lattice_positions[observed], sites.library[observed], NEIGHBOURS)
        return sampling_noise(self.spots.expression.depth, neighbours, self.spots.places)

    def deep(self) -> np.ndarray | None:
        """All held-out spots but the tenth of lowest depth, ascending; ``None`` where depth is not known."""
        if self.depth is None:
            return None
        return np.sort(np.argsort(self.depth, kind="stable")[len(self.depth) // 10 :])


def _means_of_others(spots: HeldOut, expression: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Mean of the measured spots of the library, or of all, without the spot itself, at held-out spots.

    Parameters
    ----------
    expression
        Shape (observed, genes).
    means
        Where they are put, shape (held, genes): its order in memory is that in which errors are added up.
    """
    measured, library = spots.measured[spots.observed], spots.sites.library[spots.observed]
    for code in np.unique(spots.library):
        rows = measured & (library == code)
        rows = rows if rows.sum() > 1 else measured
        n, mean, held = rows.sum(), expression[rows].mean(0), spots.library == code
        means[held] = mean
        own = expression[spots.held[spots.observed] & measured & (library == code)]
        means[held & spots.measured[spots.held]] = (n * mean - own) / (n - 1)
    return means


def score_by_gene(case: Evaluation, wanted: np.ndarray) -> pd.DataFrame:
    """Score a few genes at a time, then put together genes and overall figures.

    Parameters
    ----------
    wanted
        Indices into the columns of the expression.
    """
    spots, noise, deep = case.spots, case.noise(), case.deep()
    neighbours = spatial_neighbours(spots.sites.lattice_positions[spots.held], spots.library, MORAN_NEIGHBOURS)
    everywhere, at_depth = [], []
    at_once = min(max(VALUES_AT_ONCE // spots.observed.sum(), 1), MOST_GENES_AT_ONCE)
    for start in range(0, len(wanted), at_once):
        genes = wanted[start : start + at_once]
        values, alone = case.values(genes), case.assumed.alone(genes) if case.assumed is not None else None
        centre = case.centre(genes, alone)
        noises = noise.of(spots.expression.values[:, genes]) if noise else [np.full_like(values[0], np.nan)] * 2
        everywhere.append(
            _scores(*values, *noises, spots.library, centre)
            | _rank_and_map_scores(*values[:2], spots.library, neighbours)
            | _depth_scores(alone, *values[:2], spots.library)
        )
        if deep is not None:
            centre = centre[deep] if np.ndim(centre) else centre
            at_depth.append(_scores(*(array[deep] for array in (*values, *noises, spots.library)), centre))
    names = spots.result.table.var_names[spots.expression.columns[wanted]]
    order = np.argsort(spots.expression.columns[wanted])
    scores = _table(everywhere, names, order)
    without_shallow = _table(at_depth, names, order) if at_depth else scores * np.nan
    overall = _overall(scores, spots.held.sum()) | {
        name + SHALLOW: figure
        for name, figure in _overall(without_shallow, 0 if deep is None else len(deep)).items()
        if name != "n_genes"
    }
    for name in ("mse", "mse_ratio", "pearson"):
        scores[name + SHALLOW] = without_shallow[name]
    scores.attrs["overall"] = overall
    return scores


def _depth_scores(alone: GivenDepth | None, observed, predicted, library) -> dict[str, np.ndarray]:
    """Error of depth alone, and what is predicted beyond it, each of shape (genes,); NaN where depths are not known."""
    if alone is None:
        return {name: np.full(observed.shape[1], np.nan) for name in DEPTH_SCORES}
    rest, pattern = observed - alone.known, predicted - alone.predicted
    found = gene_scores(rest, pattern, np.zeros((1, observed.shape[1])))
    values = ((alone.predicted - observed) ** 2).mean(0), _within_libraries(pearson, rest, pattern, library)
    return dict(zip(DEPTH_SCORES, (*values, found["explained"]), strict=True))


def _scores(observed, predicted, baseline, known, neighbour, library, centre) -> dict[str, np.ndarray]:
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
        "pearson": _within_libraries(pearson, observed, predicted - centre, library),
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


def _table(parts: list[dict[str, np.ndarray]], genes: pd.Index, order: np.ndarray) -> pd.DataFrame:
    """One row per gene, in an order."""
    names = [name for name in ORDER if name in parts[0]]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in names}
    return pd.DataFrame(joined, index=genes).iloc[order]


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
    if "mse_depth" in scores:
        overall["depth_ratio"] = float(total["mse_depth"] / reference)
        overall["pearson_given_depth_median"] = float(np.median(scores["pearson_given_depth"]))
    for name in FLOORS:
        floor = float(total[f"noise_{name}"] / reference)
        overall[f"floor_{name}"] = floor
        overall[f"explainable_{name}"] = (1 - overall["mse_ratio"]) / (1 - floor) if floor < 1 else np.nan
    return overall
