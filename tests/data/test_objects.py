"""Objects that people really have: read as they are meant, or refused in a sentence that helps, and never half written."""

import json
from copy import deepcopy

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import snrmix
from snrmix.data.stored import number, stored_sections


def entry(adata):
    return adata.uns["spatial"]["synthetic"]


def embedding(adata, **options):
    """The embedding, read and returned from a copy."""
    return snrmix.pp.embed_histology(adata, encoder="colour", copy=True, **options).obsm["X_histology"]


def modelled_gene(adata):
    return adata.var_names[adata.var["snrmix_modelled"]][0]


@pytest.fixture(scope="module")
def plain(small_tissue):
    return embedding(small_tissue)


# What stands in uns["spatial"]


def named(**others):
    """Entries beside the section."""
    return lambda adata: adata.uns["spatial"].update(others)


def factors(change):
    def store(adata):
        entry(adata)["scalefactors"] = change(entry(adata)["scalefactors"])

    return store


def images(change):
    def store(adata):
        entry(adata)["images"] = change(entry(adata)["images"]["hires"])

    return store


def no_level(adata):
    adata.uns["spatial"] = entry(adata)


def no_level_and_one_image(adata):
    adata.uns["spatial"] = {**entry(adata), "images": entry(adata)["images"]["hires"]}


def another_name(adata):
    adata.uns["spatial"] = {7: entry(adata)}


def factor_beside_the_images(adata):
    section = entry(adata)
    section["tissue_hires_scalef"] = section.pop("scalefactors")["tissue_hires_scalef"]


READ = {
    "CELLxGENE: is_single": named(is_single=True),
    "is_single as an array": named(is_single=np.array(True)),
    "text beside": named(version="1.0", chemistry=None, steps=["a", "b"]),
    "an array of numbers beside": named(size=np.array([1, 2])),
    "factors as arrays of one": factors(lambda f: {k: np.array([v]) for k, v in f.items()}),
    "factors as nested arrays of one": factors(lambda f: {k: np.array([[v]]) for k, v in f.items()}),
    "factors as text": factors(lambda f: {k: str(v) for k, v in f.items()}),
    "factors in single precision": factors(lambda f: {k: np.float32(v) for k, v in f.items()}),
    "factors as lists": factors(lambda f: {k: [v] for k, v in f.items()}),
    "no diameter": factors(lambda f: {k: v for k, v in f.items() if k.startswith("tissue")}),
    "diameter None": factors(lambda f: {**f, "spot_diameter_fullres": None}),
    "diameter NaN": factors(lambda f: {**f, "spot_diameter_fullres": np.nan}),
    "names of Seurat": factors(
        lambda f: {"hires": f["tissue_hires_scalef"], "spot": 5.0, "lowres": 0.1, "fiducial": 9.0}
    ),
    "another image that is None": images(lambda image: {"hires": image, "lowres": None}),
    "the image itself": images(lambda image: image),
    "no level of libraries": no_level,
    "no level, and the image itself": no_level_and_one_image,
    "a number as name": another_name,
    "a factor beside the images": factor_beside_the_images,
    "a table beside": named(spots=pd.DataFrame({"x": [1, 2]}), pixels=np.zeros((3, 3))),
    "factors as the text of a JSON": factors(json.dumps),
    "factors as one row of a table": factors(lambda f: pd.DataFrame([f])),
    "factors one level below": factors(lambda f: {"scalefactors_json": f}),
    "factors under another name": lambda a: entry(a).update(scale_factors=entry(a).pop("scalefactors")),
    "images under another name": lambda a: entry(a).update(image=entry(a).pop("images")),
    "the image under its own name": lambda a: entry(a).update(entry(a).pop("images")),
    "the image named as by squidpy 1.2": images(lambda image: {"hires_image": image}),
    "the image named as its file": images(lambda image: {"tissue_hires_image": image}),
}


@pytest.mark.parametrize("form", READ)
def test_stored_sections_are_read_as_they_are_meant(tissue, plain, assert_unchanged, form):
    READ[form](tissue)
    before = tissue.copy()
    np.testing.assert_allclose(embedding(tissue).astype(float), plain.astype(float), atol=2e-3)
    assert_unchanged(before, tissue)


