import contextlib
import logging
import threading
import warnings

beside = contextlib.nullcontext  # what a bar on the screen makes way with for a line


class Handler(logging.StreamHandler):
    """Messages, and the bar below them."""

    def emit(self, record):
        """Write a line."""
        with beside():
            super().emit(record)


class _NotebookHandler(Handler):
    """Show snrmix's messages unless the application has set up logging itself."""

    def emit(self, record):
        if not logging.getLogger().handlers:
            super().emit(record)


logger = logging.getLogger("snrmix")
if not logger.handlers:
    _handler = _NotebookHandler()
    _handler.setFormatter(logging.Formatter("snrmix: %(message)s"))
    logger.addHandler(_handler)
    if logger.level == logging.NOTSET:  # whoever set a level meant it
        logger.setLevel(logging.INFO)


@contextlib.contextmanager
def quiet(*names: str):
    """Silence warnings and the info messages of other packages' loggers while they work for us."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [other.level for other in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for other in loggers:
            other.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for other, level in zip(loggers, levels, strict=True):
                other.setLevel(level)


@contextlib.contextmanager
def kept_warnings():
    """A list of what the package warns of in the meantime, in this thread; it is logged all the same."""
    kept: list[str] = []
    own = threading.get_ident()

    class Keep(logging.Handler):
        def emit(self, record):
            if record.thread == own:
                kept.append(record.getMessage())

    handler = Keep(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield kept
    finally:
        logger.removeHandler(handler)
