"""What README.md shows first runs as written: the real section, and every line that calls snrmix in a shell.

Its other blocks run in ``tests/test_docs.py``.
"""

import re
import shlex
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest

import snrmix
from snrmix.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PYTHON = [code for code in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL) if "snrmix.datasets" in code]
SHELL = [
    line
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    for line in block.splitlines()
    if line.startswith("snrmix ")
]


@pytest.fixture
def folder(small_settings, tmp_path, monkeypatch):
    """A folder with the files that README names."""
    adata = snrmix.datasets.synthetic_tissue(12, 40, image_px_per_pitch=16)
    adata.obs["measured"] = [i % 3 > 0 for i in range(adata.n_obs)]
    adata.write_h5ad(tmp_path / "section.h5ad")
    sheet = pd.DataFrame({"sample": ["one"], "path": ["section.h5ad"], "measured": ["measured"]})
    sheet.to_csv(tmp_path / "samples.csv", index=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_is_something_to_run():
    assert PYTHON and len(SHELL) >= 2


@pytest.mark.parametrize("block", PYTHON, ids=range(len(PYTHON)))
def test_block_runs(block, folder, real_file, monkeypatch):
    monkeypatch.setenv("SNRMIX_DATA", str(real_file("public").parent))
    plt.switch_backend("Agg")
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    assert "snrmix" in names["adata"].layers
    plt.close("all")


@pytest.mark.parametrize("line", SHELL)
def test_line_runs(line, folder):
    words = shlex.split(line, comments=True)[1:]
    small = ["--encoder", "colour", "--max-epochs", "1", "--n-folds", "2", "--quiet"]
    if words[0] == "cohort":
        pytest.importorskip("distributed")
        small += ["--workers", "1"]
    assert main([*words, *small]) == 0
    assert list(folder.glob("imputed.h5ad")) or (folder / "results" / "one.h5ad").is_file()
