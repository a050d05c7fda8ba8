"""The main job on a section whose hidden spots are known: what `snrmix demo` runs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

import snrmix
from snrmix._log import logger
from snrmix.datasets.download import DATA, find
from snrmix.datasets.public import bulb_files
from snrmix.engine.scores.baselines import ridge, spatial_knn
from snrmix.engine.scores.metrics import pearson

HIDDEN, HIDDEN_REAL = 0.7, 0.5  # shares of the spots
GENES = 3
MARKERS = ["Penk", "S100a5", "Doc2g"]  # of the granule cells, the nerve layer and the mitral cells of the bulb
NOISELESS = (
    "against the known truth, without the noise of counts that\nout-of-fold scores are measured against"
)  # fmt: skip
OBSERVED = "against what was observed there, noise of counting included"


def run_demo(folder: str | Path = "demo", random_state: int = 0) -> pd.DataFrame:
    """Hide spots of a section, impute them, compare with simple predictors, draw and store the result.

    The section is synthetic, and no network is needed; where the folder ``SNRMIX_DATA`` holds the files of
    `snrmix.datasets.olfactory_bulb`, it is that real one.

    Parameters
    ----------
    folder
        Where ``snrmix_demo.png`` and ``snrmix_demo.h5ad`` go.
    random_state
        Seed of the synthetic section, of the hidden spots and of the training.

    Returns
    -------
    pandas.DataFrame
        Scores on the hidden spots, one row per method: mean squared error as a share of the mean's, and mean Pearson
        correlation per gene, against the known truth of the synthetic section or the observed values of the real one.
    """
    started, folder = time.perf_counter(), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    is_real = has_real_section()
    adata = real_section() if is_real else snrmix.datasets.synthetic_tissue(random_state=random_state)
    share = HIDDEN_REAL if is_real else HIDDEN
    adata.obs["measured"] = np.random.default_rng(random_state).random(adata.n_obs) > share
    n_hidden = (~adata.obs["measured"]).sum()
    kind = "mouse olfactory bulb" if is_real else "synthetic section"
    logger.info("%s: %d spots, %d genes; %d spots are hidden.", kind, adata.n_obs, adata.n_vars, n_hidden)
    snrmix.tl.impute(adata, measured="measured", random_state=random_state)
    scores = score_hidden(adata)
    genes = MARKERS if is_real else best_gene_of_each_programme(adata)[:GENES]
    picture, table = folder / "snrmix_demo.png", folder / "snrmix_demo.h5ad"
    snrmix.pl.compare(adata, genes, truth="truth", show=False, save=picture, dpi=130)
    adata.write_h5ad(table)
    print(f"\nHidden spots ({n_hidden}), {OBSERVED if is_real else NOISELESS}:\n")
    print(scores.to_string(float_format="{:.3f}".format))
    print(f"\nWrote {picture} (picture) and {table} (layers['snrmix']) in {time.perf_counter() - started:.0f} s.")
    return scores


def has_real_section() -> bool:
    """Whether the folder ``SNRMIX_DATA`` is named, and the files of the bulb are on this machine."""
    return bool(os.environ.get(DATA)) and all(find(file) is not None for file in bulb_files(1))


def real_section() -> AnnData:
    """The olfactory bulb with usual names of genes, and what was observed as ``layers["truth"]``."""
    adata = snrmix.datasets.olfactory_bulb(1)
    adata.var_names = adata.var["symbol"]
    counts = adata.X.toarray()
    adata.layers["truth"] = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    return adata


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
