"""Whether an image and the positions of sites can be in the same frame: the commonest mistake with histology."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real

import numpy as np

from snrmix._log import logger
from snrmix._names import listing
from snrmix.data.lattice import Lattice
from snrmix.images.source import Level, SectionImage
from snrmix.images.tissue import Tissue, tissue_mask

SMALLEST_UNIT_PX = 4
FEW_PX = 12
WIDEST_SPOT = 2.0  # spot diameter in pitches
LEAST_SPOT, MOST_SPOT = 0.4, 1.1  # of real arrays
UM_PER_PIXEL = (0.05, 100.0)  # of an image: from the finest microscope to a thumbnail
WIDEST_SECTION_UM = 80_000.0  # a slide is 75 mm long
SAME_PITCH = 1.25

# On 7 real sections at most 6 % of the spots lie off the tissue that is found. Swapped, mirrored or turned, 15 to 92 %
# do, median 44 %: all these 42 mistakes are noticed. Of 2,970 random parts of these sections none is doubted.
CLEAR_GLASS = 0.8  # contrast: 0.89 and more on real sections with glass around them, 0.73 and less where there is none
ON_TISSUE = 0.9  # what the right frame has at least
REFUSED_GAIN, DOUBTED_GAIN = 0.3, 0.1
SPANNED = 0.3  # of the tissue by the right frame; a part that was cut out of a section spans less, and fits elsewhere
FEW_ON_TISSUE, NONE_ON_TISSUE = 0.5, 0.05
FEWEST_SPOTS = 20
FEW_OUTSIDE, SHARE_OUTSIDE, SHOWN = 3, 0.02, 20  # spots beyond the border: more mean a wrong frame

REMEDIES = {
    "image": "image= must be in the pixels of obsm['spatial']: pass the full-resolution image. A smaller one belongs "
    "in uns['spatial'][library]['images'], with its scale in ['scalefactors']['tissue_<name>_scalef'].",
    "uns": "obsm['spatial'] must be in full-resolution pixels, and uns['spatial'][library]['scalefactors']"
    "['tissue_<name>_scalef'] the pixels of the image per pixel of obsm['spatial'].",
    "spatialdata": "Check the transformations of image and region (spatialdata.transformations.set_transformation), or "
    "choose another image with image_key=.",
}
ORIENTATION = "obsm['spatial'] must hold x and y, in this order, in full-resolution pixels, with y pointing down."


@dataclass(frozen=True)
class Remake:
    """Another way to read the positions.

    Parameters
    ----------
    words
        What it does to them, as in "with x and y swapped".
    code
        The same in Python, for positions called ``xy``.
    apply
        The same, for an array of shape (n, 2).
    """

    words: str
    code: str
    apply: Callable[[np.ndarray], np.ndarray]


def check_frame(
    image: SectionImage,
    positions: np.ndarray,
    unit: float,
    source: str,
    *,
    factors: Mapping = {},
    in_tissue: np.ndarray | None = None,
    names: np.ndarray | None = None,
) -> None:
    """Refuse an image whose frame cannot be that of the positions, and warn of one that is doubtful.

    Parameters
    ----------
    positions
        Shape (n, 2), in units of the frame.
    unit
        Side of the smallest patch over its scale, in units of the frame.
    source
        Where the image came from, a key of `REMEDIES`.
    factors
        Space Ranger's scale factors: positions that were multiplied by one of them are recognised.
    in_tissue
        Shape (n,), bool: sites that ought to lie on tissue; all where ``None``. Others may lie anywhere.
    names
        Of the sites, shape (n,), for what is said of a few that lie outside.

    Raises
    ------
    ValueError
        When more than a few positions lie outside the image, a patch of one unit has fewer than 4 pixels along its side, or sites lie
        off the tissue and would be on it if x and y were swapped, mirrored, turned or scaled.
    """
    level, remedy = image.levels[0], REMEDIES[source]
    ought = positions if in_tissue is None else positions[in_tissue]
    names = np.arange(len(positions)) if names is None else names
    _check_inside(image, ought, names if in_tissue is None else names[in_tissue], factors, source)
    side = unit * level.scale.min()
    if side < SMALLEST_UNIT_PX:
        raise ValueError(
            f"neighbouring spots are {side:.1f} px apart on {_called(image)} ({_size(level)} px), too close for "
            f"patches. {remedy}"
        )
    if side < FEW_PX:
        logger.warning(
            "neighbouring spots are only %.1f px apart on %s: patches carry colour but little texture; "
            "pass the full-resolution image with image= where you have it.", side, _called(image),
        )  # fmt: skip
    _check_on_tissue(image, ought, factors, source)


UM_REMEDY = "um_per_px= (or 'microns_per_pixel' of Space Ranger) must be micrometres per full-resolution pixel."


def check_scale(lattice: Lattice, positions: np.ndarray, library: str) -> None:
    """Refuse micrometres that cannot be right, and warn where they contradict the array.

    Raises
    ------
    ValueError
        When the section would be larger than a slide.
    """
    um, fitting = lattice.um_per_px, lattice.array_um / lattice.pitch
    if np.isnan(um) or um == fitting:
        return
    span = um * np.ptp(positions, axis=0).max()
    if span > WIDEST_SECTION_UM:
        raise ValueError(
            f"with {um:.4g} um per px the spots of library {library!r} would span {span / 1000:.0f} mm, more than a "
            f"slide. {UM_REMEDY}"
        )
    if max(um / fitting, fitting / um) > SAME_PITCH:
        logger.warning(
            "library %r: with %.4g um per px neighbouring spots are %.0f um apart, but they are on an array of %.0f "
            "um; um_per_px=%.4g would fit.", library, um, um * lattice.pitch, lattice.array_um, fitting,
        )  # fmt: skip


def check_pixel_size(lattice: Lattice, image: SectionImage) -> None:
    """Refuse micrometres that cannot be right for an image.

    Raises
    ------
    ValueError
        When its pixels would be finer than any microscope's, or as large as cells.
    """
    um = lattice.um_per_px
    if np.isnan(um) or um == lattice.array_um / lattice.pitch:
        return
    pixel = um / image.levels[0].scale.max()
    if not UM_PER_PIXEL[0] <= pixel <= UM_PER_PIXEL[1]:
        raise ValueError(
            f"with {um:.4g} um per px a pixel of {_called(image)} would be {pixel:.3g} um wide; between "
            f"{UM_PER_PIXEL[0]:g} and {UM_PER_PIXEL[1]:g} um are possible. {UM_REMEDY}"
        )


def check_spot_diameter(factors: Mapping, lattice: Lattice, library: str) -> None:
    """Refuse coordinates that were scaled to an image while the scale factors speak of full-resolution pixels.

    Raises
    ------
    ValueError
        When spots would be more than twice as wide as the array is spaced.
    """
    diameter = float(factors.get("spot_diameter_fullres", np.nan))
    if lattice.is_fitted and diameter > WIDEST_SPOT * lattice.pitch:
        raise ValueError(
            f"uns['spatial'][{library!r}]['scalefactors']['spot_diameter_fullres'] is {diameter:.1f} px, but "
            f"neighbouring spots are {lattice.pitch:.1f} px apart in obsm['spatial']: it is not in full-resolution "
            f"pixels. {_line_of_scale(factors, diameter, lattice.pitch)}"
        )


def _line_of_scale(factors: Mapping, diameter: float, pitch: float) -> str:
    """The line that undoes the scaling to an image, by the factor that makes spots as wide as they are on arrays."""
    for name, factor in factors.items():
        if name.endswith("_scalef") and factor != 1 and LEAST_SPOT <= diameter / (pitch / factor) <= MOST_SPOT:
            return f"It seems to be scaled by {name!r}: adata.obsm['spatial'] = np.asarray(adata.obsm['spatial']) / {factor:.9g}."
    return "Divide obsm['spatial'] by 'tissue_hires_scalef' if it was scaled to the hires image."


def _check_inside(image: SectionImage, positions: np.ndarray, names: np.ndarray, factors: Mapping, source: str) -> None:
    level = image.levels[0]
    pixels = level.locate(positions)
    outside = ((pixels < 0) | (pixels > level.pixels.shape[1::-1])).any(1)
    if not outside.any():
        return
    if outside.sum() <= max(FEW_OUTSIDE, SHARE_OUTSIDE * len(outside)) and not outside.all():
        few = [str(name) for name in names[outside]]
        logger.warning(
            "%d of %d spots lie outside %s (%s px), %s: their patches repeat its border. Drop them with adata = "
            "adata[~adata.obs_names.isin([%s])].copy(), or mark them as unmeasured.",
            len(few), len(outside), _called(image), _size(level), listing(few, 3),
            ", ".join(map(repr, few[:SHOWN])) + (", ..." if len(few) > SHOWN else ""),
        )  # fmt: skip
        return
    (left, top), (right, bottom) = pixels.min(0), pixels.max(0)
    best, remake = _best_remake(image, tissue_mask(image), positions, factors)
    hint = f" {_percent(best)} of them would lie on tissue {_advice(remake, source)}." if best >= ON_TISSUE else ""
    raise ValueError(
        f"{outside.sum()} of {len(outside)} spots lie outside {_called(image)} ({_size(level)} px): they span "
        f"x {left:.0f}..{right:.0f}, y {top:.0f}..{bottom:.0f} in its pixels.{hint} {REMEDIES[source]}"
    )


def _check_on_tissue(image: SectionImage, positions: np.ndarray, factors: Mapping, source: str) -> None:
    if len(positions) < FEWEST_SPOTS:
        return
    tissue = tissue_mask(image)
    if tissue.contrast < CLEAR_GLASS:
        return
    share = tissue.at(positions).mean()
    if share >= ON_TISSUE:
        return
    best, remake = _best_remake(image, tissue, positions, factors)
    spans = remake.apply(positions) if best >= ON_TISSUE else positions
    gain = best - share if best >= ON_TISSUE and _share_within(tissue, spans) >= SPANNED else 0
    if gain >= DOUBTED_GAIN:
        says = (
            f"{_percent(share)} of the spots lie on the tissue of {_called(image)}, but {_percent(best)} would "
            f"{_advice(remake, source)}. {ORIENTATION if source != 'spatialdata' else REMEDIES[source]}"
        )
        _refuse_or_warn(says, gain >= REFUSED_GAIN)
    elif share < FEW_ON_TISSUE and _share_within(tissue, positions) < FEW_ON_TISSUE:
        # Raw output of Space Ranger has spots off the tissue as well, but these surround it.
        says = f"only {_percent(share)} of the spots lie on the tissue of {_called(image)}. {REMEDIES[source]}"
        _refuse_or_warn(says, share < NONE_ON_TISSUE)


def _refuse_or_warn(says: str, is_certain: bool) -> None:
    if is_certain:
        raise ValueError(says)
    logger.warning("%s snrmix.pl.crops shows where they lie.", says)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _best_remake(image: SectionImage, tissue: Tissue, positions: np.ndarray, factors: Mapping) -> tuple[float, Remake]:
    """The way to read the positions that puts the largest share of them on tissue, and this share."""
    remakes = _remakes(image.levels[0], factors)
    shares = [tissue.at(remake.apply(positions)).mean() for remake in remakes]
    best = int(np.argmax(np.round(shares, 2)))  # the simplest of those that are as good
    return shares[best], remakes[best]


def _remakes(level: Level, factors: Mapping) -> list[Remake]:
    """The usual mistakes, undone: simple ones first."""
    height, width = level.pixels.shape[:2]
    w, h = width / level.scale[0], height / level.scale[1]
    found = [
        Remake("with x and y swapped", "xy[:, ::-1]", _turn(level, swap=True)),
        Remake("with y mirrored", f"[0, {h:.6g}] + xy * [1, -1]", _turn(level, mirror="y")),
        Remake("with x mirrored", f"[{w:.6g}, 0] + xy * [-1, 1]", _turn(level, mirror="x")),
        Remake("turned by 180 degrees", f"[{w:.6g}, {h:.6g}] - xy", _turn(level, mirror="xy")),
        Remake("turned by 90 degrees", f"[{w:.6g}, 0] + xy[:, ::-1] * [-1, 1]", _turn(level, swap=True, mirror="x")),
        Remake("turned by 270 degrees", f"[0, {h:.6g}] + xy[:, ::-1] * [1, -1]", _turn(level, swap=True, mirror="y")),
        Remake("swapped and mirrored", f"[{w:.6g}, {h:.6g}] - xy[:, ::-1]", _turn(level, swap=True, mirror="xy")),
        Remake("with the sign of y changed", "xy * [1, -1]", lambda xy: xy * [1, -1]),
    ]
    for name, factor in factors.items():
        if name.endswith("_scalef") and isinstance(factor, Real) and 0 < factor < np.inf and factor != 1:
            found += [
                Remake(f"divided by {name!r}", f"xy / {factor:.9g}", lambda xy, f=factor: xy / f),
                Remake(f"multiplied by {name!r}", f"xy * {factor:.9g}", lambda xy, f=factor: xy * f),
            ]
    return found


def _turn(level: Level, *, swap: bool = False, mirror: str = "") -> Callable[[np.ndarray], np.ndarray]:
    """Swap the axes of the image, then mirror some of them about its middle."""
    height, width = level.pixels.shape[:2]

    def apply(positions: np.ndarray) -> np.ndarray:
        pixels = level.locate(positions)[:, :: -1 if swap else 1]
        pixels = np.where([axis in mirror for axis in "xy"], [width, height] - pixels, pixels)
        return np.linalg.solve(level.affine[:, :2], (pixels - level.affine[:, 2]).T).T

    return apply


def _advice(remake: Remake, source: str) -> str:
    if source == "spatialdata":
        return remake.words
    return f"{remake.words}: xy = adata.obsm['spatial']; adata.obsm['spatial'] = {remake.code}"


def _share_within(tissue: Tissue, positions: np.ndarray) -> float:
    """Share of the tissue in the box around the positions."""
    pixels = positions @ tissue.affine[:, :2].T + tissue.affine[:, 2]
    (left, top), (right, bottom) = np.floor(pixels.min(0)).astype(int), np.ceil(pixels.max(0)).astype(int)
    return float(tissue.mask[max(top, 0) : bottom, max(left, 0) : right].sum() / max(tissue.mask.sum(), 1))


def _called(image: SectionImage) -> str:
    """Its path, or its name with "the" before it."""
    return f"the {image.name}" if image.name.partition(" ")[0] == "image" else image.name


def _size(level: Level) -> str:
    height, width = level.pixels.shape[:2]
    return f"{width} x {height}"
