"""A folder that holds a model: numbers as safetensors, the rest as JSON. Nothing in it is ever executed."""

from __future__ import annotations

import json
import math
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from snrmix._names import listing

ARRAYS, RECORD = "weights.safetensors", "model.json"
FORMAT = 1


def write_model(folder, arrays: Mapping[str, np.ndarray], record: Mapping, overwrite: bool = False) -> None:
    """Write a model as a whole: into a folder beside, which is then renamed.

    Parameters
    ----------
    folder
        Path; made where it does not exist.
    arrays
        By name.
    record
        What JSON can hold, see `plain`.
    overwrite
        Replace a model that is there.

    Raises
    ------
    ValueError
        When the folder holds a model already, or something else.
    """
    from safetensors.numpy import save

    folder = Path(folder).expanduser().resolve()
    _check_target(folder, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    new, old = (folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}-{what}") for what in ("new", "old"))
    try:
        new.mkdir()
        (new / ARRAYS).write_bytes(save({name: np.ascontiguousarray(values) for name, values in arrays.items()}))
        text = json.dumps({"format": FORMAT, **record}, indent=1, allow_nan=False)
        (new / RECORD).write_text(f"{text}\n", encoding="utf-8")
        if folder.exists():
            os.rename(folder, old)
        os.rename(new, folder)
    except BaseException:
        if old.exists() and not folder.exists():
            os.rename(old, folder)
        shutil.rmtree(new, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _check_target(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is a file; pass the name of a folder for the model.")
    names = sorted(path.name for path in folder.iterdir())
    others = [name for name in names if name not in (ARRAYS, RECORD)]
    if others:
        raise ValueError(
            f"{str(folder)!r} holds other files ({listing(others, 5)}); choose a new folder for the model."
        )
    if names and not overwrite:
        raise ValueError(
            f"{str(folder)!r} holds a model already; pass overwrite=True to replace it, or another folder."
        )


def read_model(folder) -> tuple[dict[str, np.ndarray], dict]:
    """Arrays and record of a model.

    Raises
    ------
    ValueError
        When the folder is not a model, lacks a part of it, or was written by a later version.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    folder = Path(folder).expanduser()
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    missing = [name for name in (RECORD, ARRAYS) if name not in found]
    if missing:
        has = f"it has {listing(found, 5)}" if folder.exists() else "there is no such folder"
        raise ValueError(f"{str(folder)!r} is no model that SNRMix.save wrote: {listing(missing)} missing; {has}.")
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        number = record["format"]
        if number < 1:
            raise TypeError(f"there is no format {number}")
        if number > FORMAT:
            raise ValueError(
                f"the model in {str(folder)!r} has format {number}, and this snrmix reads up to {FORMAT}: update snrmix."
            )
        return load_file(folder / ARRAYS), record
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(f"the model in {str(folder)!r} is damaged ({error}); save it again.") from error


def plain(value):
    """What JSON can hold; arrays of many dimensions and other objects become the name of their type."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | pd.Index | pd.Series) or (isinstance(value, np.ndarray) and value.ndim == 1):
        return [plain(one) for one in value]
    if is_dataclass(value) and not isinstance(value, type):
        own = {field.name: plain(getattr(value, field.name)) for field in fields(value)}
        return {"name": type(value).__name__, **own}
    return getattr(value, "__name__", type(value).__name__)


def table_to_record(table: pd.DataFrame) -> dict:
    """A table as JSON can hold it, NaN as null."""
    return table.astype(object).where(table.notna(), None).to_dict("tight")


def table_of_record(record: dict) -> pd.DataFrame:
    """The table again: numbers, and booleans where there was no null."""
    table = pd.DataFrame.from_dict(record, orient="tight")
    return table.astype({name: float for name in table if table[name].dtype == object})
