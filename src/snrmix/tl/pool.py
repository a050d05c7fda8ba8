from __future__ import annotations

from collections.abc import Callable

import numpy as np
from anndata import AnnData

from snrmix._checks import whole_number
from snrmix._globals import settled
from snrmix.data.results import Result
from snrmix.engine.pooling import Pooled, pool_both, pool_missing, pool_replaced
from snrmix.tl.draws import DrawSource

REPLACEMENTS = 2  # draws of replaced values for each draw of the missing ones


@settled()
def pool(
    data,
    function: Callable,
    n_draws: int = 20,
    *,
    key: str = "snrmix",
    kind: str = "observed",
    random_state: int = 0,
    table_key: str | None = None,
) -> Pooled:
    """Estimate something from every draw, and make one estimate of them that knows how uncertain the values are.

    With ``fill="unmeasured"`` the estimates are pooled by Rubin's rules: their variance is the mean of what each draw
    states, and what draws differ by, times ``1 + 1 / n_draws``. With ``fill="all"`` the draws also replace what was
    observed; draws come in pairs then, which share the values of unmeasured spots, and only what these differ by counts
    as ignorance (Reiter 2004).

    Parameters
    ----------
    data
        The object that `snrmix.tl.impute` was called on.
    function
        Takes an AnnData with a draw as ``X`` and the obs, var, obsm, obsp and uns of the table, without the genes that
        ``genes=`` left out; it may write into it. Returns an estimate, a number or an array, and its sampling variance of
        the same shape; and, if it likes, degrees of freedom as a third.
    n_draws
        From 2 up; from 4 up with ``fill="all"``, and rounded down to an even number.
    key
        ``key_added`` of that call.
    kind, random_state
        As in `snrmix.tl.draws`.
    table_key
        Table of the SpatialData.

    Returns
    -------
    snrmix.engine.pooling.Pooled
        With fields ``estimate``, ``variance``, ``within``, ``between``, ``df`` and ``n_draws``, and methods ``score``,
        ``p_value`` and ``interval``.

    Raises
    ------
    KeyError
        When there is no such result, or it was made by a version that left nothing to draw from.
    ValueError
        For fewer draws, or a function that returns something else.

    Examples
    --------
    Variance of a gene, with the large-sample variance of that estimate:

    >>> def spread(draw):
    ...     x = draw[:, "COL1A1"].X
    ...     return x.var(), ((x - x.mean()) ** 2).var() / len(x)
    >>> low, high = snrmix.tl.pool(adata, spread).interval(0.95)
    """
    result = Result.find(data, key, table_key)
    return pool_result(result, lambda values: function(as_table(result.table, values)), n_draws, kind, random_state)


def pool_result(
    result: Result, function: Callable, n_draws: int, kind: str = "observed", random_state: int = 0
) -> Pooled:
    """Like `pool`, of a function of the values, float32, (n_obs, n_vars).

    Raises
    ------
    ValueError
        For too few draws, or a function that returns something else than `pool` says.
    """
    n_draws = whole_number("n_draws", n_draws)
    source = DrawSource(result, kind, random_state)
    fewest = 2 * REPLACEMENTS if source.replaces and source.fills else 2
    if n_draws < fewest:
        reason = "" if fewest == 2 else ", with fill='all' and spots without a measurement"
        raise ValueError(
            f"n_draws={n_draws}: what is not known shows in how draws differ, so that pooling takes {fewest} or more{reason}; "
            "20 is a good number."
        )
    if not (source.replaces and source.fills):
        found = [_estimate(function, source.draw(i)) for i in range(n_draws)]
        rule, shape = pool_replaced if source.replaces else pool_missing, (n_draws,)
    else:
        shape = n_draws // REPLACEMENTS, REPLACEMENTS
        found = [_estimate(function, source.draw(i, j)) for i in range(shape[0]) for j in range(REPLACEMENTS)]
        rule = pool_both
    estimates, variances, df = (np.array([one[part] for one in found]) for part in range(3))
    return rule(*(each.reshape(*shape, *each.shape[1:]) for each in (estimates, variances)), df.mean(0))


def as_table(table: AnnData, values: np.ndarray) -> AnnData:
    """The table with values as ``X`` and without the genes that have none; changes of it do not reach the table."""
    known = ~np.isnan(values[0])
    drawn = AnnData(
        values[:, known],
        obs=table.obs.copy(),
        var=table.var[known].copy(),
        obsm=dict(table.obsm),
        obsp=dict(table.obsp),
    )
    drawn.uns.update(table.uns)
    return drawn


def _estimate(function: Callable, values) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimate, variance and degrees of freedom of one draw."""
    found = function(values)
    if not isinstance(found, tuple) or len(found) not in (2, 3):
        raise ValueError(
            f"function must return an estimate and its variance, and perhaps degrees of freedom, not {type(found).__name__}."
        )
    estimate, variance, df = (np.asarray(each, float) for each in (*found, np.inf)[:3])
    if estimate.shape != variance.shape:
        raise ValueError(
            f"function returned an estimate of shape {estimate.shape} and a variance of shape {variance.shape}; they must "
            "have the same."
        )
    return estimate, variance, np.broadcast_to(df, estimate.shape)
