"""Several slides in one object: a model of each, a shared one, and slides that have an image alone."""

import logging

import anndata
import numpy as np
import pandas as pd
import pytest

import snrmix
from snrmix.data.embedding import EmbeddingPlan
from snrmix.engine import sharing
from snrmix.engine.folds import Fold
from snrmix.plan.options import read_options
from snrmix.plan.parts import plan_models
from snrmix.plan.source import read_source
from snrmix.plan.splits import settle_neighbours

FAST = {"encoder": "colour", "max_epochs": 2, "n_folds": 2}
LONGER = {"encoder": "colour", "max_epochs": 15, "n_folds": 3}
RARE = "gene_3"
READ = dict.fromkeys(("layer", "genes", "image", "image_key", "um_per_px", "table_key", "library_key", "depth_key"))
READ |= {"units": "auto", "need_features": False}


@pytest.fixture(scope="module")
def pair():
    """Two slides that differ in size, image scale and tissue; a gene is rare on one of them. Embedded."""
    slides = {}
    for name, n_rows, px, seed in (("left", 12, 16, 0), ("right", 10, 24, 1)):
        slide = snrmix.datasets.synthetic_tissue(n_rows, 30, image_px_per_pitch=px, random_state=seed)
        slide.obs["library_id"] = name
        slide.uns["spatial"][name] = slide.uns["spatial"].pop("synthetic")
        slide.obs_names = f"{name}_" + slide.obs_names
        slide.var_names = [f"gene_{i}" for i in range(30)]
        slides[name] = slide
    both = anndata.concat(slides, uns_merge="unique")
    counts = both.X.toarray()
    on_left = np.flatnonzero(both.obs["library_id"] == "left")
    counts[on_left, 3] = 0
    counts[on_left[:3], 3] = 2
    counts[on_left, 5] = counts[on_left].sum(1) / 50
    both.X = np.rint(counts)
    both.obs["measured"] = np.random.default_rng(0).random(both.n_obs) < 0.6
    snrmix.pp.embed_histology(both, encoder="colour")
    return both


@pytest.fixture(scope="module")
def separate(pair):
    """Both imputed in one call, each with its own model."""
    return snrmix.tl.impute(pair, measured="measured", share=False, n_repeats=2, copy=True, **FAST)


@pytest.fixture(scope="module")
def strips():
    """A section cut in strips that four slides take in turn: slides of one tissue. No spot of ``"d"`` is measured."""
    tissue = snrmix.datasets.synthetic_tissue(32, 60, image_px_per_pitch=16, random_state=0)
    image = tissue.uns["spatial"].pop("synthetic")
    slide = tissue.obs["array_col"].to_numpy() // 8 % 4
    tissue.obs["library_id"] = np.array(list("abcd"))[slide]
    tissue.uns["spatial"] = dict.fromkeys("abcd", image)
    tissue.obs["measured"] = slide < 3
    snrmix.pp.embed_histology(tissue, encoder="colour")
    return tissue


@pytest.fixture(scope="module")
def few_strips(strips):
    """A third of their spots."""
    return strips[::3].copy()


@pytest.fixture(scope="module")
def with_image_alone(strips):
    """All four imputed; the last is predicted from the others."""
    return snrmix.tl.impute(strips, measured="measured", fill="all", at_depth="spot", share=False, copy=True, **LONGER)


def of(adata, name):
    return (adata.obs["library_id"] == name).to_numpy()


def log_normalised(adata):
    counts = np.asarray(adata.X.toarray() if hasattr(adata.X, "toarray") else adata.X, float)
    return np.log1p(1e4 * counts / counts.sum(1, keepdims=True))


# A model of each slide


