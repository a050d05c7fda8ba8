import subprocess
import sys

import anndata
import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import snrmix

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SMALL = {"n_rows": 12, "n_genes": 40, "image_px_per_pitch": 16}


def pretend_imputed(adata, key="snrmix"):
    """What `snrmix.tl.impute` writes, made up from the truth; by barcode, so that the row order does not matter."""
    measured = adata.obs_names.str[0].isin(["A", "C"])
    adata.obs[f"{key}_measured"] = measured
    adata.layers[key] = (adata.layers["truth"] + 0.1).astype(np.float32)
    adata.layers[f"{key}_sd"] = np.where(measured[:, None], 0, 0.5 + 0.1 * adata.layers["truth"]).astype(np.float32)
    n = adata.n_vars
    adata.var[f"{key}_pearson"] = np.linspace(0.9, -0.1, n)
    adata.var[f"{key}_explained"] = np.linspace(0.6, -0.2, n)
    adata.var[f"{key}_reliable"] = adata.var[f"{key}_pearson"] > 0.2
    adata.var[f"{key}_weight_network"] = np.linspace(0, 1, n)
    adata.var[f"{key}_weight_kriging"] = np.linspace(1, 0.2, n)
    curves = 1 + np.exp(-np.arange(12) / 4) + 0.01 * np.arange(5)[:, None]
    history = {"train_loss": curves, "validation_mse": curves, "best_epoch": np.array([3, 4, 5, 6, 11])}
    adata.uns[key] = {"input_units": "counts", "units": "log1p(counts per 10,000)", "history": history}
    return adata


@pytest.fixture(scope="module")
def imputed():
    return pretend_imputed(snrmix.datasets.synthetic_tissue(**SMALL))


@pytest.fixture
def adata(imputed):
    return imputed.copy()


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def panels(figure):
    return {ax.get_title(): ax for ax in figure.axes if ax.get_title()}


def discs(ax):
    """Filled spots: their places, values and diameters."""
    (found,) = [c for c in ax.collections if c.get_array() is not None]
    return np.asarray(found.get_offsets()), np.asarray(found.get_array()), found


def hollow(ax):
    return sum(len(c.get_offsets()) for c in ax.collections if c.get_array() is None and not len(c.get_facecolor()))


def dots(ax):
    """Spots of one colour: their places."""
    (found,) = [c for c in ax.collections if c.get_array() is None and len(c.get_facecolor())]
    return np.asarray(found.get_offsets())


def two_libraries(adata):
    """The section, and 50 of its spots as another library."""
    other = adata[:50].copy()
    other.obs_names = other.obs_names + "-b"
    other.obs["library_id"] = "other/1"
    both = anndata.concat([adata, other], uns_merge="first", merge="same")
    both.uns["snrmix"] = adata.uns["snrmix"]
    return both


def texts(figure):
    return " | ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def normalised(adata, gene):
    counts = adata.X.toarray()
    return np.log1p(1e4 * counts[:, adata.var_names.get_loc(gene)] / counts.sum(1))


# compare


def test_compare_draws_histology_measured_imputed_and_uncertainty(adata):
    shown = panels(snrmix.pl.compare(adata, "GLAND_01"))
    assert list(shown) == ["H&E", "measured", "imputed", "uncertainty"]
    assert all(len(ax.images) == 1 for ax in shown.values())
    measured = adata.obs["snrmix_measured"].to_numpy()
    np.testing.assert_allclose(np.sort(discs(shown["measured"])[1]), np.sort(normalised(adata, "GLAND_01")[measured]))
    np.testing.assert_allclose(
        np.sort(discs(shown["imputed"])[1]), np.sort(adata.obs_vector("GLAND_01", layer="snrmix")), rtol=1e-6
    )
    assert hollow(shown["measured"]) == (~measured).sum() and hollow(shown["imputed"]) == 0
    assert len(discs(shown["uncertainty"])[1]) == (~measured).sum()


def test_compare_shares_the_colours_of_measured_and_imputed_but_not_of_the_uncertainty(adata):
    shown = panels(snrmix.pl.compare(adata, "STROMA_01", truth="truth"))
    limits = {name: discs(shown[name])[2].get_clim() for name in ("measured", "imputed", "truth", "uncertainty")}
    assert limits["measured"] == limits["imputed"] == limits["truth"] != limits["uncertainty"]
    np.testing.assert_allclose(
        np.sort(discs(shown["truth"])[1]), np.sort(adata.obs_vector("STROMA_01", layer="truth")), rtol=1e-6
    )


