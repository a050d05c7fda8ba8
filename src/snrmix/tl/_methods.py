"""The predictors that a benchmark compares: each from a case, one split, to values at its hidden sites."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from snrmix.engine.depth import constant_share_at
from snrmix.engine.fit import SectionFit, Settings, Stacked, fit_section, stack_section
from snrmix.engine.folds import Fold
from snrmix.engine.kriging.krige import SectionKriging, krige_section
from snrmix.engine.mix import MIXINGS, Mixing
from snrmix.engine.network.crossfit import fit_network
from snrmix.engine.scores.baselines import ridge, spatial_knn
from snrmix.engine.scores.smoothing import NEIGHBOURS, graph_smoothing, random_walk
from snrmix.engine.section import Section
from snrmix.plan.features import Features
from snrmix.plan.graph import spatial_neighbours
from snrmix.plan.parts import Part
from snrmix.plan.sharing import shared_of
from snrmix.plan.splits import settle_neighbours
from snrmix.tl.summarise import OURS

DEPTH_ALONE = "depth"  # needs to know the depths of measured spots


@dataclass(frozen=True)
class Case:
    """One split, and what its methods share: networks are trained once, when first needed.

    Parameters
    ----------
    part
        A model of the spots that stay measured.
    features
        Of all sites of the object.
    hidden
        Indices of the sites to predict, ascending.
    settings
        As for `snrmix.engine.fit.fit_section`.
    k_is_chosen
        Whether the user chose how many neighbours are mixed with: if not, a small section lowers it.
    partner
        The case of a model of all libraries, whose predictions are weighed with its own; ``None``: there is none.
    """

    part: Part
    features: Features
    hidden: np.ndarray
    settings: Settings
    k_is_chosen: bool
    partner: Case | None = None

    @cached_property
    def section(self) -> Section:
        """What the engine sees: depths of hidden spots are hidden too."""
        section = self.part.section(self.features)
        if section.site_depth is None:
            return section
        return replace(section, site_depth=np.where(self.part.is_measured, section.site_depth, np.nan))

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
        settings = replace(self.settings, mixing=self.mixing)
        shared = None if self.partner is None else shared_of(self.part, self.partner.stacked)
        return fit_section(self.section, self.folds, settings, self.part.elsewhere, shared)

    @cached_property
    def stacked(self) -> Stacked:
        """What it predicts, before that is calibrated."""
        settings = replace(self.settings, mixing=self.mixing)
        return stack_section(self.section, self.folds, settings, self.part.elsewhere)

    @cached_property
    def kriged(self) -> SectionKriging:
        """Kriging of the unmeasured sites, alone."""
        return krige_section(self.section, [], self.settings.device, apart=self.part.elsewhere)

    @property
    def mixing(self) -> Mixing:
        """The default mixing."""
        return settle_neighbours(self.settings.mixing, self.folds, self.k_is_chosen)

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


def _depth(case: Case) -> np.ndarray:
    section, depth = case.section, case.part.site_depth
    own, hidden = section.library[section.measured], section.library[case.hidden]
    predicted = case.at_hidden(case.kriged.predicted_depth)
    return constant_share_at(section.expression, depth[section.measured], own, hidden, predicted)


def _kriging(case: Case) -> np.ndarray:
    return case.at_hidden(case.kriged.predicted)


def _network(case: Case, mixing: str | None = None) -> np.ndarray:
    return case.at_hidden(case.network(None if mixing is None else MIXINGS[mixing]()))


def _ours(case: Case) -> np.ndarray:
    return case.at_hidden(case.fit.predicted)


@dataclass(frozen=True)
class Method:
    """One predictor.

    Parameters
    ----------
    name
        By which it is asked for.
    predict
        From a case to expression at its hidden sites, shape (hidden, genes).
    needs_image
        Whether it cannot do without features.
    """

    name: str
    predict: Callable[[Case], np.ndarray]
    needs_image: bool = False


METHODS = (
    Method("mean", _mean),
    Method(DEPTH_ALONE, _depth),
    Method("spatial kNN", _spatial_knn),
    Method("graph smoothing", _graph_smoothing),
    Method("ridge", _ridge, needs_image=True),
    Method("kriging", _kriging),
    Method("network", _network, needs_image=True),
)


def available_methods() -> dict[str, Method]:
    """All methods by name, those with a mixing strategy after the default network, and ours last."""
    on_features = [name for name, strategy in MIXINGS.items() if not strategy().needs_pixels]
    strategies = [Method(f"network ({name})", partial(_network, mixing=name), needs_image=True) for name in on_features]
    return {method.name: method for method in (*METHODS, *strategies, Method(OURS, _ours))}
