import anndata
import numpy as np
import pytest
from scipy import stats

from snrmix.data.expression import read_expression, read_measured
from snrmix.data.sites import read_sites
from snrmix.engine.counts import log_count_moments
from snrmix.engine.scores.noise import NEIGHBOURS, explainable_variance, sampling_noise
from snrmix.plan.graph import spatial_neighbours


def exact(expected, scale):
    """Moments of log1p(scale k), k ~ Poisson(expected), by summing over every count that can occur."""
    count = np.arange(int(expected + 20 * np.sqrt(expected) + 60))
    probability, value = stats.poisson.pmf(count, expected), np.log1p(scale * count)
    mean = probability @ value
    return mean, probability @ (value - mean) ** 2


def log_normalised(counts, depth):
    return np.log1p(1e4 * counts / depth[:, None])


@pytest.fixture(scope="module")
def square():
    """A 20 x 20 section: depth, neighbours, smooth rates of 30 genes from rare to frequent."""
    rng = np.random.default_rng(0)
    positions = np.stack(np.meshgrid(np.arange(20.0), np.arange(20.0)), -1).reshape(-1, 2)
    depth = rng.lognormal(7, 0.6, len(positions)).round()
    level = np.geomspace(2e-4, 2e-2, 30)
    wave = np.sin(positions @ (rng.normal(size=(2, 30)) / 6) + rng.uniform(0, 6, 30))
    return depth, spatial_neighbours(positions, np.zeros(400, int), NEIGHBOURS), level * np.exp(0.8 * wave)


