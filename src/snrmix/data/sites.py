"""From AnnData or SpatialData to plain arrays in canonical order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
from anndata import AnnData

from snrmix import _checks
from snrmix._log import logger
from snrmix._names import listing
from snrmix.data.alignment import check_frame, check_pixel_size, check_scale, check_spot_diameter
from snrmix.data.flags import may_be_on_tissue, read_in_tissue
from snrmix.data.from_anndata import read_anndata
from snrmix.data.given import given_images, given_um, stored_images
from snrmix.data.identity import check_slides, read_labels
from snrmix.data.lattice import Lattice, measure_lattice, patch_units
from snrmix.data.positions import warn_of_repeats, which_matter
from snrmix.data.stored import entry_of, stored_sections
from snrmix.data.table import has_image, read_table
from snrmix.images.source import SectionImage

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
    unplaced, unplaced_library
        Rows of the table that have no position, and so are no sites, and their libraries as indices; shape (m,) each.
    n_rows
        Rows of the table, which may have other libraries too.
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
    unplaced: np.ndarray
    unplaced_library: np.ndarray
    n_rows: int
    images: tuple[SectionImage, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.order)

    @property
    def lattice_positions(self) -> np.ndarray:
        """Positions in lattice pitches, shape (n, 2): comparable between libraries of different image scale."""
        return self.positions / self.pitch[self.library][:, None]

    def to_rows(self, values: np.ndarray) -> np.ndarray:
        """Bring values in site order, shape (n, ...), to the rows of the table, shape (n_rows, ...).

        Rows that are no sites here get NaN, or where the type has none, 0 or ``False``.
        """
        values = np.asarray(values)
        missing = np.nan if values.dtype.kind == "f" else np.zeros((), values.dtype)
        rows = np.full((self.n_rows, *values.shape[1:]), missing, values.dtype)
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
        return self.with_images([self.open_image(code) for code in range(len(self.openers))])

    def open_image(self, code: int) -> SectionImage:
        """The image of one library, by its code; errors are those of `open`."""
        image = self.openers[code]()
        with _refusals(self.refuse):
            self._check(code, image)
        return image

    def with_images(self, images: Sequence[SectionImage]) -> Sites:
        """The sites with the images of all libraries, or with none."""
        if images:
            _warn_of_patch_sizes(self.sites.libraries, self.lattices, self.sites.unit)
        return replace(self.sites, images=tuple(images))

    def _check(self, code: int, image: SectionImage) -> None:
        sites, lattice, factors = self.sites, self.lattices[code], self.factors[code]
        check_pixel_size(lattice, image)
        if self.origins[code] == "uns":
            check_spot_diameter(factors, lattice, sites.libraries[code])
        check_frame(
            image, sites.positions[sites.library == code], sites.unit[code], self.origins[code], factors=factors,
            in_tissue=self.in_tissue[code], names=sites.names[sites.library == code],
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
    measured: np.ndarray | None = None,
    with_images: bool = True,
    refuse: bool = True,
) -> Located:
    """Read positions, libraries and scale, and find (``with_images``) the image of every library.

    Parameters are those of `snrmix.tl.impute`, but ``measured`` is bool, shape (n_obs,); ``None``: any row may be. With
    ``refuse=False`` an image that does not fit the coordinates is logged as a warning.

    Raises
    ------
    KeyError, ValueError, TypeError
        When coordinates or images are missing or cannot be right; the message says which key to change.
    """
    _checks.key("image_key", image_key, "an image")
    table = read_table(data, table_key, needs_genes=False)
    region_key = table.uns.get("spatialdata_attrs", {}).get("region_key") if data is not table else None
    known = stored_sections(table) if data is table else {}
    labels, key = read_labels(table.obs, list(known), library_key, region_key)
    if data is table:
        source, (positions, find_image, um_of) = "uns", read_anndata(table, labels, image_key)
    else:
        from snrmix.data.from_spatialdata import read_spatialdata

        source, (positions, find_image, um_of) = "spatialdata", read_spatialdata(data, table, labels, image_key)
    placed = _placed(positions, table, measured)
    has_images = with_images or has_image(data, table)
    check_slides(labels[placed], table.obs[placed], positions[placed], key, has_images=has_images)
    if measured is not None:
        rows = placed & measured
        warn_of_repeats(np.asarray(table.obs_names)[rows], positions[rows], labels[rows])
    libraries = tuple(np.unique(labels[placed]).tolist())
    um_of = {**um_of, **given_um(um_per_px, libraries)}
    given = given_images(image, libraries, *stored_images(data, table, libraries)) if image is not None else {}

    order = np.lexsort((np.asarray(table.obs_names, dtype=str), labels))
    order = order[placed[order]]
    library, positions = np.searchsorted(libraries, labels[order]), positions[order]
    rows = [library == code for code in range(len(libraries))]
    obs = [table.obs.iloc[order[chosen]] for chosen in rows]
    factors = [entry_of(table, name, len(libraries) == 1).get("scalefactors", {}) for name in libraries]
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
        Sites(
            order,
            names,
            libraries,
            library,
            positions,
            pitch,
            units,
            um,
            *_unplaced(placed, labels, libraries),
            table.n_obs,
        ),  # fmt: skip
        lattices,
        factors,
        [
            may_be_on_tissue(own) if measured is None else which_matter(own, positions[chosen], measured[order[chosen]])
            for own, chosen in zip(obs, rows, strict=True)
        ],
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


def _unplaced(placed: np.ndarray, labels: np.ndarray, libraries: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Rows without a position, and their libraries; refused where a library has no others."""
    rows = np.flatnonzero(~placed)
    lost = sorted(set(labels[rows]) - set(libraries))
    if lost:
        raise ValueError(f"no spot of library {listing(lost)} has a position in obsm['spatial']: drop it.")
    return rows, np.searchsorted(libraries, labels[rows])


def _placed(positions: np.ndarray, table: AnnData, measured: np.ndarray | None) -> np.ndarray:
    """Rows that have a position, bool; the others must not be measured, and are named.

    Raises
    ------
    ValueError
        For measured rows without a position, and for a table of others only.
    """
    has = np.isfinite(positions).all(1)
    if has.all():
        return has
    wanted = ~has if measured is None else ~has & measured
    if measured is None:
        flags = read_in_tissue(table.obs)
        wanted &= flags.yes if flags is not None else True
    if wanted.any() or not has.any():
        names = table.obs_names[wanted if wanted.any() else ~has]
        raise ValueError(
            f"obsm['spatial'] is NaN or infinite at {len(names)} of {len(has)} spots that are measured or in tissue, e.g. "
            f"{listing(names, 3)}; fill in their coordinates, mark them as unmeasured with measured=, or drop them: adata = "
            "adata[np.isfinite(adata.obsm['spatial']).all(1)].copy()."
        )
    logger.warning(
        "%d unmeasured spots have no position (%s): nothing can be predicted there, so the layer gets the mean of each gene, "
        "with its own deviation.", (~has).sum(), listing(table.obs_names[~has], 3),
    )  # fmt: skip
    return has


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
    kept_rows = np.isin(sites.unplaced_library, codes)
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
        unplaced=sites.unplaced[kept_rows],
        unplaced_library=np.searchsorted(codes, sites.unplaced_library[kept_rows]),
        images=tuple(sites.images[code] for code in codes) if sites.images else (),
    )
    return rows, kept


def patch_sides(sites: Sites, scales) -> np.ndarray:
    """Side of the patches in units of the frame, shape (libraries, scales)."""
    return sites.unit[:, None] * np.asarray(scales, float)[None]
