"""Which depth predictions assume, and what they and their intervals are at another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from snrmix.engine.conformal import Base, Calibration, calibrate
from snrmix.engine.depth import (
    CountMoments,
    constant_share,
    constant_share_at,
    fit_depth_reader,
    gene_rates,
    tabulate_moments,
)  # fmt: skip
from snrmix.engine.folds import Fold, fold_numbers, held_out_together
from snrmix.engine.section import Section
from snrmix.engine.slices import Repeated, gene_slices, rows_of, spread_rows

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
    """

    known: np.ndarray
    out_of_fold: np.ndarray
    predicted: np.ndarray
    elsewhere: np.ndarray

    @property
    def assumed(self) -> np.ndarray:
        """What to take for the depth of each unmeasured site."""
        return np.where(np.isfinite(self.elsewhere), self.elsewhere, self.predicted)

    @property
    def error(self) -> float:
        """Root mean squared error of predicted log depths."""
        missed = np.log(self.known / self.out_of_fold)
        return float(np.sqrt(np.nanmean(missed**2)))


def tell_depths(section: Section, folds: list[Fold], kriged, members: dict) -> SiteDepths | None:
    """Depths as the same data predict them: kriged, or without kriging read from what the networks predict.

    Parameters
    ----------
    folds
        Of the first repeat.
    kriged
        A `snrmix.engine.kriging.krige.SectionKriging`, or ``None``.
    members
        Predictors of the stack by name, see `snrmix.engine.fit.Member`.

    Returns
    -------
    SiteDepths
        ``None`` where the depths of measured spots are not known.
    """
    if section.site_depth is None:
        return None
    known, elsewhere = section.site_depth[section.measured], section.site_depth[section.unmeasured]
    if kriged is not None:
        return SiteDepths(known, kriged.out_of_fold_depth, kriged.predicted_depth, elsewhere)
    member = members["network"]
    scored = np.sort(np.concatenate([fold.held_out for fold in folds]))
    parts = [fold.held_out for fold in folds] if len(folds) > 1 else [scored[::2], scored[1::2]]
    out_of_fold = np.full(len(known), np.nan)
    for part in parts:
        rest = np.setdiff1d(scored, part)
        reader = fit_depth_reader(member.out_of_fold[rest], known[rest])
        out_of_fold[part] = reader.read(member.out_of_fold[part])
    reader = fit_depth_reader(member.out_of_fold[scored], known[scored])
    return SiteDepths(known, out_of_fold, reader.read(member.predicted), elsewhere)


def training_depth(depth: np.ndarray, folds: list[Fold]) -> np.ndarray:
    """What to take for the depth of each measured spot if nothing is known of it, shape (measured,): NaN outside of folds."""
    found = np.full(len(depth), np.nan)
    for fold in folds:
        found[fold.held_out] = np.exp(np.log(depth[fold.train]).mean())
    return found


@dataclass(frozen=True)
class GivenDepth:
    """Out-of-fold values of genes that follow depth alone, float32, each (measured, genes).

    Parameters
    ----------
    known, predicted
        At the depth that the spot has, and at that which is predicted for it.
    centre
        At the mean of the log depths of the training spots: the same for all spots of a fold and library.
    """

    known: np.ndarray
    predicted: np.ndarray
    centre: np.ndarray | Repeated


