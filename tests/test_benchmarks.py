"""Programs that measure: their splits and tables, and other methods on a small simulated section."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.spatial import cKDTree

from snrmix._log import logger

FAST = [
    "ridge",
    "ExtraTrees (scikit-learn)",
    "Gaussian process (scikit-learn)",
    "10 nearest in space",
    "10 nearest in looks",
]


@pytest.fixture
def programs(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    level = logger.level
    import few_spots
    import peers
    import simulations

    yield peers, few_spots, simulations
    logger.setLevel(level)  # the programs are silent


def test_peers_predict_the_same_hidden_spots(programs):
    peers, _, simulations = programs
    adata = simulations.section(0, side=14, genes=8, depth=20000)
    kept = np.random.default_rng(0).random(adata.n_obs) < 0.6
    found = peers.compare(adata, kept, 33, {"use_rep": "features"}, FAST)
    ratio = {row["method"]: row["ratio"] for row in found}
    assert list(ratio) == FAST and not any(row["reason"] for row in found)
    # Genes follow looks, which are told to some, and smooth fields, which are told to the others.
    assert 0.5 < min(ratio.values()) and max(ratio.values()) < 0.92


def test_what_is_not_installed_is_named_in_the_table(programs, monkeypatch):
    peers, _, simulations = programs
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    adata = simulations.section(0, side=12, genes=3)
    found = peers.compare(adata, np.arange(144) % 2 == 0, 10, {"use_rep": "features"}, ["ridge", "LightGBM"])
    rows = pd.DataFrame(found).assign(section="A", seed=0)
    table = peers.by_section(pd.concat([rows, rows[:1].assign(section="B")])).set_index("method")
    assert "lightgbm" in table.loc["LightGBM", "A"] and table.loc["LightGBM", "B"] == "not run"
    assert table.loc["ridge", "A"].startswith(f"{rows['ratio'][0]:.3f} (")


def test_few_spots_lie_where_the_design_says(programs):
    _, few_spots, simulations = programs
    places = simulations.grid(20)
    kept = {name: places[few_spots.choose(places, 40, name, 0)] for name in few_spots.DESIGNS}
    assert [len(some) for some in kept.values()] == [40] * 3
    alone = {name: (cKDTree(some).query(some, 4)[0][:, -1]).mean() for name, some in kept.items()}
    assert alone["patches"] < 1.7 < alone["half"] < alone["random"]
    middle = np.abs(kept["half"].mean(0) - 9.5).max()
    assert middle > 3 and few_spots.count_of("10%", 180) == 20 and few_spots.count_of("20%", 400) == 80


def test_the_stack_is_compared_with_the_best_member(programs):
    few_spots = programs[1]
    table = pd.DataFrame({"section": "A", "measured": "40", "design": "half", "spots": 40, "seed": [0, 1]})
    table = table.assign(stack=[0.80, 0.84], network=[0.9, 0.9], kriging=[0.81, 0.81])
    (row,) = few_spots.against_best(table).to_dict("records")
    assert row["best"] == "kriging" and row["stack less best"] == "+0.010 ± 0.020" and row["worse"] == "no"
    (row,) = few_spots.against_best(table.assign(stack=[0.83, 0.84])).to_dict("records")
    assert row["worse"] == "yes"
