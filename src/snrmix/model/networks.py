"""Networks that are kept: what they were fitted to, and what they and measured spots say of another section."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from snrmix._log import logger
from snrmix.data.embedding_cache import site_hashes
from snrmix.data.sites import Sites
from snrmix.engine.at_depth import tell_depths
from snrmix.engine.conformal import Calibration
from snrmix.engine.errors import Errors
from snrmix.engine.fit import (
    Member,
    SectionFit,
    calibrate_members,
    kriging_members,
    section_errors,
    stack_members,
)
from snrmix.engine.folds import Fold, finer, held_out_together, make_folds
from snrmix.engine.implied_depth import imply_depths
from snrmix.engine.kriging.krige import krige_section
from snrmix.engine.network.crossfit import NetworkFit
from snrmix.engine.scores.by_library import library_means
from snrmix.engine.scores.metrics import pearson
from snrmix.engine.section import Section

NO_DEPTH = "at_depth='typical' needs the depth of measured spots, and they are log values: fit with depth_key=."
FOLDS = 5  # of the measured spots of another section, where the model was fitted with a single split


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

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Its arrays by name."""
        return {"seen.spots": self.spots, "seen.held_out": self.held_out}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Seen:
        """What `to_arrays` gave."""
        return cls(arrays["seen.spots"], arrays["seen.held_out"])

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
    predicted = fit.network.out_of_fold - library_means(section, [fold for fold in folds if fold.repeat == 0])[:, :]
    library = section.library[section.measured][fit.scored]
    rows = [fit.scored[library == code] for code in fit.by_library]
    return np.mean([pearson(section.expression[some], predicted[some]) for some in rows], axis=0)


def unseen(
    network: NetworkFit, seen: Seen, sites: Sites, measured: np.ndarray, features: np.ndarray, predicted: np.ndarray
) -> np.ndarray:
    """Predictions for measured spots, those trained on from the networks that held them out, as in a cross-fit.

    Parameters
    ----------
    measured
        Indices of the measured sites.
    features, predicted
        Of all sites: shape (n, d), and (n, genes) of all networks together.
    """
    own, place = predicted[measured], seen.find(sites)[measured]
    held_out = seen.held_out[:, place] & (place >= 0)
    known = np.flatnonzero(held_out.any(0))
    trained = int((place >= 0).sum()) - len(known)
    if trained:
        logger.warning(
            "%d of the measured spots were trained on by every network, and values there are too good: fit with n_folds=2 "
            "or more, or use snrmix.tl.impute.", trained,
        )  # fmt: skip
    if not len(known):
        return own
    own[known] = 0
    for k, rows in enumerate(held_out):
        own[rows] += network.one(k).predict(features[measured[rows]])
    own[known] /= held_out.sum(0)[known, None]
    return own


@dataclass(frozen=True)
class WithMeasured:
    """Networks and kriging, stacked: out-of-fold at measured sites.

    Parameters
    ----------
    values, sd
        float32, each (n, genes).
    calibration
        Of these.
    joint
        How their errors go together.
    together
        See `snrmix.engine.folds.held_out_together`.
    typical_depth
        In counts, where values are for it.
    """

    values: np.ndarray
    sd: np.ndarray
    calibration: Calibration
    joint: Errors
    together: np.ndarray
    typical_depth: float | None


def with_measured(
    section: Section, own: np.ndarray, predicted: np.ndarray, *, n_folds: int, seed: int, kriging: bool, device: str,
    typical: bool = False,
) -> WithMeasured:  # fmt: skip
    """Stack networks and kriging.

    Parameters
    ----------
    section
        Genes that were seen in enough of its measured spots.
    own, predicted
        Of the networks, at measured sites and at all.
    n_folds, seed
        Of its measured spots; with one fold, as a model with a single split has it, there are `FOLDS`.
    kriging
        Whether it is part of it.
    typical
        Give values for the median depth of the measured spots.

    Raises
    ------
    ValueError
        When depths are wanted and not known.
    """
    n = len(section.measured)
    count = min(n_folds if n_folds > 1 else FOLDS, n // 2)
    rng = np.random.default_rng(seed)
    folds = make_folds(section.positions, section.library, section.measured, count, 1, rng)
    gap, out_of_fold = section.expression - own, np.empty_like(own)
    for fold in folds:
        out_of_fold[fold.held_out] = own[fold.held_out] + mean_gap(gap[fold.train])
    members, kriged = {"network": Member(out_of_fold, predicted[section.unmeasured] + mean_gap(gap))}, None
    fine = finer(folds, n) if kriging else folds
    if kriging:
        kriged = krige_section(section, fine, device)
        members |= kriging_members(kriged)
    scored = np.arange(n)
    _, out_of_fold, stacked = stack_members(section, folds, scored, members)
    depths = imply_depths(section, folds, tell_depths(section, folds, kriged, members), out_of_fold, stacked)
    if typical and depths is None:
        raise ValueError(NO_DEPTH)
    depth = float(np.median(depths.known)) if typical else None
    found = calibrate_members(section, folds, scored, out_of_fold, stacked, kriged, False, depths, depth)
    values, sd = np.empty((2, *predicted.shape), np.float32)
    values[section.measured], values[section.unmeasured] = found.out_of_fold, found.predicted
    sd[section.measured], sd[section.unmeasured] = found.out_of_fold_sd, found.predicted_sd
    together = held_out_together(fine, n)
    joint = section_errors(section, found.seen, found.seen_sd, found.calibration, together, scored)
    return WithMeasured(values, sd, found.calibration, joint, together, depth)
