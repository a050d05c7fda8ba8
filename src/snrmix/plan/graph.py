"""The spatial graph, built by squidpy in this one place."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

from snrmix._log import quiet


def spatial_neighbours(positions: np.ndarray, library: np.ndarray, k: int) -> np.ndarray:
    """The ``k`` nearest spots of every spot within its library, itself excluded.

    Parameters
    ----------
    positions
        Shape (n, 2), or (n, d) for neighbours in another space; sites in canonical order, which breaks ties.
    library
        Shape (n,), int codes.
    k
        Neighbours asked for; a library of ``m`` spots gives at most ``m - 1``.

    Returns
    -------
    numpy.ndarray
        int64, shape (n, k): indices of the neighbours, nearest first, padded with -1 in small libraries.
    """
    import squidpy as sq

    neighbours = np.full((len(positions), k), -1, dtype=np.int64)
    for code in np.unique(library):
        rows = np.flatnonzero(library == code)
        reach = min(k, len(rows) - 1)
        if reach < 1:
            continue
        table = AnnData(obs=pd.DataFrame(index=pd.RangeIndex(len(rows)).astype(str)), obsm={"spatial": positions[rows]})
        with quiet("spatialdata._logging"):
            connectivities = sq.gr.spatial_neighbors_knn(table, n_neighs=reach, copy=True)[0]
        columns = connectivities.tocsr().indices.reshape(len(rows), reach)
        distance = np.linalg.norm(positions[rows][columns] - positions[rows][:, None], axis=2)
        order = np.lexsort((columns, distance), axis=1)
        neighbours[rows, :reach] = rows[np.take_along_axis(columns, order, axis=1)]
    return neighbours
