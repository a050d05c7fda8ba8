from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from snrmix._checks import choice, flag, key_name, whole_number
from snrmix._globals import settled
from snrmix._names import closest, listing
from snrmix.data.results import Result
from snrmix.engine.contrasts import rank_sum, welch
from snrmix.engine.pooling import Pooled
from snrmix.tl.pool import pool_result

METHODS = ("t-test", "t-test_overestim_var", "wilcoxon")
CORRECTIONS = ("benjamini-hochberg", "bonferroni")


@settled()
def rank_genes_groups(
    data,
    groupby: str,
    *,
    groups: str | Sequence[str] = "all",
    reference: str = "rest",
    n_genes: int | None = None,
    rankby_abs: bool = False,
    method: str = "t-test",
    corr_method: str = "benjamini-hochberg",
    key_added: str = "rank_genes_groups",
    n_draws: int = 20,
    key: str = "snrmix",
    random_state: int = 0,
    table_key: str | None = None,
) -> None:
    """Genes that differ between groups of spots, tested on draws instead of the layer.

    A layer of predictions varies less than data and its spots borrow from each other, so that a test on it finds
    differences in genes that have none. Here each of several draws is tested (`snrmix.tl.draws`), and differences and their
    variances are pooled (`snrmix.tl.pool`). The result stands where scanpy looks for it:
    ``scanpy.get.rank_genes_groups_df`` and the ``scanpy.pl.rank_genes_groups`` family take it.

    Groups must not have been found on the very genes and spots that are tested: clusters of any data differ in the genes
    that made them, be these data observed, imputed or drawn.

    Parameters
    ----------
    data
        The object that `snrmix.tl.impute` was called on.
    groupby
        obs column with the groups. Spots without a group are left out.
    groups, reference, n_genes, rankby_abs, corr_method
        As in ``scanpy.tl.rank_genes_groups``.
    method
        ``"t-test"`` (Welch), ``"t-test_overestim_var"``, or ``"wilcoxon"``, which pools how often a spot of the group is
        above another one.
    key_added
        Where in ``uns`` the result goes.
    n_draws, key, random_state
        As in `snrmix.tl.pool`.
    table_key
        Table of the SpatialData.

    Returns
    -------
    ``None``. Sets ``uns[key_added]`` with ``names``, ``scores`` (difference over its standard error), ``pvals``,
    ``pvals_adj``, ``logfoldchanges`` (of the means over draws, base 2, for log1p values) and ``params``. Genes left out by
    ``genes=`` are not in it.

    Raises
    ------
    KeyError
        When there is no such result, column or group.
    ValueError
        When there is one group only, a group has fewer than two spots or none that was measured, or ``n_draws`` is too
        small.

    Examples
    --------
    >>> snrmix.tl.impute(adata, measured="measured")
    >>> snrmix.tl.rank_genes_groups(adata, "region")
    >>> table = sc.get.rank_genes_groups_df(adata, "tumour")
    """
    result = Result.find(data, key, table_key)
    choice("method", method, METHODS)
    choice("corr_method", corr_method, CORRECTIONS)
    flag("rankby_abs", rankby_abs)
    key_name("key_added", key_added)
    if n_genes is not None:
        whole_number("n_genes", n_genes)
    rows = _group_rows(result, groupby)
    tested = _tested(rows, groups, reference)
    known = np.flatnonzero(~np.isnan(result.layer[0]))
    means: dict[str, np.ndarray] = {}

    def compare(values: np.ndarray):
        values = values[:, known]
        found = []
        for name in tested:
            own, other = rows[name], _others(rows, name, reference)
            for which, some in (("own", own), ("other", other)):
                means[f"{which} {name}"] = means.get(f"{which} {name}", 0) + values[some].mean(0, dtype=np.float64)
            if method == "wilcoxon":
                found.append(rank_sum(values, own, other))
            else:
                found.append(welch(values, own, other, overestimate=method == "t-test_overestim_var"))
        return tuple(np.stack(part) for part in zip(*found, strict=True))

    pooled = pool_result(result, compare, n_draws, random_state=random_state)
    fold = [_log_fold(*(means[f"{which} {name}"] / pooled.n_draws for which in ("own", "other"))) for name in tested]
    names = result.table.var_names.to_numpy(object)[known]
    record = _scanpy_record(tested, names, pooled, np.stack(fold), n_genes, rankby_abs, corr_method)
    params = {
        "groupby": groupby, "reference": reference, "method": method, "use_raw": False, "layer": key,
        "corr_method": corr_method, "n_draws": pooled.n_draws,
    }  # fmt: skip
    result.table.uns[key_added] = {"params": params, **record}


