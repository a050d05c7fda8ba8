"""Cohorts: on two workers, with a corrupt file, a worker that is killed, a rerun, an interruption, a shared model."""

import json
import multiprocessing
import os
import re
import signal
import sys
import time
from multiprocessing import forkserver

import anndata
import numpy as np
import pandas as pd
import pytest

import snrmix
from snrmix.cli import main
from snrmix.tl._cohort_cluster import connected, estimate, plan_workers, shape_of
from snrmix.tl._cohort_sheet import read_sheet
from snrmix.tl._cohort_unit import Unit, done

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")
FAST = {"encoder": "colour", "max_epochs": 1, "n_folds": 2}


@pytest.fixture(scope="module", autouse=True)
def warm():
    """New processes come from one that has loaded all packages, which would take them far longer than their work."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["distributed", "squidpy", "lightning.pytorch", "snrmix.tl", "snrmix.cli"])
    forkserver.ensure_running()
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield context


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Three sections of two patients, the second one with a column of measured spots."""
    folder = tmp_path_factory.mktemp("cohort")
    for seed, name in enumerate("abc"):
        adata = snrmix.datasets.synthetic_tissue(n_rows=9, n_genes=24, image_px_per_pitch=16, random_state=seed)
        adata.obs["seen"] = np.arange(adata.n_obs) % 3 > 0
        adata.write_h5ad(folder / f"{name}.h5ad")
    return folder


def sheet(folder, text: str, name="sheet.csv"):
    path = folder / name
    path.write_text(re.sub(r"\n +", "\n", text.strip()) + "\n")
    return path


THREE = "sample,path,measured,patient\na,a.h5ad,,p\nb,b.h5ad,seen,p\nc,c.h5ad,,q"


