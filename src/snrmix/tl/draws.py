from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from snrmix._checks import choice, whole_number
from snrmix._globals import settled
from snrmix.data.results import ERRORS, Result
from snrmix.engine.draws import Values, draw_values
from snrmix.engine.errors import Errors
from snrmix.tl._errors import StoredErrors, read_errors

KINDS = ("observed", "expected")


@settled()
def draws(
    data,
    n_draws: int = 20,
    *,
    key: str = "snrmix",
    kind: str = "observed",
    random_state: int = 0,
    table_key: str | None = None,
) -> Iterator[np.ndarray]:
    """Draw layers as they might have been observed: what to compute on instead of the layer itself.

    A layer of predictions is smoother than data: it varies less, its genes are more alike, and neighbouring spots agree
    because they borrow from each other. Each draw adds errors of the size that the intervals state, correlated in space
    and between genes as errors at held-out spots are, so that variances, correlations and clusters are those of data, and
    differences between draws say what is not known. `snrmix.tl.pool` makes one result of the analyses of several draws.

    Parameters
    ----------
    data
        The object that `snrmix.tl.impute` was called on.
    n_draws
        How many.
    key
        ``key_added`` of that call.
    kind
        ``"observed"``: values as they would be observed, sampling noise included. ``"expected"``: what would be expected
        at the spot, without the noise of counting.
    random_state
        Seed. The first draws are the same whatever ``n_draws`` is, and the order of rows and genes does not matter.
    table_key
        Table of the SpatialData.

    Yields
    ------
    numpy.ndarray
        float32, (n_obs, n_vars), in the units of the layer. The observed value where the layer holds it, never below 0
        elsewhere, NaN where the layer is. The 5 % and 95 % quantiles of a value over draws of ``kind="observed"`` are the
        ends of `snrmix.tl.interval`, and its mean over draws is the layer's value.

    Raises
    ------
    KeyError
        When there is no such result, or it was made by a version that left nothing to draw from.
    ValueError
        For other arguments that are out of range.

    Examples
    --------
    >>> snrmix.tl.impute(adata, measured="measured")
    >>> variances = [draw.var(axis=0) for draw in snrmix.tl.draws(adata)]
    """
    source = DrawSource(Result.find(data, key, table_key), kind, random_state)
    number = whole_number("n_draws", n_draws)
    return (source.draw(i) for i in range(number))


class DrawSource:
    """Draws of a result, by number. Some of their values fill in what was not measured, some replace what was.

    Parameters
    ----------
    result, kind, random_state
        As for `draws`.
    """

    def __init__(self, result: Result, kind: str = "observed", random_state: int = 0):
        self.expected = choice("kind", kind, KINDS) == "expected"
        self.seed = whole_number("random_state", random_state, 0)
        table = result.table
        self.models = list(read_errors(result))
        self.layer, self.sd = result.layer, result.sd
        self.values = Values(self.models[0].errors.quantiles)
        self.by_name = np.argsort(table.var_names.to_numpy(str), kind="stable")
        at_sites = np.asarray(table.obsm[result.name(ERRORS)], float)
        uncertain = self.sd > 0
        measured = result.is_measured
        self.fills, self.replaces = bool(uncertain[~measured].any()), bool(uncertain[measured].any())
        self.is_measured = measured
        self.positions, self.together = at_sites[:, :2], at_sites[:, 2].astype(int)
        self.rows = np.argsort(table.obs_names.to_numpy(str), kind="stable")

    def draw(self, number: int, replacement: int = 0) -> np.ndarray:
        """The draw of that number, float32, (n_obs, n_vars); ``replacement`` numbers draws that differ at measured spots."""
        out = np.array(self.layer, np.float32)
        uncertain = self.sd > 0
        for model in self.models:
            modelled = self.by_name[model.group[self.by_name] >= 0]
            constant = self.by_name[model.group[self.by_name] < 0]
            mine = self.rows[np.isin(self.rows, model.rows)]
            for label in np.unique(self.together[mine]):
                rows = mine[self.together[mine] == label]
                if uncertain[rows].any():
                    again = replacement if self.is_measured[rows].all() else 0
                    rng = np.random.default_rng([self.seed, number, label, again])
                    self._fill(out, uncertain, rows, modelled, self._correlated(model, rows, modelled, rng))
                    self._fill(out, uncertain, rows, constant, self._independent(rows, constant, rng))
        return out

    def _correlated(self, model: StoredErrors, rows, genes, rng) -> np.ndarray:
        """Values of genes that were modelled, at sites that are predicted together."""
        at, found = np.ix_(rows, genes), model.errors
        errors = Errors(found.quantiles, found.loadings[genes], found.factors, found.own, found.lasting[genes])
        return draw_values(
            errors,
            self.values,
            self.positions[rows],
            self.layer[at],
            self.sd[at],
            model.group[genes],
            rng,
            self.expected,
        )

    def _independent(self, rows, genes, rng) -> np.ndarray:
        """Values of genes that got their mean, as their intervals have it: normal."""
        at = np.ix_(rows, genes)
        mean, sd = self.layer[at], self.sd[at]
        noise = 0.0 if self.expected else rng.standard_normal(mean.shape, np.float32)
        return np.maximum(mean + sd * noise, 0)

    @staticmethod
    def _fill(out: np.ndarray, uncertain: np.ndarray, rows: np.ndarray, genes: np.ndarray, values: np.ndarray) -> None:
        """Put values where the layer holds no observed one."""
        at = np.ix_(rows, genes)
        out[at] = np.where(uncertain[at], values, out[at])
