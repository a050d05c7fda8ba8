"""Pictures from objects in memory: arrays, DataArrays, pyramids, Pillow images."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import numpy as np

from snrmix._names import listing
from snrmix.images.picture import Picture
from snrmix.images.pillow import from_pillow

CHANNEL_AXES = ("c", "channel", "channels", "band", "s", "rgb", "rgba")
COLOURS = {"r": 0, "red": 0, "g": 1, "green": 1, "b": 2, "blue": 2, "a": 3, "alpha": 3}
NO_NAME = re.compile(r"(c|ch|channel|band|image)?[ _:-]*\d+", re.IGNORECASE)
WRONG_SHAPE = 0.02  # by which the sides of a level may shrink differently, besides 2 pixels


def is_image(image) -> bool:
    """Whether something may be one image, also where it is a mapping, as the pyramids of xarray are."""
    return (
        isinstance(image, str | os.PathLike)
        or _is_pillow(image)
        or _is_tree(image)
        or (hasattr(image, "ndim") and hasattr(image, "shape"))
        or (isinstance(image, list | tuple) and len(image) > 0 and all(hasattr(level, "shape") for level in image))
    )


def as_picture(image, name: str) -> Picture:
    """Read an array, DataArray, pyramid or Pillow image.

    Parameters
    ----------
    image
        An array of numpy, dask, zarr or h5py, shape (y, x), (y, x, channels) or (channels, y, x); a DataArray with the
        dimensions y, x and perhaps c, in any order; a pyramid: a DataTree or Dataset of these, as SpatialData has them,
        or a list of arrays; or a Pillow image.
    name
        How messages call it.

    Raises
    ------
    TypeError, ValueError
        For anything else.
    """
    if _is_pillow(image):
        return from_pillow(image, name)
    if _is_tree(image):
        return _from_levels([_variable(node, name) for node in _nodes(image)], name)
    if isinstance(image, list | tuple) and is_image(image):
        return _from_levels(image, name)
    if hasattr(image, "dims") and hasattr(image, "transpose"):
        return _from_data_array(image, name)
    if hasattr(image, "ndim") and hasattr(image, "shape"):
        return _from_array(image, name)
    raise TypeError(
        f"{name} must be a path, an array (y, x, channels), a DataArray, a pyramid of these or a Pillow image, not "
        f"{type(image).__name__}. For several libraries pass a dict: image={{library: image}}."
    )


def named_channels(names: tuple[str, ...]) -> tuple[list[int], bool] | None:
    """Places of red, green, blue and perhaps opacity among channels, and whether the latter is there; else ``None``."""
    place = {COLOURS[name.lower()]: i for i, name in enumerate(names) if name.lower() in COLOURS}
    return ([place[code] for code in sorted(place)], 3 in place) if {0, 1, 2} <= set(place) else None


def _is_pillow(image) -> bool:
    from PIL import Image

    return isinstance(image, Image.Image)


def _is_tree(image) -> bool:
    """A DataTree or Dataset of xarray: mappings, unlike a DataArray."""
    return isinstance(image, Mapping) and (hasattr(image, "children") or hasattr(image, "data_vars"))


def _nodes(tree) -> list:
    """The datasets of a tree, one per level; of a Dataset itself."""
    children = list(getattr(tree, "children", {}).values())
    return [node.ds for node in children] if children else [getattr(tree, "ds", tree)]


def _variable(dataset, name: str):
    found = [array for array in dataset.data_vars.values() if {"y", "x"} <= {str(dim).lower() for dim in array.dims}]
    if len(found) != 1:
        raise ValueError(
            f"{name} must have one image a level, with dimensions 'y' and 'x'; there are {len(found)} among "
            f"{listing(dataset.data_vars)}: pass one of them."
        )
    return found[0]


def _from_levels(levels, name: str) -> Picture:
    """A pyramid, its levels in any order."""
    pictures = sorted((as_picture(level, name) for level in levels), key=lambda one: -one.levels[0].shape[0])
    first = pictures[0]
    height, width, depth = first.levels[0].shape
    for finer, picture in zip(pictures, pictures[1:], strict=False):
        h, w, d = picture.levels[0].shape
        off = abs(w - width * h / height)
        if d != depth or picture.levels[0].dtype != first.levels[0].dtype or off > 2 + WRONG_SHAPE * w:
            raise ValueError(
                f"{name} is no pyramid: its levels have shapes {[tuple(one.levels[0].shape) for one in pictures]} and must "
                "show the same at fewer and fewer pixels. For several libraries pass a dict: image={library: image}."
            )
        if h >= finer.levels[0].shape[0]:
            raise ValueError(
                f"{name} has two levels of {w} x {h} pixels; a pyramid has each once. For several libraries pass a dict: "
                "image={library: image}."
            )
    return Picture(
        tuple(one.levels[0] for one in pictures), name, first.channels, first.white, first.inverted, first.opacity
    )


def _from_data_array(image, name: str) -> Picture:
    role = {dim: "c" if str(dim).lower() in CHANNEL_AXES else str(dim).lower() for dim in image.dims}
    image = image.squeeze([dim for dim in image.dims if role[dim] not in ("y", "x", "c") and image.sizes[dim] == 1])
    by_role = {role[dim]: dim for dim in image.dims}
    if not {"y", "x"} <= set(by_role) <= {"y", "x", "c"} or len(by_role) < image.ndim:
        dims = [str(dim) for dim in image.dims]
        raise ValueError(f"{name} has dimensions {dims}; they must be 'y' and 'x', and 'c' for channels.")
    array = array_of(image.transpose(*[by_role[r] for r in ("y", "x", "c") if r in by_role]).data, name)
    array = array[:, :, None] if array.ndim == 2 else array
    coordinate = image.coords.get(by_role.get("c"))
    names = () if coordinate is None else tuple(str(value) for value in np.atleast_1d(coordinate.values))
    return of_channels((array,), names, name)


def of_channels(levels: tuple, names: tuple[str, ...], name: str) -> Picture:
    """Levels whose channels may have names, with the colours among them brought in order."""
    if all(NO_NAME.fullmatch(one) for one in names):
        return Picture(levels, name, opacity="perhaps" if levels[0].shape[2] == 4 else None)
    found = named_channels(names)
    if found is None:
        return Picture(levels, name, names)
    places, has_opacity = found
    if places != list(range(levels[0].shape[2])):
        levels = tuple(level[:, :, places] for level in levels)
    return Picture(levels, name, tuple(names[i] for i in places), opacity="straight" if has_opacity else None)


def _from_array(image, name: str) -> Picture:
    array = array_of(image, name)
    if array.ndim > 3:
        array = array.reshape([side for side in array.shape if side > 1])
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    return Picture((array,), name, opacity="perhaps" if array.ndim == 3 and array.shape[2] == 4 else None)


def array_of(array, name: str):
    """As numpy or dask: arrays of zarr and h5py stay on disk.

    Raises
    ------
    ValueError
        For a masked array, whose masked pixels have no colour.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise ValueError(f"{name} is a masked array; fill it with the colour of glass: image.filled(255).")
    if isinstance(array, np.ndarray) or hasattr(array, "dask"):
        return array
    if not hasattr(array, "chunks"):
        return np.asarray(array)
    import dask.array as da

    return da.from_array(array)
