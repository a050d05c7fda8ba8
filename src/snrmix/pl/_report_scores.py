"""Scores of a result in plain words, and tables of methods, slides and genes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from snrmix.data.figures import figures_of
from snrmix.data.results import MODELLED, Result
from snrmix.pl._report_repeat import is_prediction

METHODS = {
    "snrmix": "snrmix (this result)",
    "network": "its network alone",
    "kriging": "its kriging alone",
    "rates": "its kriging of rates and depth alone",
    "depth": "sequencing depth alone",
    "mean": "the gene's mean",
    "spatial kNN": "mean of the nearest spots",
    "ridge": "ridge regression on the image",
}
SHARE, NUMBER, FLAG = "share", "number", "flag"  # how a column is shown
COLUMNS = (  # part of a result's name in var, heading, how it is shown, what it says
    ("reliable", "May be looked at", FLAG, "The map is better than the gene's mean and than sequencing depth alone."),
    ("explained", "Explained", SHARE, "Share of the squared error of the gene's mean that the prediction removes."),
    ("explained_given_depth", "Explained, given depth", SHARE, "The same beyond what sequencing depth alone says."),
    ("pearson", "Pearson", NUMBER, "Correlation of predicted and measured values, spot by spot."),
    ("pearson_given_depth", "Pearson, given depth", NUMBER, "The same beyond what sequencing depth alone says."),
    ("ceiling", "Ceiling", SHARE, "Share that could be explained at all: counts of a spot are noisy."),
    ("beats_baselines", "Beats simple methods", FLAG, "Better than mean, nearest spots and ridge regression, each."),
    ("weight_network", "Weight of the network", NUMBER, "How much the prediction rests on the image alone."),
    ("weight_kriging", "Weight of kriging", NUMBER, "How much it rests on the neighbours."),
    ("weight_rates", "Weight of rates", NUMBER, "How much it rests on the neighbours' rates, apart from depth."),
)
HELD_OUT = (  # the same of what `snrmix.tl.evaluate` found at hidden spots
    ("explained", "Explained at hidden spots", SHARE, "As Explained, at the spots that were hidden from the run."),
    ("pearson", "Pearson at hidden spots", NUMBER, "As Pearson, at the spots that were hidden from the run."),
    (
        "explainable_neighbour_depth",
        "Of what could be",
        SHARE,
        "Share of what is not noise of counting that is explained.",
    ),
)
ORDER = ("explained_given_depth", "explained", "pearson")  # by which genes are ranked


def said_of(result: Result) -> dict:
    """The main sentences, and scores of methods and slides."""
    scores = result.record["scores"]
    return {"verdict": verdict_of(result), "methods": methods_of(scores), "slide_scores": slides_of(result)}


def columns_of(result: Result, held_out: pd.DataFrame | None) -> list[dict]:
    """Columns of the table of genes: heading, kind, help, and values of the modelled genes."""
    modelled = modelled_of(result)
    found = []
    for part, title, kind, text in COLUMNS:
        if not result.has(part):
            continue
        values = result.flags(part)[modelled] if kind == FLAG else result.column(part, "")[modelled]
        if kind == FLAG or (np.isfinite(values).any() and not (part.startswith("weight") and np.ptp(values) < 1e-6)):
            found.append(_column(part, title, kind, text, values))
    if held_out is not None:
        genes = result.table.var_names[modelled]
        for part, title, kind, text in HELD_OUT:
            values = held_out[part].reindex(genes).to_numpy(float)
            if np.isfinite(values).any():
                found.append(_column(f"hidden_{part}", title, kind, text, values))
    return found


def _column(part: str, title: str, kind: str, text: str, values: np.ndarray) -> dict:
    plain = (
        [int(v) for v in values] if kind == FLAG else [round(float(v), 3) if np.isfinite(v) else None for v in values]
    )
    return {"part": part, "title": title, "kind": kind, "help": text, "values": plain}


def modelled_of(result: Result) -> np.ndarray:
    """Columns of the modelled genes, the best first: those whose map may be looked at before the others."""
    columns = np.flatnonzero(result.flags(MODELLED))
    by = next((part for part in ORDER if result.has(part) and np.isfinite(result.column(part, "")).any()), None)
    score = np.nan_to_num(result.column(by, "")[columns], nan=-np.inf) if by else np.zeros(len(columns))
    good = result.flags("reliable")
    good = np.zeros(len(columns), bool) if good is None else good[columns]
    return columns[np.lexsort((result.table.var_names[columns].astype(str), -score, ~good))]


def methods_of(scores: pd.DataFrame) -> list[dict]:
    """Methods by the squared error that they leave, the least first."""
    ratios = scores["mse_ratio"].astype(float).dropna().sort_values(kind="stable")
    return [
        {
            "name": METHODS.get(str(name), str(name)),
            "ours": name == "snrmix",
            "left": float(ratio),
            "bar": float(np.clip(ratio / max(1.0, ratios.max()), 0, 1)),
            "pearson": None if name in ("mean", "depth") else float(scores["pearson"][name]),
        }
        for name, ratio in ratios.items()
    ]


def slides_of(result: Result) -> list[dict]:
    """Scores of every slide, where there are several."""
    rows = []
    for name, record in result.record.get("libraries", {}).items():
        scores = record["scores"]
        rows.append(
            {
                "name": str(name).replace("|", "/"),
                "kind": KINDS.get(str(record["kind"]), str(record["kind"])),
                "left": float(scores["mse_ratio"]["snrmix"]),
                "pearson": float(record["genes"]["pearson"].median()),
                "reliable": int(record["genes"]["reliable"].sum()),
                "genes": len(record["genes"]),
            }
        )
    return rows


KINDS = {
    "own": "a model of its own",
    "shared": "one model of all slides",
    "leave-group-out": "predicted from other slides, scored on whole groups left out",
    "leave-library-out": "predicted from other slides, scored on slides left out",
    "within-library": "predicted from another slide, scored on regions of it left out",
}


def verdict_of(result: Result) -> dict:
    """The main sentence, and what explains it."""
    figures = figures_of(result.table, result.key)
    head = f"For {figures['n_reliable']:,} of {figures['n_modelled']:,} genes the map may be looked at."
    return {"head": head, "said": [*_of_maps(result, figures), *_of_error(figures), *_of_correlation(figures)]}


def _of_maps(result: Result, figures: dict) -> Iterator[str]:
    """What it means that a map may be looked at, and where scores are from."""
    maps = "Such maps predict" if figures["n_reliable"] != 1 else "Such a map predicts"
    ratios = result.record["scores"]["mse_ratio"].astype(float)
    knows_depth = "depth" in ratios.index and np.isfinite(ratios["depth"])
    yield (
        f"{maps} better than the gene's mean{' and than sequencing depth alone' if knows_depth else ''}; at most 5 % of such "
        f"maps are expected to be wrong. Maps of the other genes may show nothing but noise{', or depth' if knows_depth else ''}."
    )
    if is_prediction(result):
        yield "These scores are of other spots than these: those of the sections that the model was made from."
    else:
        n = int(result.record["n_spots_scored"])
        yield f"These scores are of {n:,} measured spots, each predicted by models that had not seen it."


def _of_error(figures: dict) -> Iterator[str]:
    """How much of the error is left, how much of its fall is depth, and what simple methods leave."""
    ratio, best = figures["mse_ratio"], figures["best_baseline_mse_ratio"]
    if ratio is None:
        return
    less = f"{_percent(1 - ratio)} less" if ratio < 1 else "no better than the mean"
    yield (
        f"Over all {figures['n_modelled']:,} genes the squared error is {_percent(ratio)} of what always saying a gene's mean "
        f"would give: {less}."
    )
    if figures.get("depth_share") is not None:
        yield (
            f"{_percent(figures['depth_share'])} of this fall is sequencing depth: how many molecules were caught at a spot, "
            "which is no biology of the gene."
        )
    if best is not None:
        name = METHODS.get(figures["best_baseline"], figures["best_baseline"])
        no_better = "" if ratio < best else " This result is no better than that."
        yield f"The best of the simple methods ({name}) leaves {_percent(best)}.{no_better}"


def _of_correlation(figures: dict) -> Iterator[str]:
    if figures["pearson_median"] is not None:
        given = figures.get("pearson_given_depth_median")
        beyond = f", and {given:.2f} beyond what depth says" if given is not None else ""
        yield f"For the median gene, predicted and measured values correlate with {figures['pearson_median']:.2f}{beyond}."


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"
