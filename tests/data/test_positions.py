"""Positions go by the names of their columns; what is missing or too much is refused with the line that repairs it."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from snrmix.data.positions import NAMED, read_positions
from snrmix.data.sites import read_sites


def frame(adata, x, y, *, turned=False, **others):
    found = pd.DataFrame({x: adata.obsm["spatial"][:, 0], y: adata.obsm["spatial"][:, 1], **others}, adata.obs_names)
    return found.iloc[:, ::-1] if turned else found


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("x", "y"), NAMED)
def test_columns_go_by_their_names(tissue, x, y, turned):
    expected = tissue.obsm["spatial"].copy()
    tissue.obsm["spatial"] = frame(tissue, x, y, turned=turned)
    np.testing.assert_array_equal(read_positions(tissue), expected)


STORED = {
    "names in another case": lambda a: frame(a, "X", "Y", turned=True),
    "among others": lambda a: frame(a, "imagecol", "imagerow", turned=True, tissue=1, row=2),
    "names that say nothing": lambda a: frame(a, "V1", "V2"),
    "nullable": lambda a: frame(a, "x", "y").astype("Float64"),
    "text": lambda a: a.obsm["spatial"].astype(str).astype(object),
    "sparse": lambda a: sparse.csr_matrix(a.obsm["spatial"]),
    "single precision, by columns": lambda a: np.asfortranarray(a.obsm["spatial"].astype(np.float32)),
}


@pytest.mark.parametrize("form", STORED)
def test_positions_are_read_from_whatever_they_are_stored_in(tissue, form):
    expected = tissue.obsm["spatial"].copy()
    tissue.obsm["spatial"] = STORED[form](tissue)
    np.testing.assert_allclose(read_positions(tissue), expected, rtol=1e-6)


def with_depth(adata):
    adata.obsm["spatial"] = np.column_stack([adata.obsm["spatial"], np.zeros(adata.n_obs)])


def in_obs(adata):
    adata.obs[["imagerow", "imagecol"]] = adata.obsm.pop("spatial")[:, ::-1]


def under_another_name(adata):
    adata.obsm["X_spatial"] = adata.obsm.pop("spatial")


def in_uns(adata):
    adata.uns["spatial"] = adata.obsm.pop("spatial")


@pytest.mark.parametrize("lose", [with_depth, in_obs, under_another_name, in_uns])
def test_the_line_in_the_message_repairs_it(tissue, lose):
    expected = tissue.obsm["spatial"].copy()
    lose(tissue)
    with pytest.raises((KeyError, ValueError)) as error:
        read_positions(tissue)
    line = error.value.args[0].partition(": adata.obsm")[2].removesuffix(".")
    exec(f"adata.obsm{line}", {"adata": tissue, "np": np})
    np.testing.assert_array_equal(read_positions(tissue), expected)


@pytest.mark.parametrize("place", ["beside the tissue", "of another spot"])
def test_measured_spots_at_one_place_are_named(tissue, caplog, place):
    tissue.obsm["spatial"][:4] = 0 if place == "beside the tissue" else tissue.obsm["spatial"][50]
    read_sites(tissue, with_images=False, measured=np.ones(tissue.n_obs, bool))
    failed = [*range(4)] + [50] * (place == "of another spot")
    assert f"{len(failed)} measured spots share their place" in caplog.text
    line = caplog.text.partition("drop them with adata = ")[2].partition(", or mark")[0]
    assert list(eval(line, {"adata": tissue}).obs_names) == list(np.delete(tissue.obs_names, failed))


@pytest.mark.parametrize("measured", ["none of them", "one of them"])
def test_unmeasured_spots_at_one_place_are_not_spoken_of(tissue, caplog, measured):
    tissue.obsm["spatial"][:4] = 0
    rows = np.arange(tissue.n_obs) >= (4 if measured == "none of them" else 3)
    read_sites(tissue, with_images=False, measured=rows)
    assert "share their place" not in caplog.text
