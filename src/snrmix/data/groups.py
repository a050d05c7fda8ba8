"""Which libraries go together, as the slides of one patient do."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

from snrmix._names import closest, listing
from snrmix.data.sites import Sites


def read_groups(table: AnnData, sites: Sites, group_key: str | None) -> np.ndarray | None:
    """Number of the group of every library, int, shape (libraries,); ``None`` without ``group_key``.

    Raises
    ------
    TypeError, KeyError, ValueError
        When ``group_key`` is no name of an obs column, a library has no group, or has several.
    """
    if group_key is None:
        return None
    if not isinstance(group_key, str):
        raise TypeError(f"group_key={group_key!r} must be the name of an obs column.")
    if group_key not in table.obs:
        raise KeyError(
            f"group_key={group_key!r} is no obs column.{closest(group_key, table.obs.columns)} obs has "
            f"{listing(table.obs.columns)}."
        )
    values, names = table.obs[group_key].to_numpy(object)[sites.order], []
    for code, library in enumerate(sites.libraries):
        found = pd.unique(values[sites.library == code])
        known = found[~pd.isna(found)]
        if len(known) != 1 or len(found) != 1:
            raise ValueError(
                f"obs[{group_key!r}] must have one value for all spots of a library; library {library!r} has "
                + (
                    f"{listing(sorted(map(str, known)))}{' and missing values' if len(found) > len(known) else ''}."
                    if len(known)
                    else "none."
                )
            )
        names.append(str(known[0]))
    return np.unique(names, return_inverse=True)[1]
