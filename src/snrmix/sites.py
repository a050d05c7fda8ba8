"""From AnnData or SpatialData to plain arrays in canonical order."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd
from anndata import AnnData

from snrmix._log import logger
from snrmix._names import closest, listing
from snrmix.frame import check_frame, check_scale, check_spot_diameter
from snrmix.images.arrays import is_image
from snrmix.images.kind import check_choice, kind_of, likeliest
from snrmix.images.source import SectionImage, open_image, scaling
from snrmix.lattice import Lattice, measure_lattice, patch_units

SAME_SIZE = 1.2  # of patches: a model of several libraries stands that much


@dataclass(frozen=True)
class Sites:
    """The sites of an object as arrays, sorted by (library, name), so that the row order of the object never matters.

    Parameters
    ----------
    order
        Shape (n,); site ``i`` is row ``order[i]`` of the table.
    names
        Shape (n,), observation names.
    libraries
        Names of the libraries, sorted.
    library
        Shape (n,), index into ``libraries``.
    positions
        Shape (n, 2), x and y in the frame of the section: full-resolution pixels, or the units of the coordinate
        system for SpatialData.
    pitch
        Shape (libraries,), distance between neighbouring sites of the array in units of the frame.
    unit
        Shape (libraries,), what patches are multiples of in units of the frame, see `snrmix.lattice.patch_units`.
    um_per_px
        Shape (libraries,), micrometres per unit of the frame; NaN where unknown.
    images
        One image per library; empty when none was asked for.
    """

    order: np.ndarray
    names: np.ndarray
    libraries: tuple[str, ...]
    library: np.ndarray
    positions: np.ndarray
    pitch: np.ndarray
    unit: np.ndarray
    um_per_px: np.ndarray
    images: tuple[SectionImage, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.order)

    @property
    def lattice_positions(self) -> np.ndarray:
        """Positions in lattice pitches, shape (n, 2): comparable between libraries of different image scale."""
        return self.positions / self.pitch[self.library][:, None]

    def to_rows(self, values: np.ndarray) -> np.ndarray:
        """Bring values in site order, shape (n, ...), to the row order of the table."""
        rows = np.empty_like(values)
        rows[self.order] = values
        return rows


def read_table(data, table_key: str | None = None, *, needs_genes: bool = True) -> AnnData:
    """The table to work on: ``data`` itself, or the named (or only) table of a SpatialData.

    Parameters
    ----------
    needs_genes
        Whether a table without genes is refused; positions and images need none.

    Raises
    ------
    TypeError
        When ``data`` is neither AnnData nor SpatialData.
    ValueError, KeyError
        When the table is ambiguous, missing, empty, backed, or has names that are not unique.
    """
    if isinstance(data, AnnData):
        table = data
    elif hasattr(data, "tables") and hasattr(data, "images"):
        table = _choose_table(data, table_key)
    else:
        raise TypeError(f"data must be an AnnData or a SpatialData, not {type(data).__name__}.")
    if table.isbacked:
        raise ValueError("the object is backed by a file; call adata = adata.to_memory() first.")
    if table.n_obs == 0 or (needs_genes and table.n_vars == 0):
        raise ValueError(f"the object is empty: {table.n_obs} observations x {table.n_vars} genes.")
    for what, names, remedy in (
        ("observation", table.obs_names, "obs_names_make_unique()"),
        ("gene", table.var_names, "var_names_make_unique()"),
    ):
        if not names.is_unique:
            repeated = names[names.duplicated()].unique()
            raise ValueError(f"{what} names are not unique ({listing(repeated, 5)}); call adata.{remedy} first.")
    return table


def _choose_table(sdata, table_key: str | None) -> AnnData:
    tables = dict(sdata.tables)
    if table_key is not None:
        if table_key not in tables:
            raise KeyError(
                f"table_key={table_key!r} is not a table; available: {listing(tables)}.{closest(table_key, tables)}"
            )
        return tables[table_key]
    if len(tables) == 1:
        return next(iter(tables.values()))
    if "table" in tables:
        return tables["table"]
    raise ValueError(f"the SpatialData has {len(tables)} tables ({listing(tables)}); choose one with table_key=.")


def read_sites(
    data,
    *,
    table_key: str | None = None,
    library_key: str | None = None,
    image=None,
    image_key: str | None = None,
    um_per_px: float | Mapping[str, float] | None = None,
    with_images: bool = True,
    refuse: bool = True,
) -> Sites:
    """Read positions, libraries, scale and (``with_images``) the image of every library.

    Parameters are those of `snrmix.tl.impute`; with ``refuse=False`` an image that does not fit the coordinates is
    logged as a warning.

    Raises
    ------
    KeyError, ValueError, TypeError
        When coordinates or images are missing or cannot be right; the message says which key to change.
    """
    table = read_table(data, table_key, needs_genes=False)
    labels = _library_labels(data, table, library_key)
    if data is table:
        source, (positions, find_image, um_of) = "uns", _read_anndata(table, labels, image_key)
    else:
        from snrmix.regions import read_spatialdata

        source, (positions, find_image, um_of) = "spatialdata", read_spatialdata(data, table, labels, image_key)
    _check_finite(positions, table)
    libraries = tuple(np.unique(labels).tolist())
    um_of = {**um_of, **_given_um(um_per_px, libraries)}
    stored = [name for name, entry in stored_sections(table).items() if entry.get("images")] if data is table else []
    given = _given_images(image, libraries, stored) if image is not None else {}
    images = tuple(given[name]() if name in given else find_image(name) for name in libraries) if with_images else ()

    order = np.lexsort((np.asarray(table.obs_names, dtype=str), labels))
    library, positions = np.searchsorted(libraries, labels[order]), positions[order]
    rows = [library == code for code in range(len(libraries))]
    own, obs = [positions[chosen] for chosen in rows], [table.obs.iloc[order[chosen]] for chosen in rows]
    entries = [
        _entry(table, name) if len(libraries) == 1 else stored_sections(table).get(name, {}) for name in libraries
    ]
    factors = [entry.get("scalefactors", {}) for entry in entries]
    lattices = [
        measure_lattice(own[code], obs[code], factors[code], um_of.get(name, np.nan))
        for code, name in enumerate(libraries)
    ]
    units = patch_units(lattices)
    for code, name in enumerate(libraries):
        try:
            check_scale(lattices[code], own[code], name, images[code] if images else None)
            if images:
                origin = "image" if name in given else source
                if origin == "uns":
                    check_spot_diameter(factors[code], lattices[code], name)
                in_tissue = _in_tissue(obs[code])
                check_frame(images[code], own[code], units[code], origin, factors=factors[code], in_tissue=in_tissue)
        except ValueError as error:
            if refuse:
                raise
            logger.warning("%s", error)
    if images:
        _warn_of_patch_sizes(libraries, lattices, units)
    names = np.asarray(table.obs_names, str)[order]
    pitch, um = (np.array([getattr(lattice, name) for lattice in lattices]) for name in ("pitch", "um_per_px"))
    return Sites(order, names, libraries, library, positions, pitch, units, um, images)


def _given_um(um_per_px: float | Mapping[str, float] | None, libraries: tuple[str, ...]) -> dict[str, float]:
    """Micrometres per unit of the positions that the user says, by library."""
    if um_per_px is None:
        return {}
    if not isinstance(um_per_px, Mapping):
        um_per_px = dict.fromkeys(libraries, um_per_px)
    given = {str(name): um for name, um in um_per_px.items()}
    missing = [name for name in libraries if name not in given]
    if missing:
        raise KeyError(
            f"um_per_px= has no entry for library {listing(missing)}; it has {listing(given)}. Give micrometres per unit of "
            "obsm['spatial'] for each library, or one number for all."
        )
    for um in given.values():
        if isinstance(um, bool) or not isinstance(um, numbers.Real) or not 0 < um < np.inf:
            raise ValueError(f"um_per_px={um!r} must be a positive number: micrometres per unit of obsm['spatial'].")
    return given


def _warn_of_patch_sizes(libraries: tuple[str, ...], lattices: list[Lattice], units: np.ndarray) -> None:
    """Warn where patches may show more tissue in one library than in another: a grid has any spacing, an array its own."""
    um = np.array([lattice.um_per_px for lattice in lattices])
    known = bool(np.isfinite(um).all())
    sizes = units * um if known else units
    if all(lattice.is_fitted for lattice in lattices) or sizes.max() <= SAME_SIZE * sizes.min():
        return
    said = ", ".join(
        f"{size:.4g} {'um' if known else 'px'} in {name!r}" for name, size in zip(libraries, sizes, strict=True)
    )
    logger.warning(
        "patches differ in size between libraries, which a model of several takes for a difference in tissue: their sides "
        "are multiples of %s. Lay the grid of sites at the pitch of the measured slides%s.",
        said, "" if known else ", or give um_per_px=, a dict by library if they differ",
    )  # fmt: skip


def _in_tissue(obs: pd.DataFrame) -> np.ndarray | None:
    """Sites that Space Ranger found tissue under, shape (n,), bool; ``None`` where it is not known."""
    if "in_tissue" not in obs:
        return None
    found = pd.to_numeric(obs["in_tissue"], errors="coerce").to_numpy() == 1
    return found if found.any() else None


def _check_finite(positions: np.ndarray, table: AnnData) -> None:
    bad = ~np.isfinite(positions).all(1)
    if bad.any():
        raise ValueError(
            f"obsm['spatial'] is NaN or infinite at {bad.sum()} of {len(bad)} spots, e.g. {table.obs_names[bad][0]!r}; "
            "fill in their coordinates, or drop these spots."
        )


def _library_labels(data, table: AnnData, library_key: str | None) -> np.ndarray:
    if library_key is None:
        region_key = table.uns.get("spatialdata_attrs", {}).get("region_key") if data is not table else None
        library_key = region_key or ("library_id" if "library_id" in table.obs else None)
        if library_key is None:
            known = list(stored_sections(table))
            if len(known) > 1:
                raise ValueError(
                    f"uns['spatial'] has {len(known)} libraries ({listing(known)}); say which observation is in which "
                    "with library_key=, an obs column."
                )
            return np.full(table.n_obs, known[0] if known else "library", dtype=object).astype(str)
    if library_key not in table.obs:
        hint = closest(library_key, table.obs)
        raise KeyError(f"library_key={library_key!r} is not in obs; available: {listing(table.obs)}.{hint}")
    column = table.obs[library_key]
    if column.isna().any():
        raise ValueError(
            f"obs[{library_key!r}] has {column.isna().sum()} missing values; every observation needs a library: fill "
            "them in, or drop these observations."
        )
    return column.astype(str).to_numpy(dtype=str)


def _read_anndata(table: AnnData, labels: np.ndarray, image_key: str | None):
    """Positions, a function from library to its image, and no micrometres, as `snrmix.regions.read_spatialdata`."""
    if "spatial" not in table.obsm:
        raise KeyError(
            f"obsm['spatial'] (x, y in full-resolution pixels) is missing; obsm has: {listing(table.obsm)}. "
            "Store the coordinates there first."
        )
    try:
        positions = np.asarray(table.obsm["spatial"], dtype=float)
    except (TypeError, ValueError) as error:
        raise TypeError("obsm['spatial'] must hold numbers: x and y in full-resolution pixels.") from error
    if positions.ndim != 2 or positions.shape[1] != 2:
        raise ValueError(f"obsm['spatial'] has shape {positions.shape}; expected ({table.n_obs}, 2): x and y.")
    known = stored_sections(table)

    def find_image(library: str) -> SectionImage:
        entry = _entry(table, library) if len(set(labels)) == 1 else known.get(library, {})
        if not entry.get("images"):
            raise KeyError(
                f"no image for library {library!r}: uns['spatial'] has {listing(known)}. Pass image= (path or array in "
                "the pixels of obsm['spatial']), or use_rep= with features that are already in obsm."
                + (" The keys of uns['spatial'] must be the names of the libraries." if known else "")
            )
        return _stored_image(entry, image_key, library)

    return positions, find_image, {}


def _stored_image(entry: Mapping, image_key: str | None, library: str) -> SectionImage:
    """The image of ``uns["spatial"][library]`` that was asked for, or else the finest of those that look most like H&E."""
    images, factors, is_asked = entry["images"], entry.get("scalefactors", {}), image_key is not None
    kinds = {}
    if not is_asked:
        scaled = [k for k in images if f"tissue_{k}_scalef" in factors]
        if not scaled:
            raise KeyError(
                f"uns['spatial'][{library!r}]['scalefactors'] has no 'tissue_<image>_scalef' for any of the images "
                f"({listing(images)}), the pixels of the image per pixel of obsm['spatial']; it has {listing(factors)}."
            )
        kinds = {key: kind_of(images[key]) for key in scaled}
        image_key = max(likeliest(kinds), key=lambda k: float(factors[f"tissue_{k}_scalef"]))
    if image_key not in images:
        raise KeyError(
            f"image_key={image_key!r} is not in uns['spatial'][{library!r}]['images']; available: {listing(images)}."
            f"{closest(image_key, images)}"
        )
    if f"tissue_{image_key}_scalef" not in factors:
        raise KeyError(
            f"uns['spatial'][{library!r}]['scalefactors'] lacks 'tissue_{image_key}_scalef', the pixels of image "
            f"{image_key!r} per pixel of obsm['spatial']; it has {listing(factors)}."
        )
    factor = float(factors[f"tissue_{image_key}_scalef"])
    if not 0 < factor < np.inf:
        raise ValueError(
            f"uns['spatial'][{library!r}]['scalefactors']['tissue_{image_key}_scalef'] is {factor}; it must be "
            "positive."
        )
    kinds = kinds or {image_key: kind_of(images[image_key])}
    check_choice(image_key, kinds, f"library {library!r}", is_asked=is_asked)
    return open_image(images[image_key], scaling(factor), f"image {image_key!r} of library {library!r}")


def _given_images(image, libraries: tuple[str, ...], stored: Collection[str]) -> dict[str, Callable[[], SectionImage]]:
    """What opens the image of each library that ``image`` has; the others must be ``stored``."""
    if is_image(image) or not isinstance(image, Mapping):
        if len(libraries) > 1:
            raise ValueError(
                f"there are {len(libraries)} libraries ({listing(libraries)}); pass image={{library: image}}."
            )
        return {libraries[0]: partial(open_image, image)}
    given = {str(name): one for name, one in image.items()}
    is_misspelt = not set(given) <= set(libraries)
    missing = [name for name in libraries if name not in given and (is_misspelt or name not in stored)]
    if missing:
        raise KeyError(
            f"image= has no entry for library {listing(missing)}; it has {listing(given)}, and uns['spatial'] has images of "
            f"{listing(stored)}."
        )
    return {name: partial(open_image, one, name=f"image of library {name!r}") for name, one in given.items()}


def stored_sections(table: AnnData) -> Mapping:
    """What ``uns["spatial"]`` has, by library; empty where there is nothing.

    Raises
    ------
    ValueError
        When it is not made as Space Ranger's readers make it.
    """
    known = table.uns.get("spatial", {})
    if not isinstance(known, Mapping) or not all(isinstance(entry, Mapping) for entry in known.values()):
        raise ValueError(
            "uns['spatial'] must be a dict by library, with 'images' and 'scalefactors'; rename what is there, or make "
            "it so."
        )
    return known


def _entry(table: AnnData, library: str) -> Mapping:
    """What ``uns["spatial"]`` has on a library; a single entry may have another name than the only library."""
    known = stored_sections(table)
    return known.get(library) or (next(iter(known.values())) if len(known) == 1 else {})
