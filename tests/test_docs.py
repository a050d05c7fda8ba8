"""What the documentation says runs as written, names what there is, and links to what is there.

Code blocks of a page run in order, in one namespace, in a folder of their own. Only three things are prepared: a small
section under the names that the pages use, the files that they open, and cheap defaults (a colour encoder, two epochs, one split)
where a call says nothing else. A block that cannot run here has a comment ``not run: REASON`` in the source of the page.
"""

import ast
import doctest
import io
import re
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import anndata as ad
import matplotlib
import numpy as np
import pytest

import snrmix
from snrmix.images.encoders import ENCODERS

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
BLOCK = re.compile(r"(?P<before>[^\n]*)\n```python\n(?P<code>.*?)```", re.DOTALL)
NOT_RUN = re.compile(r"^(?:%|<!--) not run: (?P<reason>\S.{10,})")
CHEAP = {"max_epochs": 2, "n_folds": 2, "n_repeats": 1, "accelerator": "cpu"}
PUBLIC = re.findall(r"^   ((?:tl|pp|pl|io|datasets)\.\w+|[A-Z]\w+)$", (DOCS / "api.md").read_text(), re.MULTILINE)
ELSEWHERE = {  # examples that other tests run, or that need what is not there
    "tl.impute_cohort": "starts processes; tests/tl/test_cohort.py",
    "datasets.olfactory_bulb": "downloads; tests/datasets",
    "datasets.her2_tumour": "downloads; tests/datasets",
    "pl.report": "tests/pl/test_report.py",
    "io.Description": "what snrmix.io.describe returns",
}
GENES = ("COL1A1", "EPCAM", "KRT8", "ERBB2", "COL3A1", "CD74")


def _resolve(name: str):
    found = snrmix
    for part in name.split("."):
        found = getattr(found, part)
    return found


EXAMPLES = {name: doctest.DocTestParser().get_examples(_resolve(name).__doc__ or "") for name in PUBLIC}


def blocks(page: Path) -> list[tuple[int, str, str | None]]:
    """Line, code, and why it is not run, of the blocks of a page."""
    text, found = page.read_text(), []
    for match in BLOCK.finditer(text):
        excuse = NOT_RUN.match(match["before"])
        found.append((text[: match.start("code")].count("\n"), match["code"], excuse and excuse["reason"]))
    return found


RUN = [page for page in PAGES if any(excuse is None for _, _, excuse in blocks(page))]


def section(name: str = "A", random_state: int = 0) -> ad.AnnData:
    """A small section with the genes and columns that pages speak of."""
    adata = snrmix.datasets.synthetic_tissue(12, 40, image_px_per_pitch=16, random_state=random_state)
    adata.var_names = [*GENES, *adata.var_names[len(GENES) :]]
    adata.obs["measured"] = np.random.default_rng(random_state).random(adata.n_obs) < 0.7
    adata.obs["region"] = np.where(
        adata.obsm["spatial"][:, 0] < np.median(adata.obsm["spatial"][:, 0]), "tumour", "stroma"
    )
    adata.obs["region"] = adata.obs["region"].astype("category")
    adata.obs["library_id"], adata.obs["patient"] = name, f"patient of {name}"
    adata.uns["spatial"] = {name: adata.uns["spatial"].pop("synthetic")}
    return adata


@pytest.fixture(scope="module")
def prepared():
    """Sections, read only, and images of theirs."""
    a, b = section("A", 0), section("B", 1)
    for one in (a, b):
        snrmix.pp.embed_histology(one, encoder="colour")
    image = np.repeat(np.repeat(a.uns["spatial"]["A"]["images"]["hires"], 4, 0), 4, 1)
    slides = ad.concat([a, b, section("C", 2)], index_unique="-", uns_merge="unique", merge="same")
    return {"adata": a, "a": a, "b": b, "slides": slides, "image": image}


SYNTHETIC = snrmix.datasets.synthetic_tissue