def test_compare_puts_every_value_where_its_spot_is_on_the_image(adata):
    places, values, found = discs(panels(snrmix.pl.compare(adata, "GLAND_01"))["imputed"])
    factors = adata.uns["spatial"]["synthetic"]["scalefactors"]
    on_image = adata.obsm["spatial"] * factors["tissue_hires_scalef"]
    nearest = np.linalg.norm(places[:, None] - on_image[None], axis=2)
    np.testing.assert_allclose(nearest.min(1), 0, atol=1e-6)
    np.testing.assert_allclose(values, adata.obs_vector("GLAND_01", layer="snrmix")[nearest.argmin(1)], rtol=1e-6)
    np.testing.assert_allclose(found.get_widths(), SMALL["image_px_per_pitch"], rtol=1e-3)  # in pixels: the data's unit


def test_compare_shows_the_image_the_right_way_up_and_only_around_the_tissue(adata):
    ax = panels(snrmix.pl.compare(adata, "GLAND_01"))["H&E"]
    (image,) = ax.images
    left, right, bottom, top = (round(v) for v in image.get_extent())
    hires = adata.uns["spatial"]["synthetic"]["images"]["hires"]
    np.testing.assert_array_equal(image.get_array(), hires[top:bottom, left:right])
    assert ax.get_ylim()[0] > ax.get_ylim()[1] and ax.get_aspect() == 1
    on_image = adata.obsm["spatial"] * 0.25
    margin = 1.5 * SMALL["image_px_per_pitch"]
    np.testing.assert_allclose(ax.get_xlim(), [on_image[:, 0].min() - margin, on_image[:, 0].max() + margin], atol=0.1)
    assert not len(ax.get_xticks()) and not len(ax.get_yticks())


def test_compare_size_is_in_pitches(adata):
    found = discs(panels(snrmix.pl.compare(adata, "GLAND_01", size=0.5))["imputed"])[2]
    np.testing.assert_allclose(found.get_widths(), 0.5 * SMALL["image_px_per_pitch"], rtol=1e-3)


def test_compare_never_looks_at_unmeasured_expression(adata):
    spoilt = adata.copy()
    garbage = spoilt.X.toarray()
    garbage[~spoilt.obs["snrmix_measured"].to_numpy()] = np.nan
    spoilt.X = garbage
    values = [discs(panels(snrmix.pl.compare(a, "GLAND_01"))["measured"])[1] for a in (adata, spoilt)]
    np.testing.assert_allclose(*values)


def test_compare_draws_log_values_as_they_are(adata):
    adata.layers["log"] = np.log1p(adata.X.toarray())
    adata.uns["snrmix"]["input_units"] = "log"
    drawn = discs(panels(snrmix.pl.compare(adata, "GLAND_01", layer="log"))["measured"])[1]
    expected = adata.obs_vector("GLAND_01", layer="log")[adata.obs["snrmix_measured"]]
    np.testing.assert_allclose(np.sort(drawn), np.sort(expected))


def test_compare_draws_the_layer_that_was_imputed_from(adata):
    expected = normalised(adata, "GLAND_01")[adata.obs["snrmix_measured"]]
    adata.layers["raw"] = adata.X.copy()
    adata.X = adata.X * 0.37
    adata.uns["snrmix"]["parameters"] = {"layer": "raw"}
    drawn = discs(panels(snrmix.pl.compare(adata, "GLAND_01"))["measured"])[1]
    np.testing.assert_allclose(np.sort(drawn), np.sort(expected))


