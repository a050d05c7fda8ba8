"""One section in, everything that is known about its expression out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from snrmix.engine.crossfit import NetworkFit, Section, fit_network
from snrmix.engine.folds import Fold
from snrmix.engine.losses import Losses
from snrmix.engine.mix import Mixing
from snrmix.engine.network import Training
from snrmix.engine.score import baselines, per_gene, score_table


@dataclass(frozen=True)
class Settings:
    """What to fit and how."""

    mixing: Mixing
    losses: Losses
    training: Training
    seed: int


@dataclass(frozen=True)
class SectionFit:
    """Predictions for a section and how good they are.

    Parameters
    ----------
    out_of_fold
        float32, (measured, genes); NaN where a spot was never held out.
    predicted
        float32, (unmeasured, genes).
    genes
        Scores per gene.
    scores
        Scores per method, see `snrmix.engine.score.score_table`.
    network
        The trained networks.
    """

    out_of_fold: np.ndarray
    predicted: np.ndarray
    genes: pd.DataFrame
    scores: pd.DataFrame
    network: NetworkFit


def fit_section(section: Section, folds: list[Fold], settings: Settings) -> SectionFit:
    """Cross-fit, predict the unmeasured sites, and score on the spots that were held out."""
    network = fit_network(section, folds, settings.mixing, settings.losses, settings.training, settings.seed)
    predicted = network.predict(section.features[section.unmeasured])
    scored = np.isfinite(network.out_of_fold[:, 0])
    values = {"network": network.out_of_fold, **baselines(section, folds)}
    values = {name: array[scored] for name, array in values.items()}
    observed = section.expression[scored]
    genes = per_gene(observed, values["network"], values["mean"])
    return SectionFit(network.out_of_fold, predicted, genes, score_table(observed, values), network)
