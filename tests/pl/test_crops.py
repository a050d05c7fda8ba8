import matplotlib
import numpy as np
import pytest
from anndata import AnnData, concat

import snrmix

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle

from snrmix.images import open_image, read_crops
from snrmix.images.source import scaling


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def panels(axes):
    """The axes of the section, and those of the crops, shape (sites, scales)."""
    section, *crops = axes
    columns = sum(" px" in ax.get_title() for ax in crops)
    return section, np.array(crops).reshape(-1, columns)


def shown(axes):
    return np.array([[ax.get_images()[0].get_array() for ax in row] for row in axes])


def test_the_crops_are_those_of_the_encoder(tissue):
    names = [tissue.obs_names[50], tissue.obs_names[3]]
    _, axes = panels(snrmix.pl.crops(tissue, sites=names, size=32, scales=(1.15, 4.6)))
    itself = snrmix.Encoder("itself", lambda patches: patches.flatten(1), 32)
    table = snrmix.pp.embed_histology(tissue, encoder=itself, scales=(1.15, 4.6), copy=True)[names]
    values = table.obsm["X_histology"].astype(float).reshape(2, 2, -1)[:, :, : 3 * 32**2]
    expected = np.rint(255 * values).reshape(2, 2, 3, 32, 32).transpose(0, 1, 3, 4, 2)
    np.testing.assert_array_equal(shown(axes), expected)


def test_the_titles_say_how_large_the_crops_are(tissue, caplog):
    _, axes = panels(snrmix.pl.crops(tissue, n=2))
    assert [ax.get_title() for ax in axes[0]] == ["115 µm\n18 px", "230 µm\n37 px", "460 µm\n74 px"]
    tissue.obs = tissue.obs.drop(columns=["array_row", "array_col"])
    _, axes = panels(snrmix.pl.crops(tissue, n=2, scales=2))
    assert [ax.get_title() for ax in axes[0]] == ["2 pitches\n32 px"]
    _, axes = panels(snrmix.pl.crops(tissue, n=2, scales=2, um_per_px=2.0))
    assert [ax.get_title() for ax in axes[0]] == ["256 µm\n32 px"]


def test_the_outlines_lie_where_the_crops_were_cut(tissue):
    names = list(tissue.obs_names[[20, 60, 90]])
    section, axes = panels(snrmix.pl.crops(tissue, sites=names, size=16))
    outlines = np.array([part for part in section.patches if isinstance(part, Rectangle)]).reshape(3, 3)
    image = tissue.uns["spatial"]["synthetic"]["images"]["hires"]
    for i, name in enumerate(names):
        centre = tissue[name].obsm["spatial"][0] * 0.25
        for j, scale in enumerate((1.15, 2.3, 4.6)):
            box = outlines[i, j]
            np.testing.assert_allclose([box.get_width(), box.get_height()], scale * 16, rtol=1e-3)
            np.testing.assert_allclose(np.add(box.get_xy(), box.get_width() / 2), centre, atol=0.01)
            assert box.get_edgecolor() == to_rgba(axes[i, j].spines["left"].get_edgecolor())
            (_, (expected,)), *_ = read_crops(open_image(image).levels[0], centre[None], scale * 16, 16)
            assert np.abs(shown(axes)[i, j].astype(int) - expected).mean() < 1
    assert [text.get_text() for text in section.texts] == ["1", "2", "3", "200 µm"]


def test_sites_are_spread_over_the_section(tissue):
    section, axes = panels(snrmix.pl.crops(tissue, n=5))
    boxes = [part for part in section.patches if isinstance(part, Rectangle)][::3]
    centres = np.array([np.add(box.get_xy(), box.get_width() / 2) for box in boxes])
    spots = tissue.obsm["spatial"] * 0.25
    nearest = np.linalg.norm(spots[:, None] - centres, axis=2).min(1)
    assert nearest.max() < 0.4 * np.linalg.norm(np.ptp(spots, axis=0))
    assert np.all(np.diff(centres[:, 1]) >= 0)
    shuffled = tissue[np.random.default_rng(0).permutation(tissue.n_obs)].copy()
    np.testing.assert_array_equal(shown(panels(snrmix.pl.crops(shuffled, n=5))[1]), shown(axes))
    assert len(panels(snrmix.pl.crops(tissue[:3].copy(), n=6, um_per_px=100 / 64))[1]) == 3


def test_spatialdata_gives_what_anndata_gives(small_tissue, sdata):
    names = list(small_tissue.obs_names[[5, 70]])
    expected = shown(panels(snrmix.pl.crops(small_tissue, sites=names, size=16))[1])
    got = shown(panels(snrmix.pl.crops(sdata, sites=names, size=16))[1])
    np.testing.assert_array_equal(got[:, 0], expected[:, 0])  # the larger ones come from coarser levels of the pyramid
    assert np.abs(got.astype(int) - expected).mean() < 8


