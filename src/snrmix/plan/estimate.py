"""What a run will take, before it starts: time by stage, from its sizes and the speed of the machine, and what is said of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from snrmix._log import logger
from snrmix._memory import free_memory
from snrmix._progress import LONG, duration, expect, fastest, waiting
from snrmix.data.embedding import FEW_PATCHES
from snrmix.engine.folds import HALVED_SPOTS
from snrmix.engine.kriging.krige import is_exact
from snrmix.engine.network.heads import batches
from snrmix.engine.network.inputs import width_of
from snrmix.engine.options import Training
from snrmix.engine.scores.baselines import MOST_RIDGE_SPOTS
from snrmix.plan.cost import Run, fitting_ways

# Work is counted in products of a matrix product, fitted to `benchmarks/estimates.py` and to synthetic sections:
PACKAGES = 5e10  # of loading packages on the way
NEAR_KRIGING = 1.1e8  # of kriging from neighbourhoods, per site: many small systems
KRIGING_SPOT = 5e7  # of a fit to all spots, per spot
KRIGING_PAIR = 2.2e4  # per spot and site
KRIGING_VALUE = 1.8e4  # per spot and gene
COMPONENT_VALUE = 3.4e3  # of components of many genes, per spot, gene and network
STACK_VALUE = 8e3  # per spot and gene
INTERVAL_VALUE = 4e4
SCORE_VALUE = 6e3  # per spot, gene and fold
RIDGE_FEATURE = 5e3  # of the ridge regression of a fold, per site and feature
RIDGE_CUBE = 12.0  # per cubed number of spots or, where these are fewer, features
WRITTEN_VALUE = 1.5e3  # per site and gene of the object
UPDATES = 2.0  # that an update of AdamW is worth, with the average of the weights and the choice of inputs
GATHERED = 1.5  # times a product with features takes, which have to be picked for every step
TURNS = 4.0  # products that coordinates of the features take, per feature and squared number of coordinates
LEADING_TURNS = 20.0  # and where they are leading ones, found once
VALUES = 70.0  # updates that a value of a step takes, per spot and unit: masks, activations, losses and what they read
STEP_SECONDS = 3e-3  # of a training step, beside its products and updates
SHARE_OF_EPOCHS, SHARE_IF_MANY = 0.35, 0.75  # that are trained before it stops early, where every one sees all spots
SHORT_RUN = 1e4  # values that are imputed: fewer take no time that would be worth an estimate
PASSES = 11  # of a spot that is fine-tuned on: forward and backward, of itself, its partner and their mixture


@dataclass(frozen=True)
class Speed:
    """What the machine does now, beside its other work.

    Parameters
    ----------
    products
        That a matrix product of single precision makes in a second.
    updates
        Parameters that AdamW updates in a second, which takes memory more than the processor.
    """

    products: float
    updates: float


def machine_speed(size: int = 512, times: int = 32) -> Speed:
    """Try it, for a fraction of a second: the fastest of some times, each so short that other work leaves one alone."""
    import torch

    a = torch.rand(size, size, generator=torch.Generator().manual_seed(0))
    weights = torch.zeros(8 * size, size, requires_grad=True)  # more than a cache holds, with its moments and gradient
    weights.grad = torch.ones_like(weights)
    optimiser = torch.optim.AdamW([weights], fused=True)
    products, updates = fastest(lambda: a @ a, times), fastest(optimiser.step, times // 2)
    return Speed(size**3 / products, weights.numel() / updates)


def announce(run: Run, stages_of: Callable[[dict], dict] = dict) -> None:
    """Log what a long run will take.

    Parameters
    ----------
    run
        Its sizes.
    stages_of
        Makes seconds by stage of those of one imputation, where the run does something else with it.

    Raises
    ------
    ValueError
        When it needs more memory than is free; the message names what would fit.
    """
    free = free_memory()
    if run.bytes > free:
        raise ValueError(
            f"about {run.bytes / 1e9:.1f} GB of memory are needed for {run.subject}, and {free / 1e9:.1f} GB are free. "
            f"What would fit: {', '.join(fitting_ways(run, free))}."
        )
    is_long = run.sites * max(run.genes, 1) > SHORT_RUN or run.patches > FEW_PATCHES or run.tuning_seconds > 0
    stages = seconds_of(run, machine_speed()) if is_long else {}
    stages = {name: seconds * waiting() for name, seconds in stages_of(stages).items()} if stages else {}
    expect(stages)
    if (seconds := sum(stages.values())) > LONG:
        logger.info(
            "%s: about %.1f GB of memory (%.1f GB free) and %s on this machine.",
            run.subject, run.bytes / 1e9, free / 1e9, duration(seconds),
        )  # fmt: skip


def seconds_of(run: Run, speed: Speed) -> dict[str, float]:
    """Time of every stage of a run on a machine of this speed."""
    packages = 0.0 if "squidpy" in sys.modules or not run.measured else PACKAGES
    values = float(run.measured) * run.genes
    targets = COMPONENT_VALUE * values * run.networks if run.outputs < run.genes and run.features else 0.0
    work = {
        "graph": packages + targets,
        "kriging": _kriging(run),
        "stack": STACK_VALUE * values,
        "intervals": INTERVAL_VALUE * values,
        "scores": SCORE_VALUE * values * run.folds + (_ridge(run) if run.features and run.genes else 0.0),
        "writing": WRITTEN_VALUE * run.sites * run.columns,
    }
    return {
        "embedding": run.patches * run.patch_seconds,
        "fine-tuning": _passes(run) * run.tuning_seconds,
        "networks": 0.0 if run.tuning_seconds else _networks(run, speed),
        **{name: products / speed.products for name, products in work.items()},
    }


def _networks(run: Run, speed: Speed) -> float:
    """Seconds of training and of making inputs."""
    if not run.features:
        return 0.0
    hidden, train = Training.hidden, max(round(run.measured * (1 - 1 / max(run.folds, 2))), 1)
    batch, per_epoch = batches(train, Training(), run.features)
    width = width_of(train, run.features)
    step = 3 * batch * hidden * (width + 3 * run.outputs)  # of features, dropout leaves half
    judged = run.measured / run.networks * hidden * (width + run.outputs)
    updates = per_epoch * (hidden * (width + run.outputs) + VALUES * batch * (hidden + run.outputs) / UPDATES)
    few = width == train < run.features
    soon = width < run.features and batch * (per_epoch + 1) > train  # every epoch sees all spots
    epochs = run.epochs * ((SHARE_OF_EPOCHS if few else SHARE_IF_MANY) if soon else 1)
    step *= GATHERED if width == run.features else 1
    work = (per_epoch * step + judged) / speed.products + UPDATES * updates / speed.updates
    turned = 0.0
    if few:
        turned = run.networks * TURNS * run.features * width**2
    elif width < run.features:
        turned = run.features * width * (LEADING_TURNS * width + run.measured)
    return epochs * (run.networks * work + per_epoch * STEP_SECONDS) + turned / speed.products


def _kriging(run: Run) -> float:
    """Products of kriging every fold and everything."""
    if not run.kriging or not run.measured:
        return 0.0
    if not is_exact(run.measured, run.sites - run.measured):
        return NEAR_KRIGING * run.sites
    fits = (2 if run.measured <= HALVED_SPOTS else 1) * run.folds + 1
    return fits * run.measured * (KRIGING_SPOT + KRIGING_PAIR * run.sites + KRIGING_VALUE * run.genes)


def _ridge(run: Run) -> float:
    """Products of the ridge regression that scores are compared with."""
    cube = run.measured if run.measured <= MOST_RIDGE_SPOTS else min(MOST_RIDGE_SPOTS, run.features)
    return run.folds * (RIDGE_FEATURE * run.sites * run.features + RIDGE_CUBE * float(cube) ** 3)


def _passes(run: Run) -> float:
    """Patches that pass the encoder while it is fine-tuned, a backward pass counted as two."""
    held_out = run.measured / max(run.folds, 2)
    epoch = PASSES * (run.measured - held_out) + held_out
    return run.scales * (run.networks * (run.epochs * epoch + run.sites - run.measured) + run.measured)
