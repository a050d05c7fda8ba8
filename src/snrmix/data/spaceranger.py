"""Output folders of Space Ranger, versions 1 to 4, as they are: Visium, CytAssist and Visium HD."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData, concat
from scipy import sparse

from snrmix._log import logger, quiet
from snrmix._names import listing
from snrmix.images.files import read_file

MATRICES = (  # the first one that is there; squidpy and scanpy read them
    "filtered_feature_bc_matrix.h5",
    "filtered_feature_bc_matrix",
    "raw_feature_bc_matrix.h5",
    "raw_feature_bc_matrix",
)
FACTORS, ENDINGS = "scalefactors_json.json", ("png", "jpg", "jpeg")
POSITIONS = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")
COLUMNS = ["in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]
BIN = re.compile(r"square_(\d+)um")
DEFAULT_BIN = 8


def is_spaceranger(path: Path) -> bool:
    """Whether a folder is the output of Space Ranger, or a run that has one in ``outs``."""
    return any(
        (folder / "spatial").is_dir() or (folder / "binned_outputs").is_dir() for folder in (path, path / "outs")
    )


def read_spaceranger(path: Path, bin_size: int | None = None) -> AnnData:
    """Read a section from the folder that Space Ranger made.

    Parameters
    ----------
    path
        ``outs``, or the folder of the run around it; of Visium HD also the folder of one bin size.
    bin_size
        Of Visium HD, micrometres; ``None``: 8.

    Returns
    -------
    AnnData
        Counts of the spots (or bins) in tissue. Those that stand in the table of positions and not in the matrix, since
        no read was found there, come last, with counts of 0. ``uns["spatial"][library]`` has the images and their
        scale factors.

    Raises
    ------
    ValueError, FileNotFoundError
        When matrix, positions or scale factors are missing, do not fit together, or there is no such bin size.
    """
    folder = path / "outs" if (path / "outs").is_dir() else path
    name = path.parent.name if path.name == "outs" else path.name
    if (folder / "binned_outputs").is_dir():
        folder = _bin_folder(folder / "binned_outputs", bin_size)
        name = f"{name}_{folder.name}"
    elif bin_size is not None:
        raise ValueError(f"bin={bin_size} is for Visium HD, but {str(folder)!r} has no binned_outputs; leave it out.")
    counts, library = _read_counts(folder, name)
    positions = _read_positions(folder / "spatial")
    table = _place(counts, positions, folder)
    table.uns["spatial"] = {
        library: {
            "images": _read_images(folder / "spatial"),
            "scalefactors": _read_factors(folder / "spatial"),
            "metadata": counts.uns.get("spatial", {}).get(library, {}).get("metadata", {}),
        }
    }
    return table


def _bin_folder(binned: Path, bin_size: int | None) -> Path:
    """The folder of one bin size."""
    sizes = {int(found[1]): folder for folder in sorted(binned.iterdir()) if (found := BIN.fullmatch(folder.name))}
    wanted = bin_size if bin_size is not None else DEFAULT_BIN if DEFAULT_BIN in sizes else max(sizes, default=0)
    if wanted not in sizes:
        raise ValueError(
            f"bin={wanted}: {str(binned)!r} has no bins of this size; choose one of {listing(sorted(sizes))} "
            "(micrometres)."
        )
    return sizes[wanted]


def _read_counts(folder: Path, name: str) -> tuple[AnnData, str]:
    """Counts and the name of the library, from the first matrix there is; a sample's name may stand before its name."""
    found = [path for matrix in MATRICES for path in sorted(folder.glob(f"*{matrix}"))]
    if not found:
        raise FileNotFoundError(f"{str(folder)!r} has no matrix of counts; one of {listing(MATRICES)} is needed.")
    with quiet("scanpy", "squidpy"):
        import scanpy
        import squidpy

        try:
            if found[0].is_dir():
                counts, library = scanpy.read_10x_mtx(found[0]), name
            else:
                library = _library_of(found[0]) or name
                counts = squidpy.read.visium(folder, counts_file=found[0].name, library_id=library, load_images=False)
        except Exception as error:  # readers raise whatever their formats do
            raise ValueError(f"{str(found[0])!r} cannot be read as a matrix of Space Ranger: {error}") from error
    counts.var_names_make_unique()
    counts.X = sparse.csr_matrix(counts.X, dtype=np.float32)
    return counts, library


