import anndata
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import snrmix

SMALL = {"n_rows": 12, "n_genes": 40, "image_px_per_pitch": 16}


def panels(axes):
    return {ax.get_title(): ax for ax in np.ravel(axes) if ax.get_title()}


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


def headings(axes):
    """What stands above the rows, without line breaks."""
    lines = [text.get_text().replace("\n", " ") for ax in np.ravel(axes) for text in ax.texts]
    return [line for line in lines if ", " in line]


def ordered(places):
    return places[np.lexsort(places.T)]


def two_libraries(adata):
    """The section, and 50 of its spots as another library."""
    other = adata[:50].copy()
    other.obs_names = other.obs_names + "-b"
    other.obs["library_id"] = "other/1"
    both = anndata.concat([adata, other], uns_merge="first", merge="same")
    both.uns["snrmix"] = adata.uns["snrmix"]
    return both


def normalised(adata, gene):
    counts = adata.X.toarray()
    return np.log1p(1e4 * counts[:, adata.var_names.get_loc(gene)] / counts.sum(1))


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


def test_compare_draws_several_genes_below_each_other(adata, texts):
    genes = ["GLAND_01", "NOISE_01"]
    axes = snrmix.pl.compare(adata, genes)
    assert axes.shape == (2, 4) and [len(row[0].images) for row in axes] == [1, 0]  # one picture of the histology
    assert [[ax.get_title() for ax in row[1:]] for row in axes] == 2 * [["measured", "imputed", "uncertainty"]]
    adata.var.loc[genes, "snrmix_explained"] = [0.41, -0.03]
    adata.var["snrmix_explained_given_depth"] = 0.224
    written = texts(snrmix.pl.compare(adata, genes))
    for gene, explained in zip(genes, ("41%", "0%"), strict=True):
        pearson = f"out-of-fold Pearson {adata.var.loc[gene, 'snrmix_pearson']:.2f}"
        assert f"{gene}, synthetic: {pearson}, {explained} explained (22% given depth)" in written


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("own", "out-of-fold Pearson 0.46, 31% explained"),
        ("shared", "shared model, out-of-fold Pearson 0.46, 31% explained"),
        ("leave-library-out", "other slides left out: Pearson 0.46, 31% explained"),
        ("within-library", "regions of another slide left out: Pearson 0.46, 31% explained"),
    ],
)
def test_compare_heads_a_library_with_its_own_score(adata, kind, words, texts):
    both = two_libraries(adata)
    scores = {
        "synthetic": pd.DataFrame({"pearson": [0.11], "explained": [0.01]}, ["GLAND_01"]),
        "other|1": pd.DataFrame({"pearson": [0.46], "explained": [0.311]}, ["GLAND_01"]),
    }
    both.uns["snrmix"]["libraries"] = {name: {"kind": kind, "genes": genes} for name, genes in scores.items()}
    (heading,) = headings(snrmix.pl.compare(both, "GLAND_01", library="other/1", image=False))
    assert heading == f"GLAND_01, other/1: {words}"
    assert "Pearson 0.11, 1% explained" in texts(snrmix.pl.compare(both, "GLAND_01", library="synthetic", image=False))
    written = texts(snrmix.pl.compare(both, "STROMA_01", library="other/1", image=False))  # not modelled there
    assert "Pearson" not in written and "explained" not in written


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
    np.testing.assert_allclose(ordered(dots(ax)), ordered(adata.obsm["spatial"][measured]))
    colours = discs(ax)[2].cmap([0.0, 1.0])[:, :3].mean(1)
    assert colours[0] > 0.7 and colours[1] < 0.2  # what is not known is dark, so that it is seen on pale tissue


def test_compare_without_scores_and_uncertainty(adata, texts):
    adata.var = adata.var[[]]
    del adata.layers["snrmix_sd"]
    axes = snrmix.pl.compare(adata, "GLAND_01")
    assert list(panels(axes)) == ["H&E", "measured", "imputed"]
    assert "Pearson" not in texts(axes)


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


def test_compare_reads_spatialdata_in_whatever_order_its_rows_are(adata, pretend_imputed):
    sdata = snrmix.datasets.synthetic_spatialdata(**SMALL)
    pretend_imputed(sdata["table"])
    del sdata["table"].obsm["spatial"]
    shown, expected = (panels(snrmix.pl.compare(data, "GLAND_01")) for data in (sdata, adata))
    assert list(shown) == list(expected)
    for name in ("measured", "imputed", "uncertainty"):
        both = [np.column_stack(discs(group[name])[:2]) for group in (shown, expected)]
        np.testing.assert_allclose(*(rows[np.lexsort(rows.T)] for rows in both), rtol=1e-5)
    assert len(shown["H&E"].images) == 1


