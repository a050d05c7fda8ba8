"""Store a result in a zarr store that is there already."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from contextlib import ExitStack, contextmanager
from pathlib import Path

from anndata import AnnData

from snrmix._globals import settled
from snrmix._log import logger
from snrmix._names import closest, listing
from snrmix.data.embedding_cache import CACHE_KEY
from snrmix.data.results import CALIBRATION, ERRORS, MEASURED, MODEL, SD, Result

FRAMES = ("obs", "var")


@settled()
def write_layer(
    path,
    data,
    *,
    key: str = "snrmix",
    table_key: str | None = None,
    embedding: bool = False,
    overwrite: bool = False,
) -> None:
    """Store what `snrmix.tl.impute` added to a table in the zarr store the table came from, and nothing else.

    Everything is first written to a temporary folder beside the store. Then its parts are moved into their places, the
    columns of ``obs`` and ``var`` are entered in their lists, and the consolidated metadata are written anew. A process
    that is killed at any moment leaves a store that reads; what was in it before is unchanged. Until ``uns[key]`` is in
    place, which comes last, there is no result in the store.

    Parameters
    ----------
    path
        Folder of a zarr store, written by ``AnnData.write_zarr`` or ``SpatialData.write``, zarr format 2 or 3.
    data
        AnnData or SpatialData with the result. Observations and genes must be those of the store, in the same order.
    key
        Which result: the ``key_added`` of `snrmix.tl.impute`.
    table_key
        Table of the SpatialData, in ``data`` and in the store.
    embedding
        Store ``obsm["X_histology"]`` and ``uns["X_histology"]`` too, so that a later call reuses them.
    overwrite
        Replace a result of that name in the store. A process that is killed while the two are exchanged leaves a store
        without this result, and with everything else; its consolidated metadata may be missing, and are not needed.

    Returns
    -------
    ``None``. The store gets the layers of the result, its columns of ``obs`` and ``var``, and its record in ``uns``.

    Raises
    ------
    ValueError
        When the store is no zarr store of an AnnData or SpatialData, its observations or genes are not those of
        ``data``, or it has such a result already and ``overwrite`` is not set. The store is then unchanged.
    KeyError, TypeError
        When there is no such result, or no such table.

    Examples
    --------
    >>> sdata = spatialdata.read_zarr("section.zarr")
    >>> snrmix.tl.impute(sdata)
    >>> snrmix.io.write_layer("section.zarr", sdata)
    """
    result = Result.find(data, key, table_key)
    root = _open_store(path)
    path = Path(path).expanduser()
    name = _table_path(root, table_key)
    store = root[name] if name else root
    _check_names(store, result.table)
    elements = _elements(result, embedding)
    old = _present(store, elements, result)
    if old and not overwrite:
        raise ValueError(
            f"{str(path)!r} has {listing(sorted(old), 3)} already; pass overwrite=True to replace the result, or store one of "
            "another name: impute with another key_added=."
        )
    import zarr
    from anndata.io import write_elem

    with _folder_beside(path) as folder:
        new = zarr.open_group(folder / "new", mode="w", zarr_format=root.metadata.zarr_format)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "zarr v3 autosharding")  # once per array, about anndata's next release
            for element, value in elements.items():
                group, _, part = element.partition("/")
                write_elem(new.require_group(group), part, value)
        _exchange(path, store, name, folder, list(elements), old)
    logger.info("stored layers[%r] and %d more elements of the result in %s.", key, len(elements) - 1, path / name)


def _open_store(path):
    import zarr

    if str(path).endswith((".h5ad", ".h5")):
        raise ValueError(
            f"path={str(path)!r} is an HDF5 file, which is safest written as a whole: adata.write_h5ad('imputed.h5ad')."
        )
    try:
        return zarr.open_group(Path(path).expanduser(), mode="r+", use_consolidated=False)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(
            f"path={str(path)!r} is no zarr store; write one first with adata.write_zarr(path) or sdata.write(path)."
        ) from error


def _table_path(root, table_key: str | None) -> str:
    """Where in the store the table is; empty for a store of one AnnData."""
    if root.attrs.get("encoding-type") == "anndata":
        return ""
    tables = sorted(root["tables"].group_keys()) if "tables" in root else []
    if not tables:
        raise ValueError(
            f"the store has no table, as AnnData.write_zarr or SpatialData.write makes it; it has {listing(root)}."
        )
    if table_key is None:
        table_key = tables[0] if len(tables) == 1 else "table"
        if table_key not in tables:
            raise ValueError(f"the store has {len(tables)} tables ({listing(tables)}); choose one with table_key=.")
    if table_key not in tables:
        hint = closest(table_key, tables)
        raise KeyError(f"table_key={table_key!r} is not a table of the store; available: {listing(tables)}.{hint}")
    return f"tables/{table_key}"


def _check_names(store, table: AnnData) -> None:
    from anndata.io import read_elem

    for what, frame, names in (("observations", "obs", table.obs_names), ("genes", "var", table.var_names)):
        stored = [str(name) for name in read_elem(store[frame][store[frame].attrs["_index"]])]
        names = [str(name) for name in names]
        if stored == names:
            continue
        if len(stored) == len(names) and set(stored) == set(names):
            problem, remedy = "the same, in another order", f"bring data to the order of the store's {frame}_names"
        else:
            problem = (
                f"others: {len(names)} in data, {len(stored)} in the store, {len(set(names) & set(stored))} in both"
            )
            remedy = "write a new store, with adata.write_zarr or sdata.write_element"
        raise ValueError(f"{what} of data and store are {problem}; {remedy}.")


def _elements(result: Result, embedding: bool) -> dict[str, object]:
    """What to store and where, the record in ``uns`` last: without it there is no result."""
    table, key = result.table, result.key
    elements = {f"layers/{name}": table.layers[name] for name in (key, result.name(SD)) if name in table.layers}
    if result.name(MEASURED) in table.obs:
        elements[f"obs/{result.name(MEASURED)}"] = table.obs[result.name(MEASURED)].to_numpy()
    if result.is_of_several:
        elements[f"obs/{result.name(MODEL)}"] = table.obs[result.name(MODEL)].array
        elements[f"varm/{result.name(CALIBRATION)}"] = table.varm[result.name(CALIBRATION)]
    for part in ("obsm", "varm"):
        if result.name(ERRORS) in getattr(table, part):
            elements[f"{part}/{result.name(ERRORS)}"] = getattr(table, part)[result.name(ERRORS)]
    elements |= {f"var/{name}": table.var[name].to_numpy() for name in result.own_columns(table.var, table.uns)}
    if embedding:
        if CACHE_KEY not in table.obsm:
            raise KeyError(f"embedding=True, but obsm[{CACHE_KEY!r}] is missing; obsm has: {listing(table.obsm)}.")
        elements |= {f"obsm/{CACHE_KEY}": table.obsm[CACHE_KEY], f"uns/{CACHE_KEY}": table.uns[CACHE_KEY]}
    return {**elements, f"uns/{key}": result.record}


def _present(store, elements, result: Result) -> list[str]:
    """What the store has of this result, the record last."""
    columns = result.own_columns(_columns_of(store, "var"), {*result.table.uns, *store["uns"]})
    of_some = [f"obs/{result.name(MODEL)}", f"varm/{result.name(CALIBRATION)}"]
    of_some += [f"{part}/{result.name(ERRORS)}" for part in ("obsm", "varm")]
    wanted = dict.fromkeys([*(f"var/{name}" for name in columns), *of_some, *elements])
    return [element for element in wanted if element in store]


@contextmanager
def _folder_beside(path: Path):
    """A folder on the same file system as the store, so that moving into it is one step."""
    path = path.resolve()
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}-snrmix-", dir=path.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _exchange(path: Path, store, name: str, folder: Path, new: list[str], old: list[str]) -> None:
    """Move old elements out of the store and new ones into it; undone where a step fails.

    After each step the store reads: consolidated metadata that name an element go before it does and come after it, and
    so does its entry in the list of columns.
    """
    consolidated = _is_consolidated(path)
    with ExitStack() as undo:
        if consolidated:
            undo.callback(_consolidate, path)
        for frame in FRAMES:
            undo.callback(_list_columns, store, frame, _columns_of(store, frame))
        if old and consolidated:
            _remove_consolidated(path)
        for element in reversed(old):  # the record first
            group, _, column = element.partition("/")
            if group in FRAMES:
                _list_columns(store, group, [c for c in _columns_of(store, group) if c != column])
            (folder / "old" / group).mkdir(parents=True, exist_ok=True)
            _move(path / name / element, folder / "old" / element, undo)
        for element in new:  # the record last
            group, _, column = element.partition("/")
            _move(folder / "new" / element, path / name / element, undo)
            if group in FRAMES:
                _list_columns(store, group, [*_columns_of(store, group), column])
        if consolidated:
            _consolidate(path)
        undo.pop_all()


def _move(source: Path, target: Path, undo: ExitStack) -> None:
    os.rename(source, target)
    undo.callback(os.rename, target, source)


def _columns_of(store, frame: str) -> list[str]:
    return list(store[frame].attrs["column-order"])


def _list_columns(store, frame: str, columns: list[str]) -> None:
    store[frame].attrs["column-order"] = columns


def _is_consolidated(path: Path) -> bool:
    import zarr

    return zarr.open_group(path, mode="r").metadata.consolidated_metadata is not None


def _remove_consolidated(path: Path) -> None:
    """The store reads without them: zarr then looks at the folders."""
    if (path / ".zmetadata").exists():  # format 2
        (path / ".zmetadata").unlink()
    else:
        metadata = json.loads((path / "zarr.json").read_text())
        del metadata["consolidated_metadata"]
        part = path / ".zarr.json.part"
        part.write_text(json.dumps(metadata))
        os.replace(part, path / "zarr.json")


def _consolidate(path: Path) -> None:
    import zarr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parquet files are no part of the hierarchy, and format 3 has no standard yet
        zarr.consolidate_metadata(path)
