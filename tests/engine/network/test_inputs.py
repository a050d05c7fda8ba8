import numpy as np
import pytest
import torch

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


def inputs_of(features, seed=0):
    train = torch.from_numpy(np.stack(ROWS))
    return make_inputs(features, [standard_scale(features, rows) for rows in ROWS], train, seed)


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
    train = torch.from_numpy(np.stack([ROWS[0], np.r_[ROWS[1][:10], ROWS[1][:10], ROWS[1][:10]]]))
    coordinates = make_inputs(features, [standard_scale(features, rows) for rows in ROWS], train, 0)
    assert torch.isfinite(coordinates.values).all()
    z = standardise(features, ROWS[1])[train[1]]
    found = coordinates.of(1, train[1]).numpy()
    np.testing.assert_allclose(found @ found.T, z @ z.T, atol=1e-4 * (z @ z.T).max())


def test_seed_decides():
    first, again, other = (pair(seed)[0].values for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
