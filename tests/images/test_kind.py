"""What an image shows, and which of several is taken."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import ndimage

import snrmix
from snrmix.images.kind import kind_of


@pytest.fixture(scope="module")
def stained(small_tissue):
    return small_tissue.uns["spatial"]["synthetic"]["images"]["hires"]


def nuclei(shape, seed: int = 0) -> np.ndarray:
    """Fluorescence of nuclei on a dark background, from 0 to 1, shape (y, x)."""
    spots = np.random.default_rng(seed).random(shape) < 0.004
    light = ndimage.gaussian_filter(spots.astype(float), 3)
    return 0.02 + 0.98 * light / light.max()


def embedding(data, **options) -> pd.DataFrame:
    table = snrmix.pp.embed_histology(data, encoder="colour", scales=2.0, copy=True, **options)
    return pd.DataFrame(table.obsm["X_histology"], table.obs_names)


LIGHT = {
    "H&E": lambda i: i,
    "H&E of 12 bits": lambda i: i.astype(np.uint16) << 4,
    "H&E of floats": lambda i: i / 255,
    "pale": lambda i: (200 + i * 0.2).astype(np.uint8),
    "all tissue, dark": lambda i: (i * 0.65).astype(np.uint8),
    "black where it was cut out": lambda i: np.pad(i, ((300, 0), (200, 0), (0, 0))),
    "transparent where it was cut out": lambda i: np.dstack(
        [i * (i[..., :1] < 230), np.uint8(255) * (i[..., 0] < 230)]
    ),
    "channels named": lambda i: xr.DataArray(i, dims=("y", "x", "c"), coords={"c": ["r", "g", "b"]}),
}
DARK = {
    "nuclei, 8 bits": lambda n: (n * 255).astype(np.uint8),
    "nuclei, 12 bits": lambda n: (n * 4000).astype(np.uint16),
    "nuclei, 16 bits": lambda n: (n * 60000).astype(np.uint16),
    "nuclei, dim": lambda n: (n * 700).astype(np.uint16),
    "nuclei, floats": lambda n: n,
    "blue of three": lambda n: (np.dstack([0 * n, 0.2 * n, n]) * 255).astype(np.uint8),
    "three stains": lambda n: np.dstack([nuclei(n.shape, 1), nuclei(n.shape, 2), n]),
    "five channels": lambda n: np.stack([n] * 5, axis=2),
    "bright, by its channel": lambda n: xr.DataArray(1 - n[None], dims=("c", "y", "x"), coords={"c": ["DAPI"]}),
}
NEITHER = {
    "grey": ("unclear", lambda i: i[..., 1]),
    "half dark": ("unclear", lambda i: (i * 0.38).astype(np.uint8)),
    "white": ("blank", lambda i: np.full_like(i, 255)),
    "black": ("blank", lambda i: np.zeros_like(i)),
    "transparent": ("blank", lambda i: np.zeros((*i.shape[:2], 4), np.uint8)),
    "no known values": ("unclear", lambda i: i * 1000.0),
}


@pytest.mark.parametrize("form", LIGHT)
def test_stained_sections_are_brightfield(stained, form):
    assert kind_of(LIGHT[form](stained)).label == "brightfield"


@pytest.mark.parametrize("form", DARK)
def test_dark_images_and_named_stains_are_fluorescence(stained, form):
    assert kind_of(DARK[form](nuclei(stained.shape[:2]))).label == "fluorescence"


@pytest.mark.parametrize("form", NEITHER)
def test_neither(stained, form):
    label, make = NEITHER[form]
    assert kind_of(make(stained)).label == label


@pytest.mark.parametrize(
    "name",
    ["st_mob_1.h5ad", "st_mob_2.h5ad", "visium_muscle_2dpi.h5ad", "visium_crc.h5ad", "st_her2_B4.h5ad", "st_her2_C2.h5ad",
     "st_her2_C3.h5ad"],
)  # fmt: skip
def test_real_sections_are_brightfield(real_file, name):
    import anndata

    spatial = anndata.read_h5ad(real_file(name), backed="r").uns["spatial"]
    kinds = [kind_of(image).label for entry in spatial.values() for image in entry["images"].values()]
    assert kinds and set(kinds) == {"brightfield"}


@pytest.mark.parametrize(
    "folder", ["spaceranger_crc/spatial", "spaceranger_visium_hd_layout/binned_outputs/square_008um/spatial"]
)
def test_real_images_of_space_ranger_are_not_refused(real_file, folder):
    from PIL import Image

    for path in real_file(folder).glob("tissue_*_image.png"):
        assert kind_of(Image.open(path)).label == ("brightfield" if "crc" in folder else "blank")


# The choice, in SpatialData


def add_image(sdata, name: str, pixels: np.ndarray, factor: float, channels=None):
    """An image of ``factor`` times the pixels of the stored one, shape (c, y, x)."""
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Scale

    scale = Scale([4 / factor, 4 / factor], axes=("x", "y"))
    sdata.images[name] = Image2DModel.parse(pixels, transformations={"synthetic": scale}, c_coords=channels)


@pytest.fixture
def with_morphology(sdata, stained):
    """Beside the H&E image, fluorescence with twice its pixels along each side."""
    light = nuclei((2 * stained.shape[0], 2 * stained.shape[1]))
    add_image(sdata, "a_morphology", (light[None] * 4000).astype(np.uint16), 2)
    return sdata


def test_stained_image_comes_before_larger_fluorescence(sdata, with_morphology, caplog):
    with caplog.at_level("INFO", logger="snrmix"):
        got = embedding(with_morphology)
    assert "image 'synthetic_hires_image' is taken (brightfield" in caplog.text
    assert "'a_morphology' (fluorescence: it is dark" in caplog.text
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    del with_morphology.images["a_morphology"]
    pd.testing.assert_frame_equal(got, embedding(sdata))


def test_fluorescence_that_is_asked_for_is_used_with_a_warning(with_morphology, caplog):
    expected = embedding(with_morphology)
    caplog.clear()
    assert not embedding(with_morphology, image_key="a_morphology").equals(expected)
    assert "image 'a_morphology' looks like fluorescence (it is dark" in caplog.text and "image_key=" in caplog.text


def test_fluorescence_alone_is_refused(with_morphology, stained):
    del with_morphology.images["synthetic_hires_image"]
    says = "image 'a_morphology' looks like fluorescence .*Pass image_key='a_morphology' to go ahead .*image=.*use_rep="
    with pytest.raises(ValueError, match=says):
        embedding(with_morphology)
    with pytest.raises(ValueError, match=says):
        snrmix.tl.impute(with_morphology, encoder="colour")
    add_image(with_morphology, "b_morphology", (nuclei(stained.shape[:2])[None] * 255).astype(np.uint8), 1)
    with pytest.raises(ValueError, match="'a_morphology' looks like .*Image 'b_morphology': fluorescence"):
        embedding(with_morphology)


@pytest.mark.parametrize("count", [4, 5])
def test_many_named_channels_are_never_read_as_colours(sdata, stained, count):
    channels = ["DAPI", "18S", "CD45", "aSMA", "PanCK"][:count]
    pixels = np.stack([nuclei(stained.shape[:2])] * count).astype(np.float32)
    expected = embedding(sdata)
    add_image(sdata, "a_stains", pixels, 1, channels)
    pd.testing.assert_frame_equal(embedding(sdata), expected)
    with pytest.raises(
        ValueError, match="'a_stains' has .*channels 'DAPI', '18S', .*neither RGB nor grey. .*image_key="
    ):
        embedding(sdata, image_key="a_stains")


def test_a_choice_that_is_not_plain_is_named(sdata, stained, caplog):
    grey, dark = stained[..., 1], (stained * 0.38).astype(np.uint8)
    del sdata.images["synthetic_hires_image"]
    add_image(sdata, "grey", grey[None], 1)
    embedding(sdata)
    assert "plainly" not in caplog.text  # there is nothing to choose from
    add_image(sdata, "dark", dark[::2, ::2].transpose(2, 0, 1), 0.5)
    embedding(sdata)
    assert "image 'grey' is taken, but none is plainly H&E: " in caplog.text
    assert "'dark' (unclear" in caplog.text and "'grey' (unclear" in caplog.text and "image_key=" in caplog.text


def put_beside(first, second, shift: float):
    """One SpatialData of two sections in the coordinate system "global", the second to the right of the first."""
    import spatialdata
    from spatialdata.models import TableModel
    from spatialdata.transformations import Sequence, Translation, get_transformation, set_transformation

    parts = []
    for name, part, by in (("left", first, 0.0), ("right", second, shift)):
        table = part.tables.pop("table")
        table.obs_names = [f"{name}_{row}" for row in table.obs_names]
        table.obs["region"] = pd.Categorical([name] * table.n_obs)
        table.uns["spatialdata_attrs"]["region"] = name
        shapes, image = part.shapes.pop("synthetic"), part.images.pop("synthetic_hires_image")
        for element in (shapes, image):
            own = get_transformation(element, get_all=True)["synthetic"]
            set_transformation(element, {"global": Sequence([own, Translation([by, 0], ("x", "y"))])}, set_all=True)
        parts.append(
            spatialdata.SpatialData(
                images={f"{name}_he": image}, shapes={name: shapes}, tables={"table": TableModel.parse(table)}
            )
        )
    return spatialdata.concatenate(parts, concatenate_tables=True)


@pytest.mark.parametrize("overlap", [0.0, 0.2], ids=["apart", "overlapping"])
def test_sections_of_one_coordinate_system_have_their_own_images(stained, overlap, caplog):
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Scale

    size = {"n_rows": 12, "n_genes": 40, "image_px_per_pitch": 16}
    first, second = (snrmix.datasets.synthetic_spatialdata(**size, random_state=seed) for seed in (0, 1))
    expected = [embedding(snrmix.datasets.synthetic_spatialdata(**size, random_state=seed)) for seed in (0, 1)]
    width = first["synthetic_hires_image"]["scale0"].sizes["x"] * 4
    both = put_beside(first, second, width * (1 - overlap))
    light = (nuclei((stained.shape[0], 2 * stained.shape[1]))[None] * 255).astype(np.uint8)
    both.images["morphology"] = Image2DModel.parse(
        light, dims=("c", "y", "x"), transformations={"global": Scale([4, 4], ("x", "y"))}
    )
    with caplog.at_level("INFO", logger="snrmix"):
        got = embedding(both)
    for name, own in zip(("left", "right"), expected, strict=True):
        own = own.set_axis([f"{name}_{row}" for row in own.index])
        assert (got.loc[own.index] - own).abs().to_numpy().max() < 0.01
        assert f"image '{name}_he' in coordinate system 'global'" in caplog.text


def test_opacity_of_an_image_of_spatialdata(sdata, stained):
    white = stained.copy()
    white[stained.min(2) > 225] = 255
    clear = np.dstack([np.where(white == 255, 0, white), np.uint8(255) * (white < 255).any(2)])
    del sdata.images["synthetic_hires_image"]
    add_image(sdata, "white", white.transpose(2, 0, 1), 1)
    expected = embedding(sdata)
    del sdata.images["white"]
    for channels in (None, ["r", "g", "b", "a"]):
        add_image(
            sdata,
            "clear",
            np.where(clear[..., 3:] > 0, np.dstack([white, clear[..., 3]]), 0).transpose(2, 0, 1),
            1,
            channels,
        )
        pd.testing.assert_frame_equal(embedding(sdata), expected)
        del sdata.images["clear"]


# Images that are passed


PASSED = {
    "fluorescence": ("fluorescence", lambda i: (nuclei(i.shape[:2]) * 255).astype(np.uint8)),
    "a negative": ("negative", lambda i: 255 - i),
    "grey": ("does not look like H&E", lambda i: i.mean(2).astype(np.uint8)),
    "black and white": ("does not look like H&E", lambda i: np.where(i.min(2) > 120, 255, 0).astype(np.uint8)),
    "one colour": ("does not look like H&E", lambda i: np.full_like(i, 250)),
}


@pytest.mark.parametrize("form", PASSED)
@pytest.mark.parametrize("how", ["alone", "by library"])
def test_an_image_that_was_passed_is_taken_and_judged(tissue, stained, caplog, form, how):
    says, make = PASSED[form]
    tissue.obsm["spatial"] = tissue.obsm["spatial"] / 4
    embedding(tissue, image=make(stained) if how == "alone" else {"synthetic": make(stained)})
    assert says in caplog.text and "because it was passed" in caplog.text


@pytest.mark.parametrize(
    "form", ["H&E", "H&E of 12 bits", "H&E of floats", "all tissue, dark", "black where it was cut out"]
)
def test_stained_images_are_passed_in_silence(tissue, stained, caplog, form):
    tissue.obsm["spatial"] = tissue.obsm["spatial"] / 4
    if "cut out" in form:
        tissue.obsm["spatial"] = tissue.obsm["spatial"] + [200, 300]
    embedding(tissue, image=LIGHT[form](stained))
    assert "because it was passed" not in caplog.text


# The choice, in AnnData


def store(adata, factors: dict, **images):
    entry = adata.uns["spatial"]["synthetic"]
    entry["images"] = images
    entry["scalefactors"].update({f"tissue_{name}_scalef": 0.25 * factor for name, factor in factors.items()})


def test_stored_stained_image_comes_before_larger_fluorescence(tissue, stained, caplog):
    expected = embedding(tissue)
    light = (nuclei((2 * stained.shape[0], 2 * stained.shape[1])) * 255).astype(np.uint8)
    store(tissue, {"dapi": 2, "hires": 1}, dapi=light, hires=stained)
    pd.testing.assert_frame_equal(embedding(tissue), expected)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    embedding(tissue, image_key="dapi")
    assert "image 'dapi' looks like fluorescence" in caplog.text
    store(tissue, {}, dapi=light)
    with pytest.raises(
        ValueError, match="library 'synthetic': image 'dapi' looks like fluorescence .*image_key='dapi'"
    ):
        embedding(tissue)


@pytest.mark.parametrize("form", ["white", "black", "transparent"])
def test_images_of_one_colour_are_taken_in_silence(tissue, stained, form, caplog):
    blank = NEITHER[form][1](stained)
    store(tissue, {"hires": 1, "lowres": 0.5}, hires=blank, lowres=blank[::2, ::2])
    embedding(tissue)
    assert not [record for record in caplog.records if "plainly" in record.message or "fluorescence" in record.message]
