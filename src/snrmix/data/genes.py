"""Genes that are asked for by a name that is not in the table."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

from snrmix._names import closest

OTHER_NAMES = (
    "feature_name",
    "gene_symbols",
    "gene_symbol",
    "gene_name",
    "gene_names",
    "symbol",
    "SYMBOL",
    "gene_ids",
    "gene_id",
)
SHOWN = 5
VERSION = re.compile(r"\.\d+$")  # of an Ensembl identifier


def missing_genes(table: AnnData, missing: Sequence[str], asked: int) -> str:
    """What to say of genes that are not in ``var_names``: other columns that know them, or names like theirs.

    Parameters
    ----------
    asked
        How many genes were asked for.
    """
    said = [_say(table, gene) for gene in missing[:SHOWN]]
    more = f", ... ({len(missing)} in all)" if len(missing) > len(said) else ""
    text = f"{len(missing)} of {asked} genes are not in var_names: {', '.join(said)}{more}."
    column = _column_of(table, missing)
    if column is not None:
        text += (
            f" var_names are others than var[{column!r}]: pass those, or make these the names: adata.var_names = "
            f"adata.var[{column!r}].astype(str); adata.var_names_make_unique()."
        )
    return text


def _say(table: AnnData, gene: str) -> str:
    for column in _columns(table):
        names = table.var[column].astype(str)
        found = table.var_names[(names == gene).to_numpy()]
        found = found if len(found) else table.var_names[(names.str.casefold() == gene.casefold()).to_numpy()]
        if len(found):
            return f"{gene!r} (it is {' or '.join(repr(str(name)) for name in found[:2])}, by var[{column!r}])"
    versions = table.var_names[table.var_names.str.replace(VERSION, "", regex=True) == VERSION.sub("", gene)]
    if gene.startswith("ENS") and len(versions):
        return f"{gene!r} (it is {versions[0]!r} here)"
    hint = closest(gene, table.var_names)
    return f"{gene!r} ({hint.strip()})" if hint else f"{gene!r}"


def _columns(table: AnnData) -> list[str]:
    return [name for name in OTHER_NAMES if name in table.var and not isinstance(table.var[name], pd.DataFrame)]


def _column_of(table: AnnData, missing: Sequence[str]) -> str | None:
    """The column that knows most of the missing genes, if any does."""
    known = {name: np.isin(missing, table.var[name].astype(str)).mean() for name in _columns(table)}
    best = max(known, key=known.get, default=None)
    return best if best is not None and known[best] > 0 else None
