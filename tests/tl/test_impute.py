"""What `snrmix.tl.impute` promises about its result, whatever the data."""

import logging
import os
import random
import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import sparse

import snrmix


def log_normalised(adata):
    counts = adata.X.toarray()
    return np.log1p(1e4 * counts / counts.sum(1, keepdims=True)).astype(np.float32)


@pytest.fixture
def half(tissue):
    """Every other spot is measured."""
    tissue.obs["measured"] = np.arange(tissue.n_obs) % 2 == 0
    return tissue


# The layer


def test_layer_has_all_spots_and_genes(tissue, impute):
    genes = [*tissue.var_names[:10], *tissue.var_names[20:25]]
    before = tissue.X.copy()
    assert impute(tissue, genes=genes) is None
    layer = tissue.layers["snrmix"]
    assert isinstance(layer, np.ndarray) and layer.dtype == np.float32 and layer.shape == tissue.shape
    left_out = ~tissue.var_names.isin(genes)
    assert np.isnan(layer[:, left_out]).all() and np.isfinite(layer[:, ~left_out]).all()
    assert (tissue.X != before).nnz == 0
    assert list(tissue.var_names[tissue.var["snrmix_modelled"]]) == genes
    for name in ("pearson", "mse", "explained"):
        column = tissue.var[f"snrmix_{name}"]
        assert column[left_out].isna().all() and column[~left_out].notna().all()


def test_all_genes_are_the_default(tissue, fast):
    options = {name: value for name, value in fast.items() if name != "genes"}
    snrmix.tl.impute(tissue, **options)
    assert np.isfinite(tissue.layers["snrmix"]).all()
    assert tissue.uns["snrmix"]["parameters"]["genes"] == "none"


GENES = {
    "boolean column": lambda adata: "chosen",
    "list": lambda adata: list(adata.var_names[adata.var["chosen"]]),
    "reversed index": lambda adata: adata.var_names[adata.var["chosen"]][::-1],
    "set": lambda adata: set(adata.var_names[adata.var["chosen"]]),
    "column of names": lambda adata: adata.var_names[adata.var["chosen"]].to_series(),
}


@pytest.mark.parametrize("genes", GENES.values(), ids=GENES.keys())
def test_genes_may_be_named_in_any_way(tissue, impute, genes):
    tissue.var["chosen"] = np.arange(tissue.n_vars) % 3 == 0
    expected = impute(tissue, genes="chosen", copy=True)
    assert expected.var["snrmix_modelled"].sum() == tissue.var["chosen"].sum()
    impute(tissue, genes=genes(tissue))
    np.testing.assert_array_equal(tissue.layers["snrmix"], expected.layers["snrmix"])


def test_number_of_genes_takes_those_of_highest_mean_at_measured_spots(half, impute):
    half.X = half.X.toarray()
    measured = half.obs["measured"].to_numpy()
    half.X[~measured, 0] = 1e5  # high, but not where it counts
    counts = half.X[measured]
    mean = np.log1p(1e4 * counts / counts.sum(1, keepdims=True)).mean(0)
    impute(half, measured="measured", genes=7)
    assert set(np.flatnonzero(half.var["snrmix_modelled"])) == set(np.argsort(-mean)[:7])


def test_rare_genes_get_their_mean(tissue, impute, caplog):
    counts = tissue.X.toarray()
    counts[:, :2] = 0
    counts[[3, 8, 20, 31], 0] = 5
    tissue.X = counts
    impute(tissue, genes=None)
    expected = np.log1p(1e4 * counts / counts.sum(1, keepdims=True)).mean(0)
    layer = tissue.layers["snrmix"]
    np.testing.assert_allclose(layer[:, :2], np.broadcast_to(expected[:2], (tissue.n_obs, 2)), rtol=1e-5)
    assert list(tissue.var["snrmix_modelled"]) == [False, False, *[True] * 38]
    assert tissue.var["snrmix_pearson"].isna().sum() == 2
    assert np.isfinite(layer).all()
    assert "2 genes are seen in too few measured spots" in caplog.text


# What stands at measured spots