@pytest.mark.parametrize("beside", ["positions in uns", "nothing in uns"])
def test_positions_in_uns_are_no_image(tissue, impute, caplog, beside):
    tissue.uns["spatial"] = tissue.obsm["spatial"].copy() if beside == "positions in uns" else {}
    impute(tissue)
    assert "no image and no use_rep" in caplog.text
    assert ("ad.concat" in caplog.text) == (beside == "nothing in uns")


@pytest.mark.parametrize(
    ("library", "stored"), [("S1", "spaceranger_S1_mm10"), ("run_S1", "S1"), ("s1_a", "S1_A_outs")]
)
def test_a_section_of_a_longer_name_is_suggested(tissue, library, stored):
    tissue.obs["library_id"] = library
    tissue.uns["spatial"] = {stored: entry(tissue), "other": entry(tissue)}
    with pytest.raises(KeyError, match=f"no image for library '{library}'") as error:
        embedding(tissue)
    exec(error.value.args[0].partition("names of the libraries: ")[2].removesuffix("."), {"adata": tissue})
    embedding(tissue)


def no_uns(adata):
    adata.uns["spatial"] = None


def empty(adata):
    adata.uns["spatial"] = {}


def only_is_single(adata):
    adata.uns["spatial"] = {"is_single": True}


def image_none(adata):
    entry(adata)["images"] = {"hires": None}


def images_none(adata):
    entry(adata)["images"] = None


def no_images(adata):
    del entry(adata)["images"]


@pytest.mark.parametrize("store", [no_uns, empty, only_is_single, image_none, images_none, no_images])
def test_what_is_no_image_is_none(tissue, store, caplog):
    store(tissue)
    with pytest.raises(KeyError, match="no image for library 'synthetic'.*Pass image="):
        embedding(tissue)
    snrmix.pp.hold_out(tissue)


def no_factors(adata):
    entry(adata)["scalefactors"] = None


def factor_none(adata):
    entry(adata)["scalefactors"]["tissue_hires_scalef"] = None


def factor_text(adata):
    entry(adata)["scalefactors"]["tissue_hires_scalef"] = "large"


def factors_list(adata):
    entry(adata)["scalefactors"] = [0.25]


def images_number(adata):
    entry(adata)["images"] = 3


def sections_array(adata):
    adata.uns["spatial"] = {"synthetic": entry(adata)["images"]["hires"]}


def sections_list(adata):
    adata.uns["spatial"] = [entry(adata)]


def twice(adata):
    adata.uns["spatial"] = {1: entry(adata), "1": entry(adata)}


@pytest.mark.parametrize(
    ("store", "says"),
    [
        (no_factors, "tissue_<image>_scalef"),
        (factor_none, "tissue_<image>_scalef"),
        (factor_text, "tissue_<image>_scalef"),
        (factors_list, r"uns\['spatial'\]\['synthetic'\]\['scalefactors'\] must be a dict"),
        (images_number, r"uns\['spatial'\]\['synthetic'\]\['images'\] must be a dict"),
        (sections_array, r"uns\['spatial'\]\['synthetic'\] is an array"),
        (sections_list, r"uns\['spatial'\] must be a dict by library"),
        (twice, "has '1' twice"),
    ],
)
def test_what_cannot_be_read_names_its_key(tissue, store, says, impute, assert_unchanged):
    store(tissue)
    before = deepcopy(tissue)
    with pytest.raises((KeyError, ValueError), match=says):
        impute(tissue)
    assert_unchanged(before.obs, tissue.obs)
    assert set(tissue.layers.keys()) - {None} <= {"truth"}


def test_a_full_resolution_image_needs_no_factor(tissue):
    tissue.uns["spatial"]["synthetic"]["images"]["fullres"] = entry(tissue)["images"]["hires"]
    assert stored_sections(tissue)["synthetic"]["scalefactors"]["tissue_fullres_scalef"] == 1