def _group_rows(result: Result, groupby: str) -> dict[str, np.ndarray]:
    """Rows of every group; refuses what cannot be compared."""
    obs = result.table.obs
    if groupby not in obs:
        raise KeyError(f"groupby={groupby!r} is no column of obs; it has: {listing(obs)}.{closest(groupby, obs)}")
    labels = obs[groupby]
    if labels.dtype.kind == "f" and not isinstance(labels.dtype, pd.CategoricalDtype):
        raise ValueError(f"obs[{groupby!r}] holds numbers, not groups; make groups of them first, as with pandas.cut.")
    known = labels.notna().to_numpy()
    order = labels.cat.categories if isinstance(labels.dtype, pd.CategoricalDtype) else np.unique(labels[known])
    text = labels.astype(str).to_numpy()
    rows = {str(name): np.flatnonzero(known & (text == str(name))) for name in order}
    rows = {name: own for name, own in rows.items() if len(own)}
    if len(rows) < 2:
        raise ValueError(f"obs[{groupby!r}] has one group only ({listing(rows)}); there is nothing to compare it with.")
    if few := [name for name, own in rows.items() if len(own) < 2]:
        raise ValueError(f"group {listing(few)} of obs[{groupby!r}] has one spot only; leave it out, or join groups.")
    unseen = [name for name, own in rows.items() if not result.is_measured[own].any()]
    if unseen:
        raise ValueError(
            f"group {listing(unseen)} of obs[{groupby!r}] has no measured spot: what is said of it rests on other groups "
            "alone, and a test would only repeat that. Leave it out (set it to NaN), or join groups."
        )
    return rows


def _tested(rows: dict[str, np.ndarray], groups, reference: str) -> list[str]:
    """Groups to test, without the reference."""
    if reference != "rest" and reference not in rows:
        raise KeyError(f"reference={reference!r} is no group; choose 'rest' or one of {listing(rows)}.")
    wanted = (
        list(rows) if isinstance(groups, str) and groups == "all" else [groups] if isinstance(groups, str) else groups
    )
    wanted = [str(name) for name in wanted]
    if missing := [name for name in wanted if name not in rows]:
        raise KeyError(f"groups={groups!r}: {listing(missing)} is no group; there are {listing(rows)}.")
    if not (wanted := [name for name in wanted if name != reference]):
        raise ValueError(f"groups={groups!r} names only the reference; there is nothing to compare it with.")
    return wanted


def _others(rows: dict[str, np.ndarray], name: str, reference: str) -> np.ndarray:
    if reference != "rest":
        return rows[reference]
    return np.sort(np.concatenate([other for group, other in rows.items() if group != name]))


def _log_fold(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """As scanpy has it: of the means of log values, taken back to the scale of counts."""
    with np.errstate(over="ignore"):
        return np.log2((np.expm1(own) + 1e-9) / (np.expm1(other) + 1e-9))


def _scanpy_record(groups, names, pooled: Pooled, fold, n_genes, by_absolute: bool, correction: str) -> dict:
    """Structured arrays, a field per group, best genes first."""
    from scipy.stats import false_discovery_control

    columns: dict[str, list] = {name: [] for name in ("names", "scores", "pvals", "pvals_adj", "logfoldchanges")}
    scores, p_values = pooled.score(), pooled.p_value()
    for score, p, change in zip(scores, p_values, fold, strict=True):
        adjusted = false_discovery_control(p) if correction == "benjamini-hochberg" else np.minimum(p * len(p), 1)
        best = np.argsort(-np.abs(score) if by_absolute else -score, kind="stable")[:n_genes]
        for column, values in zip(columns, (names, score, p, adjusted, change), strict=True):
            columns[column].append(values[best])
    kinds = {"names": "O", "scores": "f4", "pvals": "f8", "pvals_adj": "f8", "logfoldchanges": "f4"}
    return {
        column: np.rec.fromarrays(values, dtype=[(group, kinds[column]) for group in groups])
        for column, values in columns.items()
    }
