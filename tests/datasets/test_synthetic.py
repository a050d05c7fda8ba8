import warnings

import anndata
import numpy as np
import pytest
from scipy import sparse
from scipy.spatial import cKDTree

import snrmix.datasets
from snrmix.images import colour_statistics, open_image, read_crops
from snrmix.images.source import scaling

SMALL = {"n_rows": 12, "n_genes": 40, "image_px_per_pitch": 16}


@pytest.fixture(scope="module")
def section():
    return snrmix.datasets.synthetic_tissue()


@pytest.fixture(scope="module")
def sdata():
    return snrmix.datasets.synthetic_spatialdata(**SMALL)


def pitch_px(adata):
    return adata.uns["spatial"]["synthetic"]["scalefactors"]["spot_diameter_fullres"] / 0.65


def normalised(adata):
    counts = adata.X.toarray()
    return np.log1p(1e4 * counts / counts.sum(1, keepdims=True))


def test_counts_and_annotation(section):
    assert 650 < section.n_obs < 950
    assert section.n_vars == 200
    assert sparse.issparse(section.X) and section.X.format == "csr" and section.X.dtype == np.float32
    assert (section.X.data >= 1).all() and (section.X.data % 1 == 0).all()
    assert section.obs_names.is_unique and section.obs_names.str.fullmatch("[ACGT]{16}-1").all()
    assert section.var_names.is_unique and (section.obs["in_tissue"] == 1).all()
    assert list(section.obs["library_id"].cat.categories) == ["synthetic"]
    assert all(gene.startswith(f"{programme}_") for gene, programme in section.var["programme"].items())
    assert set(section.var["programme"]) == {"GLAND", "STROMA", "IMMUNE", "FAT", "GRADIENT", "MIXED", "NOISE"}


def test_truth_is_a_rate_per_10_000_around_which_the_counts_scatter(section):
    truth = section.layers["truth"]
    assert truth.dtype == np.float32
    rates = np.expm1(truth.astype(float))
    np.testing.assert_allclose(rates.sum(1), 1e4, rtol=1e-4)
    counts = section.X.toarray()
    depth = counts.sum(1, keepdims=True)
    assert np.log(depth).std() > 0.3
    np.testing.assert_allclose(counts.sum(0) / (depth * rates / 1e4).sum(0), 1, atol=0.15)
    expected = depth * rates / 1e4
    assert np.mean((counts - expected) ** 2) > 1.5 * expected.mean()  # more scatter than Poisson


def test_lattice_is_the_hexagonal_one_of_visium(section):
    row, column = section.obs["array_row"].to_numpy(), section.obs["array_col"].to_numpy()
    assert ((row + column) % 2 == 0).all() and row.max() < 78 and column.max() < 128
    distance = cKDTree(section.obsm["spatial"]).query(section.obsm["spatial"], k=2)[0][:, 1]
    np.testing.assert_allclose(distance, pitch_px(section), rtol=1e-6)
    expected = np.column_stack([column / 2, row * np.sqrt(0.75)]) * pitch_px(section)
    np.testing.assert_allclose(np.ptp(section.obsm["spatial"] - expected, axis=0), 0, atol=1e-6)


def test_spots_lie_on_tissue_once_scaled_to_the_image(section):
    library = section.uns["spatial"]["synthetic"]
    image, factor = library["images"]["hires"], library["scalefactors"]["tissue_hires_scalef"]
    assert image.dtype == np.uint8 and factor != 1
    assert (section.obsm["spatial"].max(0) * factor < image.shape[1::-1]).all()
    level = open_image(image, scaling(factor)).levels[0]
    shade = np.empty(section.n_obs)
    for chosen, crops in read_crops(level, section.obsm["spatial"], pitch_px(section), 16):
        shade[chosen] = crops[..., 1].mean((1, 2))
    on_fat = section[:, section.var["programme"] == "FAT"].layers["truth"].mean(1)
    assert shade[on_fat < np.median(on_fat)].max() < 215 < image[:5].mean()


@pytest.mark.parametrize(("size", "value"), [("n_rows", 79), ("n_rows", 2), ("n_genes", 3), ("image_px_per_pitch", 1)])
def test_impossible_sizes_are_refused(size, value):
    with pytest.raises(ValueError, match=f"{size} is {value}"):
        snrmix.datasets.synthetic_tissue(**{size: value})


def test_same_seed_same_section_and_the_global_state_is_left_alone():
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    one, two = (snrmix.datasets.synthetic_tissue(**SMALL, random_state=5) for _ in range(2))
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.testing.assert_array_equal(one.X.toarray(), two.X.toarray())
    np.testing.assert_array_equal(*(a.uns["spatial"]["synthetic"]["images"]["hires"] for a in (one, two)))
    assert list(one.obs_names) == list(two.obs_names)
    other = snrmix.datasets.synthetic_tissue(**SMALL, random_state=6)
    assert other.shape != one.shape or (other.X != one.X).nnz > 0


def test_tissue_does_not_depend_on_the_resolution_it_is_drawn_at():
    coarse, fine = (snrmix.datasets.synthetic_tissue(12, 40, image_px_per_pitch=px) for px in (32, 64))
    common = coarse.obs_names.intersection(fine.obs_names)
    assert len(common) > 0.95 * fine.n_obs
    correlation = np.corrcoef(coarse[common].layers["truth"].ravel(), fine[common].layers["truth"].ravel())[0, 1]
    assert correlation > 0.98


def test_file_round_trip(tmp_path):
    adata = snrmix.datasets.synthetic_tissue(**SMALL)
    adata.write_h5ad(tmp_path / "section.h5ad")
    back = anndata.read_h5ad(tmp_path / "section.h5ad")
    image = back.uns["spatial"]["synthetic"]["images"]["hires"]
    np.testing.assert_array_equal(image, adata.uns["spatial"]["synthetic"]["images"]["hires"])


