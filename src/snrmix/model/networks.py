"""Networks that are kept: what they were fitted to, one of them, corrections of their mean."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from snrmix.data.embedding_cache import site_hashes
from snrmix.data.sites import Sites
from snrmix.engine.fit import SectionFit
from snrmix.engine.folds import Fold
from snrmix.engine.network.crossfit import NetworkFit
from snrmix.engine.network.heads import Fitted
from snrmix.engine.scores.by_library import library_means
from snrmix.engine.scores.metrics import pearson
from snrmix.engine.section import Section


@dataclass(frozen=True)
class Seen:
    """The spots that the networks were fitted to.

    Parameters
    ----------
    spots
        Hashes of names, libraries and positions, uint64, shape (m,).
    held_out
        Which network was not trained on which, bool, shape (networks, m).
    """

    spots: np.ndarray
    held_out: np.ndarray

    def find(self, sites: Sites) -> np.ndarray:
        """Which of these spots each site is, shape (n,); -1 for others."""
        place = {spot: i for i, spot in enumerate(self.spots.tolist())}
        return np.array([place.get(spot, -1) for spot in site_hashes(sites).tolist()])


def mean_gap(gap: np.ndarray) -> np.ndarray:
    """Mean of each gene, shape (genes,), shrunk to 0 as far as the few spots cannot tell it: empirical Bayes.

    Means vary over genes around 0 with the variance that they show, less that of their errors.

    Parameters
    ----------
    gap
        Observed minus predicted, shape (n, genes).
    """
    mean, error = gap.mean(0), gap.var(0) / len(gap)
    spread = max(float(np.mean(mean**2 - error)), 0.0)
    return mean * (spread / np.maximum(spread + error, 1e-12)).astype(np.float32)


def held_out_of(folds: list[Fold], section: Section) -> np.ndarray:
    """Which network did not see which measured spot, bool, shape (networks, m)."""
    held_out = np.zeros((len(folds), len(section.measured)), bool)
    for own, fold in zip(held_out, folds, strict=True):
        own[fold.held_out] = True
    return held_out


def network_pearson(section: Section, fit: SectionFit, folds: list[Fold]) -> np.ndarray:
    """Out-of-fold correlation of the networks alone, per gene, less the means of the folds: the mean over libraries."""
    predicted = fit.network.out_of_fold - library_means(section, [fold for fold in folds if fold.repeat == 0])
    library = section.library[section.measured][fit.scored]
    rows = [fit.scored[library == code] for code in fit.by_library]
    return np.mean([pearson(section.expression[some], predicted[some]) for some in rows], axis=0)


def lean(network: NetworkFit) -> NetworkFit:
    """The networks without what refers to the spots that they were fitted to."""
    targets = [replace(target, values=target.values[:0].copy()) for target in network.targets]
    return NetworkFit(Fitted(network.fitted.weights, [], {}), targets, np.empty((0, len(targets[0].mean)), np.float32))


def one_network(network: NetworkFit, k: int) -> NetworkFit:
    """One of the networks."""
    weights = {name: values[k : k + 1] for name, values in network.fitted.weights.items()}
    return NetworkFit(Fitted(weights, [], {}), [network.targets[k]], network.out_of_fold)
