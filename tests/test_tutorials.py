"""The notebooks run, and what is stored in them is complete.

They run here in one process, with the smallest settings and on a part of the genes and pixels of the public sections. Their
outputs are stored by ``python tutorials/run.py``, in full.
"""

import contextlib
import io
import re
import shlex
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

import snrmix
from snrmix.cli import main

nbformat = pytest.importorskip("nbformat")
interactiveshell = pytest.importorskip("IPython.core.interactiveshell")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "tutorials").glob("*.ipynb"), key=lambda path: int(path.stem.split("_")[0]))
MOST_BYTES = 1_500_000
LOADERS = ("olfactory_bulb", "her2_tumour")

by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_tutorials_are_listed():
    readme, page = (ROOT / "README.md").read_text(), (ROOT / "docs" / "tutorials.md").read_text()
    for path in NOTEBOOKS:
        assert f"(tutorials/{path.name})" in readme and f"\ntutorials/{path.stem}\n" in page


@by_name
def test_notebook_is_stored_with_its_output(path):
    cells = code_cells(path)
    assert path.stat().st_size < MOST_BYTES
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    pictures = [output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})]
    assert pictures
    stored = "\n".join(
        str(output) for cell in cells for output in cell.outputs if "image" not in str(output.get("data", ""))
    )
    assert not re.search(r"Traceback|Warning:|(?<![\w.])/(home|root|work|tmp|usr|Users)/", stored)


@by_name
def test_notebook_ends_with_what_can_go_wrong(path):
    last = nbformat.read(path, as_version=4).cells[-1]
    assert last.cell_type == "markdown" and "## What can go wrong" in last.source


@pytest.fixture
def small(small_settings, monkeypatch):
    """Every call takes the smallest settings, and public sections have few genes and pixels."""
    for name in LOADERS:
        load = getattr(snrmix.datasets, name)
        monkeypatch.setattr(snrmix.datasets, name, lambda *args, load=load: cut(load(*args)))


def cut(adata):
    """The genes of highest mean and the ones that tutorials name, and the small image in place of a large one."""
    names = adata.var.get("symbol", adata.var_names.to_series())
    text = " ".join(path.read_text() for path in NOTEBOOKS)
    is_named = names.isin(set(re.findall(r"\w+", text)))
    is_high = np.asarray(adata.X.mean(0)).ravel()
    is_high = is_high >= np.sort(is_high)[-160]
    adata = adata[:, is_named.to_numpy() | is_high].copy()
    (section,) = adata.uns["spatial"].values()
    factors, small = section["scalefactors"], section["images"]["hires"]
    factor = factors["tissue_hires_scalef"]
    adata.obsm["spatial"] = adata.obsm["spatial"] * factor
    section["images"] = dict.fromkeys(section["images"], small)
    section["scalefactors"] = {name: 1.0 for name in factors if name.endswith("scalef")}
    section["scalefactors"]["spot_diameter_fullres"] = factors["spot_diameter_fullres"] * factor
    return adata


def in_shell(line: str) -> None:
    """Run a line that calls snrmix in this process: a new one takes seconds to load."""
    line, _, target = line.partition(" 2> ")[0].partition(" > ")
    words = shlex.split(line)[1:]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        main(words if words[0] == "info" else [*words, "--n-folds", "2"])
    if target:
        Path(target).write_text(out.getvalue())


@by_name
def test_notebook_runs(path, small, request, tmp_path, monkeypatch):
    cells = code_cells(path)
    if any(loader in cell.source for cell in cells for loader in LOADERS):
        monkeypatch.setenv("SNRMIX_DATA", str(request.getfixturevalue("real_file")("public").parent))
    monkeypatch.chdir(tmp_path)
    shell = interactiveshell.InteractiveShell()
    shell.user_ns["in_shell"] = in_shell
    for cell in cells:
        source = re.sub(r"^!(snrmix .*)", r'in_shell("\1")', cell.source, flags=re.MULTILINE)
        result = shell.run_cell(source, silent=True)
        assert result.success, f"{cell.source}\n{result.error_before_exec or result.error_in_exec!r}"
        plt.close("all")
    assert not list(tmp_path.iterdir())  # nothing is left behind
