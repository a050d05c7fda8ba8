import numpy as np
from scipy.stats import t

from snrmix.engine.between import DEPTHS_DIFFER, unknown_depth, unknown_level
from snrmix.engine.conformal import NORMAL_90

ONE_GROUP = np.zeros(4, int)


def test_the_variance_of_few_slides_is_that_of_student():
    offsets = np.array([0.3, -0.3, 0.6])
    residuals = [np.full((5, 4), offset) for offset in offsets]
    expected = ((t.ppf(0.95, 2) / NORMAL_90) ** 2 - 1) * np.mean(offsets**2)
    np.testing.assert_allclose(unknown_level(residuals, ONE_GROUP), expected)
    np.testing.assert_allclose(unknown_level(residuals[:2], ONE_GROUP), 13.74 * 0.09, rtol=1e-3)


def test_genes_of_a_group_are_pooled():
    residuals = [np.tile([1.0, 0, 0, 0], (3, 1)), np.tile([-1.0, 0, 0, 0], (3, 1))]
    found = unknown_level(residuals, np.array([0, 0, 1, 1]))
    assert found[0] == found[1] > 0 and not found[2:].any()


def test_intervals_hold_on_one_more_slide_of_three():
    """Slides differ by an offset that all genes share: as calibrated on three slides, and with what these leave unknown."""
    rng, plain, wider = np.random.default_rng(0), [], []
    for _ in range(2000):
        offsets = rng.normal(size=4)
        residuals = [np.full((2, 4), offset) for offset in offsets[:3]]
        known = np.mean(offsets[:3] ** 2)
        plain.append(abs(offsets[3]) < NORMAL_90 * np.sqrt(known))
        wider.append(abs(offsets[3]) < NORMAL_90 * np.sqrt(known + unknown_level(residuals, ONE_GROUP)[0]))
    assert np.mean(plain) < 0.83 and 0.88 < np.mean(wider) < 0.97


def test_depths_of_slides_differ_though_those_that_were_measured_do_not():
    same = [np.zeros(5), np.zeros(5)]
    assert unknown_depth(same) == DEPTHS_DIFFER > 0.3
    assert unknown_depth([np.full(5, 1.0), np.full(5, -1.0)]) > t.ppf(0.95, 1) / NORMAL_90
