"""The method as an object: fit, predict other sections, save, load."""

import json
import logging

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

import snrmix

FAST = {"encoder": "colour", "max_epochs": 2, "n_folds": 2}
LONGER = {"encoder": "colour", "max_epochs": 15, "n_folds": 3}


@pytest.fixture(scope="module")
def section():
    """A section, to be left as it is."""
    return snrmix.datasets.synthetic_tissue(n_rows=12, n_genes=30, image_px_per_pitch=16)


@pytest.fixture(scope="module")
def measured(section):
    return np.random.default_rng(0).random(section.n_obs) < 0.6


@pytest.fixture(scope="module")
def model(section, measured):
    return snrmix.SNRMix(**FAST).fit(section, measured=measured)


@pytest.fixture(scope="module")
def sisters():
    """Sections cut from one tissue in strips, the second paler; and a model of the first."""
    tissue = snrmix.datasets.synthetic_tissue(32, 60, image_px_per_pitch=16)
    strip = tissue.obs["array_col"].to_numpy() // 8 % 2
    first, second = (tissue[strip == k].copy() for k in (0, 1))
    image = second.uns["spatial"]["synthetic"]["images"]["hires"] * np.array([0.92, 0.97, 0.95])
    second.uns["spatial"]["synthetic"]["images"] = {"hires": image.astype(np.uint8)}
    return first, second, snrmix.SNRMix(**LONGER).fit(first)


def some(adata, n, seed=0):
    chosen = np.zeros(adata.n_obs, bool)
    chosen[np.random.default_rng(seed).permutation(adata.n_obs)[:n]] = True
    return chosen


def error(adata, model, predicted, rows):
    """Squared error to the truth, as a ratio to that of the mean."""
    truth = adata[:, model.genes].layers["truth"]
    return ((predicted - truth)[rows] ** 2).sum() / ((truth - truth.mean(0))[rows] ** 2).sum()


def log_normalised(adata):
    counts = adata.X.toarray().astype(float)
    return np.log1p(1e4 * counts / counts.sum(1, keepdims=True))


def layer_of(adata, model):
    return adata[:, model.genes].layers["snrmix"]


# Fit and predict


def test_prediction_is_that_of_imputes_networks(section, measured, model):
    imputed = snrmix.tl.impute(section, measured=measured, kriging=False, copy=True, **FAST)
    predicted = model.predict(section).X
    assert predicted.shape == (section.n_obs, len(model.genes)) and predicted.dtype == np.float32
    np.testing.assert_array_equal(predicted[~measured], layer_of(imputed, model)[~measured])
    assert list(model.genes) == sorted(imputed.var_names[imputed.var["snrmix_modelled"]])
    assert model.units == imputed.uns["snrmix"]["units"]


def test_scores_are_those_of_impute(section, measured, model):
    imputed = snrmix.tl.impute(section, measured=measured, copy=True, **FAST)
    pd.testing.assert_frame_equal(model.scores, imputed.uns["snrmix"]["scores"], check_exact=True)
    for column in ("pearson", "mse", "explained", "reliable"):
        np.testing.assert_array_equal(
            model.gene_scores[column], imputed.var[f"snrmix_{column}"][model.gene_scores.index]
        )
    assert model.gene_scores["pearson_network"].mean() == pytest.approx(
        model.scores.loc["network", "pearson"], abs=1e-6
    )


def test_measured_spots_of_the_fit_are_predicted_out_of_fold(section, measured, model):
    """As impute's networks do, but for one shift per gene and fold."""
    networks = snrmix.SNRMix(kriging=False, **FAST).fit(section, measured=measured)
    imputed = snrmix.tl.impute(
        section, measured=measured, kriging=False, fill="all", at_depth="spot", copy=True, **FAST
    )
    out_of_fold, found = layer_of(imputed, model)[measured], networks.predict(section, measured=measured).X[measured]
    for values, expected in zip(found.T, out_of_fold.T, strict=True):
        positive = (values > 0) & (expected > 0)
        shift = np.sort((values - expected)[positive])
        assert (np.diff(shift) > 1e-5).sum() <= 1  # two folds: two shifts