@pytest.mark.parametrize("name", ["left", "right"])
def test_a_slide_gets_what_it_gets_alone(pair, separate, name):
    rows = of(pair, name)
    alone = pair[rows].copy()
    del alone.obsm["X_histology"], alone.uns["X_histology"]
    snrmix.tl.impute(alone, measured="measured", n_repeats=2, **FAST)
    for layer in ("snrmix", "snrmix_sd"):
        np.testing.assert_array_equal(alone.layers[layer], separate.layers[layer][rows])
    for one, both in zip(snrmix.tl.interval(alone, 0.8), snrmix.tl.interval(separate, 0.8), strict=True):
        np.testing.assert_array_equal(one, both[rows])
    record = separate.uns["snrmix"]["libraries"][name]
    pd.testing.assert_frame_equal(record["scores"], alone.uns["snrmix"]["scores"], check_exact=True)
    for column in record["genes"]:
        own = alone.var[f"snrmix_{column}"][record["genes"].index]
        np.testing.assert_array_equal(record["genes"][column], own)
    np.testing.assert_array_equal(record["history"]["train_loss"], alone.uns["snrmix"]["history"]["train_loss"])
    assert record["kind"] == "own" and record["n_spots_scored"] == alone.uns["snrmix"]["n_spots_scored"]
    held_out = rows & ~pair.obs["measured"].to_numpy()
    pd.testing.assert_frame_equal(
        snrmix.tl.coverage(separate, held_out), snrmix.tl.coverage(alone, held_out[rows]), check_exact=True
    )


def test_genes_are_modelled_where_they_are_seen(pair, separate):
    left, measured = of(pair, "left"), pair.obs["measured"].to_numpy()
    values, observed = separate[:, RARE].layers["snrmix"][:, 0], log_normalised(pair)[:, 3]
    np.testing.assert_allclose(values[left & ~measured], observed[left & measured].mean(), rtol=1e-5)
    np.testing.assert_allclose(values[left & measured], observed[left & measured], rtol=1e-5)
    assert separate[:, RARE].layers["snrmix"][~left & ~measured].std() > 0
    assert separate.var["snrmix_modelled"].all()
    libraries = separate.uns["snrmix"]["libraries"]
    assert RARE not in libraries["left"]["genes"].index
    assert separate.var.loc[RARE, "snrmix_mse"] == libraries["right"]["genes"].loc[RARE, "mse"]
    assert not separate.var.loc[RARE, "snrmix_reliable"]
    assert len(snrmix.tl.evaluate(separate, ~measured)) == 30


@pytest.mark.parametrize("named", [0, 1], ids=["alone", "with a name"])
def test_number_of_genes_means_those_of_highest_mean_over_all_slides(pair, named):
    mean = log_normalised(pair)[pair.obs["measured"]].mean(0)
    order = np.argsort(-mean)
    also = list(pair.var_names[order[10 : 10 + named]])
    result = snrmix.tl.impute(pair, measured="measured", genes=[6, *also] if named else 6, copy=True, **FAST)
    assert set(np.flatnonzero(result.var["snrmix_modelled"])) == {*order[:6], *order[10 : 10 + named]}
    assert np.isfinite(result.layers["snrmix"][:, result.var["snrmix_modelled"]]).all()


def test_which_model_predicts_a_spot(pair, separate, with_image_alone):
    assert list(separate.obs["snrmix_model"]) == list(pair.obs["library_id"])
    assert list(separate.uns["snrmix"]["models"]) == ["left", "right"]
    expected = np.where(of(with_image_alone, "d"), "other slides", with_image_alone.obs["library_id"])
    assert list(with_image_alone.obs["snrmix_model"]) == list(expected)


@pytest.mark.parametrize("share", [False, True])
def test_scores_are_means_over_slides_of_out_of_fold_scores(pair, share):
    result = snrmix.tl.impute(pair, measured="measured", fill="all", at_depth="spot", share=share, copy=True, **FAST)
    observed, measured = log_normalised(pair), pair.obs["measured"].to_numpy()
    genes = [name for name in pair.var_names if name not in (RARE, "gene_5")]
    places = pair.var_names.get_indexer(genes)
    found = {"pearson": [], "mse": []}
    for name in ("left", "right"):
        rows = measured & of(pair, name)
        y, f = observed[rows][:, places], result.layers["snrmix"][rows][:, places]
        found["mse"].append(((y - f) ** 2).mean(0))
        fold = result.obs["snrmix_fold"].to_numpy()[rows]
        centred = f - [y[fold != k].mean(0) for k in fold]  # depth of folds apart, which has .03 here
        found["pearson"].append([np.corrcoef(a, b)[0, 1] for a, b in zip(y.T, centred.T, strict=True)])
        table = result.uns["snrmix"]["libraries"][name]["genes"].loc[genes]
        assert np.abs(table["pearson"] - found["pearson"][-1]).mean() < 0.05  # kriging leaves out half as many spots
    means = {name: result.uns["snrmix"]["libraries"][name]["genes"].loc[genes, "pearson"] for name in ("left", "right")}
    np.testing.assert_allclose(result.var.loc[genes, "snrmix_pearson"], sum(means.values()) / 2, atol=1e-12)
    np.testing.assert_allclose(result.var.loc[genes, "snrmix_mse"], np.mean(found["mse"], axis=0), atol=1e-5)


