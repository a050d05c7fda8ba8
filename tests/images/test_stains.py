import numpy as np
import pytest

from snrmix.images.stains import fit_stains, restain, to_common

STRONG = np.array([[0.70, 0.65, 0.30], [0.10, 0.90, 0.42]])  # optical densities of haematoxylin and eosin
WEAK = np.array([[0.55, 0.75, 0.35], [0.20, 0.88, 0.42]])


def photograph(amounts, densities, strength=1.0, seed=0):
    """Pixels, uint8, shape (..., 3), of so much of each stain, with a little noise."""
    densities = densities / np.linalg.norm(densities, axis=1, keepdims=True)
    light = 256 * np.exp(-strength * (amounts @ densities)) - 1
    noise = np.random.default_rng(seed).normal(0, 1, light.shape)
    return np.clip(np.rint(light + noise), 0, 255).astype(np.uint8)


@pytest.fixture
def amounts():
    """Of both stains in (3, 64, 64) pixels: from nearly pure to mixed, and glass."""
    rng = np.random.default_rng(1)
    total, share = rng.gamma(4, 0.25, (3, 64, 64, 1)), rng.beta(0.5, 0.5, (3, 64, 64, 1))
    return np.where(rng.random((3, 64, 64, 1)) < 0.2, 0, total * np.concatenate([share, 1 - share], axis=-1))


@pytest.mark.parametrize("densities", [STRONG, WEAK])
def test_the_stains_of_a_slide_are_found(amounts, densities):
    found = fit_stains(photograph(amounts, densities).reshape(-1, 3))
    true = densities / np.linalg.norm(densities, axis=1, keepdims=True)
    assert ((found.densities * true).sum(1) > 0.99).all()
    np.testing.assert_allclose(found.most, np.quantile(amounts, 0.99, axis=(0, 1, 2)), rtol=0.15)


def test_slides_of_other_stains_look_alike(amounts):
    slides = [photograph(amounts, STRONG, 1.3, 1), photograph(amounts, WEAK, 0.8, 2)]
    matrices = to_common([fit_stains(slide.reshape(-1, 3)) for slide in slides])
    alike = [restain(slide, matrix) for slide, matrix in zip(slides, matrices, strict=True)]
    before, after = (np.abs(np.subtract(*pair, dtype=float)).mean() for pair in (slides, alike))
    assert alike[0].dtype == np.uint8 and alike[0].shape == slides[0].shape
    assert before > 20 and after < 5, (before, after)


def test_what_is_stained_alike_stays_as_it_is(amounts):
    slide = photograph(amounts, STRONG)
    stains = fit_stains(slide.reshape(-1, 3))
    changed = np.abs(restain(slide, to_common([stains, stains])[0]).astype(float) - slide)
    assert np.quantile(changed, 0.99) < 4


def test_stains_that_cannot_be_told_apart_are_not():
    rng = np.random.default_rng(0)
    grey = np.repeat(rng.integers(40, 200, (5000, 1)), 3, axis=1).astype(np.uint8)
    for pixels in (np.full((5000, 3), 240, np.uint8), grey, rng.integers(0, 200, (500, 3), dtype=np.uint8)):
        assert fit_stains(pixels) is None
