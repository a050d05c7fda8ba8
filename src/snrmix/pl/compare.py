from __future__ import annotations

import numpy as np
from anndata import AnnData
from scipy import sparse

from snrmix._names import listing
from snrmix.data.expression import log_values
from snrmix.data.flags import read_added, read_flags
from snrmix.data.genes import missing_genes
from snrmix.data.lattice import nearest_distance
from snrmix.data.results import MEASURED, SD, Result
from snrmix.data.table import matrix_of
from snrmix.pl._figure import GREY, INK, draws, finish
from snrmix.pl._scene import Scene, read_scene

PANEL_INCHES = 3.3
MANY_SPOTS = 10_000  # from here on discs overlap, so that no lattice of gaps shows through
OBSERVED_SIZE, OBSERVED_COLOUR = 0.35, "#8a8a8a"  # of observed spots among the uncertain ones
SCORES = {  # by kind of model, see `snrmix.plan.parts.Part`
    "own": "out-of-fold Pearson",
    "shared": "shared model, out-of-fold Pearson",
    "leave-group-out": "other groups of slides left out: Pearson",
    "leave-library-out": "other slides left out: Pearson",
    "within-library": "regions of another slide left out: Pearson",
}
SHOWN = ("pearson", "explained", "explained_given_depth")
EXPRESSION_COLOURS, SD_COLOURS = "viridis", "magma"


@draws
def compare(
    data,
    gene,
    *,
    key: str = "snrmix",
    layer: str | None = None,
    truth: str | None = None,
    library: str | None = None,
    image=True,
    size: float | None = None,
    table_key: str | None = None,
    library_key: str | None = None,
    image_key: str | None = None,
    show: bool | None = None,
    save=None,
):
    """Draw a gene over the tissue: the histology, what was measured, what was imputed, and how sure that is.

    Measured and imputed values share their colours. Spots without a measurement are hollow; sites that
    `snrmix.pp.fill_grid` added are left out where they have none. Spots whose value was observed are grey dots in the
    uncertainty.

    Parameters
    ----------
    data
        AnnData or SpatialData after `snrmix.tl.impute`.
    gene
        Name of a gene, or several for one row each.
    key
        The ``key_added`` of `snrmix.tl.impute`.
    layer
        Layer with the measured values; ``None`` for what was imputed from. Counts are drawn as log1p of counts per
        10,000.
    truth
        Layer to draw beside the imputed one, with log-normalised values, or counts, which are drawn as those of ``layer``.
    library
        The library to draw; needed when there are several.
    image
        ``True``: draw the histology of the object; where it cannot be read, the spots are drawn alone and a warning says
        why. ``False``: draw the spots alone. Or an image of its own, as in `snrmix.tl.impute`.
    size
        Diameter of the spots in pitches, or in the distance between the spots that are drawn where that is less; 1, or
        1.3 from 10,000 spots on, where ``None``.
    table_key, library_key, image_key
        As in `snrmix.tl.impute`.
    {figure}

    Raises
    ------
    KeyError
        When there is no such result, gene, layer or library.
    ValueError
        When the library is not clear, the gene was left out of the imputation, or an image that was given does not fit.
    TypeError
        When ``image`` is neither of these.
    """
    import matplotlib.pyplot as plt

    result = Result.find(data, key, table_key)
    table, record = result.table, result.record
    columns = _find_genes(result, [gene] if isinstance(gene, str) else list(gene))
    is_measured = _measured_rows(result)
    scene = read_scene(
        data, library=library, image=image, table_key=table_key, library_key=library_key, image_key=image_key
    )
    size = size or (1.3 if len(scene.rows) >= MANY_SPOTS else 1.0)
    measured = is_measured[scene.rows]
    observed = np.full((len(scene.rows), len(columns)), np.nan)
    observed[measured] = _observed(table, scene.rows[measured], columns, layer, record)
    maps = {"measured": observed, "imputed": _values(table, key, scene.rows, columns)}
    if truth is not None:
        maps["truth"] = log_values(table, truth, scene.rows, columns, "truth")
    sd = _values(table, result.name(SD), scene.rows, columns) if result.has_sd else None

    units = str(record.get("units", "expression"))
    n_panels = (scene.backdrop is not None) + len(maps) + (sd is not None)
    height = PANEL_INCHES * np.clip(scene.height_to_width, 0.3, 3) + 1.05
    figure = plt.figure(figsize=(PANEL_INCHES * n_panels, height * len(columns)), layout="constrained")
    rows = np.atleast_1d(figure.subfigures(len(columns), 1))
    is_spot = ~_added_rows(table)[scene.rows]
    for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
        heading = _heading(result, column, scene.library)
        row.suptitle(heading, x=0.012, ha="left", fontsize="large", color=INK, parse_math=False)
        row_sd = None if sd is None else sd[:, i]
        _draw_row(row, scene, {name: values[:, i] for name, values in maps.items()}, row_sd, is_spot, size, units)
    return finish(figure, show, save)


def _find_genes(result: Result, genes: list[str]) -> np.ndarray:
    """Columns of the genes."""
    table, key = result.table, result.key
    if not genes:
        raise ValueError("gene is empty; pass the name of at least one gene.")
    missing = [g for g in genes if g not in table.var_names]
    if missing:
        raise KeyError(missing_genes(table, missing, len(genes)))
    if key not in table.layers:
        raise KeyError(
            f"layers[{key!r}] is missing; run snrmix.tl.impute first. layers has: {listing(table.layers.keys())}."
        )
    columns = table.var_names.get_indexer(genes)
    for name, column in zip(genes, columns, strict=True):
        if np.isnan(table.layers[key][:, column]).all():
            raise ValueError(f"gene {name!r} was left out of the imputation by genes=; run it again with this gene.")
    return columns


