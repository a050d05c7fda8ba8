"""Storing a result in a zarr store that exists, also when the process is killed on the way."""

import shutil
import subprocess
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
import spatialdata
import zarr
from spatialdata._io.format import SpatialDataContainerFormatV01, SpatialDataContainerFormatV02

import snrmix
from snrmix.io.write_layer import _remove_consolidated

SDATA_FORMATS = {2: SpatialDataContainerFormatV01, 3: SpatialDataContainerFormatV02}
KINDS = [("sdata", 3), ("sdata", 2), ("adata", 3), ("adata", 2)]
pytestmark = pytest.mark.filterwarnings("ignore")

# Forks a process for every change that writing makes to the file system, and kills it right before that change.
KILLER = """
import os, pickle, shutil, signal, sys
import anndata, spatialdata, zarr, snrmix.io

store, result, folder, overwrite = sys.argv[1:]
with open(result, "rb") as file:
    table = pickle.load(file)

def run(path, last):
    shutil.copytree(store, path)
    done = 0
    def counted(change):
        def counting(path, *args, **kwargs):
            nonlocal done
            if change is not unlink or str(path).endswith(".zmetadata"):  # not the cleaning up
                if done == last:
                    os.kill(os.getpid(), signal.SIGKILL)
                done += 1
            return change(path, *args, **kwargs)
        return counting
    for name in ("rename", "replace", "unlink"):
        setattr(os, name, counted(getattr(os, name)))
    snrmix.io.write_layer(path, table, overwrite=overwrite == "1", embedding=True)
    return done

name, unlink = os.path.basename(store), os.unlink
if os.fork() == 0:
    with open(f"{folder}/changes", "w") as file:
        file.write(str(run(f"{folder}/whole.zarr", -1)))
    os._exit(0)
os.wait()
with open(f"{folder}/changes") as file:
    changes = int(file.read())
first = changes - 28 - 26 * int(overwrite)  # about where the store itself begins to change
for last in [first // 2, *range(first, changes, 5)]:
    if os.fork() == 0:
        run(f"{folder}/killed/{last}/{name}", last)
        os._exit(0)
    status = os.wait()[1]
    assert os.WIFSIGNALED(status), (last, status)
"""


