import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import pdist

from snrmix.engine.folds import Fold, make_folds
from snrmix.engine.mix import (
    MIXINGS,
    Mixup,
    NoMixing,
    PartnerTable,
    SNRMixing,
    beta,
    expression_bandwidth,
    expression_weights,
    register,
    resolve_mixing,
)
from snrmix.engine.network.heads import Heads
from snrmix.engine.network.partners import partner_table
from snrmix.engine.network.targets import make_targets
from snrmix.engine.options import Training
from snrmix.plan.graph import spatial_neighbours


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def table_of(index, weight, train=None):
    """A table for one network or several, from arrays of shape (n, k) or (K, n, k)."""
    index, weight = torch.as_tensor(index), torch.as_tensor(weight, dtype=torch.float32)
    index, weight = (x if x.ndim == 3 else x[None] for x in (index, weight))
    train = torch.arange(index.shape[1]).expand(len(index), -1) if train is None else torch.as_tensor(train)
    return PartnerTable(train, index, weight)


def draws(mixing, table, anchor, times, seed=0):
    """Partners and shares of one spot of the first network."""
    anchors = torch.full((len(table.train), times), anchor)
    partners, share = mixing.draw(anchors, table, generator(seed))
    assert partners.shape == anchors.shape and share.shape == (*anchors.shape, 1)
    return partners[0].numpy(), share[0, :, 0].numpy()