@pytest.mark.parametrize("share", [False, True])
def test_reliable_means_reliable_on_every_measured_slide(pair, monkeypatch, share):
    every = iter([2, 3])
    reliable = lambda observed, *rest, **named: np.arange(observed.shape[1]) % next(every) == 0  # noqa: E731
    monkeypatch.setattr("snrmix.engine.scores.by_library.pattern_is_real", reliable)
    genes = [f"gene_{i}" for i in range(10, 22)]
    result = snrmix.tl.impute(pair, measured="measured", genes=genes, share=share, copy=True, **FAST)
    assert list(np.flatnonzero(result.var["snrmix_reliable"][genes])) == [0, 6]


def test_results_of_several_models_are_drawn(strips, with_image_alone):
    for draw in (snrmix.pl.training, snrmix.pl.weights, snrmix.pl.gene_scores):
        assert np.ravel(draw(with_image_alone, show=False))[0].has_data()
    assert np.ravel(snrmix.pl.calibration(with_image_alone, of(strips, "d"), show=False))[0].has_data()
    curves = with_image_alone.uns["snrmix"]["history"]["validation_mse"]
    assert len(curves) == 4 * 3  # three folds on each slide, and three slides left out


# A shared model


def test_a_shared_model_is_one_model(pair, separate):
    result = separate.copy()
    snrmix.tl.impute(result, measured="measured", share=True, **FAST)
    assert "snrmix_model" not in result.obs and "snrmix_calibration" not in result.varm
    assert "models" not in result.uns["snrmix"] and result.uns["snrmix"]["parameters"]["share"]
    assert {record["kind"] for record in result.uns["snrmix"]["libraries"].values()} == {"shared"}
    assert np.isfinite(result.layers["snrmix"]).all()
    unmeasured = ~pair.obs["measured"].to_numpy()
    assert np.abs(result.layers["snrmix"] - separate.layers["snrmix"])[unmeasured].mean() > 0.01


def test_a_shared_model_learns_from_few_spots_of_another_slide(few_strips):
    """20 measured spots say little by themselves."""
    few = few_strips.obs["measured"].to_numpy() & ~of(few_strips, "a")
    few[np.random.default_rng(0).choice(np.flatnonzero(of(few_strips, "a")), 20, replace=False)] = True
    hidden = of(few_strips, "a") & ~few
    error = {}
    for share in (False, True):
        result = snrmix.tl.impute(few_strips, measured=few, share=share, genes=20, copy=True, **LONGER)
        error[share] = snrmix.tl.evaluate(result, hidden).attrs["overall"]["mse_ratio"]
    assert error[True] < error[False] - 0.05


def test_more_folds_than_a_small_slide_has_spots(pair):
    measured = of(pair, "left")
    measured[np.flatnonzero(of(pair, "right"))[:20]] = True
    with pytest.raises(
        ValueError, match="library 'right': n_folds=12 is too many for 20 measured spots; use at most 10"
    ):
        snrmix.tl.impute(pair, measured=measured, n_folds=12, encoder="colour", max_epochs=1, copy=True)
    result = snrmix.tl.impute(
        pair, measured=measured, n_folds=12, share=True, encoder="colour", max_epochs=1, copy=True
    )
    assert result.uns["snrmix"]["n_spots_scored"] == measured.sum()


# Slides without measured spots


def test_a_slide_is_predicted_from_the_others_and_says_how_well(strips, with_image_alone):
    """Its score, from leaving out slides, is about the true one; that within slides is too good."""
    record, own = with_image_alone.uns["snrmix"]["libraries"]["d"], with_image_alone.uns["snrmix"]["scores"]
    true = snrmix.tl.evaluate(with_image_alone, of(strips, "d")).attrs["overall"]
    assert record["kind"] == "leave-library-out" and list(record["held_out"].index) == ["a", "b", "c"]
    assert true["mse_ratio"] < 0.9
    assert record["scores"].loc["snrmix", "mse_ratio"] == pytest.approx(true["mse_ratio"], abs=0.05)
    assert record["scores"].loc["snrmix", "pearson"] == pytest.approx(true["pearson_mean"], abs=0.05)
    assert own.loc["snrmix", "mse_ratio"] < true["mse_ratio"] - 0.05
    assert "spatial kNN" not in record["scores"].index