class Modalities:
    """Like a MuData, which is no dependency."""

    def __init__(self, **mod):
        self.mod = mod


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda a: "section.h5ad", "not str. Read the file first: anndata.read_h5ad"),
        (lambda a: [a, a], "not list. Put sections together first: anndata.concat"),
        (lambda a: Modalities(rna=a, prot=a), r"'rna', 'prot': modalities.mod\['rna'\]"),
        (lambda a: ad.experimental.AnnCollection({"a": a}), "not AnnCollection. adata.to_adata"),
        (lambda a: a.to_df(), "not DataFrame.$"),
        (lambda a: None, "not NoneType.$"),
    ],
)
def test_what_is_no_section_is_told_how_to_become_one(tissue, impute, make, says):
    with pytest.raises(
        TypeError, match=f"data must be an AnnData or a SpatialData, {says}" if says[0] == "n" else says
    ):
        impute(make(tissue))
    assert "data must be" in str(snrmix.io.describe(make(tissue)))


@pytest.mark.parametrize("argument", ["image_key", "use_rep", "layer"])
def test_names_are_no_lists(tissue, impute, argument):
    with pytest.raises(TypeError, match=f"{argument} must be the name of an? .*, not list"):
        impute(tissue, **{argument: ["hires"]})


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("ensg00000000003", None),
        ("ENSG00000000003", "it is 'ENSG00000000003.4' here"),
        ("ENSG00000000003.9", "3.4' here"),
    ],
)
def test_versions_of_identifiers_are_passed_over(tissue, impute, asked, says):
    tissue.var_names = [f"ENSG{i:011d}.{i + 1}" for i in range(tissue.n_vars)]
    with pytest.raises(KeyError, match=says or "Did you mean"):
        impute(tissue, genes=[asked])


def test_symbols_are_known_in_any_case(tissue, impute):
    name = tissue.var_names[2]
    tissue.var["feature_name"] = tissue.var_names
    tissue.var_names = [f"ENSG{i:011d}" for i in range(tissue.n_vars)]
    with pytest.raises(KeyError, match="it is 'ENSG00000000002', by var"):
        impute(tissue, genes=[name.lower()])


@pytest.mark.parametrize("name", ["hires", "lowres"])
def test_positions_scaled_to_an_image_are_told_how_to_be_scaled_back(tissue, plain, name):
    entry(tissue)["scalefactors"]["tissue_lowres_scalef"] = 0.05
    tissue.obsm["spatial"] = tissue.obsm["spatial"] * entry(tissue)["scalefactors"][f"tissue_{name}_scalef"]
    with pytest.raises(ValueError, match=f"It seems to be scaled by 'tissue_{name}_scalef'") as error:
        embedding(tissue)
    exec("adata.obsm" + error.value.args[0].partition(": adata.obsm")[2].removesuffix("."), {"adata": tissue, "np": np})
    np.testing.assert_allclose(embedding(tissue).astype(float), plain.astype(float), atol=2e-2)


@pytest.mark.parametrize("value", [None, "x", np.nan, np.inf, [1, 2], {}, np.array([])])
def test_what_is_no_number_is_none(value):
    assert number(value) is None


# Spots that do not matter


def off(adata, n=4, *, in_tissue=None, measured=None):
    """Send some spots beyond the image."""
    adata.obsm["spatial"][:n] = [[1e5 + 100 * i, -1e5] for i in range(n)]
    adata.obs = adata.obs.drop(columns=["array_row", "array_col"])
    if in_tissue is not None:
        adata.obs["in_tissue"] = np.where(np.arange(adata.n_obs) < n, in_tissue, 1)
    return {} if measured is None else {"measured": (np.arange(adata.n_obs) >= n) | measured}


@pytest.mark.parametrize("n", [1, 3, 30])
def test_spots_off_the_image_and_off_the_tissue_do_not_matter(tissue, impute, caplog, n):
    options = off(tissue, n, in_tissue=0)
    impute(tissue, **options)
    assert "outside" not in caplog.text
    assert np.isfinite(tissue.layers["snrmix"][:, tissue.var["snrmix_modelled"]]).all()


