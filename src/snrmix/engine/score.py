"""Out-of-fold scores of the method and of the baselines, on the same spots and folds."""

from __future__ import annotations

import numpy as np
import pandas as pd

from snrmix.engine.baselines import ridge, spatial_knn
from snrmix.engine.crossfit import Section
from snrmix.engine.folds import Fold
from snrmix.engine.metrics import gene_scores, pearson


def out_of_fold(section: Section, folds: list[Fold], predict) -> np.ndarray:
    """Out-of-fold values of ``predict(train sites, target sites, expression)``; NaN where a spot was never held out."""
    values = np.full(section.expression.shape, np.nan, np.float32)
    for fold in folds:
        train, held_out = section.measured[fold.train], section.measured[fold.held_out]
        values[fold.held_out] = predict(train, held_out, section.expression[fold.train])
    return values


def baselines(section: Section, folds: list[Fold]) -> dict[str, np.ndarray]:
    """Out-of-fold values of the mean, spatial kNN and (with features) ridge, each float32, (measured, genes)."""
    found = {
        "mean": out_of_fold(section, folds, lambda train, targets, y: y.mean(0)),
        "spatial kNN": out_of_fold(
            section, folds, lambda train, targets, y: spatial_knn(section.positions, section.library, train, targets, y)
        ),
    }
    if section.features.shape[1]:
        found["ridge"] = out_of_fold(
            section, folds, lambda train, targets, y: ridge(section.features, train, targets, y)
        )
    return found


def score_table(observed: np.ndarray, predicted: dict[str, np.ndarray]) -> pd.DataFrame:
    """One row per method.

    Parameters
    ----------
    observed
        Shape (spots, genes).
    predicted
        Values of every method, the same shape, with ``"mean"`` among them.

    Returns
    -------
    pandas.DataFrame
        Columns ``mse``, ``mse_ratio`` (to the mean's, a ratio of sums over genes) and ``pearson`` (mean over genes).
    """
    errors = {name: np.mean((values - observed) ** 2, dtype=np.float64) for name, values in predicted.items()}
    rows = [(errors[name], errors[name] / errors["mean"], pearson(observed, v).mean()) for name, v in predicted.items()]
    return pd.DataFrame(rows, index=pd.Index(list(predicted), name="method"), columns=["mse", "mse_ratio", "pearson"])


def per_gene(observed: np.ndarray, predicted: np.ndarray, mean: np.ndarray) -> pd.DataFrame:
    """Columns ``pearson``, ``mse`` and ``explained`` of `gene_scores`, one row per gene."""
    return pd.DataFrame(gene_scores(observed, predicted, mean))
