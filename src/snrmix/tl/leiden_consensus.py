from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd

from snrmix._checks import key_name, positive, whole_number
from snrmix._globals import settled
from snrmix.data.results import Result
from snrmix.engine.consensus import consensus
from snrmix.tl.draws import DrawSource
from snrmix.tl.pool import as_table


@settled()
def leiden_consensus(
    data,
    *,
    resolution: float = 1.0,
    n_pcs: int = 15,
    n_neighbors: int = 15,
    function: Callable | None = None,
    key_added: str = "leiden_consensus",
    n_draws: int = 20,
    key: str = "snrmix",
    random_state: int = 0,
    table_key: str | None = None,
) -> None:
    """Clusters of spots that do not depend on what is not known of their expression, and how stable each spot is.

    Every draw (`snrmix.tl.draws`) is clustered, by principal components, nearest neighbours and Leiden's method as in
    scanpy; the clusterings then vote. A spot that goes with one cluster in some draws and with another in others lies on
    a border, or its expression is not known well enough.

    Parameters
    ----------
    data
        The object that `snrmix.tl.impute` was called on.
    resolution, n_pcs, n_neighbors
        Of ``scanpy.tl.leiden``, ``scanpy.pp.pca`` and ``scanpy.pp.neighbors``.
    function
        Another clustering: takes an AnnData as `snrmix.tl.pool` describes it, and returns a label per spot.
    key_added
        Name of the columns.
    n_draws, key, random_state
        As in `snrmix.tl.draws`; ``n_draws`` from 2 up.
    table_key
        Table of the SpatialData.

    Returns
    -------
    ``None``. Sets ``obs[key_added]``, categories "0", "1", ... from the largest cluster on, and
    ``obs[key_added + "_stability"]``, the share of draws that agree with it.

    Raises
    ------
    ImportError
        Without ``igraph`` and without a ``function``.
    KeyError, ValueError
        When there is no such result, an argument is out of range, or ``function`` returns no label per spot.

    Examples
    --------
    >>> snrmix.tl.impute(adata, measured="measured")
    >>> snrmix.tl.leiden_consensus(adata, resolution=0.8)
    >>> stable = adata.obs["leiden_consensus_stability"] > 0.8
    """
    result = Result.find(data, key, table_key)
    n_draws = whole_number("n_draws", n_draws, 2)
    key_name("key_added", key_added)
    positive("resolution", resolution)
    whole_number("n_pcs", n_pcs)
    whole_number("n_neighbors", n_neighbors, 2)
    if function is None:
        _need_igraph()

        def function(drawn):
            return _leiden(drawn, resolution, n_pcs, n_neighbors)

    source, labels = DrawSource(result, random_state=random_state), []
    for number in range(n_draws):
        found = np.asarray(function(as_table(result.table, source.draw(number))))
        if found.shape != (result.table.n_obs,):
            raise ValueError(
                f"function must return a label per spot, of shape ({result.table.n_obs},), not {found.shape}."
            )
        labels.append(np.unique(found.astype(str), return_inverse=True)[1])
    cluster, stability = consensus(np.array(labels))
    names = [str(number) for number in range(cluster.max() + 1)]
    result.table.obs[key_added] = pd.Categorical.from_codes(cluster, names)
    result.table.obs[f"{key_added}_stability"] = stability


def _need_igraph() -> None:
    try:
        import igraph  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Leiden clustering needs igraph: pip install igraph; or pass function=, a clustering of your own."
        ) from error


def _leiden(drawn, resolution: float, n_pcs: int, n_neighbors: int) -> np.ndarray:
    """Clusters as scanpy makes them."""
    import scanpy as sc

    drawn.obsm.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.pp.pca(drawn, n_comps=min(n_pcs, min(drawn.shape) - 1), random_state=0, mask_var=None)
        sc.pp.neighbors(drawn, n_neighbors=min(n_neighbors, drawn.n_obs - 1), random_state=0)
        sc.tl.leiden(drawn, resolution=resolution, flavor="igraph", n_iterations=2, directed=False, random_state=0)
    return drawn.obs["leiden"].to_numpy()