@pytest.mark.parametrize("measured", [True, False])
def test_a_few_spots_off_the_image_are_named(tissue, impute, caplog, measured):
    options = off(tissue, 3, measured=measured)
    impute(tissue, **options)
    names = list(tissue.obs_names[:3])
    assert all(name in caplog.text for name in names) and "3 of 117 spots lie outside" in caplog.text
    line = (
        "adata[~adata.obs_names.isin("
        + caplog.text.partition("adata[~adata.obs_names.isin(")[2].partition(".copy()")[0]
    )
    assert list(eval(line, {"adata": tissue}).obs_names) == list(tissue.obs_names[3:])


def test_many_spots_off_the_image_mean_a_wrong_frame(tissue, impute):
    with pytest.raises(ValueError, match="20 of 117 spots lie outside"):
        impute(tissue, **off(tissue, 20, measured=True))


def test_patches_beyond_the_border_repeat_it(tissue):
    off(tissue, 1)
    far = embedding(tissue)[0]
    tissue.obsm["spatial"][0] = [2000, -2000]
    np.testing.assert_array_equal(embedding(tissue)[0], far)


@pytest.mark.parametrize("place", [(0, 0), (1e5, 1e5), (-1, -1)])
def test_failed_spots_at_one_place_leave_the_array_as_it_is(tissue, plain, place):
    failed = np.arange(tissue.n_obs) % 13 == 0
    tissue.obsm["spatial"][failed] = place
    tissue.obs["in_tissue"] = (~failed).astype(int)
    got = snrmix.pp.embed_histology(tissue, encoder="colour", copy=True)
    np.testing.assert_allclose(got.obsm["X_histology"][~failed].astype(float), plain[~failed].astype(float), atol=1e-2)


@pytest.mark.parametrize("fill", ["unmeasured", "all"])
def test_unmeasured_spots_without_a_position_get_the_mean(tissue, impute, caplog, fill):
    measured = np.arange(tissue.n_obs) % 4 > 0
    lost = np.arange(tissue.n_obs) % 8 == 0
    expected = impute(tissue[~lost].copy(), measured=measured[~lost], fill=fill, copy=True)
    tissue.obsm["spatial"][lost] = np.nan
    impute(tissue, measured=measured, fill=fill)
    np.testing.assert_array_equal(tissue.layers["snrmix"][~lost], expected.layers["snrmix"])
    genes = expected.var["snrmix_modelled"].to_numpy()
    counts = tissue.X.toarray()[measured]
    values = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))[:, genes]
    for layer, wanted in (("snrmix", values.mean(0)), ("snrmix_sd", values.std(0))):
        got = tissue.layers[layer][lost][:, genes]
        np.testing.assert_allclose(got, np.tile(wanted, (lost.sum(), 1)), rtol=1e-4)
    assert f"{lost.sum()} unmeasured spots have no position" in caplog.text
    assert not tissue.obs["snrmix_measured"][lost].any()
    low, high = snrmix.tl.interval(tissue)
    assert np.isfinite(low[:, genes]).all() and np.isfinite(high[:, genes]).all()


def test_one_library_may_have_spots_without_a_position(tissue, impute):
    tissue.obs["slide"] = np.where(tissue.obsm["spatial"][:, 0] < np.median(tissue.obsm["spatial"][:, 0]), "a", "b")
    tissue.uns["spatial"] = {name: entry(tissue) for name in "ab"} if "synthetic" in tissue.uns["spatial"] else {}
    lost = tissue.obs_names[tissue.obs["slide"] == "b"][:3]
    tissue.obsm["spatial"][tissue.obs_names.isin(lost)] = np.nan
    impute(tissue, measured=~tissue.obs_names.isin(lost), library_key="slide", genes=list(tissue.var_names[:10]))
    assert set(tissue.obs.loc[lost, "snrmix_model"]) == {"b"}
    assert np.isfinite(tissue.layers["snrmix"][:, :10]).all()


@pytest.mark.parametrize("measured", [None, "all"])
def test_measured_spots_without_a_position_are_named(tissue, impute, assert_unchanged, measured):
    tissue.obsm["spatial"][:2] = np.nan
    before = tissue.copy()
    with pytest.raises(ValueError, match=f"2 of 117 spots.*'{tissue.obs_names[0]}'.*adata = adata.np.isfinite"):
        impute(tissue, measured=None if measured is None else np.ones(tissue.n_obs, bool))
    assert_unchanged(before, tissue)


