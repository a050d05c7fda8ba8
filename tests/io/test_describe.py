"""What is said of an object: true of a good one, never an error for a bad one, and nothing is changed."""

import importlib.util
import inspect
import json
from copy import deepcopy
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from snrmix.cli import main
from snrmix.io import Description, _cost, describe

KNOWN = set(inspect.signature(describe).parameters)


def cases(file: str, name: str) -> list:
    """The objects that another file of tests spoils."""
    path = Path(__file__).parents[1] / file
    spec = importlib.util.spec_from_file_location(path.stem + "_cases", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


@pytest.fixture(autouse=True)
def colour(monkeypatch):
    """Costs are those of an encoder that is quickly tried."""
    read_options = _cost.read_options
    monkeypatch.setattr(_cost, "read_options", lambda: read_options(encoder="colour", accelerator="cpu"))


def said(description) -> str:
    """All that is refused or doubted; the description can be written both ways."""
    assert json.loads(description.to_json())["refused"] == description["refused"]
    assert str(description)
    return "\n".join([*description["refused"], *description["doubtful"]])


def test_a_good_section(tissue, assert_unchanged):
    counts = tissue.X.toarray()
    tissue.layers["log"] = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)
    before = tissue.copy()
    found = describe(tissue)
    assert_unchanged(before, tissue)
    assert isinstance(found, Description)
    assert found["object"] == {"kind": "AnnData", "observations": 117, "variables": 40}
    assert found["library_key"] == "library_id"
    (library,) = found["libraries"]
    assert library["spots"] == library["measured"] == 117 and library["array"] == "Visium" and not library["gaps"]
    assert library["pitch"] * library["um_per_px"] == pytest.approx(100)
    height, width = tissue.uns["spatial"]["synthetic"]["images"]["hires"].shape[:2]
    assert (library["image"]["width"], library["image"]["height"]) == (width, height)
    assert library["image"]["um_per_px"] == pytest.approx(100 / 16)
    assert [(one["name"], one["kind"]) for one in found["images"]] == [("hires", "brightfield")]
    looks = {one["name"]: one["looks_like"] for one in found["matrices"]}
    assert looks["X"] == "counts" and looks["log"] == "log"
    assert found["genes"]["names"] == "symbols" and found["results"] == [] and found["embedding"] is None
    assert found["cost"]["genes"] == 40 and found["cost"]["seconds"] > 0 and found["cost"]["gigabytes"] > 0
    assert not found["refused"]
    assert "117 spots, all measured; Visium array" in str(found) and "X: looks like counts" in str(found)


def test_what_is_there_already(half_imputed):
    found = describe(half_imputed, measured="measured")
    assert [one["key"] for one in found["results"]] == ["snrmix"] and found["embedding"]["encoder"] == "colour"
    assert found["libraries"][0]["measured"] == half_imputed.obs["measured"].sum() < 117
    assert "'snrmix', of version" in str(found) and "(60%)" in str(found)


def test_what_a_pathologist_would_ask(tissue):
    """Gaps, names of genes, unknown micrometres and the cost of few genes."""
    inner = (tissue.obs["array_row"].between(3, 5) & tissue.obs["array_col"].between(6, 12)).to_numpy()
    one = np.flatnonzero(inner)[4]
    tissue = tissue[np.arange(tissue.n_obs) != one].copy()
    tissue.var["gene_symbols"] = tissue.var_names
    tissue.var_names = [f"ENSMUSG{number:011d}" for number in range(tissue.n_vars)]
    found = describe(tissue, genes=10)
    assert found["libraries"][0]["gaps"] == 1 and "1 gap amid the spots" in " ".join(str(found).split())
    assert found["genes"]["names"] == "Ensembl ids" and found["genes"]["other_names"] == ["gene_symbols"]
    assert found["cost"]["genes"] == 10


def test_a_spatialdata(sdata):
    table = sdata["table"].copy()
    found = describe(sdata)
    assert found["object"]["kind"] == "SpatialData" and found["object"]["tables"] == ["table"]
    assert found["library_key"] == "region" and not found["refused"]
    assert [one["name"] for one in found["images"]] == ["synthetic_hires_image"]
    assert found["libraries"][0]["image"]["name"] == "image 'synthetic_hires_image'" and found["cost"]["genes"] == 40
    assert table.obs.equals(sdata["table"].obs)


def test_several_slides(small_tissue):
    slides = {name: small_tissue[part].copy() for name, part in (("a", np.s_[:60]), ("b", np.s_[40:]))}
    for name, slide in slides.items():
        slide.uns["spatial"] = {name: slide.uns["spatial"]["synthetic"]}
    both = ad.concat(slides, label="library_id", index_unique="-", uns_merge="unique")
    found = describe(both)
    assert [(one["name"], one["spots"]) for one in found["libraries"]] == [("a", 60), ("b", 77)]
    assert found["cost"]["models"] == 2 and "2, told apart by obs['library_id']" in str(found)
    del both.obs["library_id"]
    both.uns["spatial"] = {"a": both.uns["spatial"]["a"]}
    both.obs["sample"] = np.where(both.obs_names.str.endswith("a"), "a", "b")
    found = describe(both)
    assert "library_key=" in said(found) and "'sample'" in said(found) and found["refused"] and not found.get("cost")


