"""A result knows what was warned of when it was made."""

from __future__ import annotations

from functools import wraps

import numpy as np

from snrmix._globals import Function
from snrmix._log import kept_warnings
from snrmix.data.results import WARNINGS
from snrmix.data.table import read_table


def noted(function: Function) -> Function:
    """Let the record of a result have the warnings of the call that made it, each once."""

    @wraps(function)
    def call(data, **given):
        with kept_warnings() as kept:
            result = function(data, **given)
        if kept:
            table = read_table(data, given.get("table_key")) if result is None else result
            table.uns[given.get("key_added", "snrmix")][WARNINGS] = np.array(list(dict.fromkeys(kept)), dtype=object)
        return result

    return call
