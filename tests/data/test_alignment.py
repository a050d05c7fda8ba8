"""An image in another frame than the coordinates is refused or doubted, and one in the same frame never is."""

import re

import anndata
import dask.array as da
import numpy as np
import pytest
from PIL import Image

import snrmix
from snrmix.data.sites import read_sites
from snrmix.images import open_image
from snrmix.images.source import SectionImage
from snrmix.images.tissue import tissue_mask

SECTIONS = (
    "st_her2_B4", "st_her2_C2", "st_her2_C3", "st_mob_1", "st_mob_2", "visium_crc", "visium_muscle_2dpi",
)  # fmt: skip

# What is done to positions xy on an image of w x h pixels of their frame.
MISTAKES = {
    "with x and y swapped": lambda xy, w, h: xy[:, ::-1],
    "with y mirrored": lambda xy, w, h: [0, h] + xy * [1, -1],
    "with x mirrored": lambda xy, w, h: [w, 0] + xy * [-1, 1],
    "turned by 180 degrees": lambda xy, w, h: [w, h] - xy,
    "turned by 270 degrees": lambda xy, w, h: [h, 0] + xy[:, ::-1] * [-1, 1],
    "turned by 90 degrees": lambda xy, w, h: [0, w] + xy[:, ::-1] * [1, -1],
    "swapped and mirrored": lambda xy, w, h: [h, w] - xy[:, ::-1],
    "with the sign of y changed": lambda xy, w, h: xy * [1, -1],
}


def on_glass(adata, shape, left: int, top: int):
    """The section with its image, and more glass around it; coordinates in pixels of that image."""
    section = adata.uns["spatial"]["synthetic"]
    image = section["images"]["hires"]
    glass = np.random.default_rng(0).normal((246, 243, 244), 1.5, (*shape, 3)).clip(0, 255).astype(np.uint8)
    glass[top : top + image.shape[0], left : left + image.shape[1]] = image
    section["images"]["hires"] = glass
    adata.obsm["spatial"] = adata.obsm["spatial"] + 4 * np.array([left, top])
    return adata


@pytest.fixture
def off_centre(tissue):
    """The section of 232 x 200 px in a corner of an image of 560 x 420 px, a quarter of the full resolution."""
    return on_glass(tissue, (420, 560), 20, 190)


def image_of(adata):
    return open_image(adata.uns["spatial"]["synthetic"]["images"]["hires"])


# Mistakes


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_and_the_advice_undoes_it(off_centre, mistake):
    right = off_centre.obsm["spatial"]
    off_centre.obsm["spatial"] = MISTAKES[mistake](right, 4 * 560, 4 * 420)
    with pytest.raises(ValueError, match="9[0-9] % (of them )?would") as refusal:
        read_sites(off_centre)
    advice = re.search(rf"{mistake}: (xy = .*?)\. ", str(refusal.value))[1]
    exec(advice, {"adata": off_centre})
    np.testing.assert_allclose(off_centre.obsm["spatial"], right, atol=0.01)
    read_sites(off_centre)


@pytest.mark.parametrize("factor", [0.25, 4], ids=["to pixels of the image", "away from them"])
def test_coordinates_that_were_scaled_are_told_from_the_scale_factor(factor):
    adata = on_glass(snrmix.datasets.synthetic_tissue(12, 20, image_px_per_pitch=48), (900, 1200), 60, 250)
    right = adata.obsm["spatial"].copy()
    del adata.uns["spatial"]["synthetic"]["scalefactors"]["spot_diameter_fullres"]
    adata.obsm["spatial"] = right * factor
    how = "divided" if factor < 1 else "multiplied"
    with pytest.raises(ValueError, match=f"would.* {how} by 'tissue_hires_scalef'") as refusal:
        read_sites(adata)
    exec(re.search(r"(xy = .*?)\. ", str(refusal.value))[1], {"adata": adata})
    np.testing.assert_allclose(adata.obsm["spatial"], right)