# Columns that say yes and no


MISSING_TISSUE = {
    "NaN": lambda n: np.where(np.arange(n) % 2, 1.0, np.nan),
    "nullable": lambda n: pd.array([True if i % 2 else None for i in range(n)], dtype="boolean"),
    "text": lambda n: np.where(np.arange(n) % 2, "TRUE", ""),
    "category": lambda n: pd.Categorical([1 if i % 2 else None for i in range(n)]),
    "all missing": lambda n: np.full(n, np.nan),
}


@pytest.mark.parametrize("form", MISSING_TISSUE)
def test_where_in_tissue_is_missing_counts_decide(tissue, caplog, form):
    tissue.X[3] = 0
    tissue.obs["in_tissue"] = MISSING_TISSUE[form](tissue.n_obs)
    snrmix.pp.hold_out(tissue)
    kept = (tissue.obs["measured"] | tissue.obs["measured_held_out"]).to_numpy()
    np.testing.assert_array_equal(kept, np.arange(tissue.n_obs) != 3)
    assert caplog.text.count("obs['in_tissue'] is missing at") == 1


def test_in_tissue_that_is_something_else_is_refused_where_it_decides(tissue):
    tissue.obs["in_tissue"] = np.arange(tissue.n_obs) % 3
    with pytest.raises(TypeError, match=r"obs\['in_tissue'\] must be boolean, or hold 0 and 1.*holds '0', '1', '2'"):
        snrmix.pp.hold_out(tissue)
    snrmix.pp.hold_out(tissue, measured=np.ones(tissue.n_obs, bool))


@pytest.mark.parametrize("form", ["int", "text", "nullable", "category"])
def test_measured_may_be_stored_in_any_form(tissue, impute, form):
    measured = np.arange(tissue.n_obs) % 3 > 0
    forms = {
        "int": measured.astype(int),
        "text": np.where(measured, "True", "False"),
        "nullable": pd.array(measured, dtype="boolean"),
        "category": pd.Categorical(np.where(measured, "yes", "no")),
    }
    tissue.obs["qc"] = forms[form]
    impute(tissue, measured="qc")
    np.testing.assert_array_equal(tissue.obs["snrmix_measured"], measured)


@pytest.mark.parametrize("missing", [None, pd.NA, np.nan])
def test_genes_with_missing_marks_are_left_out(tissue, impute, caplog, missing):
    marks = pd.Series([True] * 10 + [False] * 20 + [missing] * 10, dtype=object)
    tissue.var["highly_variable"] = marks.to_numpy()
    impute(tissue, genes="highly_variable")
    np.testing.assert_array_equal(np.isfinite(tissue.layers["snrmix"]).all(0), np.arange(40) < 10)
    assert "var['highly_variable'] is missing for 10 genes" in caplog.text


def test_a_grid_of_one_slide_goes_with_a_slide_without(tissue, impute):
    other = tissue.copy()
    for adata, name in ((tissue, "A"), (other, "B")):
        adata.obs["library_id"] = name
        adata.uns["spatial"] = {name: adata.uns["spatial"]["synthetic"]}
    dense = snrmix.pp.fill_grid(tissue, 2)
    both = ad.concat([dense, other], index_unique="-", uns_merge="unique", join="outer")
    assert both.obs["snrmix_added"].isna().any()
    both.obs["measured"] = both.obs["measured"].isna() | (both.obs["measured"] == True)  # noqa: E712
    impute(both, measured="measured")
    snrmix.pl.compare(both, modelled_gene(both), library="B", show=False)
    denser = snrmix.pp.fill_grid(both, 3, measured="measured")
    assert denser.obs["snrmix_added"].sum() > dense.obs["snrmix_added"].sum()


# Instances, libraries, genes and tables of another kind


@pytest.mark.parametrize("kind", [str, int, float, "category"])
@pytest.mark.parametrize("shapes", [str, int])
def test_instances_may_be_numbers_or_text(sdata, kind, shapes):
    expected = embedding(sdata)
    sdata["synthetic"].index = sdata["synthetic"].index.astype(shapes)
    table = sdata["table"]
    table.obs["spot_id"] = table.obs["spot_id"].astype(kind)
    np.testing.assert_array_equal(embedding(sdata), expected)


