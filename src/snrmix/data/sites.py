"""From AnnData or SpatialData to plain arrays in canonical order."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pandas as pd
from anndata import AnnData

from snrmix._log import logger
from snrmix._names import closest, listing
from snrmix.data.alignment import check_frame, check_pixel_size, check_scale, check_spot_diameter
from snrmix.data.from_anndata import read_anndata
from snrmix.data.lattice import Lattice, measure_lattice, patch_units
from snrmix.data.table import entry_of, read_table, stored_sections
from snrmix.images.source import SectionImage, open_image

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
        Shape (libraries,), what patches are multiples of in units of the frame, see `snrmix.data.lattice.patch_units`.
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


@dataclass(frozen=True)
class Located:
    """Sites whose images are found, but not open: what can be told without a look at pixels has been checked.

    Parameters
    ----------
    sites
        Without images.
    lattices, factors, in_tissue
        Of every library, see `snrmix.data.alignment`.
    openers
        What opens the image of every library; empty when none was asked for.
    origins
        Where these come from, keys of `snrmix.data.alignment.REMEDIES`.
    refuse
        Whether an image that does not fit is refused, or logged.
    """

    sites: Sites
    lattices: list[Lattice]
    factors: list[Mapping]
    in_tissue: list[np.ndarray | None]
    openers: list[Callable[[], SectionImage]]
    origins: list[str]
    refuse: bool

    def open(self) -> Sites:
        """The sites with their images, which fit.

        Raises
        ------
        KeyError, ValueError, TypeError
            For images that cannot be read, or do not fit the coordinates.
        """
        images = tuple(open_one() for open_one in self.openers)
        for code, image in enumerate(images):
            with _refusals(self.refuse):
                self._check(code, image)
        if images:
            _warn_of_patch_sizes(self.sites.libraries, self.lattices, self.sites.unit)
        return replace(self.sites, images=images)

    def _check(self, code: int, image: SectionImage) -> None:
        sites, lattice, factors = self.sites, self.lattices[code], self.factors[code]
        check_pixel_size(lattice, image)
        if self.origins[code] == "uns":
            check_spot_diameter(factors, lattice, sites.libraries[code])
        check_frame(
            image, sites.positions[sites.library == code], sites.unit[code], self.origins[code], factors=factors,
            in_tissue=self.in_tissue[code],
        )  # fmt: skip


def read_sites(data, *, with_images: bool = True, **options) -> Sites:
    """Read positions, libraries, scale and (``with_images``) the image of every library.

    Parameters and errors are those of `locate_sites` and `Located.open`.
    """
    return locate_sites(data, with_images=with_images, **options).open()


def locate_sites(
    data,
    *,
    table_key: str | None = None,
    library_key: str | None = None,
    image=None,
    image_key: str | None = None,
    um_per_px: float | Mapping[str, float] | None = None,
    with_images: bool = True,
    refuse: bool = True,
) -> Located:
    """Read positions, libraries and scale, and find (``with_images``) the image of every library.

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
        source, (positions, find_image, um_of) = "uns", read_anndata(table, labels, image_key)
    else:
        from snrmix.data.from_spatialdata import read_spatialdata

        source, (positions, find_image, um_of) = "spatialdata", read_spatialdata(data, table, labels, image_key)
    _check_finite(positions, table)
    libraries = tuple(np.unique(labels).tolist())
    um_of = {**um_of, **_given_um(um_per_px, libraries)}
    stored = [name for name, entry in stored_sections(table).items() if entry.get("images")] if data is table else []
    given = _given_images(image, libraries, stored) if image is not None else {}

    order = np.lexsort((np.asarray(table.obs_names, dtype=str), labels))
    library, positions = np.searchsorted(libraries, labels[order]), positions[order]
    rows = [library == code for code in range(len(libraries))]
    obs = [table.obs.iloc[order[chosen]] for chosen in rows]
    factors = [_entry(table, name, len(libraries) == 1).get("scalefactors", {}) for name in libraries]
    lattices = [
        measure_lattice(positions[rows[code]], obs[code], factors[code], um_of.get(name, np.nan))
        for code, name in enumerate(libraries)
    ]
    for code, name in enumerate(libraries):
        with _refusals(refuse):
            check_scale(lattices[code], positions[rows[code]], name)
    pitch, um = (np.array([getattr(lattice, name) for lattice in lattices]) for name in ("pitch", "um_per_px"))
    names, units = np.asarray(table.obs_names, str)[order], patch_units(lattices)
    openers = [given[name] if name in given else find_image(name) for name in libraries] if with_images else []
    return Located(
        Sites(order, names, libraries, library, positions, pitch, units, um),
        lattices,
        factors,
        [_in_tissue(own) for own in obs],
        openers,
        ["image" if name in given else source for name in libraries],
        refuse,
    )


@contextmanager
def _refusals(refuse: bool) -> Iterator[None]:
    """Let what cannot be right be refused, or else log it."""
    try:
        yield
    except ValueError as error:
        if refuse:
            raise
        logger.warning("%s", error)


def _entry(table: AnnData, library: str, is_only: bool) -> Mapping:
    return entry_of(table, library) if is_only else stored_sections(table).get(library, {})


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


def _given_images(image, libraries: tuple[str, ...], stored: Collection[str]) -> dict[str, Callable[[], SectionImage]]:
    """What opens the image of each library that ``image`` has; the others must be ``stored``."""
    if not isinstance(image, Mapping):
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


def restrict_sites(sites: Sites, libraries: Sequence[int]) -> tuple[slice | np.ndarray, Sites]:
    """Where the sites of some libraries are, and these sites alone.

    Parameters
    ----------
    libraries
        Codes, ascending.
    """
    codes = np.asarray(libraries)
    rows = np.flatnonzero(np.isin(sites.library, codes))
    if rows[-1] - rows[0] == len(rows) - 1:
        rows = slice(rows[0], rows[-1] + 1)  # a view: features are large
    kept = replace(
        sites,
        order=sites.order[rows],
        names=sites.names[rows],
        libraries=tuple(sites.libraries[code] for code in codes),
        library=np.searchsorted(codes, sites.library[rows]),
        positions=sites.positions[rows],
        pitch=sites.pitch[codes],
        unit=sites.unit[codes],
        um_per_px=sites.um_per_px[codes],
        images=tuple(sites.images[code] for code in codes) if sites.images else (),
    )
    return rows, kept


def patch_sides(sites: Sites, scales) -> np.ndarray:
    """Side of the patches in units of the frame, shape (libraries, scales)."""
    return sites.unit[:, None] * np.asarray(scales, float)[None]
