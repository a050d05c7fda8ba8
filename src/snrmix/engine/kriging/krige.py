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

from snrmix.engine.folds import Fold
from snrmix.engine.kriging.components import (
    Components,
    Depths,
    depth_curves,
    split_components,
    spot_noise,
    trusted_depth,
)
from snrmix.engine.kriging.covariance import LOOKS, Correlations, Covariance, KrigingSites
from snrmix.engine.kriging.systems import NUGGETS, PREDICT_MEAN, Choice, Observed, solve_exact, solve_near
from snrmix.engine.linear_algebra import one_thread
from snrmix.engine.scaling import Standardised, standard_scale
from snrmix.engine.section import Section

EXACT_SPOTS = 5000  # measured spots up to which every prediction uses all of them
EXACT_CELLS = 3e7  # spots times targets, likewise
LOOKS_NEAR = 64  # principal axes of the embedding above
CHOICE_SPOTS, PATCH = 1000, 25  # spots from which covariances are chosen, in compact patches
MOST_CHOICES = 6  # covariance and nugget pairs averaged per component
SHARPNESS = 0.25  # weight of a choice is its leave-one-out error to the power of - SHARPNESS * spots
SKETCH = 64  # random projections that stand for the genes' remainders
SMALLEST_VARIANCE = 1e-8  # of a gene that is constant on the training spots


@dataclass(frozen=True)
class Kriged:
    """Predictions for some targets.

    Parameters
    ----------
    mean, sd
        float32, shape (targets, genes): mean and standard deviation of a new observation.
    """

    mean: np.ndarray
    sd: np.ndarray


