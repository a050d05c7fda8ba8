"""Positions and images of a SpatialData: one coordinate system per region, shared with its image."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from snrmix._log import logger
from snrmix._names import closest, listing
from snrmix.data.identity import as_name
from snrmix.images.arrays import as_picture
from snrmix.images.kind import check_choice, kind_of, likeliest
from snrmix.images.picture import is_rgb_or_grey
from snrmix.images.source import SectionImage, section_image

AXES = ("x", "y")
MOST_SHEAR = 0.05  # cosine between the image's axes
LEAST_SHOWN = (
    0.5  # of the spots, over what the image that shows most of them shows: less is the edge of another section
)
MISSED = 0.02  # of the spots, by an image that is as good as one that shows them all

Finder = Callable[[], Callable[[], SectionImage]]  # refuses, or tells what opens an image


def read_spatialdata(sdata, table, labels: np.ndarray, image_key: str | None):
    """Positions of the table's rows, shape (n, 2), what finds the image of a library, and um per px where known.

    What is found opens the image; what is wrong with it without a look at pixels is said when it is found.

    Rows are matched to shapes by the table's instance key, so filtered and permuted tables are right. Positions are
    centroids in a coordinate system that the region shares with an image.
    """
    attrs = table.uns.get("spatialdata_attrs")
    if not attrs:
        raise ValueError(
            "the table annotates no region (uns['spatialdata_attrs'] is missing). Name the element that its rows are of "
            f"({listing([*sdata.shapes, *sdata.labels], 3)}), and the obs column with their ids there: adata.obs['region'] = "
            "pd.Categorical([name] * adata.n_obs), then spatialdata.models.TableModel.parse(adata, region=name, "
            "region_key='region', instance_key=column)."
        )
    if image_key is not None and image_key not in sdata.images:
        raise KeyError(
            f"image_key={image_key!r} is not an image; available: {listing(sdata.images)}."
            f"{closest(image_key, sdata.images)}"
        )
    regions = table.obs[attrs["region_key"]].astype(str).to_numpy()
    positions = np.full((table.n_obs, 2), np.nan)
    image_of: dict[str, Finder] = {}
    um_of: dict[str, float] = {}
    for region in sorted(set(regions)):
        if region not in sdata:
            raise KeyError(
                f"the table annotates region {region!r}, which is not in the SpatialData; it has "
                f"{listing(element[1] for element in sdata.gen_elements())}."
            )
        rows = regions == region
        system, find = _choose_image(sdata, region, image_key)
        positions[rows] = _centroids(sdata[region], system, table.obs.loc[rows, attrs["instance_key"]], region)
        for library in np.unique(labels[rows]).tolist():
            if library in image_of:
                raise ValueError(
                    f"library {library!r} spans several regions; choose library_key={attrs['region_key']!r}."
                )
            image_of[library], um_of[library] = find, _um_of_bins(sdata, region, system)
    return positions, lambda library: image_of[library](), um_of


def _choose_image(sdata, region: str, image_key: str | None) -> tuple[str, Finder]:
    """A coordinate system of the region, and what finds its image.

    They are those of the image that looks most like H&E, of those on which the region is; and of several the one that
    shows the region whole, with most pixels. What is wrong with the images is said only when the image is wanted.
    """
    from spatialdata.transformations import get_transformation

    systems = sorted(get_transformation(sdata[region], get_all=True))
    centres, problems, candidates = {}, [], []
    for name in [image_key] if image_key is not None else sorted(sdata.images):
        for system in sorted(set(get_transformation(sdata.images[name], get_all=True)) & set(systems)):
            if system not in centres:
                centres[system] = _centres(sdata[region], system)
            try:
                affines = _affines(sdata.images[name], name, system)
            except ValueError as error:
                problems.append(str(error))
                continue
            candidates.append(_Candidate.of(sdata.images[name], centres[system], name, system, affines))
    if not candidates:
        return systems[0], lambda: _refuse(problems, region, systems, sdata.images, image_key)
    covered = max(candidate.shown for candidate in candidates)
    candidates = [candidate for candidate in candidates if candidate.shown >= LEAST_SHOWN * covered]
    names = sorted({candidate.name for candidate in candidates})
    kinds = {name: kind_of(sdata.images[name]) for name in names} if len(names) > 1 else {}
    if kinds:
        candidates = [candidate for candidate in candidates if candidate.name in likeliest(kinds)]
    name, system, affines = _finest(candidates)

    def open_image() -> SectionImage:
        known = kinds or {name: kind_of(sdata.images[name])}
        check_choice(name, known, f"region {region!r}", is_asked=image_key is not None)
        if len(sdata.images) > 1 and image_key is None:
            logger.info("region %r: image %r in coordinate system %r (most pixels).", region, name, system)
        return section_image(_levels(sdata.images[name]), affines, f"image {name!r}")

    return system, lambda: open_image


@dataclass(frozen=True)
class _Candidate:
    """An image in a coordinate system of the region: the share of the spots that it shows, and with how many pixels."""

    shown: float
    pixels: float
    name: str
    system: str
    affines: list[np.ndarray]

    @classmethod
    def of(cls, element, centres: np.ndarray, name: str, system: str, affines: list[np.ndarray]) -> _Candidate:
        finest, level = affines[0], _levels(element)[0]
        places, size = centres @ finest[:, :2].T + finest[:, 2], (level.sizes["x"], level.sizes["y"])
        extent = np.linalg.norm(np.ptp(centres, axis=0))  # to compare resolutions across coordinate systems
        return cls(
            ((places >= 0) & (places <= size)).all(1).mean(),
            extent * np.linalg.norm(finest[:, :2], axis=1).min(),
            name, system, affines,
        )  # fmt: skip


def _finest(candidates: list[_Candidate]) -> tuple[str, str, list[np.ndarray]]:
    """The image, of those that show as much of the region as any, with most pixels; the first by name of equal ones."""
    whole = max(candidate.shown for candidate in candidates) - MISSED
    candidates = [candidate for candidate in candidates if candidate.shown >= whole]
    most = max(candidate.pixels for candidate in candidates) * (1 - 1e-6)  # coordinate systems differ by rounding
    best = min((c for c in candidates if c.pixels >= most), key=lambda c: (c.name, c.system))
    return best.name, best.system, best.affines


def _um_of_bins(sdata, region: str, system: str) -> float:
    """Micrometres per unit of a coordinate system from the bins of Visium HD, whose size is in their name; else NaN."""
    size = re.search(r"square_(\d{3})um$", region)
    if size is None or region not in sdata.shapes:
        return np.nan
    from squidpy.experimental.utils import derive_mpp_from_shapes

    edge = "um_diameter" if "radius" in sdata[region] else "um_square_edge"
    try:
        return derive_mpp_from_shapes(sdata, region, system, **{edge: float(size[1])})
    except ValueError:  # no squares, or a transformation that is no similarity
        return np.nan


def _refuse(problems: list[str], region: str, systems: list[str], images, image_key: str | None):
    if problems:
        raise ValueError(problems[0])
    if image_key is not None:
        raise ValueError(
            f"image {image_key!r} shares no coordinate system with region {region!r} ({listing(systems)}); "
            "align them with spatialdata.transformations.set_transformation."
        )
    raise KeyError(
        f"no image shares a coordinate system with region {region!r} ({listing(systems)}); images: {listing(images)}. "
        "Pass image=, or use_rep= with features that are already in obsm."
    )


def _centres(element, system: str) -> np.ndarray:
    """Centres of the spots of a region in a coordinate system, shape (spots, 2)."""
    from spatialdata import get_centroids

    return get_centroids(element, coordinate_system=system).compute()[list(AXES)].to_numpy(float)


def _levels(element) -> list:
    """The levels of an image, finest first; one of them where it is no pyramid."""
    if not hasattr(element, "children"):
        return [element]
    levels = [next(iter(element[scale].ds.values())) for scale in element.children]
    return sorted(levels, key=lambda level: -level.sizes["y"])


def _affines(element, name: str, system: str) -> list[np.ndarray]:
    """From the coordinate system to pixels (x, y) of every level, shape (2, 3) each.

    Raises
    ------
    ValueError
        For what is no plane RGB or grey image, or is sheared: rotations, flips and scalings are honoured.
    """
    from spatialdata.transformations import get_transformation

    levels = _levels(element)
    if set(levels[0].dims) != {"y", "x", "c"} or not is_rgb_or_grey(as_picture(levels[0], name)):
        channels = listing(levels[0].coords["c"].values.tolist()) if "c" in levels[0].coords else "no names"
        raise ValueError(
            f"image {name!r} has {dict(levels[0].sizes)}, with channels {channels}: that is neither RGB nor grey. Choose an "
            "RGB image with image_key=, or pass image=, or use_rep= with features that are already in obsm."
        )
    affines = []
    for level in levels:
        affine = np.linalg.inv(get_transformation(level, system).to_affine_matrix(AXES, AXES))[:2]
        x, y = affine[:, :2]
        if abs(x @ y) > MOST_SHEAR * np.linalg.norm(x) * np.linalg.norm(y):
            raise ValueError(
                f"the transformation of image {name!r} shears it; resample it first with spatialdata.rasterize."
            )
        affines.append(affine)
    return affines


def _centroids(element, system: str, instances: pd.Series, region: str) -> np.ndarray:
    from spatialdata import get_centroids

    centroids = get_centroids(element, coordinate_system=system).compute()
    return centroids.loc[_match(centroids.index, instances, region), list(AXES)].to_numpy(float)


def _match(index: pd.Index, instances: pd.Series, region: str) -> np.ndarray:
    """The instances as they are called in a region: as numbers or as text, whatever the table has.

    Raises
    ------
    ValueError
        For instances that the region does not have.
    """
    missing = ~instances.isin(index)
    if not missing.any():
        return instances.to_numpy()
    by_name = {as_name(value): value for value in index}
    names = instances.map(as_name).astype(str)
    lost = ~names.isin(by_name)
    if len(by_name) == len(index) and not lost.any():
        logger.info("region %r: instances are matched by their names, %s and %s.", region, instances.dtype, index.dtype)
        return names.map(by_name).to_numpy()
    differ = (
        f" The table has them as {instances.dtype}, the region as {index.dtype}, such as '{index[0]}': give both one type."
        if instances.dtype != index.dtype and missing.all()
        else " Either drop them, or add the shapes."
    )
    raise ValueError(
        f"{lost.sum()} rows of the table annotate instances that are not in region {region!r}, e.g. "
        f"{listing(instances[lost].iloc[:1])}.{differ}"
    )
