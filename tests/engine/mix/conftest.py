"""A small section of two slides, and what strategies know of it."""

import numpy as np
import pytest

from snrmix.engine.folds import Fold
from snrmix.engine.network.partners import partner_table
from snrmix.engine.network.targets import make_targets
from snrmix.plan.graph import spatial_neighbours


@pytest.fixture(scope="module")
def slides():
    """Two libraries of 30 and 24 spots, expression in two groups of spots, and a fold that holds out every fifth."""
    rng = np.random.default_rng(3)
    library = np.repeat([0, 1], [30, 24])
    positions = rng.uniform(0, 5, (54, 2))
    expression = (rng.normal(size=(54, 6)) + 2 * (np.arange(54) % 2)[:, None]).astype(np.float32)
    held_out = np.arange(0, 54, 5)
    fold = Fold(np.setdiff1d(np.arange(54), held_out), held_out)

    def neighbours(train, k, values=None):
        return spatial_neighbours(positions[train] if values is None else values, library[train], k)

    return positions, library, expression, fold, neighbours


@pytest.fixture(scope="module")
def table_for(slides):
    """The table of one network for a strategy."""
    _, library, expression, fold, neighbours = slides

    def make(mixing):
        return partner_table([make_targets(expression, fold.train)], [fold], neighbours, mixing, 0, library)

    return make
