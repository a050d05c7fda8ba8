import numpy as np
import pytest
from scipy.spatial.distance import cdist

from snrmix.engine.scores.reliability import MOST_GROUPS, better_than_all, compact_groups


def square(side):
    return np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2).astype(float)


def errors(positions, genes, reach, rng):
    """Standard normal errors, independent or with correlation ``exp(-distance / reach)``."""
    noise = rng.standard_normal((len(positions), genes))
    if reach:
        noise = np.linalg.cholesky(np.exp(-cdist(positions, positions) / reach) + 1e-9 * np.eye(len(positions))) @ noise
    return noise


def flagged(ours, others, positions, rng, library=None, rows=None):
    library = np.zeros(len(positions), int) if library is None else library
    rows = np.arange(len(positions)) if rows is None else rows
    ours, *others = (x.astype(np.float32) for x in (ours, *others))
    return better_than_all(np.zeros_like(ours), ours, others, rows, positions, library, rng)


@pytest.mark.parametrize(("side", "reach", "most"), [(5, 0, 0.0), (8, 0, 0.08), (20, 0, 0.08), (20, 1.5, 0.13)])
def test_false_discoveries_are_as_many_as_promised(side, reach, most):
    """300 genes of 1,000 are truly better; of those flagged, about 5 % are not, if errors reach less than a block."""
    rng, positions, share = np.random.default_rng(0), square(side), []
    for _ in range(5):
        ours, other = (errors(positions, 1000, reach, rng) for _ in range(2))
        ours[:, :300] *= 0.6
        flags = flagged(ours, [other], positions, rng)
        share.append(flags[300:].sum() / max(flags.sum(), 1))
    assert np.mean(share) <= most


@pytest.mark.parametrize("reach", [0, 1.5])
def test_where_no_gene_is_better_none_is_flagged(reach):
    rng, positions = np.random.default_rng(1), square(15)
    for _ in range(5):
        ours, other = (errors(positions, 1000, reach, rng) for _ in range(2))
        assert flagged(ours, [other], positions, rng).mean() < 0.01


@pytest.mark.parametrize(("side", "least"), [(8, 0.6), (15, 0.98)])
def test_genes_that_are_better_are_found(side, least):
    rng, positions = np.random.default_rng(2), square(side)
    ours, other = (errors(positions, 400, 0, rng) for _ in range(2))
    assert flagged(0.6 * ours, [other, 1.2 * other], positions, rng).mean() > least


def test_all_others_must_be_beaten():
    rng, positions = np.random.default_rng(3), square(15)
    ours, worse, best = (errors(positions, 60, 0, rng) for _ in range(3))
    assert flagged(0.7 * ours, [worse], positions, rng).all()
    for others in ([worse, 0.5 * best], [0.5 * best, worse]):
        assert not flagged(0.7 * ours, others, positions, rng).any()


def test_a_method_is_not_better_than_itself():
    rng, positions = np.random.default_rng(4), square(10)
    ours = errors(positions, 30, 0, rng)
    assert not flagged(ours, [ours.copy()], positions, rng).any()


@pytest.mark.parametrize("n", [1, 6, 16, 30])
def test_a_few_spots_prove_nothing(n):
    rng = np.random.default_rng(5)
    ours, other = errors(square(10), 200, 0, rng), errors(square(10), 200, 0, rng)
    assert not flagged(0.1 * ours, [other + 3], square(10), rng, rows=np.arange(n)).any()


def test_only_the_given_rows_count():
    rng, positions = np.random.default_rng(6), square(15)
    ours, other = (errors(positions, 50, 0, rng) for _ in range(2))
    rows = np.arange(0, 225, 2)
    ours[rows] *= 0.3
    ours[1::2] = np.nan
    assert flagged(ours, [other], positions, rng, rows=rows).all()


def test_blocks_are_compact_of_eight_spots_or_more_and_never_across_libraries():
    rng = np.random.default_rng(0)
    for sizes in ([64], [400], [2500, 100], [30, 5, 300]):
        library = np.repeat(np.arange(len(sizes)), sizes)
        positions = rng.uniform(0, 10, (len(library), 2))
        block = compact_groups(positions, library, rng)
        assert set(block) == set(range(block.max() + 1)) and block.max() + 1 <= MOST_GROUPS + len(sizes)
        for b in range(block.max() + 1):
            own = block == b
            assert len(np.unique(library[own])) == 1
            if own.sum() > 1 and sizes == [400]:
                assert positions[own].std(0).max() < positions.std(0).min() / 2
        assert len(block) / (block.max() + 1) >= min(8, min(sizes))


def test_spots_at_one_place_are_one_group_and_nothing_warns(recwarn):
    positions = np.repeat([[0.0, 0.0], [9.0, 9.0]], 40, axis=0)
    group = compact_groups(positions, np.zeros(80, int), np.random.default_rng(0))
    assert set(group[:40]) != set(group[40:]) and len(set(group)) == 2
    assert not recwarn.list
