"""The command line in the hands of a stranger: completion, stores, what is said on the way, and cohorts that cannot be."""

import json
import re
import tempfile

import numpy as np
import pytest

import snrmix
from snrmix.cli import NAMES, main

FAST = ["--encoder", "colour", "--max-epochs", "1", "--n-folds", "2"]


def test_completion_knows_commands_and_options(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", "/bin/bash")
    assert main(["--install-completion", "--shell", "bash"]) == 0
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert all(name.replace("_", "-") in written for name in NAMES)
    assert "--um-per-px" in written and "--share-by" in written


def test_spatialdata_in_place_keeps_its_parts_and_says_the_size(sdata, tmp_path, capsys):
    import spatialdata

    path = tmp_path / "section.zarr"
    sdata.write(path)
    before = spatialdata.read_zarr(path)
    capsys.readouterr()
    assert main(["impute", str(path), "--in-place", "--modelled-only", *FAST]) == 1
    assert "choose one" in capsys.readouterr().err
    assert main(["impute", str(path), "--in-place", "--json", *FAST]) == 0
    captured = capsys.readouterr()
    assert re.search(r"writing 117 x 40 values in each of 2 layers, \d+ MB before compression", captured.err)
    assert json.loads(captured.out)["files"] == [str(path)]
    after = spatialdata.read_zarr(path)
    assert set(after.images) == set(before.images) and set(after.shapes) == set(before.shapes)
    assert list(after["table"].obs_names) == list(before["table"].obs_names)
    assert np.isfinite(after["table"].layers["snrmix"]).all()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A folder with a section, and a folder that is none."""
    folder = tmp_path_factory.mktemp("study")
    snrmix.datasets.synthetic_tissue(9, 12, image_px_per_pitch=12).write_h5ad(folder / "a.h5ad")
    (folder / "other").mkdir()
    (folder / "other" / "notes.md").write_text("text")
    return folder


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("sample,path,mesured\na,a.h5ad,seen", [], "has a column 'mesured', .* Did you mean 'measured'"),
        ("sample,path\na,a.h5ad\na,a.h5ad", [], "sample 'a' is in .* twice"),
        ("sample,path\na,none.h5ad", [], "none.h5ad' of sample 'a' does not exist"),
        ("sample,path\na,other", [], "sample 'a': input .*other' is a folder with notes.md; expected"),
        (
            "sample,path\na,a.h5ad",
            ["--scheduler", "tcp://127.0.0.1:1"],
            "scheduler 'tcp://127.0.0.1:1' cannot be reached",
        ),
    ],
    ids=["unknown column", "sample twice", "missing file", "another kind of folder", "no scheduler"],
)
def test_a_cohort_that_cannot_be_is_one_sentence_and_code_1(study, tmp_path, monkeypatch, capsys, text, options, says):
    pytest.importorskip("distributed")
    monkeypatch.setattr("snrmix.tl._cohort_cluster.REACH", 0.2)
    (study / "sheet.csv").write_text(text + "\n")
    (tmp_path / "a.h5ad").write_text("precious")
    assert main(["cohort", str(study / "sheet.csv"), "-o", str(tmp_path), "--quiet", *options]) == 1
    assert re.fullmatch(f"snrmix: error: .*{says}.*\n", capsys.readouterr().err)
    assert (tmp_path / "a.h5ad").read_text() == "precious"


def test_a_cohort_whose_folder_cannot_be_written_to(study, tmp_path, monkeypatch, capsys):
    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    (study / "sheet.csv").write_text("sample,path\na,a.h5ad\n")
    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "TemporaryFile", refuse)
        assert main(["cohort", str(study / "sheet.csv"), "-o", str(tmp_path), "--quiet"]) == 1
    assert re.fullmatch(r"snrmix: error: output .* cannot be written: Permission denied\.\n", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_in_a_cohort(study, tmp_path, monkeypatch):
    """The sample fails with its sentence, and what a former run had is there."""
    from snrmix.data import save
    from snrmix.tl._cohort_sheet import read_sheet
    from snrmix.tl._cohort_unit import Unit, run_unit

    def full(table, path, compression):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    (study / "sheet.csv").write_text("sample,path\na,a.h5ad\n")
    (tmp_path / "a.h5ad").write_text("precious")
    how = {"encoder": "colour", "max_epochs": 1, "n_folds": 2}
    monkeypatch.setattr(save, "_write_h5ad", full)
    (record,) = run_unit(Unit(tuple(read_sheet(study / "sheet.csv", [], [])), tmp_path, how))
    assert record["status"] == "failed"
    assert record["error"].endswith("a.h5ad' could not be written: the disk is full; nothing was changed.")
    assert (tmp_path / "a.h5ad").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5ad"]
