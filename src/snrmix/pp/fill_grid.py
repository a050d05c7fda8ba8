from __future__ import annotations

import numbers
from collections.abc import Mapping

import numpy as np
import pandas as pd
from anndata import AnnData

from snrmix._globals import settled
from snrmix._log import logger
from snrmix._memory import free_memory
from snrmix.data.expression import read_measured
from snrmix.data.flags import ADDED, read_added, read_flags, read_in_tissue
from snrmix.data.sites import Sites, read_sites
from snrmix.data.table import has_image, read_table
from snrmix.images.tissue import tissue_mask
from snrmix.pp._grow import Added, grow, grow_spatialdata
from snrmix.pp.places import ADJACENT, BRIDGE, BYTES_PER_PLACE, Grid, between, count_places, far_from, fit_grid, places

SPOT = 0.25  # radius of what must be tissue, in pitches: about a spot of Visium
ON_TISSUE = 0.5  # share of it


@settled()
def fill_grid(
    data,
    factor: int | None = None,
    *,
    spacing_um: float | None = None,
    measured=None,
    layer: str | None = None,
    image=None,
    image_key: str | None = None,
    um_per_px: float | Mapping[str, float] | None = None,
    table_key: str | None = None,
    library_key: str | None = None,
    key_added: str = "measured",
):
    """Add unmeasured sites between the measured ones and where sites are missing, on tissue only.

    The new sites lie on the array that ``array_row`` and ``array_col`` tell, at ``factor`` times its density along each
    direction, and within its rows and columns; they follow its rotation and its irregularities. Sites without
    ``array_row`` and ``array_col``, such as cells, get a regular hexagonal grid. Places less than half a spacing away
    from a site are left out. A place is on tissue when the image shows tissue on half of the disc around it, of radius a
    quarter of the pitch, or when it lies among adjacent sites with ``in_tissue == 1``. Without any image it is when it
    lies among the sites (where the column exists, those with ``in_tissue == 1``), in gaps of at most one missing site.

    Parameters
    ----------
    data
        AnnData or SpatialData; it is never changed.
    factor
        Whole number from 2 up. 2 puts a site halfway between any two neighbours: four times as many sites.
    spacing_um
        Instead of ``factor``: distance between neighbouring sites in micrometres, on an array at most its pitch. The
        pitch itself adds only what is missing.
    measured, layer
        As in `snrmix.tl.impute`. ``None``: ``obs[key_added]`` where it exists, else spots with at least one count and,
        where the column exists, ``in_tissue == 1``.
    image, image_key, um_per_px, table_key, library_key
        As in `snrmix.tl.impute`.
    key_added
        Name of the column that says which sites are measured.

    Returns
    -------
    A new AnnData, or a new SpatialData that shares the images with ``data``. The sites of ``data`` come first, as they
    were. At added sites

    ``X``, ``raw``, ``layers``
        0; sparse matrices stay sparse. NumPy layers with values that are not whole numbers have NaN.
    ``obs[key_added]``, ``obs["snrmix_added"]``
        ``False`` and ``True``.
    ``obs["in_tissue"]``, the columns of the library and of the region
        1, and those of the library.
    other columns of ``obs``, ``array_row`` and ``array_col`` among them
        ``False`` in boolean columns, nullable ones too, else missing: whole numbers become floating.
    ``obsm["spatial"]``
        Their positions. Other dense arrays of ``obsm`` are NaN, sparse ones 0.

    Names tell library and position. Graphs in ``obsp``, ``obsm["X_histology"]`` and all that `snrmix.tl.impute` wrote do
    not know the new sites and are left out. A SpatialData gets the shapes of the new sites too, each that of the
    nearest site, moved.

    Raises
    ------
    ValueError, KeyError, TypeError
        For a factor or spacing out of range, both or neither; micrometres that are not known; more sites than memory
        holds; regions that are no shapes; and what `snrmix.tl.impute` refuses in positions and images.

    Examples
    --------
    >>> adata = snrmix.datasets.synthetic_tissue()
    >>> dense = snrmix.pp.fill_grid(adata, factor=2)
    >>> snrmix.tl.impute(dense, measured="measured")
    """
    _check(factor, spacing_um, key_added)
    table = read_table(data, table_key)
    if data is not table:
        _check_regions(data, table)
    with_images = image is not None or image_key is not None or has_image(data, table)
    if measured is None and key_added in table.obs:
        measured = key_added
    is_measured = read_measured(table, measured, layer)
    _check_free(table, key_added, is_measured)
    sites = read_sites(
        data, table_key=table_key, library_key=library_key, image=image, image_key=image_key, um_per_px=um_per_px,
        measured=is_measured, with_images=with_images,
    )  # fmt: skip
    if not with_images:
        logger.warning("no image: sites are added only between the sites there are, and in gaps of one missing site.")
    added = _find(table, sites, factor, spacing_um)
    if not len(added):
        logger.warning("there is no place for another site: the result has those of data.")
    grown = grow(data, table, sites, added, library_key)
    grown.obs[key_added] = np.append(is_measured, np.zeros(len(added), bool))
    grown.obs[ADDED] = np.append(read_added(table.obs), np.ones(len(added), bool))
    logger.info("added %d sites to %d, %d of which are measured.", len(added), table.n_obs, is_measured.sum())
    return grown if data is table else grow_spatialdata(data, table, grown, sites, added)


