"""Which covariances and nuggets kriging uses: those of least leave-one-out error, several of them averaged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from snrmix.engine.kriging.covariance import Correlations, Covariance, KrigingSites
from snrmix.engine.kriging.systems import NUGGETS, PREDICT_MEAN, Choice
from snrmix.engine.linear_algebra import one_thread

CHOICE_SPOTS, PATCH = 1000, 25  # spots from which covariances are chosen, in compact patches
MOST_CHOICES = 6  # covariance and nugget pairs averaged per component
SHARPNESS = 0.25  # weight of a choice is its leave-one-out error to the power of - SHARPNESS * spots


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
    correlations: Correlations, train: np.ndarray, scores: np.ndarray, remainders: list[np.ndarray], noise: np.ndarray
) -> list[Choice]:
    """Choose covariances and nuggets of every component, and last of every remainder, by leave-one-out error.

    The best choices are averaged with weights ``error^(-n / 4)``: the square root of the likelihood of leave-one-out
    residuals, since these are not independent.

    Parameters
    ----------
    correlations
        Of all sites.
    train
        Indices of the training sites.
    scores
        Shape (n, components).
    remainders
        Each of shape (n, columns).
    noise
        Shape (n,).
    """
    candidates, relations = correlations.candidates, correlations.between(train, train)
    values = np.concatenate([scores, *remainders], axis=1)
    error, scale = np.empty((2, len(candidates), len(NUGGETS), values.shape[1]))
    with one_thread():
        for k, covariance in enumerate(candidates):
            error[k], scale[k] = leave_one_out(covariance.of(relations), values, noise, NUGGETS)
    ends = np.cumsum([1] * scores.shape[1] + [rest.shape[1] for rest in remainders])[:-1]
    pieces = zip(np.split(error, ends, axis=-1), np.split(scale, ends, axis=-1), strict=True)
    return [_weigh(*(piece.mean(-1) for piece in both), len(scores)) for both in pieces]


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
    return Choice(*np.unravel_index(best, weight.shape), kept / kept.sum(), scale.ravel()[best], error.ravel()[best])


def describe(choices: list[Choice], names: list[str], candidates: Sequence[Covariance]) -> dict[str, np.ndarray]:
    """The covariance and nugget that each component uses most, and with what weight."""
    best = [int(np.argmax(choice.weight)) for choice in choices]
    pairs = list(zip(choices, best, strict=True))
    return {
        "component": np.array(names),
        "covariance": np.array([candidates[choice.covariance[b]].name for choice, b in pairs]),
        "nugget": np.array([NUGGETS[choice.nugget[b]] for choice, b in pairs]),
        "weight": np.array([choice.weight[b] for choice, b in pairs]),
    }