@pytest.fixture(scope="module")
def cluster():
    """Two workers in processes of their own."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=0, silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def finished(cohort, cluster, tmp_path_factory):
    """A cohort with a file that is none, and what came of it."""
    out = tmp_path_factory.mktemp("finished")
    (cohort / "junk.h5ad").write_text("no HDF5")
    path = sheet(cohort, THREE + "\njunk,junk.h5ad,,q", "with_junk.csv")
    return path, out, snrmix.tl.impute_cohort(path, out, client=cluster, **FAST)


def test_a_corrupt_file_among_good_ones(finished, cohort):
    path, out, table = finished
    assert list(table.index) == ["a", "b", "c", "junk"]
    assert list(table["status"]) == ["done", "done", "done", "failed"]
    assert "junk.h5ad' cannot be read as an .h5ad file" in table.loc["junk", "error"]
    assert not (out / "junk.h5ad").exists()
    assert (table.loc[list("abc"), "seconds"] > 0).all()
    assert (table.loc[list("abc"), "memory_gb"] > 0.1).all()
    assert table.loc["b", "n_measured"] < table.loc["b", "n_spots"]
    stored = pd.read_csv(out / "cohort.csv", index_col=0)
    np.testing.assert_allclose(stored["mse_ratio"], table["mse_ratio"])
    page = (out / "cohort.html").read_text()
    assert "3 of 4 samples imputed" in page
    assert "cannot be read as an .h5ad file" in page


def test_each_is_as_if_it_were_imputed_alone(finished, cohort):
    _, out, table = finished
    for name, measured in (("a", None), ("b", "seen")):
        alone = anndata.read_h5ad(cohort / f"{name}.h5ad")
        snrmix.tl.impute(alone, measured=measured, **FAST)
        result = anndata.read_h5ad(out / f"{name}.h5ad")
        np.testing.assert_allclose(result.layers["snrmix"], alone.layers["snrmix"], atol=1e-4)
        assert table.loc[name, "mse_ratio"] == pytest.approx(
            alone.uns["snrmix"]["scores"]["mse_ratio"]["snrmix"], abs=1e-4
        )


def test_a_rerun_does_what_is_not_done(finished, cohort, cluster):
    path, out, _ = finished
    times = {name: (out / f"{name}.h5ad").stat().st_mtime_ns for name in "abc"}
    (cohort / "junk.h5ad").write_bytes((cohort / "a.h5ad").read_bytes())
    again = snrmix.tl.impute_cohort(path, out, client=cluster, **FAST)
    assert (again["status"] == "done").all()
    assert {name: (out / f"{name}.h5ad").stat().st_mtime_ns for name in "abc"} == times
    (cohort / "junk.h5ad").write_text("no HDF5")


def test_pages_about_results(cohort, tmp_path):
    from snrmix.tl._cohort_unit import run_unit

    path = sheet(cohort, "sample,path\na,a.h5ad", "one.csv")
    (sample,) = read_sheet(path, [], [])
    (record,) = run_unit(Unit((sample,), tmp_path, FAST, report=snrmix.pl.report))
    page = tmp_path / "a.report.html"
    assert record["report"] == page.name and "<h1>a</h1>" in page.read_text()
    stored = (tmp_path / "a.h5ad").stat().st_mtime_ns
    page.unlink()
    table = snrmix.tl.impute_cohort(path, tmp_path, report=snrmix.pl.report, **FAST)
    assert page.exists() and (tmp_path / "a.h5ad").stat().st_mtime_ns == stored, "made from the result that is there"
    assert table.loc["a", "report"] == page.name
    assert '<a href="a.report.html">report</a>' in (tmp_path / "cohort.html").read_text()
    table = snrmix.tl.impute_cohort(path, tmp_path, **FAST)
    assert "report" not in table and "a.report.html" not in (tmp_path / "cohort.html").read_text()


def test_a_page_that_fails_costs_no_result(cohort, tmp_path):
    from snrmix.tl._cohort_unit import run_unit

    def fail(*_, **options):
        raise RuntimeError("no ink")

    (sample,) = read_sheet(sheet(cohort, "sample,path\na,a.h5ad", "one.csv"), [], [])
    (record,) = run_unit(Unit((sample,), tmp_path, FAST, report=fail))
    assert record["status"] == "done" and "report" not in record
    assert any("the report could not be written: unexpected RuntimeError: no ink" in one for one in record["warnings"])
    assert (tmp_path / "a.h5ad").exists()


def test_what_makes_a_rerun(cohort, tmp_path):
    sample = read_sheet(sheet(cohort, THREE), ["measured"], ["patient"])[0]
    unit = Unit((sample,), tmp_path, FAST)
    assert done(unit) is None
    from snrmix.tl._cohort_unit import run_unit

    assert run_unit(unit)[0]["status"] == "done"
    assert done(unit) is not None
    os.utime(sample.path)
    assert done(unit) is not None, "the same content with another time"
    assert done(Unit((sample,), tmp_path, {**FAST, "random_state": 1})) is None
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["figures"]["n_spots"] > 0
    (tmp_path / "a.h5ad").unlink()
    assert done(unit) is None
    (tmp_path / "a.h5ad").touch()
    (tmp_path / "a.json").write_text("{")
    assert done(unit) is None


def test_a_change_of_content_makes_a_rerun(cohort, tmp_path):
    from snrmix.tl._cohort_unit import digest

    path = tmp_path / "a.h5ad"
    path.write_bytes((cohort / "a.h5ad").read_bytes())
    sample = read_sheet(pd.DataFrame({"sample": ["a"], "path": [path]}), [], [])[0]
    unit = Unit((sample,), tmp_path)
    first, files = digest(unit)
    adata = anndata.read_h5ad(path)
    adata.X[0, 0] += 1
    adata.write_h5ad(path)
    assert digest(unit, files)[0] != first


def kill_once(unit, threads):
    """Work that kills its worker the first time."""
    from snrmix.tl._cohort_unit import run_unit

    mark = unit.out / "killed"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return run_unit(unit, threads)


def test_a_lost_worker_costs_nothing_but_time(cohort, cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(_module(), "run_unit", kill_once)
    table = snrmix.tl.impute_cohort(sheet(cohort, THREE), tmp_path, client=cluster, **FAST)
    assert (tmp_path / "killed").exists()
    assert list(table["status"]) == ["done"] * 3


def kill_always(unit, threads):
    """Work that no worker survives."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_sample_that_no_worker_survives_fails_with_a_sentence(cohort, cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(_module(), "run_unit", kill_always)
    cluster.run_on_scheduler(lambda dask_scheduler: setattr(dask_scheduler, "allowed_failures", 0))
    path = sheet(cohort, "sample,path\na,a.h5ad", "one.csv")
    table = snrmix.tl.impute_cohort(path, tmp_path, client=cluster, **FAST)
    assert table.loc["a", "status"] == "failed"
    assert "its worker was lost several times" in table.loc["a", "error"]


