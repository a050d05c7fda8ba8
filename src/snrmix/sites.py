"""From AnnData or SpatialData to plain arrays in canonical order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from anndata import AnnData

from snrmix._log import logger
from snrmix._names import closest, listing
from snrmix.images.source import SectionImage, open_image, scaling
from snrmix.lattice import measure_lattice


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


def read_table(data, table_key: str | None = None) -> AnnData:
    """The table to work on: ``data`` itself, or the named (or only) table of a SpatialData.

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
    if table.n_obs == 0 or table.n_vars == 0:
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
    um_per_px: float | None = None,
    with_images: bool = True,
) -> Sites:
    """Read positions, libraries, scale and (``with_images``) the image of every library.

    Parameters are those of `snrmix.tl.impute`.

    Raises
    ------
    KeyError, ValueError, TypeError
        When coordinates or images are missing or cannot be right; the message says which key to change.
    """
    table = read_table(data, table_key)
    if um_per_px is not None and not (np.isscalar(um_per_px) and np.isfinite(um_per_px) and um_per_px > 0):
        raise ValueError(f"um_per_px={um_per_px!r} must be a positive number: micrometres per unit of obsm['spatial'].")
    labels = _library_labels(data, table, library_key)
    if data is table:
        positions, find_image = _read_anndata(table, labels, image_key)
    else:
        from snrmix.regions import read_spatialdata

        positions, find_image = read_spatialdata(data, table, labels, image_key)
    bad = ~np.isfinite(positions).all(1)
    if bad.any():
        raise ValueError(
            f"{bad.sum()} of {len(bad)} sites have NaN or infinite coordinates, e.g. {table.obs_names[bad][0]!r}."
        )

    libraries = tuple(sorted(set(labels)))
    order = np.lexsort((np.asarray(table.obs_names, dtype=str), labels))
    library = np.searchsorted(libraries, labels[order])
    images = ()
    if with_images:
        find_image = _given_images(image, libraries) if image is not None else find_image
        images = tuple(find_image(name) for name in libraries)
    positions = positions[order].astype(float)
    pitch, um = np.empty(len(libraries)), np.full(len(libraries), np.nan)
    for code, name in enumerate(libraries):
        rows = library == code
        lattice = measure_lattice(positions[rows], table.obs.iloc[order[rows]], _spot_diameter(table, name))
        pitch[code] = lattice.pitch
        um[code] = um_per_px if um_per_px is not None else lattice.pitch_um / lattice.pitch
    sites = Sites(order, np.asarray(table.obs_names, str)[order], libraries, library, positions, pitch, um, images)
    for code, section in enumerate(images):
        check_frame(section, positions[library == code], pitch[code])
    return sites


def _library_labels(data, table: AnnData, library_key: str | None) -> np.ndarray:
    if library_key is None:
        region_key = table.uns.get("spatialdata_attrs", {}).get("region_key") if data is not table else None
        library_key = region_key or ("library_id" if "library_id" in table.obs else None)
        if library_key is None:
            known = list(table.uns.get("spatial", {}))
            if len(known) > 1:
                raise ValueError(
                    f"uns['spatial'] has {len(known)} libraries ({listing(known)}); say which observation is in which "
                    "with library_key=, an obs column."
                )
            return np.full(table.n_obs, known[0] if known else "library", dtype=object).astype(str)
    if library_key not in table.obs:
        raise KeyError(
            f"library_key={library_key!r} is not in obs; available: {listing(table.obs)}.{closest(library_key, table.obs)}"
        )
    column = table.obs[library_key]
    if column.isna().any():
        raise ValueError(
            f"obs[{library_key!r}] has {column.isna().sum()} missing values; every observation needs a library."
        )
    return column.astype(str).to_numpy(dtype=str)