# What makes the section a fair test: the image and the neighbours each miss something that the other has.


def image_features(adata):
    library = adata.uns["spatial"]["synthetic"]
    image = open_image(library["images"]["hires"], scaling(library["scalefactors"]["tissue_hires_scalef"]))
    features = np.empty((adata.n_obs, 3, 12))
    for i, pitches in enumerate((1.15, 2.3, 4.6)):
        side = pitches * pitch_px(adata)
        for chosen, crops in read_crops(image.level_for(side, 32), adata.obsm["spatial"], side, 32):
            features[chosen, i] = colour_statistics(crops)[:, :12]
    return features.reshape(adata.n_obs, -1)


def kernel_ridge(kernel, measured, values, noise):
    mean = values[measured].mean(0)
    weights = np.linalg.solve(
        kernel[np.ix_(measured, measured)] + noise * np.eye(measured.sum()), values[measured] - mean
    )
    return mean + kernel[np.ix_(~measured, measured)] @ weights


@pytest.fixture(scope="module")
def error_ratios(section):
    """Squared error of the hidden spots against the truth, over that of the mean, per programme."""
    values, truth = normalised(section), section.layers["truth"]
    measured = np.random.default_rng(1).permutation(section.n_obs) < section.n_obs // 2
    features = image_features(section)
    features = np.clip((features - features[measured].mean(0)) / features[measured].std(0), -4, 4)
    image = features @ features.T / features.shape[1]
    place = section.obsm["spatial"] / pitch_px(section)
    near = np.exp(-np.linalg.norm(place[:, None] - place[None], axis=2) / 16)
    neighbours = cKDTree(place[measured]).query(place[~measured], k=8)[1]
    predictions = {
        "mean": values[measured].mean(0),
        "image": kernel_ridge(image, measured, values, 0.1),
        "space": values[measured][neighbours].mean(1),
        "both": kernel_ridge(0.7 * image + 0.3 * near, measured, values, 0.2),
    }
    errors = {name: ((p - truth[~measured]) ** 2).mean(0) for name, p in predictions.items()}
    programme = section.var["programme"].to_numpy()

    def ratio(method, *names):
        chosen = np.isin(programme, names) if names else programme != "NOISE"
        return np.median(errors[method][chosen] / errors["mean"][chosen])

    return ratio


def test_image_and_space_together_beat_each_alone(error_ratios):
    alone = min(error_ratios("image"), error_ratios("space"))
    assert 0.45 < alone < 0.65
    assert error_ratios("both") < 0.8 * alone


def test_zones_leave_no_trace_in_the_colours(error_ratios):
    assert error_ratios("image", "GRADIENT") > 0.75 > 3 * error_ratios("space", "GRADIENT")


def test_tissues_are_seen_better_in_the_image_than_in_the_neighbours(error_ratios):
    tissues = "GLAND", "STROMA", "FAT", "IMMUNE"
    assert error_ratios("image", *tissues) < 0.7 * error_ratios("space", *tissues)


def test_mixed_genes_need_more_than_a_sum(error_ratios):
    assert 0.4 < error_ratios("both", "MIXED") < min(error_ratios("image", "MIXED"), error_ratios("space", "MIXED"))


# SpatialData


def test_spatialdata_is_named_as_the_visium_reader_does(sdata):
    assert set(sdata.coordinate_systems) == {"synthetic", "synthetic_downscaled_hires"}
    assert list(sdata.images) == ["synthetic_hires_image"] and list(sdata.shapes) == ["synthetic"]
    attrs = sdata["table"].uns["spatialdata_attrs"]
    assert attrs == {"region": "synthetic", "region_key": "region", "instance_key": "spot_id"}
    levels = sdata["synthetic_hires_image"]
    assert len(levels) == 3
    assert levels["scale0"]["image"].dims == ("c", "y", "x")
    assert "spatial" not in sdata["table"].uns


def test_table_rows_are_in_another_order_than_the_circles(sdata):
    table, circles = sdata["table"], sdata["synthetic"]
    ids = table.obs["spot_id"].to_numpy()
    assert not np.array_equal(ids, circles.index)
    centres = np.column_stack([circles.geometry.x, circles.geometry.y])[circles.index.get_indexer(ids)]
    np.testing.assert_allclose(centres, table.obsm["spatial"])


def test_spatialdata_holds_the_same_section_as_anndata(sdata):
    from spatialdata.transformations import get_transformation

    adata = snrmix.datasets.synthetic_tissue(**SMALL)
    table = sdata["table"][adata.obs_names]
    np.testing.assert_array_equal(table.X.toarray(), adata.X.toarray())
    np.testing.assert_array_equal(table.layers["truth"], adata.layers["truth"])
    np.testing.assert_allclose(table.obsm["spatial"], adata.obsm["spatial"])
    level = sdata["synthetic_hires_image"]["scale0"]["image"]
    library = adata.uns["spatial"]["synthetic"]
    np.testing.assert_array_equal(level.transpose("y", "x", "c"), library["images"]["hires"])
    to_frame = get_transformation(level, "synthetic").to_affine_matrix(("x", "y"), ("x", "y"))
    np.testing.assert_allclose(np.diag(to_frame)[:2], 1 / library["scalefactors"]["tissue_hires_scalef"])


def test_spatialdata_round_trip(sdata, tmp_path):
    from spatialdata import read_zarr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sdata.write(tmp_path / "section.zarr")
        back = read_zarr(tmp_path / "section.zarr")
    np.testing.assert_array_equal(back["table"].layers["truth"], sdata["table"].layers["truth"])
