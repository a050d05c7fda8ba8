import numpy as np
import pandas as pd
import pytest

import snrmix


def made_up(ratios: dict[str, list[float]]) -> pd.DataFrame:
    """Two genes; ``ratios`` by method and split."""
    rows = [
        {
            "split": f"s{split}",
            "method": method,
            "gene": gene,
            "mse": weight * ratio,
            "mse_mean": weight,
            "pearson": 0.5,
        }
        for method, values in ratios.items()
        for split, ratio in enumerate(values)
        for gene, weight in (("A", 1.0), ("B", 3.0))
    ]
    return pd.DataFrame(rows)


def test_summary_pairs_differences_over_splits():
    summary = snrmix.tl.summarise(made_up({"mean": [1, 1, 1], "ridge": [0.8, 0.9, 0.7], "snrmix": [0.7, 0.7, 0.7]}))
    assert list(summary.index) == ["snrmix", "ridge", "mean"] and summary.attrs["reference"] == "snrmix"
    np.testing.assert_allclose(summary["mse_ratio"], [0.7, 0.8, 1.0])
    np.testing.assert_allclose(summary["difference"], [0, 0.1, 0.3], atol=1e-12)
    ridge, error = summary.loc["ridge"], 0.1 / np.sqrt(3)
    np.testing.assert_allclose(ridge["standard_error"], error)
    np.testing.assert_allclose(
        [ridge["low"], ridge["high"]], [0.1 - 4.302653 * error, 0.1 + 4.302653 * error], rtol=1e-6
    )
    assert summary.loc["mean", "standard_error"] == pytest.approx(0, abs=1e-12)


def test_summary_is_a_ratio_of_sums_over_genes():
    table = made_up({"mean": [1.0], "snrmix": [0.5]})
    table.loc[(table["method"] == "snrmix") & (table["gene"] == "A"), "mse"] = 1.0
    assert snrmix.tl.summarise(table).loc["snrmix", "mse_ratio"] == pytest.approx((1.0 + 1.5) / 4)


def test_summary_of_one_split_resamples_genes(embedded, fast):
    result = snrmix.tl.benchmark(embedded, ["mean", "ridge", "kriging"], splits=1, **fast)
    summary = snrmix.tl.summarise(result, reference="ridge")
    assert summary.attrs["n_splits"] == 1
    assert (summary.loc["ridge", ["difference", "standard_error", "low", "high"]] == 0).all()
    others = summary.drop("ridge")
    assert (others["low"] < others["difference"]).all() and (others["difference"] < others["high"]).all()
    pd.testing.assert_frame_equal(summary, snrmix.tl.summarise(result, reference="ridge"))


def test_reference_without_ours_is_the_best():
    table = made_up({"mean": [1, 1], "ridge": [0.8, 0.9]})
    assert snrmix.tl.summarise(table).attrs["reference"] == "ridge"
    with pytest.raises(KeyError, match="reference='rigde' is not a method.*Did you mean 'ridge'"):
        snrmix.tl.summarise(table, reference="rigde")


def test_summary_names_what_is_wrong():
    table = made_up({"mean": [1, 1], "ridge": [0.8, 0.9]})
    with pytest.raises(KeyError, match="lacks columns 'pearson'.*snrmix.tl.benchmark"):
        snrmix.tl.summarise(table.drop(columns="pearson"))
    some = table[~((table["method"] == "ridge") & (table["split"] == "s1"))]
    with pytest.raises(ValueError, match="not every method was run on every split"):
        snrmix.tl.summarise(some)
    with pytest.raises(ValueError, match="no rows"):
        snrmix.tl.summarise(table.iloc[:0])