def _module():
    return sys.modules["snrmix.tl.impute_cohort"]


def test_sections_of_a_patient_share_a_model(cohort, cluster, tmp_path):
    table = snrmix.tl.impute_cohort(sheet(cohort, THREE), tmp_path, client=cluster, share_by="patient", **FAST)
    assert list(table["status"]) == ["done"] * 3, table["error"].tolist()
    assert list(table["patient"]) == ["p", "p", "q"]
    originals = {name: anndata.read_h5ad(cohort / f"{name}.h5ad") for name in "ab"}
    together = anndata.concat(originals, label="slide", index_unique="@", merge="same")
    together.obs["seen"] = [*np.ones(originals["a"].n_obs, bool), *originals["b"].obs["seen"]]
    together.uns["spatial"] = {name: next(iter(adata.uns["spatial"].values())) for name, adata in originals.items()}
    snrmix.tl.impute(together, measured="seen", library_key="slide", share=True, **FAST)
    for name, original in originals.items():
        result = anndata.read_h5ad(tmp_path / f"{name}.h5ad")
        assert list(result.obs_names) == list(original.obs_names)
        assert list(result.uns["spatial"]) == [name]
        expected = together[(together.obs["slide"] == name).to_numpy()].layers["snrmix"]
        np.testing.assert_allclose(result.layers["snrmix"], expected, atol=1e-4)
        assert "snrmix_is_measured" not in result.obs


PROGRAM = """
import os, sys
for number, path in ((1, {out!r}), (2, {err!r})):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
from snrmix.cli import main
code = main({words!r})
sys.stdout.flush()
os._exit(code)
"""


def test_an_interrupted_cohort_goes_on_where_it_was(cohort, cluster, tmp_path, capsys, warm):
    """The command line: Ctrl-C after the first result, and the same command again, with workers of its own."""
    path, out = sheet(cohort, THREE), tmp_path / "out"
    words = ["cohort", str(path), "-o", str(out), "--format", "zarr", "--json"]
    words += ["--encoder", "colour", "--max-epochs", "1", "--n-folds", "2"]
    said, log = tmp_path / "said", tmp_path / "log"
    there = PROGRAM.format(out=str(said), err=str(log), words=[*words, "--scheduler", cluster.scheduler.address])
    run = warm.Process(target=exec, args=(there,))
    run.start()
    end = time.monotonic() + 60
    while not (log.exists() and "1 of 3: " in log.read_text()):
        assert time.monotonic() < end and run.is_alive(), log.read_text()
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGINT)
    run.join(60)
    assert run.exitcode == 130
    assert json.loads(said.read_text())["status"] == "interrupted"
    first = sorted(file.stem for file in out.glob("?.json"))
    assert first
    started = {name: (out / f"{name}.json").stat().st_mtime_ns for name in first}
    capsys.readouterr()
    assert main([*words, "--workers", "1"]) == 0
    captured = capsys.readouterr()
    assert {"a", "b", "c"} == set(json.loads(captured.out)["scores"])
    assert "are done already" in captured.err
    assert {name: (out / f"{name}.json").stat().st_mtime_ns for name in first} == started
    assert not list(out.glob(".*")), "nothing is left beside the results"
    assert anndata.read_zarr(out / "c.zarr").layers["snrmix"].shape[0] > 0


def test_micrometres_of_one_sample_are_known_of_all_or_asked_for(cohort, tmp_path, monkeypatch):
    from snrmix.tl._cohort_share import impute_together

    given = []
    monkeypatch.setattr(snrmix.tl, "impute", lambda study, **options: given.append(options.get("um_per_px")))
    text = "sample,path,um_per_px\na,a.h5ad,1.5\nb,b.h5ad,"
    unit = Unit(tuple(read_sheet(sheet(cohort, text, "um.csv"), ["um_per_px"], [])), tmp_path, FAST)
    impute_together(unit)
    assert given == [{"a": 1.5, "b": pytest.approx(100 / 64, rel=0.01)}], "the pitch of Visium"
    monkeypatch.setattr("snrmix.tl._cohort_share._um_of_array", lambda table: np.nan)
    with pytest.raises(ValueError, match="is known of some and not of 'b': name it for each"):
        impute_together(unit)