def test_a_slight_advantage_of_another_frame_is_a_warning(tissue, caplog):
    """A third of the spots would lie off the tissue: too few to be certain."""
    adata = on_glass(tissue, (420, 560), 150, 135)
    read_sites(adata)
    assert "tissue" not in caplog.text
    adata.obsm["spatial"] = MISTAKES["with y mirrored"](adata.obsm["spatial"], 4 * 560, 4 * 420)
    read_sites(adata)
    assert re.search(r"6\d % of the spots lie on the tissue.* but 9\d % would with y mirrored", caplog.text)
    assert "snrmix.pl.crops shows where they lie" in caplog.text


def test_spots_beside_the_tissue_are_refused_where_nothing_fits(off_centre):
    off_centre.obsm["spatial"] = off_centre.obsm["spatial"] * 0.5 + [1300, 100]
    with pytest.raises(
        ValueError, match="only 0 % of the spots lie on the tissue of the image 'hires'.*tissue_<name>_sc"
    ):
        read_sites(off_centre)


def test_an_image_file_is_named_by_its_path(off_centre, tmp_path):
    path = tmp_path / "B4.png"
    Image.fromarray(image_of(off_centre).levels[0].pixels).save(path)
    off_centre.obsm["spatial"] = off_centre.obsm["spatial"] / 4 * 0.5 + [325, 25]
    with pytest.raises(ValueError, match=rf"lie on the tissue of {re.escape(str(path))}"):
        read_sites(off_centre, image=path)


def test_few_of_the_spots_on_tissue_are_a_warning(off_centre, caplog):
    off_centre.obsm["spatial"] = off_centre.obsm["spatial"] + [400, -300]
    read_sites(off_centre)
    assert re.search(r"only [1-4]\d % of the spots lie on the tissue", caplog.text)


def test_positions_of_a_spatialdata_are_judged_on_their_image(sdata):
    from spatialdata.transformations import Affine, set_transformation

    for system, scale in (("synthetic", 1), ("synthetic_downscaled_hires", 0.25)):
        up = Affine([[scale, 0, 0], [0, -scale, 0], [0, 0, 1]], input_axes=("x", "y"), output_axes=("x", "y"))
        set_transformation(sdata["synthetic"], up, system)
    with pytest.raises(ValueError, match=r"would lie on tissue with the sign of y changed\. Check the transformations"):
        read_sites(sdata)


# No false alarm


def quarter(adata):
    x, y = adata.obsm["spatial"].T
    return adata[(x < np.median(x)) & (y < np.median(y))].copy()


RIGHT = {
    "section in the corner": lambda adata: on_glass(adata, (420, 560), 20, 190),
    "section fills the image": lambda adata: adata,
    "section in the middle": lambda adata: on_glass(adata, (400, 464), 116, 100),
    "a part of the section": lambda adata: quarter(on_glass(adata, (420, 560), 20, 190)),
}


@pytest.mark.parametrize("make", RIGHT.values(), ids=RIGHT.keys())
def test_the_right_frame_is_accepted_in_silence(tissue, caplog, make):
    read_sites(make(tissue))
    assert "tissue" not in caplog.text


def test_spots_of_the_whole_array_lie_off_the_tissue_too(off_centre, caplog):
    """Raw output of Space Ranger: sites all over the image; where in_tissue is known, only those are judged."""
    steps = np.arange(60, 4 * 420 - 60, 64)
    x, y = np.meshgrid(np.arange(60, 4 * 560 - 60, 64), steps)
    everywhere = np.column_stack([x.ravel(), y.ravel()])
    raw = anndata.AnnData(np.ones((len(everywhere), 3), np.float32), obsm={"spatial": everywhere})
    raw.uns["spatial"] = off_centre.uns["spatial"]
    read_sites(raw)
    assert "tissue" not in caplog.text
    raw.obs["in_tissue"] = (tissue_mask(image_of(raw)).at(everywhere / 4) > 0.5).astype(int).astype(str)
    read_sites(raw)
    assert "tissue" not in caplog.text
    raw.obs["in_tissue"] = raw.obs["in_tissue"].to_numpy()[::-1]  # turned by 180 degrees
    with pytest.raises(ValueError, match="9[0-9] % would turned by 180 degrees"):
        read_sites(raw)


