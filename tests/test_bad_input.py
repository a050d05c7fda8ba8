"""Every refusal names the key and says what to do, and leaves the object bit for bit as it was."""

from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import snrmix

CASES = []


def refused(error, *says):
    """Register a case: a function that spoils a good object and returns the options of the call."""

    def register(spoil):
        CASES.append(pytest.param(spoil, error, says, id=spoil.__name__))
        return spoil

    return register


def library(adata):
    return adata.uns["spatial"]["synthetic"]


def half(adata):
    return np.arange(adata.n_obs) % 2 == 0


# Coordinates and images


@refused(KeyError, "obsm['spatial']", "full-resolution pixels", "Store the coordinates there")
def no_coordinates(adata, folder):
    del adata.obsm["spatial"]
    return {}


@refused(ValueError, "obsm['spatial']", "(117, 3)", "expected (117, 2)")
def coordinates_with_three_columns(adata, folder):
    adata.obsm["spatial"] = np.ones((adata.n_obs, 3))
    return {}


@refused(TypeError, "obsm['spatial']", "must hold numbers")
def coordinates_of_text(adata, folder):
    adata.obsm["spatial"] = pd.DataFrame({"x": ["a"] * adata.n_obs, "y": ["b"] * adata.n_obs}, index=adata.obs_names)
    return {}


@refused(
    ValueError, "obsm['spatial'] is NaN or infinite at 1 of 117 spots that are measured", "drop them: adata = adata["
)
def coordinates_missing_for_a_spot(adata, folder):
    adata.obsm["spatial"][3] = np.nan
    return {}


@refused(ValueError, "obsm['spatial']", "1 distinct position", "at least two")
def coordinates_all_the_same(adata, folder):
    adata.obsm["spatial"][:] = 100.0
    adata.obs = adata.obs.drop(columns=["array_row", "array_col"])
    return {}


@refused(KeyError, "image_key='fullres'", "uns['spatial']['synthetic']['images']", "'hires'")
def image_key_missing(adata, folder):
    return {"image_key": "fullres"}


@refused(KeyError, "'tissue_<image>_scalef'", "scalefactors", "'spot_diameter_fullres'")
def scale_factor_missing(adata, folder):
    del library(adata)["scalefactors"]["tissue_hires_scalef"]
    return {}


@refused(KeyError, "'tissue_lowres_scalef'", "image 'lowres'", "scalefactors")
def scale_factor_of_the_chosen_image_missing(adata, folder):
    library(adata)["images"]["lowres"] = library(adata)["images"]["hires"][::4, ::4]
    return {"image_key": "lowres"}


@refused(ValueError, "'tissue_hires_scalef'", "is 0.0", "must be positive")
def scale_factor_of_zero(adata, folder):
    library(adata)["scalefactors"]["tissue_hires_scalef"] = 0.0
    return {}


@refused(
    ValueError, "lie outside the image 'hires'", "tissue_<name>_scalef", "obsm['spatial'] must be in full-resolution"
)
def scale_factor_of_another_image(adata, folder):
    library(adata)["scalefactors"]["tissue_hires_scalef"] = 1.0
    return {}


@refused(
    ValueError, "lie outside the image", "image= must be in the pixels of obsm['spatial']", "full-resolution image"
)
def hires_image_with_full_resolution_coordinates(adata, folder):
    return {"image": library(adata)["images"]["hires"]}


@refused(ValueError, "'spot_diameter_fullres'", "px apart", "not in full-resolution pixels", "'tissue_hires_scalef'")
def coordinates_already_scaled_to_the_image(adata, folder):
    adata.obsm["spatial"] *= library(adata)["scalefactors"]["tissue_hires_scalef"]
    return {}


@refused(ValueError, "px apart on the image 'hires'", "too close for patches", "tissue_<name>_scalef")
def image_too_small_for_patches(adata, folder):
    library(adata)["scalefactors"]["tissue_hires_scalef"] = 0.05
    return {}


@refused(KeyError, "library_key='slide'", "not in obs", "'library_id'")
def library_key_missing(adata, folder):
    return {"library_key": "slide"}


