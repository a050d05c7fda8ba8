"""A user's program as a type checker reads it: checked by mypy, never run.

A line that is marked is wrong on purpose: where the checker does not see what is wrong, the mark itself is an error.
"""

from collections.abc import Iterator
from typing import assert_type

import anndata
import numpy as np

import snrmix
from snrmix.io import describe


def right(path: str) -> None:
    """Calls as they are meant."""
    adata = anndata.read_h5ad(path)
    snrmix.pp.embed_histology(adata, encoder="colour", um_per_px={"a": 0.5})
    snrmix.tl.impute(
        adata, measured="measured", genes=20, mix=snrmix.SNRMixing(), losses=snrmix.Losses(edge=0.5), max_epochs=5
    )
    snrmix.pl.compare(adata, "gene_0", show=False)
    assert_type(snrmix.tl.draws(adata, 2), Iterator[np.ndarray])
    assert_type(snrmix.SNRMix(genes=20).fit(adata), snrmix.SNRMix)
    assert_type(snrmix.SNRMix.load("model"), snrmix.SNRMix)
    print(describe(adata).to_json(indent=1))


def wrong(path: str) -> None:
    """Calls that a type checker refuses."""
    adata = anndata.read_h5ad(path)
    snrmix.tl.impute(adata, "measured")  # type: ignore[call-arg]
    snrmix.tl.impute(adata, n_folds="five")  # type: ignore[arg-type]
    snrmix.pl.compare(adata, "gene_0", no_such=1)  # type: ignore[call-arg]
    snrmix.tl.no_such_function(adata)  # type: ignore[attr-defined]
    snrmix.Losses(edge="strong")  # type: ignore[arg-type]
