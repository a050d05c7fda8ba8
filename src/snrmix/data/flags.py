"""Yes, no, or unknown: one reader of every column and array that says so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData

from snrmix._names import closest, listing

ADDED = "snrmix_added"  # obs column that marks sites of snrmix.pp.fill_grid
IN_TISSUE = "in_tissue"

YES = {"true", "t", "yes", "y", "1", "1.0"}
NO = {"false", "f", "no", "n", "0", "0.0"}
UNKNOWN = {"", "na", "n/a", "nan", "none", "null", "<na>", "nat", "unknown"}
TISSUE_YES = {"in tissue", "tissue", "under tissue"}
TISSUE_NO = {"not in tissue", "off tissue", "out of tissue", "outside tissue", "background"}
MEANS_YES = {
    *YES,
    *TISSUE_YES,
    "pass",
    "passed",
    "ok",
    "keep",
    "kept",
    "good",
    "on",
    "in",
    "measured",
    "inside",
    "positive",
}


@dataclass(frozen=True)
class Flags:
    """Answers of every row.

    Parameters
    ----------
    yes
        Shape (n,), bool; ``False`` where unknown.
    known
        Shape (n,), bool.
    """

    yes: np.ndarray
    known: np.ndarray

    @property
    def no(self) -> np.ndarray:
        """Shape (n,), bool; ``False`` where unknown."""
        return self.known & ~self.yes


def read_flags(values, label: str, argument: str | None = None, *, also_yes=frozenset(), also_no=frozenset()) -> Flags:
    """Read yes and no: booleans, nullable ones too, the numbers 0 and 1, and text or categories in any case.

    Text may be true/false, t/f, yes/no, y/n, 1/0. NaN, ``None``, ``pd.NA``, empty text and "NA" are unknown.

    Parameters
    ----------
    values
        Array, Series or list, one value per row.
    label
        What the values are called in a message, such as ``"obs['measured']"``.
    argument
        What they were given as, if they were.
    also_yes, also_no
        Further words, in lower case, with spaces for underscores.

    Raises
    ------
    TypeError
        For any other value; the message says what there is.
    """
    values = pd.Series(values).reset_index(drop=True) if not isinstance(values, pd.Series) else values
    codes, found = pd.factorize(values, use_na_sentinel=True)
    answers = [_answer(value, YES | also_yes, NO | also_no) for value in found]
    bad = [value for value, answer in zip(found, answers, strict=True) if answer == "?"]
    if bad:
        raise TypeError(_refusal(values, bad, label, argument))
    yes = np.array([answer is True for answer in answers] + [False])
    known = np.array([answer is not None for answer in answers] + [False])
    return Flags(yes[codes], known[codes])  # the code of a missing value is -1: the last


def _answer(value, yes: set[str], no: set[str]):
    """``True``, ``False``, ``None`` for unknown, or "?" for what is neither."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        word = " ".join(value.replace("_", " ").split()).casefold()
        return True if word in yes else False if word in no else None if word in UNKNOWN else "?"
    try:
        return True if value == 1 else False if value == 0 else "?"
    except (TypeError, ValueError):
        return "?"


def _refusal(values: pd.Series, bad: list, label: str, argument: str | None) -> str:
    kind = "text" if isinstance(bad[0], str) else str(values.dtype)
    column = f"adata.{label}" if "[" in label else "adata.obs['x']"
    if isinstance(bad[0], str):
        likely = [value for value in bad if " ".join(str(value).replace("_", " ").split()).casefold() in MEANS_YES]
        example = f"{column}.astype(str) == {likely[0] if likely else '...'!r}"
    elif values.dtype.kind == "f":
        example = f"{column} > 0.5"
    else:
        example = f"{column} == {1 if all(value < 0 for value in bad) and (values == 1).any() else bad[0]}"
    return (
        f"{label} must be boolean, or hold 0 and 1, or yes and no; it is {kind} and holds {listing(values.unique(), 5)}. "
        f"Compare it with the value that stands for yes, e.g. {argument or column}{'=' if argument else ' = '}{example}."
    )


