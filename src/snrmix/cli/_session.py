"""What all commands have around them: log, progress, threads, interruption, exit code, and the record of what was done."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from snrmix._log import Handler, logger
from snrmix.plan.threads import limited_threads

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
EXPECTED = (ValueError, KeyError, TypeError, OSError, ImportError)  # their messages say what to do
SWITCH = Parameter(negative="", show_default=False)
HEARTBEAT = 60.0  # seconds between lines that say a long step goes on


@dataclass(frozen=True)
class Common:
    """Options of every command.

    Parameters
    ----------
    quiet
        Log warnings and errors only.
    verbose
        Log more, and where an error came from.
    json
        Print one JSON object on stdout at the end, with scores, seconds, files and warnings; logs go to stderr.
    threads
        Threads to use at most. By default all that affinity, container and `OMP_NUM_THREADS` leave.
    """

    quiet: Annotated[bool, SWITCH] = False
    verbose: Annotated[bool, SWITCH] = False
    json: Annotated[bool, SWITCH] = False
    threads: int | None = None


@dataclass
class Session:
    """What a command did, for its JSON object.

    Parameters
    ----------
    files
        That were written.
    scores
        By name.
    seconds
        Of each step.
    more
        What else belongs into the object.
    """

    command: str
    files: list[str] = field(default_factory=list)
    scores: dict = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    more: dict = field(default_factory=dict)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Take the time of a step; where it is long, say now and then that it goes on."""
        started, over = time.perf_counter(), threading.Event()
        beat = threading.Thread(target=_beat, args=(name, over), daemon=True)
        if not _on_terminal():
            beat.start()
        try:
            yield
        finally:
            over.set()
            self.seconds[name] = round(time.perf_counter() - started, 2)

    def wrote(self, path) -> None:
        """Note a file."""
        self.files.append(str(path))
        logger.info("wrote %s (%s).", path, _size(Path(path)))


def run(name: str, common: Common, call: Callable[[Session], None]) -> int:
    """Run a command; whatever happens ends in one sentence and an exit code."""
    session, code, error = Session(name), DONE, None
    with _logging(common, session), _bars(common), _terminable(), _stdout_to_stderr(common.json), _warnings(common):
        try:
            with limited_threads(common.threads):
                call(session)
        except KeyboardInterrupt:
            code, error = INTERRUPTED, "interrupted; what was to be written is as it was before."
        except Exception as problem:  # noqa: BLE001 (the end of the program: every error becomes a sentence)
            code, error = FAILED, one_line(problem)
            if common.verbose:
                logger.error("where it came from:", exc_info=problem)
    if error:
        print(f"snrmix: error: {error}", file=sys.stderr)
    if common.json:
        print(json.dumps(_record(session, code, error), default=_plain))
    return code


def one_line(error: Exception) -> str:
    """Its message; a KeyError's without the quotation marks that ``str`` puts around it."""
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    text = " ".join(str(message).split())
    if isinstance(error, EXPECTED):
        return text or type(error).__name__
    return f"unexpected {type(error).__name__}: {text}" + (" (--verbose shows where)" if text else "")


def _record(session: Session, code: int, error: str | None) -> dict:
    import snrmix

    status = {DONE: "done", INTERRUPTED: "interrupted"}.get(code, "failed")
    record = {"command": session.command, "version": snrmix.__version__, "status": status, "exit_code": code}
    record |= {"error": error} if error else {}
    return record | {
        "files": session.files,
        "scores": session.scores,
        "seconds": session.seconds,
        "warnings": session.warnings,
        **session.more,
    }


def _plain(value):
    """NumPy and pandas values for JSON."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return value.to_dict() if hasattr(value, "to_dict") else str(value)


def _on_terminal() -> bool:
    return sys.stderr.isatty()


def _beat(name: str, over: threading.Event) -> None:
    import psutil

    started = time.perf_counter()
    while not over.wait(HEARTBEAT):
        memory = psutil.Process().memory_info().rss / 1e9
        logger.info("%s: %.0f minutes so far, %.1f GB in use.", name, (time.perf_counter() - started) / 60, memory)


class _Keep(logging.Handler):
    """Keeps warnings for the record."""

    def __init__(self, kept: list[str]):
        super().__init__(logging.WARNING)
        self.kept = kept

    def emit(self, record):
        self.kept.append(record.getMessage())


@contextlib.contextmanager
def _logging(common: Common, session: Session) -> Iterator[None]:
    """Log to stderr, with times where that is no terminal."""
    stamp = "" if _on_terminal() else "%(asctime)s "
    handler = Handler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"{stamp}snrmix: %(message)s", "%Y-%m-%d %H:%M:%S"))
    level = logging.WARNING if common.quiet else logging.DEBUG if common.verbose else logging.INFO
    before = logger.handlers, logger.level, logger.propagate
    logger.handlers, logger.propagate = [handler, _Keep(session.warnings)], False
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before[0], before[2]
        logger.setLevel(before[1])


@contextlib.contextmanager
def _bars(common: Common) -> Iterator[None]:
    """Progress bars only on a terminal; tqdm looks at this when it is loaded."""
    if _on_terminal() and not common.quiet:
        yield
        return
    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        os.environ.pop("TQDM_DISABLE")
        if before is not None:
            os.environ["TQDM_DISABLE"] = before


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does, with everything cleared away."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _warnings(common: Common) -> Iterator[None]:
    """What other packages warn of is for those who look for a cause; ours are logged."""
    with warnings.catch_warnings():
        if not common.verbose:
            warnings.simplefilter("ignore")
        yield


def _stdout_to_stderr(needed: bool):
    """Keep stdout for the JSON object."""
    return contextlib.redirect_stdout(sys.stderr) if needed else contextlib.nullcontext()


def _size(path: Path) -> str:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return f"{sum(file.stat().st_size for file in files) / 1e6:,.1f} MB"
