"""The linear systems of kriging: all training spots at once, or a moving neighbourhood of a few."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse

from snrmix.engine.kriging.covariance import Correlations, Relations
from snrmix.engine.linear_algebra import one_thread
from snrmix.engine.neighbours import nearest

NUGGETS = np.append(10.0 ** np.array([-1.5, -0.5, 0.5, 1.5]), 1e6)
PREDICT_MEAN = len(NUGGETS) - 1  # so noisy that the mean is predicted
NEIGHBOURS = 64
CLOSE, ANCHORS = 192, 64  # among these in space, and these spread over all, neighbours are found
TARGETS_AT_ONCE = 256
SEARCHED_AT_ONCE = 64 * TARGETS_AT_ONCE


@dataclass(frozen=True)
class Choice:
    """Covariances and nuggets of one component, or of a remainder, with their weights.

    Parameters
    ----------
    covariance, nugget
        Shape (choices,), indices into the candidates and into `NUGGETS`.
    weight
        Shape (choices,), sum 1.
    scale
        Shape (choices,): the variance ``s^2``.
    error
        Shape (choices,): mean squared leave-one-out residual.
    """

    covariance: np.ndarray
    nugget: np.ndarray
    weight: np.ndarray
    scale: np.ndarray
    error: np.ndarray


@dataclass(frozen=True)
class Observed:
    """What is known at the training spots, and how it is to be carried on.

    Parameters
    ----------
    correlations
        Of all sites.
    train
        Shape (n,), indices of the training spots among the sites.
    scores
        Shape (n, components).
    noise
        Shape (n,), mean 1.
    choices
        One per component, and last those of the remainders.
    """

    correlations: Correlations
    train: np.ndarray
    scores: np.ndarray
    noise: np.ndarray
    choices: list[Choice]

    @property
    def components(self) -> int:
        """How many there are; the other choices are those of remainders."""
        return self.scores.shape[1]

    def tables(self) -> tuple[np.ndarray, np.ndarray]:
        """Weight and scale of every covariance and nugget, each of shape (covariances, nuggets, choices)."""
        weight, scale = np.zeros((2, len(self.correlations.candidates), len(NUGGETS), len(self.choices)))
        for c, choice in enumerate(self.choices):
            weight[choice.covariance, choice.nugget, c] = choice.weight
            scale[choice.covariance, choice.nugget, c] = choice.scale
        return weight, scale

    def noise_at(self, targets: np.ndarray) -> np.ndarray:
        """Noise to expect at targets: the mean of the nearest 6 training spots of the library, 1 without any."""
        sites = self.correlations.sites
        near = nearest(sites.positions, sites.library, self.train, targets, min(6, len(self.train)))[0]
        known = near >= 0
        return np.where(known.any(1), (self.noise[near] * known).sum(1) / np.maximum(known.sum(1), 1), 1.0)


@dataclass(frozen=True)
class Solved:
    """Kriging of components, and the weights of the remainders.

    Parameters
    ----------
    mean, variance
        Shape (targets, components), of a new observation.
    smoothers
        For every remainder an array or sparse array, shape (targets, n): weights of the training spots for any gene.
    remainder_variance
        Shape (targets, remainders), for a gene of average remainder.
    """

    mean: np.ndarray
    variance: np.ndarray
    smoothers: list[np.ndarray | sparse.csr_array]
    remainder_variance: np.ndarray


def solve_exact(observed: Observed, targets: np.ndarray, device: str = "cpu") -> Solved:
    """Krige targets, sites by index, from all training spots: one Cholesky factor for every covariance and nugget in use.

    Systems are solved on ``device``.
    """
    correlations, train, scores, noise = observed.correlations, observed.train, observed.scores, observed.noise
    device, (weight, scale) = _double(device), observed.tables()
    target_noise = observed.noise_at(targets)
    c = observed.components
    mean, variance = np.zeros((len(targets), c)), np.zeros((len(targets), len(observed.choices)))
    smoothers = [np.zeros((len(targets), len(train))) for _ in observed.choices[c:]]
    if not len(targets):
        return Solved(mean, variance[:, :c], smoothers, variance[:, c:])
    among, across = correlations.between(train, train), correlations.between(targets, train)
    for k, covariance in enumerate(correlations.candidates):
        used = np.flatnonzero(weight[k].any(axis=1))
        if not len(used):
            continue
        correlation = covariance.of(among)
        right = torch.from_numpy(covariance.of(across)).to(device).T
        for g in used:
            shares = weight[k, g] * scale[k, g]
            variance += np.outer(1 + NUGGETS[g] * target_noise, shares)
            if g == PREDICT_MEAN:
                continue
            system = torch.from_numpy(correlation + np.diag(NUGGETS[g] * noise)).to(device)
            factor = torch.linalg.cholesky(system)
            half = torch.linalg.solve_triangular(factor, right, upper=False)
            variance -= np.outer((half**2).sum(0).cpu().numpy(), shares)
            some = np.flatnonzero(weight[k, g, :c])
            rotated = torch.linalg.solve_triangular(
                factor, torch.from_numpy(scores[:, some] * weight[k, g, some]).to(device), upper=False
            )
            mean[:, some] += (half.T @ rotated).cpu().numpy()
            if weight[k, g, c:].any():
                dual = torch.linalg.solve_triangular(factor.T, half, upper=True).T.cpu().numpy()
                for smoother, own in zip(smoothers, weight[k, g, c:], strict=True):
                    if own:
                        smoother += own * dual
    return Solved(mean, variance[:, :c], smoothers, variance[:, c:])


def solve_near(observed: Observed, targets: np.ndarray, device: str = "cpu") -> Solved:
    """Krige every target from its `NEIGHBOURS` most correlated training spots: time and memory linear in sites.

    Parameters are those of `solve_exact`.
    """
    device, target_noise = _double(device), observed.noise_at(targets)
    near, c = neighbourhoods(observed.correlations, observed.train, targets), observed.components
    mean, variance = np.zeros((len(targets), c)), np.zeros((len(targets), len(observed.choices)))
    weights = np.zeros((len(observed.choices) - c, *near.shape))
    with one_thread():
        for start in range(0, len(targets), TARGETS_AT_ONCE):
            rows = slice(start, start + TARGETS_AT_ONCE)
            mean[rows], variance[rows], weights[:, rows] = _solve_batch(
                observed, targets[rows], near[rows], target_noise[rows], device
            )
    starts = np.arange(len(targets) + 1) * near.shape[1]
    shape = len(targets), len(observed.train)
    smoothers = [sparse.csr_array((own.ravel(), near.ravel(), starts), shape=shape) for own in weights]
    return Solved(mean, variance[:, :c], smoothers, variance[:, c:])


def _solve_batch(observed: Observed, targets: np.ndarray, near: np.ndarray, target_noise: np.ndarray, device: str):
    """Mean, variance and the remainders' weights of some targets, given the positions of their neighbours in train."""
    correlations, scores, noise = observed.correlations, observed.scores, observed.noise
    (weight, scale), neighbours, c = observed.tables(), observed.train[near], observed.components
    among, across = correlations.between(neighbours, neighbours), correlations.between(targets[:, None], neighbours)
    across = Relations(across.distance[:, 0], None if across.image is None else across.image[:, 0])
    near_scores, near_noise = torch.from_numpy(scores[near]).to(device), torch.from_numpy(noise[near]).to(device)
    mean = torch.zeros((len(targets), scores.shape[1]), dtype=torch.float64, device=device)
    remainders = torch.zeros((len(observed.choices) - c, *near.shape), dtype=torch.float64, device=device)
    variance = np.zeros((len(targets), weight.shape[2]))
    for k, covariance in enumerate(correlations.candidates):
        used = np.flatnonzero(weight[k].any(axis=1))
        if not len(used):
            continue
        correlation = torch.from_numpy(covariance.of(among)).to(device)
        right = torch.from_numpy(covariance.of(across)).to(device)[:, :, None]
        for g in used:
            shares = weight[k, g] * scale[k, g]
            variance += np.outer(1 + NUGGETS[g] * target_noise, shares)
            if g == PREDICT_MEAN:
                continue
            factor = torch.linalg.cholesky(correlation + torch.diag_embed(NUGGETS[g] * near_noise))
            dual = torch.cholesky_solve(right, factor)
            variance -= np.outer((dual * right).sum((1, 2)).cpu().numpy(), shares)
            own = torch.from_numpy(weight[k, g]).to(device)
            mean += (dual.transpose(1, 2) @ near_scores)[:, 0] * own[:c]
            remainders += own[c:, None, None] * dual[:, :, 0]
    return mean.cpu().numpy(), variance, remainders.cpu().numpy()


