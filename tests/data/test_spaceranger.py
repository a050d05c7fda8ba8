"""Folders of Space Ranger as the versions write them."""

import gzip
import json

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import io, sparse

from snrmix.data.paths import read_path

N, GENES, EMPTY = 60, 12, 4
FACTORS = {"tissue_hires_scalef": 0.1, "tissue_lowres_scalef": 0.03, "spot_diameter_fullres": 60.0}
PIXELS = ["pxl_row_in_fullres", "pxl_col_in_fullres"]


def positions() -> pd.DataFrame:
    """Ten rows of six spots; those of the last row are not on tissue."""
    row, column = np.divmod(np.arange(N), 6)
    return pd.DataFrame(
        {
            "barcode": [f"AAAC{i:04d}-1" for i in range(N)],
            "in_tissue": (row < 9).astype(int),
            "array_row": row,
            "array_col": 2 * column + row % 2,
            PIXELS[0]: 100 + 87 * row,
            PIXELS[1]: 200 + 100 * column + 50 * (row % 2),
        }
    )


def counts(n: int) -> sparse.csc_matrix:
    return sparse.csc_matrix(np.random.default_rng(0).poisson(2, (GENES, n)) + np.eye(GENES, n, dtype=int))


def write_h5(path, barcodes, library=b"S1") -> np.ndarray:
    values = counts(len(barcodes))
    names = np.array([f"G{i // 2}" for i in range(GENES)], dtype="S")  # symbols are not unique
    with h5py.File(path, "w") as file:
        if library:
            file.attrs["library_ids"] = np.array([library])
            file.attrs["chemistry_description"] = b"Spatial 3' v1"
        matrix = file.create_group("matrix")
        for part in ("data", "indices", "indptr", "shape"):
            matrix[part] = getattr(values, part)
        matrix["barcodes"] = np.array(barcodes, dtype="S")
        for name, column in {
            "id": np.array([f"ENSG{i}" for i in range(GENES)], dtype="S"),
            "name": names,
            "feature_type": np.full(GENES, b"Gene Expression"),
            "genome": np.full(GENES, b"GRCh38"),
        }.items():
            matrix[f"features/{name}"] = column
    return values.toarray().T


def write_mtx(folder, barcodes) -> np.ndarray:
    values = counts(len(barcodes))
    folder.mkdir()
    with gzip.open(folder / "matrix.mtx.gz", "wb") as file:
        io.mmwrite(file, values)
    with gzip.open(folder / "barcodes.tsv.gz", "wt") as file:
        file.write("\n".join(barcodes) + "\n")
    with gzip.open(folder / "features.tsv.gz", "wt") as file:
        file.write("".join(f"ENSG{i}\tG{i}\tGene Expression\n" for i in range(GENES)))
    return values.toarray().T


def write_spatial(folder, table: str, lowres=True) -> pd.DataFrame:
    spots = positions()
    folder.mkdir(parents=True)
    (folder / "scalefactors_json.json").write_text(json.dumps(FACTORS))
    for name, side in (("hires", 100), ("lowres", 30)) if lowres else (("hires", 100),):
        Image.fromarray(np.full((side, side, 3), 200, np.uint8)).save(folder / f"tissue_{name}_image.png")
    if table.endswith(".parquet"):
        spots.to_parquet(folder / table)
    else:
        spots.to_csv(folder / table, index=False, header="list" not in table)
    return spots.set_index("barcode")


