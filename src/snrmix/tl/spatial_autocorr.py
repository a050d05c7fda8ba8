from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from snrmix._checks import choice, flag, key_name
from snrmix._globals import settled
from snrmix._names import closest, listing
from snrmix.data.flags import read_flags
from snrmix.data.results import Result
from snrmix.tl.pool import as_table, pool_result

MODES = {"moran": ("I", "moranI"), "geary": ("C", "gearyC")}


@settled()
def spatial_autocorr(
    data,
    *,
    mode: str = "moran",
    genes: str | Sequence[str] | None = None,
    connectivity_key: str = "spatial_connectivities",
    transformation: bool = True,
    two_tailed: bool = False,
    corr_method: str | None = "fdr_bh",
    key_added: str | None = None,
    n_draws: int = 20,
    key: str = "snrmix",
    random_state: int = 0,
    table_key: str | None = None,
) -> None:
    """Spatially variable genes, by Moran's I or Geary's C of draws instead of the layer.

    Predictions of neighbouring spots agree because they rest on the same measured spots, so that on the layer itself nearly
    every gene is spatially variable. Here ``squidpy.gr.spatial_autocorr`` works on each of several draws
    (`snrmix.tl.draws`), and what it finds is pooled (`snrmix.tl.pool`).

    Parameters
    ----------
    data
        The object that `snrmix.tl.impute` was called on, with a spatial graph of squidpy.
    mode
        ``"moran"`` or ``"geary"``.
    genes
        Names; ``None`` for ``var["highly_variable"]`` where it exists, or all.
    connectivity_key
        Where in ``obsp`` the graph is.
    transformation, two_tailed, corr_method
        As in ``squidpy.gr.spatial_autocorr``; with one tail the p value is always that of more pattern than none, where
        squidpy takes the side on which the statistic happens to lie. ``corr_method`` is ``"fdr_bh"``, ``"bonferroni"`` or ``None``.
    key_added
        Where in ``uns`` the result goes: ``"moranI"`` or ``"gearyC"``, where squidpy puts it.
    n_draws, key, random_state
        As in `snrmix.tl.pool`.
    table_key
        Table of the SpatialData.

    Returns
    -------
    ``None``. Sets ``uns["moranI"]``, a DataFrame by gene as squidpy makes it: ``I`` (or ``C``), ``pval_norm``, ``var_norm``,
    which holds the pooled variance, and the corrected p value; and ``df``, the degrees of freedom of the test.

    Raises
    ------
    KeyError
        When there is no such result, graph or gene.
    ValueError
        When an argument is out of range, or ``n_draws`` is too small.

    Examples
    --------
    >>> snrmix.tl.impute(adata, measured="measured")
    >>> sq.gr.spatial_neighbors_knn(adata)
    >>> snrmix.tl.spatial_autocorr(adata)
    >>> most_variable = adata.uns["moranI"].head()
    """
    import squidpy as sq
    from scipy.stats import false_discovery_control

    result = Result.find(data, key, table_key)
    statistic, usual = MODES[choice("mode", mode, MODES)]
    flag("transformation", transformation)
    flag("two_tailed", two_tailed)
    key_added = usual if key_added is None else key_name("key_added", key_added)
    if corr_method is not None:
        choice("corr_method", corr_method, ("fdr_bh", "bonferroni"))
    if connectivity_key not in result.table.obsp:
        raise KeyError(
            f"connectivity_key={connectivity_key!r}: obsp has no such graph; make one with squidpy first, such as "
            f"squidpy.gr.spatial_neighbors_knn(adata). obsp has: {listing(result.table.obsp)}."
        )
    tested = _tested_genes(result, genes)

    def of_draw(values: np.ndarray):
        found = sq.gr.spatial_autocorr(
            as_table(result.table, values), connectivity_key, genes=tested, mode=mode, transformation=transformation,
            corr_method=None, copy=True, n_jobs=1, show_progress_bar=False,
        ).loc[tested]  # fmt: skip
        return found[statistic].to_numpy(), found["var_norm"].to_numpy()

    with _quiet():
        pooled = pool_result(result, of_draw, n_draws, random_state=random_state)
    null, side = (-1 / (result.table.n_obs - 1), "greater") if mode == "moran" else (1.0, "less")
    p = pooled.p_value(null, "both" if two_tailed else side)
    found = pd.DataFrame(
        {statistic: pooled.estimate, "pval_norm": p, "var_norm": pooled.variance, "df": pooled.df}, index=tested
    )
    if corr_method is not None:
        filled = np.nan_to_num(p, nan=1.0)
        corrected = false_discovery_control(filled) if corr_method == "fdr_bh" else np.minimum(filled * len(p), 1)
        found[f"pval_norm_{corr_method}"] = corrected
    result.table.uns[key_added] = found.sort_values(statistic, ascending=mode == "geary", kind="stable")


def _tested_genes(result: Result, genes) -> list[str]:
    """Names of the genes to test, all of them in the layer."""
    table = result.table
    inside = ~np.isnan(result.layer[0])
    if genes is None:
        marks = table.var.get("highly_variable")
        chosen = inside if marks is None else inside & read_flags(marks, "var['highly_variable']").yes
        return list(table.var_names[chosen])
    genes = [genes] if isinstance(genes, str) else list(genes)
    for name in genes:
        if name not in table.var_names:
            raise KeyError(f"genes: {name!r} is not in var_names.{closest(str(name), table.var_names)}")
    if left := [name for name in genes if not inside[table.var_names.get_loc(name)]]:
        raise KeyError(f"genes: {listing(left)} was left out by genes= of the imputation.")
    return genes


class _quiet:
    """Nothing is printed by the other package."""

    def __enter__(self):
        from scanpy import settings

        self.settings, self.level = settings, settings.verbosity
        settings.verbosity = "error"

    def __exit__(self, *error):
        self.settings.verbosity = self.level
