"""The Snakemake workflow, with the real Snakemake: three sections, one of them corrupt at first."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import anndata
import pytest

import snrmix

WORKFLOW = Path(__file__).parents[1] / "workflows" / "snakemake"
pytestmark = pytest.mark.skipif(
    shutil.which("snakemake", path=Path(sys.executable).parent) is None, reason="no Snakemake"
)


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate("abc"):
        adata = snrmix.datasets.synthetic_tissue(n_rows=9, n_genes=24, image_px_per_pitch=16, random_state=seed)
        adata.obs["seen"] = [i % 3 > 0 for i in range(adata.n_obs)]
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    shutil.copytree(WORKFLOW, tmp_path / "workflow")
    (tmp_path / "samples.csv").write_text("sample,path,measured,patient\na,a.h5ad,,p\nb,b.h5ad,seen,p\nc,c.h5ad,,q\n")
    (tmp_path / "config.yaml").write_text(
        "samples: samples.csv\nresults: out\nthreads: 1\noptions: {encoder: colour, max_epochs: 1, n_folds: 2}\n"
    )
    return tmp_path


def snakemake(folder, *words):
    binaries = Path(sys.executable).parent
    words = ["-s", "workflow/Snakefile", "--configfile", "config.yaml", "--cores", "1", "--keep-going", *words]
    path = os.pathsep.join([str(binaries), os.environ["PATH"]])
    run = subprocess.run(
        [binaries / "snakemake", *words], cwd=folder, capture_output=True, text=True, env={**os.environ, "PATH": path},
        check=False,
    )  # fmt: skip
    return run.returncode, run.stdout + run.stderr


def test_failure_repair_and_rerun(folder):
    good = (folder / "c.h5ad").read_bytes()
    (folder / "c.h5ad").write_text("no HDF5")
    code, said = snakemake(folder)
    assert code != 0
    out = folder / "out"
    assert {path.name for path in out.glob("*.*")} == {"a.h5ad", "a.json", "b.h5ad", "b.json"}, said
    assert "cannot be read as an .h5ad file" in (out / "logs" / "c.info.log").read_text()
    first = (out / "a.h5ad").stat().st_mtime_ns

    (folder / "c.h5ad").write_bytes(good)
    code, said = snakemake(folder)
    assert code == 0, said
    assert (out / "a.h5ad").stat().st_mtime_ns == first, "what is done is left as it is"
    with (out / "summary.csv").open() as file:
        rows = {row["sample"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"a", "b", "c"}
    for name, row in rows.items():
        adata = anndata.read_h5ad(out / f"{name}.h5ad")
        assert float(row["mse_ratio"]) == pytest.approx(adata.uns["snrmix"]["scores"]["mse_ratio"]["snrmix"], abs=1e-4)
    assert {path.name for path in (out / "multiqc").iterdir()} == {
        f"{name}_snrmix_{part}mqc.json" for name in "abc" for part in ("", "general_")
    }
    assert {path.name for path in (out / "reports").iterdir()} == {"a.html", "b.html", "c.html"}
    assert "<h1>b</h1>" in (out / "reports" / "b.html").read_text()
    assert "61 " in (out / "info" / "b.txt").read_text(), "spots of the section"
    assert int(rows["b"]["n_measured"]) < int(rows["b"]["n_spots"])
    assert json.loads((out / "b.json").read_text())["status"] == "done"

    code, said = snakemake(folder, "--dry-run")
    assert code == 0
    assert "Nothing to be done" in said


def test_profiles_and_config_are_read(folder):
    for profile in ("local", "slurm"):
        text = (WORKFLOW / "profiles" / profile / "config.yaml").read_text()
        assert "keep-going: true" in text
    code, said = snakemake(folder, "--workflow-profile", "workflow/profiles/local", "--dry-run")
    assert code == 0, said
    assert "impute" in said
    (folder / "samples.csv").write_text("sample,path\na,a.h5ad\na,b.h5ad\n")
    code, said = snakemake(folder, "--dry-run")
    assert code != 0
    assert "a sample is in samples.csv twice" in said