def test_intervals_hold_on_a_slide_without_measured_spots(strips, with_image_alone):
    table = snrmix.tl.coverage(with_image_alone, of(strips, "d"), levels=[0.8, 0.9])
    overall = table[table["by"] == "all"].set_index("level")["observed"]
    np.testing.assert_allclose(overall, overall.index, atol=0.04)


def test_coverage_tells_slides_apart(strips, with_image_alone):
    table = snrmix.tl.coverage(with_image_alone, np.ones(strips.n_obs, bool), levels=[0.9])
    by_library = table[table["by"] == "library"].set_index("group")["observed"]
    assert list(by_library.index) == list("abcd")
    np.testing.assert_allclose(by_library, 0.9, atol=0.05)


def test_measured_slides_do_not_care_for_others(strips, with_image_alone):
    rows = of(strips, "b")
    alone = snrmix.tl.impute(strips[rows].copy(), measured="measured", fill="all", at_depth="spot", copy=True, **LONGER)
    np.testing.assert_array_equal(alone.layers["snrmix"], with_image_alone.layers["snrmix"][rows])


def test_a_typical_depth_is_that_of_the_own_slide(pair):
    rows = of(pair, "left")
    how = {"fill": "all", "share": False, "copy": True, **FAST}
    both, alone = (snrmix.tl.impute(each, **how) for each in (pair, pair[rows].copy()))
    assert both.uns["snrmix"]["at_depth"] == "typical"
    assert both.uns["snrmix"]["typical_depth"][0] == alone.uns["snrmix"]["typical_depth"]
    for layer in ("snrmix", "snrmix_sd"):
        np.testing.assert_array_equal(alone.layers[layer], both.layers[layer][rows])


@pytest.mark.parametrize("share", [False, True])
def test_order_of_rows_changes_nothing(few_strips, share):
    measured = few_strips.obs["measured"] & (np.arange(few_strips.n_obs) % 3 > 0)
    expected = snrmix.tl.impute(few_strips, measured=measured.to_numpy(), share=share, genes=8, copy=True, **FAST)
    order = np.random.default_rng(5).permutation(few_strips.n_obs)
    shuffled = few_strips[order].copy()
    snrmix.tl.impute(shuffled, measured=measured.to_numpy()[order], share=share, genes=8, **FAST)
    for layer in ("snrmix", "snrmix_sd"):
        np.testing.assert_array_equal(shuffled[few_strips.obs_names].layers[layer], expected.layers[layer])
    model = {False: ["a", "b", "c", "other slides"], True: ["shared", "other slides"]}
    assert list(expected.uns["snrmix"]["models"]) == model[share]


def test_values_of_a_slide_without_measured_spots_never_matter(few_strips):
    expected = snrmix.tl.impute(
        few_strips, measured="measured", genes=list(few_strips.var_names[:8]), copy=True, **FAST
    )
    spoilt = few_strips.copy()
    spoilt.X = spoilt.X.toarray()
    spoilt.X[of(few_strips, "d")] = np.nan
    snrmix.tl.impute(spoilt, measured="measured", genes=list(few_strips.var_names[:8]), **FAST)
    np.testing.assert_array_equal(spoilt.layers["snrmix"], expected.layers["snrmix"])


def test_one_measured_slide_cannot_say_how_well_it_does_elsewhere(pair, caplog):
    with caplog.at_level(logging.WARNING):
        result = snrmix.tl.impute(pair, measured=of(pair, "left"), genes=10, copy=True, **FAST)
    assert "library 'right': predicted from library 'left' alone. Scores and intervals come from regions" in caplog.text
    assert "optimistic" in caplog.text
    assert result.uns["snrmix"]["libraries"]["right"]["kind"] == "within-library"
    values = result.layers["snrmix"][of(pair, "right")][:, result.var["snrmix_modelled"]]
    assert np.isfinite(values).all() and (values.std(0) > 0).mean() > 0.5


