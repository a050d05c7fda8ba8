"""Kriging by component: simple kriging of the principal components of expression, in space and in looks.

Expression of the measured spots is rotated to principal components. Every component has its own covariance and nugget,
chosen by leave-one-out; what the components leave, the remainder, shares one choice. The scores ``z`` of a component
are those of a Gaussian process with mean 0, correlation ``K`` and noise ``nugget * noise_i`` at spot ``i`` (spots with
few counts are noisier):

    mean                     k' A^-1 z                                  A = K + nugget * diag(noise)
    variance                 s^2 (1 - k' A^-1 k + nugget * noise)       s^2 = mean of (A^-1 z)_i^2 / (A^-1)_ii
    leave-one-out residual   (A^-1 z)_i / (A^-1)_ii                     (Dubrule 1983, doi:10.1007/BF01033232)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from snrmix._progress import advance, stage
from snrmix.engine.depth import CountMoments, tabulate_moments
from snrmix.engine.folds import Fold
from snrmix.engine.kriging.choice import choice_spots, choose, describe
from snrmix.engine.kriging.components import Depths, are_counts, depth_curves, spot_noise, trusted_depth
from snrmix.engine.kriging.covariance import LOOKS, Correlations, KrigingSites
from snrmix.engine.kriging.field import Field
from snrmix.engine.kriging.rates import LogDepth, Rates, depth_design
from snrmix.engine.kriging.systems import Observed, Solved, solve_exact, solve_near
from snrmix.engine.scaling import Standardised, standard_scale
from snrmix.engine.section import Section

EXACT_SPOTS = 5000  # measured spots up to which every prediction uses all of them
EXACT_CELLS = 3e7  # spots times targets, likewise
LOOKS_NEAR = 64  # principal axes of the embedding above


@dataclass(frozen=True)
class Kriged:
    """Predictions for some targets.

    Parameters
    ----------
    mean, sd
        float32, shape (targets, genes): mean and standard deviation of a new observation.
    depth
        Shape (targets,): predicted, in counts; NaN where depths are unknown.
    rates
        float32, shape (targets, genes): expression from kriged rates at that depth; ``None`` where it is not of counts.
    """

    mean: np.ndarray
    sd: np.ndarray
    depth: np.ndarray
    rates: np.ndarray | None


@dataclass(frozen=True)
class SectionKriging:
    """Kriging of a section.

    Parameters
    ----------
    out_of_fold, out_of_fold_sd
        float32, shape (measured, genes); NaN where a spot was never held out.
    predicted, predicted_sd
        float32, shape (targets, genes).
    out_of_fold_depth, predicted_depth
        Shape (measured,) and (targets,), see `Kriged`.
    record
        Choices made with all measured spots.
    out_of_fold_rates, predicted_rates
        As ``out_of_fold`` and ``predicted``, by way of rates and depth; ``None`` where expression is not of counts.
    rates_centre
        Shape (folds, genes): what rates and depth of the training spots say of a spot of which nothing is known.
    """

    out_of_fold: np.ndarray
    out_of_fold_sd: np.ndarray
    predicted: np.ndarray
    predicted_sd: np.ndarray
    out_of_fold_depth: np.ndarray
    predicted_depth: np.ndarray
    record: dict
    out_of_fold_rates: np.ndarray | None = None
    predicted_rates: np.ndarray | None = None
    rates_centre: np.ndarray | None = None


def krige_section(
    section: Section, folds: Sequence[Fold], device: str = "cpu", *, apart: bool = False
) -> SectionKriging:
    """Krige every held-out spot from the spots of its fold, and every unmeasured one from all measured spots.

    With ``apart`` nothing is learnt from neighbours in space, as for libraries without measured spots. How deep these are
    nobody knows, so rates are not kriged then.
    """
    scaling = standard_scale(section.features, section.measured)
    colour, other = (Standardised(section.features, *scaling, kind) for kind in (section.colour, ~section.colour))
    sites = KrigingSites(section.positions, section.library, other, colour[:], apart)
    depth = section.depth if section.site_depth is None else section.site_depth[section.measured]
    counts = section.site_depth is not None and are_counts(section.expression, depth)
    depth, rates = depth if counts else section.depth, counts and not apart
    return cross_krige(sites, section.measured, section.expression, depth, folds, section.unmeasured, device, rates)


def cross_krige(
    sites: KrigingSites, measured: np.ndarray, expression: np.ndarray, depth: np.ndarray | None, folds: Sequence[Fold],
    targets: np.ndarray, device: str = "cpu", rates: bool = False,
) -> SectionKriging:  # fmt: skip
    """Out-of-fold values at measured sites, and predictions at targets.

    Means, noise levels, components, covariances and nuggets are fitted on each fold's training spots.

    Parameters
    ----------
    sites
        All sites.
    measured
        Shape (m,), indices of the measured sites.
    expression
        float32, shape (m, genes), log1p(counts per 10,000).
    depth
        Shape (m,), counts per measured spot; ``None`` where unknown, see `snrmix.engine.kriging.components.trusted_depth`.
    folds
        Splits of the measured spots.
    targets
        Indices of sites to predict.
    device
        Where systems are solved.
    rates
        Krige rates too: expression is of counts, and ``depth`` is theirs.
    """
    kriging = Kriging(sites, measured, exact=is_exact(len(measured), len(targets)), device=device)
    depths = depth_curves(trusted_depth(expression, depth))
    moments = tabulate_moments(depths.depth) if rates else None
    out_of_fold, out_of_fold_sd = np.full((2, *expression.shape), np.nan, np.float32)
    out_of_fold_depth = np.full(len(measured), np.nan)
    out_of_fold_rates = np.full_like(out_of_fold, np.nan) if rates else None
    centre = np.empty((len(folds), expression.shape[1]), np.float32) if rates else None
    with stage("kriging", len(folds) + 1):
        for k, fold in enumerate(folds):
            fitted = kriging.fit(measured[fold.train], expression[fold.train], depths.at(fold.train), moments)
            kriged, held_out = fitted.predict(measured[fold.held_out]), fold.held_out
            out_of_fold[held_out], out_of_fold_sd[held_out] = kriged.mean, kriged.sd
            out_of_fold_depth[held_out] = kriged.depth
            if rates:
                out_of_fold_rates[held_out], centre[k] = kriged.rates, fitted.rates.centre
            advance()
        fitted = kriging.fit(measured, expression, depths, moments)
        final = fitted.predict(targets)
    record = {"exact": kriging.exact, **fitted.record}
    return SectionKriging(
        out_of_fold, out_of_fold_sd, final.mean, final.sd, out_of_fold_depth, final.depth, record,
        out_of_fold_rates, final.rates, centre,
    )  # fmt: skip


def is_exact(measured: int, targets: int) -> bool:
    """Whether so many targets are kriged from all measured spots at once, not from neighbourhoods."""
    return measured <= EXACT_SPOTS and measured * targets <= EXACT_CELLS


class Kriging:
    """Kriging by component among given sites.

    Parameters
    ----------
    sites
        All sites.
    measured
        Indices of the measured ones, which set what is near in looks.
    exact
        Whether every target sees all training sites, or only its neighbourhood.
    device
        Where systems are solved.
    """

    def __init__(self, sites: KrigingSites, measured: np.ndarray, *, exact: bool = True, device: str = "cpu"):
        self.correlations = Correlations(sites, measured, LOOKS if exact else LOOKS_NEAR)
        self.design, self.exact, self.device = depth_design(sites), exact, device

    def fit(
        self, train: np.ndarray, expression: np.ndarray, depths: Depths | None = None,
        moments: CountMoments | None = None,
    ) -> FittedKriging:  # fmt: skip
        """Take expression apart, and choose covariances and nuggets.

        Parameters
        ----------
        train
            Shape (n,), indices of the training sites.
        expression
            float32, shape (n, genes).
        depths
            Of the training sites; ``None``: they are equally noisy.
        moments
            What counts of a share and depth give, for rates; ``None``: expression is not of counts of these depths.
        """
        sites = self.correlations.sites
        order, noise = _canonical(sites, train), spot_noise(expression, depths)
        fields, rates, log_depth = [Field.of(expression, noise, order)], None, None
        if moments is not None:
            rates = Rates.of(expression, depths, noise.level, moments, order)
            fields.append(rates.field)
        scores = [field.scores for field in fields]
        if depths is not None:
            log_depth = LogDepth(train, np.log(depths.depth), self.design)
            scores.append(log_depth.scores)
        some, scores = choice_spots(sites, train, order), np.concatenate(scores, axis=1)
        sketches = [field.sketch()[some] for field in fields]
        choices = choose(self.correlations, train[some], scores[some], sketches, noise.level[some])
        observed = Observed(self.correlations, train, scores, noise.level, choices)
        return FittedKriging(observed, fields[0], rates, log_depth, self.exact, self.device)


@dataclass(frozen=True)
class FittedKriging:
    """What `Kriging.fit` found; it predicts any sites.

    Parameters
    ----------
    observed
        Training sites, all that is kriged there, and what was chosen for each.
    expression, rates, log_depth
        How values are made of that: components of the first, then those of the second, then the third.
    exact, device
        See `Kriging`.
    """

    observed: Observed
    expression: Field
    rates: Rates | None
    log_depth: LogDepth | None
    exact: bool
    device: str

    def predict(self, targets: np.ndarray) -> Kriged:
        """Mean and standard deviation at targets, sites by index."""
        solve = solve_exact if self.exact else solve_near
        solved = solve(self.observed, targets, self.device)
        own = slice(0, self.expression.scores.shape[1])
        mean = self.expression.join(solved.mean[:, own], solved.smoothers[0])
        sd = self.expression.sd(solved.variance[:, own], solved.remainder_variance[:, 0])
        depth = np.full(len(targets), np.nan)
        if self.log_depth is not None:
            choice = self.observed.choices[self.observed.components - 1]
            depth = self.log_depth.depth(solved.mean[:, -1], targets, float(choice.weight @ choice.error))
        return Kriged(mean, sd, depth, self._rates(solved, depth))

    def _rates(self, solved: Solved, depth: np.ndarray) -> np.ndarray | None:
        if self.rates is None:
            return None
        first = self.expression.scores.shape[1]
        own = slice(first, first + self.rates.field.scores.shape[1])
        return self.rates.expected(self.rates.field.join(solved.mean[:, own], solved.smoothers[1]), depth)

    @property
    def record(self) -> dict[str, np.ndarray]:
        """What components and remainder of expression use most; arrays, so that it can be stored."""
        names, choices = self.expression.components.names, self.observed.choices
        own = [*choices[: len(names)], choices[self.observed.components]]
        return describe(own, [*names, "remainder"], self.observed.correlations.candidates)


def _canonical(sites: KrigingSites, index: np.ndarray) -> np.ndarray:
    """Order of sites by library and position: what is drawn at random does not depend on the order of the input."""
    return np.lexsort((sites.positions[index, 0], sites.positions[index, 1], sites.library[index]))
