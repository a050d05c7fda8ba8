import anndata
import numpy as np
import pytest
from scipy.spatial import cKDTree

import snrmix
from snrmix.plan.hold_out import compact_blocks


@pytest.fixture(scope="module")
def sections():
    """Two libraries of different size; a few spots of the first are not measured."""
    first = snrmix.datasets.synthetic_tissue(n_rows=16, n_genes=20, image_px_per_pitch=8)
    second = snrmix.datasets.synthetic_tissue(n_rows=12, n_genes=20, image_px_per_pitch=8, random_state=1)
    for adata, name in ((first, "north"), (second, "south")):
        adata.obs["library_id"] = name
        adata.obs_names = name + "_" + adata.obs_names
    first.X[:7] = 0
    both = anndata.concat([first, second])
    both.obs["array_row"] = both.obs["array_row"].astype(int)
    return both


@pytest.fixture
def adata(sections):
    return sections.copy()


def split(adata, **options):
    result = snrmix.pp.hold_out(adata, copy=True, **options)
    return result.obs["measured"].to_numpy(), result.obs["measured_held_out"].to_numpy()


def test_random_takes_the_share_of_every_library(adata):
    kept, held = split(adata, share=0.3)
    assert kept.dtype == held.dtype == bool
    measured = np.asarray(adata.X.sum(1)).ravel() > 0
    np.testing.assert_array_equal(kept | held, measured)
    assert not (kept & held).any()
    for name in ("north", "south"):
        own = (adata.obs["library_id"] == name).to_numpy() & measured
        assert held[own].sum() == round(0.3 * own.sum())


@pytest.mark.parametrize("options", [{}, {"kind": "block", "n_blocks": 5}, {"kind": "library", "library": "south"}])
def test_a_spot_keeps_its_side_when_rows_and_genes_are_permuted(adata, options):
    rng = np.random.default_rng(0)
    other = adata[rng.permutation(adata.n_obs)][:, rng.permutation(adata.n_vars)].copy()
    for data in (adata, other):
        snrmix.pp.hold_out(data, **options)
    for column in ("measured", "measured_held_out"):
        assert adata.obs[column].equals(other.obs[column].loc[adata.obs_names])


def test_the_seed_chooses_the_split_and_global_random_state_is_left_alone(adata):
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    first, again, other = (split(adata, random_state=seed)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_blocks_are_compact_and_about_the_share(adata):
    for share in (0.25, 0.5):
        kept, held = split(adata, kind="block", share=share, n_blocks=16)
        for name in ("north", "south"):
            own = (adata.obs["library_id"] == name).to_numpy() & (kept | held)
            assert abs(held[own].mean() - share) < 0.03
    random = split(adata, share=0.5)
    positions = adata.obsm["spatial"][(adata.obs["library_id"] == "north").to_numpy()]

    def alike(held):
        own = held[(adata.obs["library_id"] == "north").to_numpy()]
        return np.mean(own[cKDTree(positions).query(positions, k=7)[1][:, 1:]] == own[:, None])

    assert alike(held) > 0.7 > 0.6 > alike(random[1])


@pytest.mark.parametrize("n_blocks", [2, 3, 7, 16])
def test_blocks_have_equal_size_and_do_not_interleave(n_blocks):
    rng = np.random.default_rng(0)
    positions = rng.uniform(size=(500, 2)) * [3, 1]
    block = compact_blocks(positions, n_blocks, rng)
    sizes = np.bincount(block, minlength=n_blocks)
    assert len(sizes) == n_blocks and np.ptp(sizes) <= 2
    centres = np.stack([positions[block == b].mean(0) for b in range(n_blocks)])
    spread = np.sqrt(np.mean(np.sum((positions - centres[block]) ** 2, 1)))
    assert spread < 1.3 * np.sqrt(3 / n_blocks / 6) * max(1, 3 / n_blocks)


def test_whole_libraries(adata):
    for library in ("south", ["south"]):
        kept, held = split(adata, kind="library", library=library)
        np.testing.assert_array_equal(held, adata.obs["library_id"] == "south")
        assert not kept[adata.obs["library_id"] == "south"].any()


def test_a_column_of_measured_spots_is_split(adata):
    adata.obs["good"] = np.arange(adata.n_obs) % 2 == 0
    result = snrmix.pp.hold_out(adata, measured="good", key_added="kept", copy=True)
    np.testing.assert_array_equal(result.obs["kept"] | result.obs["kept_held_out"], adata.obs["good"])
    assert "kept" not in adata.obs


def test_a_column_of_an_earlier_call_is_replaced(adata):
    snrmix.pp.hold_out(adata)
    first = adata.obs["measured_held_out"].copy()
    snrmix.pp.hold_out(adata, random_state=1)
    assert (first != adata.obs["measured_held_out"]).any() and first.sum() == adata.obs["measured_held_out"].sum()


def test_spatialdata(sdata):
    snrmix.pp.hold_out(sdata, kind="block", n_blocks=4)
    obs = sdata["table"].obs
    assert 0.4 < obs["measured_held_out"].mean() < 0.6
    np.testing.assert_array_equal(obs["measured"], ~obs["measured_held_out"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kind": "blocks"}, ValueError, "'random', 'block', 'library'.*Did you mean 'block'"),
        ({"share": 0}, ValueError, "share=0 must be a number between 0 and 1"),
        ({"share": 1.0}, ValueError, "share=1.0"),
        ({"share": "half"}, ValueError, "share='half'"),
        ({"share": 0.99}, ValueError, "leaves 3, and at least 20"),
        ({"kind": "block", "n_blocks": 1}, ValueError, "n_blocks=1"),
        ({"kind": "block", "n_blocks": 10**4}, ValueError, "library 'north' has .* too few for n_blocks=10000"),
        ({"kind": "library"}, ValueError, "needs library=.*'north', 'south'"),
        ({"kind": "library", "library": "suoth"}, KeyError, "'north', 'south'.*Did you mean 'south'"),
        ({"kind": "library", "library": ["north", "south"]}, ValueError, "all libraries"),
        ({"kind": "library", "library": []}, ValueError, "names no library"),
        ({"library": "south"}, ValueError, "goes with kind='library'"),
        ({"measured": "nope"}, KeyError, "nope"),
        ({"measured": "good", "key_added": "good"}, ValueError, "overwrite"),
        ({"key_added": "a/b"}, ValueError, "without '/'"),
        ({"random_state": -1}, ValueError, "non-negative"),
    ],
)
def test_refusals_leave_the_object_alone(adata, assert_unchanged, options, error, message):
    adata.obs["good"] = True
    before = adata.copy()
    with pytest.raises(error, match=message):
        snrmix.pp.hold_out(adata, **options)
    assert_unchanged(before, adata)
