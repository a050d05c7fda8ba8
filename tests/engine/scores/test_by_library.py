import numpy as np
import pytest

from snrmix.engine.scores.by_library import score_methods
from snrmix.engine.scores.metrics import pearson


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    observed = np.round(rng.gamma(1, size=(120, 9)), 1).astype(np.float32)
    predicted = (0.5 * observed + rng.normal(size=(120, 9))).astype(np.float32)
    observed[:, 7], predicted[:, 8] = 1.5, 0.1
    return observed, predicted


def test_score_table_takes_ratios_of_sums(pairs):
    observed, predicted = pairs
    mean = np.broadcast_to(observed.mean(0), observed.shape)
    rows = np.arange(0, 120, 3)
    methods = {"snrmix": predicted, "mean": mean}
    table, by_gene = score_methods(observed, methods, lambda *at: dict.fromkeys(methods, mean[at]), rows)
    squared = [((values - observed)[rows] ** 2).mean() for values in (predicted, mean)]
    np.testing.assert_allclose(table["mse"], squared, rtol=1e-5)
    np.testing.assert_allclose(table["mse_ratio"], [squared[0] / squared[1], 1], rtol=1e-5)
    np.testing.assert_allclose(table["pearson"], [pearson(observed[rows], predicted[rows]).mean(), 0], rtol=1e-6)
    assert list(table.index) == ["snrmix", "mean"] and table.index.name == "method"
    np.testing.assert_allclose(by_gene["snrmix"]["mse"], ((predicted - observed)[rows] ** 2).mean(0), rtol=1e-5)
