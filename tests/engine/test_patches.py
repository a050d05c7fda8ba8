import numpy as np
import pytest
import torch

from snrmix.data.sites import read_sites
from snrmix.engine import patches as patches_module
from snrmix.engine.patches import PatchStore, allocate
from snrmix.plan.patches import read_patches


def pixels_of(n=12, scales=2, size=8, seed=0):
    return np.random.default_rng(seed).integers(256, size=(n, scales, size, size, 3), dtype=np.uint8)


def in_file(monkeypatch):
    """Make every store too large for memory."""
    monkeypatch.setattr(patches_module, "free_memory", lambda: 0)


def test_a_part_of_a_part_reads_the_right_sites():
    pixels = pixels_of()
    store = PatchStore.of(pixels)
    part = store[np.array([7, 2, 9, 4])][np.array([3, 0])]
    read = part.reader(torch.device("cpu"))
    assert len(part) == 2 and part.nbytes == 2 * pixels[0].nbytes and (part.scales, part.size) == (2, 8)
    np.testing.assert_array_equal(read(torch.tensor([1, 0, 1])), pixels[[7, 4, 7]])


@pytest.mark.parametrize("shape", [(4, 8, 8, 3), (4, 1, 8, 9, 3), (4, 1, 8, 8, 4)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected uint8, \(sites, scales, size, size, 3\)"):
        PatchStore.of(np.zeros(shape, np.uint8))


def test_floats_are_refused():
    with pytest.raises(ValueError, match="dtype float32"):
        PatchStore.of(np.zeros((4, 1, 8, 8, 3), np.float32))


def test_what_does_not_fit_in_memory_goes_to_a_file_that_vanishes(monkeypatch, tmp_path):
    in_file(monkeypatch)
    mapped = allocate(12, 2, 8, str(tmp_path))
    assert isinstance(mapped, np.memmap) and not list(tmp_path.iterdir())  # it has no name
    mapped[:] = pixels_of()
    np.testing.assert_array_equal(PatchStore.of(mapped).reader(torch.device("cpu"))(torch.arange(12)), pixels_of())
    monkeypatch.undo()
    assert not isinstance(allocate(12, 2, 8), np.memmap)


def test_what_fits_nowhere_is_refused_with_size_and_remedy(monkeypatch):
    in_file(monkeypatch)
    monkeypatch.setattr(patches_module, "free_disk", lambda folder: 2**30)
    sentence = (
        r"patch store larger than memory: 5000 sites x 3 scales x 224 x 224 px take 2\.1 GiB, and 0\.0 GiB of memory and "
        r"1\.0 GiB of disk in .* are free\. Use a smaller size= or a folder="
    )
    with pytest.raises(ValueError, match=sentence):
        allocate(5000, 3, 224)


def test_a_folder_that_is_absent_is_refused(tmp_path):
    with pytest.raises(ValueError, match="folder='.*absent' is no folder; create it"):
        allocate(1, 1, 8, str(tmp_path / "absent"))


def test_patches_are_those_that_are_embedded(tissue):
    """With an encoder that returns the pixels, the embedding is the patches."""
    from snrmix.data.embedding import compute_embedding
    from snrmix.data.sites import patch_sides
    from snrmix.images import Encoder

    sites, scales = read_sites(tissue), (1.15, 2.3)
    encoder = Encoder("pixels", lambda patches: patches.permute(0, 2, 3, 1).flatten(1), 16)
    features = compute_embedding(sites, encoder, scales).features
    store = read_patches(sites, patch_sides(sites, scales), 16)
    assert len(store) == len(sites) and store.pixels.dtype == np.uint8
    per_scale = features.shape[1] // 2
    wanted = np.stack([features[:, s * per_scale :][:, : 16 * 16 * 3] for s in (0, 1)], axis=1)
    np.testing.assert_allclose(store.pixels.reshape(len(sites), 2, -1), wanted.astype(float) * 255, atol=0.2)


def test_a_file_holds_the_same_patches_as_memory(tissue, monkeypatch):
    from snrmix.data.sites import patch_sides

    sites = read_sites(tissue)
    sides = patch_sides(sites, (2.3,))
    memory = read_patches(sites, sides, 16)
    in_file(monkeypatch)
    mapped = read_patches(sites, sides, 16)
    assert isinstance(mapped.pixels, np.memmap)
    np.testing.assert_array_equal(memory.pixels, mapped.pixels)