def test_one_library_of_several_and_no_expression(tissue):
    other = snrmix.datasets.synthetic_tissue(10, 40, image_px_per_pitch=24, random_state=1)
    other.obs["library_id"] = "other"
    other.uns["spatial"] = {"other": other.uns["spatial"]["synthetic"]}
    other.obs_names = "x" + other.obs_names
    alone = shown(panels(snrmix.pl.crops(other, n=3))[1])
    both = concat([tissue, other], uns_merge="unique")
    without = AnnData(obs=both.obs, obsm={"spatial": both.obsm["spatial"]}, uns=both.uns)
    np.testing.assert_array_equal(shown(panels(snrmix.pl.crops(without, library="other", n=3))[1]), alone)
    with pytest.raises(ValueError, match="2 libraries; choose one with library=: 'other', 'synthetic'"):
        snrmix.pl.crops(both)


def test_image_of_its_own(tissue):
    image = tissue.uns.pop("spatial")["synthetic"]["images"]["hires"]
    names = [tissue.obs_names[40]]
    tissue.obsm["spatial"] *= 0.25
    _, axes = panels(snrmix.pl.crops(tissue, sites=names, image=image, scales=2.0, size=32))
    expected = read_crops(open_image(image, scaling(1)).levels[0], tissue[names].obsm["spatial"], 32.0, 32)
    np.testing.assert_array_equal(shown(axes)[0, 0], next(expected)[1][0])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda xy: xy[:, ::-1] * 2, "lie outside the image"),
        (lambda xy: xy * 0.25, "not in full-resolution pixels"),
        (lambda xy: xy + 1e6, "lie outside the image"),
    ],
)
def test_coordinates_that_do_not_fit_are_drawn_with_a_warning(tissue, caplog, spoil, says):
    tissue = tissue[tissue.obsm["spatial"][:, 1] < 500].copy()
    tissue.obsm["spatial"] = spoil(tissue.obsm["spatial"]).copy()
    with pytest.raises(ValueError, match=says) as refusal:
        snrmix.pp.embed_histology(tissue, encoder="colour")
    section, axes = panels(snrmix.pl.crops(tissue, n=3))
    assert str(refusal.value) in caplog.messages
    assert axes.shape[0] == 3 and len(section.collections[0].get_offsets()) == tissue.n_obs
    snrmix.pl.crops(tissue, n=3)[0].figure.draw_without_rendering()


def test_crops_off_the_image_repeat_its_border(tissue):
    image = np.full((400, 400, 3), 200, np.uint8)
    image[:, -1] = np.arange(400)[:, None] // 2
    tissue.obsm["spatial"] += [3000, 100 - tissue.obsm["spatial"][:, 1].min()]
    name = tissue.obs_names[0]
    _, axes = panels(snrmix.pl.crops(tissue, sites=[name], image=image, scales=2.0, size=32))
    (_, (expected,)), *_ = read_crops(open_image(image).levels[0], tissue[name].obsm["spatial"], 128.0, 32)
    np.testing.assert_array_equal(shown(axes)[0, 0], expected)
    assert len(np.unique(expected)) > 10


def test_outlines_are_seen_on_a_dark_image(tissue):
    section, _ = panels(snrmix.pl.crops(tissue, n=1))
    assert all(part.get_path_effects() for part in section.patches if isinstance(part, Rectangle))


def test_what_is_missing_is_named(tissue):
    with pytest.raises(
        KeyError, match=f"site 'spot' is not in library 'synthetic'.* It has '{tissue.obs_names.min()}'"
    ):
        snrmix.pl.crops(tissue, sites=["spot"])
    with pytest.raises(ValueError, match="sites is empty"):
        snrmix.pl.crops(tissue, sites=[])
    with pytest.raises(ValueError, match="n=0 must be a positive number of sites"):
        snrmix.pl.crops(tissue, n=0)
    with pytest.raises(ValueError, match="scales=.* must be positive multiples"):
        snrmix.pl.crops(tissue, scales=0)
    with pytest.raises(ValueError, match="size=0 must be a positive number of pixels"):
        snrmix.pl.crops(tissue, size=0)
    tissue.uns.pop("spatial")
    with pytest.raises(KeyError, match="Pass image="):
        snrmix.pl.crops(tissue)


def test_save_and_show(tissue, tmp_path, monkeypatch, assert_unchanged):
    before, calls = tissue.copy(), []
    monkeypatch.setattr(plt, "show", lambda: calls.append(1))
    assert snrmix.pl.crops(tissue, n=1, show=True, save=tmp_path / "crops.png") is None
    assert calls and (tmp_path / "crops.png").stat().st_size > 10_000
    assert_unchanged(before, tissue)
