"""The page of a report: the template filled in, with its style and its script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

import snrmix
from snrmix.data.results import Result
from snrmix.pl._report_checks import Checks, ticks
from snrmix.pl._report_maps import Maps, colour_stops, geometry
from snrmix.pl._report_scores import columns_of, modelled_of

TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = ("report_table.js", "report_maps.js")
VALUES, CERTAINTY = "viridis", "cividis"  # read the same by all kinds of colour vision, and in grey


def content_of(result: Result, maps: Maps, checks: Checks, columns: np.ndarray, featured: int) -> dict:
    """What the script of the page works with: the table of genes, and maps of some of them.

    Parameters
    ----------
    columns
        Genes with maps.
    featured
        How many of them are seen without being chosen.
    """
    return {
        "genes": {
            "names": [str(name) for name in result.table.var_names[modelled_of(result)]],
            "columns": columns_of(result, checks.scores),
        },
        "maps": {
            "slides": [geometry(slide) for slide in maps.slides],
            "genes": maps.read(columns),
            "featured": featured,
            "keeps": maps.keeps_observed,
            "seen": maps.layer is not None,
            "sd": result.has_sd,
            "units": str(result.record["units"]),
            "colours": {"values": colour_stops(VALUES), "sd": colour_stops(CERTAINTY)},
        },
    }


def render(page: Mapping) -> str:
    """HTML that needs nothing but itself; all text of the object is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.0f} %"
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    script = "\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in SCRIPTS)
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    template = environment.get_template("report.html.j2")
    from snrmix.io._description import plain

    content = plain(page["content"])
    return template.render(
        **{**page, "content": content},
        style=style,
        script=script,
        allowed=allowed,
        ticks=ticks(),
        version=snrmix.__version__,
    )