def _check(factor, spacing_um, key_added) -> None:
    if (factor is None) == (spacing_um is None):
        raise ValueError("pass one of factor= (2 halves the distance between sites) and spacing_um=.")
    if factor is not None and (isinstance(factor, bool) or not isinstance(factor, numbers.Integral) or not 2 <= factor):
        raise ValueError(
            f"factor={factor!r} must be a whole number from 2 up; to add only missing sites of the array, pass its "
            "pitch as spacing_um=."
        )
    if spacing_um is not None and (
        isinstance(spacing_um, bool) or not isinstance(spacing_um, numbers.Real) or not 0 < spacing_um < np.inf
    ):
        raise ValueError(
            f"spacing_um={spacing_um!r} must be a positive number: micrometres between neighbouring sites."
        )
    if not isinstance(key_added, str) or not key_added or "/" in key_added or key_added == ADDED:
        raise ValueError(f"key_added={key_added!r} must be a name without '/', and other than {ADDED!r}.")


def _check_free(table: AnnData, key: str, is_measured: np.ndarray) -> None:
    """Refuse to write over a column that says something else."""
    if key not in table.obs:
        return
    try:
        same = np.array_equal(read_flags(table.obs[key], key).yes, is_measured)
    except TypeError:
        same = False
    if not same:
        raise ValueError(
            f"obs[{key!r}] is there already, and says something else than measured=: it would be lost. Choose another name, "
            f"e.g. key_added='{key}_spots'."
        )


def _check_regions(sdata, table: AnnData) -> None:
    attrs = table.uns.get("spatialdata_attrs", {})
    regions = table.obs[attrs["region_key"]].astype(str).unique() if attrs else []
    for region in regions:
        if region in sdata.labels:
            raise ValueError(
                f"region {region!r} is made of labels, to which no sites can be added: turn them into shapes with "
                f"spatialdata.to_circles, and let the table annotate those."
            )


def _find(table: AnnData, sites: Sites, factor: int | None, spacing_um: float | None) -> Added:
    """Places for new sites, library by library."""
    annotation = [table.obs.iloc[sites.order[sites.library == code]] for code in range(len(sites.libraries))]
    grids = [
        fit_grid(sites.positions[sites.library == code], obs, sites.pitch[code]) for code, obs in enumerate(annotation)
    ]
    ratios = [_ratio(sites, code, grid.is_array, factor, spacing_um) for code, grid in enumerate(grids)]
    n_places = sum(count_places(grid, ratio) for grid, ratio in zip(grids, ratios, strict=True))
    _check_memory(n_places, BYTES_PER_PLACE, "places to look at need")
    found = [_find_in(sites, code, annotation[code], grid, ratios[code]) for code, grid in enumerate(grids)]
    n = table.n_obs + sum(map(len, found))
    _check_memory(n, 4 * table.n_vars * (2 + _n_dense(table)), f"sites of {table.n_vars} genes need, once imputed,")
    library = np.repeat(np.arange(len(found)), [len(positions) for positions in found])
    names = [
        name
        for code, positions in enumerate(found)
        for name in _names(sites.libraries[code], positions, sites.pitch[code] / ratios[code])
    ]
    return Added(np.concatenate(found), library, pd.Index(names, dtype=table.obs_names.dtype))


def _ratio(sites: Sites, code: int, is_array: bool, factor: int | None, spacing_um: float | None) -> float:
    """How many of the new spacings are one pitch."""
    if factor is not None:
        return float(factor)
    library, um = sites.libraries[code], sites.um_per_px[code]
    if np.isnan(um):
        raise ValueError(
            f"spacing_um={spacing_um} needs micrometres per pixel, which are unknown for library {library!r}: pass "
            "um_per_px=, or factor= instead."
        )
    ratio = sites.pitch[code] * um / spacing_um
    if is_array and ratio < 0.99:
        raise ValueError(
            f"spacing_um={spacing_um} is larger than the pitch of library {library!r}, {sites.pitch[code] * um:.4g} um; "
            "pass at most that."
        )
    return round(ratio) if abs(ratio - round(ratio)) < 0.02 * ratio else ratio  # the pitch is a measurement


def _find_in(sites: Sites, code: int, obs: pd.DataFrame, grid: Grid, ratio: float) -> np.ndarray:
    own, pitch = sites.positions[sites.library == code], sites.pitch[code]
    positions = places(grid, ratio)
    positions = positions[far_from(positions, own, 0.5 * pitch / ratio)]
    in_tissue = read_in_tissue(obs)
    on_tissue = in_tissue.yes if in_tissue is not None and in_tissue.yes.any() else slice(None)
    if not sites.images:
        return positions[between(positions, own[on_tissue], BRIDGE)]
    chosen = tissue_mask(sites.images[code]).at(positions, SPOT * pitch) >= ON_TISSUE
    if in_tissue is not None:  # pale tissue such as fat, which the image alone does not tell from glass
        chosen |= between(positions, own[on_tissue], ADJACENT)
    return positions[chosen]


def _names(library: str, positions: np.ndarray, spacing: float) -> list[str]:
    """Names from library and position, to a hundredth of the spacing, so that they are unique."""
    digits = max(0, int(np.ceil(2 - np.log10(spacing))))
    return [f"{library}_{x:.{digits}f}_{y:.{digits}f}" for x, y in positions]


def _n_dense(table: AnnData) -> int:
    matrices = [table.X, *(table.layers[name] for name in table.layers.keys() if name is not None)]
    return sum(isinstance(matrix, np.ndarray) for matrix in matrices)


def _check_memory(n: int, bytes_each: int, what: str) -> None:
    needed, free = n * bytes_each, free_memory()
    if needed > 0.8 * free:
        raise ValueError(
            f"{n} {what} {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free: choose a smaller factor= or a "
            "larger spacing_um=, or subset to the genes you want first: adata = adata[:, genes].copy()."
        )
