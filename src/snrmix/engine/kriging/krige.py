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
from snrmix.engine.folds import Fold
from snrmix.engine.kriging.choice import choice_spots, choose, describe
from snrmix.engine.kriging.components import (
    Components,
    Depths,
    depth_curves,
    depth_of_shift,
    split_components,
    spot_noise,
    trusted_depth,
)
from snrmix.engine.kriging.covariance import LOOKS, Correlations, KrigingSites
from snrmix.engine.kriging.systems import Observed, solve_exact, solve_near
from snrmix.engine.scaling import Standardised, standard_scale
from snrmix.engine.section import Section

EXACT_SPOTS = 5000  # measured spots up to which every prediction uses all of them
EXACT_CELLS = 3e7  # spots times targets, likewise
LOOKS_NEAR = 64  # principal axes of the embedding above
SKETCH = 64  # random projections that stand for the genes' remainders
SMALLEST_VARIANCE = 1e-8  # of a gene that is constant on the training spots


@dataclass(frozen=True)
class Kriged:
    """Predictions for some targets.

    Parameters
    ----------
    mean, sd
        float32, shape (targets, genes): mean and standard deviation of a new observation.
    depth
        Shape (targets,): the depth, in counts, whose effect on expression is kriged there; NaN where depths are unknown.
    """

    mean: np.ndarray
    sd: np.ndarray
    depth: np.ndarray


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
    """

    out_of_fold: np.ndarray
    out_of_fold_sd: np.ndarray
    predicted: np.ndarray
    predicted_sd: np.ndarray
    out_of_fold_depth: np.ndarray
    predicted_depth: np.ndarray
    record: dict


def krige_section(
    section: Section, folds: Sequence[Fold], device: str = "cpu", *, apart: bool = False
) -> SectionKriging:
    """Krige every held-out spot from the spots of its fold, and every unmeasured one from all measured spots.

    With ``apart`` nothing is learnt from neighbours in space, as for libraries without measured spots.
    """
    scaling = standard_scale(section.features, section.measured)
    colour, other = (Standardised(section.features, *scaling, kind) for kind in (section.colour, ~section.colour))
    sites = KrigingSites(section.positions, section.library, other, colour[:], apart)
    return cross_krige(sites, section.measured, section.expression, section.depth, folds, section.unmeasured, device)


def cross_krige(
    sites: KrigingSites, measured: np.ndarray, expression: np.ndarray, depth: np.ndarray | None, folds: Sequence[Fold],
    targets: np.ndarray, device: str = "cpu",
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
    """
    kriging = Kriging(sites, measured, exact=is_exact(len(measured), len(targets)), device=device)
    depths = depth_curves(trusted_depth(expression, depth))
    out_of_fold, out_of_fold_sd = np.full((2, *expression.shape), np.nan, np.float32)
    out_of_fold_depth = np.full(len(measured), np.nan)
    with stage("kriging", len(folds) + 1):
        for fold in folds:
            fitted = kriging.fit(measured[fold.train], expression[fold.train], depths.at(fold.train))
            kriged = fitted.predict(measured[fold.held_out])
            out_of_fold[fold.held_out], out_of_fold_sd[fold.held_out] = kriged.mean, kriged.sd
            out_of_fold_depth[fold.held_out] = kriged.depth
            advance()
        fitted = kriging.fit(measured, expression, depths)
        final = fitted.predict(targets)
    record = {"exact": kriging.exact, **fitted.record}
    return SectionKriging(out_of_fold, out_of_fold_sd, final.mean, final.sd, out_of_fold_depth, final.depth, record)


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
        self.exact, self.device = exact, device

    def fit(self, train: np.ndarray, expression: np.ndarray, depths: Depths | None = None) -> FittedKriging:
        """Take expression apart, and choose covariances and nuggets.

        Parameters
        ----------
        train
            Shape (n,), indices of the training sites.
        expression
            float32, shape (n, genes).
        depths
            Of the training sites; ``None``: they are equally noisy.
        """
        sites = self.correlations.sites
        order = _canonical(sites, train)
        mean = expression.mean(0, dtype=np.float64).astype(np.float32)
        noise = spot_noise(expression, depths)
        centred = expression - mean
        parts = split_components(centred, noise, order)
        some = choice_spots(sites, train, order)
        sketch = parts.sketch(centred, SKETCH)
        choices = choose(self.correlations, train[some], parts.scores[some], sketch[some], noise.level[some])
        observed = Observed(self.correlations, train, parts.scores, noise.level, choices)
        return FittedKriging(observed, parts, mean, centred, depths, self.exact, self.device)


@dataclass(frozen=True)
class FittedKriging:
    """What `Kriging.fit` found; it predicts any sites.

    Parameters
    ----------
    observed
        Training sites, their components, and what was chosen for each.
    components
        How expression is made of them.
    mean, centred
        Shape (genes,), and float32, shape (n, genes): expression of the training sites is their sum.
    depths
        Of the training sites, where they are known.
    exact, device
        See `Kriging`.
    """

    observed: Observed
    components: Components
    mean: np.ndarray
    centred: np.ndarray
    depths: Depths | None
    exact: bool
    device: str

    def predict(self, targets: np.ndarray) -> Kriged:
        """Mean and standard deviation at targets, sites by index."""
        parts, solve = self.components, solve_exact if self.exact else solve_near
        solved = solve(self.observed, targets, self.device)
        own = (solved.mean - solved.smoother @ parts.scores) * parts.share
        predicted = solved.smoother.astype(np.float32) @ self.centred
        predicted += own.astype(np.float32) @ parts.loadings.T.astype(np.float32)
        predicted += self.mean
        variance = (solved.variance * parts.share).astype(np.float32) @ (parts.loadings**2).T.astype(np.float32)
        share = parts.remainder_share(self.centred).astype(np.float32)
        for row, remainder in zip(variance, solved.remainder_variance.astype(np.float32), strict=True):
            row += remainder * share
        np.sqrt(np.maximum(variance, SMALLEST_VARIANCE, out=variance), out=variance)
        return Kriged(predicted, variance, depth_of_shift(self.depths, parts, solved.mean))

    @property
    def record(self) -> dict[str, np.ndarray]:
        """What components and remainder use most; arrays, so that it can be stored."""
        return describe(self.observed.choices, self.components.names, self.observed.correlations.candidates)


def _canonical(sites: KrigingSites, index: np.ndarray) -> np.ndarray:
    """Order of sites by library and position: what is drawn at random does not depend on the order of the input."""
    return np.lexsort((sites.positions[index, 0], sites.positions[index, 1], sites.library[index]))