def test_with_measured_the_same_section_gets_about_what_impute_gives(sisters):
    first, _, _ = sisters
    known = some(first, 200)
    model = snrmix.SNRMix(**LONGER).fit(first, measured=known)
    imputed = snrmix.tl.impute(first, measured=known, fill="all", copy=True, **LONGER)
    predicted = model.predict(first, measured=known).X
    for rows in (known, ~known):
        ours, theirs = (error(first, model, values, rows) for values in (predicted, layer_of(imputed, model)))
        assert ours == pytest.approx(theirs, abs=0.02)


def test_image_of_a_sister_section_beats_its_mean(sisters):
    _, second, model = sisters
    everywhere = np.ones(second.n_obs, bool)
    assert error(second, model, model.predict(second).X, everywhere) < 0.8


@pytest.mark.parametrize("n", [20, 60])
def test_few_measured_spots_help_on_a_sister_section(sisters, n):
    _, second, model = sisters
    known = some(second, n)
    alone = snrmix.tl.impute(second, measured=known, copy=True, **LONGER)
    values = {
        "image": model.predict(second).X,
        "both": model.predict(second, measured=known).X,
        "alone": layer_of(alone, model),
    }
    found = {name: error(second, model, value, ~known) for name, value in values.items()}
    assert found["both"] < found["image"] - 0.08
    assert found["both"] < found["alone"] - 0.03


def test_order_of_rows_and_genes_changes_nothing(sisters):
    _, second, model = sisters
    known, order = some(second, 40), np.random.default_rng(3).permutation(second.n_obs)
    shuffled = second[order][:, second.var_names[::-1]].copy()
    np.testing.assert_array_equal(model.predict(shuffled).X, model.predict(second).X[order])
    np.testing.assert_array_equal(
        model.predict(shuffled, measured=known[order]).X, model.predict(second, measured=known).X[order]
    )


def test_values_of_unmeasured_spots_never_matter(sisters):
    _, second, model = sisters
    known, spoilt = some(second, 40), second.copy()
    spoilt.X = spoilt.X.toarray()
    spoilt.X[~known] = np.nan
    np.testing.assert_array_equal(model.predict(spoilt, measured=known).X, model.predict(second, measured=known).X)


def test_an_image_and_positions_are_enough(section, model):
    bare = anndata.AnnData(obs=section.obs, obsm={"spatial": section.obsm["spatial"]}, uns=section.uns)
    assert bare.n_vars == 0
    np.testing.assert_array_equal(model.predict(bare).X, model.predict(section).X)


def test_spatialdata_is_predicted_as_anndata(tissue, sdata):
    model = snrmix.SNRMix(genes=10, **FAST).fit(sdata)
    found = pd.DataFrame(model.predict(sdata).X, sdata["table"].obs_names).loc[tissue.obs_names]
    np.testing.assert_allclose(found, model.predict(tissue).X, atol=0.05)
    assert np.corrcoef(found.to_numpy().ravel(), model.predict(tissue).X.ravel())[0, 1] > 0.999


def test_libraries_are_predicted_each_by_itself(section, model):
    other = snrmix.datasets.synthetic_tissue(10, 30, image_px_per_pitch=24, random_state=1)
    other.uns["spatial"]["b"] = other.uns["spatial"].pop("synthetic")
    slides = {"synthetic": section.copy(), "b": other}
    both = anndata.concat(slides, label="library_id", index_unique="-", uns_merge="unique", join="outer", fill_value=0)
    predicted = model.predict(both).X
    for name, slide in slides.items():
        np.testing.assert_allclose(predicted[both.obs["library_id"] == name], model.predict(slide).X, atol=1e-6)