def _measured_rows(result: Result) -> np.ndarray:
    table, name = result.table, result.name(MEASURED)
    if name not in table.obs:
        raise KeyError(f"obs[{name!r}] is missing; run snrmix.tl.impute first. obs has: {listing(table.obs)}.")
    return read_flags(table.obs[name], f"obs[{name!r}]").yes


def _added_rows(table: AnnData) -> np.ndarray:
    """Sites of `snrmix.pp.fill_grid`."""
    return read_added(table.obs)


def _observed(table: AnnData, rows: np.ndarray, columns: np.ndarray, layer: str | None, record: dict) -> np.ndarray:
    """Measured values in the units of the result, shape (rows, columns)."""
    imputed_from = record.get("parameters", {}).get("layer")
    if layer is None:
        layer = imputed_from if imputed_from in table.layers else None
    known = record.get("input_units") if (layer or "X") == imputed_from else None
    return log_values(table, layer, rows, columns, "layer", known)


def _values(table: AnnData, layer: str, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    values = matrix_of(table, layer)[rows][:, columns]
    return np.asarray(values.toarray() if sparse.issparse(values) else values, dtype=float)


def _heading(result: Result, column: int, library: str) -> str:
    """The gene, and what of it is predicted in this library where that is known."""
    scores, kind = _scores(result, column, library)
    words = [] if np.isnan(scores["pearson"]) else [f"{SCORES[kind]} {scores['pearson']:.2f}"]
    if np.isfinite(scores["explained"]):
        given = scores["explained_given_depth"]
        beyond = f" ({max(given, 0):.0%} given depth)" if np.isfinite(given) else ""
        words.append(f"{max(scores['explained'], 0):.0%} explained{beyond}")
    return f"{result.table.var_names[column]}: {', '.join(words)}".rstrip(": ")


def _scores(result: Result, column: int, library: str) -> tuple[dict[str, float], str]:
    """Scores of a gene by name, NaN where unknown, and the kind of model they are of."""
    record = result.record.get("libraries", {}).get(library.replace("/", "|"))
    if record is None:  # else var has means over libraries
        found = {name: result.column(name, "")[column] if result.has(name) else np.nan for name in SHOWN}
        return found, "own"
    genes, name = record["genes"], result.table.var_names[column]
    known = name in genes.index
    return {n: float(genes.at[name, n]) if known and n in genes else np.nan for n in SHOWN}, record["kind"]


def _draw_row(
    figure,
    scene: Scene,
    maps: dict[str, np.ndarray],
    sd: np.ndarray | None,
    is_spot: np.ndarray,
    size: float,
    units: str,
) -> None:
    """One gene: the panels, and under those that share their colours the bar that explains them."""
    image = ["H&E"] if scene.backdrop is not None else []
    certainty = ["uncertainty"] if sd is not None else []
    mosaic = [image + list(maps) + certainty, ["."] * len(image) + ["bar"] * len(maps) + ["sd bar"] * len(certainty)]
    axes = figure.subplot_mosaic(mosaic, height_ratios=[1, 0.025])
    if image:
        scene.draw_backdrop(axes["H&E"])
    limits = _limits(np.concatenate(list(maps.values())))
    for name, values in maps.items():
        is_missing = is_spot & np.isnan(values)
        scene.draw_spots(axes[name], is_missing, 0.65 * size, facecolor="none", edgecolor=GREY, linewidth=0.5)
        discs = _draw_map(axes[name], scene, values, limits, EXPRESSION_COLOURS, size)
    _colour_bar(figure, discs, axes["bar"], units)
    if sd is not None:
        is_observed = sd == 0
        sd = np.where(is_observed, np.nan, sd)
        scene.draw_spots(axes["uncertainty"], is_observed, OBSERVED_SIZE * size, facecolor=OBSERVED_COLOUR, linewidth=0)
        discs = _draw_map(axes["uncertainty"], scene, sd, _limits(sd), SD_COLOURS, size)
        _colour_bar(figure, discs, axes["sd bar"], "standard deviation")
    for name in mosaic[0]:
        axes[name].set_title(name, fontsize="medium")


def _draw_map(ax, scene: Scene, values: np.ndarray, limits: tuple[float, float], colours: str, size: float):
    known = np.isfinite(values)
    if known.sum() > 1:  # sites of fill_grid lie closer than the pitch
        size *= min(1.0, nearest_distance(scene.spots[known]) / scene.pitch)
    scene.draw_backdrop(ax, opacity=0.5)
    return scene.draw_spots(ax, known, size, array=values[known], cmap=colours, clim=limits, linewidth=0)


def _limits(values: np.ndarray) -> tuple[float, float]:
    """Range of the colours: all but the outermost hundredth on either side."""
    values = values[np.isfinite(values)]
    low, high = np.quantile(values, [0.01, 0.99]) if values.size else (0.0, 1.0)
    return (low, high) if high > low else (low, low + 1)


def _colour_bar(figure, discs, ax, label: str) -> None:
    bar = figure.colorbar(discs, cax=ax, orientation="horizontal")
    bar.outline.set_visible(False)
    ax.tick_params(labelsize="small", length=2)
    bar.set_label(label, fontsize="small")