def test_a_part_beside_pale_tissue_is_accepted_in_silence(tissue, caplog):
    """Spots around fat at the border, which is taken for glass, would all lie on tissue elsewhere; yet they are right."""
    adata = on_glass(tissue, (300, 332), 50, 50)
    found, xy = tissue_mask(image_of(adata)), adata.obsm["spatial"] / 4
    parts = np.argsort(np.linalg.norm(xy[:, None] - xy, axis=2), axis=1)[:, :25]
    pale = parts[np.argmin([found.at(xy[part]).mean() for part in parts])]
    turned = [found.at(make(xy[pale], 332, 300)).mean() for make in MISTAKES.values()]
    assert found.at(xy[pale]).mean() < 0.8 and max(turned) == 1
    read_sites(adata[pale].copy())
    assert "tissue" not in caplog.text


def test_an_image_without_glass_says_nothing(caplog):
    """Pale tissue is taken for glass, and all spots lie there: mirrored, they would lie on what is darker."""
    rng = np.random.default_rng(0)
    light = np.where(np.arange(400)[None, :, None] < 200, 210, 120) + rng.normal(0, 12, (300, 400, 1))
    image = light.clip(0, 255).astype(np.uint8).repeat(3, axis=2)
    x, y = np.meshgrid(np.arange(20, 190, 16.0), np.arange(20, 280, 16.0))
    adata = anndata.AnnData(np.ones((x.size, 3), np.float32), obsm={"spatial": np.column_stack([x.ravel(), y.ravel()])})
    found = tissue_mask(open_image(image))
    assert (
        found.at(adata.obsm["spatial"]).mean() < 0.1
        and found.at([400, 0] - adata.obsm["spatial"] * [1, -1]).mean() > 0.9
    )
    read_sites(adata, image=image)
    assert "tissue" not in caplog.text
    with pytest.raises(ValueError, match="would with x mirrored"):  # smooth glass, or nearly so, changes that
        read_sites(
            adata, image=np.where(light > 165, 210 + (light - 210) / 12, light).astype(np.uint8).repeat(3, axis=2)
        )


@pytest.mark.parametrize("name", SECTIONS)
def test_real_sections_are_accepted_and_their_mistakes_noticed(real_file, name, caplog, monkeypatch):
    """Measured: on the right frame 94 to 100 % lie on tissue; of 49 mistakes 35 are refused and 14 doubted."""
    adata = anndata.read_h5ad(real_file(f"{name}.h5ad"))[:, :1].copy()
    image = read_sites(adata).images[0]
    assert "tissue" not in caplog.text
    found = tissue_mask(image)
    assert found.contrast > 0.85 and found.at(adata.obsm["spatial"]).mean() > 0.93
    monkeypatch.setattr("snrmix.data.alignment.tissue_mask", lambda image: found)  # the image stays the same
    right, level = adata.obsm["spatial"].copy(), image.levels[0]
    width, height = np.array(level.pixels.shape[1::-1]) / level.scale
    for mistake in MISTAKES.keys() - {"swapped and mirrored"}:
        caplog.clear()
        adata.obsm["spatial"] = MISTAKES[mistake](right, width, height)
        try:
            read_sites(adata)
        except ValueError as refusal:
            assert "tissue" in str(refusal) or "outside" in str(refusal), mistake
        else:
            assert "of the spots lie on the tissue" in caplog.text, mistake


# Scale


def test_micrometres_that_cannot_be_right_are_refused(tissue):
    with pytest.raises(
        ValueError, match=r"a pixel of the image 'hires' .* would be 120 um wide; .*um_per_px= .* must be"
    ):
        read_sites(tissue, um_per_px=30)
    with pytest.raises(ValueError, match="would be 0.004 um wide"):
        read_sites(tissue, um_per_px=0.001)
    with pytest.raises(ValueError, match="library 'synthetic' would span 141 mm, more than a slide"):
        read_sites(tissue, um_per_px=200, with_images=False)


