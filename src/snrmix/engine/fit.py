"""One section in, everything that is known about its expression out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from snrmix._progress import stage
from snrmix.engine.at_depth import AtDepth, SiteDepths, at_depth, given_depth, tell_depths
from snrmix.engine.between import widen
from snrmix.engine.conformal import SMALLEST_SCALE, Calibration, calibrate
from snrmix.engine.errors import Errors, fit_errors
from snrmix.engine.finetune.fit import FinetunedFit, fit_finetuned
from snrmix.engine.folds import Fold, fold_numbers, held_out_together, settle_folds
from snrmix.engine.implied_depth import imply_depths
from snrmix.engine.kriging.krige import SectionKriging, krige_section
from snrmix.engine.losses import Losses
from snrmix.engine.mix import Mixing
from snrmix.engine.neighbours import distance_to_measured
from snrmix.engine.network.crossfit import NetworkFit, fit_network
from snrmix.engine.options import Finetuning, Training
from snrmix.engine.scores.by_library import Scores, mean_scores, reference_values, score_libraries
from snrmix.engine.scores.centres import fitted_centres
from snrmix.engine.section import Section
from snrmix.engine.sharing import Shared, weigh_sharing
from snrmix.engine.slices import rows_of, spread_rows
from snrmix.engine.stack import Stack, combine, fit_stack

MEMBERS = ("network", "kriging", "rates")  # predictors of the stack


@dataclass(frozen=True)
class Settings:
    """What to fit and how; with `Finetuning`, the network starts from ``encoder``, a ``torch.nn.Module``.

    ``typical_depth`` is the depth, in counts, that results are given for; ``None``: every spot's own.
    """

    mixing: Mixing
    losses: Losses
    training: Training | Finetuning
    kriging: bool
    seed: int
    device: str
    encoder: object = None
    typical_depth: float | None = None


@dataclass(frozen=True)
class Member:
    """A predictor of the stack.

    Parameters
    ----------
    out_of_fold
        float32, (measured, genes); NaN where a spot was never held out.
    predicted
        float32, (unmeasured, genes).
    """

    out_of_fold: np.ndarray
    predicted: np.ndarray


@dataclass(frozen=True)
class Stacked:
    """What a model predicts of a section, before it is calibrated.

    Parameters
    ----------
    out_of_fold, predicted
        As in `Member`, of the stack.
    depths
        Of the sites, ``None`` where those of measured spots are not known.
    members
        By name.
    stack
        Their weights.
    network, kriged
        What two of the members were made with; ``None`` without.
    """

    out_of_fold: np.ndarray
    predicted: np.ndarray
    depths: SiteDepths | None
    members: dict[str, Member]
    stack: Stack
    network: NetworkFit | FinetunedFit | None
    kriged: SectionKriging | None


@dataclass(frozen=True)
class SectionFit:
    """Predictions for a section, their uncertainty, and how good they are.

    Parameters
    ----------
    out_of_fold, out_of_fold_sd
        float32, (measured, genes); NaN where a spot was never held out.
    predicted, predicted_sd
        float32, (unmeasured, genes).
    depths
        Of the sites, as known and as predicted; ``None`` where those of measured spots are not known.
    by_library
        Scores of every library by its code; without those of which few spots were held out.
    genes, scores
        As in `Scores`. Means over libraries; a gene is reliable when it is so in every one.
    scored
        Indices of the measured spots that were held out once, and so scored.
    calibration
        Makes intervals of any level.
    errors
        How errors hang together, for joint draws.
    together
        Shape (measured,), int: which spots were held out together, for kriging; -1 where never.
    network
        The trained networks; ``None`` without features.
    record
        What was chosen on the way: shared weights, their spread, kriging choices.
    """

    out_of_fold: np.ndarray
    out_of_fold_sd: np.ndarray
    predicted: np.ndarray
    predicted_sd: np.ndarray
    depths: SiteDepths | None
    by_library: dict[int, Scores]
    genes: pd.DataFrame
    scores: pd.DataFrame
    scored: np.ndarray
    calibration: Calibration
    errors: Errors
    together: np.ndarray
    network: NetworkFit | FinetunedFit | None
    record: dict


def fit_section(
    section: Section, folds: list[Fold], settings: Settings, elsewhere: bool = False, shared: Shared | None = None
) -> SectionFit:
    """Cross-fit network and kriging, stack them per gene, calibrate, and score on the spots that were held out.

    Parameters
    ----------
    section
        The data.
    folds
        Of one repeat or more; scores and weights use the folds of the first, network values the mean over repeats.
    settings
        What to fit.
    elsewhere
        Predictions are wanted for libraries without measured spots: nothing may rest on neighbours in space.
    shared
        What a model of more libraries, with the same folds, predicts of this section: both are weighed.
    """
    first, fine, scored = settle_folds(folds, len(section.measured))
    own = stack_section(section, folds, settings, elsewhere)
    out_of_fold, predicted, depths, sharing = own.out_of_fold, own.predicted, own.depths, None
    if shared is not None:
        fold = fold_numbers(first, len(out_of_fold))[scored]
        sharing = weigh_sharing(section.expression[scored], own.out_of_fold[scored], shared.out_of_fold[scored], fold)
        out_of_fold, predicted, depths = sharing.take(scored, own, shared)
    result = calibrate_members(
        section, first, scored, out_of_fold, predicted, own.kriged, elsewhere, depths, settings.typical_depth
    )
    if elsewhere and len(first) > 1:
        group, typical = result.calibration.group, settings.typical_depth
        wider = widen(section, first, out_of_fold, result.predicted_sd, group, depths, typical)
        result = replace(result, predicted_sd=wider)
    together = held_out_together(fine, len(section.measured))
    errors = section_errors(section, result.seen, result.seen_sd, result.calibration, together, scored)
    result = replace(result, seen=None, seen_sd=None)  # large, and learnt from
    held_out, stack, network = {name: m.out_of_fold for name, m in own.members.items()}, own.stack, own.network
    krig_rates = None if own.kriged is None else own.kriged.rates_centre
    weights = {**({"rates": 0.0} if own.kriged else {}), **dict(zip(held_out, stack.weights, strict=True))}
    record = {
        "shared_weights": dict(zip(held_out, stack.shared, strict=True)),
        "weight_spread": stack.spread,
        "kriging": own.kriged.record if own.kriged is not None else {},
    }
    del own, predicted  # likewise, and not needed for scores

    references = reference_values(section, fine, elsewhere)
    alone = given_depth(section, fine, depths)
    centres = fitted_centres(section, first, fine, references["mean"], stack, list(held_out), krig_rates, alone)
    methods = {"snrmix": out_of_fold, **held_out, "depth": alone and alone.predicted, **references}
    by_library = score_libraries(section, methods, centres, list(references), scored, settings.seed, alone)
    for scores in by_library.values():
        for name, weight in weights.items():
            scores.genes[f"weight_{name}"] = weight
        if sharing is not None:
            record["sharing"] = sharing.record(scores.methods.loc["mean", "mse"])
    return SectionFit(
        result.out_of_fold, result.out_of_fold_sd, result.predicted, result.predicted_sd, depths, by_library,
        *mean_scores(by_library), scored, result.calibration, errors, together, network, record,
    )  # fmt: skip


def stack_section(section: Section, folds: list[Fold], settings: Settings, elsewhere: bool = False) -> Stacked:
    """Cross-fit network and kriging, and stack them per gene; parameters are those of `fit_section`."""
    first, fine, scored = settle_folds(folds, len(section.measured))
    network, kriged, members = fit_members(section, folds, fine, settings, elsewhere)
    stack, out_of_fold, predicted = stack_members(section, first, scored, members)
    depths = imply_depths(section, first, tell_depths(section, first, kriged, members), out_of_fold, predicted)
    return Stacked(out_of_fold, predicted, depths, members, stack, network, kriged)


def fit_members(
    section: Section, folds: list[Fold], fine: list[Fold], settings: Settings, elsewhere: bool
) -> tuple[NetworkFit | FinetunedFit | None, SectionKriging | None, dict[str, Member]]:
    """Network (with features or pixels) and kriging (where asked for), and both as members of the stack.

    Parameters
    ----------
    fine
        Folds for kriging, see `finer`; the other parameters are those of `fit_section`.
    """
    network = kriged = None
    members = {}
    if section.features.shape[1]:
        how = settings.mixing, settings.losses, settings.training, settings.seed
        if isinstance(settings.training, Finetuning):
            network, seen = fit_finetuned(section, section.patches, folds, settings.encoder, *how), section.patches
        else:
            network, seen = fit_network(section, folds, *how), section.features
        members["network"] = Member(network.out_of_fold, network.predict(seen[section.unmeasured]))
    if settings.kriging:
        kriged = krige_section(section, fine, settings.device, apart=elsewhere)
        members |= kriging_members(kriged)
    return network, kriged, members


def kriging_members(kriged: SectionKriging) -> dict[str, Member]:
    """What kriging has for the stack: values, and where they are of counts what rates and depth give."""
    found = {"kriging": Member(kriged.out_of_fold, kriged.predicted)}
    if kriged.out_of_fold_rates is not None:
        found["rates"] = Member(kriged.out_of_fold_rates, kriged.predicted_rates)
    return found


@stage("intervals")
def section_errors(
    section: Section,
    seen: np.ndarray,
    sd: np.ndarray,
    calibration: Calibration,
    together: np.ndarray,
    scored: np.ndarray,
) -> Errors:
    """How errors at the spots that were held out go together.

    Parameters
    ----------
    seen, sd
        Shape (scored, genes): out-of-fold values at the depths that the spots have.
    calibration
        Of these.
    together
        See `held_out_together`.
    """
    sites = section.measured[scored]
    return fit_errors(
        rows_of(section.expression, scored), seen, sd, calibration, section.positions[sites],
        section.library[sites] * (together.max() + 1) + together[scored], section.depth[scored],
    )  # fmt: skip


@stage("stack")
def stack_members(
    section: Section, folds: list[Fold], scored: np.ndarray, members: dict[str, Member]
) -> tuple[Stack, np.ndarray, np.ndarray]:
    """Weights, honest out-of-fold values and predictions. A single member is taken as it is.

    With one fold, the weights that score one half of its spots come from the other half.
    """
    fold_of = np.empty(len(section.expression), int)
    for k, fold in enumerate(folds):
        fold_of[fold.held_out] = k
    means = np.stack([section.expression[fold.train].mean(0) for fold in folds])
    fold_of = fold_of[scored]
    if len(folds) == 1:
        fold_of, means = np.arange(len(scored)) % 2, np.repeat(means, 2, axis=0)
    values = [rows_of(member.out_of_fold, scored) for member in members.values()]
    if len(members) == 1:
        only = next(iter(members.values()))
        weights = np.ones((1, section.expression.shape[1]))
        stack = Stack(weights, np.ones(1), 0.0, np.maximum(values[0], 0), np.stack([weights] * len(means)))
        predicted = np.maximum(only.predicted, 0)
    else:
        stack = fit_stack(rows_of(section.expression, scored), values, means, fold_of, folds[0].compact)
        predicted = combine(
            [member.predicted for member in members.values()], section.expression.mean(0), stack.weights
        )
    out_of_fold = spread_rows(stack.out_of_fold, scored, len(section.expression))
    return replace(stack, out_of_fold=None), out_of_fold, predicted


@stage("intervals")
def calibrate_members(
    section: Section, folds: list[Fold], scored: np.ndarray, out_of_fold: np.ndarray, predicted: np.ndarray,
    kriged: SectionKriging | None, elsewhere: bool, depths: SiteDepths | None = None, typical: float | None = None,
) -> AtDepth:  # fmt: skip
    """The calibration, out-of-fold values and predictions at the depth that is wanted, and their standard deviations."""
    context, context_unmeasured = scale_context(section, folds, scored, kriged, elsewhere)
    if typical is not None or (depths is not None and np.isfinite(depths.elsewhere).any()):
        return at_depth(section, folds, depths, typical, scored, out_of_fold, predicted, context, context_unmeasured)
    seen = rows_of(out_of_fold, scored)
    calibration = calibrate(rows_of(section.expression, scored), seen, context)
    seen_sd = calibration.sd(calibration.scale(seen, context))
    predicted_sd = calibration.sd(calibration.scale(predicted, context_unmeasured))
    out_of_fold_sd = spread_rows(seen_sd, scored, len(out_of_fold))
    return AtDepth(calibration, out_of_fold, out_of_fold_sd, predicted, predicted_sd, seen, seen_sd)


def scale_context(
    section: Section, folds: list[Fold], scored: np.ndarray, kriged, elsewhere: bool = False
) -> tuple[list, list]:
    """What the size of an error may depend on, at scored and at unmeasured sites: log distance, log kriging sd."""
    distance = np.empty(len(section.measured))
    for fold in folds:
        train, held_out = section.measured[fold.train], section.measured[fold.held_out]
        distance[fold.held_out] = distance_to_measured(section.positions, section.library, train, held_out)
    away = distance_to_measured(section.positions, section.library, section.measured, section.unmeasured)
    if elsewhere:  # no measured spot is near: as far as any spot that was held out
        away = np.full(len(away), distance[scored].max())
    at_scored, at_unmeasured = [np.log(np.maximum(d, 0.1))[:, None] for d in (distance[scored], away)]
    if kriged is None:
        return [at_scored], [at_unmeasured]
    log_sd, log_sd_unmeasured = (
        np.maximum(sd, SMALLEST_SCALE) for sd in (rows_of(kriged.out_of_fold_sd, scored), kriged.predicted_sd)
    )
    for values in (log_sd, log_sd_unmeasured):
        np.log(values, out=values)
    return [at_scored, log_sd], [at_unmeasured, log_sd_unmeasured]
