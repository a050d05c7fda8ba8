"""From words, on a command line or in a table, to the values that functions take."""

from __future__ import annotations

import ast

CONSTANTS = {"true": True, "false": False, "none": None}


def literal(text: str):
    """``True``, ``False``, ``None`` or a number where the word is one, in lower case too; else the word."""
    if text.lower() in CONSTANTS:
        return CONSTANTS[text.lower()]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, int | float) else text


def names(text: str) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def read_scales(words: list[str]) -> list[float] | str:
    """Scales as `snrmix.tl.impute` takes them: numbers, or the word ``auto``.

    Raises
    ------
    ValueError
        For any other word.
    """
    return words[0] if words == ["auto"] else [float(word) for word in words]


def read_genes(text: str, table):
    """Genes as `snrmix.tl.impute` takes them: a number, a var column, names, or a number together with names.

    Parameters
    ----------
    text
        Such as ``"500"``, ``"highly_variable"``, ``"ERBB2,CD8A"`` or ``"500,ERBB2"``.
    table
        AnnData whose genes they are.
    """
    if text.isdigit():
        return int(text)
    if text in table.var:
        return text
    return [int(name) if name.isdigit() and name not in table.var_names else name for name in names(text)]