@dataclass(frozen=True)
class SectionKriging:
    """Kriging of a section.

    Parameters
    ----------
    out_of_fold, out_of_fold_sd
        float32, shape (measured, genes); NaN where a spot was never held out.
    predicted, predicted_sd
        float32, shape (targets, genes).
    record
        Choices made with all measured spots.
    """

    out_of_fold: np.ndarray
    out_of_fold_sd: np.ndarray
    predicted: np.ndarray
    predicted_sd: np.ndarray
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
    for fold in folds:
        fitted = kriging.fit(measured[fold.train], expression[fold.train], depths.at(fold.train))
        kriged = fitted.predict(measured[fold.held_out])
        out_of_fold[fold.held_out], out_of_fold_sd[fold.held_out] = kriged.mean, kriged.sd
    fitted = kriging.fit(measured, expression, depths)
    final = fitted.predict(targets)
    record = {"exact": kriging.exact, **fitted.record}
    return SectionKriging(out_of_fold, out_of_fold_sd, final.mean, final.sd, record)


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
        return FittedKriging(observed, parts, mean, centred, self.exact, self.device)


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
    exact, device
        See `Kriging`.
    """

    observed: Observed
    components: Components
    mean: np.ndarray
    centred: np.ndarray
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
        return Kriged(predicted, variance)

    @property
    def record(self) -> dict[str, np.ndarray]:
        """What components and remainder use most; arrays, so that it can be stored."""
        return _describe(self.observed.choices, self.components.names, self.observed.correlations.candidates)


def _canonical(sites: KrigingSites, index: np.ndarray) -> np.ndarray:
    """Order of sites by library and position: what is drawn at random does not depend on the order of the input."""
    return np.lexsort((sites.positions[index, 0], sites.positions[index, 1], sites.library[index]))


def choice_spots(sites: KrigingSites, train: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Spots from which covariances are chosen: all, or patches, which keep the spacing of spots.

    Parameters
    ----------
    sites
        All sites.
    train
        Indices of the training sites.
    order
        A canonical order of them.

    Returns
    -------
    numpy.ndarray
        Positions in ``train``, ascending.
    """
    if len(train) <= CHOICE_SPOTS:
        return np.arange(len(train))
    rng = np.random.default_rng(0)
    free = np.ones(len(train), bool)
    for _ in range(CHOICE_SPOTS // PATCH):
        centre = rng.choice(order[free[order]])
        here = np.flatnonzero(free & (sites.library[train] == sites.library[train[centre]]))
        distance = ((sites.positions[train[here]] - sites.positions[train[centre]]) ** 2).sum(1)
        free[here[np.argsort(np.round(distance, 6), kind="stable")[:PATCH]]] = False
    return np.flatnonzero(~free)


def choose(
    correlations: Correlations, train: np.ndarray, scores: np.ndarray, remainder: np.ndarray, noise: np.ndarray
) -> list[Choice]:
    """Choose covariances and nuggets of every component, and last of the remainder, by leave-one-out error.

    The best choices are averaged with weights ``error^(-n / 4)``: the square root of the likelihood of leave-one-out
    residuals, since these are not independent.

    Parameters
    ----------
    correlations
        Of all sites.
    train
        Indices of the training sites.
    scores, remainder
        Shape (n, components) and (n, columns).
    noise
        Shape (n,).
    """
    candidates, relations = correlations.candidates, correlations.between(train, train)
    values = np.concatenate([scores, remainder], axis=1)
    error, scale = np.empty((2, len(candidates), len(NUGGETS), values.shape[1]))
    with one_thread():
        for k, covariance in enumerate(candidates):
            error[k], scale[k] = leave_one_out(covariance.of(relations), values, noise, NUGGETS)
    n, components = scores.shape
    choices = [_weigh(error[..., c], scale[..., c], n) for c in range(components)]
    return [*choices, _weigh(error[..., components:].mean(-1), scale[..., components:].mean(-1), n)]


def leave_one_out(
    correlation: np.ndarray, values: np.ndarray, noise: np.ndarray, nuggets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean squared leave-one-out residual and ``s^2`` for every nugget, from one eigendecomposition.

    Parameters
    ----------
    correlation
        Shape (n, n).
    values
        Shape (n, columns).
    noise
        Shape (n,).
    nuggets
        Shape (nuggets,).

    Returns
    -------
    tuple
        Each of shape (nuggets, columns).
    """
    root = np.sqrt(noise)[:, None]
    eigenvalues, vectors = np.linalg.eigh(correlation / root / root.T)
    rotated, squared = vectors.T @ (values / root), vectors**2
    error, scale = np.empty((2, len(nuggets), values.shape[1]))
    for g, nugget in enumerate(nuggets):
        inverse = 1 / (np.maximum(eigenvalues, 0) + nugget)
        dual, diagonal = vectors @ (inverse[:, None] * rotated), (squared @ inverse)[:, None]
        error[g] = np.mean((dual / diagonal * root) ** 2, axis=0)
        scale[g] = np.mean(dual**2 / diagonal, axis=0)
    return error, scale


def _weigh(error: np.ndarray, scale: np.ndarray, n: int) -> Choice:
    """Average the best choices; ties go to the first. Arguments of shape (covariances, nuggets)."""
    error = np.maximum(error, 1e-30)
    weight = np.exp(-SHARPNESS * n * np.log(error / error.min()))
    weight[0, PREDICT_MEAN] = weight[:, PREDICT_MEAN].sum()  # the mean is the same whatever the covariance
    weight[1:, PREDICT_MEAN] = 0
    best = np.sort(np.argsort(-weight, axis=None, kind="stable")[:MOST_CHOICES])
    best = best[weight.ravel()[best] > 0.02 * weight.max()]
    kept = weight.ravel()[best]
    return Choice(*np.unravel_index(best, weight.shape), kept / kept.sum(), scale.ravel()[best])


def _describe(choices: list[Choice], names: list[str], candidates: Sequence[Covariance]) -> dict[str, np.ndarray]:
    """The covariance and nugget that each component uses most, and with what weight."""
    best = [int(np.argmax(choice.weight)) for choice in choices]
    pairs = list(zip(choices, best, strict=True))
    return {
        "component": np.array([*names, "remainder"]),
        "covariance": np.array([candidates[choice.covariance[b]].name for choice, b in pairs]),
        "nugget": np.array([NUGGETS[choice.nugget[b]] for choice, b in pairs]),
        "weight": np.array([choice.weight[b] for choice, b in pairs]),
    }