@refused(ValueError, "obs['library_id']", "1 missing values, e.g. at", "every observation needs a library")
def library_missing_for_a_spot(adata, folder):
    adata.obs["library_id"] = adata.obs["library_id"].astype(object)
    adata.obs.loc[adata.obs_names[5], "library_id"] = None
    return {}


@refused(ValueError, "uns['spatial'] has 2 libraries", "library_key=")
def libraries_not_told_apart(adata, folder):
    del adata.obs["library_id"]
    adata.uns["spatial"]["other"] = deepcopy(library(adata))
    return {}


@refused(ValueError, "2 libraries", "'a', 'b'", "image={library: image}")
def one_image_for_two_libraries(adata, folder):
    adata.obs["slide"] = np.where(half(adata), "a", "b")
    return {"library_key": "slide", "image": library(adata)["images"]["hires"]}


@refused(KeyError, "image= has no entry for library 'b'", "it has 'a'")
def image_missing_for_a_library(adata, folder):
    adata.obs["slide"] = np.where(half(adata), "a", "b")
    return {"library_key": "slide", "image": {"a": library(adata)["images"]["hires"]}}


@refused(KeyError, "no image for library 'b'", "uns['spatial'] has 'a'", "image=", "use_rep=")
def stored_image_missing_for_a_library(adata, folder):
    adata.obs["slide"] = np.where(half(adata), "a", "b")
    adata.uns["spatial"]["a"] = adata.uns["spatial"].pop("synthetic")
    return {"library_key": "slide"}


@refused(ValueError, "image='/nowhere/section.png'", "does not exist")
def image_file_missing(adata, folder):
    return {"image": "/nowhere/section.png"}


@refused(ValueError, "image=", "is a folder, but no Zarr; pass a file")
def image_file_is_a_folder(adata, folder):
    return {"image": folder}


@refused(ValueError, "section.png", "no image that can be read", "pass JPEG, PNG, TIFF, OME-Zarr or an array")
def image_file_is_no_image(adata, folder):
    (folder / "section.png").write_text("spot,x,y")
    return {"image": folder / "section.png"}


@refused(ValueError, "section.tif", "no image that can be read", "pass JPEG, PNG, TIFF, OME-Zarr or an array")
def image_file_is_no_tiff(adata, folder):
    (folder / "section.tif").write_text("spot,x,y")
    return {"image": folder / "section.tif"}