def test_compare_draws_several_genes_below_each_other(adata):
    genes = ["GLAND_01", "NOISE_01"]
    figure = snrmix.pl.compare(adata, genes)
    assert [ax.get_title() for ax in figure.axes].count("imputed") == 2
    for gene, verdict in zip(genes, ("reliable", "not reliable"), strict=True):
        adata.var.loc[gene, "snrmix_reliable"] = verdict == "reliable"
    written = texts(snrmix.pl.compare(adata, genes))
    for gene, verdict in zip(genes, ("reliable", "not reliable"), strict=True):
        assert f"{gene}: out-of-fold Pearson {adata.var.loc[gene, 'snrmix_pearson']:.2f}, {verdict}" in written


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("own", "out-of-fold Pearson 0.46, reliable"),
        ("shared", "shared model, out-of-fold Pearson 0.46, reliable"),
        ("leave-library-out", "other slides left out: Pearson 0.46, reliable"),
        ("within-library", "regions of another slide left out: Pearson 0.46, reliable"),
    ],
)
def test_compare_heads_a_library_with_its_own_score(adata, kind, words):
    both = two_libraries(adata)
    scores = {
        "synthetic": pd.DataFrame({"pearson": [0.11], "reliable": [False]}, ["GLAND_01"]),
        "other|1": pd.DataFrame({"pearson": [0.46], "reliable": [True]}, ["GLAND_01"]),
    }
    both.uns["snrmix"]["libraries"] = {name: {"kind": kind, "genes": genes} for name, genes in scores.items()}
    assert f"GLAND_01: {words} |" in texts(snrmix.pl.compare(both, "GLAND_01", library="other/1", image=False)) + " |"
    assert "Pearson 0.11, not reliable" in texts(snrmix.pl.compare(both, "GLAND_01", library="synthetic", image=False))
    written = texts(snrmix.pl.compare(both, "STROMA_01", library="other/1", image=False))  # not modelled there
    assert "Pearson" not in written and "reliable" not in written


def test_compare_draws_an_image_of_its_own(adata, tmp_path):
    expected = panels(snrmix.pl.compare(adata, "GLAND_01"))["H&E"].images[0].get_array()
    image = adata.uns.pop("spatial")["synthetic"]["images"]["hires"]
    adata.obsm["spatial"] *= 0.25
    Image.fromarray(image).save(tmp_path / "section.png")
    for given in (image, tmp_path / "section.png", str(tmp_path / "section.png"), {"synthetic": image}):
        shown = panels(snrmix.pl.compare(adata, "GLAND_01", image=given))
        np.testing.assert_array_equal(shown["H&E"].images[0].get_array(), expected)
    with pytest.raises(TypeError, match="image=3 must be True, False, a path, an array"):
        snrmix.pl.compare(adata, "GLAND_01", image=3)
    with pytest.raises(KeyError, match="image= has no entry for library 'synthetic'"):
        snrmix.pl.compare(adata, "GLAND_01", image={"b": image})
    with pytest.raises(ValueError, match="spots lie outside"):
        snrmix.pl.compare(adata, "GLAND_01", image=image[:50])


def test_compare_leaves_out_the_spots_that_fill_grid_added_where_they_have_no_value(adata):
    adata.obs["snrmix_added"] = ~adata.obs["snrmix_measured"] & (np.arange(adata.n_obs) % 3 > 0)
    shown = panels(snrmix.pl.compare(adata, "GLAND_01"))
    assert hollow(shown["measured"]) == (~adata.obs["snrmix_measured"] & ~adata.obs["snrmix_added"]).sum() > 0
    assert len(discs(shown["imputed"])[1]) == adata.n_obs


def test_compare_colours_the_uncertainty_by_what_was_imputed_and_marks_what_was_observed(adata):
    ax = panels(snrmix.pl.compare(adata, "GLAND_01", image=False))["uncertainty"]
    sd, measured = adata.obs_vector("GLAND_01", layer="snrmix_sd"), adata.obs["snrmix_measured"].to_numpy()
    np.testing.assert_allclose(discs(ax)[2].get_clim(), np.quantile(sd[sd > 0], [0.01, 0.99]))
    found, expected = dots(ax), adata.obsm["spatial"][measured]
    np.testing.assert_allclose(found[np.lexsort(found.T)], expected[np.lexsort(expected.T)])


def test_compare_without_scores_and_uncertainty(adata):
    adata.var = adata.var[[]]
    del adata.layers["snrmix_sd"]
    figure = snrmix.pl.compare(adata, "GLAND_01")
    assert list(panels(figure)) == ["H&E", "measured", "imputed"]
    assert "Pearson" not in texts(figure)


