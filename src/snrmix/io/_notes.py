"""What the library would refuse or warn of, taken down as sentences."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from snrmix._log import logger

EXPECTED = (ValueError, KeyError, TypeError, ImportError)  # their messages say what to do


@dataclass
class Notes:
    """Sentences, each once, in the order in which they came up.

    Parameters
    ----------
    refused
        Why `snrmix.tl.impute` would not take the object.
    doubtful
        What it would warn of, or what else does not look right.
    """

    refused: list[str] = field(default_factory=list)
    doubtful: list[str] = field(default_factory=list)

    def doubt(self, sentence: str) -> None:
        """Take down what is doubtful, unless it has been said."""
        if sentence not in (*self.refused, *self.doubtful):
            self.doubtful.append(sentence)

    def ask(self, function: Callable, *args, **options):
        """What a function returns; where it refuses, ``None``, and the reason as one why the object would be refused."""
        return self._call(self.refused, function, args, options)

    def look(self, function: Callable, *args, **options):
        """What a function returns; where it fails, ``None``, and the reason as something doubtful."""
        return self._call(self.doubtful, function, args, options)

    def _call(self, kept: list[str], function: Callable, args: tuple, options: dict):
        try:
            return function(*args, **options)
        except Exception as error:  # noqa: BLE001 (an object may be broken in any way, and is described all the same)
            sentence = _in_words(error)
            if sentence not in (*self.refused, *self.doubtful):
                kept.append(sentence)
            return None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take down what the library warns of, instead of logging it."""
        handler = _Handler(logging.WARNING)
        handler.notes = self
        before = logger.handlers, logger.propagate, logger.level
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            logger.handlers, logger.propagate = before[:2]
            logger.setLevel(before[2])


class _Handler(logging.Handler):
    notes: Notes

    def emit(self, record):
        self.notes.doubt(record.getMessage())


def _in_words(error: Exception) -> str:
    """The message of an error on one line; a KeyError's without the quotation marks that ``str`` puts around it."""
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    text = " ".join(str(message).split())
    return text if isinstance(error, EXPECTED) and text else f"unexpected {type(error).__name__}: {text}"