@refused(ValueError, "section.jpg", "truncated", "pass JPEG, PNG, TIFF, OME-Zarr or an array")
def image_file_is_cut_short(adata, folder):
    from PIL import Image

    Image.fromarray(library(adata)["images"]["hires"]).save(folder / "whole.jpg")
    (folder / "section.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:5000])
    return {"image": folder / "section.jpg"}


@refused(ValueError, "(50, 50, 7)", "1, 3 or 4 channels")
def image_with_seven_channels(adata, folder):
    return {"image": np.zeros((50, 50, 7), np.uint8)}


@refused(ValueError, "dtype bool", "uint8, uint16 or float")
def image_of_booleans(adata, folder):
    return {"image": np.zeros((50, 50, 3), bool)}


@refused(ValueError, "values from 0 to 1e+05", "0..1 or 0..255 for floats", "convert it to uint8")
def image_with_impossible_values(adata, folder):
    return {"image": np.linspace(0, 1e5, 50 * 50 * 3).reshape(50, 50, 3)}


@refused(ValueError, "values from -2 to 2", "rescale it")
def image_that_was_standardised(adata, folder):
    return {"image": np.linspace(-2, 2, 50 * 50 * 3, dtype=np.float32).reshape(50, 50, 3)}


@refused(
    TypeError, "image must be a path, an array (y, x, channels), a DataArray", "not list", "image={library: image}"
)
def image_of_another_type(adata, folder):
    return {"image": [1, 2, 3]}


@refused(ValueError, "uns['spatial'] must be a dict by library", "'images' and 'scalefactors'")
def stored_sections_of_another_kind(adata, folder):
    adata.uns["spatial"] = np.zeros(3)
    return {}


@refused(ValueError, "um_per_px=0", "positive number", "micrometres per unit of obsm['spatial']")
def um_per_px_of_zero(adata, folder):
    return {"um_per_px": 0}


@refused(KeyError, "um_per_px= has no entry for library 'synthetic'", "it has 'a'", "one number for all")
def um_per_px_missing_for_a_library(adata, folder):
    return {"um_per_px": {"a": 0.5}}


@refused(ValueError, "um_per_px=-1", "positive number")
def um_per_px_of_a_library_negative(adata, folder):
    return {"um_per_px": {"synthetic": -1}}


@refused(ValueError, "um_per_px='0.5'", "positive number")
def um_per_px_as_text(adata, folder):
    return {"um_per_px": "0.5"}


# Features and encoders


@refused(KeyError, "use_rep='X_pcs'", "not in obsm", "Did you mean 'X_pca'")
def features_missing(adata, folder):
    adata.obsm["X_pca"] = np.ones((adata.n_obs, 3))
    return {"use_rep": "X_pcs"}


@refused(ValueError, "obsm['X_uni']", "NaN or infinite features at 2 sites")
def features_with_nan(adata, folder):
    adata.obsm["X_uni"] = np.ones((adata.n_obs, 3))
    adata.obsm["X_uni"][[4, 9], 1] = np.nan, np.inf
    return {"use_rep": "X_uni"}


@refused(ValueError, "obsm['X_uni']", "shape (117, 3, 2)", "expected numbers, (n_obs, features)")
def features_of_three_dimensions(adata, folder):
    adata.obsm["X_uni"] = np.ones((adata.n_obs, 3, 2))
    return {"use_rep": "X_uni"}


@refused(ValueError, "unknown encoder 'efficientnet'", "'colour'", "Did you mean 'efficientnet_lite0'")
def encoder_unknown(adata, folder):
    return {"encoder": "efficientnet"}


@refused(TypeError, "encoder must be a name", "not int")
def encoder_of_another_type(adata, folder):
    return {"encoder": 3}


@refused(ValueError, "encoder 'unpooled'", "returned shape (2, 3, 128, 128) for 2 patches", "pool over the image")
def encoder_that_does_not_pool(adata, folder):
    def unpooled(patches):
        return patches

    return {"encoder": unpooled}


@refused(ValueError, "encoder 'broken'", "not finite")
def encoder_that_returns_nan(adata, folder):
    def broken(patches):
        return patches.mean((2, 3)) * np.nan

    return {"encoder": broken}


@refused(TypeError, "encoder 'wrapped'", "returned dict", "expected a tensor or array")
def encoder_that_returns_no_tensor(adata, folder):
    def wrapped(patches):
        return {"pooled": patches.mean((2, 3))}

    return {"encoder": wrapped}


@refused(ValueError, "scales=(0, 2)", "positive multiples of the spot pitch")
def scale_of_zero(adata, folder):
    return {"scales": (0, 2)}


@refused(ValueError, "scales=()", "positive multiples of the spot pitch")
def no_scales(adata, folder):
    return {"scales": ()}


@refused(ValueError, "accelerator='quantum'", "'cpu'")
def accelerator_unknown(adata, folder):
    return {"accelerator": "quantum"}


# Measured spots


@refused(KeyError, "measured='measurd'", "not in obs", "Did you mean 'measured'")
def measured_column_missing(adata, folder):
    adata.obs["measured"] = half(adata)
    return {"measured": "measurd"}


@refused(TypeError, "obs['measured'] must be boolean", "text and holds 'kept', 'failed'", "== 'kept'")
def measured_column_of_text(adata, folder):
    adata.obs["measured"] = pd.Series(np.where(half(adata), "kept", "failed"), adata.obs_names, dtype=object)
    return {"measured": "measured"}


@refused(ValueError, "obs['measured']", "1 missing values, at", "unknown is neither yes nor no", ".fillna(False)")
def measured_column_with_missing_values(adata, folder):
    adata.obs["measured"] = pd.array([None, *half(adata)[1:]], dtype="boolean")
    return {"measured": "measured"}


@refused(TypeError, "measured must be boolean", "is int64 and holds '1', '2'", "measured=adata.obs['x'] == 2")
def measured_of_integers(adata, folder):
    return {"measured": 2 - half(adata).astype(int)}


@refused(TypeError, "obs['measured'] must be boolean", "holds '0', '1', '2'", "measured=adata.obs['measured'] == 2")
def measured_column_of_integers(adata, folder):
    adata.obs["measured"] = np.arange(adata.n_obs) % 3
    return {"measured": "measured"}


@refused(TypeError, "measured must be boolean, one value per observation, not float")
def measured_of_another_type(adata, folder):
    return {"measured": 0.5}


@refused(ValueError, "measured has shape (50,)", "expected (117,)", "one value per observation")
def measured_of_wrong_length(adata, folder):
    return {"measured": half(adata)[:50]}


@refused(ValueError, "index of measured differs from obs_names", "measured.to_numpy()")
def measured_of_other_spots(adata, folder):
    return {"measured": pd.Series(half(adata))}


@refused(ValueError, "0 of 117 spots are measured", "at least 20", "measured=")
def nothing_measured(adata, folder):
    return {"measured": np.zeros(adata.n_obs, bool)}


@refused(ValueError, "15 of 117 spots are measured", "at least 20", "measured=")
def too_little_measured(adata, folder):
    return {"measured": np.arange(adata.n_obs) < 15}


@refused(ValueError, "0 of 117 spots are measured (at least one count and in_tissue == 1)", "at least 20", "layer=")
def nothing_counted(adata, folder):
    adata.X = sparse.csr_matrix(adata.shape, dtype=np.float32)
    return {}


@refused(ValueError, "1 measured spots have no counts", "mark them as unmeasured")
def measured_spot_without_counts(adata, folder):
    adata.X = adata.X.toarray()
    adata.X[7] = 0
    return {"measured": np.ones(adata.n_obs, bool)}


# Expression


@refused(ValueError, "NaN or infinite values of X in 1 measured spots", "measured=", "layer=")
def nan_in_a_measured_spot(adata, folder):
    adata.X = adata.X.toarray()
    adata.X[7, 3] = np.nan
    return {"measured": half(adata) | (np.arange(adata.n_obs) == 7)}


@refused(ValueError, "NaN or infinite values of layers['counts'] in 1 measured spots", "measured=", "layer=")
def infinity_in_a_layer(adata, folder):
    adata.layers["counts"] = adata.X.astype(np.float64)
    adata.layers["counts"].data[0] = np.inf
    return {"layer": "counts"}


@refused(ValueError, "negative values of X in 2 measured spots", "measured=", "layer=")
def negative_values(adata, folder):
    adata.X = adata.X.toarray()
    adata.X[[7, 9], 3] = -1
    return {}


@refused(ValueError, "negative values of X in 117 measured spots", "look scaled", "with layer=")
def scaled_values(adata, folder):
    values = adata.X.toarray()
    adata.X = (values - values.mean(0)) / (values.std(0) + 1)
    return {"measured": np.ones(adata.n_obs, bool)}


@refused(KeyError, "layer='count'", "not in layers", "Did you mean 'counts'")
def layer_missing(adata, folder):
    adata.layers["counts"] = adata.X.copy()
    return {"layer": "count"}


@refused(ValueError, "the object has no X", "layer=", "'truth'")
def no_matrix(adata, folder):
    adata.X = None
    return {}


@refused(TypeError, "layers['complex'] has dtype complex64", "layer=")
def complex_numbers(adata, folder):
    adata.layers["complex"] = adata.X.toarray().astype(np.complex64)
    return {"layer": "complex"}


@refused(ValueError, "units='cpm'", "'counts'", "'log'")
def units_unknown(adata, folder):
    return {"units": "cpm"}


@refused(ValueError, "largest value 1000", "units='counts'", "units='log'", "layer=")
def units_that_cannot_be_told(adata, folder):
    adata.X.data = np.random.default_rng(0).exponential(100, adata.X.nnz)
    adata.X.data[0] = 1000
    return {}


# Genes


@refused(ValueError, "gene names are not unique", "'GLAND_01'", "var_names_make_unique()")
def duplicate_gene_names(adata, folder):
    adata.var_names = ["GLAND_01", "GLAND_01", *adata.var_names[2:]]
    return {}


@refused(ValueError, "observation names are not unique", "obs_names_make_unique()")
def duplicate_spot_names(adata, folder):
    adata.obs_names = ["a", "a", *adata.obs_names[2:]]
    return {}


@refused(KeyError, "1 of 2 genes are not in var_names", "'GLAND_1'", "Did you mean 'GLAND_01'")
def genes_not_found(adata, folder):
    return {"genes": ["GLAND_1", "FAT_01"]}


@refused(KeyError, "3 of 3 genes are not in var_names: 'ALPHA', 'BETA', 'GLAND_1' (Did you mean 'GLAND_01'")
def several_genes_not_found(adata, folder):
    return {"genes": ["GLAND_1", "ALPHA", "BETA"]}


@refused(KeyError, "genes='GLAND_01' is not in var", "genes=['GLAND_01']")
def one_gene_as_text(adata, folder):
    return {"genes": "GLAND_01"}


@refused(KeyError, "genes='highly_varable' is not in var", "Did you mean 'highly_variable'")
def gene_column_missing(adata, folder):
    adata.var["highly_variable"] = True
    return {"genes": "highly_varable"}


@refused(TypeError, "var['programme'] must be boolean")
def gene_column_of_text(adata, folder):
    return {"genes": "programme"}


@refused(TypeError, "genes is a boolean mask", "adata.var_names[mask]")
def genes_as_mask(adata, folder):
    return {"genes": np.arange(adata.n_vars) < 5}


@refused(ValueError, "genes is empty", "None for all")
def genes_empty(adata, folder):
    return {"genes": []}


@refused(ValueError, "genes=0", "between 1 and the number of genes, 40")
def no_genes(adata, folder):
    return {"genes": 0}


@refused(ValueError, "genes=41", "between 1 and the number of genes, 40")
def more_genes_than_there_are(adata, folder):
    return {"genes": 41}


@refused(TypeError, "genes must be None, an int, a list of names or a boolean var column, not float")
def genes_of_another_type(adata, folder):
    return {"genes": 0.5}


@refused(ValueError, "none of the 1 chosen genes is seen in 5 or more measured spots", "genes=")
def genes_too_rare(adata, folder):
    adata.X = adata.X.toarray()
    adata.X[:, 0] = 0
    return {"genes": [adata.var_names[0]]}


# Method and output


@refused(ValueError, "k=200", "measured spots that a network trains on", "snrmix.SNRMixing(k=")
def more_neighbours_than_spots(adata, folder):
    return {"mix": snrmix.SNRMixing(k=200)}


@refused(ValueError, "mix='snrr'", "Did you mean 'snr'")
def mixing_unknown(adata, folder):
    return {"mix": "snrr"}


@refused(ValueError, "n_folds=80", "too many", "use at most 58")
def more_folds_than_pairs_of_spots(adata, folder):
    return {"n_folds": 80}


@refused(ValueError, "n_folds=0", "whole number from 1 up")
def no_folds(adata, folder):
    return {"n_folds": 0}


@refused(ValueError, "validation=1.5", "share between 0 and 1", "boolean obs column")
def validation_out_of_range(adata, folder):
    return {"n_folds": 1, "validation": 1.5, "measured": half(adata)}


@refused(KeyError, "validation='held_out'", "not in obs")
def validation_column_missing(adata, folder):
    return {"n_folds": 1, "validation": "held_out", "measured": half(adata)}


@refused(TypeError, "obs['some'] must be boolean", "is int64 and holds '2'", "validation=adata.obs['some'] == 2")
def validation_column_of_numbers(adata, folder):
    adata.obs["some"] = 2
    return {"n_folds": 1, "validation": "some", "measured": half(adata)}


@refused(ValueError, "validation=0.95 leaves 3 of the 59 measured spots to train on", "at least 10")
def validation_leaves_too_few_spots(adata, folder):
    return {"n_folds": 1, "validation": 0.95, "measured": half(adata)}


@refused(ValueError, "validation='some' leaves 1 of the 59 measured spots to train on", "at least 10")
def validation_column_leaves_too_few_spots(adata, folder):
    adata.obs["some"] = np.arange(adata.n_obs) > 0
    return {"n_folds": 1, "validation": "some", "measured": half(adata)}


@refused(ValueError, "fill='all'", "n_folds=2", "measured=")
def out_of_fold_values_without_folds(adata, folder):
    return {"n_folds": 1, "fill": "all"}


@refused(ValueError, "fill='some'", "'unmeasured'", "'all'")
def fill_unknown(adata, folder):
    return {"fill": "some"}


@refused(ValueError, "key_added='a/b'", "without '/'")
def key_with_a_slash(adata, folder):
    return {"key_added": "a/b"}


@refused(ValueError, "random_state=-1", "whole number from 0 up")
def negative_seed(adata, folder):
    return {"random_state": -1}


@refused(TypeError, "'learning_rat'", "Did you mean 'learning_rate'")
def option_unknown(adata, folder):
    return {"learning_rat": 0.1}


@refused(ValueError, "max_epochs=0", "whole number from 1 up")
def no_epochs(adata, folder):
    return {"max_epochs": 0}


@refused(ValueError, "dropout=1.0", "less than 1")
def everything_dropped(adata, folder):
    return {"dropout": 1.0}


@refused(TypeError, "losses must be a snrmix.Losses, not dict")
def losses_as_a_dict(adata, folder):
    return {"losses": {"edge": 0.1}}


@pytest.mark.parametrize("copy", [False, True], ids=["in place", "copy"])
@pytest.mark.parametrize(("spoil", "error", "says"), CASES)
def test_refused(tissue, impute, assert_unchanged, tmp_path, spoil, error, says, copy):
    options = spoil(tissue, tmp_path)
    before, options_before = tissue.copy(), deepcopy(options)
    with pytest.raises(error) as caught:
        impute(tissue, copy=copy, **options)
    message = str(caught.value.args[0])
    for fragment in says:
        assert fragment in message
    assert "np.str_" not in message
    assert_unchanged(before, tissue)
    for name in ("image", "measured", "genes"):
        assert_unchanged(options_before.get(name), options.get(name))


def test_network_without_image_or_features_is_refused(tissue, impute, assert_unchanged):
    del tissue.uns["spatial"]
    before = tissue.copy()
    with pytest.raises(KeyError, match="no image for library 'synthetic'.*Pass image=.*use_rep="):
        impute(tissue, kriging=False)
    assert_unchanged(before, tissue)


def test_without_image_or_features_space_alone_is_used(tissue, impute, caplog):
    del tissue.uns["spatial"]
    impute(tissue)
    assert "no image and no use_rep" in caplog.text and "image=" in caplog.text and "use_rep=" in caplog.text
    assert np.isfinite(tissue.layers["snrmix"][:, tissue.var["snrmix_modelled"]]).all()
    assert "X_histology" not in tissue.obsm


@pytest.mark.parametrize("data", [None, "section.h5ad", np.ones((30, 5)), pd.DataFrame({"a": [1]})])
def test_data_of_another_type_is_refused(impute, data):
    with pytest.raises(TypeError, match="data must be an AnnData or a SpatialData, not "):
        impute(data)


@pytest.mark.parametrize("part", [np.s_[:0], np.s_[:, :0]], ids=["no spots", "no genes"])
def test_empty_object_is_refused(tissue, impute, part):
    with pytest.raises(ValueError, match="the object is empty: "):
        impute(tissue[part].copy())


def test_backed_object_is_refused(tissue, impute, tmp_path):
    import anndata

    tissue.write_h5ad(tmp_path / "section.h5ad")
    backed = anndata.read_h5ad(tmp_path / "section.h5ad", backed="r")
    with pytest.raises(ValueError, match=r"backed by a file; call adata = adata.to_memory\(\)"):
        impute(backed)
    backed.file.close()


def test_embedding_refuses_as_imputing_does(tissue, assert_unchanged):
    library(tissue)["scalefactors"]["tissue_hires_scalef"] = 1.0
    before = tissue.copy()
    with pytest.raises(ValueError, match="lie outside the image"):
        snrmix.pp.embed_histology(tissue, encoder="colour")
    assert_unchanged(before, tissue)


# SpatialData

SPATIAL_CASES = []


def refused_spatialdata(error, *says):
    def register(spoil):
        SPATIAL_CASES.append(pytest.param(spoil, error, says, id=spoil.__name__))
        return spoil

    return register


@refused_spatialdata(KeyError, "table_key='tabel'", "not a table", "Did you mean 'table'")
def table_missing(sdata):
    return {"table_key": "tabel"}


@refused_spatialdata(ValueError, "2 tables ('first', 'second')", "table_key=")
def table_ambiguous(sdata):
    sdata.tables["first"] = sdata.tables.pop("table")
    sdata.tables["second"] = sdata.tables["first"].copy()
    return {}


@refused_spatialdata(ValueError, "annotates no region", "TableModel.parse(adata, region=name")
def table_without_region(sdata):
    del sdata["table"].uns["spatialdata_attrs"]
    return {}


@refused_spatialdata(ValueError, "2 rows of the table", "not in region 'synthetic'", "drop them")
def spots_missing(sdata):
    sdata.shapes["synthetic"] = sdata.shapes.pop("synthetic").iloc[2:]
    return {}


@refused_spatialdata(KeyError, "region 'synthetic'", "not in the SpatialData", "'synthetic_hires_image'")
def region_missing(sdata):
    sdata.shapes.pop("synthetic")
    return {}


@refused_spatialdata(KeyError, "image_key='hires'", "'synthetic_hires_image'")
def spatialdata_image_key_missing(sdata):
    return {"image_key": "hires"}


@refused_spatialdata(ValueError, "shears it", "spatialdata.rasterize")
def image_sheared(sdata):
    from spatialdata.transformations import Affine, set_transformation

    shear = Affine([[4, 1.5, 0], [0, 4, 0], [0, 0, 1]], input_axes=("x", "y"), output_axes=("x", "y"))
    set_transformation(sdata["synthetic_hires_image"], {"synthetic": shear}, set_all=True)
    return {}


@refused_spatialdata(KeyError, "no image shares a coordinate system with region 'synthetic'", "image=", "use_rep=")
def image_elsewhere(sdata):
    from spatialdata.transformations import Identity, set_transformation

    set_transformation(sdata["synthetic_hires_image"], {"elsewhere": Identity()}, set_all=True)
    return {}


@refused_spatialdata(ValueError, "'synthetic_hires_image' shares no coordinate system", "set_transformation")
def chosen_image_elsewhere(sdata):
    return {**image_elsewhere(sdata), "image_key": "synthetic_hires_image"}


@refused_spatialdata(ValueError, "lie outside the image 'synthetic_hires_image'", "transformations", "image_key=")
def image_misplaced(sdata):
    from spatialdata.transformations import Identity, set_transformation

    set_transformation(sdata["synthetic_hires_image"], {"synthetic": Identity()}, set_all=True)
    return {}


@refused_spatialdata(ValueError, "library 'same' spans several regions", "library_key='region'")
def library_over_two_regions(sdata):
    table = sdata["table"]
    table.obs["region"] = pd.Categorical(np.where(half(table), "synthetic", "copy"))
    table.obs["slide"] = "same"
    sdata.shapes["copy"] = sdata.shapes["synthetic"]
    return {"library_key": "slide"}


@pytest.mark.parametrize("copy", [False, True], ids=["in place", "copy"])
@pytest.mark.parametrize(("spoil", "error", "says"), SPATIAL_CASES)
def test_refused_in_spatialdata(sdata, impute, assert_unchanged, spoil, error, says, copy):
    options = spoil(sdata)
    before = {name: table.copy() for name, table in sdata.tables.items()}
    with pytest.raises(error) as caught:
        impute(sdata, copy=copy, **options)
    for fragment in says:
        assert fragment in str(caught.value.args[0])
    assert_unchanged(before, dict(sdata.tables.items()))
