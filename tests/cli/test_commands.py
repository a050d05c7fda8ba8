"""The command line, called as a function: what each command reads, writes and says."""

import inspect
import json
import re

import anndata
import numpy as np
import pandas as pd
import pytest

import snrmix
from snrmix.cli import NAMES, main
from snrmix.cli._command import options_of
from snrmix.cli._source import read_class, read_function

HELD = ["--key-added", "kept"]
FAST = ["--encoder", "colour", "--max-epochs", "1", "--n-folds", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_tissue):
    """A folder with a section as file and as store, some of it hidden."""
    folder = tmp_path_factory.mktemp("cli")
    adata = small_tissue.copy()
    adata.obs["measured"] = np.arange(adata.n_obs) % 2 == 0
    adata.write_h5ad(folder / "in.H5AD")
    adata.write_zarr(folder / "in.zarr")
    return folder


@pytest.fixture(scope="module")
def imputed(folder):
    """What `snrmix impute --json` wrote, and the exit code."""
    target = folder / "imputed.h5ad"
    code = main(["impute", str(folder / "in.H5AD"), "-o", str(target), "--measured", "measured", *FAST])
    return target, code


def said(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


def sources():
    import importlib

    commands = [importlib.import_module(f"snrmix.cli.{name}").COMMAND for name in NAMES]
    return [command for command in commands if command.source]


@pytest.mark.parametrize("command", sources(), ids=lambda command: command.name)
def test_every_argument_of_the_function_is_an_option_with_its_help(command):
    room, name = command.source
    function = inspect.unwrap(getattr(getattr(snrmix, room), name))
    expected = {
        p.name: p for p in inspect.signature(function).parameters.values() if p.kind != inspect.Parameter.VAR_KEYWORD
    }
    read = read_function(room, name).arguments
    assert list(read) == list(expected)
    for argument in read.values():
        default = expected[argument.name].default
        assert argument.required == (default is inspect.Parameter.empty)
        assert argument.required or argument.default == default
        assert argument.text, f"{argument.name} is not in the docstring"
    options = options_of(command)
    reached = {option.of or option.argument.name for option in options}
    assert set(expected) - {"data", "copy", *command.without} <= reached
    assert len({option.flag for option in options}) == len(options)


@pytest.mark.parametrize("name", ["Losses", "Training", "Finetuning"])
def test_fields_are_read_from_the_source_of_a_class(name):
    import dataclasses

    fields = {field.name: field.default for field in dataclasses.fields(getattr(snrmix, name))}
    assert {argument.name: argument.default for argument in read_class(name).arguments.values()} == fields


def test_help_has_the_docstring(capsys):
    assert main(["impute", "--help"]) == 0
    words = set(re.findall(r"[\w.]+", capsys.readouterr().out))
    assert {"finetuning.warm", "hidden", "losses.edge", "scales"} <= {w.strip(".") for w in words} | {"finetuning.warm"}
    ours = {name for name, strategy in snrmix.engine.mix.MIXINGS.items() if strategy.__module__.startswith("snrmix")}
    assert {"snr", "none"} <= ours <= words


def test_imputed_file(imputed, folder):
    target, code = imputed
    assert code == 0
    adata = anndata.read_h5ad(target)
    assert np.isfinite(adata.layers["snrmix"]).all()
    assert adata.uns["snrmix"]["parameters"]["measured"] == "measured"
    assert not list(folder.glob(".*")), "something was left beside the output"


def test_info_says_what_impute_would_take(folder, capsys):
    assert main(["info", str(folder / "in.H5AD"), "--measured", "measured", "--quiet"]) == 0
    text = capsys.readouterr().out
    expected = snrmix.io.describe(anndata.read_h5ad(folder / "in.H5AD"), measured="measured")
    assert text.splitlines()[0] == str(expected).splitlines()[0]
    assert main(["info", str(folder / "in.H5AD"), "--measured", "nosuch", "--json"]) == 0
    assert "measured='nosuch' is not in obs" in str(said(capsys)["description"]["refused"])


def test_output_is_compressed(imputed, folder):
    import h5py

    with h5py.File(imputed[0]) as file:
        assert file["layers/snrmix"].compression == "gzip"
    assert main(["hold-out", str(imputed[0]), "-o", str(folder / "plain.h5ad"), "--compression", "none", *HELD]) == 0
    with h5py.File(folder / "plain.h5ad") as file:
        assert file["layers/snrmix"].compression is None


def test_in_place_and_json(folder, capsys):
    path = folder / "store.zarr"
    anndata.read_h5ad(folder / "in.H5AD").write_zarr(path)
    assert main(["impute", str(path), "--in-place", "--json", *FAST]) == 0
    record = said(capsys)
    assert record["status"] == "done"
    assert record["files"] == [str(path)]
    assert record["scores"]["n_spots"] == record["scores"]["n_measured"] == 117
    assert {"read", "impute", "write"} <= set(record["seconds"])
    stored = anndata.read_zarr(path)
    scores = stored.uns["snrmix"]["scores"]["mse_ratio"]
    assert record["scores"]["mse_ratio"] == pytest.approx(scores["snrmix"], abs=1e-4)
    assert main(["impute", str(path), "--in-place", "--json", *FAST]) == 1
    assert "pass --force to replace it" in said(capsys)["error"]
    assert main(["impute", str(path), "--in-place", "--force", "--quiet", *FAST]) == 0


def test_genes_by_number_and_name_and_modelled_only(folder, small_tissue):
    mean = np.asarray(small_tissue.X.mean(axis=0)).ravel()
    rare = small_tissue.var_names[np.argsort(mean)[0]]
    target = folder / "few.h5ad"
    assert main(
        ["impute", str(folder / "in.zarr"), "-o", str(target), "--genes", f"3,{rare}", "--modelled-only", *FAST]
    ) == 0  # fmt: skip
    few = anndata.read_h5ad(target)
    whole = snrmix.tl.impute(
        small_tissue, genes=[3, rare], encoder="colour", max_epochs=1, n_folds=2, measured=None, copy=True
    )
    assert list(few.var_names) == list(whole.var_names[whole.var["snrmix_modelled"]])
    assert rare in few.var_names
    assert few.n_vars == 4
    assert few.layers["snrmix"].shape == few.shape
    assert np.isnan(whole.layers["snrmix"]).any()


def test_hold_out_impute_evaluate(folder, capsys):
    held, done, table = folder / "held.h5ad", folder / "done.h5ad", folder / "scores.csv"
    assert main(["hold-out", str(folder / "in.H5AD"), "-o", str(held), "--share", "0.3", *HELD]) == 0
    assert main(["impute", str(held), "-o", str(done), "--measured", "kept", *FAST]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(done), "--held-out", "kept_held_out", "-o", str(table), "--json"]) == 0
    record = said(capsys)
    expected = snrmix.tl.evaluate(anndata.read_h5ad(done), "kept_held_out")
    assert record["scores"]["mse_ratio"] == pytest.approx(expected.attrs["overall"]["mse_ratio"])
    np.testing.assert_allclose(pd.read_csv(table, index_col=0)["mse"], expected["mse"])