@pytest.mark.parametrize("depth", [30.0, 1000.0, 40000.0])
def test_moments_are_sums_over_all_counts(depth):
    expected = np.array([0, 1e-4, 0.03, 0.7, 3, 20, 99.9, 100.1, 250, 3000])
    mean, variance = log_count_moments(expected, np.array([1e4 / depth]))
    wanted = np.array([exact(e, 1e4 / depth) for e in expected])
    np.testing.assert_allclose(mean[0], wanted[:, 0], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(variance[0], wanted[:, 1], rtol=4e-4, atol=1e-12)


def test_moments_agree_with_simulated_counts():
    expected, depth = np.array([0.2, 2.0, 40.0]), 800.0
    draws = np.log1p(1e4 / depth * np.random.default_rng(0).poisson(expected, (200_000, 3)))
    mean, variance = log_count_moments(expected, np.array([1e4 / depth]))
    np.testing.assert_allclose(mean[0], draws.mean(0), rtol=0.01)
    np.testing.assert_allclose(variance[0], draws.var(0), rtol=0.02)


def test_flat_genes_have_the_noise_of_their_rate(square):
    depth, neighbours, _ = square
    rate, spots = np.array([1e-3, 1e-2, 0.1, 0.0]), np.arange(400)
    counts = np.random.default_rng(0).poisson(rate * depth[:, None])
    known, neighbour = sampling_noise(depth, neighbours, spots).of(log_normalised(counts, depth))
    moments = np.array([[exact(r * d, 1e4 / d) for r in rate] for d in depth])
    guess = np.array([[np.mean([moments[j, g, 0] for j in neighbours[i]]) for g in range(4)] for i in spots])
    wanted = moments[..., 1].mean(0), (moments[..., 1] + (moments[..., 0] - guess) ** 2).mean(0)
    np.testing.assert_allclose(known.mean(0), wanted[0], rtol=0.08)
    np.testing.assert_allclose(neighbour.mean(0), wanted[1], rtol=0.08)
    assert (neighbour >= known).all() and (known[:, 3] == 0).all()


PATTERNS = {
    "smooth": lambda rng, wave: np.exp(0.7 * wave),
    "patchy": lambda rng, wave: np.where(wave > 0.5, 10.0, 1.0),
    "overdispersed": lambda rng, wave: np.exp(0.5 * wave) * rng.gamma(2, 0.5, wave.shape),
}


@pytest.mark.parametrize("depth", [500, 3000, 20000])
@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_noise_is_that_of_the_rates_whatever_their_pattern(pattern, depth):
    """Measured over truth: .96-1.00 for the section, .88-1.11 for genes of one expected count or more."""
    rng = np.random.default_rng(2)
    positions = np.stack(np.meshgrid(np.arange(24.0), np.arange(24.0)), -1).reshape(-1, 2)
    wave = np.cos(positions @ (rng.normal(size=(2, 24)) / 2.5) + rng.uniform(0, 6, 24))
    wave += np.cos(positions @ (rng.normal(size=(2, 24)) / 2.5) + rng.uniform(0, 6, 24))
    depths = (depth * rng.lognormal(0, 0.4, len(positions))).round()
    fold_change = PATTERNS[pattern](rng, wave)
    rates = np.geomspace(1e-4, 3e-2, 24) * fold_change / fold_change.mean(0)
    truth = np.stack([log_count_moments(r * d, np.array([1e4 / d]))[1][0] for r, d in zip(rates, depths, strict=True)])
    neighbours = spatial_neighbours(positions, np.zeros(len(positions), int), NEIGHBOURS)
    observed = log_normalised(rng.poisson(rates * depths[:, None]), depths)
    known, _ = sampling_noise(depths, neighbours, np.arange(len(depths))).of(observed)
    assert 0.93 < known.sum() / truth.sum() < 1.05
    ratio = (known.mean(0) / truth.mean(0))[(rates * depths[:, None]).mean(0) > 1]
    assert ratio.min() > 0.8 and ratio.max() < 1.2


def test_noise_of_simulated_counts_is_recovered(square):
    depth, neighbours, rates = square
    rng = np.random.default_rng(1)
    draws = np.stack([log_normalised(rng.poisson(rates * depth[:, None]), depth) for _ in range(60)])
    truth = draws.var(0, ddof=1)
    expected = draws.mean(0)
    guess = np.stack([np.mean([_mean_at(rates[i], depth[j]) for j in neighbours[i, :6]], 0) for i in range(40)])
    noise = sampling_noise(depth, neighbours, np.arange(400))
    known, neighbour = noise.of(draws[0].astype(np.float32))
    frequent = rates.mean(0) > 1e-3
    np.testing.assert_allclose(known.mean(0)[frequent], truth.mean(0)[frequent], rtol=0.12)
    assert known.mean(0).sum() == pytest.approx(truth.mean(0).sum(), rel=0.02)
    missed = (truth[:40] + (expected[:40] - guess) ** 2).mean(0).sum()
    assert neighbour[:40].mean(0).sum() == pytest.approx(missed, rel=0.05)


def _mean_at(rate, depth):
    return log_count_moments(rate * depth, np.array([1e4 / depth]))[0][0]


def test_noise_agrees_with_the_difference_of_two_halves_of_the_counts(square):
    depth, neighbours, rates = square
    rng = np.random.default_rng(2)
    counts = rng.poisson(rates * depth[:, None])
    half = rng.binomial(counts, 0.5)
    first, second = (log_normalised(k, depth / 2) for k in (half, counts - half))
    known, _ = sampling_noise(depth / 2, neighbours, np.arange(400)).of(first)
    assert known.mean(0).sum() == pytest.approx(((first - second) ** 2 / 2).mean(0).sum(), rel=0.03)


def test_a_spot_without_neighbours_knows_its_depth():
    depth, neighbours = np.array([500.0, 900.0]), np.full((2, 6), -1)
    known, neighbour = sampling_noise(depth, neighbours, np.arange(2)).of(np.log1p([[20.0], [0.0]]))
    np.testing.assert_array_equal(known, neighbour)
    assert known[0, 0] > known[1, 0] > 0


def test_noise_does_not_depend_on_the_order_of_spots(square):
    depth, neighbours, rates = square
    expression = log_normalised(np.random.default_rng(4).poisson(rates * depth[:, None]), depth)
    order = np.random.default_rng(5).permutation(400)
    place = np.argsort(order)
    one = sampling_noise(depth, neighbours, np.arange(400)).of(expression)
    other = sampling_noise(depth[order], place[neighbours[order]], place).of(expression[order])
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)  # single precision, summed in another order


def test_explainable_variance_is_nan_where_it_drowns_in_its_error():
    rng = np.random.default_rng(0)
    reference = np.column_stack([rng.exponential(1.0, 400), rng.exponential(0.5, 400), rng.exponential(0.51, 400)])
    explainable = explainable_variance(reference, np.full((400, 3), 0.5))
    assert explainable[0] == pytest.approx(reference[:, 0].mean() - 0.5)
    assert np.isnan(explainable[1:]).all()


@pytest.mark.parametrize(
    ("section", "low", "high"),
    [("visium_muscle_2dpi", 0.52, 0.55), ("st_mob_2", 0.58, 0.61), ("visium_crc", 0.73, 0.77)],
)
def test_floor_of_real_sections(real_file, section, low, high):
    adata = anndata.read_h5ad(real_file(f"{section}.h5ad"))
    sites = read_sites(adata, with_images=False)
    expression = read_expression(adata, sites, read_measured(adata, None, None)[sites.order], genes=250)
    neighbours = spatial_neighbours(sites.lattice_positions, sites.library, NEIGHBOURS)
    known, neighbour = sampling_noise(expression.depth, neighbours, np.arange(len(sites))).of(expression.values)
    variance = expression.values.var(0, dtype=float).sum()
    assert low < known.mean(0).sum() / variance < high
    assert known.mean(0).sum() < neighbour.mean(0).sum() < 1.2 * known.mean(0).sum()