def _small_tissue(n_rows: int = 12, n_genes: int = 40, **options) -> ad.AnnData:
    """A section of few rows, however many were asked for."""
    return SYNTHETIC(min(n_rows, 12), n_genes, **{"image_px_per_pitch": 16, **options})


def _fewer(options: dict) -> dict:
    """A number of genes that the section does not have means all, several splits mean one."""
    fewer = {"genes": None, "splits": 1}
    return options | {name: fewer[name] for name in fewer if isinstance(options.get(name), int)}


class CheapModel(snrmix.SNRMix):
    """A model that trains for two epochs unless told otherwise."""

    def __init__(self, **options):
        super().__init__(**{"encoder": "colour", **CHEAP, **_fewer(options)})


@pytest.fixture
def cheap(monkeypatch):
    """Calls that say nothing of encoder and training are cheap."""

    def defaults(function):
        def call(*args, **options):
            fewer = {} if options.get("preset") else CHEAP
            encoder = {} if "use_rep" in options else {"encoder": "colour"}
            return function(*args, **{**encoder, **fewer, **_fewer(options)})

        return call

    monkeypatch.setattr(snrmix.tl, "impute", defaults(snrmix.tl.impute))
    monkeypatch.setattr(snrmix.tl, "benchmark", defaults(snrmix.tl.benchmark))
    monkeypatch.setattr(snrmix, "SNRMix", CheapModel)
    monkeypatch.setattr(snrmix.datasets, "synthetic_tissue", _small_tissue)
    for verb in ("draws", "pool", "rank_genes_groups", "spatial_autocorr", "leiden_consensus"):
        few = partial(getattr(snrmix.tl, verb), n_draws=3)
        monkeypatch.setattr(snrmix.tl, verb, lambda data, *args, few=few, **given: _call(few, data, args, given))
    monkeypatch.setitem(ENCODERS, "efficientnet_lite0", ENCODERS["colour"])
    yield
    plt.close("all")


def _call(few, data, args, given):
    """Three draws, whatever is said: how many are drawn is tested elsewhere."""
    if few.func is not snrmix.tl.draws and "n_draws" in given:
        given = {**given, "n_draws": 3}
    return few(data, *args, **given)


@pytest.fixture
def namespace(prepared, cheap, tmp_path, monkeypatch):
    """The names and files that pages take for granted, in a folder of its own."""
    import scanpy as sc
    import squidpy as sq
    import tifffile

    monkeypatch.chdir(tmp_path)
    copies = {name: one.copy() for name, one in prepared.items()}
    image = copies.pop("image")
    tifffile.imwrite("section_fullres.tif", image)
    tifffile.imwrite("section_fullres.btf", image)
    copies["adata"].write_h5ad("section.h5ad")
    made = {
        "hires": copies["adata"].uns["spatial"]["A"]["images"]["hires"],
        "fullres_width": image.shape[1],
        "genes": list(copies["adata"].var_names[:10]),
        "features": np.random.default_rng(0).standard_normal((copies["adata"].n_obs, 8)).astype(np.float32),
        "other": copies["b"],
    }
    return {"__name__": "page", "np": np, "ad": ad, "sc": sc, "sq": sq, "snrmix": snrmix, **copies, **made}


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_code_runs_as_written(page, namespace):
    prepare = PREPARED.get(page.stem)
    if prepare is not None:
        prepare(namespace)
    for line, code, excuse in blocks(page):
        if excuse is None:
            padded = "\n" * line + code  # errors name the line of the page
            exec(compile(padded, str(page.relative_to(ROOT)), "exec"), namespace)


def _imputed(names):
    snrmix.tl.impute(names["adata"], measured="measured")


def _without_hold_out(names):
    del names["adata"].obs["measured"]


def _stored(names):
    """An object of SpatialData and its store."""
    sdata = snrmix.datasets.synthetic_spatialdata(12, 40, image_px_per_pitch=16)
    sdata["table"].obs["measured"] = np.arange(sdata["table"].n_obs) % 3 > 0
    sdata.write("section.zarr")
    names["sdata"] = sdata


