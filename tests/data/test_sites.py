"""Sites, and a part of them."""

import numpy as np
import pytest
from anndata import concat

import snrmix
from snrmix.data.sites import read_sites, restrict_sites


@pytest.fixture
def mixed():
    """Two slides whose rows alternate."""
    slides = {name: snrmix.datasets.synthetic_tissue(8, 10, random_state=seed) for seed, name in enumerate("ab")}
    for name, slide in slides.items():
        slide.obs["library_id"] = name
        slide.uns["spatial"][name] = slide.uns["spatial"].pop("synthetic")
    both = concat(slides, index_unique="-", join="outer")
    return both[np.random.default_rng(0).permutation(both.n_obs)].copy()


@pytest.mark.parametrize("code", [0, 1])
@pytest.mark.parametrize(("dtype", "missing"), [(np.float32, np.nan), (bool, False), (int, 0)])
def test_values_of_some_libraries_come_to_their_rows(mixed, code, dtype, missing):
    sites = read_sites(mixed, with_images=False)
    _, own = restrict_sites(sites, [code])
    values = np.arange(1, len(own) + 1).astype(dtype)
    rows = own.to_rows(values)
    assert rows.shape == (mixed.n_obs,) and rows.dtype == dtype
    is_own = (mixed.obs["library_id"] == "ab"[code]).to_numpy()
    np.testing.assert_array_equal(rows[own.order], values)
    np.testing.assert_array_equal(rows[~is_own], np.full((~is_own).sum(), missing, dtype))
    table = own.to_rows(np.ones((len(own), 3), np.float32))
    assert table.shape == (mixed.n_obs, 3) and np.isnan(table[~is_own]).all() and (table[is_own] == 1).all()


def test_values_of_all_sites_come_to_their_rows(mixed):
    sites = read_sites(mixed, with_images=False)
    assert list(sites.to_rows(sites.names)) == list(mixed.obs_names)
