import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import snrmix


@pytest.fixture(scope="module")
def result(embedded, fast):
    """Three methods on two random halves."""
    return snrmix.tl.benchmark(embedded, ["mean", "ridge", "snrmix"], splits=2, **fast)


def test_benchmark_figure_draws_every_difference(result, tmp_path, monkeypatch, texts):
    ax = snrmix.pl.benchmark(result, save=tmp_path / "figure.png")
    summary = result.attrs["summary"].drop("snrmix")
    assert [label.get_text() for label in ax.get_yticklabels()] == list(result.attrs["summary"].index)
    assert "better" in texts(ax) and "worse" in texts(ax)
    np.testing.assert_allclose(ax.collections[-1].get_offsets()[:, 0], summary["difference"])
    assert len(ax.collections[-3].get_offsets()) == 2 * len(summary)
    assert "95 % interval over 2 splits" in texts(ax) and (tmp_path / "figure.png").stat().st_size > 5000
    single = result[result["split"] == "random 0.5, seed 0"]
    assert "less that of ridge, as a share of the mean's (mean and 95 % interval over genes)" in texts(
        snrmix.pl.benchmark(single, reference="ridge")
    )
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    assert snrmix.pl.benchmark(result, show=True) is None and shown


def test_benchmark_figure_names_what_is_wrong(result, embedded):
    with pytest.raises(TypeError, match="what snrmix.tl.benchmark returns, not AnnData"):
        snrmix.pl.benchmark(embedded)
    with pytest.raises(KeyError, match="reference='best' is not a method"):
        snrmix.pl.benchmark(result, reference="best")
    with pytest.raises(KeyError, match="lacks columns"):
        snrmix.pl.benchmark(result[["split", "method"]])


def test_a_method_that_is_far_worse_stretches_nothing(texts):
    errors = {"snrmix": 0.7, "kriging": 0.71, "ridge": 0.75, "mean": 1.0}
    rows = [
        {"split": split, "method": method, "gene": "g", "mse": mse + 0.01 * split, "mse_mean": 1.0, "pearson": 0.5}
        for split in (0, 1)
        for method, mse in errors.items()
    ]
    ax = snrmix.pl.benchmark(pd.DataFrame(rows))
    assert ax.get_xlim()[1] < 0.2 and "+0.300" in texts(ax) and "1.005" in texts(ax)
