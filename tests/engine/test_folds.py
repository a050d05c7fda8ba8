import numpy as np
import pytest
from scipy import stats

from snrmix.engine.folds import (
    CLUSTERS,
    beyond_held_out,
    clustered_assignment,
    held_out_distance,
    make_folds,
    random_assignment,
    single_split,
)
from snrmix.engine.neighbours import distance_to_measured


def square(side):
    return np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2).astype(float)


@pytest.fixture(scope="module")
def section():
    """Two libraries of 20 x 20 spots in the same place."""
    positions = np.tile(square(20), (2, 1)) + np.random.default_rng(0).normal(0, 0.01, (800, 2))
    return positions, np.repeat([0, 1], 400)


MISSING = {
    "scattered": lambda positions, rng: rng.random(len(positions)) < 0.5,
    "a third, as one block": lambda positions, rng: positions[:, 0] > 13,
    "two holes": lambda positions, rng: (np.abs(positions[:, 0] - 9.5) > 5) & (np.abs(positions[:, 1] - 9.5) < 6),
    "none": lambda positions, rng: np.zeros(len(positions), bool),
}


def folds_of(section, missing, n_folds=5, n_repeats=2, seed=0):
    positions, library = section
    measured = np.flatnonzero(~MISSING[missing](positions, np.random.default_rng(5)))
    folds = make_folds(positions, library, measured, n_folds, n_repeats, np.random.default_rng(seed))
    return measured, folds, folds[0].compact


@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("n_folds", [2, 5])
def test_every_repeat_holds_out_every_measured_spot_once(section, missing, n_folds):
    measured, folds, _ = folds_of(section, missing, n_folds)
    assert {fold.repeat for fold in folds} == {0, 1}
    for repeat in (0, 1):
        held_out = [fold.held_out for fold in folds if fold.repeat == repeat]
        np.testing.assert_array_equal(np.sort(np.concatenate(held_out)), np.arange(len(measured)))
    for fold in folds:
        assert len(fold.train) and len(fold.held_out)
        np.testing.assert_array_equal(np.sort(np.append(fold.train, fold.held_out)), np.arange(len(measured)))
        assert (np.diff(fold.train) > 0).all() and (np.diff(fold.held_out) > 0).all()
    if missing == "scattered":
        assert not np.array_equal(folds[0].held_out, folds[n_folds].held_out)


def test_random_folds_follow_from_the_seed_and_regions_from_what_is_missing(section):
    for missing in ("scattered", "a third, as one block"):
        first, again, other = (folds_of(section, missing, seed=seed, n_repeats=1)[1] for seed in (0, 0, 1))
        assert all(np.array_equal(a.held_out, b.held_out) for a, b in zip(first, again, strict=True))
        same = all(np.array_equal(a.held_out, b.held_out) for a, b in zip(first, other, strict=True))
        assert same == (missing != "scattered")


LAYOUTS = {
    "the left 16 of 20 columns": (lambda x, y, rng: x < 16, True),
    "half": (lambda x, y, rng: x < 10, True),
    "six columns": (lambda x, y, rng: x < 6, True),
    "all but an arm": (lambda x, y, rng: ~((x > 8) & (x < 13) & (y > 5)), True),
    "all but a hole": (lambda x, y, rng: np.hypot(x - 9.5, y - 9.5) > 5, True),
    "a tenth, scattered": (lambda x, y, rng: rng.random(len(x)) < 0.1, False),
    "half, scattered": (lambda x, y, rng: rng.random(len(x)) < 0.5, False),
    "the deep ones": (lambda x, y, rng: np.sin(x / 2) + rng.normal(0, 1, len(x)) > -0.2, False),
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_folds_are_as_far_as_the_missing_part_whatever_the_seed(layout):
    """Distances of held-out spots and of missing sites differ by half a pitch where that is possible (W measured)."""
    positions, rng = square(20), np.random.default_rng(1)
    keep, region = LAYOUTS[layout]
    measured, library = np.flatnonzero(keep(*positions.T, rng)), np.zeros(400, int)
    wanted = distance_to_measured(positions, library, measured)
    for seed in range(4):
        folds = make_folds(positions, library, measured, 5, 1, np.random.default_rng(seed))
        assert folds[0].compact == region
        found = np.concatenate(
            [distance_to_measured(positions, library, measured[f.train], measured[f.held_out]) for f in folds]
        )
        assert stats.wasserstein_distance(found, wanted) < (2.1 if layout == "six columns" else 0.6)
    farthest, beyond = beyond_held_out(positions, library, measured, folds)
    assert farthest == found.max() and beyond == (wanted > 1.01 * found.max()).mean()
    assert (beyond > 0.1) == (layout == "six columns")


@pytest.mark.parametrize("n_folds", [2, 3, 5, 7])
def test_random_folds_are_balanced_within_each_library(n_folds):
    library = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [101, 38, 14]))
    fold = random_assignment(library, n_folds, np.random.default_rng(1))
    for code in range(3):
        counts = np.bincount(fold[library == code], minlength=n_folds)
        assert np.ptp(counts) <= 1 and counts.min() >= 1


@pytest.mark.parametrize("clusters", CLUSTERS)
def test_clustered_folds_are_balanced_and_held_out_spots_lie_farther_away(section, clusters):
    positions, library = section
    fold = clustered_assignment(positions, library, 5, clusters, np.random.default_rng(0))
    counts = np.array([np.bincount(fold[library == code], minlength=5) for code in (0, 1)])
    # The largest cluster can tip the balance: 400 spots in 5 x clusters groups, twice the mean size at most.
    assert np.abs(counts - 80).max() <= 160 / clusters
    near = held_out_distance(positions, library, random_assignment(library, 5, np.random.default_rng(0))).mean()
    far = held_out_distance(positions, library, fold).mean()
    assert far > near + {1: 1.5, 2: 1.0, 4: 0.5, 8: 0.2, 16: 0.05}[clusters]


