import numpy as np
import pytest
import torch

from snrmix.engine.folds import Fold
from snrmix.engine.mix import PartnerTable
from snrmix.engine.network import inputs as module
from snrmix.engine.network.inputs import Coordinates, Features, make_inputs
from snrmix.engine.scaling import standard_scale, standardise

SPOTS, TRAIN, WIDTH = 60, 30, 400
ROWS = [np.arange(TRAIN), np.arange(SPOTS - TRAIN, SPOTS)]


def features_of(width=WIDTH, seed=0):
    """Correlated features with a few that hardly vary."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(SPOTS, 12)) @ rng.normal(size=(12, width)) + rng.normal(size=(SPOTS, width))
    values[:, :3] = 7.0
    return values.astype(np.float32)


def inputs_of(features, seed=0, rows=ROWS, train=None, library=None):
    """What the two networks of these training spots get; ``train``: with repeated ones."""
    folds = [Fold(some, np.setdiff1d(np.arange(len(features)), some)) for some in rows]
    train = torch.from_numpy(np.stack(rows if train is None else train))
    table = PartnerTable(train, None, None, None if library is None else torch.from_numpy(library))
    return make_inputs(features, folds, table, seed)[0]


def pair(seed=0):
    """Coordinates, and the features that they stand for."""
    features = features_of()
    coordinates = inputs_of(features, seed)
    assert isinstance(coordinates, Coordinates)
    scales = [np.stack(x) for x in zip(*(standard_scale(features, rows) for rows in ROWS), strict=True)]
    return coordinates, Features(features, *scales)


def test_coordinates_keep_all_products_of_training_spots_with_any_spot():
    coordinates, features = pair()
    for network, rows in enumerate(ROWS):
        z = standardise(features.features.numpy(), rows).astype(float)
        found = coordinates.of(network, torch.arange(SPOTS)).double().numpy()
        np.testing.assert_allclose(found @ found[rows].T, z @ z[rows].T, rtol=0, atol=1e-5 * (z @ z.T).max())
        np.testing.assert_allclose(features.of(network, torch.arange(SPOTS)).numpy(), z, atol=1e-5)


def test_coordinates_share_out_what_varies():
    coordinates, _ = pair()
    values = coordinates.of(0, torch.from_numpy(ROWS[0])).double()
    shares, along = values.square().sum(0), torch.linalg.svdvals(values).square()
    assert shares.sum() == pytest.approx(float(along.sum()))
    assert shares.std() < 0.5 * along.std()  # along principal axes they would be the same


@pytest.mark.parametrize("dropout", [0.2, 0.5])
def test_dropout_makes_as_much_noise_as_that_of_features(dropout):
    coordinates, features = pair()
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(2, TRAIN, 40, generator=generator)
    spots, bias = torch.from_numpy(np.stack(ROWS))[:, :20], torch.zeros(2, 1, 40)
    noise = []
    for inputs, own in ((coordinates, weight), (features, coordinates.to_features(weight))):
        exact = inputs.product(spots, own, bias, 0.0, generator)
        drawn = [inputs.product(spots, own, bias, dropout, generator) - exact for _ in range(100)]
        noise.append(torch.stack(drawn).square().mean())
        assert torch.stack(drawn).mean(0).abs().max() < 0.6 * exact.std()  # no bias
    assert noise[0] / noise[1] == pytest.approx(1.0, abs=0.15)


def test_first_layer_of_coordinates_is_that_of_features():
    coordinates, features = pair()
    weight = torch.randn(2, TRAIN, 5, generator=torch.Generator().manual_seed(0))
    for network, own in enumerate(coordinates.to_features(weight)):
        rows = torch.arange(SPOTS)
        expected = features.of(network, rows) @ own
        torch.testing.assert_close(coordinates.of(network, rows) @ weight[network], expected, atol=2e-3, rtol=1e-3)


def test_few_features_stay_as_they_are():
    features = features_of(width=59)
    inputs = inputs_of(features)
    assert isinstance(inputs, Features) and inputs.width == 59
    weight = torch.ones(2, 59, 3)
    assert inputs.to_features(weight) is weight
    assert isinstance(inputs_of(features_of(width=60)), Coordinates)


def test_repeated_spots_do_no_harm():
    features = features_of()
    train = np.stack([ROWS[0], np.r_[ROWS[1][:10], ROWS[1][:10], ROWS[1][:10]]])
    coordinates = inputs_of(features, train=train)
    assert torch.isfinite(coordinates.values).all()
    z = standardise(features, ROWS[1])[train[1]]
    found = coordinates.of(1, torch.from_numpy(train[1])).numpy()
    np.testing.assert_allclose(found @ found.T, z @ z.T, atol=1e-4 * (z @ z.T).max())


def test_seed_decides():
    first, again, other = (pair(seed)[0].values for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


# Many spots with many features


@pytest.fixture
def few_coordinates(monkeypatch):
    """So few that 60 spots are many."""
    monkeypatch.setattr(module, "LEADING", 20)
    monkeypatch.setattr(module, "SAMPLE", 40)


MANY = [np.arange(50), np.arange(10, 60)]


def test_many_spots_share_coordinates_along_the_leading_directions(few_coordinates):
    features = features_of(width=90)
    coordinates = inputs_of(features, rows=MANY)
    assert isinstance(coordinates, Coordinates) and coordinates.width == 20
    rows = torch.arange(SPOTS)
    values = coordinates.of(0, rows)
    assert torch.equal(values, coordinates.of(1, rows))
    assert len(coordinates.values) == SPOTS  # stored once
    z = standardise(features, np.arange(SPOTS)).astype(float)
    along = np.linalg.svd(z, compute_uv=False) ** 2
    assert values.double().square().sum() > 0.95 * along[:20].sum()  # the most that 20 directions can keep
    basis = coordinates.basis[0].double().numpy()
    np.testing.assert_allclose(basis.T @ basis, np.eye(20), atol=1e-5)
    np.testing.assert_allclose(values, z @ basis, atol=1e-4)


def test_width_of_the_first_layer():
    assert [module.width_of(n, 3906) for n in (1953, 1954, 100_000)] == [1953, 1024, 1024]
    assert [module.width_of(n, 2047) for n in (1023, 1024, 100_000)] == [1023, 2047, 2047]
    assert module.width_of(100_000, 66) == 66


def test_few_spots_of_many_are_as_good(few_coordinates, monkeypatch):
    """Leading directions of some of the spots keep nearly as much as those of all."""
    features = np.repeat(features_of(width=90), 4, 0) + 0.1 * np.random.default_rng(2).normal(size=(240, 90))
    rows = [np.arange(200), np.arange(40, 240)]
    some = inputs_of(features.astype(np.float32), rows=rows).values.square().sum()
    monkeypatch.setattr(module, "SAMPLE", 240)
    assert some > 0.93 * inputs_of(features.astype(np.float32), rows=rows).values.square().sum()


def test_each_network_has_its_own_coordinates_where_one_predicts_a_new_library(few_coordinates):
    """How a library that is held out differs in its looks is not known to the network that is to predict it."""
    features, library = features_of(width=90), np.repeat([0, 1], [50, 10])
    found = [inputs_of(values, rows=MANY, library=library) for values in (features, other_from(features, 50))]
    first = [inputs.of(0, torch.arange(50)) for inputs in found]
    assert torch.equal(*first)  # the first network trains on the first 50
    assert not torch.equal(*(inputs.of(1, torch.arange(50)) for inputs in found))
    shared = [inputs_of(values, rows=MANY) for values in (features, other_from(features, 50))]
    assert not torch.equal(*(inputs.of(0, torch.arange(50)) for inputs in shared))


def other_from(features, start):
    """The features, but other ones from a spot on."""
    return np.concatenate([features[:start], 5 + 3 * features[start:]])


def test_first_layer_of_shared_coordinates_is_that_of_features(few_coordinates):
    features = features_of(width=90)
    coordinates = inputs_of(features, rows=MANY)
    weight = torch.randn(2, 20, 5, generator=torch.Generator().manual_seed(0))
    bias, rows = torch.ones(2, 1, 5), torch.arange(SPOTS)
    z = torch.from_numpy(standardise(features, np.arange(SPOTS)))
    found = coordinates.product(rows.expand(2, -1), weight, bias, 0.0, torch.Generator())
    torch.testing.assert_close(found, z @ coordinates.to_features(weight) + 1, atol=2e-3, rtol=1e-3)