@pytest.fixture(scope="module")
def imputed(fast):
    """A small section with a result."""
    adata = snrmix.datasets.synthetic_tissue(8, 12, image_px_per_pitch=12)
    snrmix.tl.impute(adata, **{**fast, "genes": 6})
    return adata


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Stores of the section without the result, by kind and zarr format."""
    folder = tmp_path_factory.mktemp("stores")
    adata = snrmix.datasets.synthetic_tissue(8, 12, image_px_per_pitch=12)
    sdata = snrmix.datasets.synthetic_spatialdata(8, 12, image_px_per_pitch=12)
    before = anndata.settings.zarr_write_format
    for zarr_format in (2, 3):
        sdata.write(folder / f"sdata{zarr_format}", sdata_formats=SDATA_FORMATS[zarr_format]())
        anndata.settings.zarr_write_format = zarr_format
        adata.write_zarr(folder / f"adata{zarr_format}")
    anndata.settings.zarr_write_format = before
    return folder


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0]}-v{kind[1]}")
def store(request, stores, tmp_path):
    """A store to change, of every kind."""
    kind, zarr_format = request.param
    return shutil.copytree(stores / f"{kind}{zarr_format}", tmp_path / f"{kind}.zarr")


def read(path):
    """The table of a store, in memory."""
    if path.name.startswith("adata"):
        return anndata.read_zarr(path)
    return spatialdata.read_zarr(path)["table"]


def result_for(path, imputed):
    """The result for the rows of a store, as if it had been read, imputed and not stored; its record is cut short."""
    table = imputed[read(path).obs_names].copy()
    table.uns["X_histology"] = {"scales": imputed.uns["X_histology"]["scales"]}
    table.uns["snrmix"] = {name: imputed.uns["snrmix"][name] for name in ("units", "scores", "calibration")}
    return table


def assert_holds(path, table, keys=("snrmix",)):
    stored = read(path)
    for key in keys:
        for name in (key, f"{key}_sd"):
            np.testing.assert_array_equal(stored.layers[name], table.layers[name])
        columns = [name for name in table.var if name.startswith(f"{key}_")]
        assert f"{key}_calibration" in columns
        pd.testing.assert_frame_equal(stored.var[columns], table.var[columns], check_names=False)
        assert (stored.obs[f"{key}_measured"] == table.obs[f"{key}_measured"]).all()
        assert stored.uns[key]["units"] == table.uns[key]["units"]
        pd.testing.assert_frame_equal(stored.uns[key]["scores"], table.uns[key]["scores"], check_names=False)


def assert_as_before(before, after):
    """Everything that was in the store is in it, unchanged."""
    np.testing.assert_array_equal(before.X.toarray(), after.X.toarray())
    np.testing.assert_array_equal(before.layers["truth"], after.layers["truth"])
    np.testing.assert_array_equal(before.obsm["spatial"], after.obsm["spatial"])
    for frame in ("obs", "var"):
        columns = list(getattr(before, frame).columns)
        assert list(getattr(after, frame).columns)[: len(columns)] == columns
        pd.testing.assert_frame_equal(getattr(before, frame), getattr(after, frame)[columns])


def same(stored, table):
    """Whether a store holds this result."""
    return all(
        np.array_equal(stored.layers[name], table.layers[name], equal_nan=True) for name in ("snrmix", "snrmix_sd")
    ) and np.array_equal(stored.var["snrmix_pearson"], table.var["snrmix_pearson"], equal_nan=True)


def is_consolidated(path):
    return zarr.open_group(path, mode="r").metadata.consolidated_metadata is not None


def test_result_is_read_back_and_the_rest_is_unchanged(store, imputed):
    before = read(store)
    table = result_for(store, imputed)
    snrmix.io.write_layer(store, table)
    assert_holds(store, table)
    assert_as_before(before, read(store))
    assert is_consolidated(store)
    assert "X_histology" not in read(store).obsm
    assert [child.name for child in store.parent.iterdir()] == [store.name]


def test_writing_says_nothing_about_the_next_release_of_anndata(stores, tmp_path, imputed, recwarn):
    store = shutil.copytree(stores / "adata3", tmp_path / "adata.zarr")
    snrmix.io.write_layer(store, result_for(store, imputed))
    assert not [warning for warning in recwarn if "autosharding" in str(warning.message)]


def test_spatialdata_read_lazily_is_imputed_and_stored_in_place(stores, tmp_path, impute):
    path = shutil.copytree(stores / "sdata3", tmp_path / "sdata.zarr")
    sdata = spatialdata.read_zarr(path)
    level = sdata.images["synthetic_hires_image"]["scale0"].ds
    assert hasattr(next(iter(level.values())).data, "dask")
    impute(sdata, genes=6)
    snrmix.io.write_layer(str(path), sdata, embedding=True)
    assert_holds(path, sdata["table"])
    stored = spatialdata.read_zarr(path)
    np.testing.assert_array_equal(stored["table"].obsm["X_histology"], sdata["table"].obsm["X_histology"])
    assert set(stored.shapes) == {"synthetic"} and set(stored.images) == {"synthetic_hires_image"}
    snrmix.tl.evaluate(stored, stored["table"].obs["snrmix_measured"].to_numpy())


def test_table_of_several_regions_among_several_tables(tmp_path, impute):
    one, two = (snrmix.datasets.synthetic_spatialdata(8, 12, image_px_per_pitch=12, random_state=i) for i in (0, 1))
    parts, elements = [], {}
    for name, sdata in (("A", one), ("B", two)):
        table = sdata["table"]
        table.obs_names = name + table.obs_names
        table.obs["region"] = pd.Categorical([name] * table.n_obs)
        parts.append(table)
        elements |= {name: sdata["synthetic"], f"{name}_image": sdata["synthetic_hires_image"]}
        for element in (name, f"{name}_image"):
            transformation = spatialdata.transformations.get_transformation(elements[element], "synthetic")
            spatialdata.transformations.set_transformation(elements[element], {name: transformation}, set_all=True)
    for table in parts:
        del table.uns["spatialdata_attrs"]
    table = spatialdata.models.TableModel.parse(
        anndata.concat(parts), region=["A", "B"], region_key="region", instance_key="spot_id"
    )
    other = anndata.AnnData(np.ones((3, 2), np.float32))
    spatialdata.SpatialData.init_from_elements({**elements, "expression": table, "other": other}).write(
        tmp_path / "sdata.zarr"
    )
    sdata = spatialdata.read_zarr(tmp_path / "sdata.zarr")
    with pytest.raises(ValueError, match="2 tables"):
        snrmix.tl.impute(sdata)
    impute(sdata, table_key="expression", genes=6)
    snrmix.io.write_layer(tmp_path / "sdata.zarr", sdata, table_key="expression")
    stored = spatialdata.read_zarr(tmp_path / "sdata.zarr")
    np.testing.assert_array_equal(stored["expression"].layers["snrmix"], sdata["expression"].layers["snrmix"])
    assert set(stored["expression"].obs["region"]) == {"A", "B"} and "snrmix" not in stored["other"].layers
    with pytest.raises(KeyError, match="'expresion' is not a table of the store.*Did you mean 'expression'"):
        snrmix.io.write_layer(tmp_path / "sdata.zarr", sdata["expression"], table_key="expresion")
    with pytest.raises(ValueError, match=r"the store has 2 tables \('expression', 'other'\).*table_key="):
        snrmix.io.write_layer(tmp_path / "sdata.zarr", sdata["expression"])


def test_second_result_leaves_the_first_alone(store, imputed):
    table = result_for(store, imputed)
    table.uns["snrmix_b"] = table.uns["snrmix"]
    for name in ("snrmix", "snrmix_sd"):
        table.layers[name.replace("snrmix", "snrmix_b")] = table.layers[name] + 2
    for frame in (table.obs, table.var):
        for name in [name for name in frame if name.startswith("snrmix_")]:
            frame[name.replace("snrmix", "snrmix_b")] = frame[name]
    snrmix.io.write_layer(store, table)
    assert "snrmix_b" not in read(store).layers and "snrmix_b_pearson" not in read(store).var
    snrmix.io.write_layer(store, table, key="snrmix_b")
    assert_holds(store, table, ("snrmix", "snrmix_b"))
    # and replacing the first, whose name the second begins with, leaves the second alone
    table.layers["snrmix"] = table.layers["snrmix"] + 1
    snrmix.io.write_layer(store, table, overwrite=True)
    assert_holds(store, table, ("snrmix", "snrmix_b"))


def test_overwriting_replaces_the_result_as_a_whole(store, imputed):
    table = result_for(store, imputed)
    before = read(store)
    snrmix.io.write_layer(store, table)
    with pytest.raises(ValueError, match=r"has 'layers/snrmix'.* already; pass overwrite=True"):
        snrmix.io.write_layer(store, table)
    assert_holds(store, table)
    table.layers["snrmix"] = table.layers["snrmix"] + 1
    del table.var["snrmix_weight_kriging"]  # as after kriging=False
    snrmix.io.write_layer(store, table, overwrite=True)
    stored = read(store)
    assert "snrmix_weight_kriging" not in stored.var
    np.testing.assert_array_equal(stored.layers["snrmix"], table.layers["snrmix"])
    assert_as_before(before, stored)
    assert is_consolidated(store)


def test_store_without_consolidated_metadata_stays_so(stores, tmp_path, imputed):
    path = shutil.copytree(stores / "adata2", tmp_path / "adata.zarr")
    (path / ".zmetadata").unlink()
    table = result_for(path, imputed)
    snrmix.io.write_layer(path, table)
    snrmix.io.write_layer(path, table, overwrite=True)
    assert_holds(path, table)
    assert not is_consolidated(path)


@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "overwrite"])
@pytest.mark.parametrize(("kind", "zarr_format"), [("sdata", 3), ("adata", 2)])
def test_killed_at_any_step_leaves_a_store_that_reads(kind, zarr_format, overwrite, stores, tmp_path, imputed):
    path = shutil.copytree(stores / f"{kind}{zarr_format}", tmp_path / f"{kind}.zarr")
    table, before = result_for(path, imputed), read(path)
    older = table.copy()
    if overwrite:
        older.layers["snrmix"] = table.layers["snrmix"] + 1
        snrmix.io.write_layer(path, older, embedding=True)
    pd.to_pickle(table, tmp_path / "result")
    arguments = [path, tmp_path / "result", tmp_path, int(overwrite)]
    subprocess.run([sys.executable, "-W", "ignore", "-c", KILLER, *map(str, arguments)], check=True)
    states = set()
    for killed in sorted(tmp_path.glob(f"killed/*/{kind}.zarr")):
        for look_at_folders in (False, True):
            if look_at_folders and is_consolidated(killed):
                _remove_consolidated(killed)
            after = read(killed)
            assert_as_before(before, after)
            there = {name for name in after.layers.keys() if name is not None} - {"truth"}
            states.add((*sorted(there), *({"snrmix"} & set(after.uns))))
            if "snrmix" in after.uns:  # the record is there: so is all of one result
                expected = older if overwrite and not same(after, table) else table
                assert same(after, expected)
                assert "snrmix_measured" in after.obs and "X_histology" in after.obsm
    assert {("snrmix",), ("snrmix", "snrmix_sd")} & states  # some were killed in the middle
    snrmix.io.write_layer(killed, table, embedding=True, overwrite=True)  # and it can be tried again
    assert same(read(killed), table)


def test_failure_on_the_way_is_undone(store, imputed, monkeypatch):
    import os

    table = result_for(store, imputed)
    snrmix.io.write_layer(store, table)
    newer = table.copy()
    newer.layers["snrmix"] = newer.layers["snrmix"] + 1
    rename, calls = os.rename, []

    def full(source, target):
        calls.append(target)
        if len(calls) == 16:
            raise OSError("no space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="no space left"):
        snrmix.io.write_layer(store, newer, overwrite=True)
    assert same(read(store), table)
    assert is_consolidated(store)
    assert [child.name for child in store.parent.iterdir()] == [store.name]


def test_other_spots_or_genes_are_refused(store, imputed):
    table = result_for(store, imputed)
    with pytest.raises(ValueError, match=r"observations of data and store are others: 10 in data, \d+ in the store"):
        snrmix.io.write_layer(store, table[:10].copy())
    with pytest.raises(ValueError, match="observations of data and store are the same, in another order; bring data"):
        snrmix.io.write_layer(store, table[::-1].copy())
    with pytest.raises(ValueError, match="genes of data and store are the same, in another order"):
        snrmix.io.write_layer(store, table[:, ::-1].copy())
    with pytest.raises(ValueError, match="genes of data and store are others: 3 in data, 12 in the store, 3 in both"):
        snrmix.io.write_layer(store, table[:, :3].copy())
    assert "snrmix" not in read(store).layers


def test_what_is_no_store_is_refused(tmp_path, imputed):
    with pytest.raises(ValueError, match="is an HDF5 file.*write_h5ad"):
        snrmix.io.write_layer(tmp_path / "section.h5ad", imputed)
    with pytest.raises(ValueError, match="is no zarr store; write one first"):
        snrmix.io.write_layer(tmp_path / "section.zarr", imputed)
    zarr.open_group(tmp_path / "other.zarr", mode="w").create_group("pictures")
    with pytest.raises(ValueError, match="the store has no table.*it has 'pictures'"):
        snrmix.io.write_layer(tmp_path / "other.zarr", imputed)


def test_what_there_is_no_result_of_is_refused(stores, tmp_path, imputed, tissue):
    path = shutil.copytree(stores / "adata3", tmp_path / "adata.zarr")
    with pytest.raises(KeyError, match="no result 'snrmix' in uns"):
        snrmix.io.write_layer(path, tissue)
    table = imputed.copy()
    del table.obsm["X_histology"]
    with pytest.raises(KeyError, match="embedding=True, but obsm"):
        snrmix.io.write_layer(path, table, embedding=True)


def test_results_of_several_models_replace_each_other(tmp_path, tissue, impute):
    """With a model per slide there are columns that a shared model has not; intervals need those of their own result."""
    tissue.obs["slide"] = np.where(np.arange(tissue.n_obs) % 2, "a", "b")
    tissue.uns["spatial"] = dict.fromkeys("ab", tissue.uns["spatial"]["synthetic"])
    path = tmp_path / "slides.zarr"
    tissue.write_zarr(path)
    for share in (False, True, False):
        table = impute(tissue, library_key="slide", share=share, copy=True)
        snrmix.io.write_layer(path, table, overwrite=True)
        stored = anndata.read_zarr(path)
        assert ("snrmix_model" in stored.obs) == ("snrmix_calibration" in stored.varm) == (not share)
        for found, wanted in zip(snrmix.tl.interval(stored), snrmix.tl.interval(table), strict=True):
            np.testing.assert_array_equal(found, wanted)
