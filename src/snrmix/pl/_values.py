"""What maps show: genes and sets of genes, as measured, imputed and drawn, and what is said above them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from anndata import AnnData
from scipy import sparse

from snrmix._names import listing
from snrmix.data.expression import log_values
from snrmix.data.flags import read_flags
from snrmix.data.genes import missing_genes
from snrmix.data.results import ERRORS, MEASURED, SD, Result
from snrmix.data.table import matrix_of

SCORES = {  # by kind of model, see `snrmix.plan.parts.Part`
    "own": "out-of-fold Pearson",
    "shared": "shared model, out-of-fold Pearson",
    "leave-group-out": "other groups of slides left out: Pearson",
    "leave-library-out": "other slides left out: Pearson",
    "within-library": "regions of another slide left out: Pearson",
}
SHOWN = ("pearson", "explained", "explained_given_depth")
DRAWS_OF_SETS = 50


@dataclass(frozen=True)
class Wanted:
    """A gene, or the score of a set of genes: the mean of its genes, each less its mean and over its sd where measured.

    Parameters
    ----------
    name
        Of the gene, or of the set.
    columns
        Of the table.
    is_set
        Whether it is a set, however many genes that has.
    centre, scale
        Of every gene at measured spots, shape (genes,).
    """

    name: str
    columns: np.ndarray
    is_set: bool
    centre: np.ndarray = field(default_factory=lambda: np.zeros(1))
    scale: np.ndarray = field(default_factory=lambda: np.ones(1))

    def of(self, values: np.ndarray) -> np.ndarray:
        """What is drawn, from values of its genes, shape (spots, genes)."""
        return ((values - self.centre) / self.scale).mean(axis=1)

    def label(self, units: str) -> str:
        """What the colours mean."""
        return f"mean z-score of {len(self.columns)} genes" if self.is_set else units


class Values:
    """The values of a result, by kind and rows of the table.

    Parameters
    ----------
    result
        The result that is drawn.
    layer
        Of the measured values; ``None`` for what was imputed from.
    truth
        A layer to draw beside the imputed one, or ``None``.

    Raises
    ------
    KeyError
        When the result lacks its layer or says not what was measured.
    """

    def __init__(self, result: Result, layer: str | None = None, truth: str | None = None):
        table, key = result.table, result.key
        if key not in table.layers:
            layers = listing(name for name in table.layers.keys() if name is not None)  # of later anndata, X is one
            raise KeyError(f"layers[{key!r}] is missing; run snrmix.tl.impute first. layers has: {layers}.")
        name = result.name(MEASURED)
        if name not in table.obs:
            raise KeyError(f"obs[{name!r}] is missing; run snrmix.tl.impute first. obs has: {listing(table.obs)}.")
        self.result, self.layer, self.truth_layer = result, layer, truth
        self.is_measured = read_flags(table.obs[name], f"obs[{name!r}]").yes
        self.units = str(result.record.get("units", "expression"))

    def find(self, gene) -> list[Wanted]:
        """What is meant by a name, several, or sets of genes by name.

        Raises
        ------
        KeyError, ValueError, TypeError
            When a gene is not there or was not imputed, or none is given.
        """
        asked = _asked(gene)
        if not asked:
            raise ValueError("gene is empty; pass the name of at least one gene.")
        names = list(dict.fromkeys(one for _, genes, _ in asked for one in genes))
        table, key = self.result.table, self.result.key
        missing = [name for name in names if name not in table.var_names]
        if missing:
            raise KeyError(missing_genes(table, missing, len(names)))
        column = dict(zip(names, table.var_names.get_indexer(names), strict=True))
        for name in names:
            if np.isnan(_part(table, key, slice(None), column[name])).all():
                raise ValueError(
                    f"gene {name!r} was left out of the imputation by genes=; run it again with this gene."
                )
        return [self._wanted(name, np.array([column[one] for one in genes]), is_set) for name, genes, is_set in asked]

    def _wanted(self, name: str, columns: np.ndarray, is_set: bool) -> Wanted:
        if not is_set:
            return Wanted(name, columns, False)
        values = self._measured_genes(np.flatnonzero(self.is_measured), columns)
        deviation = values.std(axis=0)
        return Wanted(name, columns, True, values.mean(axis=0), np.where(deviation > 0, deviation, 1))

    def measured(self, wanted: Wanted, rows: np.ndarray) -> np.ndarray:
        """Observed values in the units of the result, NaN at spots that are not measured: these are never read."""
        out, chosen = np.full(len(rows), np.nan), self.is_measured[rows]
        out[chosen] = wanted.of(self._measured_genes(rows[chosen], wanted.columns))
        return out

    def _measured_genes(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        table, record = self.result.table, self.result.record
        imputed_from, layer = record.get("parameters", {}).get("layer"), self.layer
        if layer is None:
            layer = imputed_from if imputed_from in table.layers else None
        known = record.get("input_units") if (layer or "X") == imputed_from else None
        return log_values(table, layer, rows, columns, "layer", known)

    def imputed(self, wanted: Wanted, rows: np.ndarray) -> np.ndarray:
        """What the layer holds."""
        return wanted.of(_part(self.result.table, self.result.key, rows, wanted.columns))

    def truth(self, wanted: Wanted, rows: np.ndarray) -> np.ndarray:
        """What the layer ``truth`` holds, in the units of the result."""
        return wanted.of(log_values(self.result.table, self.truth_layer, rows, wanted.columns, "truth"))

    def sd(self, wanted: Wanted, rows: np.ndarray) -> np.ndarray | None:
        """Uncertainty, 0 where the value was observed; ``None`` where it is not known."""
        if not self.result.has_sd:
            return None
        if not wanted.is_set:
            return _part(self.result.table, self.result.name(SD), rows, wanted.columns)[:, 0]
        return self._sd_of_set(wanted, rows)

    def _sd_of_set(self, wanted: Wanted, rows: np.ndarray) -> np.ndarray | None:
        """That of a score over draws of its genes, whose errors go together."""
        from snrmix.tl.draws import DrawSource

        if self.result.name(ERRORS) not in self.result.table.varm:
            return None
        genes = AnnData(var=self.result.table.var.iloc[wanted.columns], obs=self.result.table.obs)
        genes.uns[self.result.key] = self.result.record
        for name in (self.result.key, self.result.name(SD)):
            genes.layers[name] = _part(self.result.table, name, slice(None), wanted.columns).astype(np.float32)
        for name, part in self.result.table.varm.items():
            genes.varm[name] = part[wanted.columns]
        genes.obsm[self.result.name(ERRORS)] = self.result.table.obsm[self.result.name(ERRORS)]
        source = DrawSource(Result(genes, self.result.key))
        sd = np.std([wanted.of(source.draw(number)[rows]) for number in range(DRAWS_OF_SETS)], axis=0)
        return np.where((source.sd[rows] == 0).all(axis=1), 0, sd)

    def heading(self, wanted: Wanted, library: str) -> str:
        """The gene, the library, and what of the gene is predicted in it where that is known."""
        name = f"{wanted.name}, {library}"
        if wanted.is_set:
            genes = [str(one) for one in self.result.table.var_names[wanted.columns]]
            return f"{name}: {', '.join(genes) if len(genes) <= 6 else f'{len(genes)} genes'}"
        scores, kind = self._scores(wanted.columns[0], library)
        words = [] if np.isnan(scores["pearson"]) else [f"{SCORES[kind]} {scores['pearson']:.2f}"]
        return f"{name}: {', '.join(words + share_explained(scores))}".rstrip(": ")

    def short_heading(self, wanted: Wanted, library: str | None) -> str:
        """The same in the width of one panel; ``library`` only where it has to be said."""
        name = f"{wanted.name}, {library}" if library else wanted.name
        if wanted.is_set:
            return f"{name}\n{len(wanted.columns)} genes"
        scores, _ = self._scores(wanted.columns[0], library)
        return "\n".join([name, *share_explained(scores)])

    def _scores(self, column: int, library: str | None) -> tuple[dict[str, float], str]:
        """Scores of a gene by name, NaN where unknown, and the kind of model they are of."""
        result = self.result
        record = result.record.get("libraries", {}).get(str(library).replace("/", "|"))
        if record is None:  # else var has means over libraries
            found = {name: result.column(name, "")[column] if result.has(name) else np.nan for name in SHOWN}
            return found, "own"
        genes, name = record["genes"], result.table.var_names[column]
        known = name in genes.index
        return {n: float(genes.at[name, n]) if known and n in genes else np.nan for n in SHOWN}, record["kind"]


def share_explained(scores: Mapping[str, float]) -> list[str]:
    """What share of a gene is explained, in words; none where that is not known."""
    if not np.isfinite(scores["explained"]):
        return []
    given = scores["explained_given_depth"]
    beyond = f" ({max(given, 0):.0%} given depth)" if np.isfinite(given) else ""
    return [f"{max(scores['explained'], 0):.0%} explained{beyond}"]


def _asked(gene) -> list[tuple[str, list[str], bool]]:
    """Names with their genes, and whether they are sets."""
    if isinstance(gene, str):
        return [(gene, [gene], False)]
    if isinstance(gene, Mapping):
        for name, genes in gene.items():
            if isinstance(genes, str) or not isinstance(genes, Sequence | np.ndarray) or not len(genes):
                raise TypeError(
                    f"gene[{name!r}] must be a list of genes, as in gene={{{name!r}: ['COL1A1', 'COL3A1']}}."
                )
        return [(str(name), [str(one) for one in genes], True) for name, genes in gene.items()]
    return [asked for one in gene for asked in _asked(one if isinstance(one, Mapping) else str(one))]


def _part(table: AnnData, layer: str, rows, columns) -> np.ndarray:
    """Some values of a layer, float; columns first, which is cheap."""
    values = matrix_of(table, layer)[:, columns]
    return np.asarray(values.toarray() if sparse.issparse(values) else values, dtype=float)[rows]