def test_unmeasured_fill_keeps_what_was_observed(half, impute):
    impute(half, measured="measured", fill="unmeasured")
    measured, modelled = half.obs["measured"].to_numpy(), half.var["snrmix_modelled"].to_numpy()
    observed, layer = log_normalised(half)[:, modelled], half.layers["snrmix"][:, modelled]
    np.testing.assert_allclose(layer[measured], observed[measured], rtol=1e-5)
    assert np.abs(layer[~measured] - observed[~measured]).mean() > 0.1
    np.testing.assert_array_equal(half.obs["snrmix_measured"], measured)


def test_all_fill_predicts_every_spot(half, impute):
    observed_fill = impute(half, measured="measured", fill="unmeasured", copy=True)
    impute(half, measured="measured", fill="all", at_depth="spot")
    measured, modelled = half.obs["measured"].to_numpy(), half.var["snrmix_modelled"].to_numpy()
    layer, observed = half.layers["snrmix"][:, modelled], log_normalised(half)[:, modelled]
    assert (np.abs(layer[measured] - observed[measured]) > 1e-3).mean() > 0.95
    assert layer[measured].std(0).mean() < 0.8 * observed[measured].std(0).mean()
    np.testing.assert_array_equal(half.layers["snrmix"][~measured], observed_fill.layers["snrmix"][~measured])


def test_values_at_measured_spots_are_out_of_fold(tissue, impute):
    """What was observed at a spot reaches the predictions at other spots, and not its own."""
    counts = tissue.X.toarray()
    gene = int(counts.sum(0).argmax())
    predictions = []
    for factor in (1, 50):
        tissue.X = counts.copy()
        tissue.X[10, gene] *= factor
        # Without early stopping: the epoch of a network is judged by networks that have seen the spot.
        options = {"kriging": False, "max_epochs": 10, "learning_rate": 0.01, "early_stopping": False}
        result = impute(tissue, fill="all", at_depth="spot", copy=True, **options)
        predictions.append(result.layers["snrmix"][:, gene])
    change = np.abs(predictions[1] - predictions[0])
    assert change[10] == 0 and change.max() > 0.1


@pytest.mark.parametrize(
    ("passed", "complete", "expected"),
    [(False, True, "all"), (False, False, "all"), (True, True, "all"), (True, False, "unmeasured")],
)
def test_automatic_fill(tissue, impute, caplog, passed, complete, expected):
    counts = tissue.X.toarray()
    if not complete:
        counts[5] = 0
    tissue.X = counts
    impute(tissue, measured=counts.sum(1) > 0 if passed else None)
    assert tissue.uns["snrmix"]["fill"] == expected
    assert tissue.uns["snrmix"]["parameters"]["fill"] == expected
    assert f"fill='{expected}'" in caplog.text
    assert tissue.obs["snrmix_measured"].sum() == tissue.n_obs - (not complete)


def test_spots_off_the_tissue_are_not_measured(tissue, impute):
    tissue.obs["in_tissue"] = (np.arange(tissue.n_obs) > 9).astype(int)
    impute(tissue)
    np.testing.assert_array_equal(tissue.obs["snrmix_measured"], tissue.obs["in_tissue"] == 1)


# Measured, in any form

MEASURED = {
    "array": lambda adata, m: m,
    "list": lambda adata, m: m.tolist(),
    "series": lambda adata, m: pd.Series(m, adata.obs_names),
    "series in another order": lambda adata, m: pd.Series(m, adata.obs_names).sample(frac=1, random_state=1),
    "nullable array": lambda adata, m: pd.array(m, dtype="boolean"),
    "nullable series in another order": lambda adata, m: pd.Series(m, adata.obs_names, dtype="boolean")[::-1],
    "categorical": lambda adata, m: pd.Categorical(m),
}


@pytest.mark.parametrize("form", MEASURED.values(), ids=MEASURED.keys())
def test_measured_may_have_any_form(half, impute, form):
    measured = half.obs["measured"].to_numpy()
    expected = impute(half, measured="measured", copy=True)
    impute(half, measured=form(half, measured))
    np.testing.assert_array_equal(half.obs["snrmix_measured"], measured)
    np.testing.assert_array_equal(half.layers["snrmix"], expected.layers["snrmix"])