@pytest.fixture(scope="module")
def stained(strips):
    """Two of the strips, the second stained more strongly and three times shallower; and the same in the stain of the first."""
    two, rng = strips[of(strips, "a") | of(strips, "d")].copy(), np.random.default_rng(0)
    two.X = np.where(of(two, "d")[:, None], rng.binomial(two.X.toarray().astype(int), 1 / 3), two.X.toarray())
    other = two.copy()
    image = strips.uns["spatial"]["d"]["images"]["hires"]
    tinted = (255 * (image / 255) ** np.array([1.6, 1.3, 1.1])).astype(np.uint8)
    other.uns["spatial"] = {
        "a": strips.uns["spatial"]["a"],
        "d": {**strips.uns["spatial"]["d"], "images": {"hires": tinted}},
    }
    return two, other


def predict_strip(slides):
    """Predicted from the other one, and how good that is."""
    how = {"measured": of(slides, "a"), "genes": 20, "copy": True, **LONGER}
    result = snrmix.tl.impute(slides, **how)
    return result, snrmix.tl.evaluate(result, of(slides, "d")).attrs["overall"]


def test_another_stain_hardly_matters_to_a_slide_without_measured_spots(stained, monkeypatch):
    result, same = predict_strip(stained[0])
    assert result.uns["snrmix"]["image"]["stained_alike"]
    same, other = same["pearson_mean"], predict_strip(stained[1])[1]["pearson_mean"]
    monkeypatch.setattr(EmbeddingPlan, "in_common_stains", lambda plan: None)
    result, as_it_is = predict_strip(stained[1])
    assert "stained_alike" not in result.uns["snrmix"]["image"]
    as_it_is = as_it_is["pearson_mean"]
    assert other > same - 0.03 and other > as_it_is + 0.03, (same, other, as_it_is)


def test_intervals_from_one_slide_know_that_another_may_be_shallower(stained):
    slides = stained[0]
    result, _ = predict_strip(slides)
    assert 0.85 < snrmix.tl.coverage(result, of(slides, "d"), levels=[0.9])["observed"][0] <= 1


def test_without_an_image_another_slide_gets_the_mean(pair, caplog):
    bare = pair.copy()
    del bare.uns["spatial"], bare.obsm["X_histology"], bare.uns["X_histology"]
    snrmix.tl.impute(bare, measured=of(pair, "left"), genes=["gene_8", "gene_9"], n_folds=2)
    assert "library 'right': without an image or use_rep= other libraries tell only the mean" in caplog.text
    expected = log_normalised(pair)[of(pair, "left")][:, [8, 9]].mean(0)
    np.testing.assert_allclose(
        bare.layers["snrmix"][of(pair, "right")][:, [8, 9]], np.tile(expected, (of(pair, "right").sum(), 1)), rtol=1e-4
    )


# Both weighed


@pytest.fixture(scope="module")
def weighed(few_strips):
    """Three slides of one tissue with a third of the spots, half of which are measured: weighed, and each by itself."""
    measured = np.random.default_rng(1).random(len(few_strips)) < np.where(of(few_strips, "d"), 0, 0.5)
    how = {"measured": measured, "fill": "all", "at_depth": "spot", "genes": 20, "copy": True, **LONGER}
    results = {share: snrmix.tl.impute(few_strips, share=share, **how) for share in ("auto", False, True)}
    return results, measured


def test_slides_of_one_tissue_learn_from_each_other(weighed):
    results, measured = weighed
    hidden, error = ~measured & ~of(results["auto"], "d"), {}
    for share, result in results.items():
        error[share] = snrmix.tl.evaluate(result, hidden).attrs["overall"]["mse_ratio"]
    assert error["auto"] < error[False] - 0.01 and error["auto"] < error[True] + 0.01
    result = results["auto"]
    assert list(result.uns["snrmix"]["models"]) == ["a", "b", "c", "other slides"]
    assert result.uns["snrmix"]["parameters"]["share"] == "auto"
    for name in "abc":
        record = result.uns["snrmix"]["libraries"][name]
        worth, own = record["sharing"], results[False].uns["snrmix"]["libraries"][name]
        assert 0 < worth["weight"] <= 1 and worth["mse_ratio_both"] < worth["mse_ratio_own"]
        assert record["kind"] == "own" and "sharing" not in own
        for which, scores in (("own", own["scores"]), ("both", record["scores"])):
            np.testing.assert_allclose(worth[f"mse_ratio_{which}"], scores.loc["snrmix", "mse_ratio"], rtol=1e-4)
    coverage = snrmix.tl.coverage(result, hidden, levels=[0.9])["observed"].iloc[0]
    assert 0.8 < coverage < 0.97
    draw = next(snrmix.tl.draws(result, 1))
    assert np.isfinite(draw[:, result.var["snrmix_modelled"]]).all()


