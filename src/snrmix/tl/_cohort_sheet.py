"""The sheet of a cohort: which samples, where they are, and what is particular to each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from snrmix._names import closest, listing
from snrmix.data.paths import kind_of
from snrmix.data.words import literal, read_scales

NEEDED = ("sample", "path")
LIBRARY = "snrmix_sample"  # obs column of samples that share a model
SAFE = re.compile(r"[\w.+=-]+")
PATHS = ("path", "image")
WORDS = ("measured", "layer", "image_key", "table_key", "use_rep", "library_key", "genes", "depth_key")


@dataclass(frozen=True)
class Sample:
    """One row of the sheet.

    Parameters
    ----------
    arguments
        Of `snrmix.tl.impute`, from the row.
    bin_size
        Of a folder of Visium HD.
    labels
        Columns that are no arguments, such as the patient.
    """

    name: str
    path: Path
    arguments: Mapping[str, object] = field(default_factory=dict)
    bin_size: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


def read_sheet(samples, known: Iterable[str], labels: Iterable[str]) -> list[Sample]:
    """Read and check a sheet.

    Parameters
    ----------
    samples
        Path of a CSV or TSV file, whose paths are relative to its folder, or a DataFrame. Empty cells are as if the column
        were not there.
    known
        Arguments that columns can be.
    labels
        Other columns that are allowed.

    Raises
    ------
    FileNotFoundError, ValueError, KeyError, TypeError
        For a missing or unreadable sheet, columns that are unknown or missing, a sample without name or path, or twice,
        and paths that do not exist or hold something else.
    """
    table, folder, name = _read_table(samples)
    known, labels = set(known), set(labels)
    missing = [column for column in NEEDED if column not in table]
    if missing:
        raise KeyError(f"{name} has no column {listing(missing)}; it has {listing(table.columns)}.")
    allowed = [*NEEDED, "bin", *sorted(labels), *sorted(known)]
    for column in table.columns:
        if column not in allowed:
            raise KeyError(
                f"{name} has a column {column!r}, which is no argument of snrmix.tl.impute.{closest(column, allowed)}"
            )
    if table.empty:
        raise ValueError(f"{name} has no samples.")
    found = [_read_row(row, folder, name, number, labels) for number, row in enumerate(table.to_dict("records"), 1)]
    _check_names([sample.name for sample in found], name)
    for sample in found:
        _check_path(sample)
    return found


def _read_table(samples) -> tuple[pd.DataFrame, Path, str]:
    """The table, where its paths start from, and what to call it in messages."""
    if isinstance(samples, pd.DataFrame):
        return samples, Path(), "samples"
    if not isinstance(samples, str | Path):
        raise TypeError(f"samples must be the path of a sheet or a DataFrame, not {type(samples).__name__}.")
    path = Path(samples).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"sheet {str(path)!r} does not exist.")
    separator = "\t" if path.suffix.lower() in (".tsv", ".txt") else ","
    try:
        table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, skipinitialspace=True, comment="#")
    except (ValueError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(f"sheet {str(path)!r} cannot be read as a table: {' '.join(str(error).split())}") from error
    table.columns = [str(column).strip() for column in table.columns]
    return table, path.parent, f"sheet {str(path)!r}"


def _read_row(row: dict, folder: Path, sheet: str, number: int, labels: set[str]) -> Sample:
    given = {name: value for name, value in row.items() if _is_given(value)}
    for column in NEEDED:
        if column not in given:
            raise ValueError(f"row {number} of {sheet} has no {column}.")
    name = str(given.pop("sample")).strip()
    if not SAFE.fullmatch(name) or name.startswith("."):
        raise ValueError(
            f"sample {name!r} of {sheet} cannot be the name of a file; use letters, digits, '_', '-', '+', '=' and '.'."
        )
    for column in PATHS:
        if isinstance(given.get(column), str | Path):
            given[column] = (folder / Path(str(given[column]).strip()).expanduser()).absolute()
    path, bin_size = given.pop("path"), given.pop("bin", None)
    own = {column: str(given.pop(column)) for column in sorted(labels & set(given))}
    arguments = {column: _value(column, value) for column, value in given.items()}
    return Sample(name, Path(path), arguments, None if bin_size is None else int(bin_size), own)


def _is_given(value) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    return value is not None and not (isinstance(value, float) and pd.isna(value))


def _value(column: str, value):
    """What a cell holds."""
    if not isinstance(value, str):
        return value
    value = value.strip()
    if column in WORDS:
        return value
    if column == "scales":
        return read_scales(value.replace(",", " ").split())
    return literal(value)


def _check_names(names: list[str], sheet: str) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if name.lower() in seen:  # file systems may not tell them apart
            raise ValueError(f"sample {name!r} is in {sheet} twice; give each row a name of its own.")
        seen[name.lower()] = name


def _check_path(sample: Sample) -> None:
    """Refuse what is certain to fail before hours are spent on other samples."""
    if not sample.path.exists():
        raise FileNotFoundError(f"path {str(sample.path)!r} of sample {sample.name!r} does not exist.")
    try:
        kind_of(sample.path)
    except ValueError as error:
        raise ValueError(f"sample {sample.name!r}: {error}") from error
    image = sample.arguments.get("image")
    if isinstance(image, Path) and not image.exists():
        raise FileNotFoundError(f"image {str(image)!r} of sample {sample.name!r} does not exist.")