def test_instances_that_are_none_say_their_types(sdata):
    sdata["synthetic"].index = [f"spot {i}" for i in sdata["synthetic"].index]
    with pytest.raises(
        ValueError, match="117 rows.*has them as int64, the region as (object|str|string), such as 'spot 0'"
    ):
        embedding(sdata)


SYMBOLS = ["feature_name", "gene_symbols", "gene_name", "gene_ids"]


@pytest.mark.parametrize("column", SYMBOLS)
def test_genes_are_looked_up_in_other_columns(tissue, impute, assert_unchanged, column):
    tissue.var[column] = pd.Categorical([f"SYM{i}" for i in range(40)])
    impute(tissue, genes=list(tissue.var_names[:5]))
    before = tissue.copy()
    says = f"'SYM3' .it is '{tissue.var_names[3]}', by var.'{column}'.*adata.var_names = adata.var.'{column}'"
    with pytest.raises(KeyError, match=says):
        impute(tissue, genes=["SYM3", tissue.var_names[2]])
    with pytest.raises(KeyError, match=says):
        snrmix.pl.compare(tissue, "SYM3", show=False)
    assert_unchanged(before, tissue)


@pytest.mark.parametrize(
    ("asked", "known"), [("SPP1", "Spp1"), ("spp1", "Spp1"), ("mt-co1", "MT-CO1"), ("Actb1", "ACTB")]
)
def test_genes_are_suggested_regardless_of_case(tissue, impute, asked, known):
    tissue.var_names = ["GSTP1", known, *tissue.var_names[2:]]
    with pytest.raises(KeyError, match=f"'{asked}' .Did you mean '{known}'"):
        impute(tissue, genes=[asked])


def test_columns_that_stand_twice_are_named(tissue, impute):
    tissue.obs = pd.concat([tissue.obs, tissue.obs[["in_tissue"]]], axis=1)
    with pytest.raises(ValueError, match="obs has columns twice .'in_tissue'.*duplicated") as error:
        impute(tissue)
    frame = eval(str(error.value).partition("adata.obs = ")[2].rstrip("."), {"adata": tissue})
    tissue.obs = frame
    snrmix.pp.hold_out(tissue)


def test_a_lazy_object_says_how_to_load_it(tissue, impute, tmp_path):
    pytest.importorskip("xarray")
    tissue.uns.clear()
    tissue.write_zarr(tmp_path / "x.zarr")
    lazy = ad.experimental.read_lazy(tmp_path / "x.zarr")
    with pytest.raises(ValueError, match=r"adata.to_memory\(\)"):
        impute(lazy)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_path_may_start_at_home(tissue, tmp_path, monkeypatch, plain, suffix):
    from PIL import Image

    monkeypatch.setenv("HOME", str(tmp_path))
    Image.fromarray(entry(tissue)["images"]["hires"]).save(tmp_path / f"section{suffix}")
    tissue.obsm["spatial"] = tissue.obsm["spatial"] * 0.25
    del tissue.uns["spatial"]
    np.testing.assert_allclose(
        embedding(tissue, image=f"~/section{suffix}").astype(float), plain.astype(float), atol=5e-3
    )


# One gene, a constant layer, and what is written


def constant(adata):
    adata.X = np.ones(adata.shape) * 1.5
    return {"units": "log"}


def constant_gene(adata):
    adata.X = np.log1p(adata.X.toarray())
    adata.X[:, 0] = 1.5
    return {"genes": [adata.var_names[0]]}


def all_zero_but_one_gene(adata):
    counts = adata.X.toarray()
    counts[:, 1:] = 0
    counts[:, 0] += 1
    adata.X = sparse.csr_matrix(counts)
    return {"genes": None}


@pytest.mark.parametrize("spoil", [constant, constant_gene, all_zero_but_one_gene])
def test_nothing_is_learnt_from_constant_genes(tissue, impute, assert_unchanged, spoil):
    options = spoil(tissue)
    before = tissue.copy()
    with pytest.raises(ValueError, match="same value at all measured spots"):
        impute(tissue, **options)
    assert_unchanged(before, tissue)