def test_compare_without_image_draws_the_spots_alone(adata, caplog):
    adata.uns.pop("spatial")
    shown = panels(snrmix.pl.compare(adata, "GLAND_01"))
    assert "drawn without the image: no image for library" in caplog.text
    assert "Here, pass image= (a path, an array, or a dict of them by library), or image=False" in caplog.text
    assert list(shown) == ["measured", "imputed", "uncertainty"] and not shown["imputed"].images
    places = discs(shown["imputed"])[0]
    np.testing.assert_allclose(np.sort(places, axis=0), np.sort(adata.obsm["spatial"], axis=0))
    caplog.clear()
    snrmix.pl.compare(adata, "GLAND_01", image=False)
    assert not caplog.text


def test_compare_reads_spatialdata_in_whatever_order_its_rows_are(adata):
    sdata = snrmix.datasets.synthetic_spatialdata(**SMALL)
    pretend_imputed(sdata["table"])
    del sdata["table"].obsm["spatial"]
    shown, expected = (panels(snrmix.pl.compare(data, "GLAND_01")) for data in (sdata, adata))
    assert list(shown) == list(expected)
    for name in ("measured", "imputed", "uncertainty"):
        both = [np.column_stack(discs(group[name])[:2]) for group in (shown, expected)]
        np.testing.assert_allclose(*(rows[np.lexsort(rows.T)] for rows in both), rtol=1e-5)
    assert len(shown["H&E"].images) == 1


def test_compare_draws_one_library_of_several(adata):
    both = two_libraries(adata)
    with pytest.raises(ValueError, match="choose one with library=: 'other/1', 'synthetic'"):
        snrmix.pl.compare(both, "GLAND_01", image=False)
    shown = panels(snrmix.pl.compare(both, "GLAND_01", library="other/1", image=False))
    assert len(discs(shown["imputed"])[1]) == 50
    with pytest.raises(KeyError, match="Did you mean 'other/1'"):
        snrmix.pl.compare(both, "GLAND_01", library="other1", image=False)


def test_compare_names_what_is_missing(adata):
    with pytest.raises(KeyError, match="1 of 1 genes are not in var_names: 'GLAND_1' .Did you mean 'GLAND_01'"):
        snrmix.pl.compare(adata, "GLAND_1")
    with pytest.raises(KeyError, match="'trth' is not in layers.*Did you mean 'truth'"):
        snrmix.pl.compare(adata, "GLAND_01", truth="trth")
    adata.layers["snrmix"][:, adata.var_names.get_loc("GLAND_02")] = np.nan
    with pytest.raises(ValueError, match="gene 'GLAND_02' was left out"):
        snrmix.pl.compare(adata, "GLAND_02")
    del adata.obs["snrmix_measured"]
    with pytest.raises(KeyError, match="snrmix_measured.*run snrmix.tl.impute first"):
        snrmix.pl.compare(adata, "GLAND_01")


def test_compare_takes_any_gene_name(adata, tmp_path):
    adata.var_names = ["HLA-A$5'_{x", *adata.var_names[1:]]
    figure = snrmix.pl.compare(adata, "HLA-A$5'_{x")
    figure.savefig(tmp_path / "gene.png")
    assert "HLA-A$5'_{x: out-of-fold" in texts(figure)


# The other figures


def test_gene_scores_counts_and_names_genes(adata):
    figure = snrmix.pl.gene_scores(adata, n=3)
    written = texts(figure)
    n_reliable = int(adata.var["snrmix_reliable"].sum())
    assert f"{n_reliable} reliable" in written and f"{adata.n_vars - n_reliable} not reliable" in written
    ranked = adata.var_names
    assert all(name in written for name in [*ranked[:3], *ranked[-3:]]) and ranked[3] not in written
    assert f"{(adata.var['snrmix_explained'] > 0).mean():.0%} of genes beat their mean" in written
    assert f"median Pearson {adata.var['snrmix_pearson'].median():.2f}" in written
    assert sum(bar.get_height() for bar in figure.axes[2].patches) == adata.n_vars


def test_gene_scores_fit_into_a_figure_that_is_saved_as_it_is(adata):
    figure = snrmix.pl.gene_scores(adata)
    figure.draw_without_rendering()
    for ax in figure.axes:
        if ax.axison:
            box = ax.get_tightbbox()
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1