def neighbourhoods(correlations: Correlations, train: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The training spots that correlate most with each target, by the mean of all candidate covariances.

    They are found among the nearest in space and some spots spread over all of them, which are all that a target has
    whose library has no training spot.

    Returns
    -------
    numpy.ndarray
        Positions in ``train``, ascending, shape (targets, <= `NEIGHBOURS`).
    """
    sites, n, m = correlations.sites, len(train), min(NEIGHBOURS, len(train))
    near = np.empty((len(targets), m), int)
    everywhere = np.arange(n) if n <= CLOSE + ANCHORS else np.linspace(0, n - 1, ANCHORS).astype(int)
    for start in range(0, len(targets), TARGETS_AT_ONCE):
        rows = targets[start : start + TARGETS_AT_ONCE]
        found = np.broadcast_to(everywhere, (len(rows), len(everywhere)))
        usable = np.ones(found.shape, bool)
        if n > CLOSE + ANCHORS:
            if start % SEARCHED_AT_ONCE == 0:  # a search tree is made once for many
                some = targets[start : start + SEARCHED_AT_ONCE]
                searched = nearest(sites.positions, sites.library, train, some, CLOSE)[0]
            close = searched[start % SEARCHED_AT_ONCE :][: len(rows)]
            twice = (found[:, :, None] == close[:, None, :]).any(2)
            found, usable = np.concatenate([close, found], 1), np.concatenate([close >= 0, ~twice], 1)
        relations = correlations.between(rows[:, None], train[found])
        similar = np.mean([covariance.of(relations)[:, 0] for covariance in correlations.candidates], axis=0)
        best = np.argsort(-np.where(usable, similar, -1), axis=1, kind="stable")[:, :m]
        near[start : start + len(rows)] = np.sort(np.take_along_axis(found, best, 1), axis=1)
    return near


def _double(device: str) -> str:
    """The device, or the processor where the device has no double precision."""
    return "cpu" if str(device).startswith("mps") else device
