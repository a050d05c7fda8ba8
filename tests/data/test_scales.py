"""Which patches are cut by default goes by what the image holds."""

import logging

import numpy as np
import pytest

import snrmix
from snrmix.data.scales import COARSE_SCALES, choose_scales, pixels_per_side
from snrmix.data.sites import read_sites


def finer(adata, factor: int):
    """The section with an image of that many times its pixels, and positions to fit."""
    adata = adata.copy()
    entry = adata.uns["spatial"]["synthetic"]
    image = entry["images"]["hires"].repeat(factor, axis=0).repeat(factor, axis=1)
    scalef = entry["scalefactors"]["tissue_hires_scalef"] * factor
    scalefactors = {**entry["scalefactors"], "tissue_hires_scalef": scalef}
    adata.uns["spatial"] = {"synthetic": {**entry, "images": {"hires": image}, "scalefactors": scalefactors}}
    return adata


def scales_of(adata, **options) -> list[float]:
    table = snrmix.pp.embed_histology(adata, encoder="colour", copy=True, **options)
    return table.uns["X_histology"]["scales"].tolist()


@pytest.mark.parametrize("factor, expected", [(1, []), (2, [0.6]), (9, [0.3, 0.6])])
def test_finer_images_get_smaller_patches(tissue, factor, expected):
    found = finer(tissue, factor)
    assert pixels_per_side(read_sites(found)) == pytest.approx(16 * factor, rel=0.02)
    assert scales_of(found) == [*expected, *COARSE_SCALES]
    assert scales_of(found, scales="auto") == [*expected, *COARSE_SCALES]


def test_given_scales_stay(tissue):
    assert scales_of(finer(tissue, 9), scales=(2.0, 1.0)) == [2.0, 1.0]


def test_the_choice_is_logged_and_recorded(tissue, impute, caplog):
    found = finer(tissue, 2)
    with caplog.at_level(logging.INFO, "snrmix"):
        impute(found)
    assert "patches of 0.6, 1.15, 2.3, 4.6 spot pitches, the smallest of 19 px." in caplog.text
    image = found.uns["snrmix"]["image"]
    assert image["scales"].tolist() == [0.6, *COARSE_SCALES] and image["scales_by"] == "pixels"
    given = impute(found, scales=2.0, copy=True).uns["snrmix"]["image"]
    assert given["scales"].tolist() == [2.0] and given["scales_by"] == "call"


def test_several_slides_get_what_all_of_them_hold(tissue, caplog):
    import anndata

    fine, coarse = finer(tissue, 9), finer(tissue, 2)
    both = anndata.concat({"fine": fine, "coarse": coarse}, label="library_id", index_unique="-", uns_merge="unique")
    both.uns["spatial"] = {name: one.uns["spatial"]["synthetic"] for name, one in (("fine", fine), ("coarse", coarse))}
    with caplog.at_level(logging.INFO, "snrmix"):
        assert scales_of(both) == [0.6, *COARSE_SCALES]
    assert "the image of 'coarse' holds no more, and one model takes the same from all" in caplog.text


def test_an_embedding_of_other_scales_is_made_again(tissue):
    found = finer(tissue, 2)
    snrmix.pp.embed_histology(found, encoder="colour", scales=COARSE_SCALES)
    old = found.obsm["X_histology"]
    snrmix.pp.embed_histology(found, encoder="colour")
    assert found.obsm["X_histology"].shape[1] == old.shape[1] // 3 * 4
    np.testing.assert_array_equal(found.obsm["X_histology"][:, old.shape[1] // 3 :], old)


def test_an_embedding_without_the_newer_entries_of_its_record_is_reused(tissue, caplog):
    snrmix.pp.embed_histology(tissue, encoder="colour")
    for name in ("scales_by", "run_time"):
        del tissue.uns["X_histology"][name]
    with caplog.at_level(logging.INFO, "snrmix"):
        snrmix.pp.embed_histology(tissue, encoder="colour")
    assert "reusing" in caplog.text and tissue.uns["X_histology"]["run_time"] == "torch"


def test_sites_on_a_grid_of_patches_get_none_below_the_pitch(tissue):
    sites = read_sites(finer(tissue, 9))
    assert choose_scales("auto", sites).min() == 0.3
    dense = np.stack(np.meshgrid(*2 * [np.linspace(*np.quantile(sites.positions, [0, 1]), 60)]), -1).reshape(-1, 2)
    import dataclasses

    many = dataclasses.replace(sites, positions=dense, library=np.zeros(len(dense), int))
    assert choose_scales("auto", many).tolist() == list(COARSE_SCALES)


def test_fine_tuning_keeps_three_scales():
    from snrmix.plan.options import read_options

    assert read_options(finetune=True).scales.tolist() == list(COARSE_SCALES)
    assert read_options().scales == "auto"
