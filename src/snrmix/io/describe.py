from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from anndata import AnnData

from snrmix._globals import settled
from snrmix.data.expression import read_measured
from snrmix.data.identity import read_labels
from snrmix.data.results import versions
from snrmix.data.sites import Located, Sites, locate_sites
from snrmix.data.stored import stored_sections
from snrmix.data.table import has_image, read_table
from snrmix.io._cost import cost_of
from snrmix.io._description import Description
from snrmix.io._notes import Notes
from snrmix.io._parts import (
    any_table,
    embedding_of,
    genes_of,
    images_of,
    library_of,
    matrices_of,
    object_of,
    results_of,
)
from snrmix.plan.source import Source, read_source


@settled()
def describe(
    data,
    *,
    measured=None,
    layer: str | None = None,
    units: str = "auto",
    genes=None,
    image=None,
    image_key: str | None = None,
    um_per_px: float | Mapping[str, float] | None = None,
    table_key: str | None = None,
    use_rep: str | None = None,
    library_key: str | None = None,
) -> Description:
    """Say what is in an object, what `snrmix.tl.impute` would take of it and need for it, and what looks doubtful.

    It never refuses an object: what `snrmix.tl.impute` would refuse stands in the description. Nothing is changed, and
    nothing is embedded or fitted; of images a sample of the pixels is read.

    Parameters
    ----------
    data
        AnnData or SpatialData, whatever its state.
    measured, layer, units, genes
        As in `snrmix.tl.impute`.
    image, image_key, um_per_px
        As in `snrmix.tl.impute`.
    table_key, use_rep, library_key
        As in `snrmix.tl.impute`.

    Returns
    -------
    snrmix.io.Description
        A dict, which prints as text; ``to_json`` makes JSON of it. Its entries, as far as they could be found out:

        ``object``
            Kind of the object, number of observations and variables, tables.
        ``library_key``, ``libraries``
            The column that tells slides apart, and for each slide its spots, how many are measured, ``pitch`` in units
            of the positions, ``um_per_px`` of these, the ``array`` (``"Visium"``, ``"ST"``, ``"other"``, ``"none"``), ``gaps`` of the array amid the
            spots, and the ``image`` that would be read.
        ``images``
            All that are stored: width and height in pixels, and whether they look like H&E.
        ``matrices``
            ``X`` and layers, and what their values look like.
        ``genes``, ``results``, ``embedding``
            Names of the genes, results of earlier calls, and the stored embedding.
        ``cost``
            Genes and models that would be fitted with default options, seconds on this machine, gigabytes of memory, and
            how many are free.
        ``refused``, ``doubtful``
            Lists of sentences.
        ``versions``
            Of this package and those below it.

    Examples
    --------
    >>> print(snrmix.io.describe(snrmix.datasets.synthetic_tissue()))
    """
    reading = {
        "measured": measured, "layer": layer, "units": units, "genes": genes, "image": image, "image_key": image_key,
        "um_per_px": um_per_px, "table_key": table_key, "use_rep": use_rep, "library_key": library_key,
    }  # fmt: skip
    notes = Notes()
    with notes.listening():
        found = _describe(data, reading, notes)
    return Description({**found, "refused": notes.refused, "doubtful": notes.doubtful, "versions": versions()})


def _describe(data, reading: dict, notes: Notes) -> dict:
    table = notes.ask(read_table, data, reading["table_key"])
    is_sound = table is not None
    table = table if is_sound else notes.look(any_table, data)
    found = {"object": notes.look(object_of, data, table) or {"kind": type(data).__name__}}
    if table is None:
        return found
    source = notes.ask(read_source, data, **reading) if is_sound else None
    is_measured = _measured(source, table, reading, notes)
    located = _located(source, data, table, reading, notes)
    key, libraries = _slides(located, data, table, is_measured, reading["library_key"], notes)
    rows = None if is_measured is None else np.flatnonzero(is_measured)
    found |= {
        "library_key": key,
        "libraries": libraries,
        "images": notes.look(images_of, data, table, notes) or [],
        "matrices": notes.look(matrices_of, table, rows, notes) or [],
        "genes": notes.look(genes_of, table),
        "results": notes.look(results_of, table) or [],
        "embedding": notes.look(embedding_of, table),
    }
    sites = _open(located, libraries, notes) if located is not None else None
    if source is not None and (sites is not None or source.located is None):
        found["cost"] = notes.look(cost_of, source, sites, notes)
    return found


def _measured(source: Source | None, table: AnnData, reading: dict, notes: Notes) -> np.ndarray | None:
    """Which rows are measured, bool, shape (n_obs,); ``None`` where that cannot be told."""
    if source is not None:
        return source.sites.to_rows(source.is_measured)
    return notes.look(read_measured, table, reading["measured"], reading["layer"])


def _located(source: Source | None, data, table: AnnData, reading: dict, notes: Notes) -> Located | None:
    """Sites, with images where these can be found."""
    if source is not None and source.located is not None:
        return source.located
    wanted = ("table_key", "library_key", "image", "image_key", "um_per_px")
    with_images = source is None and (reading["image"] is not None or notes.look(has_image, data, table))
    for images in (True, False) if with_images else (False,):
        given = {name: reading[name] for name in wanted if images or not name.startswith("image")}
        located = notes.look(locate_sites, data, with_images=images, refuse=False, **given)
        if located is not None:
            return located
    return None


def _slides(
    located: Located | None, data, table: AnnData, is_measured, library_key: str | None, notes: Notes
) -> tuple[str | None, list[dict]]:
    """The column that tells libraries apart, and what is known of each."""
    labels, key = notes.look(_labels, data, table, library_key) or (None, None)
    if located is not None:
        codes = range(len(located.sites.libraries))
        found = [notes.look(library_of, located, table, code, is_measured) for code in codes]
        return key, [one for one in found if one is not None]
    if labels is None:
        return key, []
    names, counts = np.unique(labels, return_counts=True)
    libraries = [{"name": name, "spots": n} for name, n in zip(names.tolist(), counts.tolist(), strict=True)]
    if is_measured is not None:
        for one in libraries:
            one["measured"] = int(is_measured[labels == one["name"]].sum())
    return key, libraries


def _labels(data, table: AnnData, library_key: str | None) -> tuple[np.ndarray, str | None]:
    region_key = table.uns.get("spatialdata_attrs", {}).get("region_key") if data is not table else None
    return read_labels(table.obs, list(stored_sections(table)) if data is table else [], library_key, region_key)


def _open(located: Located, libraries: list[dict], notes: Notes) -> Sites | None:
    """Sites with their images, if there are any; ``None`` where one is refused."""
    images = [notes.ask(located.open_image, code) for code in range(len(located.openers))]
    for code, image in enumerate(images):
        if image is not None and code < len(libraries):
            record = image.record(np.empty(0), 1, float(located.sites.um_per_px[code]))
            libraries[code]["image"] = {name: value for name, value in record.items() if name != "level"}
    return None if any(image is None for image in images) else located.with_images(images)
