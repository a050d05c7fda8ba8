"""A section from a path: AnnData, SpatialData, or a folder of Space Ranger."""

from __future__ import annotations

from pathlib import Path

from snrmix.data.spaceranger import is_spaceranger, read_spaceranger

KINDS = "an .h5ad file, a .zarr folder of an AnnData or a SpatialData, or a folder of Space Ranger (outs)"


def read_path(path: str | Path, bin_size: int | None = None):
    """Read a section by what its path holds.

    Parameters
    ----------
    path
        ``.h5ad`` (upper or lower case), the zarr store of an AnnData or a SpatialData, or a folder of Space Ranger, see
        `snrmix.data.spaceranger.read_spaceranger`. ``~`` is the home folder.
    bin_size
        Of a folder of Visium HD, micrometres.

    Returns
    -------
    AnnData or SpatialData

    Raises
    ------
    FileNotFoundError, ValueError
        When it does not exist, is something else, or cannot be read.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"input {str(path)!r} does not exist.")
    kind = kind_of(path)
    if kind == "spaceranger":
        return read_spaceranger(path, bin_size)
    if bin_size is not None:
        raise ValueError(
            f"bin={bin_size} is for a folder of Visium HD, which input {str(path)!r} is not; leave it out."
        )
    try:
        return _reader(kind)(path)
    except Exception as error:  # readers raise whatever their formats do
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"input {str(path)!r} cannot be read as {_NAMES[kind]}: {reason}") from error


def kind_of(path: Path) -> str:
    """``"h5ad"``, ``"anndata"`` or ``"spatialdata"`` (zarr stores), or ``"spaceranger"``.

    Raises
    ------
    ValueError
        For anything else.
    """
    if path.suffix.lower() in (".h5ad", ".h5") and path.is_file():
        return "h5ad"
    if path.is_dir() and any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zattrs")):
        elements = ("tables", "shapes", "points", "labels", "images")
        return "spatialdata" if any((path / name).is_dir() for name in elements) else "anndata"
    if path.is_dir() and is_spaceranger(path):
        return "spaceranger"
    raise ValueError(f"input {str(path)!r} is {_what(path)}; expected {KINDS}.")


_NAMES = {"h5ad": "an .h5ad file", "anndata": "the zarr store of an AnnData", "spatialdata": "a SpatialData"}


def _what(path: Path) -> str:
    if not path.is_dir():
        return f"a file that ends in {path.suffix!r}" if path.suffix else "a file without an ending"
    names = sorted(entry.name for entry in path.iterdir())
    return f"a folder with {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else "an empty folder"


def _reader(kind: str):
    import anndata

    if kind != "spatialdata":
        return anndata.read_h5ad if kind == "h5ad" else anndata.read_zarr
    import spatialdata

    return spatialdata.read_zarr