def _results(names):
    _imputed(names)
    _stored(names)
    snrmix.tl.impute(names["sdata"])


def _gallery(names):
    path = str(DOCS / "gallery.py")
    made = {"__name__": "gallery", "__file__": path}
    exec(compile(Path(path).read_text(), path, "exec"), made)
    names |= made["prepare"](small=True)


def _several_slides(names):
    import tifffile

    names["c"] = section("C", 2)
    for name in "ABC":
        tifffile.imwrite(
            f"{name}.tif",
            np.kron(names[name.lower()].uns["spatial"][name]["images"]["hires"], np.ones((4, 4, 1), np.uint8)),
        )


def _encoders(names):
    import torch

    names["model"] = torch.nn.Sequential(torch.nn.AvgPool2d(56), torch.nn.Flatten())


PREPARED = {
    "encoders": _encoders,
    "evaluate": _without_hold_out,
    "gallery": _gallery,
    "inputs": _stored,
    "report": _imputed,
    "results": _results,
    "several_slides": _several_slides,
    "what_to_do": _imputed,
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_is_python(page):
    for _, code, _ in blocks(page):
        ast.parse(code)


@pytest.mark.parametrize("name", [name for name in PUBLIC if name not in ELSEWHERE])
def test_examples_of_the_api_run(name, namespace):
    assert EXAMPLES[name], f"snrmix.{name} has no example"
    if name in NEEDS:
        NEEDS[name](namespace)
    for example in EXAMPLES[name]:
        said = _run(example.source, namespace)
        assert not example.want or said == example.want, f"{example.source}gives {said}"


def _run(source: str, names: dict) -> str:
    """Run a statement as at the prompt; what is printed comes back."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(source, "<example>", "single"), names)
    return printed.getvalue()


def _synthetic(names):
    """As the examples of plots: a section with its own gene names, imputed where something was held out."""
    adata = snrmix.datasets.synthetic_tissue(12, 40, image_px_per_pitch=16)
    snrmix.pp.embed_histology(adata, encoder="colour")
    snrmix.pp.hold_out(adata)
    snrmix.tl.impute(adata, measured="measured")
    names["adata"] = adata


def _several(names):
    snrmix.tl.impute(names["slides"], share=True)


def _result(names):
    names["result"] = snrmix.tl.benchmark(names["adata"], ["mean", "ridge", "kriging"], splits=2)


def _store(names):
    import spatialdata

    _stored(names)
    names["spatialdata"] = spatialdata


def _model(names):
    import torch

    names["model"] = torch.nn.Flatten()


NEEDS = {
    **dict.fromkeys(
        [f"pl.{verb}" for verb in ("compare", "calibration", "draws", "gene_scores", "weights", "training")], _synthetic
    ),
    "pl.share": _several,
    "pl.benchmark": _result,
    "tl.pool": _imputed,
    "tl.evaluate": _without_hold_out,
    "tl.coverage": _without_hold_out,
    "io.write_layer": _store,
    "Encoder": _model,
}


def test_the_api_page_has_every_public_name():
    modules = ("tl", "pp", "pl", "io", "datasets")
    public = {f"{module}.{name}" for module in modules for name in getattr(snrmix, module).__all__}
    public |= {name for name in snrmix.__all__ if name not in modules and name[0].isupper()}
    assert public - {"io.Description"} <= set(PUBLIC) <= public


# Links


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as MyST and GitHub make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"\[(.+?)\]\(.+?\)", r"\1", one)).strip().lower().replace(" ", "-")
        for one in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://|mailto:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{page.name}: {target}"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_names_in_pages_exist(page):
    for name in set(re.findall(r"`snrmix\.((?:tl|pp|pl|io|datasets)\.\w+|[A-Z]\w+)", page.read_text())):
        assert hasattr(_resolve(name.split(".")[0]), name.split(".")[-1]) or hasattr(snrmix, name), f"snrmix.{name}"
