"""Scores on the same held-out spots for every method: of each library on its own, and their means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from snrmix._progress import stage
from snrmix.engine.at_depth import GivenDepth
from snrmix.engine.folds import Fold
from snrmix.engine.scores.baselines import baselines
from snrmix.engine.scores.metrics import gene_scores
from snrmix.engine.scores.reliability import better_than_all, compact_groups, pattern_is_real
from snrmix.engine.section import Section
from snrmix.engine.slices import Repeated, gene_slices, rows_of

FEWEST_SCORED = 10  # of a library, for scores of its own
FLAGS = ("reliable", "beats_baselines")  # of a gene, where they are so in every library

Centres = Callable[[np.ndarray, slice], dict[str, np.ndarray]]  # by method, at some spots and genes


@dataclass(frozen=True)
class Scores:
    """How good predictions are at spots that were held out.

    Parameters
    ----------
    genes
        Per gene: ``pearson``, ``mse``, ``explained``, ``pearson_given_depth``, ``explained_given_depth``, ``reliable``,
        ``beats_baselines``, ``weight_network``, ``weight_kriging``, ``weight_rates``.
    methods
        Per method, see `snrmix.engine.scores.by_library.score_methods`; the method itself is ``"snrmix"``.
    n_spots
        Number of these spots.
    """

    genes: pd.DataFrame
    methods: pd.DataFrame
    n_spots: int


@stage("scores")
def reference_values(section: Section, folds: list[Fold], elsewhere: bool) -> dict[str, np.ndarray]:
    """Out-of-fold values of the predictors that ours is compared with, by name, each float32, (measured, genes).

    Where predictions are for other libraries (``elsewhere``), nothing near in space is known, nor the library's own mean.
    """
    found = baselines(section, folds)
    if elsewhere:
        del found["spatial kNN"]
    else:
        found["mean"] = library_means(section, folds)
    return found


def library_means(section: Section, folds: list[Fold]) -> Repeated:
    """Out-of-fold means of each library, float32, (measured, genes); the mean of all where none of its spots is left."""
    own, means = section.library[section.measured], [np.full(section.expression.shape[1], np.nan, np.float32)]
    which = np.zeros(len(own), int)
    for fold in folds:
        for code in np.unique(own[fold.held_out]):
            train = fold.train[own[fold.train] == code]
            which[fold.held_out[own[fold.held_out] == code]] = len(means)
            means.append(section.expression[train if len(train) else fold.train].mean(0))
    return Repeated(np.stack(means), which)


@stage("scores")
def score_libraries(
    section: Section, methods: dict[str, np.ndarray], centres: Centres, references: list[str],
    scored: np.ndarray, seed: int, alone: GivenDepth | None = None,
) -> dict[int, Scores]:  # fmt: skip
    """Score every library on its own, so that differences between libraries count for nothing; see `score_methods`.

    Parameters
    ----------
    references
        Names of the methods that ``beats_baselines`` compares with.
    scored
        Indices of the spots that were held out.
    seed
        Draws compact groups and signs.
    alone
        What depth alone says; ``None`` where depths are not known.
    """
    library, positions = section.library[section.measured], section.positions[section.measured]
    codes, count = np.unique(library[scored], return_counts=True)
    enough = codes[count >= min(FEWEST_SCORED, count.max())]
    found = {}
    for code in enough:
        rows = scored[library[scored] == code]
        table, by_gene = score_methods(section.expression, methods, centres, rows)
        genes = by_gene["snrmix"].join(scores_given_depth(section.expression, methods["snrmix"], alone, rows))
        genes["reliable"] = _reliable(section, methods, alone, rows, seed)
        genes["beats_baselines"] = better_than_all(
            section.expression, methods["snrmix"], [methods[name] for name in references], rows, positions, library,
            np.random.default_rng(seed),
        )  # fmt: skip
        found[int(code)] = Scores(genes, table, len(rows))
    return found


def _reliable(section: Section, methods: dict, alone: GivenDepth | None, rows: np.ndarray, seed: int):
    rng, spots = np.random.default_rng(seed), section.measured[rows]
    known, predicted = (None, None) if alone is None else (rows_of(v, rows) for v in (alone.known, alone.predicted))
    group = compact_groups(section.positions[spots], section.library[spots], rng)
    values = (section.expression, methods["snrmix"], methods["mean"])
    return pattern_is_real(*(rows_of(v, rows) for v in values), known, predicted, group, rng)


def scores_given_depth(
    observed: np.ndarray, ours: np.ndarray, alone: GivenDepth | None, rows: np.ndarray
) -> pd.DataFrame:
    """What is predicted beyond depth: correlation of, and squared error explained in, the deviations from depth alone.

    Observed values deviate from a gene that follows depth alone, at the depth that the spot has, predictions from one at the
    depth that is predicted: a prediction of depth, right or wrong, counts for nothing.

    Returns
    -------
    pandas.DataFrame
        Columns ``pearson_given_depth`` and ``explained_given_depth``, one row per gene; NaN where depths are not known.
    """
    found = np.full((2, observed.shape[1]), np.nan)
    for some in gene_slices(len(rows), observed.shape[1]) if alone is not None else ():
        rest, pattern = observed[rows, some] - alone.known[rows, some], ours[rows, some] - alone.predicted[rows, some]
        scores = gene_scores(rest, pattern, np.zeros((1, rest.shape[1]), np.float32))
        found[:, some] = scores["pearson"], scores["explained"]
    return pd.DataFrame(dict(zip(("pearson_given_depth", "explained_given_depth"), found, strict=True)))


def mean_scores(by_library: dict[int, Scores]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Means over libraries of the scores per gene and per method; reliable is what is so everywhere."""
    every = list(by_library.values())
    if len(every) == 1:
        return every[0].genes, every[0].methods
    genes = sum(scores.genes.astype(float) for scores in every) / len(every)
    for flag in FLAGS:
        genes[flag] = np.logical_and.reduce([scores.genes[flag] for scores in every])
    return genes, sum(scores.methods for scores in every) / len(every)


def score_methods(
    observed: np.ndarray, predicted: dict[str, np.ndarray], centres: Centres, rows: np.ndarray
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Score every method on the same spots.

    Parameters
    ----------
    observed
        Shape (spots, genes).
    predicted
        Values of every method, the same shape, with ``"mean"`` among them; ``None``: it has no values here, and NaN for
        scores.
    centres
        What values would be if nothing were known of the spot: from rows and genes to these, for every method.
    rows
        Indices of the spots to score on.

    Returns
    -------
    tuple
        A table with one row per method (``mse``, ``mse_ratio`` to the mean's as a ratio of sums over genes, ``pearson``
        as mean over genes), and for every method a table with one row per gene, see `gene_scores`.
    """
    pieces = {name: [] for name, values in predicted.items() if values is not None}
    for some in gene_slices(len(rows), observed.shape[1]):
        y, mean, centre = observed[rows, some], predicted["mean"][rows, some], centres(rows, some)
        for name, scores in pieces.items():
            scores.append(pd.DataFrame(gene_scores(y, predicted[name][rows, some], mean, centre[name])))
    by_gene = {name: pd.concat(scores, ignore_index=True) for name, scores in pieces.items()}
    table = pd.DataFrame(
        {name: {"mse": genes["mse"].mean(), "pearson": genes["pearson"].mean()} for name, genes in by_gene.items()}
    ).T
    table = table.reindex(list(predicted))
    table.insert(1, "mse_ratio", table["mse"] / table.loc["mean", "mse"])
    return table.rename_axis("method"), by_gene