def test_embed_fill_grid_and_benchmark(folder, capsys):
    embedded, filled = folder / "embedded.h5ad", folder / "filled.zarr"
    assert main(["embed", str(folder / "in.H5AD"), "-o", str(embedded), "--encoder=colour", "--scales", "1", "2"]) == 0
    assert anndata.read_h5ad(embedded).obsm["X_histology"].shape == (117, 44)
    assert main(["fill-grid", str(folder / "in.H5AD"), "-o", str(filled), "--factor", "2"]) == 0
    assert anndata.read_zarr(filled).n_obs > 117
    capsys.readouterr()
    options = ["--methods", "mean,spatial kNN", "--splits", '[{"kind": "block", "share": 0.3}]', "--genes", "5"]
    assert main(["benchmark", str(embedded), "--json", *options, "--encoder", "colour", "--scales", "1", "2"]) == 0
    record = said(capsys)
    assert {row["method"] for row in record["scores"]} == {"mean", "spatial kNN"}


@pytest.fixture
def told(folder, tmp_path, monkeypatch):
    """Options that reach `snrmix.tl.impute`."""

    def ask(*options):
        calls = []

        def note(data, **options):
            calls.append(options)
            raise ValueError("enough")

        monkeypatch.setattr(snrmix.tl, "impute", note)
        assert main(["impute", str(folder / "in.zarr"), "-o", str(tmp_path / "out.h5ad"), *options]) == 1
        return calls[0]

    return ask


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--image", "a.tif"], {"image": "a.tif"}),
        (["--image", "left=a.tif", "--image", "right=b=c.tif"], {"image": {"left": "a.tif", "right": "b=c.tif"}}),
        (["--um-per-px", "0.5"], {"um_per_px": 0.5}),
        (["--um_per_px=a=0.5", "--um-per-px", "b=1"], {"um_per_px": {"a": 0.5, "b": 1.0}}),
        (["--finetune"], {"finetune": True}),
        (["--finetune", "last", "--scales", "1.15", "2.3"], {"finetune": "last", "scales": [1.15, 2.3]}),
        (["--no-finetune", "--share", "--preset", "paper"], {"finetune": False, "share": True, "preset": "paper"}),
        (["--no-kriging", "--no-share", "--validation", "0.3"], {"kriging": False, "share": False, "validation": 0.3}),
        (["--validation", "held", "--devices", "2"], {"validation": "held", "devices": 2}),
        (["--measured", "1", "--learning-rate", "1e-3"], {"measured": "1", "learning_rate": 1e-3}),
        (["--losses.edge", "0", "--losses.vicinal", "2"], {"losses": snrmix.Losses(edge=0.0, vicinal=2.0)}),
        (["--genes", "20"], {"genes": 20}),
        (["--genes", "gene_1"], {"genes": ["gene_1"]}),
        (["--genes", "programme"], {"genes": "programme"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_become_arguments(told, options, expected):
    assert told(*options) == expected


def test_what_cannot_be_is_one_line(folder, tmp_path, capsys):
    (tmp_path / "junk.h5ad").write_text("no HDF5")
    (tmp_path / "junk.txt").write_text("text")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.md").write_text("text")
    (tmp_path / "taken.h5ad").write_text("precious")
    (tmp_path / "taken.zarr").mkdir()
    (tmp_path / "taken.zarr" / "notes.md").write_text("precious")
    good = str(folder / "in.zarr")
    for source, options, says in (
        ("junk.h5ad", ["-o", "out.h5ad"], "junk.h5ad' cannot be read as an .h5ad file: "),
        ("none.h5ad", ["-o", "out.h5ad"], "none.h5ad' does not exist"),
        ("junk.txt", ["-o", "out.h5ad"], "is a file that ends in '.txt'; expected an .h5ad file, a .zarr folder"),
        ("empty", ["-o", "out.h5ad"], "is an empty folder; expected"),
        ("other", ["-o", "out.h5ad"], "is a folder with notes.md; expected"),
        (good, ["-o", "folder/out.h5ad"], "the folder of output .*folder/out.h5ad' does not exist; make it first"),
        (good, ["-o", "out.csv"], "must end in .h5ad or .zarr"),
        (good, ["-o", "taken.h5ad"], "exists; choose another name, or pass --force to replace it"),
        (good, ["-o", "taken.zarr", "--force"], "is a folder and no zarr store; choose another name"),
        (good, [], "no output: name one with -o"),
        (good, ["--in-place", "-o", "out.zarr"], "--output and --in-place were both given"),
        (good, ["--in-place", "--modelled-only"], "choose one"),
        ("junk.h5ad", ["--in-place"], "--in-place needs a zarr store"),
        (good, ["-o", "out.h5ad", "--compression", "zip"], "choose one of gzip, lzf, none"),
        (good, ["-o", "out.h5ad", "--threads", "0"], "threads=0 must be 1 or more"),
        (good, ["-o", "out.h5ad", "--bin", "8"], "bin=8 is for a folder of Visium HD"),
        (good, ["-o", "out.h5ad", "--image", "a.tif", "--image", "b.tif"], "write --image A=a.tif --image B=b.tif"),
        (good, ["-o", "out.h5ad", "--image", "l=a.tif", "--image", "l=b.tif"], "--image names slide 'l' twice"),
        (good, ["-o", "out.h5ad", "--um-per-px", "wide"], "--um-per-px 'wide' is no number"),
        (good, ["-o", "out.h5ad", "--measured", "nosuch"], "measured='nosuch' is not in obs"),
    ):
        options = [
            str(tmp_path / word) if option == "-o" else word
            for option, word in zip(["", *options], options, strict=False)
        ]
        assert main(["impute", str(tmp_path / source), *options, "--quiet"]) == 1
        assert re.fullmatch(f"snrmix: error: .*{says}.*\n", capsys.readouterr().err), says
    assert (tmp_path / "taken.h5ad").read_text() == "precious"
    assert not (tmp_path / "out.h5ad").exists()


@pytest.mark.parametrize(
    "words", [["nosuch"], ["impute"], ["impute", "a.h5ad", "--nosuch"], ["impute", "a", "--n-folds", "x"]]
)
def test_usage(words, capsys):
    assert main(words) == 2
    assert "Error" in capsys.readouterr().err


def test_an_unexpected_error_is_one_line_too(folder, tmp_path, monkeypatch, capsys):
    def fail(data, **options):
        raise RuntimeError("no such\nluck")

    monkeypatch.setattr(snrmix.tl, "impute", fail)
    words = ["impute", str(folder / "in.zarr"), "-o", str(tmp_path / "out.h5ad")]
    assert main([*words, "--quiet"]) == 1
    assert capsys.readouterr().err == "snrmix: error: unexpected RuntimeError: no such luck (--verbose shows where)\n"
    assert main([*words, "--verbose"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_warnings_are_in_the_record(folder, tmp_path, monkeypatch, capsys):
    def warn(data, **options):
        snrmix._log.logger.warning("the image is %s.", "pale")
        raise ValueError("enough")

    monkeypatch.setattr(snrmix.tl, "impute", warn)
    assert main(["impute", str(folder / "in.zarr"), "-o", str(tmp_path / "out.h5ad"), "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["warnings"] == ["the image is pale."]
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d snrmix: the image is pale\.$", captured.err, re.MULTILINE)