@pytest.fixture(scope="module")
def two_libraries():
    """40 spots of library 0, 30 of library 1 in the same place, one of library 2; a section in three folds."""
    rng = np.random.default_rng(0)
    library = np.repeat([0, 1, 2], [40, 30, 1])
    positions = rng.uniform(0, 6, (71, 2))
    expression = (np.sin(positions @ rng.normal(size=(2, 8))) + 0.3 * rng.normal(size=(71, 8))).astype(np.float32)
    fold = np.append(np.arange(70) % 3, 0)
    folds = [Fold(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(3)]
    return positions, library, expression, folds


@pytest.fixture(scope="module")
def three_heads(two_libraries):
    """The partner table of the three folds, with 6 neighbours."""
    positions, library, expression, folds = two_libraries
    targets = [make_targets(expression, fold.train) for fold in folds]

    def neighbours(train, k):
        return spatial_neighbours(positions[train], library[train], k)

    return partner_table(targets, folds, neighbours, SNRMixing(k=6, sigma=0.5), 0, library)


@pytest.mark.parametrize("sigma", [0.25, 0.5, 2.0])
def test_weights_are_a_gaussian_kernel_of_expression_distance(sigma):
    rng = np.random.default_rng(1)
    values = rng.normal(size=(300, 5)).astype(np.float32)
    neighbours = np.array([rng.choice(np.delete(np.arange(300), i), 4, replace=False) for i in range(300)])
    weight = expression_weights(neighbours, values, expression_bandwidth(values, sigma, rng))
    distance = np.array([[np.linalg.norm(values[i] - values[j]) for j in row] for i, row in enumerate(neighbours)])
    everywhere = np.median(pdist(values))
    # The log of a ratio of weights gives the bandwidth: the same on every edge, and sigma times the median distance.
    usable = (weight[:, 0] > 1e-4) & (weight[:, 1] > 1e-4) & (abs(distance[:, 0] - distance[:, 1]) > 0.1)
    squared = (distance[:, 1] ** 2 - distance[:, 0] ** 2)[usable] / 2
    bandwidth = np.sqrt(squared / np.log(weight[:, 0] / weight[:, 1])[usable])
    assert usable.sum() > 100
    np.testing.assert_allclose(bandwidth, np.median(bandwidth), rtol=2e-3)
    assert np.median(bandwidth) == pytest.approx(sigma * everywhere, rel=0.04)
    exact = np.exp(-(distance**2) / (2 * np.median(bandwidth) ** 2))
    np.testing.assert_allclose(weight, exact / exact.sum(1, keepdims=True), rtol=5e-3, atol=1e-6)


def test_partners_are_drawn_with_the_probabilities_of_the_table(three_heads, two_libraries):
    folds, times = two_libraries[3], 4000
    p_values = []
    for head, fold in enumerate(folds):
        one = PartnerTable(three_heads.train[[head]], three_heads.index[[head]], three_heads.weight[[head]])
        for spot in fold.train[fold.train < 70][::5]:
            partners, _ = draws(SNRMixing(k=6, sigma=0.5), one, int(spot), times, seed=int(spot))
            wanted = one.weight[0, spot].numpy().astype(float) * times
            counts = np.array([(partners == j).sum() for j in one.index[0, spot].numpy()])
            likely = wanted > 5
            assert counts.sum() == times, "a partner that is no neighbour"
            counts, wanted = (np.append(x[likely], x[~likely].sum()) for x in (counts, wanted))
            if likely.sum() > 1:
                p_values.append(
                    stats.chisquare(counts[:-1], wanted[:-1] * counts[:-1].sum() / wanted[:-1].sum()).pvalue
                )
    assert len(p_values) > 20
    assert stats.kstest(p_values, "uniform").pvalue > 0.01 and min(p_values) > 1e-4


def test_partners_are_nearest_training_spots_of_the_library(three_heads, two_libraries):
    positions, library, _, folds = two_libraries
    size = min(len(fold.train) for fold in folds)
    for head, fold in enumerate(folds):
        train = three_heads.train[head].numpy()
        assert len(train) == size and np.isin(train, fold.train).all() and len(np.unique(train)) == size
        weight, index = three_heads.weight[head].numpy(), three_heads.index[head].numpy()
        assert (weight[fold.held_out] == 0).all()
        for i in fold.train[fold.train < 70]:
            own = [j for j in fold.train if library[j] == library[i] and j != i]
            nearest = sorted(own, key=lambda j: np.hypot(*(positions[j] - positions[i])))[:6]
            assert set(index[i]) == set(nearest)
            assert weight[i].sum() == pytest.approx(1, abs=1e-5)


def test_draws_of_several_networks_stay_within_their_own_training_spots(three_heads, two_libraries):
    library, folds = two_libraries[1], two_libraries[3]
    anchors = three_heads.train.repeat(1, 200)
    for mixing in (SNRMixing(k=6, sigma=2.0), Mixup()):
        partners, share = mixing.draw(anchors, three_heads, generator())
        assert share.shape == (*anchors.shape, 1) and ((share >= 0) & (share <= 1)).all()
        for head, fold in enumerate(folds):
            assert not np.isin(partners[head], fold.held_out).any()
        assert (library[partners] == library[anchors]).all()


def test_spot_without_neighbours_is_not_mixed(three_heads, two_libraries):
    folds = two_libraries[3]
    alone = 70  # the only spot of its library
    head = next(k for k, fold in enumerate(folds) if alone in fold.train)
    one = PartnerTable(three_heads.train[[head]], three_heads.index[[head]], three_heads.weight[[head]])
    partners, share = draws(SNRMixing(k=6), one, alone, 50)
    assert (partners == alone).all() and (share == 1).all()
    partners, share = draws(SNRMixing(k=6), one, int(folds[head].train[0]), 50)
    assert (partners != folds[head].train[0]).all() and (share < 1).any()


def test_fewer_neighbours_than_asked_are_padded_with_zero_probability():
    neighbours = np.array([[1, -1, -1], [0, -1, -1], [-1, -1, -1], [0, 1, 2]])
    weight = expression_weights(neighbours, np.arange(8.0).reshape(4, 2), 0.5)
    assert weight[neighbours < 0].sum() == 0
    np.testing.assert_allclose(weight.sum(1), [1, 1, 0, 1], rtol=1e-6)


def test_outliers_and_equal_spots_give_probabilities():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(200, 4))
    values[6], values[8] = values[5] + 0.1, values[5] + 2.0
    values[7] += 1e5
    neighbours = np.array([[(i + s) % 200 for s in (1, 2, 3)] for i in range(200)])
    values = values.astype(np.float32)
    weight = expression_weights(neighbours, values, expression_bandwidth(values, 0.25, rng))
    np.testing.assert_allclose(weight.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(weight[5], [1, 0, 0], atol=1e-6)  # 6, and neither the outlier 7 nor the unlike 8
    assert weight[7].max() > 0.99  # all are far away: the nearest of them
    equal = np.ones((200, 4), np.float32)
    flat = expression_weights(neighbours, equal, expression_bandwidth(equal, 0.25, rng))
    np.testing.assert_allclose(flat, 1 / 3, rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("mixing", [SNRMixing, Mixup])
def test_shares_follow_the_beta_distribution(mixing, alpha):
    table = table_of([[1, 2], [0, 2], [0, 1]], np.full((3, 2), 0.5))
    share = draws(mixing(alpha=alpha), table, 0, 4000)[1]
    assert stats.kstest(share, stats.beta(alpha, alpha).cdf).pvalue > 0.01
    assert beta(alpha, (2, 3), generator()).shape == (2, 3, 1)


def test_mixup_partners_are_uniform_over_training_spots():
    train = np.array([[3, 4, 7, 8, 9], [0, 1, 2, 5, 6]])
    table = table_of(np.zeros((2, 10, 1), int), np.zeros((2, 10, 1)), train)
    partners, _ = Mixup().draw(torch.tensor([[3], [0]]).repeat(1, 5000), table, generator())
    for head in range(2):
        seen, counts = np.unique(partners[head].numpy(), return_counts=True)
        assert list(seen) == list(train[head])
        assert stats.chisquare(counts).pvalue > 0.01


def test_no_mixing_leaves_spots_alone():
    anchors = torch.tensor([[0, 2, 1]])
    partners, share = NoMixing().draw(anchors, table_of(np.zeros((3, 1), int), np.zeros((3, 1))), generator())
    assert torch.equal(partners, anchors) and (share == 1).all()


def test_same_seed_same_draws(three_heads):
    first, again, other = (SNRMixing(k=6).draw(three_heads.train, three_heads, generator(seed)) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[1], other[1])


@pytest.mark.parametrize("clean", ["snr", "mixup", "none"])
def test_targets_are_mixed_as_features_are(two_libraries, clean):
    """What reaches the loss is the network at the mixture of features, and the mixture of its two targets."""
    positions, library, expression, _ = two_libraries
    rng = np.random.default_rng(0)
    features = rng.uniform(-1, 1, (71, 12)).astype(np.float32)
    folds = make_folds(positions[:70], library[:70], np.arange(70), 2, 1, rng)
    targets = [make_targets(expression[:70], fold.train) for fold in folds]
    mixing, seen = resolve_mixing(clean), {}

    class Spy(SNRMixing):
        def draw(self, anchors, table, generator):
            seen["partners"], seen["share"] = mixing.draw(anchors, table, generator)
            seen["anchors"] = anchors
            return seen["partners"], seen["share"]

    class Recorder:
        needs_ends, edge = True, 0.1

        def __call__(self, mixed, ends, first, second, share, edge_weight):
            assert edge_weight is None
            seen.update(mixed=mixed, ends=ends, first=first, second=second, passed=share)
            return mixed.sum((1, 2))

    def neighbours(train, k):
        return spatial_neighbours(positions[train], library[train], k)

    table = partner_table(targets, folds, neighbours, Spy(k=6, sigma=0.5), 0)
    options = Training(dropout=0.0, hidden=9, accelerator="cpu")
    heads = Heads(features, targets, folds, table, Spy(k=6, sigma=0.5), Recorder(), options, seed=0)
    with torch.no_grad():
        heads.head_weight.normal_(generator=generator())
        heads.on_fit_start()
        heads.on_train_epoch_start()
        heads.training_step(0)
    for k, fold in enumerate(folds):
        x = (features - features[fold.train].mean(0)) / features[fold.train].std(0)
        i, j = seen["anchors"][k].numpy(), seen["partners"][k].numpy()
        share = seen["share"][k].numpy()
        assert np.isin(i, fold.train).all() and np.isin(j, fold.train).all()
        np.testing.assert_array_equal(seen["passed"][k], share)
        np.testing.assert_array_equal(seen["first"][k], targets[k].values[i])
        np.testing.assert_array_equal(seen["second"][k], targets[k].values[j])
        inputs = {"mixed": share * x[i] + (1 - share) * x[j], 0: x[i], 1: x[j]}
        for name, values in inputs.items():
            hidden = torch.nn.functional.gelu(torch.as_tensor(values) @ heads.stem_weight[k] + heads.stem_bias[k])
            wanted = (hidden @ heads.head_weight[k] + heads.head_bias[k]).detach()
            found = seen["mixed"][k] if name == "mixed" else seen["ends"][name][k]
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_registry_names_strategies_and_suggests():
    assert {"snr", "mixup", "none"} <= set(MIXINGS)
    assert resolve_mixing("snr") == SNRMixing()
    mine = SNRMixing(k=3)
    assert resolve_mixing(mine) is mine
    with pytest.raises(ValueError, match="unknown mix='mixupp'; available: .*'snr'.* Did you mean 'mixup'"):
        resolve_mixing("mixupp")
    for wrong in (None, 3, SNRMixing, object(), type("NoK", (), {"draw": lambda self: None})()):
        with pytest.raises(TypeError, match="mix must be a name .*'snr'"):
            resolve_mixing(wrong)


def test_a_new_strategy_is_one_registered_class(monkeypatch):
    monkeypatch.setattr("snrmix.engine.mix.base.MIXINGS", dict(MIXINGS))

    @register("own")
    class Own(NoMixing):
        pass

    assert type(resolve_mixing("own")) is Own


@pytest.mark.parametrize("name", ["k", "sigma", "alpha"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_parameters_must_be_positive(name, value):
    with pytest.raises(ValueError, match=f"{name}=.* must be positive"):
        SNRMixing(**{name: value})