def test_one_gene_of_many_is_imputed(tissue, impute):
    impute(tissue, genes=[tissue.var_names[0]])
    assert np.isfinite(tissue.layers["snrmix"][:, 0]).all() and tissue.var["snrmix_modelled"].sum() == 1


def test_a_constant_gene_beside_others_stays_constant(tissue, impute):
    tissue.X = np.log1p(tissue.X.toarray())
    tissue.X[:, 0] = 1.5
    impute(tissue, genes=list(tissue.var_names[:5]))
    np.testing.assert_allclose(tissue.layers["snrmix"][:, 0], 1.5, atol=1e-3)


def test_a_report_never_fails_a_run(tissue, impute, caplog, monkeypatch):
    import importlib

    module = importlib.import_module("snrmix.tl.impute")
    called = []

    def fail(*_):
        called.append(1)
        raise KeyError("nan")

    monkeypatch.setattr(module, "report", fail)
    impute(tissue)
    assert called and "snrmix" in tissue.layers and "could not be summed up" in caplog.text


# Names of the user's


def test_hold_out_keeps_a_column_of_the_user(tissue, assert_unchanged):
    tissue.obs["measured"] = np.arange(tissue.n_obs) % 5 > 0
    before = tissue.copy()
    with pytest.raises(
        ValueError, match=r"obs\['measured'\] is there already.*measured='measured', key_added='measured_kept'"
    ):
        snrmix.pp.hold_out(tissue)
    assert_unchanged(before, tissue)
    snrmix.pp.hold_out(tissue, measured="measured", key_added="measured_kept")
    assert_unchanged(before.obs["measured"], tissue.obs["measured"])
    failed = ~tissue.obs["measured"]
    assert not (tissue.obs["measured_kept"] | tissue.obs["measured_kept_held_out"])[failed].any()
    snrmix.pp.hold_out(tissue, measured="measured", key_added="measured_kept", random_state=1)


@pytest.mark.parametrize("name", ["measured_held_out", "test_held_out"])
def test_hold_out_keeps_marks_of_the_user(tissue, name):
    tissue.obs[name] = True
    with pytest.raises(ValueError, match=f"'{name}'. is there already"):
        snrmix.pp.hold_out(tissue, key_added=name.removesuffix("_held_out"))


def test_fill_grid_keeps_a_column_of_the_user(tissue, assert_unchanged):
    tissue.obs["measured"] = "Monday"
    before = tissue.copy()
    with pytest.raises((TypeError, ValueError), match=r"obs\['measured'\]"):
        snrmix.pp.fill_grid(tissue, 2)
    with pytest.raises(ValueError, match=r"obs\['measured'\] is there already.*key_added='measured_spots'"):
        snrmix.pp.fill_grid(tissue, 2, measured=np.ones(tissue.n_obs, bool))
    assert_unchanged(before, tissue)
    grown = snrmix.pp.fill_grid(tissue, 2, measured=np.ones(tissue.n_obs, bool), key_added="spots")
    assert (grown.obs["measured"][: tissue.n_obs] == "Monday").all()


@pytest.mark.parametrize("call", ["impute", "embed_histology"])
def test_features_of_the_user_keep_their_name(tissue, impute, assert_unchanged, call):
    tissue.obsm["X_histology"] = np.random.default_rng(0).normal(size=(tissue.n_obs, 5))
    before = tissue.copy()
    with pytest.raises(ValueError, match="X_histology.*not of snrmix.*obsm.pop"):
        impute(tissue) if call == "impute" else snrmix.pp.embed_histology(tissue, encoder="colour")
    assert_unchanged(before, tissue)
    impute(tissue, use_rep="X_histology")
    assert_unchanged(before.obsm["X_histology"], tissue.obsm["X_histology"])


@pytest.mark.parametrize("name", ["snrmix_pearson", "snrmix_modelled"])
def test_impute_keeps_columns_of_the_user(tissue, impute, assert_unchanged, name):
    tissue.var[name] = "mine"
    before = tissue.copy()
    with pytest.raises(ValueError, match="would overwrite something else"):
        impute(tissue)
    assert_unchanged(before, tissue)


# Arguments that name expression, and messages