def test_libraries_without_measured_spots_are_no_part_of_the_fit(section, measured, model):
    both = anndata.concat({"a": section, "b": section}, label="library_id", index_unique="-", merge="same")
    both.uns["spatial"] = dict.fromkeys("ab", section.uns["spatial"]["synthetic"])
    known = np.append(measured, np.zeros(section.n_obs, bool))
    again = snrmix.SNRMix(**FAST).fit(both, measured=known)
    np.testing.assert_array_equal(again.predict(section).X, model.predict(section).X)


def test_features_from_obsm(section, measured):
    adata = section.copy()
    adata.obsm["features"] = np.random.default_rng(0).normal(size=(adata.n_obs, 5))
    model = snrmix.SNRMix(use_rep="features", max_epochs=2, n_folds=2).fit(adata, measured=measured)
    bare = anndata.AnnData(obs=adata.obs[[]], obsm={name: adata.obsm[name] for name in ("spatial", "features")})
    imputed = snrmix.tl.impute(
        adata, use_rep="features", measured=measured, kriging=False, max_epochs=2, n_folds=2, copy=True
    )
    np.testing.assert_array_equal(model.predict(bare).X[~measured], layer_of(imputed, model)[~measured])
    bare.obsm["features"] = bare.obsm["features"][:, :4]
    with pytest.raises(ValueError, match=r"obsm\['features'\] has 4 features, and the model was fitted to 5"):
        model.predict(bare)


def test_a_single_split_can_be_asked_with_measured_spots(sisters, caplog):
    first, second, _ = sisters
    model = snrmix.SNRMix(**{**LONGER, "n_folds": 1}).fit(first)
    known = some(second, 60)
    predicted = model.predict(second, measured=known).X
    assert np.isfinite(predicted).all()
    assert error(second, model, predicted, ~known) < error(second, model, model.predict(second).X, ~known) - 0.08
    assert "trained on" not in caplog.text
    model.predict(first, measured=np.ones(first.n_obs, bool))
    assert f"{round(0.8 * first.n_obs)} of the measured spots were trained on by every network" in caplog.text


def test_log_values_stay_in_their_units(section, measured):
    logs = section.copy()
    logs.X = log_normalised(section) / np.log(2)
    model = snrmix.SNRMix(**FAST).fit(logs, measured=measured)
    mean = logs[:, model.genes].X[measured].mean(0)
    np.testing.assert_allclose(model.predict(logs).X.mean(0), mean, atol=0.3)
    with pytest.raises(ValueError, match="looks like counts, and the model was fitted to log: pass layer="):
        model.predict(section, measured=measured)


# Genes of the other section


def test_a_gene_seen_in_too_few_measured_spots_is_left_to_the_networks(sisters):
    _, second, model = sisters
    known, adata = some(second, 40), second.copy()
    adata.X = adata.X.toarray()
    adata.X[known, adata.var_names.get_loc("FAT_02")] = 0
    column = list(model.genes).index("FAT_02")
    found, image = model.predict(adata, measured=known).X, model.predict(adata).X
    np.testing.assert_array_equal(found[:, column], image[:, column])
    assert (np.abs(found - image).max(0) > 0.01).sum() == len(model.genes) - 1


def test_missing_genes_are_named(section, measured, model):
    few = section[:, [name for name in section.var_names if name not in ("FAT_01", "NOISE_02")]].copy()
    np.testing.assert_array_equal(model.predict(few).X, model.predict(section).X)
    with pytest.raises(KeyError, match="2 of 30 genes are not in var_names: 'FAT_01' .*, 'NOISE_02' "):
        model.predict(few, measured=measured)


# Physical size


def test_image_scale_hardly_matters(section, model):
    finer = snrmix.datasets.synthetic_tissue(n_rows=12, n_genes=30, image_px_per_pitch=32)
    common = section.obs_names.intersection(finer.obs_names)
    coarse, fine = (model.predict(adata[common].copy()).X for adata in (section, finer))
    deviations = (coarse - coarse.mean(0)).ravel(), (fine - fine.mean(0)).ravel()
    assert np.corrcoef(*deviations)[0, 1] > 0.9


