import anndata
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import snrmix

SMALL = {"n_rows": 12, "n_genes": 40, "image_px_per_pitch": 16}


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
    figure = snrmix.pl.compare(adata, genes)
    assert [ax.get_title() for ax in figure.axes].count("imputed") == 2
    adata.var.loc[genes, "snrmix_explained"] = [0.41, -0.03]
    adata.var["snrmix_explained_given_depth"] = 0.224
    written = texts(snrmix.pl.compare(adata, genes))
    for gene, explained in zip(genes, ("41%", "0%"), strict=True):
        pearson = f"out-of-fold Pearson {adata.var.loc[gene, 'snrmix_pearson']:.2f}"
        assert f"{gene}: {pearson}, {explained} explained (22% given depth)" in written


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
    assert f"GLAND_01: {words} |" in texts(snrmix.pl.compare(both, "GLAND_01", library="other/1", image=False)) + " |"
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
    found, expected = dots(ax), adata.obsm["spatial"][measured]
    np.testing.assert_allclose(found[np.lexsort(found.T)], expected[np.lexsort(expected.T)])


def test_compare_without_scores_and_uncertainty(adata, texts):
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


def test_compare_takes_any_gene_name(adata, tmp_path, texts):
    adata.var_names = ["HLA-A$5'_{x", *adata.var_names[1:]]
    figure = snrmix.pl.compare(adata, "HLA-A$5'_{x")
    figure.savefig(tmp_path / "gene.png")
    assert "HLA-A$5'_{x: out-of-fold" in texts(figure)
