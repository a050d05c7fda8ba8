"""Figures of a result as custom content of MultiQC."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from snrmix.data.save import write_text

COLUMNS: dict[str, dict] = {  # of figures_of: title, description, and how MultiQC shows it
    "mse_ratio": {
        "title": "MSE ratio",
        "description": "Out-of-fold squared error as a share of the mean's: lower is better",
        "min": 0,
        "max": 1,
        "scale": "RdYlGn-rev",
        "format": "{:,.3f}",
    },
    "best_baseline_mse_ratio": {
        "title": "Best baseline",
        "description": "The same of the best of mean, spatial kNN, ridge and others",
        "min": 0,
        "max": 1,
        "scale": "RdYlGn-rev",
        "format": "{:,.3f}",
    },
    "pearson_median": {
        "title": "Pearson",
        "description": "Out-of-fold Pearson correlation per gene, median over modelled genes",
        "min": -1,
        "max": 1,
        "scale": "RdYlGn",
        "format": "{:,.3f}",
    },
    "n_reliable": {"title": "Reliable genes", "description": "Genes that are reliably imputed", "format": "{:,.0f}"},
    "n_modelled": {"title": "Modelled genes", "description": "Genes that were modelled", "format": "{:,.0f}"},
    "n_measured": {"title": "Measured spots", "description": "Spots that were learnt from", "format": "{:,.0f}"},
    "n_spots": {"title": "Spots", "description": "All spots of the section", "format": "{:,.0f}"},
    "depth_share": {
        "title": "Depth share",
        "description": "Share of what is explained that sequencing depth alone explains: lower is better",
        "min": 0,
        "max": 1,
        "scale": "OrRd",
        "format": "{:,.3f}",
    },
    "warnings": {"title": "Warnings", "description": "What snrmix warned of", "scale": False},
}
GENERAL = ("mse_ratio", "pearson_median", "n_reliable")
ABOUT = "Imputed expression of sections, scored at measured spots that the model had not seen."


def write_multiqc(folder: Path, sample: str, figures: Mapping[str, object], warnings: Sequence[str] = ()) -> list[Path]:
    """Write ``SAMPLE_snrmix_mqc.json`` (a table) and ``SAMPLE_snrmix_general_mqc.json`` (general statistics).

    Parameters
    ----------
    folder
        Where to, made where it is missing.
    sample
        As MultiQC will name it.
    figures
        See `snrmix.data.figures.figures_of`.
    warnings
        Of the run.

    Returns
    -------
    list of pathlib.Path
    """
    folder.mkdir(parents=True, exist_ok=True)
    row = {name: figures[name] for name in COLUMNS if figures.get(name) is not None}
    row["warnings"] = " | ".join(warnings) or "none"
    table = {
        "id": "snrmix",
        "section_name": "snrmix",
        "description": ABOUT,
        "plot_type": "table",
        "pconfig": {"id": "snrmix_table", "title": "snrmix: imputation", "namespace": "snrmix"},
        "headers": {name: COLUMNS[name] for name in row},
        "data": {sample: row},
    }
    general = {
        "id": "snrmix_general",
        "plot_type": "generalstats",
        "headers": {name: {"namespace": "snrmix", **COLUMNS[name]} for name in GENERAL},
        "data": {sample: {name: row[name] for name in GENERAL if name in row}},
    }
    paths = [folder / f"{sample}_snrmix_mqc.json", folder / f"{sample}_snrmix_general_mqc.json"]
    for path, content in zip(paths, (table, general), strict=True):
        write_text(json.dumps(content, indent=1), path)
    return paths
