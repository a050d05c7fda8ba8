"""Files and stores that appear whole or not at all."""

from __future__ import annotations

import io
import os
import shutil
import socket
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import numpy as np
from anndata import AnnData

from snrmix._log import logger
from snrmix.data.results import MODELLED, Result
from snrmix.data.table import read_table

SUFFIXES = (".h5ad", ".zarr")
FULL = "the disk is full"
COMPRESSIONS = {"gzip": "gzip", "lzf": "lzf", "none": None}


def check_target(target: str | Path, force: bool = False, suffixes: tuple[str, ...] = SUFFIXES) -> Path:
    """Refuse before a long run what could not be written after it.

    What runs that were killed left beside the target is removed, and an old target that one of them had put aside is
    put back.

    Parameters
    ----------
    target
        Path of a file, or of a zarr store.
    force
        Whether it may exist.
    suffixes
        What its name may end in.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    ValueError, OSError
        For another ending, a folder that is missing or cannot be written to, or a target that exists.
    """
    target, given = Path(target).expanduser(), str(target)
    if target.suffix not in suffixes:
        raise ValueError(f"output {given!r} must end in {' or '.join(suffixes)}.")
    if not target.parent.is_dir():
        raise ValueError(f"the folder of output {given!r} does not exist; make it first, or choose another one.")
    _clear(target)
    if target.exists() and not force:
        raise ValueError(f"output {given!r} exists; choose another name, or pass --force to replace it.")
    if target.exists() and target.is_dir() != (target.suffix == ".zarr"):
        raise ValueError(
            f"output {given!r} exists and is a {'folder' if target.is_dir() else 'file'}; remove it first."
        )
    if target.is_dir() and not any((target / name).exists() for name in ("zarr.json", ".zgroup")):
        raise ValueError(f"output {given!r} is a folder and no zarr store; choose another name.")
    try:
        tempfile.TemporaryFile(dir=target.parent).close()
    except OSError as error:
        raise OSError(f"output {given!r} cannot be written: {error.strerror}.") from error
    return target


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A path beside the target to write to; it takes the target's place, in one step, when all went well.

    Raises
    ------
    OSError
        Where it could not be written, for example since the disk is full. The target is then as it was.
    """
    folder = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
    try:
        new = folder / target.name
        yield new
        _flush(new)
        if target.is_dir():  # a folder cannot take the place of another in one step
            os.rename(target, folder / "old")
        os.rename(new, target)
    except (OSError, RuntimeError) as error:  # HDF5 raises either
        raise OSError(f"output {str(target)!r} could not be written: {_reason(error)}; nothing was changed.") from error
    finally:
        _put_back(target, folder)
        shutil.rmtree(folder, ignore_errors=True)


def write_section(data, target: Path, *, table_key: str | None = None, compression: str = "gzip") -> None:
    """Store an AnnData or SpatialData whole, under a name that ends in ``.h5ad`` or ``.zarr``.

    Parameters
    ----------
    data
        AnnData or SpatialData; of the latter, ``.h5ad`` gets the table.
    table_key
        Which table that is.
    compression
        ``"gzip"``, ``"lzf"`` or ``"none"``, of ``.h5ad``; zarr stores are compressed always, by zstd.

    Raises
    ------
    ValueError, OSError
        For another compression, and where it cannot be written; see `whole`.
    """
    if compression not in COMPRESSIONS:
        raise ValueError(f"compression={compression!r}; choose one of {', '.join(COMPRESSIONS)}.")
    with whole(target) as new, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "zarr v3 autosharding")  # once per array, about anndata's next release
        if target.suffix == ".h5ad":
            _write_h5ad(read_table(data, table_key, needs_genes=False), new, COMPRESSIONS[compression])
        elif isinstance(data, AnnData):
            data.write_zarr(new)
        else:
            data.write(new)


def _write_h5ad(table: AnnData, path: Path, compression: str | None) -> None:
    """Write a file; where that fails, HDF5 would print a page about every object that it could not close."""
    with redirect_stderr(io.StringIO()):
        try:
            table.write_h5ad(path, compression=compression)
        except (OSError, RuntimeError) as error:
            reason = _reason(error)
            traceback.clear_frames(error.__traceback__)
            raise OSError(reason) from None


def write_text(text: str, target: Path) -> None:
    """Store a text whole."""
    with whole(target) as new:
        new.write_text(text, encoding="utf-8")


def keep_modelled(data, key: str, table_key: str | None = None):
    """Keep the genes that were modelled: an AnnData, or a SpatialData with another table.

    Raises
    ------
    KeyError
        When there is no such result.
    """
    result = Result.find(data, key, table_key)
    table = result.table
    kept = table[:, result.flags(MODELLED)].copy()
    if data is table:
        return kept
    name = next(name for name, other in data.tables.items() if other is table)
    del data.tables[name]
    data.tables[name] = kept
    return data


def size_in_words(n_obs: int, n_vars: int, layers: int = 2) -> str:
    """What layers of float32 take before they are compressed."""
    return f"{n_obs:,} x {n_vars:,} values in each of {layers} layers, {4 * layers * n_obs * n_vars / 1e6:,.0f} MB"


def say_size(data, key: str, table_key: str | None = None, *, can_leave_out: bool = True) -> None:
    """Log how large the layers of a result are, and (``can_leave_out``) would be without genes that were not modelled."""
    result = Result.find(data, key, table_key)
    table, modelled = result.table, int(np.count_nonzero(result.flags(MODELLED)))
    logger.info("writing %s before compression.", size_in_words(table.n_obs, table.n_vars))
    if can_leave_out and modelled < 0.9 * table.n_vars:
        logger.info(
            "%d of %d genes were modelled: --modelled-only would keep %s.",
            modelled, table.n_vars, size_in_words(table.n_obs, modelled),
        )  # fmt: skip


def _prefix(target: Path) -> str:
    return f".{target.name}-snrmix-{socket.gethostname()}-{os.getpid()}-"


def _clear(target: Path) -> None:
    """Remove what processes of this machine that are no more have left."""
    import psutil

    start = f".{target.name}-snrmix-{socket.gethostname()}-"
    for folder in target.parent.glob(f"{start}*"):
        process = folder.name.removeprefix(start).partition("-")[0]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            _put_back(target, folder)
            shutil.rmtree(folder, ignore_errors=True)


def _put_back(target: Path, folder: Path) -> None:
    """Undo the first half of an exchange that did not come to its second half."""
    if (folder / "old").exists() and not target.exists():
        os.rename(folder / "old", target)


def _flush(path: Path) -> None:
    """Bring a file to the disk, so that a full one is noticed before the target is replaced."""
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    text = text if not text.startswith("[Errno") else text.partition("] ")[2]
    full = (FULL, "No space left", "File too large", "quota exceeded")
    if any(word.lower() in text.lower() for word in full):
        return FULL
    return text or type(error).__name__
