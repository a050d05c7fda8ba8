"""Scores on the same held-out spots for every method: of each library on its own, and their means."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from snrmix.engine.folds import Fold
from snrmix.engine.scores.baselines import baselines
from snrmix.engine.scores.metrics import gene_scores
from snrmix.engine.scores.reliability import better_than_all
from snrmix.engine.section import Section
from snrmix.engine.slices import gene_slices

FEWEST_SCORED = 10  # of a library, for scores of its own


@dataclass(frozen=True)
class Scores:
    """How good predictions are at spots that were held out.

    Parameters
    ----------
    genes
        Per gene: ``pearson``, ``mse``, ``explained``, ``reliable``, ``weight_network``, ``weight_kriging``.
    methods
        Per method, see `snrmix.engine.scores.by_library.score_methods`; the method itself is ``"snrmix"``.
    n_spots
        Number of these spots.
    """

    genes: pd.DataFrame
    methods: pd.DataFrame
    n_spots: int


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


def library_means(section: Section, folds: list[Fold]) -> np.ndarray:
    """Out-of-fold means of each library, float32, (measured, genes); the mean of all where none of its spots is left."""
    own, means = section.library[section.measured], np.full(section.expression.shape, np.nan, np.float32)
    for fold in folds:
        for code in np.unique(own[fold.held_out]):
            train = fold.train[own[fold.train] == code]
            means[fold.held_out[own[fold.held_out] == code]] = section.expression[
                train if len(train) else fold.train
            ].mean(0)
    return means


def score_libraries(
    section: Section, methods: dict[str, np.ndarray], references: list[str], scored: np.ndarray, seed: int
) -> dict[int, Scores]:
    """Score every library on its own, so that differences between libraries count for nothing."""
    library, positions = section.library[section.measured], section.positions[section.measured]
    codes, count = np.unique(library[scored], return_counts=True)
    enough = codes[count >= min(FEWEST_SCORED, count.max())]
    found = {}
    for code in enough:
        rows = scored[library[scored] == code]
        table, by_gene = score_methods(section.expression, methods, rows)
        genes = by_gene["snrmix"]
        genes["reliable"] = better_than_all(
            section.expression, methods["snrmix"], [methods[name] for name in references], rows, positions, library,
            np.random.default_rng(seed),
        )  # fmt: skip
        found[int(code)] = Scores(genes, table, len(rows))
    return found


def mean_scores(by_library: dict[int, Scores]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Means over libraries of the scores per gene and per method; reliable is what is so everywhere."""
    every = list(by_library.values())
    if len(every) == 1:
        return every[0].genes, every[0].methods
    genes = sum(scores.genes.astype(float) for scores in every) / len(every)
    genes["reliable"] = np.logical_and.reduce([scores.genes["reliable"] for scores in every])
    return genes, sum(scores.methods for scores in every) / len(every)


def score_methods(
    observed: np.ndarray, predicted: dict[str, np.ndarray], rows: np.ndarray
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Score every method on the same spots.

    Parameters
    ----------
    observed
        Shape (spots, genes).
    predicted
        Values of every method, the same shape, with ``"mean"`` among them.
    rows
        Indices of the spots to score on.

    Returns
    -------
    tuple
        A table with one row per method (``mse``, ``mse_ratio`` to the mean's as a ratio of sums over genes, ``pearson``
        as mean over genes), and for every method a table with one row per gene, see `gene_scores`.
    """
    by_gene = {}
    for name, values in predicted.items():
        pieces = []
        for some in gene_slices(len(rows), observed.shape[1]):
            columns = (array[rows, some] for array in (observed, values, predicted["mean"]))
            pieces.append(pd.DataFrame(gene_scores(*columns)))
        by_gene[name] = pd.concat(pieces, ignore_index=True)
    table = pd.DataFrame(
        {name: {"mse": genes["mse"].mean(), "pearson": genes["pearson"].mean()} for name, genes in by_gene.items()}
    ).T
    table.insert(1, "mse_ratio", table["mse"] / table.loc["mean", "mse"])
    return table.rename_axis("method"), by_gene
