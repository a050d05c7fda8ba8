"""The names of what a result leaves in an object, and how it is found again."""

import numpy as np
import pytest
from anndata import AnnData

from snrmix.data.results import Result


@pytest.fixture
def table(tissue, impute):
    impute(tissue, measured=np.arange(tissue.n_obs) % 3 > 0)
    return tissue


def test_what_was_written_is_what_is_named(tissue, table, small_tissue):
    result = Result.find(table)
    added = {
        (part, name)
        for part in ("uns", "layers", "obs", "var", "varm", "obsm")
        for name in getattr(table, part)
        if name not in getattr(small_tissue, part)
    }
    assert added - {("obsm", "X_histology"), ("uns", "X_histology")} == set(result.taken())
    assert set(result.taken()) <= set(result.names())


def test_parts_are_found(table):
    result = Result.find(table)
    np.testing.assert_array_equal(result.layer, table.layers["snrmix"])
    np.testing.assert_array_equal(result.sd, table.layers["snrmix_sd"])
    np.testing.assert_array_equal(result.is_measured, np.arange(table.n_obs) % 3 > 0)
    np.testing.assert_array_equal(result.column("mse", "run it"), table.var["snrmix_mse"])
    np.testing.assert_array_equal(result.flags("reliable"), table.var["snrmix_reliable"])
    assert result.modelled_genes() == list(table.var_names[table.var["snrmix_modelled"]])
    assert result.exists and result.has_sd and not result.is_of_several and not result.has("other")
    assert result.flags("other") is None
    with pytest.raises(KeyError, match=r"var\['snrmix_other'\] is missing; run it. var has: "):
        result.column("other", "run it")
    with pytest.raises(KeyError, match="no result 'snrmx' in uns.*Did you mean 'snrmix'"):
        Result.find(table, "snrmx")


def test_columns_of_a_longer_name_are_of_another_result():
    result = Result(AnnData(np.ones((2, 2))), "a")
    assert result.own_columns(["a_mse", "a_b_mse", "b_mse", "ab"], ["a", "a_b"]) == ["a_mse"]
    assert result.own_columns(["a_mse", "a_b_mse"], ["a"]) == ["a_mse", "a_b_mse"]


def test_clearing_leaves_what_is_always_written(table):
    before = set(Result(table).taken())
    Result(table).clear()
    gone = before - set(Result(table).taken())
    of_genes = {
        ("var", f"snrmix_{name}") for name in ("weight_network", "weight_kriging", "weight_rates", "calibration")
    }
    assert gone == {*of_genes, ("obs", "snrmix_depth")}