def test_spatialdata_share_a_model_as_anndata_do(cohort, tmp_path):
    """Also with an AnnData beside it: each comes back as what it was, with the same values."""
    import spatialdata

    from snrmix.tl._cohort_unit import run_unit

    how = {"n_rows": 9, "n_genes": 24, "image_px_per_pitch": 16}
    for seed, name in enumerate("ab"):
        snrmix.datasets.synthetic_spatialdata(**how, random_state=seed).write(tmp_path / f"{name}.zarr")
        snrmix.datasets.synthetic_tissue(**how, random_state=seed).write_h5ad(tmp_path / f"{name}.h5ad")

    def impute(first, second, suffix):
        out = tmp_path / f"{first}_{second}"
        out.mkdir()
        table = pd.DataFrame({"sample": ["a", "b"], "path": [tmp_path / f"a.{first}", tmp_path / f"b.{second}"]})
        records = run_unit(Unit(tuple(read_sheet(table, [], [])), out, FAST, suffix=suffix))
        assert [record["status"] for record in records] == ["done", "done"], records[0].get("error")
        read = anndata.read_h5ad if suffix == ".h5ad" else spatialdata.read_zarr
        return [read(out / f"{name}{suffix}") for name in "ab"]

    expected = impute("h5ad", "h5ad", ".h5ad")
    sections = impute("zarr", "zarr", ".zarr")
    for wanted, section, mixed in zip(expected, sections, impute("zarr", "h5ad", ".h5ad"), strict=True):
        for table in (section["table"], mixed):
            layer = table[wanted.obs_names].layers["snrmix"]
            np.testing.assert_allclose(layer, wanted.layers["snrmix"], rtol=1e-4, atol=1e-4)
    original = spatialdata.read_zarr(tmp_path / "a.zarr")
    assert set(sections[0].images) == set(original.images) and set(sections[0].shapes) == set(original.shapes)
    assert list(sections[0]["table"].obs_names) == list(original["table"].obs_names)
    assert sections[0]["table"].uns["spatialdata_attrs"] == original["table"].uns["spatialdata_attrs"]
    assert "snrmix_is_measured" not in sections[0]["table"].obs