def test_patches_keep_their_size_in_micrometres_on_another_array(sisters, caplog):
    """Every fourth row and other column: an array of 200 um where the model was fitted to one of 100."""
    section, _, model = sisters
    rows = ((section.obs["array_row"] % 4 == 0) & (section.obs["array_col"] % 4 == 0)).to_numpy()
    sparse = section[rows].copy()
    del sparse.obs["array_row"], sparse.obs["array_col"]
    half_pitch = np.diff(np.unique(section.obsm["spatial"][:, 0].round(3))).min()
    with caplog.at_level(logging.INFO, logger="snrmix"):
        found = model.predict(sparse, um_per_px=50 / half_pitch).X
    assert "patches of 0.575, 1.15, 2.3 spot pitches, the same size in micrometres" in caplog.text
    expected = model.predict(section).X[rows]
    np.testing.assert_allclose(found, expected, atol=0.01)
    caplog.clear()
    at_pitch = model.predict(sparse).X
    assert "micrometres per pixel are unknown here for 'synthetic'" in caplog.text
    assert np.abs(at_pitch - expected).max() > 0.2


def test_a_fit_without_known_size_takes_multiples_of_the_pitch(section, measured, model, caplog):
    unknown = section.copy()
    del unknown.obs["array_row"], unknown.obs["array_col"]
    again = snrmix.SNRMix(**FAST).fit(unknown, measured=measured)
    assert again.encoding.sides_um is None and model.encoding.sides_um == pytest.approx((115, 230, 460), rel=0.01)
    caplog.clear()
    np.testing.assert_allclose(again.predict(section).X, again.predict(unknown).X, atol=1e-5)
    assert "micrometres per pixel are unknown there, or its libraries differ" in caplog.text


# The user's objects


def test_data_and_random_state_stay_as_they_were(section, measured, assert_unchanged):
    adata, before = section.copy(), section.copy()
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    model = snrmix.SNRMix(**FAST).fit(adata, measured=measured)
    model.predict(adata)
    model.predict(adata, measured=measured)
    assert_unchanged(before, adata)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_a_stored_embedding_is_reused(section, measured, model, caplog):
    adata = section.copy()
    snrmix.pp.embed_histology(adata, encoder="colour")
    with caplog.at_level(logging.INFO, logger="snrmix"):
        predicted = model.predict(adata).X
    assert "reusing the histology embedding" in caplog.text
    np.testing.assert_array_equal(predicted, model.predict(section).X)


def test_a_failed_fit_leaves_the_model(section, measured):
    model = snrmix.SNRMix(**FAST).fit(section, measured=measured)
    expected = model.predict(section).X
    with pytest.raises(ValueError, match="are measured"):
        model.fit(section, measured=some(section, 10))
    np.testing.assert_array_equal(model.predict(section).X, expected)


# Save and load


def test_saved_model_predicts_the_same(sisters, tmp_path):
    _, second, model = sisters
    known = some(second, 40)
    model.save(tmp_path / "new" / "model")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["model", "model.json", "new", "weights.safetensors"]
    again = snrmix.SNRMix.load(tmp_path / "new" / "model")
    np.testing.assert_array_equal(again.predict(second).X, model.predict(second).X)
    np.testing.assert_array_equal(again.predict(second, measured=known).X, model.predict(second, measured=known).X)
    np.testing.assert_array_equal(again.genes, model.genes)
    assert again.units == model.units and str(again) == str(model) == "SNRMix(60 genes, log1p(counts per 10,000))"
    pd.testing.assert_frame_equal(again.scores, model.scores, check_exact=True)
    pd.testing.assert_frame_equal(again.gene_scores, model.gene_scores, check_exact=True)
    again.save(tmp_path / "copy")
    for name in ("model.json", "weights.safetensors"):
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "new" / "model" / name).read_bytes()