@pytest.mark.parametrize(("spoil", "error", "says"), cases("test_bad_input.py", "CASES"))
def test_what_impute_refuses_is_described(tissue, assert_unchanged, tmp_path, spoil, error, says):
    options = spoil(tissue, tmp_path)
    if not set(options) <= KNOWN:
        return  # this one is about the call, not about the object
    before = tissue.copy()
    found = describe(tissue, **deepcopy(options))
    assert_unchanged(before, tissue)
    assert found["object"]["kind"] == "AnnData" and len(found["matrices"]) > 0
    text = said(found)
    assert all(fragment in text for fragment in says), text


@pytest.mark.parametrize(("spoil", "error", "says"), cases("test_bad_input.py", "SPATIAL_CASES"))
def test_what_impute_refuses_of_a_spatialdata_is_described(sdata, assert_unchanged, spoil, error, says):
    options = spoil(sdata)
    before = {name: table.copy() for name, table in sdata.tables.items()}
    text = said(describe(sdata, **options))
    assert_unchanged(before, dict(sdata.tables.items()))
    assert all(fragment in text for fragment in says), text


def empty(adata):
    return adata[:0].copy()


def no_genes(adata):
    return adata[:, :0].copy()


def no_matrix(adata):
    return ad.AnnData(obs=adata.obs, var=adata.var, obsm=dict(adata.obsm), uns=adata.uns)


def bare(adata):
    return ad.AnnData(adata.X)


def names_twice(adata):
    adata.obs_names = ["a"] * adata.n_obs
    adata.var_names = ["g"] * adata.n_vars
    return adata


def columns_twice(adata):
    adata.obs = pd.concat([adata.obs, adata.obs], axis=1)
    return adata


def nothing_but_none(adata):
    adata.uns["spatial"] = None
    adata.uns["snrmix"], adata.uns["X_histology"], adata.obsm["X_histology"] = None, 3, np.zeros((adata.n_obs, 2))
    return adata


def image_is_text(adata):
    adata.uns["spatial"]["synthetic"]["images"]["hires"] = "nowhere.tif"
    return adata


def image_is_broken(adata):
    adata.uns["spatial"]["synthetic"]["images"] = {"hires": {"no": "image"}, "lowres": np.zeros(3), "x": object()}
    return adata


def all_missing(adata):
    adata.X = adata.X.toarray() * np.nan
    return adata


def of_objects(adata):
    adata.layers["text"] = np.full(adata.shape, "a", dtype=object)
    adata.X = adata.X.toarray().astype(complex)
    return adata


def all_at_one_place(adata):
    adata.obsm["spatial"][:] = np.nan
    adata.obs["in_tissue"] = "perhaps"
    return adata


BROKEN = [
    empty, no_genes, no_matrix, bare, names_twice, columns_twice, nothing_but_none, image_is_text, image_is_broken,
    all_missing, of_objects, all_at_one_place,
]  # fmt: skip


@pytest.mark.parametrize("spoil", BROKEN)
def test_nothing_is_too_broken(tissue, spoil):
    text = said(describe(spoil(tissue)))
    assert text and "unexpected" not in text


@pytest.mark.parametrize("data", [None, 3, "section.h5ad", pd.DataFrame({"a": [1]})])
def test_data_of_another_type(data):
    found = describe(data)
    assert "must be an AnnData or a SpatialData" in said(found) and found["object"]["kind"] == type(data).__name__


def test_backed_and_lazy_objects(tissue, tmp_path):
    tissue.write_h5ad(tmp_path / "section.h5ad")
    backed = ad.read_h5ad(tmp_path / "section.h5ad", backed="r")
    found = describe(backed)
    backed.file.close()
    assert "to_memory()" in said(found) and found["matrices"][0]["looks_like"] == "counts"
    tissue.write_zarr(tmp_path / "section.zarr")
    lazy = describe(ad.experimental.read_lazy(tmp_path / "section.zarr"))
    assert "to_memory()" in said(lazy)


def test_nothing_is_logged(tissue, caplog):
    tissue.obsm["spatial"][:, 0] *= -1
    found = describe(tissue)
    assert found["refused"] and not caplog.records


def test_command(tissue, tmp_path, capsys):
    tissue.write_h5ad(tmp_path / "a.h5ad")
    assert main(["info", str(tmp_path / "a.h5ad")]) == 0
    assert "X: looks like counts" in capsys.readouterr().out
    assert main(["info", str(tmp_path / "a.h5ad"), "--measured", "nothing", "--genes", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["description"]
    assert found["object"]["observations"] == 117 and "measured='nothing' is not in obs" in found["refused"][0]
