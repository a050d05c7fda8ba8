"""A fresh process that uses the library says nothing but what the library says itself."""

import os
import subprocess
import sys

FIRST_USE = """
import snrmix

how = {"encoder": "colour", "n_folds": 2, "max_epochs": 1, "genes": 8}
adata = snrmix.datasets.synthetic_tissue(9, 12, image_px_per_pitch=12)
snrmix.tl.impute(adata, **how)
sdata = snrmix.datasets.synthetic_spatialdata(9, 12, image_px_per_pitch=12)
snrmix.tl.impute(sdata, **how)
snrmix.pl.gene_scores(adata, show=False)
"""


def test_first_use_prints_only_what_we_log(tmp_path):
    """With warnings as errors those that slip out end it, and those about our own lines are printed."""
    environment = {**os.environ, "TQDM_DISABLE": "1", "MPLBACKEND": "agg"}
    run = [sys.executable, "-W", "error", "-c", FIRST_USE]
    done = subprocess.run(run, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == ""
    assert [line for line in done.stderr.splitlines() if not line.startswith("snrmix: ")] == []
