"""Which depth predictions assume, and what they and their intervals are at another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from snrmix.engine.conformal import Calibration, calibrate
from snrmix.engine.depth import (
    Move,
    constant_share,
    fit_depth_reader,
    mean_expected,
    pooled_share,
    share_carried,
    tabulate_moments,
)  # fmt: skip
from snrmix.engine.folds import Fold
from snrmix.engine.section import Section

SMALLEST_VARIANCE = 1e-6


@dataclass(frozen=True)
class SiteDepths:
    """Depths of the sites of a section, in counts.

    Parameters
    ----------
    known, out_of_fold
        Shape (measured,): of the measured spots, as counted, and as predicted when they were held out; NaN where a spot
        never was.
    predicted, elsewhere
        Shape (unmeasured,): as predicted, and as known from elsewhere, NaN where it is not.
    carried
        See `snrmix.engine.depth.share_carried`.
    """

    known: np.ndarray
    out_of_fold: np.ndarray
    predicted: np.ndarray
    elsewhere: np.ndarray
    carried: float = 1.0

    @property
    def assumed(self) -> np.ndarray:
        """What to take for the depth of each unmeasured site."""
        return np.where(np.isfinite(self.elsewhere), self.elsewhere, self.predicted)

    @property
    def error(self) -> float:
        """Root mean squared error of predicted log depths."""
        missed = np.log(self.known / self.out_of_fold)
        return float(np.sqrt(np.nanmean(missed**2)))


def tell_depths(
    section: Section, folds: list[Fold], kriged, members: dict, out_of_fold: np.ndarray
) -> SiteDepths | None:
    """Depths as the same data predict them: kriged, or without kriging read from what the networks predict.

    Parameters
    ----------
    folds
        Of the first repeat.
    kriged
        A `snrmix.engine.kriging.krige.SectionKriging`, or ``None``.
    members
        Predictors of the stack by name, see `snrmix.engine.fit.Member`.
    out_of_fold
        Stacked, shape (measured, genes).

    Returns
    -------
    SiteDepths
        ``None`` where the depths of measured spots are not known.
    """
    if section.site_depth is None:
        return None
    known, elsewhere = section.site_depth[section.measured], section.site_depth[section.unmeasured]
    scored = np.sort(np.concatenate([fold.held_out for fold in folds]))
    if kriged is not None:
        predicted = kriged.out_of_fold_depth, kriged.predicted_depth
    else:
        predicted = _read_depths(members["network"], known, folds, scored)
    moments = tabulate_moments(np.append(known, predicted[0][scored]))
    share = pooled_share(section.expression, known)
    carried = share_carried(out_of_fold[scored], moments, share, predicted[0][scored])
    return SiteDepths(known, *predicted, elsewhere, carried)


def _read_depths(member, known: np.ndarray, folds: list[Fold], scored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depths of measured spots, out-of-fold, and of unmeasured ones from a member's predictions."""
    parts = [fold.held_out for fold in folds] if len(folds) > 1 else [scored[::2], scored[1::2]]
    out_of_fold = np.full(len(known), np.nan)
    for part in parts:
        rest = np.setdiff1d(scored, part)
        reader = fit_depth_reader(member.out_of_fold[rest], known[rest])
        out_of_fold[part] = reader.read(member.out_of_fold[part])
    return out_of_fold, fit_depth_reader(member.out_of_fold[scored], known[scored]).read(member.predicted)


@dataclass(frozen=True)
class GivenDepth:
    """Out-of-fold values of genes of constant share, float32, each (measured, genes).

    Parameters
    ----------
    known, predicted
        At the depth that the spot has, and at that which is predicted for it.
    carried
        The latter, as far as predictions carry it: what is predicted of a gene of constant share.
    """

    known: np.ndarray
    predicted: np.ndarray
    carried: np.ndarray


