"""Yes and no are read from whatever people store them as; unknown stays unknown."""

import numpy as np
import pandas as pd
import pytest

from snrmix.data.flags import read_flags, read_in_tissue, read_mask

YES = np.array([True, False, True, True, False])
STORED = {
    "bool": YES,
    "list": YES.tolist(),
    "nullable": pd.array(YES, dtype="boolean"),
    "int": YES.astype(int),
    "uint8": YES.astype(np.uint8),
    "float": YES.astype(float),
    "Int64": pd.array(YES.astype(int), dtype="Int64"),
    "object": YES.astype(object),
    "category of bool": pd.Categorical(YES),
    "category of int": pd.Categorical(YES.astype(int)),
    "category of text": pd.Categorical(np.where(YES, "TRUE", "FALSE")),
    "category with an unused value": pd.Categorical(np.where(YES, "yes", "no"), categories=["yes", "no", "maybe"]),
    **{
        f"{yes}/{no}": np.where(YES, yes, no)
        for yes, no in [("True", "False"), ("TRUE", "FALSE"), ("true", "false"), ("T", "F"), ("yes", "no"), ("Y", "n")]
    },
    "1/0": np.where(YES, "1", "0"),
    "1.0/0.0": np.where(YES, "1.0", "0.0"),
    "spaces": np.where(YES, " True", "False "),
    "bytes": np.where(YES, b"True", b"False"),
    "string dtype": pd.array(np.where(YES, "True", "False"), dtype="string"),
    "mixed": np.array([True, "no", 1, "T", 0.0], dtype=object),
}
MISSING = {
    "nullable": pd.array([True, None, False, True, None], dtype="boolean"),
    "float": np.array([1, np.nan, 0, 1, np.nan]),
    "object": np.array([True, None, False, True, np.nan], dtype=object),
    "category": pd.Categorical(["TRUE", None, "FALSE", "TRUE", None]),
    "text": np.array(["True", "", "False", "True", "NA"]),
    "string dtype": pd.array(["t", None, "f", "t", None], dtype="string"),
    "Int64": pd.array([1, None, 0, 1, None], dtype="Int64"),
}
NEITHER = {
    "clusters": np.array([0, 1, 2, 1, 0]),
    "probabilities": np.array([0.2, 0.9, 1.0, 0.0, 0.5]),
    "names": np.array(["tumour", "stroma", "tumour", "fat", "fat"]),
    "category of names": pd.Categorical(["a", "b", "a", "b", "b"]),
    "minus one": np.array([1, -1, 1, 1, -1]),
}


@pytest.mark.parametrize("form", STORED)
def test_yes_and_no_are_read(form):
    flags = read_flags(STORED[form], "measured")
    np.testing.assert_array_equal(flags.yes, YES)
    assert flags.known.all() and flags.yes.dtype == bool
    np.testing.assert_array_equal(flags.no, ~YES)


@pytest.mark.parametrize("form", MISSING)
def test_unknown_is_neither(form):
    flags = read_flags(MISSING[form], "measured")
    np.testing.assert_array_equal(flags.yes, [True, False, False, True, False])
    np.testing.assert_array_equal(flags.known, [True, False, True, True, False])
    np.testing.assert_array_equal(flags.no, [False, False, True, False, False])


@pytest.mark.parametrize("form", NEITHER)
def test_other_values_are_refused_with_what_they_are(form):
    with pytest.raises(TypeError, match="holds '") as error:
        read_flags(NEITHER[form], "obs['x']", "measured")
    assert "measured=adata.obs['x']" in str(error.value)


@pytest.mark.parametrize(
    ("yes", "no"), [("pass", "fail"), ("Tissue", "glass"), ("ok", "bad"), ("kept", "dropped"), (1, -1), (2, 1)]
)
def test_the_line_in_the_message_means_yes(tissue, yes, no):
    expected = np.arange(tissue.n_obs) % 3 > 0
    tissue.obs["x"] = np.where(expected, yes, no)
    with pytest.raises(TypeError) as error:
        read_mask(tissue, "x", "measured")
    line = error.value.args[0].partition("measured=")[2].removesuffix(".")
    np.testing.assert_array_equal(eval(line, {"adata": tissue}), expected)


def test_words_that_may_mean_anything_are_left_to_the_user(tissue):
    tissue.obs["x"] = np.where(np.arange(tissue.n_obs) % 3 > 0, "a", "b")
    with pytest.raises(TypeError, match=r"astype\(str\) == '...'"):
        read_mask(tissue, "x", "measured")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (lambda a: list(a.obs_names[:50]), r"measured=adata.obs_names.isin\(names\)"),
        (lambda a: a.obs_names[:50], r"measured=adata.obs_names.isin\(names\)"),
        (lambda a: np.arange(50), r"measured=np.isin\(np.arange\(adata.n_obs\), rows\)"),
        (lambda a: ["x", "y"], "one value per observation.$"),
    ],
)
def test_names_and_numbers_of_rows_get_the_line_that_reads_them(tissue, rows, says):
    with pytest.raises(ValueError, match=says):
        read_mask(tissue, rows(tissue), "measured")


@pytest.mark.parametrize("form", STORED)
def test_a_column_is_the_same_in_every_form(tissue, form):
    rows = np.arange(tissue.n_obs) % len(YES)
    values = STORED[form]
    tissue.obs["x"] = np.asarray(values, object)[rows] if isinstance(values, list) else pd.Series(values)[rows].array
    np.testing.assert_array_equal(read_mask(tissue, "x", "measured"), YES[rows])


def test_missing_values_are_named(tissue):
    tissue.obs["x"] = pd.array([None, *[True] * (tissue.n_obs - 1)], dtype="boolean")
    with pytest.raises(ValueError, match=f"1 missing values, at '{tissue.obs_names[0]}'"):
        read_mask(tissue, "x", "measured")


@pytest.mark.parametrize(
    ("yes", "no"), [(1, 0), (True, False), ("in tissue", "not in tissue"), ("in_tissue", "background")]
)
def test_in_tissue_has_words_of_its_own(yes, no):
    obs = pd.DataFrame({"in_tissue": [yes, no, None]})
    flags = read_in_tissue(obs)
    np.testing.assert_array_equal(flags.yes, [True, False, False])
    np.testing.assert_array_equal(flags.no, [False, True, False])


def test_in_tissue_of_another_meaning_is_refused_only_where_it_decides():
    obs = pd.DataFrame({"in_tissue": [0, 1, 2]})
    assert read_in_tissue(obs) is None and read_in_tissue(obs[[]]) is None
    with pytest.raises(TypeError, match="obs\\['in_tissue'\\]"):
        read_in_tissue(obs, strict=True)
