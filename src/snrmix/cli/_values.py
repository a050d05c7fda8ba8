"""Words of a command line that are not what they look like."""

from __future__ import annotations

import json
from pathlib import Path

from snrmix.data.words import literal, names


def name_or_names(text: str) -> str | list[str]:
    """A name, or several separated by commas."""
    found = names(text)
    return found if len(found) > 1 else text


def literal_or_json(text: str):
    """A number, a word, or a list or dict in JSON."""
    if not text.lstrip().startswith(("[", "{")):
        return literal(text)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{text!r} is no JSON: {error}.") from error


def by_library(given: list[str], option: str, example: tuple[str, str], convert=str):
    """One value, or values by library from ``LIBRARY=VALUE``.

    Parameters
    ----------
    given
        What stood after each of the options.
    option, example
        For the message: the option, and values of two libraries.
    convert
        Makes a value of a word.

    Raises
    ------
    ValueError
        For several values without libraries, or two of the same one.
    """
    if len(given) == 1 and ("=" not in given[0] or Path(given[0]).exists()):
        return _converted(given[0], option, convert)
    values = {}
    for text in given:
        library, equals, value = text.partition("=")
        if not (library and equals and value):
            shown = " ".join(f"{option} {name}={value}" for name, value in zip("AB", example, strict=True))
            raise ValueError(f"{option} {text!r} does not name its slide; write {shown}.")
        if library in values:
            raise ValueError(f"{option} names slide {library!r} twice; give one for each.")
        values[library] = _converted(value, option, convert)
    return values


def _converted(text: str, option: str, convert):
    try:
        return convert(text)
    except ValueError as error:
        raise ValueError(f"{option} {text!r} is no number.") from error
