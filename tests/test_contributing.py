"""What CONTRIBUTING.md says is so: its recipes run, and its map has every room."""

import re
from pathlib import Path

import anndata
import matplotlib
import numpy as np
import pytest

import snrmix
from snrmix.engine.mix import MIXINGS
from snrmix.images.encoders import ENCODERS
from snrmix.tl import _methods

matplotlib.use("Agg")

PAGE = Path(__file__).parents[1] / "CONTRIBUTING.md"
FAST = {"max_epochs": 2, "n_folds": 2, "accelerator": "cpu"}


@pytest.fixture(autouse=True)
def registries():
    """Names that recipes add are gone after the test."""
    before = dict(MIXINGS), dict(ENCODERS)
    yield
    for registry, names in zip((MIXINGS, ENCODERS), before, strict=True):
        registry.clear()
        registry.update(names)


@pytest.fixture(scope="module")
def section():
    adata = snrmix.datasets.synthetic_tissue(12, 20, image_px_per_pitch=16)
    snrmix.pp.embed_histology(adata, encoder="colour")
    return snrmix.pp.hold_out(adata, copy=True)


def recipe(name: str) -> dict:
    """The names that a block of code on the page defines, after it was run."""
    (code,) = re.findall(rf"<!-- {name} -->\n```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    found = {"__name__": f"recipe_{name}"}
    exec(compile(code, f"{PAGE.name}: {name}", "exec"), found)
    return found


def test_a_strategy_is_one_class(section):
    strategy = recipe("strategy")["AnchoredMixup"](alpha=0.3)
    layers = {}
    for mix in (strategy, "anchored", "none"):
        adata = section.copy()
        snrmix.tl.impute(adata, measured="measured", encoder="colour", mix=mix, kriging=False, **FAST)
        layers[str(mix)] = adata.layers["snrmix"]
        assert np.isfinite(adata.layers["snrmix"]).all()
    assert adata.uns["snrmix"]["parameters"]["mix"]["name"] == "NoMixing"
    assert len({layer.tobytes() for layer in layers.values()}) == 3
    options = {**FAST, "encoder": "colour", "splits": 1, "genes": 5}
    result = snrmix.tl.benchmark(section, ["mean", "network (anchored)"], **options)
    assert list(result["method"].unique()) == ["mean", "network (anchored)"]


def test_a_strategy_gives_a_spot_at_least_half():
    import torch

    from snrmix.engine.mix import PartnerTable

    train = torch.arange(50)[None]
    table = PartnerTable(train, torch.zeros(1, 50, 1, dtype=torch.int64), torch.zeros(1, 50, 1))
    partners, share = recipe("strategy")["AnchoredMixup"]().draw(train, table, torch.Generator().manual_seed(0))
    assert partners.shape == (1, 50) and share.shape == (1, 50, 1)
    assert (share >= 0.5).all() and (share <= 1).all() and (partners != train).any()


def test_an_encoder_is_a_function_and_a_name(section):
    recipe("encoder")
    adata = section.copy()
    snrmix.pp.embed_histology(adata, encoder="quarters")
    assert adata.uns["X_histology"]["encoder"] == "quarters"
    colours = section.obsm["X_histology"].shape[1]
    assert adata.obsm["X_histology"].shape[1] == colours + 3 * 12  # three scales, four quarters of three colours


def test_a_baseline_is_a_function_and_a_line(section, monkeypatch):
    median = recipe("baseline")["MEDIAN"]
    monkeypatch.setattr(_methods, "METHODS", (*_methods.METHODS, median))
    options = {**FAST, "encoder": "colour", "splits": [{"random_state": 0}], "genes": 5}
    result = snrmix.tl.benchmark(section, ["mean", "median"], measured="measured", **options)
    scores = result.set_index("method")["mse"].groupby(level=0, observed=True).mean()
    assert scores["median"] != scores["mean"] and scores["median"] < 2 * scores["mean"]
    assert not _methods.available_methods()["median"].needs_image


def test_a_plot_is_a_function():
    errors = recipe("plot")["errors"]
    adata = anndata.AnnData(np.zeros((3, 4), np.float32))
    adata.uns["snrmix"], adata.var["snrmix_mse"] = {}, [0.1, 0.2, np.nan, 0.4]
    assert sum(bar.get_height() for bar in errors(adata).patches) == 3
    assert "Path to write the figure to." in errors.__doc__ and "{figure}" not in errors.__doc__
    with pytest.raises(KeyError, match="no result 'other'"):
        errors(adata, key="other")


def test_the_map_names_every_room_and_no_other():
    (tree,) = re.findall(r"```text\nsrc/snrmix/\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    root = Path(snrmix.__file__).parent
    rooms = {path.stem for path in root.iterdir() if path.suffix in ("", ".py") and not path.name.startswith("__")}
    named = {
        name.rstrip("/")
        for line in tree.splitlines()
        if re.match(r"  \S", line)
        for name in re.split(r"  +", line.strip())[0].split()
    }
    assert named == rooms
    for path in re.findall(r"`((?:[a-z_]+/)+[a-z_]*(?:\.py)?)`", PAGE.read_text().replace("src/snrmix/", "")):
        if not path.startswith(("src", "tests", "docs")):
            assert (root / path).exists(), path
