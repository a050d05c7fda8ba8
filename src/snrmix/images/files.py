"""Pictures from files and folders: whole, or lazily with all levels of their pyramid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from snrmix._names import listing
from snrmix.images.arrays import as_picture, of_channels
from snrmix.images.picture import ImageFileError, Picture
from snrmix.images.pillow import from_pillow
from snrmix.images.slides import INSTALL, OPENSLIDE_SUFFIXES, read_slide
from snrmix.images.tiff import is_tiff, read_tiff, to_yxc

OLD_AXES = "tczyx"  # of OME-Zarr before version 0.3


def read_file(path: Path) -> Picture:
    """Read an image file, or the folder of a Zarr.

    What Pillow knows, such as JPEG, PNG, WebP, GIF, BMP and JPEG 2000, is read at once. TIFF (BigTIFF, OME-TIFF, SVS) of
    any name, OME-Zarr (NGFF 0.1 to 0.5) and, with the optional OpenSlide, NDPI, MRXS and the other formats it knows are
    read lazily, with the levels of their pyramid. A picture that is stored turned is read as it is displayed.

    Raises
    ------
    ImageFileError, ValueError
        When there is no such file, it cannot be read, or it needs a package that is missing.
    """
    path = path.expanduser()
    if path.is_dir():
        return _read_zarr(path)
    if not path.is_file():
        raise ImageFileError(f"image={str(path)!r} does not exist; pass a file, or the folder of an OME-Zarr.")
    try:
        if path.suffix.lower() in OPENSLIDE_SUFFIXES:
            return read_slide(path, f"needs OpenSlide: {INSTALL}")
        return read_tiff(path) if is_tiff(path) else _read_pillow(path)
    except ImageFileError:
        raise
    except OSError as error:
        raise ImageFileError(
            f"image={str(path)!r} is no image that can be read ({error}); pass JPEG, PNG, TIFF, OME-Zarr or an array."
        ) from error


def _read_pillow(path: Path) -> Picture:
    from PIL import Image

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # sections are larger than Pillow's safety limit
    try:
        with Image.open(path) as opened:
            return from_pillow(opened, str(path))
    except SyntaxError as error:  # of a broken PNG
        raise OSError(error) from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _read_zarr(path: Path) -> Picture:
    """An OME-Zarr, or a plain array (y, x, channels)."""
    import dask.array as da
    import zarr

    try:
        store = zarr.open(path, mode="r")
    except (OSError, ValueError) as error:
        raise ImageFileError(f"image={str(path)!r} is a folder, but no Zarr; pass a file or an OME-Zarr.") from error
    if isinstance(store, zarr.Array):
        return as_picture(da.from_zarr(store), str(path))
    if not _metadata(store).get("multiscales") and isinstance(store.get("0"), zarr.Group):
        store = store["0"]  # the first series, as bioformats2raw lays them out
    metadata = _metadata(store)
    if not metadata.get("multiscales"):
        raise ImageFileError(
            f"image={str(path)!r} is a Zarr without 'multiscales'; pass the folder of one image. "
            f"It has {listing(store.keys())}."
        )
    found = metadata["multiscales"][0]
    axes = [axis["name"] if isinstance(axis, Mapping) else axis for axis in found.get("axes", OLD_AXES)]
    levels = [da.from_zarr(store[dataset["path"]]) for dataset in found["datasets"]]
    channels = tuple(str(c.get("label", i)) for i, c in enumerate(metadata.get("omero", {}).get("channels", [])))
    levels = tuple(to_yxc(level, "".join(axes).upper(), str(path)) for level in levels)
    return of_channels(levels, channels, str(path))


def _metadata(group) -> Mapping:
    """What OME-Zarr says of an image; in version 0.5 it stands under "ome"."""
    return group.attrs.get("ome", group.attrs)