@pytest.mark.parametrize("dtype", ["bool", "boolean", "category"])
def test_measured_column_may_have_any_boolean_type(half, impute, dtype):
    expected = impute(half, measured="measured", copy=True)
    half.obs["measured"] = half.obs["measured"].astype(dtype)
    impute(half, measured="measured")
    np.testing.assert_array_equal(half.layers["snrmix"], expected.layers["snrmix"])


# Unmeasured values never matter

GARBAGE = {
    "NaN": lambda values, rng: np.full_like(values, np.nan),
    "infinity": lambda values, rng: np.full_like(values, np.inf),
    "negative": lambda values, rng: -values - 1,
    "fractions": lambda values, rng: rng.uniform(0, 1, values.shape),
    "huge": lambda values, rng: rng.uniform(0, 1e9, values.shape),
    "zero": lambda values, rng: np.zeros_like(values),
}


@pytest.mark.parametrize("is_sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
def test_values_of_unmeasured_spots_change_nothing(half, impute, garbage, is_sparse):
    expected = impute(half, measured="measured", genes=None, copy=True)
    values, rows = half.X.toarray().astype(np.float64), ~half.obs["measured"].to_numpy()
    values[rows] = garbage(values[rows], np.random.default_rng(0))
    half.X = sparse.csr_matrix(values) if is_sparse else values
    impute(half, measured="measured", genes=None)
    np.testing.assert_array_equal(half.layers["snrmix"], expected.layers["snrmix"])
    pd.testing.assert_frame_equal(half.var, expected.var, check_exact=True)
    assert half.uns["snrmix"]["units"] == expected.uns["snrmix"]["units"]


# Order never matters


@pytest.mark.parametrize("measured", [None, "measured"], ids=["all", "half"])
def test_order_of_rows_and_genes_changes_nothing(half, impute, measured):
    expected = impute(half, measured=measured, genes=None, copy=True)
    rng = np.random.default_rng(5)
    shuffled = half[rng.permutation(half.n_obs)][:, rng.permutation(half.n_vars)].copy()
    assert list(shuffled.obs_names) != list(half.obs_names)
    impute(shuffled, measured=measured, genes=None)
    back = shuffled[half.obs_names, half.var_names]
    np.testing.assert_array_equal(back.layers["snrmix"], expected.layers["snrmix"])
    pd.testing.assert_frame_equal(back.var, expected.var, check_exact=True)
    np.testing.assert_array_equal(back.obsm["X_histology"], expected.obsm["X_histology"])
    for column in ("mse", "pearson"):
        np.testing.assert_array_equal(
            shuffled.uns["snrmix"]["scores"][column], expected.uns["snrmix"]["scores"][column]
        )


def test_order_changes_nothing_in_two_libraries(half, impute):
    half.obs["slide"] = np.where(half.obs["array_row"] < 6, "a", "b")
    half.uns["spatial"]["a"] = half.uns["spatial"]["b"] = half.uns["spatial"].pop("synthetic")
    expected = impute(half, measured="measured", library_key="slide", copy=True)
    shuffled = half[np.random.default_rng(5).permutation(half.n_obs)].copy()
    impute(shuffled, measured="measured", library_key="slide")
    np.testing.assert_array_equal(shuffled[half.obs_names].layers["snrmix"], expected.layers["snrmix"])


def test_sites_at_the_same_place_are_no_problem(half, impute):
    half.obsm["spatial"][[5, 9, 12]] = half.obsm["spatial"][4]
    expected = impute(half, measured="measured", copy=True)
    shuffled = half[np.random.default_rng(5).permutation(half.n_obs)].copy()
    impute(shuffled, measured="measured")
    assert np.isfinite(expected.layers["snrmix"][:, expected.var["snrmix_modelled"]]).all()
    np.testing.assert_array_equal(shuffled[half.obs_names].layers["snrmix"], expected.layers["snrmix"])


def test_library_without_measured_spots_is_predicted(half, impute):
    half.obs["library_id"] = np.where(half.obs["array_row"] < 3, "a", "b")
    half.uns["spatial"]["a"] = half.uns["spatial"]["b"] = half.uns["spatial"].pop("synthetic")
    impute(half, measured=half.obs["library_id"] == "b")
    values = half.layers["snrmix"][half.obs["library_id"] == "a"][:, half.var["snrmix_modelled"]]
    assert np.isfinite(values).all() and values.std(0).min() > 0


def test_same_seed_same_layer(half, impute):
    layers = [
        impute(half, measured="measured", random_state=seed, copy=True).layers["snrmix"]
        for seed in (3, 3, np.int64(3), 4)
    ]
    np.testing.assert_array_equal(layers[0], layers[1])
    np.testing.assert_array_equal(layers[0], layers[2])
    assert np.nanmax(np.abs(layers[0] - layers[3])) > 1e-4
    assert half.uns.get("snrmix") is None


# The rest of the world is left alone


def test_copy_leaves_the_object_alone(half, impute, assert_unchanged):
    before = half.copy()
    result = impute(half, measured="measured", copy=True)
    assert_unchanged(before, half)
    assert result is not half and "snrmix" in result.layers and "X_histology" in result.obsm
    result.X.data[:] = 0
    result.uns["spatial"]["synthetic"]["images"]["hires"][:] = 0
    assert_unchanged(before, half)


def test_only_results_are_added(half, impute, assert_unchanged):
    before = half.copy()
    impute(half, measured="measured", key_added="mine")
    assert {name for name in half.layers.keys() if name not in ("truth", None)} <= {"mine", "mine_sd"}
    assert set(half.uns) - set(before.uns) == {"mine", "X_histology"}
    assert set(half.obs) - set(before.obs) == {"mine_measured", "mine_depth", "mine_fold"}
    assert all(name.startswith("mine_") for name in set(half.var) - set(before.var))
    for name in list(half.layers.keys()):
        if name not in before.layers:
            del half.layers[name]
    for part in ("obs", "var"):
        setattr(half, part, getattr(half, part)[getattr(before, part).columns])
    del half.uns["mine"], half.uns["X_histology"], half.obsm["X_histology"]
    del half.obsm["mine_errors"], half.varm["mine_errors"]
    assert_unchanged(before, half)


def test_results_of_several_calls_stand_side_by_side(half, impute):
    impute(half, measured="measured")
    first = half.layers["snrmix"].copy()
    impute(half, measured="measured", key_added="other", random_state=1)
    np.testing.assert_array_equal(half.layers["snrmix"], first)
    assert np.nanmax(np.abs(half.layers["other"] - first)) > 0
    impute(half, measured="measured", random_state=1)
    np.testing.assert_array_equal(half.layers["snrmix"], half.layers["other"])


def test_global_state_is_left_alone(tissue, impute, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    random.seed(1)
    np.random.seed(2)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        state = _global_state()
        impute(tissue)
        after = _global_state()
    for name, value in state.items():
        assert value == after[name], name
    assert list(tmp_path.iterdir()) == []


def _global_state() -> dict:
    return {
        "random": random.getstate(),
        "numpy": str(np.random.get_state()[1].tolist()),
        "torch": torch.get_rng_state().tolist(),
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "warnings": list(warnings.filters),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "type": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "lightning": [logging.getLogger(name).level for name in ("lightning.pytorch", "lightning.fabric", "root")],
    }


def test_global_state_does_not_change_the_result(tissue, impute):
    layers = []
    for seed in (1, 2):
        np.random.seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            layers.append(impute(tissue, copy=True).layers["snrmix"])
    np.testing.assert_array_equal(*layers)


# Provenance


def test_record_says_how_it_was_made(half, impute):
    impute(half, measured="measured", random_state=7, n_folds=3)
    record = half.uns["snrmix"]
    assert record["parameters"]["random_state"] == 7 and record["parameters"]["n_folds"] == 3
    assert record["parameters"]["measured"] == "measured" and record["parameters"]["encoder"] == "colour"
    assert record["parameters"]["mix"]["name"] == "SNRMixing"
    assert record["versions"]["snrmix"] == snrmix.__version__ and "torch" in record["versions"]
    assert record["units"] == "log1p(counts per 10,000)"
    assert list(record["image"]["libraries"]) == ["synthetic"]
    assert {"mean", "spatial kNN", "ridge"} < set(record["scores"].index)
    assert {"mse", "mse_ratio", "pearson"} <= set(record["scores"].columns)
    assert record["scores"].loc["mean", "mse_ratio"] == 1
    assert np.isfinite(record["history"]["train_loss"]).all()


def assert_equal_after_reading(written, read, path=""):
    if isinstance(written, dict):
        assert set(written) == set(read), path
        for key in written:
            assert_equal_after_reading(written[key], read[key], f"{path}/{key}")
    elif isinstance(written, pd.DataFrame):
        pd.testing.assert_frame_equal(written, read, check_index_type=False, check_column_type=False, obj=path)
    elif isinstance(written, np.ndarray | list):
        np.testing.assert_array_equal(np.asarray(written), np.asarray(read), err_msg=path)
    else:
        assert written == read, path


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_result_survives_writing_and_reading(half, impute, tmp_path, kind, caplog):
    write, read = f"write_{kind}", getattr(anndata, f"read_{kind}")
    impute(half, measured="measured")
    for call in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            getattr(half, write)(tmp_path / f"{call}.{kind}")
        back = read(tmp_path / f"{call}.{kind}")
        for key in ("snrmix", "X_histology"):
            assert_equal_after_reading(half.uns[key], back.uns[key], key)
        np.testing.assert_array_equal(back.layers["snrmix"], half.layers["snrmix"])
        pd.testing.assert_frame_equal(back.var, half.var, check_categorical=False)
        caplog.clear()
        impute(back, measured="measured")
        assert "reusing the histology embedding" in caplog.text
        np.testing.assert_array_equal(back.layers["snrmix"], half.layers["snrmix"])
        half = back


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_the_image_that_was_read_is_recorded(tissue, impute, tmp_path, kind):
    (section,) = tissue.uns["spatial"].values()
    height, width = section["images"]["hires"].shape[:2]
    tissue.obs["library_id"], tissue.uns["spatial"] = "patient/1", {"patient/1": section}
    table = impute(tissue, copy=True)
    path = tmp_path / "full.png"
    Image.fromarray(section["images"]["hires"].repeat(4, axis=0).repeat(4, axis=1)).save(path)
    full = impute(tissue, image=path, copy=True)
    del table.uns["spatial"]  # zarr takes no name with a slash
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        getattr(table, f"write_{kind}")(tmp_path / f"a.{kind}")
    read = getattr(anndata, f"read_{kind}")(tmp_path / f"a.{kind}").uns["snrmix"]["image"]["read"]
    assert_equal_after_reading(table.uns["snrmix"]["image"]["read"], read)
    record = read["patient|1"]
    assert record["name"] == "image 'hires' of library 'patient/1'" and list(record["level"]) == [0, 0, 0]
    assert (record["width"], record["height"], record["levels"]) == (width, height, 1)
    assert record["um_per_px"] == pytest.approx(100 / 16)
    assert full.uns["snrmix"]["image"]["read"]["patient|1"]["name"] == str(path)


# The embedding is computed once


class Counting:
    """An encoder that counts the patches it sees."""

    def __init__(self, factor: float = 1.0):
        self.factor, self.patches = factor, 0

    def __call__(self, patches):
        self.patches += len(patches)
        return patches.mean((2, 3)) * self.factor

    def spent(self) -> int:
        """Patches seen since the last call, without the two that tell encoders apart."""
        seen, self.patches = self.patches - 2, 0
        return seen


@pytest.fixture(autouse=True)
def patches_are_not_timed(monkeypatch):
    """What an encoder sees are patches, and none that only its time is taken of."""
    monkeypatch.setattr("snrmix.data.embedding.FEW_PATCHES", 10**9)


@pytest.fixture
def embedded(half, impute):
    """An object with a cached embedding, and its encoder."""
    encoder = Counting()
    impute(half, measured="measured", encoder=encoder)
    assert encoder.spent() == 3 * half.n_obs
    return half, encoder


def test_second_call_does_not_embed_again(embedded, impute, caplog):
    adata, encoder = embedded
    first = adata.layers["snrmix"].copy()
    impute(adata, measured="measured", encoder=encoder)
    assert encoder.spent() == 0 and "reusing the histology embedding" in caplog.text
    np.testing.assert_array_equal(adata.layers["snrmix"], first)
    snrmix.pp.embed_histology(adata, encoder=encoder)
    assert encoder.spent() == 0


def test_what_was_embedded_first_is_used(half, impute):
    encoder = Counting()
    snrmix.pp.embed_histology(half, encoder=encoder)
    assert encoder.spent() == 3 * half.n_obs
    impute(half, measured="measured", encoder=encoder)
    assert encoder.spent() == 0


@pytest.mark.parametrize("without_array", [False, True], ids=["lattice", "no lattice"])
def test_subset_in_another_order_is_recognised(tissue, impute, without_array):
    if without_array:
        tissue.obs = tissue.obs.drop(columns=["array_row", "array_col"])
    encoder = Counting()
    snrmix.pp.embed_histology(tissue, encoder=encoder)
    assert encoder.spent() == 3 * tissue.n_obs
    part = tissue[np.random.default_rng(0).permutation(tissue.n_obs)[:60]].copy()
    impute(part, encoder=encoder)
    assert encoder.spent() == 0
    again = part[::2].copy()
    impute(again, encoder=encoder)
    assert encoder.spent() == 0


def test_one_of_two_libraries_is_recognised(tissue, impute):
    tissue.obs["library_id"] = np.where(tissue.obs["array_row"] < 6, "a", "b")
    tissue.uns["spatial"]["a"] = tissue.uns["spatial"]["b"] = tissue.uns["spatial"].pop("synthetic")
    encoder = Counting()
    snrmix.pp.embed_histology(tissue, encoder=encoder)
    encoder.spent()
    impute(tissue[tissue.obs["library_id"] == "b"].copy(), encoder=encoder)
    assert encoder.spent() == 0


def test_measured_spots_and_genes_do_not_matter_to_the_embedding(embedded, impute):
    adata, encoder = embedded
    impute(adata, genes=5, random_state=3, encoder=encoder)
    assert encoder.spent() == 0


def change_image(adata):
    adata.uns["spatial"]["synthetic"]["images"]["hires"] = adata.uns["spatial"]["synthetic"]["images"]["hires"][::-1]
    return {}


def change_scale_factor(adata):
    adata.uns["spatial"]["synthetic"]["scalefactors"]["tissue_hires_scalef"] = 0.24
    return {}


def move_a_spot(adata):
    adata.obsm["spatial"][4] += 30
    return {}


def rename_a_spot(adata):
    adata.obs_names = ["another", *adata.obs_names[1:]]
    return {}


CHANGES = {
    "image": change_image,
    "scale factor": change_scale_factor,
    "position": move_a_spot,
    "name": rename_a_spot,
    "scales": lambda adata: {"scales": (1.15, 2.3, 4.0)},
    "um per px": lambda adata: {"um_per_px": 0.5},
    "encoder of the same name": lambda adata: {"encoder": Counting(1.1)},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_any_change_embeds_again(embedded, impute, change):
    adata, encoder = embedded
    before = adata.obsm["X_histology"].copy()
    options = {"encoder": encoder, **change(adata)}
    impute(adata, measured="measured", **options)
    assert options["encoder"].spent() == 3 * adata.n_obs
    if change is not rename_a_spot:
        assert not np.array_equal(adata.obsm["X_histology"], before)
    impute(adata, measured="measured", **options)
    assert options["encoder"].spent() == 0


def test_modules_that_differ_in_more_than_weights_are_told_apart(tissue, caplog):
    def pooled(pool):
        return torch.nn.Sequential(pool(1), torch.nn.Flatten())

    snrmix.pp.embed_histology(tissue, encoder=pooled(torch.nn.AdaptiveAvgPool2d))
    snrmix.pp.embed_histology(tissue, encoder=pooled(torch.nn.AdaptiveMaxPool2d))
    assert "reusing" not in caplog.text
    snrmix.pp.embed_histology(tissue, encoder=pooled(torch.nn.AdaptiveMaxPool2d))
    assert "reusing" in caplog.text


@pytest.mark.parametrize("foreign", ["text", {"encoder": "colour"}, {}], ids=["text", "incomplete", "empty"])
def test_embedding_of_unknown_origin_is_neither_used_nor_lost(tissue, impute, assert_unchanged, foreign):
    tissue.obsm["X_histology"] = np.zeros((tissue.n_obs, 36), np.float32)
    tissue.uns["X_histology"] = foreign
    before = tissue.copy()
    with pytest.raises(ValueError, match="not of snrmix, and would be overwritten: rename it"):
        impute(tissue)
    assert_unchanged(before, tissue)


# SpatialData


def test_spatialdata_gets_its_result_in_the_table(sdata, impute, assert_unchanged):
    table = sdata["table"]
    before = table.copy()
    assert impute(sdata) is None
    assert sdata["table"] is table and table.layers["snrmix"].shape == table.shape
    np.testing.assert_array_equal(table.obsm["spatial"], before.obsm["spatial"])
    assert_unchanged(before.obs, table.obs[before.obs.columns])


def test_spatialdata_copy_is_one_of_the_table(sdata, impute, assert_unchanged):
    before = sdata["table"].copy()
    result = impute(sdata, copy=True)
    assert isinstance(result, anndata.AnnData) and "snrmix" in result.layers
    assert_unchanged(before, sdata["table"])


def test_spatialdata_with_its_result_is_written_and_read(sdata, impute, tmp_path, caplog):
    from spatialdata import read_zarr

    impute(sdata)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sdata.write(tmp_path / "section.zarr")
        back = read_zarr(tmp_path / "section.zarr")
    np.testing.assert_array_equal(back["table"].layers["snrmix"], sdata["table"].layers["snrmix"])
    caplog.clear()
    impute(back)
    assert "reusing the histology embedding" in caplog.text
    np.testing.assert_array_equal(back["table"].layers["snrmix"], sdata["table"].layers["snrmix"])


def test_table_key_chooses_the_table(sdata, impute):
    sdata.tables["coarse"] = sdata["table"].copy()
    impute(sdata, table_key="coarse")
    assert "snrmix" in sdata["coarse"].layers and "snrmix" not in sdata["table"].layers
    impute(sdata)
    assert "snrmix" in sdata["table"].layers


@pytest.mark.parametrize(
    ("part", "name"), [("obs", "cell_model"), ("var", "cell_mse"), ("layers", "cell_sd"), ("varm", "cell_calibration")]
)
def test_columns_of_others_are_not_overwritten(tissue, impute, part, name):
    shape = {"obs": tissue.n_obs, "var": tissue.n_vars, "layers": tissue.shape, "varm": (tissue.n_vars, 2)}[part]
    getattr(tissue, part)[name] = np.zeros(shape)
    with pytest.raises(ValueError, match=rf"key_added='cell' would overwrite something else: {part}\['{name}'\]"):
        impute(tissue, key_added="cell")
    assert (np.asarray(getattr(tissue, part)[name]) == 0).all() and "cell" not in tissue.uns


def test_rare_genes_keep_what_was_observed_at_measured_spots(tissue, impute):
    counts = tissue.X.toarray()
    counts[:, 0] = 0
    counts[:3, 0] = 7
    tissue.X = counts
    tissue.obs["measured"] = np.arange(tissue.n_obs) % 3 > 0
    impute(tissue, measured="measured", genes=None)
    measured = tissue.obs["measured"].to_numpy()
    wanted = np.log1p(1e4 * counts[:, 0] / counts.sum(1))
    values, sd = tissue.layers["snrmix"][:, 0], tissue.layers["snrmix_sd"][:, 0]
    assert not tissue.var["snrmix_modelled"].iloc[0]
    np.testing.assert_allclose(values[measured], wanted[measured], rtol=1e-5)
    np.testing.assert_allclose(values[~measured], wanted[measured].mean(), rtol=1e-5)
    assert (sd[measured] == 0).all() and (sd[~measured] > 0).all()
