from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from snrmix._names import listing
from snrmix.data.flags import read_added
from snrmix.data.results import Result
from snrmix.pl._figure import drawing, finish
from snrmix.pl._maps import MODES, Row, Style, choose_panels, draw_rows, limits_of
from snrmix.pl._scene import Scene, read_scenes
from snrmix.pl._values import Values, Wanted


@drawing
def compare(
    data,
    gene,
    *,
    key: str = "snrmix",
    layer: str | None = None,
    truth: str | None = None,
    library: str | Sequence[str] | None = None,
    panels: str | Sequence[str] | None = None,
    sd: str | None = "panel",
    image=True,
    size: float = 1.0,
    cmap="viridis",
    vmin=None,
    vmax=None,
    title: str | None = None,
    um_per_px=None,
    table_key: str | None = None,
    library_key: str | None = None,
    image_key: str | None = None,
    ax=None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
    save=None,
    dpi: float | None = None,
):
    """Draw genes over the tissue: the histology, what was measured, what was imputed, and how sure that is.

    Measured and imputed values share their colours. In the imputed map, a dot marks observed values. Spots
    without a measurement are hollow; sites that `snrmix.pp.fill_grid` added are left out where they have none. From
    10,000 sites on, a map is one picture without these marks.

    Parameters
    ----------
    {result}
    gene
        Name of a gene, or several for one row each. A dict draws scores of sets of genes, as in
        ``{"stroma": ["COL1A1", "COL3A1"]}``: the mean of their z-scores by the measured spots, with the deviation over
        draws (`snrmix.tl.draws`) as uncertainty.
    layer
        Layer with the measured values; ``None`` for what was imputed from. Counts are drawn as log1p of counts per
        10,000.
    truth
        Layer to draw beside the imputed one, with log-normalised values, or counts, which are drawn as those of ``layer``.
    library
        The library to draw, or several; ``None`` for all. Each has its own rows.
    panels
        Which panels, of ``"H&E"``, ``"measured"``, ``"imputed"``, ``"truth"`` and ``"uncertainty"``; ``None`` for all
        there are. With a single one, genes stand beside each other in a grid.
    sd
        How uncertainty is shown: ``"panel"`` as a map of its own, ``"alpha"`` by fading uncertain values, ``"hatch"`` by
        hatching the least certain quarter, ``None`` not at all.
    image
        ``True``: draw the histology of the object; where it cannot be read, the spots are drawn alone and a warning says
        why. ``False``: draw the spots alone. Or an image of its own, as in `snrmix.tl.impute`.
    size
        Diameter of the spots in pitches, or in the distance between the spots that are drawn where that is less.
    cmap
        Colours of the values.
    vmin, vmax
        Ends of these colours: a number, a percentile such as ``"p5"``, or a list with one for each gene; by default the
        1st and the 99th percentile of all maps of the gene.
    title
        Of the whole figure.
    um_per_px, library_key, image_key
        As in `snrmix.tl.impute`. The scale bar is in spots where micrometres are unknown.
    {figure}

    Raises
    ------
    KeyError
        When there is no such result, gene, layer or library.
    ValueError
        When the gene was left out of the imputation, an image that was given does not fit, or ``panels``, ``sd``, ``vmin``,
        ``vmax`` or ``ax`` is none of the above.
    TypeError
        When ``image`` is neither of these, or a set of genes is no list.

    Examples
    --------
    >>> axes = snrmix.pl.compare(adata, "STROMA_01", truth="truth")
    >>> axes = snrmix.pl.compare(adata, list(adata.var_names[:6]), panels="imputed")
    >>> axes = snrmix.pl.compare(adata, {"stroma": ["STROMA_01", "STROMA_02"]}, sd="alpha")
    """
    if sd not in MODES:
        raise ValueError(f"sd={sd!r} must be one of {listing(MODES[:-1])}, or None.")
    values = Values(Result.find(data, key, table_key), layer, truth)
    wanted = values.find(gene)
    where = {"table_key": table_key, "library_key": library_key, "image_key": image_key, "um_per_px": um_per_px}
    scenes = read_scenes(data, library=library, image=image, **where)
    limits = zip(_one_each("vmin", vmin, wanted), _one_each("vmax", vmax, wanted), strict=True)
    kinds = ("measured", "imputed") if truth is None else ("measured", "imputed", "truth")
    by_gene = [_rows(values, one, scenes, kinds, *ends) for one, ends in zip(wanted, limits, strict=True)]
    rows = [row for of_scene in zip(*by_gene, strict=True) for row in of_scene]
    available = ["H&E"] * any(scene.backdrop is not None for scene in scenes) + list(kinds)
    available += ["uncertainty"] * (sd == "panel" and any(row.sd is not None for row in rows))
    shown = choose_panels(available, panels)
    axes = draw_rows(rows, shown, Style(size, cmap, sd), ax, figsize, title)
    return finish(axes, show, save, dpi, ax)


def _rows(values: Values, wanted: Wanted, scenes: list[Scene], kinds, vmin, vmax) -> list[Row]:
    """The rows of a gene, one per library, with the same colours."""
    is_spot = ~read_added(values.result.table.obs)
    rows = [
        Row(
            scene,
            values.heading(wanted, scene.library),
            values.short_heading(wanted, scene.library if len(scenes) > 1 else None),
            {kind: getattr(values, kind)(wanted, scene.rows) for kind in kinds},
            values.sd(wanted, scene.rows),
            is_spot[scene.rows],
            wanted.label(values.units),
        )
        for scene in scenes
    ]
    limits = limits_of(np.concatenate([shown for row in rows for shown in row.maps.values()]), vmin, vmax)
    return [replace(row, limits=limits) for row in rows]


def _one_each(name: str, given, wanted: Sequence) -> list:
    """A limit for each gene."""
    if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray):
        return [given] * len(wanted)
    if len(given) != len(wanted):
        raise ValueError(f"{name}= holds {len(given)} limits for {len(wanted)} genes.")
    return list(given)
