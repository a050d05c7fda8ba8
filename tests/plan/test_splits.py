"""Folds are like the sites that predictions are for: those that do not matter have no say in how genes are scored."""

import numpy as np
import pytest

from snrmix.data.sites import read_sites
from snrmix.plan.splits import wanted_sites

N = 5


def send_away(adata):
    adata.obsm["spatial"][:N] = [[-5e4, 1e3 * i] for i in range(N)]


def off_tissue(adata):
    send_away(adata)
    adata.obs["in_tissue"] = (np.arange(adata.n_obs) >= N).astype(int)


def off_tissue_in_words(adata):
    send_away(adata)
    adata.obs["in_tissue"] = np.where(np.arange(adata.n_obs) >= N, "True", "False")


def at_one_place(adata):
    adata.obsm["spatial"][:N] = -5e4


def at_the_origin(adata):
    adata.obsm["spatial"][:N] = 0


@pytest.mark.parametrize("lose", [off_tissue, off_tissue_in_words, at_one_place, at_the_origin])
def test_spots_that_do_not_matter_change_no_score(tissue, impute, caplog, lose):
    measured = np.arange(tissue.n_obs) >= N
    expected = impute(tissue[measured].copy(), fill="all", copy=True)
    lose(tissue)
    got = impute(tissue, measured=measured, fill="all", copy=True)
    assert "compact groups" not in caplog.text and "farther from measured ones" not in caplog.text
    np.testing.assert_allclose(got.var["snrmix_mse"], expected.var["snrmix_mse"], rtol=1e-6)
    np.testing.assert_allclose(got.layers["snrmix"][measured], expected.layers["snrmix"], rtol=1e-4, atol=1e-5)


def test_sites_that_are_wanted_decide(tissue):
    measured = np.arange(tissue.n_obs) >= N
    tissue.obsm["spatial"][1] = tissue.obsm["spatial"][0]
    tissue.obs["in_tissue"] = np.where(np.arange(tissue.n_obs) == 2, 0, 1)
    sites = read_sites(tissue, with_images=False, measured=measured)
    wanted = np.empty(tissue.n_obs, bool)
    wanted[sites.order] = wanted_sites(tissue, sites, measured[sites.order])
    np.testing.assert_array_equal(np.flatnonzero(~wanted), [0, 1, 2])


@pytest.mark.parametrize("flag", [0, None])
def test_in_tissue_that_says_yes_of_no_spot_says_nothing(tissue, flag):
    measured = np.arange(tissue.n_obs) >= N
    tissue.obs["in_tissue"] = flag
    sites = read_sites(tissue, with_images=False, measured=measured)
    assert wanted_sites(tissue, sites, measured[sites.order]).all()