def test_a_model_that_was_fitted_on_a_gpu_predicts_without_one(section, model, tmp_path, monkeypatch):
    expected = model.predict(section).X
    monkeypatch.setitem(model.options, "accelerator", "gpu")
    model.save(tmp_path / "model")
    again = snrmix.SNRMix.load(tmp_path / "model")
    assert again.options["accelerator"] == "auto"
    np.testing.assert_array_equal(again.predict(section).X, expected)


def test_many_genes_come_from_saved_components(tmp_path):
    """Above 512 genes the networks predict principal components."""
    adata = snrmix.datasets.synthetic_tissue(20, 520, image_px_per_pitch=8)
    model = snrmix.SNRMix(**{**FAST, "max_epochs": 1, "kriging": False}).fit(adata)
    assert model._network.targets[0].basis is not None
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(snrmix.SNRMix.load(tmp_path / "model").predict(adata).X, model.predict(adata).X)


def test_record_is_json_that_says_what_was_fitted(section, measured, tmp_path):
    options = {"mix": snrmix.SNRMixing(k=7), "losses": snrmix.Losses(edge=0), "genes": np.array(["FAT_01", "FAT_02"])}
    snrmix.SNRMix(**options, **FAST).fit(section, measured=measured).save(tmp_path / "model")
    record = json.loads((tmp_path / "model" / "model.json").read_text(), parse_constant=pytest.fail)
    assert record["format"] == 1 and record["genes"] == ["FAT_01", "FAT_02"]
    assert record["versions"]["snrmix"] == snrmix.__version__
    assert record["options"]["mix"]["name"] == "SNRMixing" and record["options"]["mix"]["k"] == 7
    assert record["options"]["losses"]["edge"] == 0 and record["options"]["genes"] == ["FAT_01", "FAT_02"]
    assert record["encoding"]["encoder"] == "colour" and len(record["encoding"]["sides_um"]) == 3


def test_scores_without_a_value_survive(model):
    from snrmix.model.saved import table_of_record, table_to_record

    table = pd.DataFrame(
        {"a": [1.5, np.nan], "b": [np.nan, np.nan], "c": [True, False]}, pd.Index(["x", "y"], name="gene")
    )
    again = table_of_record(json.loads(json.dumps(table_to_record(table), allow_nan=False)))
    pd.testing.assert_frame_equal(again, table, check_exact=True)


def test_own_encoder_is_asked_for_again(section, measured, tmp_path):
    def brightness(patches):
        return patches.mean((2, 3))

    def darkness(patches):
        return 1 - patches.mean((2, 3))

    model = snrmix.SNRMix(**{**FAST, "encoder": brightness}).fit(section, measured=measured)
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="encoder of your own, 'brightness', which is not stored"):
        snrmix.SNRMix.load(tmp_path / "model")
    with pytest.raises(ValueError, match="'darkness' is not the one that the model was fitted with, 'brightness'"):
        snrmix.SNRMix.load(tmp_path / "model", encoder=darkness)
    again = snrmix.SNRMix.load(tmp_path / "model", encoder=brightness)
    np.testing.assert_array_equal(again.predict(section).X, model.predict(section).X)
    again.save(tmp_path / "again")
    with pytest.raises(ValueError, match="encoder of your own"):
        snrmix.SNRMix.load(tmp_path / "again")