def test_a_slide_that_gains_nothing_keeps_its_own_model(pair, monkeypatch):
    monkeypatch.setattr(sharing, "_error", lambda observed, predicted: 1.0)
    own, both = (snrmix.tl.impute(pair, measured="measured", share=s, copy=True, **FAST) for s in (False, "auto"))
    for name in ("left", "right"):
        assert both.uns["snrmix"]["libraries"][name]["sharing"]["weight"] == 0
    for layer in ("snrmix", "snrmix_sd"):
        np.testing.assert_array_equal(own.layers[layer], both.layers[layer])


def test_a_shared_model_holds_out_what_the_models_of_slides_do(pair):
    source = read_source(pair, measured="measured", use_rep="X_histology", **READ)
    parts = plan_models(source, read_options(n_folds=3, n_repeats=2, share="auto"))
    partner = parts[0].partner
    assert all(part.partner is partner for part in parts) and len(partner.folds) == 6
    for part in parts:
        for own, both in zip(part.folds, partner.folds, strict=True):
            names = partner.sites.names[partner.measured]
            held_out, train = names[both.held_out], names[both.train]
            own_names = part.sites.names[part.measured]
            assert set(own_names[own.held_out]) == set(held_out) & set(own_names)
            assert set(own_names[own.train]) == set(train) & set(own_names) and own.repeat == both.repeat


# Slides of patients


def test_all_slides_of_a_patient_are_left_out_together(few_strips, caplog):
    slides = few_strips.copy()
    patient = {"a": "one", "b": "one", "c": "two", "d": "three"}
    slides.obs["patient"] = slides.obs["library_id"].astype(str).map(patient)
    how = {"measured": ~of(slides, "d"), "genes": 8, "share": False, "copy": True, **FAST}
    by_slide, by_patient = (snrmix.tl.impute(slides, group_key=key, **how) for key in (None, "patient"))
    record = by_patient.uns["snrmix"]["libraries"]["d"]
    assert record["kind"] == "leave-group-out" and by_patient.uns["snrmix"]["parameters"]["group_key"] == "patient"
    sd = [
        result[of(slides, "d")].layers["snrmix_sd"][:, result.var["snrmix_modelled"]]
        for result in (by_slide, by_patient)
    ]
    assert sd[1].mean() > sd[0].mean() > 0  # two groups tell less than three slides
    slides.obs["patient"] = np.where(of(slides, "d"), "two", "one")
    with caplog.at_level(logging.WARNING):
        alone = snrmix.tl.impute(slides, group_key="patient", **how)
    assert "the measured slides are of one group alone, and scores say nothing of another" in caplog.text
    assert alone.uns["snrmix"]["libraries"]["d"]["kind"] == "leave-library-out"


def test_groups_that_cannot_be_are_refused(pair):
    with pytest.raises(KeyError, match="group_key='patients' is no obs column"):
        snrmix.tl.impute(pair, group_key="patients")
    with pytest.raises(TypeError, match="group_key=3 must be the name"):
        snrmix.tl.impute(pair, group_key=3)
    mixed = pair.copy()
    mixed.obs["patient"] = ["x", *["y"] * (mixed.n_obs - 1)]
    with pytest.raises(ValueError, match="must have one value for all spots of a library; library 'left' has 'x', 'y'"):
        snrmix.tl.impute(mixed, group_key="patient")


# Slides with few measured spots


@pytest.fixture
def few(pair):
    """Three measured spots on one slide."""
    adata = pair.copy()
    adata.obs["measured"] &= of(pair, "left")
    adata.obs.loc[adata.obs_names[of(pair, "right")][:3], "measured"] = True
    return adata


def test_few_measured_spots_are_too_few_for_a_model(few, assert_unchanged):
    before = few.copy()
    with pytest.raises(ValueError, match=r"fewer than 20 .*library 'right \(3\)'.*share=True.*unmeasured.*measured="):
        snrmix.tl.impute(few, measured="measured", share=False, **FAST)
    assert_unchanged(before, few)


