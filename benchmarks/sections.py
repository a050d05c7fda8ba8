"""What the benchmarks share: real sections with their embedding, the machine in words, tables."""

from __future__ import annotations

import datetime
import os
import platform
import re
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

import snrmix
from snrmix._log import logger
from snrmix.data.expression import read_expression
from snrmix.plan.features import read_features
from snrmix.plan.options import read_options
from snrmix.plan.parts import plan_models, run_of
from snrmix.plan.source import read_source
from snrmix.tl._methods import Case

logger.setLevel("WARNING")  # the tables say what is needed

HERE = Path(__file__).parent
DATA = Path(os.environ.get("SNRMIX_DATA", HERE.parents[1] / "shared" / "data"))
CACHE = HERE / ".cache"
RESULTS = HERE / "results"
SECTIONS = {
    "visium_muscle_2dpi": "muscle",
    "st_mob_1": "MOB-1",
    "st_mob_2": "MOB-2",
    "st_her2_B4": "HER2 B4",
    "st_her2_C2": "HER2 C2",
    "st_her2_C3": "HER2 C3",
    "visium_crc": "CRC",
}


def add_options(parser, sections=tuple(SECTIONS), seeds=(0, 1, 2)) -> None:
    """Options that all benchmarks on real sections have."""
    parser.add_argument("--sections", nargs="+", default=list(sections), help="names of .h5ad files without the ending")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(seeds), help="seeds of the hidden spots")
    parser.add_argument("--genes", type=int, default=250, help="genes of highest mean on the measured spots")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the sections (default: SNRMIX_DATA)")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder that keeps the embeddings")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the tables (.csv and .md)")


def load(name: str, data: Path = DATA, cache: Path | None = CACHE) -> tuple[anndata.AnnData, dict]:
    """A section with its embedding, and the options that `snrmix.tl.impute` needs for it.

    Parameters
    ----------
    name
        File name without ``.h5ad``; a ``.jpg`` of the same name is its full-resolution image.
    data
        Folder of the section.
    cache
        Folder of stored embeddings; ``None``: the section is not embedded.
    """
    path = data / f"{name}.h5ad"
    if not path.exists():
        raise SystemExit(f"{path} is absent; set SNRMIX_DATA, or pass --data, to the folder of the real sections.")
    adata, image = anndata.read_h5ad(path), data / f"{name}.jpg"
    options = {"image": image} if image.exists() else {}
    if cache is not None:
        embed(adata, options, cache / f"{name}.h5ad")
    return adata, options


def embed(adata: anndata.AnnData, options: dict, stored: Path) -> None:
    """Embed the section, or take what an earlier run stored; snrmix recognises whether it still fits."""
    if stored.exists():
        old = anndata.read_h5ad(stored)
        if old.obs_names.equals(adata.obs_names):
            adata.obsm["X_histology"], adata.uns["X_histology"] = old.obsm["X_histology"], old.uns["X_histology"]
    snrmix.pp.embed_histology(adata, **options)
    stored.parent.mkdir(parents=True, exist_ok=True)
    kept = anndata.AnnData(obs=pd.DataFrame(index=adata.obs_names))
    kept.obsm["X_histology"], kept.uns["X_histology"] = adata.obsm["X_histology"], adata.uns["X_histology"]
    kept.write_h5ad(stored)


def split_case(adata: anndata.AnnData, kept: np.ndarray, genes: int, image: dict) -> tuple[Case, np.ndarray]:
    """What a method may see where only some spots are kept, and the truth at the others.

    Parameters
    ----------
    adata
        A section from `load`.
    kept
        Which of its spots are measured, bool, shape (n,).
    genes
        Genes of highest mean on these.
    image
        Options from `load`.

    Returns
    -------
    tuple
        The case, as `snrmix.tl.benchmark` has it; and expression at ``case.hidden``, shape (hidden, genes).
    """
    options, source = read_options(), read_source(adata, measured=kept, genes=genes, **image)
    (part,) = plan_models(source, options)
    features = read_features(source, options, run_of(source, options, [part]))
    case = Case(part, features, np.flatnonzero(~part.is_measured), options.settings, options.k_is_chosen)
    names = list(adata.var_names[part.expression.columns])
    observed = read_expression(adata, part.sites, np.ones(adata.n_obs, bool), genes=names).values
    return case, observed[case.hidden]


def machine() -> str:
    """The kind of machine, in words, and the day."""
    import torch

    day = f"{datetime.date.today():%Y-%m-%d}"
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, {day}"
    threads = torch.get_num_threads()
    return f"{processor()}, {threads} thread{'s' if threads > 1 else ''}, {day}"


def processor() -> str:
    """The name of the processor, where the system tells it."""
    found = re.search(r"^model name\s*: (.+)$", _text("/proc/cpuinfo"), re.MULTILINE)
    return found[1].strip() if found else f"{platform.machine()} CPU"


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def write_table(table: pd.DataFrame, path: Path, caption: str, note: str, decimals: int = 3) -> str:
    """Write a table as ``.csv`` and ``.md``, the caption in bold up to its first colon; returns the markdown."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path.with_suffix(".csv"), index=False)
    title, _, explanation = caption.partition(": ")
    text = f"**{title}.** {explanation[:1].upper()}{explanation[1:]}\n\n{markdown(table, decimals)}\n\n{note}\n"
    path.with_suffix(".md").write_text(text)
    return text


def markdown(table: pd.DataFrame, decimals: int = 3) -> str:
    """A table as GitHub markdown."""
    cells = [[_cell(value, decimals) for value in row] for row in table.itertuples(index=False)]
    rows = [list(map(str, table.columns)), ["---"] * table.shape[1], *cells]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cell(value, decimals: int) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.{decimals}f}"
    return str(value)
