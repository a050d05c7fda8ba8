"""Sections and tables that commands read and write."""

from __future__ import annotations

import warnings
from pathlib import Path

from snrmix.cli._command import Target
from snrmix.cli._session import Session
from snrmix.data.paths import kind_of, read_path
from snrmix.data.save import COMPRESSIONS, check_target, write_section, write_text


def load(path: str, bin_size: int | None = None):
    """AnnData or SpatialData; what other packages have to say about their formats is left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_path(path, bin_size)


def place(target: Target, path: str, in_place: bool = False, key: str = "snrmix", table_key: str | None = None) -> Path:
    """Where a result will go, checked before anything is done; ``key`` is its name.

    Raises
    ------
    ValueError, OSError
        When there is no output, or one that cannot be written.
    """
    if target.compression not in COMPRESSIONS:
        raise ValueError(f"--compression {target.compression!r}; choose one of {', '.join(COMPRESSIONS)}.")
    if in_place:
        if target.output is not None:
            raise ValueError("--output and --in-place were both given; choose one.")
        source = Path(path).expanduser()
        if not source.exists():
            raise FileNotFoundError(f"input {path!r} does not exist.")
        if kind_of(source) not in ("anndata", "spatialdata"):
            raise ValueError(
                f"--in-place needs a zarr store of an AnnData or SpatialData, which {path!r} is not; use -o."
            )
        tables = [source, *(source / "tables").glob(table_key or "*")]
        if not target.force and any((table / "uns" / key).exists() for table in tables):
            raise ValueError(
                f"{path!r} has a result {key!r} already; pass --force to replace it, or another --key-added."
            )
        return source
    if target.output is None:
        raise ValueError("no output: name one with -o OUTPUT (.h5ad or .zarr).")
    if not Path(path).expanduser().exists():
        raise FileNotFoundError(f"input {path!r} does not exist.")
    return check_target(target.output, target.force)


def save(data, where: Path, target: Target, table_key: str | None = None) -> None:
    """Store a section whole."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_section(data, where, table_key=table_key, compression=target.compression)


def save_table(frame, output: Path | None, force: bool, session: Session) -> None:
    """Store a table of scores as CSV, or as TSV by its name; without an output print it."""
    if output is None:
        session.more["table"] = frame.reset_index().to_dict("records")
        print(frame.to_string(max_rows=60, float_format="{:.3f}".format))
        return
    where = check_target(output, force, TABLES)
    write_text(frame.to_csv(sep="\t" if where.suffix == ".tsv" else ","), where)
    session.wrote(where)


TABLES = (".csv", ".tsv")


def check_table_target(output: Path | None, force: bool) -> None:
    """Refuse an output for a table before the work is done."""
    if output is not None:
        check_target(output, force, TABLES)