def given_depth(section: Section, fine: list[Fold], depths: SiteDepths | None) -> GivenDepth | None:
    """What depth alone says of every measured spot; ``None`` where depths are not known."""
    if depths is None:
        return None
    library, fold = section.library[section.measured], held_out_together(fine, len(section.measured))
    wanted = depths.known, depths.out_of_fold, training_depth(depths.known, fine)
    _, first, which = np.unique(fold * (library.max() + 1) + library, return_index=True, return_inverse=True)
    known, predicted = np.empty((2, *section.expression.shape), np.float32)
    centre = np.empty((len(first), known.shape[1]), np.float32)
    for some in gene_slices(*known.shape):
        found = constant_share(section.expression[:, some], depths.known, library, fine, *wanted)
        known[:, some], predicted[:, some], centre[:, some] = found[0], found[1], found[2][first]
    return GivenDepth(known, predicted, Repeated(centre, which))


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
    kept
        Shape (genes,): see `kept_share`; ``None`` where nothing was moved.
    """

    calibration: Calibration
    out_of_fold: np.ndarray
    out_of_fold_sd: np.ndarray
    predicted: np.ndarray
    predicted_sd: np.ndarray
    seen: np.ndarray
    seen_sd: np.ndarray
    kept: np.ndarray | None = None


def at_depth(
    section: Section, folds: list[Fold], depths: SiteDepths, typical: float | None, scored: np.ndarray,
    out_of_fold: np.ndarray, predicted: np.ndarray, context: list, context_unmeasured: list,
) -> AtDepth:  # fmt: skip
    """Move predictions to a typical depth, or to the depths that are known, and calibrate them there.

    A prediction is taken as that of a gene which follows depth alone, at the depth that is predicted, and a pattern beyond it.
    As much of the pattern is kept as what was observed beyond depth bears out, and added to such a gene at the other depth: so
    a gene without a pattern of its own is flat at a typical depth.

    The scale of an error is taken to be proportional to the root of ``v(share, depth) + excess``: the variance of Poisson
    counts of the gene's share, and what errors have beyond it. So intervals hold at depths that no scored spot has.

    Parameters
    ----------
    typical
        Depth, in counts; ``None``: that of the spot, where it is known, else the predicted one, whose error then counts.
    folds
        Of the first repeat.
    scored, out_of_fold, predicted
        As in `snrmix.engine.fit`.
    context, context_unmeasured
        See `snrmix.engine.conformal.calibrate`, of the scored and of the unmeasured.
    """
    every = np.concatenate([depths.known, depths.out_of_fold, depths.assumed, [typical or depths.known[0]]])
    moments, share = tabulate_moments(every[np.isfinite(every)]), gene_rates(section.expression, depths.known)
    own, fold = depths.known[scored], fold_numbers(folds, len(depths.known))[scored]
    library, others = section.library[section.measured], section.library[section.unmeasured]
    after = depths.known if typical is None else np.full(len(depths.known), typical)
    wanted = depths.assumed if typical is None else np.full(len(predicted), typical)
    genes = section.expression.shape[1]
    found, moved = np.empty((2, len(scored), genes), np.float32)
    there, (excess, kept) = np.empty(predicted.shape, np.float32), np.empty((2, genes), np.float32)
    for some in gene_slices(len(section.library), genes):
        train = section.expression[:, some], depths.known, library
        alone = constant_share(*train, folds, depths.known, depths.out_of_fold, after)
        here, before, later = (values[scored] for values in alone)
        observed = section.expression[scored, some]
        rest, pattern = observed - here, out_of_fold[scored, some] - before
        kept[some], pattern = kept_share(rest, pattern), shrunk(rest, pattern, fold)
        found[:, some], moved[:, some] = np.maximum(here + pattern, 0), np.maximum(later + pattern, 0)
        beyond = (observed - found[:, some]) ** 2 - moments.variance(share[:, some], own)
        excess[some] = np.maximum(np.mean(beyond, axis=0), SMALLEST_VARIANCE)
        if len(predicted):
            before, later = (constant_share_at(*train, others, depth) for depth in (depths.predicted, wanted))
            there[:, some] = np.maximum(later + kept[some] * (predicted[:, some] - before), 0)

    spread = Spread(moments, share, excess, depths)
    calibration = calibrate(rows_of(section.expression, scored), found, context, spread.at(own))

    def sd(values: np.ndarray, context: list, base: Base) -> np.ndarray:
        return calibration.sd(calibration.scale(values, context, base=base))

    found_sd = sd(found, context, spread.at(own))
    moved_sd = found_sd if typical is None else sd(moved, context, spread.at(after[scored]))
    moved, moved_sd = (spread_rows(values, scored, len(out_of_fold)) for values in (moved, moved_sd))
    guessed = np.isnan(depths.elsewhere) & (typical is None)
    there_sd = sd(there, context_unmeasured, spread.at(wanted, guessed))
    return AtDepth(calibration, moved, moved_sd, there, there_sd, found, found_sd, kept)


@dataclass(frozen=True)
class Spread:
    """How large errors are at a depth: the variance of Poisson counts of a gene's shares, and what errors have beyond it.

    Parameters
    ----------
    moments, share
        See `tabulate_moments` and `gene_rates`.
    excess
        Shape (genes,): variance beyond that of counts.
    depths
        Their error counts where depth is predicted.
    """

    moments: CountMoments
    share: np.ndarray
    excess: np.ndarray
    depths: SiteDepths

    def at(self, depth: np.ndarray, guessed: np.ndarray | bool = False) -> Base:
        """Makes roots of these variances for some genes, float32, (sites, some); ``guessed`` says where depth is predicted."""
        guessed = np.broadcast_to(guessed, depth.shape)
        reach = np.exp(self.depths.error) if guessed.any() else 1.0

        def base(genes: np.ndarray) -> np.ndarray:
            share = self.share[:, genes]
            variance = self.moments.variance(share, depth) + self.excess[genes]
            if guessed.any():
                low, high = depth[guessed] / reach, depth[guessed] * reach
                variance[guessed] += ((self.moments.mean(share, high) - self.moments.mean(share, low)) / 2) ** 2
            return np.sqrt(variance)

        return base


def kept_share(rest: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    """How much of a pattern, 0 to 1, fits best what was observed, both beyond depth and of shape (n, genes); float32, (genes,)."""
    factor = (rest * pattern).sum(0) / np.maximum((pattern**2).sum(0), 1e-12)
    return np.clip(factor, 0, 1).astype(np.float32)


def shrunk(rest: np.ndarray, pattern: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """A pattern times the `kept_share` of the spots of other folds, shape (n, genes)."""
    found = np.empty_like(pattern)
    for k in np.unique(fold):
        own = fold == k
        found[own] = kept_share(rest[~own], pattern[~own]) * pattern[own]
    return found