LAYOUTS = {
    "version 1": ("tissue_positions_list.csv", "filtered_feature_bc_matrix.h5"),
    "version 2": ("tissue_positions.csv", "filtered_feature_bc_matrix.h5"),
    "a sample's name before": ("tissue_positions.csv", "S1_filtered_feature_bc_matrix.h5"),
    "folder of a matrix": ("tissue_positions.csv", "filtered_feature_bc_matrix"),
    "raw": ("tissue_positions.csv", "raw_feature_bc_matrix.h5"),
    "CytAssist, version 3": ("tissue_positions.csv", "filtered_feature_bc_matrix.h5"),
    "HD": ("tissue_positions.parquet", "filtered_feature_bc_matrix.h5"),
    "HD, version 4": ("tissue_positions.parquet", "filtered_feature_bc_matrix.h5"),
}
OTHER_FILES = {  # that some versions write beside
    "CytAssist, version 3": (
        "spatial/cytassist_image.tiff",
        "spatial/aligned_tissue_image.jpg",
        "probe_set.csv",
        "web_summary.html",
    ),
    "HD, version 4": (
        "segmented_outputs/filtered_feature_cell_matrix.h5",
        "segmented_outputs/spatial/scalefactors_json.json",
        "barcode_mappings.parquet",
        "spatial/cytassist_image.tiff",
        "feature_slice.h5",
    ),
}


@pytest.fixture(params=LAYOUTS)
def layout(request, tmp_path):
    """A run folder, what a reader is given, the barcodes of its matrix, their counts and the positions."""
    table, matrix = LAYOUTS[request.param]
    outs = tmp_path / "run" / "outs"
    folder = outs / "binned_outputs" / "square_008um" if request.param.startswith("HD") else outs
    spots = write_spatial(folder / "spatial", table)
    on_tissue = spots.index[spots["in_tissue"] == 1]
    barcodes = list(on_tissue[EMPTY:][::-1])  # in another order, without those that have no read
    if request.param == "raw":
        barcodes = [*spots.index[-6:], *barcodes]
    for name in OTHER_FILES.get(request.param, ()):
        (outs / name).parent.mkdir(parents=True, exist_ok=True)
        (outs / name).write_text("another file")
    write = write_h5 if matrix.endswith(".h5") else write_mtx
    return outs, barcodes, write(folder / matrix, barcodes), spots


def test_every_layout(layout):
    outs, barcodes, values, spots = layout
    for path in (outs, outs.parent):
        adata = read_path(path)
        on_tissue = spots.index[spots["in_tissue"] == 1]
        assert set(adata.obs_names) == set(on_tissue)
        assert adata.var_names.is_unique
        known = [name for name in barcodes if name in on_tissue]
        assert list(adata.obs_names[: len(known)]) == known
        expected = pd.DataFrame(values, barcodes).loc[known].to_numpy()
        np.testing.assert_array_equal(adata[known].X.toarray(), expected)
        empty = adata.obs_names[len(known) :]
        assert set(empty) == set(on_tissue[:EMPTY]), "spots without a read are brought back"
        assert adata[empty].X.nnz == 0
        np.testing.assert_array_equal(adata.obsm["spatial"], spots.loc[adata.obs_names, PIXELS[::-1]])
        np.testing.assert_array_equal(adata.obs["array_row"], spots.loc[adata.obs_names, "array_row"])
        entry = next(iter(adata.uns["spatial"].values()))
        assert entry["scalefactors"] == FACTORS
        assert {name: image.shape for name, image in entry["images"].items()} == {
            "hires": (100, 100, 3),
            "lowres": (30, 30, 3),
        }