def test_truth_of_counts_is_drawn_in_the_units_of_the_layer(tissue, impute):
    tissue.layers["counts"] = tissue.X.copy()
    tissue.layers["centred"] = tissue.X.toarray() - 3.0
    impute(tissue)
    gene = modelled_gene(tissue)

    def drawn(**options):
        axes = snrmix.pl.compare(tissue, gene, image=False, show=False, **options)
        spots = [(ax.get_title(), one.get_array()) for ax in axes.ravel() for one in ax.collections]
        values = {title: np.asarray(values) for title, values in spots if title and values is not None}
        return values["truth"], values["measured"]

    truth, measured = drawn(truth="counts")
    assert truth.max() < 9.3
    np.testing.assert_allclose(np.sort(truth), np.sort(measured), rtol=1e-5)
    with pytest.raises(ValueError, match="truth='centred' has negative values.*cannot be compared"):
        drawn(truth="centred")


def test_truth_of_counts_is_scored_like_the_observed(tissue, impute):
    snrmix.pp.hold_out(tissue)
    tissue.layers["counts"] = tissue.X.copy()
    impute(tissue, measured="measured")
    observed, truth = (snrmix.tl.evaluate(tissue, "measured_held_out", **how) for how in ({}, {"truth": "counts"}))
    np.testing.assert_allclose(truth["mse"], observed["mse"], rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("seed", "random_state"), ("n_genes", "genes"), ("batch_key", "library_key"), ("inplace", "copy=True"),
        ("n_epochs", "max_epochs"), ("lr", "learning_rate"), ("n_fold", "n_folds"), ("img", "image"), ("mpp", "um_per_px"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("call", ["impute", "benchmark", "SNRMix"])
def test_unknown_arguments_are_answered_with_those_of_the_call(tissue, call, name, meant):
    calls = {
        "impute": lambda **o: snrmix.tl.impute(tissue, **o),
        "benchmark": lambda **o: snrmix.tl.benchmark(tissue, **o),
        "SNRMix": snrmix.SNRMix,
    }
    if name == "inplace" and call != "impute":
        meant = "unexpected"
    with pytest.raises(TypeError) as error:
        calls[call](**{name: 1})
    said = str(error.value)
    assert f"{call}() got an unexpected keyword argument {name!r}" in said and meant in said
    assert all(argument in said for argument in ("random_state", "genes", "library_key", "learning_rate"))


def test_a_dropped_image_is_traced_to_concat(tissue, impute, caplog):
    del tissue.uns["spatial"]
    impute(tissue)
    assert "ad.concat" in caplog.text and "uns_merge='unique'" in caplog.text
    with pytest.raises(KeyError, match="uns_merge='unique'"):
        embedding(tissue)


def test_names_in_messages_are_plain_text(tissue, impute):
    tissue.obs_names = [np.str_(name) for name in tissue.obs_names]
    tissue.X = tissue.X.toarray()
    tissue.X[5, 3] = -1
    with pytest.raises(ValueError) as error:
        impute(tissue)
    assert "np.str_" not in str(error.value) and f"'{tissue.obs_names[5]}'" in str(error.value)


def test_gaps_of_the_array_are_named(tissue, impute, caplog):
    caplog.set_level("INFO", "snrmix")
    impute(tissue)
    assert "fill_grid" not in caplog.text
    rows = np.ones(tissue.n_obs, bool)
    row, column = (tissue.obs[name].to_numpy() for name in ("array_row", "array_col"))
    middle = np.argsort((row - row.mean()) ** 2 + ((column - column.mean()) / 1.7) ** 2)
    rows[middle[[0, 7, 20, 25, 33]]] = False
    impute(tissue[rows].copy())
    assert "places amid the spots without a row" in caplog.text and "snrmix.pp.fill_grid" in caplog.text


def test_io_shows_its_functions():
    assert "write_layer" in dir(snrmix.io) and not {"Path", "json", "tempfile"} & set(dir(snrmix.io))


def test_timm_is_installed_beside_the_torch_that_is_there(monkeypatch):
    import torch

    from snrmix.images.pretrained import _install

    assert f'"torch=={torch.__version__}"' in _install() and "timm>=" in _install()