@pytest.mark.parametrize("share", [True, "auto"])
def test_few_measured_spots_are_no_problem_for_a_shared_model(few, caplog, share):
    with caplog.at_level(logging.WARNING):
        snrmix.tl.impute(few, measured="measured", share=share, fill="all", genes=10, **FAST)
    assert (
        "library 'right': predicted from library 'left' and the few measured spots of 'right'. Scores and intervals come "
        "from regions of library 'left', and are optimistic for another library; 20 or more" in caplog.text
    )
    modelled = few.var["snrmix_modelled"].to_numpy()
    assert np.isfinite(few.layers["snrmix"][:, modelled]).all()
    assert np.isfinite(few.layers["snrmix_sd"][:, modelled]).all()
    assert set(few.obs["snrmix_model"][of(few, "right")]) == {"other slides"}
    assert set(few.obs["snrmix_model"][of(few, "left")]) == {"left"}


# Units


def test_slides_in_different_units_are_refused(pair):
    mixed = pair.copy()
    mixed.X[of(pair, "right")] = log_normalised(pair)[of(pair, "right")]
    mixed.X[of(pair, "left")] = np.minimum(mixed.X[of(pair, "left")], 15)
    with pytest.raises(ValueError, match="'left' looks like counts, 'right' looks like log. Say units='counts'"):
        snrmix.tl.impute(mixed, measured="measured", **FAST)


@pytest.mark.parametrize("options", [{"genes": 6}, {"share": True}], ids=["genes", "share"])
def test_slides_in_different_units_are_named_whatever_is_asked_for(pair, options):
    mixed = pair.copy()
    mixed.X[of(pair, "right")] = log_normalised(pair)[of(pair, "right")]
    with pytest.raises(ValueError, match="'left' looks like counts, 'right' looks like log"):
        snrmix.tl.impute(mixed, measured="measured", **options, **FAST)
    mixed.X[of(pair, "right")] *= 100
    with pytest.raises(ValueError, match="library 'right': X is neither integer counts nor"):
        snrmix.tl.impute(mixed, measured="measured", **options, **FAST)


def test_share_is_one_of_three(pair):
    with pytest.raises(TypeError, match="share='yes' must be True, False or 'auto'"):
        snrmix.tl.impute(pair, share="yes")
    with pytest.raises(TypeError, match="share='yes' must be True, False or 'auto'"):
        snrmix.tl.benchmark(pair, share="yes")


# Size of patches


UM = 100 / 64  # of the synthetic section


def with_grid(spacing: float, zoom: int = 1):
    """A measured slide "a" and a slide "c" of the same kind with a grid of sites, in pixels ``zoom`` times finer."""
    measured = snrmix.datasets.synthetic_tissue(12, 20, image_px_per_pitch=16, random_state=0)
    section = measured.uns["spatial"].pop("synthetic")
    measured.obs["library_id"] = "a"
    spots = measured.obsm["spatial"]
    x, y = (np.arange(low, high, spacing) for low, high in zip(spots.min(0), spots.max(0), strict=True))
    grid = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    names = [f"c_{i}" for i in range(len(grid))]
    bare = anndata.AnnData(
        np.zeros((len(grid), 20), np.float32),
        obs=pd.DataFrame({"library_id": "c"}, index=names),
        var=measured.var[[]],
        obsm={"spatial": grid * zoom},
    )
    both = anndata.concat([measured, bare], join="outer", fill_value=np.nan)
    factors = {"tissue_hires_scalef": section["scalefactors"]["tissue_hires_scalef"] / zoom}
    both.uns["spatial"] = {"a": section, "c": {"images": section["images"], "scalefactors": factors}}
    return both


def sides(adata, **options):
    return snrmix.pp.embed_histology(adata, encoder="colour", copy=True, **options).uns["X_histology"]["patch_side"]


@pytest.mark.parametrize(("spacing", "zoom"), [(40.0, 1), (64.0, 1), (40.0, 2)])
def test_patches_of_a_grid_have_the_size_of_those_of_the_array(spacing, zoom, caplog):
    adata = with_grid(spacing, zoom)
    both = sides(adata, um_per_px={"a": UM, "c": UM / zoom})
    np.testing.assert_array_equal(both[:1], sides(adata[of(adata, "a")].copy()))
    np.testing.assert_allclose(both[1], both[0] * zoom)
    assert "patches differ in size" not in caplog.text