def test_compare_draws_one_library_or_all(adata):
    both = two_libraries(adata)
    axes = snrmix.pl.compare(both, "GLAND_01", image=False)
    assert axes.shape == (2, 3) and [line.split(":")[0] for line in headings(axes)] == [
        "GLAND_01, other/1",
        "GLAND_01, synthetic",
    ]
    assert len({discs(ax)[2].get_clim() for ax in axes[:, 1]}) == 1  # the same colours on all slides
    shown = panels(snrmix.pl.compare(both, "GLAND_01", library="other/1", image=False))
    assert len(discs(shown["imputed"])[1]) == 50
    with pytest.raises(KeyError, match="Did you mean 'other/1'"):
        snrmix.pl.compare(both, "GLAND_01", library="other1", image=False)
    with pytest.raises(ValueError, match="library is empty"):
        snrmix.pl.compare(both, "GLAND_01", library=[], image=False)


def test_compare_marks_observed_values_and_explains_the_marks(adata, texts):
    axes = snrmix.pl.compare(adata, "GLAND_01", image=False)
    measured = adata.obs["snrmix_measured"].to_numpy()
    np.testing.assert_allclose(ordered(dots(panels(axes)["imputed"])), ordered(adata.obsm["spatial"][measured]))
    assert all(words in texts(axes) for words in ("observed value", "imputed value", "not measured"))
    adata.layers["snrmix_sd"] += 1  # as after fill="all": no value is the observed one
    axes = snrmix.pl.compare(adata, "GLAND_01", image=False)
    assert "observed value" not in texts(axes) and len(panels(axes)["imputed"].collections) == 1


def test_compare_draws_a_scale_bar_of_known_length(adata, texts):
    ax = snrmix.pl.compare(adata, "GLAND_01")[0, 0]
    (bar,) = ax.lines
    pixels = float(np.ptp(bar.get_xdata()))
    um = pixels / SMALL["image_px_per_pitch"] * 100  # the pitch is 100 um
    assert f"{um:g} µm" in texts(ax) and round(um, 6) in (100, 200, 500)
    del adata.obs["array_row"], adata.obs["array_col"]
    (bar,) = snrmix.pl.compare(adata, "GLAND_01")[0, 0].lines
    assert np.ptp(bar.get_xdata()) / SMALL["image_px_per_pitch"] == pytest.approx(2, rel=0.01)
    assert "2 spots" in texts(bar)


def test_compare_draws_single_panels_as_a_grid(adata, texts):
    genes = list(adata.var_names[:5])
    axes = snrmix.pl.compare(adata, genes, panels="imputed", image=False)
    assert axes.shape == (5,) and [ax.get_title().split("\n")[0] for ax in axes] == genes
    assert "60% explained" in axes[0].get_title()
    with pytest.raises(ValueError, match="panels=.'truth'. must be some of 'measured', 'imputed', 'uncertainty'"):
        snrmix.pl.compare(adata, genes, panels="truth", image=False)


def test_compare_draws_a_set_of_genes(adata, texts):
    genes = ["GLAND_01", "GLAND_02", "STROMA_01"]
    axes = snrmix.pl.compare(adata, {"mine": genes}, image=False)
    measured = adata.obs["snrmix_measured"].to_numpy()
    logs = np.column_stack([normalised(adata, gene) for gene in genes])[measured]
    z = ((logs - logs.mean(0)) / logs.std(0)).mean(1)
    np.testing.assert_allclose(np.sort(discs(panels(axes)["measured"])[1]), np.sort(z), atol=1e-5)
    imputed = ((adata[:, genes].layers["snrmix"] - logs.mean(0)) / logs.std(0)).mean(1)
    np.testing.assert_allclose(np.sort(discs(panels(axes)["imputed"])[1]), np.sort(imputed), atol=1e-5)
    assert headings(axes) == [f"mine, synthetic: {', '.join(genes)}"] and "mean z-score of 3 genes" in texts(axes)
    with pytest.raises(TypeError, match="gene.'mine'. must be a list of genes"):
        snrmix.pl.compare(adata, {"mine": "GLAND_01"}, image=False)
    with pytest.raises(KeyError, match="1 of 2 genes are not in var_names: 'GLAND_X'"):
        snrmix.pl.compare(adata, {"mine": ["GLAND_01", "GLAND_X"]}, image=False)


