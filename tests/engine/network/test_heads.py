import pytest

from snrmix.engine.network.heads import batches
from snrmix.engine.options import Training


@pytest.mark.parametrize("n_train", [1, 10, 31, 33, 100, 700, 2485, 9000])
def test_batches_are_of_equal_size_and_use_nearly_all_spots(n_train):
    size, steps = batches(n_train, Training())
    assert size * steps <= n_train < (size + 1) * steps
    if n_train >= 64:
        assert 24 <= size <= 300
    if 16 * 32 <= n_train <= 16 * 256:
        assert steps == 16