def test_patches_that_differ_in_size_are_a_warning_where_the_scale_is_unknown(caplog):
    sides(with_grid(64.0))
    assert "patches differ in size" not in caplog.text
    sides(with_grid(40.0))
    assert "are multiples of 64 px in 'a', 40 px in 'c'. Lay the grid of sites at the pitch of the" in caplog.text
    assert "or give um_per_px=" in caplog.text


def test_an_image_may_be_given_for_one_slide_and_stored_for_the_other(pair):
    stored = pair.uns["spatial"]["right"]
    adata = pair.copy()
    del adata.obsm["X_histology"], adata.uns["X_histology"]
    adata.uns["spatial"]["right"] = {"scalefactors": {}}
    adata.obsm["spatial"][of(pair, "right")] *= stored["scalefactors"]["tissue_hires_scalef"]
    image = stored["images"]["hires"]
    snrmix.pp.embed_histology(adata, encoder="colour", image={"right": image})
    np.testing.assert_allclose(adata.obsm["X_histology"], pair.obsm["X_histology"], rtol=2e-3, atol=2e-3)
    with pytest.raises(KeyError, match="no entry for library 'right'; it has 'left', and .* images of 'left'"):
        snrmix.pp.embed_histology(adata, encoder="colour", image={"left": image})
    with pytest.raises(KeyError, match="no entry for library 'left', 'right'; it has 'rihgt'"):
        snrmix.pp.embed_histology(adata, encoder="colour", image={"rihgt": image})


def test_neighbours_are_never_fewer_than_the_spot_and_another():
    folds = [Fold(np.arange(5), np.arange(5, 8))]
    for count_self in (False, True):
        mixing = settle_neighbours(snrmix.SNRMixing(k=10, count_self=count_self), folds, chosen=False)
        assert mixing.k == 1 + count_self


# Storage, benchmark, command line


@pytest.mark.parametrize("ending", ["h5ad", "zarr"])
def test_result_survives_a_file_and_subsets(separate, tmp_path, ending):
    path = tmp_path / f"result.{ending}"
    getattr(separate, f"write_{ending}")(path)
    again = getattr(anndata, f"read_{ending}")(path)
    pd.testing.assert_frame_equal(
        again.uns["snrmix"]["libraries"]["left"]["genes"], separate.uns["snrmix"]["libraries"]["left"]["genes"]
    )
    expected = snrmix.tl.interval(separate, 0.8)
    part = again[of(again, "right")][:, ::-2].copy()
    for end, whole in zip(snrmix.tl.interval(part, 0.8), expected, strict=True):
        np.testing.assert_array_equal(end, whole[of(again, "right")][:, ::-2])


def test_benchmark_leaves_out_a_slide_as_impute_does(few_strips):
    split = {"kind": "library", "library": "c"}
    result = snrmix.tl.benchmark(few_strips, ["mean", "snrmix"], splits=[split], measured="measured", genes=20, **FAST)
    hidden = of(few_strips, "c")
    imputed = snrmix.tl.impute(
        few_strips, measured=few_strips.obs["measured"].to_numpy() & ~hidden, genes=20, copy=True, **FAST
    )
    scores = snrmix.tl.evaluate(imputed, hidden)
    ours = result[result["method"] == "snrmix"].set_index("gene")
    for name in ("mse", "mse_mean", "pearson"):
        np.testing.assert_allclose(ours[name], scores.loc[ours.index, name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("share", [False, True, "auto"])
def test_benchmark_scores_slides_as_impute_and_evaluate_do(pair, share):
    splits = [{"share": 0.4, "random_state": 0}]
    genes = [name for name in pair.var_names if name not in (RARE, "gene_5")]
    result = snrmix.tl.benchmark(pair, ["snrmix"], splits=splits, genes=genes, share=share, **FAST)
    adata = pair.copy()
    snrmix.pp.hold_out(adata, share=0.4, random_state=0, key_added="kept")
    snrmix.tl.impute(adata, measured="kept", genes=genes, share=share, **FAST)
    scores = snrmix.tl.evaluate(adata, "kept_held_out")
    ours = result.set_index("gene")
    for name in ("mse", "mse_mean", "pearson"):
        np.testing.assert_allclose(ours[name], scores.loc[ours.index, name], rtol=1e-3, atol=1e-4)
