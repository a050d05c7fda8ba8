"""A result as `snrmix.tl.impute` leaves it, made by hand of a simulation whose truth is known: fast, and without images."""

from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest

from snrmix.engine.conformal import LEVELS, calibrate
from snrmix.engine.errors import fit_errors
from snrmix.tl._errors import error_slots

FOLDS = 10
NEAR = 12  # measured spots that a prediction is the mean of


def smooth_field(positions, reach, columns, rng, waves=200):
    """Gaussian fields of exponential covariance and variance 1."""
    frequency = rng.standard_normal((2, waves)) / np.sqrt(rng.chisquare(1, waves)) / reach
    phase = positions @ frequency
    return (
        np.concatenate([np.cos(phase), np.sin(phase)], 1) @ rng.standard_normal((2 * waves, columns)) / np.sqrt(waves)
    )


def nearest_mean(positions, values, train, targets, weight):
    """Mean of the nearest training spots, pulled to the mean of all by a weight per gene."""
    distance = ((positions[targets][:, None] - positions[train][None]) ** 2).sum(-1)
    near = train[np.argsort(distance, axis=1, kind="stable")[:, :NEAR]]
    mean = values[train].mean(0)
    return mean + weight * (values[near].mean(1) - mean)


def simulate(side=20, genes=60, noise_genes=30, seed=0, shared=0.3):
    """Positions, and values of genes with a smooth pattern and of genes without any; errors go together between genes."""
    rng = np.random.default_rng(seed)
    positions = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2).astype(float)
    n = len(positions)
    signal = smooth_field(positions, 8.0, genes, rng) * np.linspace(0.4, 1.2, genes)
    signal[:, :noise_genes] = 0
    common = rng.standard_normal((n, 1)) * shared
    noise = rng.standard_normal((n, genes)) * np.sqrt(1 - shared**2) + common
    return positions, np.maximum(5 + signal + noise, 0).astype(np.float32)


def make_result(
    fill="unmeasured", seed=0, side=20, genes=60, noise_genes=30, share=0.5, weight=0.9, libraries=1, **options
):
    """An AnnData with a result, ``layers["truth"]`` and ``var["noise"]``."""
    positions, truth = simulate(side, genes, noise_genes, seed, **options)
    rng, n = np.random.default_rng(seed + 1000), len(positions)
    library = np.arange(n) * libraries // n
    is_measured = rng.random(n) < share
    measured, unmeasured = np.flatnonzero(is_measured), np.flatnonzero(~is_measured)
    fold = rng.permutation(len(measured)) % FOLDS
    weight = np.where(np.arange(genes) < noise_genes, 0.3, weight)
    predicted = np.empty_like(truth)
    predicted[unmeasured] = nearest_mean(positions, truth, measured, unmeasured, weight)
    for k in range(FOLDS):
        predicted[measured[fold == k]] = nearest_mean(
            positions, truth, measured[fold != k], measured[fold == k], weight
        )
    predicted = np.maximum(predicted, 0)
    calibration = calibrate(truth[measured], predicted[measured], [])
    sd = calibration.sd(calibration.scale(predicted, []))
    errors = fit_errors(
        truth[measured], predicted[measured], sd[measured], calibration, positions[measured],
        library[measured] * FOLDS + fold, np.full(len(measured), 4000.0),
    )  # fmt: skip
    names = np.array([f"s{i:04d}" for i in rng.permutation(n)])
    order = np.argsort(names)
    rank = np.empty(n, int)
    rank[order] = np.arange(n)
    part = SimpleNamespace(
        sites=SimpleNamespace(order=order, library=library[order], lattice_positions=positions[order]),
        measured=np.sort(rank[measured]), predicts=np.ones(n, bool),
        expression=SimpleNamespace(columns=np.arange(genes)),
    )  # fmt: skip
    together = np.full(n, -1)
    together[measured] = fold
    fit = SimpleNamespace(errors=errors, together=together[order][is_measured[order]])
    at_sites, of_genes, record = error_slots(truth.shape, [(part, fit)])
    layer, spread = predicted.copy(), sd.copy()
    if fill == "unmeasured":
        layer[measured], spread[measured] = truth[measured], 0
    made = anndata.AnnData(
        truth.copy(), obs=pd.DataFrame({"snrmix_measured": is_measured}, index=names),
        var=pd.DataFrame({"noise": np.arange(genes) < noise_genes}, index=[f"g{i:03d}" for i in range(genes)]),
        layers={"snrmix": layer, "snrmix_sd": spread, "truth": truth},
    )  # fmt: skip
    made.obsm["spatial"] = positions * 100
    made.obs["side"] = pd.Categorical(np.where(positions[:, 0] < side / 2, "left", "right"))
    made.obsm["snrmix_errors"], made.varm["snrmix_errors"] = at_sites, of_genes
    made.var["snrmix_calibration"] = calibration.group
    made.uns["snrmix"] = {
        "calibration": {"low": calibration.low, "high": calibration.high, "levels": LEVELS}, "errors": record, "fill": fill
    }  # fmt: skip
    return made


@pytest.fixture(scope="session")
def made_result():
    """Makes results by hand, see `make_result`."""
    return make_result
