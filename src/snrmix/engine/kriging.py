"""Kriging by component: simple kriging of the principal components of expression, in space and in looks.

Expression of the measured spots is rotated to its leading principal components. Every component has its own covariance
and nugget, chosen by leave-one-out among `Correlations.candidates`; what the components leave, the remainder, shares one
choice. Scores are those of a Gaussian process with mean 0, correlation ``K`` and noise ``nugget * noise_i`` at spot
``i`` (spots with few counts are noisier):

    mean      k' A^-1 z                                    A = K + nugget * diag(noise)
    variance  s^2 (1 - k' A^-1 k + nugget * noise)         s^2 = mean of (A^-1 z)_i^2 / (A^-1)_ii
    leave-one-out residual   (A^-1 z)_i / (A^-1)_ii        (Dubrule 1983, doi:10.1007/BF01033232)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from snrmix.engine.components import SpotNoise, depth_curves, split_components, spot_noise
from snrmix.engine.covariance import Block, Correlations, Covariance, KrigingSites
from snrmix.engine.scaling import standardise

if TYPE_CHECKING:
    from snrmix.engine.crossfit import Section
    from snrmix.engine.folds import Fold

NUGGETS = np.append(10.0 ** np.linspace(-2, 1.75, 6), 1e6)  # the last one means: predict the mean
CHOICE_SPOTS = 1000  # spots from which covariances are chosen; an eigendecomposition is cubic
MOST_CHOICES = 6  # covariance and nugget pairs averaged per component
SHARPNESS = 0.25  # weight of a choice is its leave-one-out error to the power of - SHARPNESS * spots
SKETCH = 64  # random projections that stand for the remainder's genes


@dataclass(frozen=True)
class Choice:
    """Covariances and nuggets of one component, or of the remainder, with their weights.

    Parameters
    ----------
    covariance, nugget
        Shape (choices,), indices into the candidates and into `NUGGETS`.
    weight
        Shape (choices,), sum 1.
    scale
        Shape (choices,): the variance ``s^2``.
    """

    covariance: np.ndarray
    nugget: np.ndarray
    weight: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class Kriged:
    """Mean and standard deviation of a new observation, float32, each of shape (targets, genes), and what was chosen."""

    mean: np.ndarray
    sd: np.ndarray
    record: list[dict]


@dataclass(frozen=True)
class SectionKriging:
    """Kriging of a section.

    Parameters
    ----------
    out_of_fold, out_of_fold_sd
        float32, shape (measured, genes); NaN where a spot was never held out.
    predicted, predicted_sd
        float32, shape (unmeasured, genes).
    record
        Choices made with all measured spots.
    """

    out_of_fold: np.ndarray
    out_of_fold_sd: np.ndarray
    predicted: np.ndarray
    predicted_sd: np.ndarray
    record: dict


def krige_section(section: Section, folds: Sequence[Fold], device: str = "cpu") -> SectionKriging:
    """Krige every held-out spot from the spots of its fold, and every unmeasured one from all measured spots.

    Means, components, choices and noise levels are fitted within the fold.
    """
    values = standardise(section.features, section.measured)
    sites = KrigingSites(section.positions, section.library, values[:, ~section.colour], values[:, section.colour])
    return cross_krige(sites, section.measured, section.expression, section.depth, folds, section.unmeasured, device)


def cross_krige(
    sites: KrigingSites,
    measured: np.ndarray,
    expression: np.ndarray,
    depth: np.ndarray | None,
    folds: Sequence[Fold],
    targets: np.ndarray,
    device: str = "cpu",
) -> SectionKriging:
    """Out-of-fold values at measured sites and predictions at targets.

    Parameters
    ----------
    sites
        All sites.
    measured
        Shape (m,), indices of the measured sites.
    expression
        float32, shape (m, genes), log units.
    depth
        Shape (m,), counts per measured spot; ``None`` where unknown: all spots are equally noisy then.
    folds
        Splits of the measured spots.
    targets
        Indices of sites to predict.
    device
        Where systems are solved.
    """
    correlations = Correlations(sites, measured)
    among = correlations.block(measured, measured)
    depths = None if depth is None else depth_curves(depth)
    shape = expression.shape
    out_of_fold, out_of_fold_sd = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    for fold in folds:
        kriged = krige(
            correlations.candidates,
            among.at(fold.train, fold.train),
            among.at(fold.held_out, fold.train),
            expression[fold.train],
            spot_noise(expression[fold.train], depths, fold.train),
            _site_rank(sites, measured[fold.train]),
            device,
        )
        out_of_fold[fold.held_out], out_of_fold_sd[fold.held_out] = kriged.mean, kriged.sd
    final = krige(
        correlations.candidates,
        among,
        correlations.block(targets, measured),
        expression,
        spot_noise(expression, depths, np.arange(len(measured))),
        _site_rank(sites, measured),
        device,
    )
    record = {"components": final.record[:-1], "remainder": final.record[-1]}
    return SectionKriging(out_of_fold, out_of_fold_sd, final.mean, final.sd, record)


def _site_rank(sites: KrigingSites, index: np.ndarray) -> np.ndarray:
    """Order by library and position, so that random halves do not depend on the order of the input."""
    return np.lexsort((sites.positions[index, 0], sites.positions[index, 1], sites.library[index]))


def krige(
    candidates: Sequence[Covariance],
    train: Block,
    to_targets: Block,
    expression: np.ndarray,
    noise: SpotNoise,
    order: np.ndarray,
    device: str = "cpu",
) -> Kriged:
    """Krige targets from training spots, component by component.

    Components are taken from random halves of the spots and predictions averaged over them: directions that the spots
    do not agree on are shrunk toward the remainder.

    Parameters
    ----------
    candidates
        Covariances to choose from.
    train, to_targets
        Training spots among themselves, and targets (rows) to training spots (columns).
    expression
        float32, shape (n, genes).
    noise
        Shape (n,), noise variance of each spot, mean 1.
    order
        Shape (n,), a permutation that sorts the spots in a canonical way.
    device
        Where systems are solved.
    """
    mean = expression.mean(0, dtype=np.float64).astype(np.float32)
    centred = expression - mean
    parts = split_components(centred, noise, order)
    some = order[np.sort(np.random.default_rng(0).permutation(len(order))[:CHOICE_SPOTS])]
    remainder = parts.sketch(centred, SKETCH)[some]
    choices = choose(candidates, train.at(some, some), parts.scores[some], remainder, noise.level[some])
    system = solve(candidates, choices, train, to_targets, parts.scores, noise.level, device)
    own = (system.mean - system.smoother @ parts.scores) * parts.share
    predicted = system.smoother.astype(np.float32) @ centred
    predicted += own.astype(np.float32) @ parts.loadings.T.astype(np.float32)
    predicted += mean
    variance = (system.variance * parts.share).astype(np.float32) @ (parts.loadings**2).T.astype(np.float32)
    variance += np.outer(system.remainder_variance, parts.remainder_share(centred)).astype(np.float32)
    record = [_describe(choice, candidates) for choice in choices]
    return Kriged(predicted, np.sqrt(np.maximum(variance, 0, out=variance), out=variance), record)


def choose(
    candidates: Sequence[Covariance], block: Block, scores: np.ndarray, remainder: np.ndarray, noise: np.ndarray
) -> list[Choice]:
    """Choose covariances and nuggets of every component, and last of the remainder, by leave-one-out error.

    The best choices are averaged with weights ``error^(-n / 4)``: the square root of the likelihood of leave-one-out
    residuals, because they are not independent.

    Parameters
    ----------
    candidates
        Covariances.
    block
        Training spots among themselves.
    scores, remainder
        Shape (n, components) and (n, columns).
    noise
        Shape (n,).
    """
    values = np.concatenate([scores, remainder], axis=1)
    error, scale = np.empty((2, len(candidates), len(NUGGETS), values.shape[1]))
    for k, covariance in enumerate(candidates):
        error[k], scale[k] = leave_one_out(covariance.of(block), values, noise, NUGGETS)
    components = scores.shape[1]
    choices = [_weigh(error[..., c], scale[..., c], len(values)) for c in range(components)]
    choices.append(_weigh(error[..., components:].mean(-1), scale[..., components:].mean(-1), len(values)))
    return choices


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
    weight[0, -1] = weight[:, -1].sum()
    weight[1:, -1] = 0
    best = np.sort(np.argsort(-weight, axis=None, kind="stable")[:MOST_CHOICES])
    best = best[weight.ravel()[best] > 0.02 * weight.max()]
    kept = weight.ravel()[best]
    return Choice(*np.unravel_index(best, weight.shape), kept / kept.sum(), scale.ravel()[best])


@dataclass(frozen=True)
class Solved:
    """Kriging of components, and the weights of the remainder.

    Parameters
    ----------
    mean, variance
        Shape (targets, components).
    smoother
        Shape (targets, n): weights of the training spots for the remainder of any gene.
    remainder_variance
        Shape (targets,), per gene of average remainder.
    """

    mean: np.ndarray
    variance: np.ndarray
    smoother: np.ndarray
    remainder_variance: np.ndarray


def solve(
    candidates: Sequence[Covariance],
    choices: list[Choice],
    train: Block,
    to_targets: Block,
    scores: np.ndarray,
    noise: np.ndarray,
    device: str = "cpu",
) -> Solved:
    """Solve the system of every covariance and nugget in use, once, for all components that use it.

    Parameters
    ----------
    candidates, choices
        Covariances; one choice per component, and last that of the remainder.
    train, to_targets
        As in `krige`.
    scores
        Shape (n, components).
    noise
        Shape (n,), mean 1.
    device
        Where to solve.
    """
    weight = _weight_table(choices, len(candidates))
    m, n = to_targets.distance.shape
    near = np.argsort(to_targets.distance, axis=1, kind="stable")[:, :6]
    target_noise = noise[near].mean(1)
    mean, variance = np.zeros((m, scores.shape[1])), np.zeros((m, len(choices)))
    smoother = np.zeros((m, n))
    for k, covariance in enumerate(candidates):
        used = np.flatnonzero(weight[k, :, :, 0].any(1))
        if not len(used):
            continue
        correlation = covariance.of(train)
        across = torch.from_numpy(covariance.of(to_targets)).to(device)
        for g in used:
            shares, scales = weight[k, g, :, 0], weight[k, g, :, 1]
            variance += np.outer(1 + NUGGETS[g] * target_noise, shares * scales)
            if g == len(NUGGETS) - 1:
                continue
            system = correlation + np.diag(NUGGETS[g] * noise)
            factor = torch.linalg.cholesky(torch.from_numpy(system).to(device))
            half = torch.linalg.solve_triangular(factor, across.T, upper=False)
            explained = (half**2).sum(0).cpu().numpy()
            variance -= np.outer(explained, shares * scales)
            some = np.flatnonzero(shares[:-1])
            if len(some):
                rotated = torch.linalg.solve_triangular(factor, torch.from_numpy(scores[:, some]).to(device), upper=False)
                mean[:, some] += (half.T @ rotated).cpu().numpy() * shares[some]
            if shares[-1]:
                dual = torch.linalg.solve_triangular(factor.T, half, upper=True)
                smoother += shares[-1] * dual.T.cpu().numpy()
    return Solved(mean, variance[:, :-1], smoother, variance[:, -1])


def _weight_table(choices: list[Choice], covariances: int) -> np.ndarray:
    """Weight and scale of every covariance and nugget, shape (covariances, nuggets, choices, 2)."""
    table = np.zeros((covariances, len(NUGGETS), len(choices), 2))
    for c, choice in enumerate(choices):
        table[choice.covariance, choice.nugget, c] = np.stack([choice.weight, choice.scale], axis=1)
    return table


def _describe(choice: Choice, candidates: Sequence[Covariance]) -> dict:
    """What a component uses most, for the record."""
    best = int(np.argmax(choice.weight))
    return {
        "covariance": candidates[choice.covariance[best]].name,
        "nugget": float(NUGGETS[choice.nugget[best]]),
        "weight": float(choice.weight[best]),
    }