def test_the_uncertainty_of_a_set_is_that_over_draws(half_imputed):
    genes = list(half_imputed.var_names[half_imputed.var["snrmix_modelled"]][:4])
    shown = panels(snrmix.pl.compare(half_imputed, {"mine": genes}, image=False))
    rows = half_imputed.obs["snrmix_measured"].to_numpy()
    logs = half_imputed[rows, genes].layers["snrmix"]  # fill="unmeasured": the observed values
    drawn = discs(shown["uncertainty"])[1]
    assert len(drawn) == (~rows).sum()
    columns = half_imputed.var_names.get_indexer(genes)
    scores = [((draw[:, columns] - logs.mean(0)) / logs.std(0)).mean(1) for draw in snrmix.tl.draws(half_imputed, 50)]
    sd = np.std(scores, axis=0)
    assert np.median(drawn) == pytest.approx(np.median(sd[~rows]), rel=0.15)


@pytest.mark.parametrize("sd", ["alpha", "hatch", None])
def test_uncertainty_needs_no_panel(adata, sd, texts):
    axes = snrmix.pl.compare(adata, "GLAND_01", sd=sd, image=False)
    assert list(panels(axes)) == ["measured", "imputed"]
    values, of_spot = adata.obs_vector("GLAND_01", layer="snrmix_sd"), discs(panels(axes)["imputed"])[2]
    if sd == "alpha":
        order = np.argsort(values[np.lexsort(adata.obsm["spatial"].T)], kind="stable")
        opacity = of_spot.get_alpha()[np.lexsort(np.asarray(of_spot.get_offsets()).T)][order]
        assert np.all(np.diff(opacity) <= 1e-9) and opacity[0] == 1 and opacity[-1] < 0.2
    elif sd == "hatch":
        (hatched,) = [c for c in panels(axes)["imputed"].collections if c.get_hatch()]
        assert len(hatched.get_offsets()) == np.sum(values >= np.quantile(values[values > 0], 0.75))
    with pytest.raises(ValueError, match="sd='dots' must be one of 'panel', 'alpha', 'hatch', or None"):
        snrmix.pl.compare(adata, "GLAND_01", sd="dots")


def test_limits_and_colours_are_those_of_scanpy(adata):
    genes = ["GLAND_01", "STROMA_01"]
    axes = snrmix.pl.compare(adata, genes, vmin=[0.5, 1], vmax="p90", cmap="cividis", panels="imputed", image=False)
    for ax, low in zip(axes, (0.5, 1), strict=True):
        assert discs(ax)[2].get_clim()[0] == low and discs(ax)[2].cmap.name == "cividis"
    shown = panels(snrmix.pl.compare(adata, "GLAND_01", vmax="p90", image=False))
    both = np.concatenate([discs(shown[name])[1] for name in ("measured", "imputed")])
    assert discs(shown["imputed"])[2].get_clim()[1] == pytest.approx(np.percentile(both, 90))
    for wrong, says in (
        ({"vmax": "90"}, "vmax='90' must be a number, or a percentile"),
        ({"vmin": [1]}, "1 limits for 2"),
    ):
        with pytest.raises(ValueError, match=says):
            snrmix.pl.compare(adata, genes, image=False, **wrong)


def test_many_sites_are_one_picture(adata, monkeypatch):
    gene = "GLAND_01"
    few = panels(snrmix.pl.compare(adata, gene))
    places, values, _ = discs(few["imputed"])
    monkeypatch.setattr("snrmix.pl._scene.MANY_SPOTS", 50)
    for sd in ("panel", "alpha", "hatch"):
        shown = panels(snrmix.pl.compare(adata, gene, sd=sd))
        picture = shown["imputed"].images[-1]
        left, right, bottom, top = picture.get_extent()
        height, width = picture.get_array().shape
        column = ((places[:, 0] - left) / (right - left) * width).astype(int)
        row = ((places[:, 1] - top) / (bottom - top) * height).astype(int)
        np.testing.assert_allclose(picture.get_array()[row, column], values)
    assert np.ma.is_masked(picture.get_array()[0, 0])  # the glass
    measured = shown["measured"].images[-1].get_array()[row, column]
    assert (~np.ma.getmaskarray(measured)).sum() == adata.obs["snrmix_measured"].sum()


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


def test_compare_takes_any_gene_name(adata, tmp_path, texts):
    adata.var_names = ["HLA-A$5'_{x", *adata.var_names[1:]]
    axes = snrmix.pl.compare(adata, "HLA-A$5'_{x", save=tmp_path / "gene.png", dpi=40)
    assert "HLA-A$5'_{x, synthetic: out-of-fold" in texts(axes)
