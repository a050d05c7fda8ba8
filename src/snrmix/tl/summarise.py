"""Rows of a benchmark put together: errors as a share of the mean's, with their standard errors."""

from __future__ import annotations

import numpy as np
import pandas as pd

from snrmix._globals import settled
from snrmix._names import closest, listing

OURS = "snrmix"
CONFIDENCE = 0.95
RESAMPLES = 2000


@settled()
def summarise(result: pd.DataFrame, reference: str | None = None) -> pd.DataFrame:
    """Put the rows of `snrmix.tl.benchmark` together: one row per method.

    Parameters
    ----------
    result
        Of `snrmix.tl.benchmark`, or a part of it.
    reference
        The method that others are compared with; ``None``: ``"snrmix"``, or without it the one of lowest error.

    Returns
    -------
    pandas.DataFrame
        One row per method, the best first.

        ``mse_ratio``
            Squared error as a share of the mean's: a ratio of sums over genes, averaged over splits.
        ``pearson``
            Mean over genes and splits.
        ``difference``
            ``mse_ratio`` less that of the reference on the same split, averaged over splits: above 0, the reference is
            better.
        ``standard_error``, ``low``, ``high``
            Of ``difference``; ``low`` to ``high`` is its 95 % confidence interval by Student's t over splits, which
            treats splits as independent although they share spots. With a single split both come from resampling genes,
            and say nothing about other splits.

        ``attrs["reference"]`` names the reference, ``attrs["n_splits"]`` the number of splits.

    Raises
    ------
    KeyError, ValueError
        When columns are missing, a method was not run on every split, or there is no such reference.

    Examples
    --------
    >>> result = snrmix.tl.benchmark(adata, ["mean", "ridge", "kriging"], splits=2)
    >>> table = snrmix.tl.summarise(result, reference="kriging")
    """
    columns = ("split", "method", "gene", "mse", "mse_mean", "pearson")
    missing = [name for name in columns if name not in result]
    if missing:
        raise KeyError(f"result lacks columns {listing(missing)}; pass what snrmix.tl.benchmark returned.")
    if not len(result):
        raise ValueError("result has no rows; pass what snrmix.tl.benchmark returned.")
    by_split = result.groupby(["split", "method"], observed=True, sort=False)
    sums = by_split[["mse", "mse_mean"]].sum()
    ratio = (sums["mse"] / sums["mse_mean"]).unstack("split")
    if ratio.isna().to_numpy().any():
        raise ValueError("not every method was run on every split; differences would not be paired.")
    if reference is None:
        reference = OURS if OURS in ratio.index else ratio.mean(axis=1).idxmin()
    if reference not in ratio.index:
        raise KeyError(
            f"reference={reference!r} is not a method of this result; it has {listing(ratio.index)}."
            f"{closest(reference, ratio.index)}"
        )
    difference = ratio - ratio.loc[reference]
    spread = _over_splits(difference) if ratio.shape[1] > 1 else _over_genes(result, reference)
    pearson = by_split["pearson"].mean().unstack("split").mean(axis=1)
    summary = pd.DataFrame({"mse_ratio": ratio.mean(axis=1), "pearson": pearson, "difference": difference.mean(axis=1)})
    summary = summary.join(spread).sort_values("mse_ratio", kind="stable")
    summary.index = pd.Index(summary.index.astype(str), name="method")
    summary.attrs = {"reference": str(reference), "n_splits": ratio.shape[1]}
    return summary


class _Summary(pd.DataFrame):
    """A table that is equal to another or not, in one answer: pandas compares ``attrs`` whenever it joins tables."""

    def __eq__(self, other):
        return isinstance(other, pd.DataFrame) and self.equals(other)

    def __deepcopy__(self, memo=None):
        return _Summary(self.copy())


def _over_splits(difference: pd.DataFrame) -> pd.DataFrame:
    """Standard error and confidence interval of the mean over columns."""
    from scipy.stats import t

    n = difference.shape[1]
    error = difference.std(axis=1, ddof=1) / np.sqrt(n)
    reach = t.ppf((1 + CONFIDENCE) / 2, n - 1) * error
    mean = difference.mean(axis=1)
    return pd.DataFrame({"standard_error": error, "low": mean - reach, "high": mean + reach})


def _over_genes(result: pd.DataFrame, reference: str) -> pd.DataFrame:
    """The same for a single split, by resampling genes together for all methods."""
    mse = result.pivot_table(index="method", columns="gene", values="mse", observed=True, sort=False)
    mean = result.groupby("gene", observed=True)["mse_mean"].first()[mse.columns].to_numpy()
    n = mse.shape[1]
    count = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    difference = (mse.to_numpy() - mse.loc[reference].to_numpy()) @ count.T / (count @ mean)
    low, high = np.quantile(difference, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=1)
    return pd.DataFrame({"standard_error": difference.std(axis=1), "low": low, "high": high}, index=mse.index)
