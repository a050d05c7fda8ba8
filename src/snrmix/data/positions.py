"""Positions of the rows of an AnnData: the two columns that are x and y, whoever stored them."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import pandas as pd
from anndata import AnnData

from snrmix._names import listing

KEY = "spatial"
# Names of x and y that readers of Space Ranger, Seurat, SpatialExperiment, Xenium, MERSCOPE and CosMx give.
NAMED = (
    ("pxl_col_in_fullres", "pxl_row_in_fullres"), ("imagecol", "imagerow"), ("x", "y"), ("spatial_x", "spatial_y"),
    ("x_centroid", "y_centroid"), ("center_x", "center_y"), ("centerx_global_px", "centery_global_px"),
    ("x_global_px", "y_global_px"), ("pixel_x", "pixel_y"), ("x_pixel", "y_pixel"), ("x_coord", "y_coord"),
    ("x_position", "y_position"), ("spatial1", "spatial2"),
)  # fmt: skip


def read_positions(table: AnnData) -> np.ndarray:
    """The x and y of every row in full-resolution pixels, float, shape (n_obs, 2).

    Columns of a DataFrame go by their names, in any order, where these are names of x and y.

    Raises
    ------
    KeyError, ValueError, TypeError
        When there are none, or not two columns of numbers; the message has the line that makes them, where there is one.
    """
    if KEY not in table.obsm:
        raise KeyError(
            f"obsm['spatial'] (x, y in full-resolution pixels) is missing; obsm has: {listing(table.obsm)}. {_line(table)}"
        )
    found = table.obsm[KEY]
    if isinstance(found, pd.DataFrame):
        pair = named_pair(found.columns)
        found = found if pair is None else found[list(pair)]
    found = found.toarray() if hasattr(found, "toarray") else found
    try:
        positions = np.asarray(found, dtype=float)
    except (TypeError, ValueError) as error:
        raise TypeError("obsm['spatial'] must hold numbers: x and y in full-resolution pixels.") from error
    if positions.ndim != 2 or positions.shape[1] != 2:
        more = positions.ndim == 2 and positions.shape[1] > 2
        raise ValueError(
            f"obsm['spatial'] has shape {positions.shape}; expected ({table.n_obs}, 2): x and y."
            + (" Keep these: adata.obsm['spatial'] = np.asarray(adata.obsm['spatial'])[:, :2]." if more else "")
        )
    return positions


def named_pair(columns) -> tuple[Hashable, Hashable] | None:
    """The columns that are called x and y, in this order; ``None`` where none are, or several."""
    known = {str(name).casefold(): name for name in columns}
    pairs = [(known[x], known[y]) for x, y in NAMED if x in known and y in known]
    return pairs[0] if len(pairs) == 1 else None


def _line(table: AnnData) -> str:
    """Where the positions may be meant to be, and the line that brings them to ``obsm["spatial"]``."""
    uns = table.uns.get(KEY)
    if np.ndim(uns) == 2 and np.shape(uns) == (table.n_obs, 2):
        return "uns['spatial'] looks like them: adata.obsm['spatial'] = adata.uns.pop('spatial')."
    likely = [key for key in table.obsm if "spatial" in str(key).casefold() and np.shape(table.obsm[key])[1] == 2]
    if likely:
        return f"If {likely[0]!r} has them: adata.obsm['spatial'] = adata.obsm[{likely[0]!r}]."
    pair = named_pair(table.obs.columns)
    if pair is not None:
        return f"obs seems to have them: adata.obsm['spatial'] = adata.obs[{list(pair)!r}].to_numpy(float)."
    return "Store the coordinates there first."