def given_depth(section: Section, fine: list[Fold], means: np.ndarray, depths: SiteDepths | None) -> GivenDepth | None:
    """What depth alone says of every measured spot; ``None`` where depths are not known.

    Parameters
    ----------
    means
        Of the training spots of each spot, (measured, genes).
    """
    if depths is None:
        return None
    library = section.library[section.measured]
    known, predicted = (
        constant_share(section.expression, depths.known, library, fine, at) for at in (depths.known, depths.out_of_fold)
    )
    return GivenDepth(known, predicted, means + np.float32(depths.carried) * (predicted - means))


@dataclass(frozen=True)
class AtDepth:
    """Predictions at chosen depths, and their uncertainty.

    Parameters
    ----------
    calibration
        Of residuals at the depths that the spots have.
    out_of_fold, out_of_fold_sd, predicted, predicted_sd
        As in `snrmix.engine.fit.SectionFit`.
    seen, seen_sd
        Shape (scored, genes): out-of-fold values at the depths that the spots have, which what was observed there is
        compared with.
    """

    calibration: Calibration
    out_of_fold: np.ndarray
    out_of_fold_sd: np.ndarray
    predicted: np.ndarray
    predicted_sd: np.ndarray
    seen: np.ndarray
    seen_sd: np.ndarray


def at_depth(
    section: Section, depths: SiteDepths, typical: float | None, scored: np.ndarray, out_of_fold: np.ndarray,
    predicted: np.ndarray, context: list, context_unmeasured: list,
) -> AtDepth:  # fmt: skip
    """Move predictions to a typical depth, or to the depths that are known, and calibrate them there.

    The scale of an error is taken to be proportional to the root of ``v(share, depth) + excess``: the variance of Poisson
    counts of the gene's share, and what errors have beyond it. So intervals hold at depths that no scored spot has.

    Parameters
    ----------
    typical
        Depth, in counts; ``None``: that of the spot, where it is known, else the predicted one, whose error then counts.
    scored, out_of_fold, predicted
        As in `snrmix.engine.fit`.
    context, context_unmeasured
        See `snrmix.engine.conformal.calibrate`, of the scored and of the unmeasured.
    """
    every = np.concatenate([depths.known, depths.out_of_fold, depths.assumed, [typical or depths.known[0]]])
    moments, share = tabulate_moments(every[np.isfinite(every)]), pooled_share(section.expression, depths.known)
    before, own = depths.out_of_fold[scored], depths.known[scored]
    move = Move(moments, share, mean_expected(moments, share, depths.known), depths.carried)
    observed, found = section.expression[scored], move(out_of_fold[scored], before, own)
    noise = moments.variance(share, own)
    excess = np.maximum(np.mean((observed - found) ** 2 - noise, axis=0), SMALLEST_VARIANCE)
    calibration = calibrate(observed, found, context, np.sqrt(noise + excess))

    def sd(values: np.ndarray, context: list, depth: np.ndarray, guessed: np.ndarray) -> np.ndarray:
        variance = moments.variance(share, depth) + excess
        if guessed.any():
            reach = np.exp(depths.error)
            swing = (moments.mean(share, depth[guessed] * reach) - moments.mean(share, depth[guessed] / reach)) / 2
            variance[guessed] += swing**2
        return calibration.sd(calibration.scale(values, context, base=np.sqrt(variance)))

    after = own if typical is None else np.full(len(own), typical)
    wanted = depths.assumed if typical is None else np.full(len(predicted), typical)
    moved, moved_sd = np.full((2, *out_of_fold.shape), np.nan, np.float32)
    moved[scored] = move(out_of_fold[scored], before, after)
    moved_sd[scored] = sd(moved[scored], context, after, np.zeros(len(after), bool))
    guessed = np.isnan(depths.elsewhere) if typical is None else np.zeros(len(predicted), bool)
    predicted = np.where(guessed[:, None], predicted, move(predicted, depths.predicted, wanted))
    found_sd = moved_sd[scored] if typical is None else sd(found, context, own, np.zeros(len(own), bool))
    predicted_sd = sd(predicted, context_unmeasured, wanted, guessed)
    return AtDepth(calibration, moved, moved_sd, predicted, predicted_sd, found, found_sd)