@pytest.mark.parametrize("missing", MISSING)
def test_clusters_are_used_where_regions_are_missing_and_only_there(section, missing):
    positions, library = section
    measured, folds, compact = folds_of(section, missing)
    assert compact == (missing in ("a third, as one block", "two holes"))
    if compact:
        own = library[measured]
        wanted = distance_to_measured(positions, library, measured).mean()
        fold = np.empty(len(measured), int)
        for k, one in enumerate(folds[:5]):
            fold[one.held_out] = k
        scattered = random_assignment(own, 5, np.random.default_rng(0))
        clustered, random = (held_out_distance(positions[measured], own, f).mean() for f in (fold, scattered))
        assert abs(clustered - wanted) < 0.8 * abs(random - wanted)


def test_smallest_allowed_libraries_leave_no_fold_empty():
    """`snrmix.plan.splits.choose_folds` allows as many folds as half the spots of the smallest library."""
    rng = np.random.default_rng(0)
    library = np.repeat([0, 1], [10, 60])
    positions = rng.uniform(0, 8, (70, 2))
    for assignment in (random_assignment(library, 5, rng), clustered_assignment(positions, library, 5, 16, rng)):
        for code in (0, 1):
            assert set(assignment[library == code]) == set(range(5))


SMALL_LIBRARIES = {
    "one spot beside many": [1, 60],
    "two spots beside many": [2, 60],
    "fewer spots each than folds": [4, 4, 3],
    "as many folds as half the spots": [10],
    "all of one spot": [1] * 12,
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sizes", SMALL_LIBRARIES.values(), ids=SMALL_LIBRARIES)
@pytest.mark.parametrize("assign", ["random", *CLUSTERS])
def test_no_fold_is_empty_however_small_the_libraries(sizes, assign, seed):
    rng = np.random.default_rng(seed)
    library, positions = np.repeat(np.arange(len(sizes)), sizes), rng.uniform(0, 8, (sum(sizes), 2))
    if assign == "random":
        fold = random_assignment(library, 5, rng)
    else:
        fold = clustered_assignment(positions, library, 5, assign, rng)
    assert set(fold) == set(range(5))


def test_spots_at_one_place_are_no_clusters_of_their_own(recwarn):
    positions = np.repeat([[0.0, 0.0], [5.0, 5.0]], [30, 10], axis=0)
    fold = clustered_assignment(positions, np.zeros(40, int), 5, 4, np.random.default_rng(0))
    assert set(fold) == set(range(5))
    assert not recwarn.list  # of scikit-learn, about fewer distinct points than clusters


def test_a_library_of_one_measured_spot_beside_a_missing_region():
    """Whole folds from `make_folds`, which tries clusters only where unmeasured sites are far from measured ones."""
    positions = np.concatenate([square(20), [[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]])
    library = np.repeat([0, 1], [400, 3])
    measured = np.append(np.flatnonzero(positions[:400, 0] < 13), 400)
    folds = make_folds(positions, library, measured, 5, 1, np.random.default_rng(0))
    assert folds[0].compact and all(len(fold.held_out) for fold in folds)


def test_distances_are_those_of_a_loop_and_stay_within_libraries():
    rng = np.random.default_rng(0)
    positions, library = rng.uniform(0, 5, (60, 2)), np.repeat([0, 1, 2], 20)
    measured = np.flatnonzero((rng.random(60) < 0.4) & (library < 2))

    def nearest(site):
        own = [np.hypot(*(positions[site] - positions[m])) for m in measured if library[m] == library[site]]
        return min(own, default=np.nan)

    missing = np.setdiff1d(np.arange(60), measured)
    loop = np.array([nearest(site) for site in missing])
    np.testing.assert_allclose(distance_to_measured(positions, library, measured), loop[np.isfinite(loop)])
    # Asked for by name, sites of a library without any measured one are as far as the farthest.
    found = distance_to_measured(positions, library, measured, missing)
    np.testing.assert_allclose(found, np.where(np.isfinite(loop), loop, np.nanmax([1.0, *loop])))


def test_held_out_distance_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    positions, library, fold = rng.uniform(0, 5, (50, 2)), np.repeat([0, 1], 25), rng.integers(3, size=50)
    loop = [
        min(
            np.hypot(*(positions[i] - positions[j]))
            for j in range(50)
            if fold[j] != fold[i] and library[j] == library[i]
        )
        for i in range(50)
    ]
    np.testing.assert_allclose(held_out_distance(positions, library, fold), loop)


@pytest.mark.parametrize("share", [0.001, 0.2, 0.5, 0.99, 0.9999])
def test_single_split_holds_out_a_share_of_each_library_and_never_all_of_it(share):
    library = np.repeat([0, 1, 2], [200, 30, 1])
    fold = single_split(library, share, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(np.append(fold.train, fold.held_out)), np.arange(231))
    held_out = np.bincount(library[fold.held_out], minlength=3)
    assert list(held_out) == [min(max(round(share * n), 1), n - 1) for n in (200, 30, 1)]
    again = single_split(library, share, np.random.default_rng(0))
    np.testing.assert_array_equal(fold.held_out, again.held_out)