@pytest.mark.parametrize("table", ["tissue_positions_list.csv", "tissue_positions.csv"])
@pytest.mark.parametrize("images", ["png", "jpg"])
def test_files_of_an_archive(tmp_path, table, images):
    """Public archives put the name of a sample before every file, and pack text."""
    spatial = tmp_path / "spatial"
    spots = write_spatial(spatial, table)
    for path in list(spatial.iterdir()):
        name = f"GSM123_A1_{path.name}"
        if path.suffix == ".png":
            Image.open(path).save(spatial / name.replace(".png", f".{images}"))
        else:
            (spatial / f"{name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    barcodes = list(spots.index[spots["in_tissue"] == 1])
    write_h5(tmp_path / "GSM123_A1_filtered_feature_bc_matrix.h5", barcodes)
    adata = read_path(tmp_path)
    np.testing.assert_array_equal(adata.obsm["spatial"], spots.loc[adata.obs_names, PIXELS[::-1]])
    entry = adata.uns["spatial"]["S1"]
    assert entry["scalefactors"] == FACTORS and set(entry["images"]) == {"hires", "lowres"}


def test_files_of_two_samples_are_not_mixed(tmp_path):
    write_spatial(tmp_path / "spatial", "tissue_positions.csv")
    (tmp_path / "spatial" / "tissue_positions.csv").rename(tmp_path / "spatial" / "a_tissue_positions.csv")
    positions().to_csv(tmp_path / "spatial" / "b_tissue_positions.csv", index=False)
    write_h5(tmp_path / "filtered_feature_bc_matrix.h5", list(positions()["barcode"][:30]))
    with pytest.raises(FileNotFoundError, match="no positions of spots"):
        read_path(tmp_path)


def test_spots_without_a_read_are_unmeasured(tmp_path):
    from snrmix.data.expression import read_measured

    spots = write_spatial(tmp_path / "spatial", "tissue_positions.csv", lowres=False)
    barcodes = list(spots.index[spots["in_tissue"] == 1][EMPTY:])
    write_h5(tmp_path / "filtered_feature_bc_matrix.h5", barcodes, library=None)
    adata = read_path(tmp_path)
    assert list(adata.uns["spatial"]) == [tmp_path.name], "a matrix without a library is named after its folder"
    np.testing.assert_array_equal(read_measured(adata, None, None), adata.obs_names.isin(barcodes))


def test_bins(tmp_path):
    for size in (2, 8, 16):
        folder = tmp_path / "binned_outputs" / f"square_{size:03d}um"
        spots = write_spatial(folder / "spatial", "tissue_positions.parquet")
        write_h5(
            folder / "filtered_feature_bc_matrix.h5", list(spots.index[: 10 + size]), library=f"bins{size}".encode()
        )
    assert list(read_path(tmp_path).uns["spatial"]) == ["bins8"]
    assert list(read_path(tmp_path, bin_size=16).uns["spatial"]) == ["bins16"]
    with pytest.raises(ValueError, match="bin=4: .* no bins of this size; choose one of '2', '8', '16'"):
        read_path(tmp_path, bin_size=4)


def test_what_is_wrong_is_said(tmp_path):
    spatial = tmp_path / "spatial"
    spatial.mkdir()
    with pytest.raises(FileNotFoundError, match="has no matrix of counts; one of 'filtered_feature_bc_matrix.h5'"):
        read_path(tmp_path)
    matrix = tmp_path / "filtered_feature_bc_matrix.h5"
    matrix.write_text("junk")
    with pytest.raises(ValueError, match="filtered_feature_bc_matrix.h5' cannot be read as a matrix of Space Ranger"):
        read_path(tmp_path)
    names = list(positions()["barcode"])
    write_h5(matrix, [*names[:30], "GGGG-1"])
    with pytest.raises(FileNotFoundError, match="has no positions of spots; one of 'tissue_positions.parquet'"):
        read_path(tmp_path)
    (spatial / "tissue_positions.csv").write_text("barcode,x\nA,1\n")
    with pytest.raises(ValueError, match="tissue_positions.csv' is no table of barcode, in_tissue"):
        read_path(tmp_path)
    positions().to_csv(spatial / "tissue_positions.csv", index=False)
    with pytest.raises(ValueError, match="1 barcodes of the matrix .* 'GGGG-1'; are both of the same section"):
        read_path(tmp_path)
    write_h5(matrix, names[:30])
    with pytest.raises(FileNotFoundError, match="has no scalefactors_json.json"):
        read_path(tmp_path)
    (spatial / "scalefactors_json.json").write_text("{")
    with pytest.raises(ValueError, match="scalefactors_json.json' is no JSON"):
        read_path(tmp_path)
    with pytest.raises(ValueError, match="bin=8 is for Visium HD"):
        read_path(tmp_path, bin_size=8)


@pytest.mark.parametrize(
    ("name", "n", "genes"), [("spaceranger_crc", 3106, 36601), ("spaceranger_visium_hd_layout", 2516, 100)]
)
def test_real_folders(real_file, name, n, genes):
    adata = read_path(real_file(name))
    assert adata.shape == (n, genes)
    assert "hires" in next(iter(adata.uns["spatial"].values()))["images"]
