"""Positions and images of a SpatialData: one coordinate system per region, shared with its image."""

from __future__ import annotations

import numpy as np
import pandas as pd

from snrmix._log import logger
from snrmix._names import closest, listing
from snrmix.images.source import Level, SectionImage

AXES = ("x", "y")


def read_spatialdata(sdata, table, labels: np.ndarray, image_key: str | None):
    """Positions of the table's rows, shape (n, 2), and a function from library to its image.

    Rows are matched to shapes by the table's instance key, so filtered and permuted tables are right. Positions are
    centroids in a coordinate system that the region shares with an image.
    """
    attrs = table.uns.get("spatialdata_attrs")
    if not attrs:
        raise ValueError(
            "the table annotates no region (uns['spatialdata_attrs'] is missing); use TableModel.parse(region=...)."
        )
    regions = table.obs[attrs["region_key"]].astype(str).to_numpy()
    positions = np.full((table.n_obs, 2), np.nan)
    images: dict[str, SectionImage] = {}
    for region in sorted(set(regions)):
        if region not in sdata:
            raise KeyError(
                f"the table annotates region {region!r}, which is not in the SpatialData; it has {listing(e[1] for e in sdata.gen_elements())}."
            )
        system, image = _shared_system(sdata, region, image_key)
        rows = regions == region
        positions[rows] = _centroids(sdata[region], system, table.obs.loc[rows, attrs["instance_key"]], region)
        for library in set(labels[rows]):
            if len(set(regions[labels == library])) > 1:
                raise ValueError(
                    f"library {library!r} spans several regions; choose library_key={attrs['region_key']!r}."
                )
            images[library] = image

    def find_image(library: str) -> SectionImage:
        if images[library] is None:
            raise KeyError(
                f"no image shares a coordinate system with the region of library {library!r}; images: "
                f"{listing(sdata.images)}. Pass image=, or use_rep= with features that are already in obsm."
            )
        return images[library]

    return positions, find_image


def _shared_system(sdata, region: str, image_key: str | None) -> tuple[str, SectionImage | None]:
    """The coordinate system and image of highest resolution that share one with ``region``."""
    from spatialdata.transformations import get_transformation

    if image_key is not None and image_key not in sdata.images:
        raise KeyError(
            f"image_key={image_key!r} is not an image; available: {listing(sdata.images)}.{closest(image_key, sdata.images)}"
        )
    systems = sorted(get_transformation(sdata[region], get_all=True))
    candidates = []
    for name in [image_key] if image_key is not None else sorted(sdata.images):
        shared = sorted(set(get_transformation(sdata.images[name], get_all=True)) & set(systems))
        for system in shared:
            image = _section_image(sdata.images[name], name, system)
            extent = _extent(sdata[region], system)
            candidates.append((-extent * image.levels[0].scale.min(), name, system, image))
    if not candidates:
        if image_key is not None:
            raise ValueError(
                f"image {image_key!r} shares no coordinate system with region {region!r} ({listing(systems)}); "
                "align them with spatialdata.transformations.set_transformation."
            )
        return systems[0], None
    finest = min(c[0] for c in candidates)
    _, name, system, image = min((c for c in candidates if c[0] <= finest * (1 - 1e-6)), key=lambda c: c[1:3])
    if len(sdata.images) > 1 and image_key is None:
        logger.info("region %r: image %r in coordinate system %r (the highest resolution).", region, name, system)
    return system, image


def _extent(element, system: str) -> float:
    """Diagonal of an element in a coordinate system, to compare resolutions across coordinate systems."""
    from spatialdata import get_centroids

    points = get_centroids(element, coordinate_system=system).compute()[list(AXES)].to_numpy(float)
    return float(np.linalg.norm(np.ptp(points, axis=0)))


def _section_image(element, name: str, system: str) -> SectionImage:
    from spatialdata.transformations import get_transformation

    arrays = (
        [element]
        if hasattr(element, "dims") and not hasattr(element, "children")
        else [next(iter(element[scale].ds.values())) for scale in element.children]
    )
    levels = []
    for array in arrays:
        to_system = get_transformation(array, system).to_affine_matrix(AXES, AXES)
        affine = np.linalg.inv(to_system)[:2]
        _refuse_shear(affine, name)
        levels.append(Level(array.transpose("y", "x", "c").data, affine))
    levels.sort(key=lambda level: -level.scale.min())
    if levels[0].pixels.shape[2] not in (1, 3, 4):
        raise ValueError(
            f"image {name!r} has {levels[0].pixels.shape[2]} channels; choose an RGB image with image_key=."
        )
    return SectionImage(tuple(levels), f"image {name!r}")


def _refuse_shear(affine: np.ndarray, name: str) -> None:
    """Rotations, flips and scalings are honoured; a sheared image would need resampling first."""
    columns = affine[:, :2]
    cosine = abs(columns[0] @ columns[1]) / np.prod(np.linalg.norm(columns, axis=1))
    if cosine > 0.05:
        raise ValueError(
            f"the transformation of image {name!r} shears it; resample it first with spatialdata.rasterize."
        )


def _centroids(element, system: str, instances: pd.Series, region: str) -> np.ndarray:
    from spatialdata import get_centroids

    centroids = get_centroids(element, coordinate_system=system).compute()
    missing = ~instances.isin(centroids.index)
    if missing.any():
        raise ValueError(
            f"{missing.sum()} rows of the table annotate instances that are not in region {region!r}, "
            f"e.g. {instances[missing].iloc[0]!r}."
        )
    return centroids.loc[instances.to_numpy(), list(AXES)].to_numpy(float)
