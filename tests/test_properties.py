"""What must hold for any layout of a section: frames, row orders, missing rows, libraries, dtypes."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

import snrmix
from snrmix.data.sites import read_sites
from snrmix.plan.graph import spatial_neighbours

few = settings(
    max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
fewer = settings(few, max_examples=4)
seeds = st.integers(0, 2**31 - 1)
TOLERANCE = 2e-3  # of colour statistics in 0..1: half precision, and crops whose borders are rounded otherwise


def embedding(data, **options) -> pd.DataFrame:
    table = snrmix.pp.embed_histology(data, encoder="colour", copy=True, **options)
    return pd.DataFrame(table.obsm["X_histology"].astype(float), index=table.obs_names)


@pytest.fixture(scope="module")
def plain(small_tissue):
    """The embedding of the section as it is."""
    return embedding(small_tissue)


def section_of(adata):
    return adata.uns["spatial"]["synthetic"]


@few
@given(factor=st.floats(0.05, 40), seed=seeds)
def test_units_of_the_frame_do_not_matter(small_tissue, plain, factor, seed):
    """Coordinates in other pixels, with the scale factor that goes with them, show the same tissue."""
    adata = small_tissue.copy()
    adata.obsm["spatial"] = adata.obsm["spatial"] * factor
    factors = section_of(adata)["scalefactors"]
    factors["tissue_hires_scalef"] /= factor
    factors["spot_diameter_fullres"] *= factor
    np.testing.assert_allclose(embedding(adata), plain, atol=TOLERANCE)


@few
@given(angle=st.floats(-np.pi, np.pi), scale=st.floats(0.1, 10), flip=st.booleans(), seed=seeds)
def test_similarities_of_a_spatialdata_do_not_matter(small_sdata, angle, scale, flip, seed):
    """Rotations, flips, scalings and shifts that move image and spots together change nothing."""
    from spatialdata import SpatialData
    from spatialdata.transformations import Affine, Sequence, get_transformation, set_transformation

    sdata, expected = small_sdata
    shift = np.random.default_rng(seed).normal(0, 1000, 2)
    turn = (
        scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag([1, 1 - 2 * flip])
    )
    matrix = np.vstack([np.column_stack([turn, shift]), [0, 0, 1]])
    moved = SpatialData(images=dict(sdata.images), shapes=dict(sdata.shapes), tables=dict(sdata.tables))
    for element in (moved.images["synthetic_hires_image"], moved.shapes["synthetic"]):
        old = get_transformation(element, "synthetic")
        affine = Affine(matrix, input_axes=("x", "y"), output_axes=("x", "y"))
        set_transformation(element, Sequence([old, affine]), "moved")
        set_transformation(element, old, "synthetic")
    try:
        found = embedding_in(moved, "moved")
    finally:
        from spatialdata.transformations import remove_transformation

        for element in (moved.images["synthetic_hires_image"], moved.shapes["synthetic"]):
            remove_transformation(element, "moved")
    np.testing.assert_allclose(found, expected.loc[found.index], atol=TOLERANCE)


def embedding_in(sdata, system: str) -> pd.DataFrame:
    """The embedding when all other coordinate systems are gone."""
    return embedding(sdata.filter_by_coordinate_system(system))


@pytest.fixture(scope="module")
def small_sdata(small_tissue):
    sdata = snrmix.datasets.synthetic_spatialdata(n_rows=12, n_genes=40, image_px_per_pitch=16)
    return sdata, embedding(sdata)


@few
@given(seed=seeds, share=st.floats(0.3, 1))
def test_rows_may_be_permuted_and_missing(small_tissue, plain, seed, share):
    rng = np.random.default_rng(seed)
    rows = rng.permutation(small_tissue.n_obs)[: max(30, int(share * small_tissue.n_obs))]
    part = small_tissue[rows].copy()
    np.testing.assert_allclose(embedding(part), plain.loc[part.obs_names], atol=TOLERANCE)
    sites, all_sites = read_sites(part), read_sites(small_tissue)
    assert sites.pitch == pytest.approx(all_sites.pitch, rel=1e-6) and sites.um_per_px == pytest.approx(
        all_sites.um_per_px
    )
    assert list(part.obs_names[sites.order]) == sorted(part.obs_names)


@few
@given(seed=seeds, cut=st.floats(0.2, 0.8), names=st.permutations(["a", "b", "synthetic"]))
def test_libraries_are_read_each_in_its_own_frame(small_tissue, plain, seed, cut, names):
    """The section cut in two libraries, one of them in another frame, rows in any order."""
    rng = np.random.default_rng(seed)
    left = small_tissue.obsm["spatial"][:, 0] < np.quantile(small_tissue.obsm["spatial"][:, 0], cut)
    entry, factor = section_of(small_tissue), float(rng.uniform(0.2, 5))
    adata = small_tissue.copy()
    adata.obs["library_id"] = pd.Categorical(np.where(left, names[0], names[1]))
    adata.obsm["spatial"] = np.where(left[:, None], 1.0, factor) * adata.obsm["spatial"]
    scaled = {"tissue_hires_scalef": entry["scalefactors"]["tissue_hires_scalef"] / factor}
    scaled["spot_diameter_fullres"] = entry["scalefactors"]["spot_diameter_fullres"] * factor
    adata.uns["spatial"] = {names[0]: entry, names[1]: {**entry, "scalefactors": scaled}}
    adata = adata[rng.permutation(adata.n_obs)].copy()
    np.testing.assert_allclose(embedding(adata), plain.loc[adata.obs_names], atol=TOLERANCE)
    sites = read_sites(adata)
    near = spatial_neighbours(sites.lattice_positions, sites.library, 6)
    codes = np.repeat(sites.library[:, None], 6, 1)
    assert (sites.library[near][near >= 0] == codes[near >= 0]).all()


PIXELS = {
    "uint8": lambda x: x,
    "uint16": lambda x: x.astype(np.uint16) * 257,
    "float 0..1": lambda x: (x / 255).astype(np.float32),
    "float 0..255": lambda x: x.astype(np.float64),
    "with alpha": lambda x: np.concatenate([x, np.full_like(x[..., :1], 255)], 2),
}


@few
@given(pixels=st.sampled_from(sorted(PIXELS)), integers=st.booleans())
def test_dtypes_of_image_and_positions_do_not_matter(small_tissue, pixels, integers):
    adata = small_tissue.copy()
    adata.obsm["spatial"] = np.rint(adata.obsm["spatial"])
    expected = embedding(adata)
    adata.obsm["spatial"] = adata.obsm["spatial"].astype(np.int64 if integers else np.float32)
    images = section_of(adata)["images"]
    images["hires"] = PIXELS[pixels](images["hires"])
    np.testing.assert_allclose(embedding(adata), expected, atol=TOLERANCE)


MATRICES = {
    "csr float32": lambda x: sparse.csr_matrix(x, dtype=np.float32),
    "csc int64": lambda x: sparse.csc_matrix(x, dtype=np.int64),
    "csr uint16": lambda x: sparse.csr_matrix(x, dtype=np.uint16),
    "dense float64": lambda x: x.toarray().astype(np.float64),
    "dense int32": lambda x: x.toarray().astype(np.int32),
}


@fewer
@given(matrix=st.sampled_from(sorted(MATRICES)), seed=seeds)
def test_imputation_does_not_depend_on_order_dtype_or_what_is_stored_at_unmeasured_spots(
    small_tissue, impute, matrix, seed
):
    rng = np.random.default_rng(seed)
    measured = np.random.default_rng(0).uniform(size=small_tissue.n_obs) < 0.6
    adata = small_tissue.copy()
    adata.obs["measured"] = measured
    expected = impute(adata, measured="measured", copy=True)
    garbled = adata.X.toarray()
    garbled[~measured] = rng.integers(0, 60_000, garbled[~measured].shape)
    adata.X = MATRICES[matrix](sparse.csr_matrix(garbled))
    rows, genes = rng.permutation(adata.n_obs), rng.permutation(adata.n_vars)
    found = impute(adata[rows][:, genes].copy(), measured="measured", copy=True)
    for name in ("snrmix", "snrmix_sd"):
        wanted = expected[found.obs_names, found.var_names].layers[name]
        unmeasured = ~found.obs["measured"].to_numpy()
        np.testing.assert_array_equal(found.layers[name][unmeasured], wanted[unmeasured])
    pd.testing.assert_series_equal(found.var["snrmix_mse"], expected.var["snrmix_mse"][found.var_names])