def test_failures_make_the_exit_code(cohort, tmp_path, monkeypatch, capsys):
    table = pd.DataFrame(
        {"status": ["done", "failed"], "error": ["", "it is corrupt."], "output": ["x.h5ad", ""]},
        index=pd.Index(["a", "b"], name="sample"),
    )
    monkeypatch.setattr(snrmix.tl, "impute_cohort", lambda *args, **options: table)
    assert main(["cohort", str(sheet(cohort, THREE)), "-o", str(tmp_path), "--json", "--quiet"]) == 1
    captured = capsys.readouterr()
    assert (
        captured.err
        == "snrmix: error: 1 of 2 samples failed (b), the others are done; the first says: it is corrupt.\n"
    )
    assert json.loads(captured.out)["failed"] == {"b": "it is corrupt."}


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("sample,path,mesured\na,a.h5ad,seen", {}, "has a column 'mesured', .* Did you mean 'measured'"),
        ("sample,file\na,a.h5ad", {}, "has no column 'path'; it has 'sample', 'file'"),
        ("sample,path\na,a.h5ad\nA,b.h5ad", {}, "sample 'A' is in .* twice"),
        ("sample,path\na,none.h5ad", {}, "none.h5ad' of sample 'a' does not exist"),
        ("sample,path\na,.", {}, "sample 'a': input .* is a folder with"),
        ("sample,path,image\na,a.h5ad,none.tif", {}, "image '.*none.tif' of sample 'a' does not exist"),
        ("sample,path\n../a,a.h5ad", {}, "cannot be the name of a file"),
        ("sample,path\n,a.h5ad", {}, "row 1 of .* has no sample"),
        ("sample,path", {}, "has no samples"),
        (
            "sample,path\na,a.h5ad",
            {"mesured": "seen"},
            "unexpected keyword argument 'mesured'. Did you mean 'measured'",
        ),
        ("sample,path\na,a.h5ad", {"format": "csv"}, "format='csv'; choose"),
        ("sample,path\na,a.h5ad", {"compression": "zip"}, "choose one of gzip, lzf, none"),
        ("sample,path\na,a.h5ad", {"share_by": "patient"}, "share_by='patient' is no column of the sheet"),
        ("sample,path,patient\na,a.h5ad,p\nb,b.h5ad,", {"share_by": "patient"}, "sample 'b' has nothing in column"),
        ("sample,path\na,a.h5ad", {"workers": 0}, "workers=0 must be 1 or more"),
        ("sample,path\na,a.h5ad", {"scheduler": "tcp://127.0.0.1:1"}, "scheduler .* cannot be reached"),
    ],
    ids=lambda value: value if isinstance(value, str) and "," not in value else "",
)
def test_what_cannot_be_is_said_before_anything_is_done(cohort, tmp_path, monkeypatch, text, options, says):
    monkeypatch.setattr("snrmix.tl._cohort_cluster.REACH", 0.2)
    with pytest.raises((ValueError, KeyError, TypeError, OSError), match=says):
        snrmix.tl.impute_cohort(sheet(cohort, text, "bad.csv"), tmp_path, **options)
    assert not list(tmp_path.glob("a*"))


def test_no_sheet_and_no_folder(cohort, tmp_path):
    with pytest.raises(FileNotFoundError, match="sheet .* does not exist"):
        snrmix.tl.impute_cohort(tmp_path / "none.csv", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="output folder .* cannot be made"):
        snrmix.tl.impute_cohort(sheet(cohort, THREE), tmp_path / "file" / "out")


def test_cells_of_a_sheet(cohort):
    text = (
        'sample,path,measured,scales,kriging,genes,n_folds,bin\na,a.h5ad,1,"1, 2.5",no,"20,x",3,8\nb,b.h5ad,,,false,,,'
    )
    a, b = read_sheet(sheet(cohort, text, "cells.csv"), ["measured", "scales", "kriging", "genes", "n_folds"], [])
    assert a.path == cohort / "a.h5ad"
    assert a.arguments == {"measured": "1", "scales": [1.0, 2.5], "kriging": "no", "genes": "20,x", "n_folds": 3}
    assert a.bin_size == 8
    assert b.arguments == {"kriging": False}


def test_workers_fit_into_memory(cohort, tmp_path, monkeypatch):
    samples = read_sheet(sheet(cohort, THREE), ["measured"], ["patient"])
    units = [Unit((sample,), tmp_path) for sample in samples]
    assert shape_of(cohort / "a.h5ad") == anndata.read_h5ad(cohort / "a.h5ad").shape
    largest = max(estimate(unit) for unit in units)
    monkeypatch.setattr("snrmix.tl._cohort_cluster.available_threads", lambda: 8)
    for room, expected in ((10.0, 3), (2.5, 2), (0.5, 1)):  # three samples
        monkeypatch.setattr("snrmix.tl._cohort_cluster.free_memory", lambda room=room: room * largest)
        n, threads, memory = plan_workers(units)
        assert (n, threads) == (expected, 8 // expected)
        assert memory == pytest.approx(room * largest / expected)
    assert plan_workers(units, workers=2)[0] == 2


def test_one_graphics_processor_for_each_worker(cohort, tmp_path, monkeypatch):
    samples = read_sheet(sheet(cohort, THREE), ["measured"], ["patient"])
    units = [Unit((sample,), tmp_path) for sample in samples]
    monkeypatch.setattr("snrmix.tl._cohort_cluster.count_graphics_processors", lambda: 2)
    with connected(None, None, None, units) as (client, threads):
        assert threads >= 1
        names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
        seen = client.run(lambda: [os.environ.get(name) for name in names])
    assert sorted(seen.values()) == [["0", str(threads)], ["1", str(threads)]]