def _library_of(matrix: Path) -> str | None:
    """What the HDF5 file says it is of; ``None`` where it does not say."""
    import h5py

    with h5py.File(matrix, "r") as file:
        names = np.atleast_1d(file.attrs.get("library_ids", [])).tolist()
    name = names[0] if names else b""
    return (name.decode() if isinstance(name, bytes) else str(name)).replace("/", "_") or None


def _read_positions(spatial: Path) -> pd.DataFrame:
    """Rows and columns of the array and pixels, by barcode: parquet, csv with a header, or csv without."""
    path = next((path for name in POSITIONS if (path := _find(spatial, name, f"{name}.gz")) is not None), None)
    if path is None:
        raise FileNotFoundError(f"{str(spatial)!r} has no positions of spots; one of {listing(POSITIONS)} is needed.")
    try:
        if path.suffix == ".parquet":
            positions = pd.read_parquet(path).set_index("barcode")
        else:
            positions = pd.read_csv(path, header=None, index_col=0, low_memory=False)
            positions.columns = COLUMNS
            if str(positions.index[0]).lower() == "barcode":  # the header of versions 2 and later
                positions = positions.iloc[1:]
        positions = positions[COLUMNS].apply(pd.to_numeric)
    except (ValueError, KeyError, IndexError, OSError) as error:
        raise ValueError(f"{str(path)!r} is no table of barcode, {', '.join(COLUMNS)}: {error}") from error
    positions.index = positions.index.astype(str)
    return positions.astype(dict.fromkeys(COLUMNS[:3], int))


def _place(counts: AnnData, positions: pd.DataFrame, folder: Path) -> AnnData:
    """The spots in tissue, those without a single read among them, with their positions."""
    unknown = counts.obs_names.difference(positions.index)
    if len(unknown):
        raise ValueError(
            f"{len(unknown)} barcodes of the matrix in {str(folder)!r} are not in its table of positions, e.g. "
            f"{unknown[0]!r}; are both of the same section?"
        )
    in_tissue = positions.index[positions["in_tissue"] == 1]
    known = counts[counts.obs_names.isin(in_tissue)]
    absent = in_tissue.difference(counts.obs_names, sort=False)
    table = AnnData(known.X.copy(), obs=pd.DataFrame(index=known.obs_names), var=counts.var.copy())
    if len(absent):
        empty = AnnData(
            sparse.csr_matrix((len(absent), table.n_vars), dtype=np.float32),
            obs=pd.DataFrame(index=absent),
            var=counts.var.copy(),
        )
        table = concat([table, empty], merge="same")
        logger.info("%d spots in tissue have no read and are not in the matrix: they are unmeasured.", len(absent))
    placed = positions.loc[table.obs_names]
    table.obs = placed[COLUMNS[:3]].rename_axis(None)
    table.obsm["spatial"] = placed[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy(float)
    return table


def _read_images(spatial: Path) -> dict[str, np.ndarray]:
    """Those that Space Ranger made, by their names in the scale factors."""
    paths = {name: _find(spatial, *(f"tissue_{name}_image.{end}" for end in ENDINGS)) for name in ("hires", "lowres")}
    return {name: np.asarray(read_file(path).levels[0]) for name, path in paths.items() if path is not None}


def _find(spatial: Path, *names: str) -> Path | None:
    """A file by its name, or the only one that has a sample's name before it, as in a public archive."""
    for name in names:
        if (spatial / name).exists():
            return spatial / name
        like = sorted(spatial.glob(f"*{name}"))
        if len(like) == 1:
            return like[0]
    return None


def _read_factors(spatial: Path) -> dict[str, float]:
    path = _find(spatial, FACTORS, f"{FACTORS}.gz")
    if path is None:
        raise FileNotFoundError(f"{str(spatial)!r} has no {FACTORS}, which says the images' scale.")
    try:
        return json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{str(path)!r} is no JSON: {error}.") from error