def test_a_model_is_not_replaced_by_accident(model, tmp_path):
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="holds a model already; pass overwrite=True"):
        model.save(tmp_path / "model")
    model.save(tmp_path / "model", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    (tmp_path / "empty").mkdir()
    model.save(tmp_path / "empty")
    (tmp_path / "model" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds other files \('notes.txt'\); choose a new folder"):
        model.save(tmp_path / "model", overwrite=True)
    with pytest.raises(ValueError, match="is a file; pass the name of a folder"):
        model.save(tmp_path / "model" / "notes.txt")


@pytest.mark.parametrize("step", ["json.dumps", "os.rename"])
def test_a_failed_save_leaves_what_was_there(section, model, tmp_path, monkeypatch, step):
    model.save(tmp_path / "model")
    calls, rename = [], __import__("os").rename

    def fail(*arguments, **_):
        calls.append(arguments)
        if step == "os.rename" and len(calls) != 2:  # the second one moves the new model in
            return rename(*arguments)
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(f"snrmix.model.saved.{step}", fail)
        with pytest.raises(OSError, match="disk full"):
            model.save(tmp_path / "model", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    np.testing.assert_array_equal(snrmix.SNRMix.load(tmp_path / "model").predict(section).X, model.predict(section).X)


def test_what_is_no_model_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="'model.json', 'weights.safetensors' missing; there is no such folder"):
        snrmix.SNRMix.load(tmp_path / "nothing")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("")
    with pytest.raises(ValueError, match="is no model that SNRMix.save wrote.*it has 'a.txt'"):
        snrmix.SNRMix.load(tmp_path / "other")
    model.save(tmp_path / "model")
    weights, record = tmp_path / "model" / "weights.safetensors", tmp_path / "model" / "model.json"
    text = record.read_text()
    record.write_text(text.replace('"format": 1', '"format": 2'))
    with pytest.raises(ValueError, match="has format 2, and this snrmix reads up to 1: update snrmix"):
        snrmix.SNRMix.load(tmp_path / "model")
    for broken in (text[:100], "[]", text.replace('"encoding"', '"coding"')):
        record.write_text(broken)
        with pytest.raises(ValueError, match="is damaged"):
            snrmix.SNRMix.load(tmp_path / "model")
    record.write_text(text)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is damaged"):
        snrmix.SNRMix.load(tmp_path / "model")
    weights.unlink()
    with pytest.raises(ValueError, match="'weights.safetensors' missing; it has 'model.json'"):
        snrmix.SNRMix.load(tmp_path / "model")


# Refusals


def test_options_are_those_of_impute_but_for_its_output():
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_epoch'. Did you mean 'max_epochs'"):
        snrmix.SNRMix(max_epoch=3)
    for name in ("measured", "fill", "key_added", "copy", "share"):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            snrmix.SNRMix(**{name: None})
    for name, value in {"finetune": True, "finetuning": snrmix.Finetuning(), "preset": "paper"}.items():
        with pytest.raises(
            ValueError, match=f"{name}= is for snrmix.tl.impute: SNRMix keeps networks on frozen features"
        ):
            snrmix.SNRMix(**{name: value})


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"mix": "snrr"}, ValueError, "unknown mix='snrr'"),
        ({"mix": snrmix.CutMix()}, ValueError, "CutMix mixes pixels"),
        ({"losses": 1}, TypeError, "losses must be a snrmix.Losses, not int"),
        ({"kriging": "no"}, TypeError, "kriging='no' must be True or False"),
        ({"random_state": -1}, ValueError, "random_state=-1 must be a whole number"),
        ({"hidden": 0}, ValueError, "hidden=0 must be a whole number"),
        ({"accelerator": "tpu"}, ValueError, "accelerator='tpu' is unknown; choose"),
    ],
)
def test_options_are_checked_at_once(options, kind, message):
    with pytest.raises(kind, match=message):
        snrmix.SNRMix(**options)


def test_a_model_must_be_fitted_first(section, tmp_path):
    model = snrmix.SNRMix()
    assert str(model) == "SNRMix(not fitted)"
    for call in (lambda: model.predict(section).X, lambda: model.save(tmp_path / "model")):
        with pytest.raises(ValueError, match="the model is not fitted; call fit"):
            call()
    assert not list(tmp_path.iterdir())


def test_a_loaded_model_is_not_fitted_again(section, model, tmp_path):
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="a loaded model cannot be fitted again; make a new one"):
        snrmix.SNRMix.load(tmp_path / "model").fit(section)


def test_without_an_image_there_is_nothing_to_predict_from(section, measured, model):
    bare = section.copy()
    del bare.uns["spatial"]
    for call in (lambda: snrmix.SNRMix(**FAST).fit(bare, measured=measured), lambda: model.predict(bare).X):
        with pytest.raises(KeyError, match="no image for library 'synthetic'.*Pass image="):
            call()