def test_gene_scores_leaves_out_genes_without_a_score(adata):
    adata.var.loc[adata.var_names[:10], ["snrmix_pearson", "snrmix_explained"]] = np.nan
    del adata.var["snrmix_reliable"]
    figure = snrmix.pl.gene_scores(adata)
    assert f"{adata.n_vars - 10} genes" in texts(figure)
    (points,) = figure.axes[0].collections
    drawn = np.asarray(points.get_offsets())
    np.testing.assert_allclose(drawn[:, 1], np.sort(adata.var["snrmix_pearson"].dropna())[::-1])
    adata.var["snrmix_pearson"] = np.nan
    with pytest.raises(KeyError, match="holds no score"):
        snrmix.pl.gene_scores(adata)


def test_training_marks_the_epoch_that_was_kept(adata):
    history = adata.uns["snrmix"]["history"]
    right = snrmix.pl.training(adata).axes[1]
    (kept,) = right.collections
    expected = np.column_stack([history["best_epoch"] + 1, history["validation_mse"][range(5), history["best_epoch"]]])
    np.testing.assert_allclose(kept.get_offsets(), expected)
    assert len(right.lines) == 6
    np.testing.assert_allclose(right.lines[-1].get_ydata(), history["validation_mse"].mean(0))


def test_training_of_a_single_network(adata):
    curve = np.array([3.0, 2.0, 2.5])
    adata.uns["snrmix"]["history"] = {"train_loss": curve, "validation_mse": curve, "best_epoch": 1}
    left = snrmix.pl.training(adata).axes[0]
    (line,) = left.lines
    np.testing.assert_array_equal(line.get_xydata(), [[1, 3], [2, 2], [3, 2.5]])
    np.testing.assert_array_equal(left.collections[0].get_offsets(), [[2, 2]])
    del adata.uns["snrmix"]["history"]
    with pytest.raises(KeyError, match="history.*run snrmix.tl.impute first.*'input_units'"):
        snrmix.pl.training(adata)


def test_weights_draws_a_point_per_gene_and_the_medians(adata):
    adata.var.loc[adata.var_names[0], ["snrmix_weight_network", "snrmix_weight_kriging"]] = np.nan
    figure = snrmix.pl.weights(adata)
    network, kriging = (adata.var[f"snrmix_weight_{part}"].dropna() for part in ("network", "kriging"))
    np.testing.assert_allclose(figure.axes[0].collections[0].get_offsets(), np.column_stack([network, kriging]))
    assert f"median {network.median():.2f}" in texts(figure) and f"median {kriging.median():.2f}" in texts(figure)
    del adata.var["snrmix_weight_kriging"]
    with pytest.raises(KeyError, match="snrmix_weight_kriging.*with kriging"):
        snrmix.pl.weights(adata)


def test_weights_says_when_all_genes_share_one(adata):
    adata.var["snrmix_weight_network"], adata.var["snrmix_weight_kriging"] = 0.25, 0.7
    figure = snrmix.pl.weights(adata)
    assert "one weight for all genes" in texts(figure) and "median 0.25" in texts(figure)
    assert len(figure.axes) == 1  # no bar of colours


# What all share

VERBS = {"compare": ["GLAND_01"], "gene_scores": [], "training": [], "weights": []}


@pytest.mark.parametrize("verb", VERBS)
def test_a_missing_result_is_named(adata, verb):
    with pytest.raises(KeyError, match="no result 'snrmx' in uns; run snrmix.tl.impute first.*Did you mean 'snrmix'"):
        getattr(snrmix.pl, verb)(adata, *VERBS[verb], key="snrmx")
    with pytest.raises(TypeError, match="AnnData or a SpatialData, not list"):
        getattr(snrmix.pl, verb)([], *VERBS[verb])


@pytest.mark.parametrize("verb", VERBS)
def test_key_save_and_show(adata, verb, tmp_path, monkeypatch):
    renamed = pretend_imputed(adata, key="other")
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    before = dict(matplotlib.rcParams)
    figure = getattr(snrmix.pl, verb)(renamed, *VERBS[verb], key="other", save=tmp_path / "figure.png")
    assert isinstance(figure, matplotlib.figure.Figure) and not shown
    assert (tmp_path / "figure.png").stat().st_size > 5000
    assert getattr(snrmix.pl, verb)(renamed, *VERBS[verb], show=True) is None and shown == [True]
    assert dict(matplotlib.rcParams) == before


def test_importing_the_module_does_not_load_pyplot():
    code = "import sys, snrmix.pl; snrmix.pl.compare; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
