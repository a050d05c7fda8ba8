"""The main job on an embedded section whose truth is known: what `snrmix demo` runs."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd

import snrmix
from snrmix._log import logger
from snrmix.engine.scores.baselines import ridge, spatial_knn
from snrmix.engine.scores.metrics import pearson

HIDDEN = 0.7
GENES = 3


def run_demo(folder: str | Path = "demo", random_state: int = 0) -> pd.DataFrame:
    """Hide most spots of a synthetic section, impute them, compare with simple predictors, draw and store the result.

    Parameters
    ----------
    folder
        Where ``snrmix_demo.png`` and ``snrmix_demo.h5ad`` go.
    random_state
        Seed of the section, of the hidden spots and of the training.

    Returns
    -------
    pandas.DataFrame
        Scores on the hidden spots, one row per method: mean squared error as a share of the mean's, and mean Pearson
        correlation per gene, both against the known truth.
    """
    started, folder = time.perf_counter(), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    adata = snrmix.datasets.synthetic_tissue(random_state=random_state)
    adata.obs["measured"] = np.random.default_rng(random_state).random(adata.n_obs) > HIDDEN
    logger.info(
        "synthetic section: %d spots, %d genes; %d spots are hidden.",
        adata.n_obs, adata.n_vars, (~adata.obs["measured"]).sum(),
    )  # fmt: skip
    snrmix.tl.impute(adata, measured="measured", random_state=random_state)
    scores = score_hidden(adata)
    genes = best_gene_of_each_programme(adata)[:GENES]
    picture, table = folder / "snrmix_demo.png", folder / "snrmix_demo.h5ad"
    snrmix.pl.compare(adata, genes, truth="truth", show=False, save=picture, dpi=130)
    adata.write_h5ad(table)
    print(
        f"\nHidden spots ({(~adata.obs['measured']).sum()}), against the known truth, without the noise of counts that\nout-of-fold scores are measured against:\n"
    )
    print(scores.to_string(float_format="{:.3f}".format))
    print(f"\nWrote {picture} (picture) and {table} (layers['snrmix']) in {time.perf_counter() - started:.0f} s.")
    return scores


def score_hidden(adata) -> pd.DataFrame:
    """Compare the layer with mean, spatial kNN and ridge on the same features, on the spots that were hidden."""
    measured = adata.obs["measured"].to_numpy()
    train, hidden = np.flatnonzero(measured), np.flatnonzero(~measured)
    observed, truth = adata.layers["snrmix"][train], adata.layers["truth"][hidden]
    library = np.zeros(adata.n_obs, int)
    predictions = {
        "snrmix": adata.layers["snrmix"][hidden],
        "ridge, same features": ridge(adata.obsm["X_histology"], train, hidden, observed),
        "spatial kNN": spatial_knn(adata.obsm["spatial"], library, train, hidden, observed),
        "mean": np.broadcast_to(observed.mean(0), truth.shape),
    }
    error = {name: np.mean((values - truth) ** 2) for name, values in predictions.items()}
    rows = [(error[name] / error["mean"], pearson(truth, values).mean()) for name, values in predictions.items()]
    return pd.DataFrame(rows, index=list(predictions), columns=["MSE / MSE(mean)", "Pearson per gene"])


def best_gene_of_each_programme(adata) -> list[str]:
    """The gene of highest out-of-fold correlation of every programme, the best programme first."""
    best = adata.var.sort_values("snrmix_pearson", ascending=False, kind="stable").groupby(
        "programme", observed=True, sort=False
    )
    return list(best.head(1).index)