def _read_anndata(table: AnnData, labels: np.ndarray, image_key: str | None):
    if "spatial" not in table.obsm:
        raise KeyError(
            f"obsm['spatial'] (x, y in full-resolution pixels) is missing; obsm has: {listing(table.obsm)}. "
            "Store the coordinates there first."
        )
    positions = np.asarray(table.obsm["spatial"], dtype=float)
    if positions.ndim != 2 or positions.shape[1] != 2:
        raise ValueError(f"obsm['spatial'] has shape {positions.shape}; expected ({table.n_obs}, 2): x and y.")
    known = table.uns.get("spatial", {})

    def find_image(library: str) -> SectionImage:
        entry = known.get(library)
        if entry is None and len(known) == 1 and len(set(labels)) == 1:
            entry = next(iter(known.values()))
        images = (entry or {}).get("images", {})
        if not images:
            raise KeyError(
                f"no image for library {library!r}: uns['spatial'] has {listing(known)}. Pass image= (path or array in "
                "the pixels of obsm['spatial']), or use_rep= with features that are already in obsm."
            )
        return _hires(entry, images, image_key, library)

    return positions, find_image


def _hires(entry: Mapping, images: Mapping, image_key: str | None, library: str) -> SectionImage:
    factors = entry.get("scalefactors", {})
    if image_key is None:
        scaled = [k for k in images if f"tissue_{k}_scalef" in factors]
        if not scaled:
            raise KeyError(
                f"uns['spatial'][{library!r}]['scalefactors'] has no 'tissue_<image>_scalef' for any of the images "
                f"({listing(images)}); it has {listing(factors)}."
            )
        image_key = max(scaled, key=lambda k: float(factors[f"tissue_{k}_scalef"]))
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
    return open_image(np.asarray(images[image_key]), scaling(factor), f"image {image_key!r} of library {library!r}")


def _given_images(image, libraries: tuple[str, ...]):
    if not isinstance(image, Mapping):
        if len(libraries) > 1:
            raise ValueError(
                f"there are {len(libraries)} libraries ({listing(libraries)}); pass image={{library: image}}."
            )
        return lambda library: open_image(image)
    missing = [name for name in libraries if name not in image]
    if missing:
        raise KeyError(f"image= has no entry for library {listing(missing)}; it has {listing(image)}.")
    return lambda library: open_image(image[library], name=f"image of library {library!r}")


def _spot_diameter(table: AnnData, library: str) -> float:
    known = table.uns.get("spatial", {})
    entry = known.get(library) or (next(iter(known.values())) if len(known) == 1 else {})
    return float(entry.get("scalefactors", {}).get("spot_diameter_fullres", np.nan))


SMALLEST_PITCH_PX = 4
FEW_PX = 12


def check_frame(image: SectionImage, positions: np.ndarray, pitch: float) -> None:
    """Refuse an image whose frame cannot be that of the positions.

    Raises
    ------
    ValueError
        When positions lie outside the image, or neighbouring sites are closer than 4 pixels.
    """
    level = image.levels[0]
    pixels = level.locate(positions)
    height, width = level.pixels.shape[:2]
    outside = ((pixels < 0) | (pixels > [width, height])).any(1)
    if outside.any():
        raise ValueError(
            f"{outside.sum()} of {len(outside)} spots lie outside the {image.name} ({width} x {height} px): they span x "
            f"{pixels[:, 0].min():.0f}..{pixels[:, 0].max():.0f}, y {pixels[:, 1].min():.0f}..{pixels[:, 1].max():.0f} in its "
            "pixels. Coordinates must be in the frame of the image: full-resolution coordinates with a hires image "
            "need uns['spatial'][library]['scalefactors']['tissue_hires_scalef'], or scale obsm['spatial'] to the image."
        )
    spacing = pitch * level.scale.min()
    if spacing < SMALLEST_PITCH_PX:
        raise ValueError(
            f"neighbouring spots are {spacing:.1f} px apart on the {image.name} ({width} x {height} px), too close for "
            "patches: check 'tissue_hires_scalef' (was obsm['spatial'] already scaled?) or pass a larger image with image=."
        )
    if spacing < FEW_PX:
        logger.warning(
            "neighbouring spots are only %.1f px apart on the %s: patches carry colour but little texture; "
            "pass the full-resolution image with image= where you have it.", spacing, image.name,
        )  # fmt: skip


def site_hashes(sites: Sites) -> np.ndarray:
    """One 64-bit hash per site of its name, library and position, to recognise cached features of it."""
    frame = pd.DataFrame(
        {
            "name": sites.names,
            "library": np.asarray(sites.libraries, dtype=str)[sites.library],
            "x": sites.positions[:, 0],
            "y": sites.positions[:, 1],
        }
    )
    return pd.util.hash_pandas_object(frame, index=False).to_numpy()
