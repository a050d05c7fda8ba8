"""The module for Nextflow: its script, taken out and run with bash on the zarr of a SpatialData; and MultiQC's page.

Nextflow itself is not run.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import snrmix

FOLDER = Path(__file__).parents[1] / "workflows" / "nextflow"
MODULE = FOLDER / "modules" / "snrmix" / "impute"
BINARIES = Path(sys.executable).parent


def script_of(path: Path, process: str, **values) -> str:
    """The script of a process as Nextflow would hand it to bash: variables filled in, backslashes taken off, no indent."""
    text = path.read_text()
    body = re.search(rf'process {process} \{{.*?script:.*?"""\n(.*?)\n *"""', text, re.DOTALL)[1]
    body = re.sub(r"(?<!\\)\$\{([\w.]+)\}", lambda found: values[found[1]], body)
    assert not re.search(r"(?<!\\)\$[\w{]", body), "a variable of Groovy that the test does not know"
    lines = body.replace("\\\\", "\\").replace("\\$", "$").splitlines()
    indent = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    return "\n".join(line[indent:] for line in lines) + "\n"


def bash(script: str, folder: Path):
    path = os.pathsep.join([str(BINARIES), os.environ["PATH"]])
    (folder / ".command.sh").write_text(script)
    return subprocess.run(
        ["bash", "-euo", "pipefail", ".command.sh"], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": path},
    )  # fmt: skip


def values(section: str, args="--encoder colour --max-epochs 1 --n-folds 2") -> dict:
    return {"section": section, "prefix": "s1", "task.cpus": "1", "args": args, "task.process": "SNRMIX_IMPUTE"}


def test_script_of_the_module(tmp_path):
    import spatialdata

    sdata = snrmix.datasets.synthetic_spatialdata(n_rows=9, n_genes=24, image_px_per_pitch=16)
    sdata.write(tmp_path / "sdata_processed.zarr")
    run = bash(script_of(MODULE / "main.nf", "SNRMIX_IMPUTE", **values("sdata_processed.zarr")), tmp_path)
    assert run.returncode == 0, run.stderr
    result = spatialdata.read_zarr(tmp_path / "s1.imputed.zarr")
    assert set(result.images) == set(sdata.images)
    assert "snrmix" in result["table"].layers
    record = json.loads((tmp_path / "s1.snrmix.json").read_text())
    assert record["status"] == "done"
    versions = yaml.safe_load((tmp_path / "versions.yml").read_text())
    assert versions == {"SNRMIX_IMPUTE": {"snrmix": snrmix.__version__}}
    patterns = re.findall(r'path\("?([^")]+)"?\)|path "([^"]+)"', (MODULE / "main.nf").read_text())
    for pattern in (one or other for one, other in patterns):
        assert pattern == "section" or list(tmp_path.glob(pattern)), f"nothing matches the output {pattern}"

    sheet = bash(script_of(FOLDER / "main.nf", "SHEET", records="s1.snrmix.json"), tmp_path)
    assert sheet.returncode == 0, sheet.stderr
    rows = (tmp_path / "summary.csv").read_text().splitlines()
    assert rows[1].split(",")[:3] == ["s1.snrmix.json", "done", str(record["scores"]["mse_ratio"])]


def test_script_ends_with_the_code_and_the_sentence_of_the_command(tmp_path):
    (tmp_path / "bad.h5ad").write_text("no HDF5")
    run = bash(script_of(MODULE / "main.nf", "SNRMIX_IMPUTE", **values("bad.h5ad")), tmp_path)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith("snrmix: error: input 'bad.h5ad' cannot be read")
    assert not list(tmp_path.glob("*.zarr"))


def test_files_of_the_module():
    meta = yaml.safe_load((MODULE / "meta.yml").read_text())
    text = (MODULE / "main.nf").read_text()
    assert meta["name"] == "snrmix_impute"
    assert {next(iter(output)) for output in meta["output"]} == set(re.findall(r"emit: (\w+)", text))
    environment = yaml.safe_load((MODULE / "environment.yml").read_text())
    assert {"pip": [f"snrmix=={snrmix.__version__}"]} in environment["dependencies"]


@pytest.mark.skipif(shutil.which("multiqc", path=BINARIES) is None, reason="no MultiQC")
def test_multiqc_shows_it(tmp_path):
    from snrmix.data.multiqc import write_multiqc

    for sample, ratio, warnings in (("s1", 0.61, ["the image is pale.", "few spots."]), ("s2", 0.83, [])):
        figures = {"mse_ratio": ratio, "best_baseline_mse_ratio": 0.9, "pearson_median": 0.4, "n_reliable": 7}
        figures |= {"n_modelled": 20, "n_measured": 100, "n_spots": 117, "depth_share": 0.25}
        write_multiqc(tmp_path, sample, figures, warnings)
    run = subprocess.run(
        [BINARIES / "multiqc", "--force", "--no-version-check", "."], cwd=tmp_path, capture_output=True, text=True,
        check=False, env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    data = json.loads((tmp_path / "multiqc_data" / "multiqc_data.json").read_text())
    general = data["report_general_stats_data"]
    rows = next(iter(general.values())) if isinstance(general, dict) else general[0]
    assert {sample: _first(row)["mse_ratio"] for sample, row in rows.items()} == {"s1": 0.61, "s2": 0.83}
    table = data["report_saved_raw_data"]["multiqc_snrmix_table"]
    assert table["s1"]["depth_share"] == 0.25
    assert table["s1"]["warnings"] == "the image is pale. | few spots."
    assert table["s2"]["warnings"] == "none"
    assert "snrmix" in (tmp_path / "multiqc_report.html").read_text()


def _first(row):
    """Values of a sample; some versions list groups of them."""
    return row[0]["data"] if isinstance(row, list) else row