def read_mask(table: AnnData, value, name: str) -> np.ndarray:
    """Yes and no for every row, from an obs column by its name, an array or a Series: bool, shape (n_obs,).

    Parameters
    ----------
    value
        What the user passed; values as in `read_flags`.
    name
        The argument it was passed as.

    Raises
    ------
    KeyError, TypeError, ValueError
        For a missing column, values that are neither yes nor no, missing values, or a wrong length or index.
    """
    label = name
    if isinstance(value, str):
        if value not in table.obs:
            raise KeyError(
                f"{name}={value!r} is not in obs; available: {listing(table.obs)}.{closest(value, table.obs)}"
            )
        label, value = f"obs[{value!r}]", table.obs[value]
    elif isinstance(value, pd.Series) and not value.index.equals(table.obs_names):
        if len(value) != table.n_obs or set(value.index) != set(table.obs_names):
            raise ValueError(f"the index of {name} differs from obs_names; pass {name}.to_numpy() to go by position.")
        value = value.loc[table.obs_names]
    elif isinstance(value, list | tuple):
        value = np.array(value, dtype=object)
    shape = np.shape(value)
    if len(shape) == 0:
        raise TypeError(f"{name} must be boolean, one value per observation, not {type(value).__name__}.")
    if shape != (table.n_obs,):
        raise ValueError(
            f"{label} has shape {shape}; expected ({table.n_obs},), one value per observation.{_chosen(table, value, name)}"
        )
    flags = read_flags(value, label, name)
    if not flags.known.all():
        rows = table.obs_names[~flags.known]
        raise ValueError(
            f"{label} has {len(rows)} missing values, at {listing(rows, 3)}: unknown is neither yes nor no. Fill them in, e.g. "
            f"{label if '[' not in label else f'adata.{label}'}.astype(object).fillna(False) where they mean no."
        )
    return flags.yes


def _chosen(table: AnnData, value, name: str) -> str:
    """The line that turns names of rows, or their numbers, into one answer per row; empty where it is neither."""
    found = np.asarray(value)
    if found.ndim != 1 or not len(found):
        return ""
    if (
        found.dtype.kind in "iu"
        and len(set(found.tolist())) == len(found)
        and 0 <= found.min() <= found.max() < table.n_obs
    ):
        return f" Of numbers of rows: {name}=np.isin(np.arange(adata.n_obs), rows)."
    is_name = found.dtype.kind in "OUST" and set(map(str, found.tolist())) <= set(table.obs_names)
    return f" Of names: {name}=adata.obs_names.isin(names)." if is_name else ""


def read_in_tissue(obs: pd.DataFrame, *, strict: bool = False) -> Flags | None:
    """What ``obs["in_tissue"]`` says; ``None`` where there is no such column, or, unless ``strict``, it is neither.

    Raises
    ------
    TypeError
        With ``strict``, where it holds anything but yes, no and missing values.
    """
    if IN_TISSUE not in obs:
        return None
    try:
        return read_flags(obs[IN_TISSUE], f"obs[{IN_TISSUE!r}]", also_yes=TISSUE_YES, also_no=TISSUE_NO)
    except TypeError:
        if strict:
            raise
        return None


def may_be_on_tissue(obs: pd.DataFrame) -> np.ndarray | None:
    """Sites that are not known to be off the tissue, shape (n,), bool; ``None`` where none is known to be on it."""
    flags = read_in_tissue(obs)
    return ~flags.no if flags is not None and flags.yes.any() else None


def read_added(obs: pd.DataFrame) -> np.ndarray:
    """Sites that `snrmix.pp.fill_grid` added, bool, shape (n,); unknown ones, of another slide, were not."""
    if ADDED not in obs:
        return np.zeros(len(obs), bool)
    return read_flags(obs[ADDED], f"obs[{ADDED!r}]").yes