def test_micrometres_that_contradict_the_array_are_doubted(tissue, caplog):
    read_sites(tissue, um_per_px=100 / 64)
    assert not caplog.text
    read_sites(tissue, um_per_px=0.5)
    assert (
        "neighbouring spots are 32 um apart, but they are on an array of 100 um; um_per_px=1.563 would" in caplog.text
    )


def test_few_pixels_are_a_warning_that_says_what_to_pass(tissue, caplog):
    section = tissue.uns["spatial"]["synthetic"]
    section["images"]["hires"] = section["images"]["hires"][::2, ::2]
    section["scalefactors"]["tissue_hires_scalef"] /= 2
    read_sites(tissue)
    assert "only 8.0 px apart on the image 'hires' of library 'synthetic'" in caplog.text
    assert "pass the full-resolution image with image=" in caplog.text


# Tissue


def disc(side: int, radius: float, fiducials: bool = False) -> np.ndarray:
    """A round piece of textured tissue in the middle of glass, and two rows of rings along the border."""
    rng = np.random.default_rng(0)
    y, x = np.indices((side, side)) + 0.5
    inside = np.hypot(x - side / 2, y - side / 2) < radius
    grain = rng.normal(0, 25, (side // 4, side // 4)).repeat(4, 0).repeat(4, 1)
    light = np.where(inside[..., None], [180, 110, 160] + grain[..., None], [245, 244, 243])
    for along in np.arange(20, side - 10, 14) if fiducials else ():
        for off in (14, 28):
            for cx, cy in ((along, off), (along, side - off), (off, along), (side - off, along)):
                light[np.abs(np.hypot(x - cx, y - cy) - 6) < 1.2] = 150
    return (light + rng.normal(0, 1.5, light.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("fiducials", [False, True], ids=["glass", "fiducials"])
@pytest.mark.parametrize("scale", [1, 0.25])
def test_tissue_is_found_where_it_is(fiducials, scale):
    frame = np.array([[scale, 0.0, 0.0], [0.0, scale, 0.0]])
    found = tissue_mask(open_image(disc(800, 240, fiducials), frame))
    assert found.mask.mean() == pytest.approx(np.pi * 240**2 / 800**2, rel=0.05)
    assert found.contrast > 0.85
    places = np.array([[0, 0], [230, 0], [0, -230], [250, 0], [0, 250], [240, 0], [-401, 0], [0, 600]])
    places = (400 + places) / scale
    np.testing.assert_array_equal(found.at(places[:5]), [1, 1, 1, 0, 0])
    np.testing.assert_array_equal(found.at(places[6:]), [0, 0])
    assert found.at(places[5:6], radius=40 / scale) == pytest.approx(0.5, abs=0.15)
    assert found.at(places[:1], radius=800 / scale) < 0.5
    assert found.at(places, radius=40 / scale).shape == (8,)


def test_there_is_no_tissue_on_a_blank_image():
    blank = np.full((300, 200, 3), 240, np.uint8)
    found = tissue_mask(open_image(blank))
    assert not found.mask.any() and found.contrast == 0


def test_tissue_is_read_from_a_coarse_level():
    def unread(block):
        raise AssertionError("the finest level was read")

    image = disc(1200, 360)
    fine = da.zeros((4800, 4800, 3), chunks=(512, 512, 3), dtype=np.uint8).map_blocks(unread, dtype=np.uint8)
    levels = (
        open_image(fine.astype(np.uint8)).levels[0],
        open_image(image, np.array([[0.25, 0, 0], [0, 0.25, 0]])).levels[0],
        open_image(image[::4, ::4], np.array([[0.0625, 0, 0], [0, 0.0625, 0]])).levels[0],
    )
    found = tissue_mask(SectionImage(levels, "pyramid"))
    assert found.mask.shape == (600, 600)
    np.testing.assert_array_equal(
        found.at(np.array([[2400, 2400], [2400 + 1400, 2400], [2400 + 1480, 2400]])), [1, 1, 0]
    )
