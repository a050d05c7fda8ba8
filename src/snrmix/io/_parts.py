"""What is in the parts of an object, as far as each can be read."""

from __future__ import annotations

import re

import numpy as np
from anndata import AnnData
from scipy import sparse

from snrmix.data.embedding_cache import CACHE_KEY
from snrmix.data.expression import MIN_SPOTS
from snrmix.data.genes import OTHER_NAMES
from snrmix.data.lattice import ST_UM, VISIUM_UM, count_gaps
from snrmix.data.results import Result
from snrmix.data.sites import Located
from snrmix.data.stored import stored_sections
from snrmix.data.table import matrix_of
from snrmix.data.units import find_totals, read_units
from snrmix.images.arrays import as_picture
from snrmix.images.kind import BRIGHTFIELD, kind_of
from snrmix.io._notes import Notes

ENSEMBL = re.compile(r"ENS[A-Z]*G\d{9,}")
ARRAYS = {VISIUM_UM: "Visium", ST_UM: "ST"}  # by their pitch
MOST_ROWS = 1000  # of a matrix that are looked at
MOST_MATRICES, MOST_IMAGES, EXAMPLES = 8, 20, 3


def any_table(data) -> AnnData | None:
    """The AnnData to look at where none can be worked on: the object itself, or the first of its tables."""
    if isinstance(data, AnnData):
        return data
    tables = getattr(data, "tables", None) or {}
    return next(iter(tables.values()), None)


def object_of(data, table: AnnData | None) -> dict:
    """What kind of object it is, and how large."""
    found = {"kind": type(data).__name__}
    if table is None:
        return found
    found |= {"observations": int(table.n_obs), "variables": int(table.n_vars)}
    if table is not data:
        names = [str(name) for name, other in data.tables.items() if other is table]
        found |= {"table": names[0] if names else "", "tables": [str(name) for name in data.tables]}
    return found


def matrices_of(table: AnnData, rows: np.ndarray | None, notes: Notes) -> list[dict]:
    """``X`` and the layers, and what their values look like."""
    layers = [str(name) for name in table.layers.keys() if name is not None]
    names = [None] if table.X is not None else []
    found = [notes.look(_matrix, table, layer, rows) for layer in [*names, *layers][:MOST_MATRICES]]
    return [one for one in found if one is not None]


def _matrix(table: AnnData, layer: str | None, rows: np.ndarray | None) -> dict:
    matrix = table.X if layer is None else table.layers[layer]
    found = {"name": "X" if layer is None else layer, "dtype": str(matrix.dtype)}
    rows = np.arange(table.n_obs) if rows is None or not len(rows) else rows
    rows = rows[:: max(1, len(rows) // MOST_ROWS)]
    values = matrix[rows].compute() if hasattr(matrix, "dask") else matrix_of(table, layer)[rows]
    values = sparse.csc_matrix(values, dtype=np.float64)
    filled = np.diff(values.tocsr().indptr) > 0
    values, rows = values[filled], rows[filled]
    if not np.isfinite(values.data).all():
        return {**found, "looks_like": "incomplete", "seen": "some values are NaN or infinite"}
    if (values.data < 0).any():
        return {**found, "looks_like": "scaled", "seen": f"some values are negative, down to {values.data.min():.4g}"}
    if not values.nnz:
        return {**found, "looks_like": "empty", "seen": "nothing but zeros"}
    reading = read_units(values, find_totals(table, rows))
    return {**found, "looks_like": reading.kind, "seen": reading.seen}


def genes_of(table: AnnData) -> dict:
    """How many genes there are, what their names look like, and which columns have other names."""
    names = [str(name) for name in table.var_names]
    ensembl = sum(bool(ENSEMBL.match(name)) for name in names) > len(names) / 2
    return {
        "number": len(names),
        "names": "Ensembl ids" if ensembl else "symbols",
        "examples": names[:EXAMPLES],
        "other_names": [name for name in OTHER_NAMES if name in table.var],
    }


def seen_genes(table: AnnData, layer: str | None, rows: np.ndarray) -> np.ndarray:
    """In how many of some rows each gene is seen, shape (n_vars,)."""
    return np.asarray((matrix_of(table, layer)[rows] > 0).sum(axis=0)).ravel()


def is_modelled(seen: np.ndarray) -> np.ndarray:
    """Which genes have enough measured spots, bool."""
    return seen >= MIN_SPOTS


def results_of(table: AnnData) -> list[dict]:
    """Results of earlier calls."""
    keys = [str(key) for key in table.uns if Result(table, key).exists]
    return [{"key": key, "version": str(table.uns[key].get("versions", {}).get("snrmix", ""))} for key in keys]


def embedding_of(table: AnnData) -> dict | None:
    """The histology embedding that is stored."""
    if CACHE_KEY not in table.obsm or CACHE_KEY not in table.uns:
        return None
    record = table.uns[CACHE_KEY]
    return {"encoder": str(record["encoder"]), "features": int(table.obsm[CACHE_KEY].shape[1])}


def images_of(data, table: AnnData, notes: Notes) -> list[dict]:
    """The images that are stored, and what they look like: a small sample of each is read."""
    if data is not table:
        stored = [("", str(name), image) for name, image in data.images.items()]
    else:
        sections = stored_sections(table)
        stored = [(name, key, image) for name, entry in sections.items() for key, image in entry["images"].items()]
    found = [one for one in (notes.look(_image, *one) for one in stored[:MOST_IMAGES]) if one is not None]
    if found and all(one["kind"] != BRIGHTFIELD for one in found):
        looks = "; ".join(f"{one['name']!r} ({one['reason']})" for one in found)
        notes.doubt(f"no image looks like H&E: {looks}.")
    return found


def _image(library: str, name: str, image) -> dict:
    kind, found = kind_of(image), {"library": library, "name": name}
    try:
        height, width = as_picture(image, name).levels[0].shape[:2]
        found |= {"width": int(width), "height": int(height)}
    except (TypeError, ValueError):
        pass  # the kind says why
    return {**found, "kind": kind.label, "reason": kind.reason}


def library_of(located: Located, table: AnnData, code: int, is_measured: np.ndarray | None) -> dict:
    """What is known of one library without its image; ``is_measured`` is in the order of the table's rows."""
    sites, lattice = located.sites, located.lattices[code]
    own = sites.library == code
    rows = sites.order[own]
    return {
        "name": sites.libraries[code],
        "spots": int(own.sum()),
        "measured": None if is_measured is None else int(is_measured[rows].sum()),
        "pitch": float(lattice.pitch),
        "um_per_px": float(lattice.um_per_px),
        "array": ARRAYS.get(lattice.array_um, "other" if lattice.is_fitted else "none"),
        "gaps": count_gaps(sites.positions[own], table.obs.iloc[rows]),
        "image": None,
    }
