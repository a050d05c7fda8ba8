"""Positions of the rows of an AnnData: the two columns that are x and y, whoever stored them."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import pandas as pd
from anndata import AnnData

from snrmix._log import logger
from snrmix._names import listing
from snrmix.data.flags import may_be_on_tissue

KEY = "spatial"
SHOWN = 20  # names in a line of code
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


def which_matter(obs: pd.DataFrame, positions: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Sites of one library that have to lie on image and tissue, and that predictions are for, shape (n,), bool.

    These are the measured ones, and others unless ``in_tissue`` says that they are off the tissue, or they failed and were
    put at one place. A few of those, far away, would else decide how every gene is scored.
    """
    on_tissue = may_be_on_tissue(obs)
    others = np.flatnonzero(~measured if on_tissue is None else ~measured & on_tissue)
    _, place, count = np.unique(positions[others], axis=0, return_inverse=True, return_counts=True)
    matter = measured.copy()
    matter[others[count[place.ravel()] == 1]] = True
    return matter


def warn_of_repeats(names: np.ndarray, positions: np.ndarray, labels: np.ndarray) -> None:
    """Name rows of one library that lie at exactly the same place, as failed spots do that were put somewhere.

    Parameters
    ----------
    names, positions, labels
        Of measured rows, shape (n,), (n, 2) and (n,).
    """
    frame = pd.DataFrame({"x": positions[:, 0], "y": positions[:, 1], "library": labels})
    repeated = frame.duplicated(keep=False).to_numpy()
    if not repeated.any():
        return
    found = [str(name) for name in names[repeated]]
    line = (
        f"adata[~adata.obs_names.isin({found})].copy()"
        if len(found) <= SHOWN
        else "adata[~pd.DataFrame(np.asarray(adata.obsm['spatial'])).duplicated(keep=False).to_numpy()].copy()"
    )
    logger.warning(
        "%d measured spots share their place with another one (%s): the image says the same of them, though their expression "
        "differs. Where they were put there for want of a position, drop them with adata = %s, or mark them as unmeasured.",
        len(found), listing(found, 3), line,
    )  # fmt: skip


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
