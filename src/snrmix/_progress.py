"""What a run is at, and how long the rest will take: one line over named stages, from the first second to the last."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar

import snrmix._log as log
from snrmix._log import logger

LONG = 30.0  # seconds from which a run says what it will take, and names its stages where there is no terminal
SOON = 0.5  # seconds that tell nothing of other work on the machine yet
MOST_WAITING = 30.0
FEW = 0.03  # of the steps of a stage tell too little of its pace
DOUBT = 5.0  # seconds of what was expected that count as much as seconds that were seen, for the speed of the machine

_current: ContextVar[Display | None] = ContextVar("display", default=None)


class Display:
    """A bar on a terminal or in a notebook, else a line at the end of each stage of a long run.

    Parameters
    ----------
    show
        ``False``: keep account without a word.
    """

    def __init__(self, show: bool = True):
        self.started, self._processor = time.perf_counter(), time.process_time()
        self.expected: dict[str, float] = {}
        self.spent: dict[str, float] = {}
        self.note, self._stages, self._of = "", (), (0.0, 0.0)
        self._over, self._lock = threading.Event(), threading.RLock()
        self._show = show and logger.isEnabledFor(logging.INFO)
        self._bar = _bar() if self._show else None
        if self._bar is not None:
            log.beside = self._bar.external_write_mode
            threading.Thread(target=self._tick, daemon=True).start()

    @property
    def waiting(self) -> float:
        """How much longer things take so far than they keep the processor busy: more than 1 beside other work."""
        wall, processor = time.perf_counter() - self.started, time.process_time() - self._processor
        return min(max(wall / max(processor, 1e-3), 1.0), MOST_WAITING) if wall > SOON else 1.0

    @property
    def remaining(self) -> float | None:
        """Seconds, by what was expected and by how fast it has gone so far; ``None`` where nothing is expected."""
        if not self.expected:
            return None
        name = self._stages[0] if self._stages else ""
        done = [one for one in self.spent if one in self.expected and one != name]
        seen, planned = (sum(table[one] for one in done) for table in (self.spent, self.expected))
        pace = (seen + DOUBT) / (planned + DOUBT)
        rest = sum(seconds for one, seconds in self.expected.items() if one not in done and one != name) * pace
        if name in self.expected:
            now, (count, total) = self._elapsed(), self._of
            by_plan = self.expected[name] * pace - self.spent.get(name, 0.0) - now
            rest += now * (total / count - 1) if count > FEW * total else max(by_plan, 0.0)
        return max(rest, 0.0)

    def expect(self, seconds: Mapping[str, float]) -> None:
        """What stages to come will take."""
        with self._lock:
            self.expected |= {name: value for name, value in seconds.items() if value > 0}

    @contextlib.contextmanager
    def stage(self, name: str, total: float) -> Iterator[None]:
        """A stage of so many steps; one within another is part of it, and only its name is seen."""
        with self._lock:
            outer, self.note, self._stages = self.note, "", (*self._stages, name)
            if len(self._stages) == 1:
                self._of = 0.0, total
                self._since, self._processor_since = time.perf_counter(), time.process_time()
        self.draw()
        try:
            yield
        finally:
            with self._lock:
                self._stages, told, self.note = self._stages[:-1], self.note, outer
                if not self._stages:
                    took = self._elapsed()
                    self.spent[name] = self.spent.get(name, 0.0) + took
                    self._say(name, told, took)

    def advance(self, steps: float) -> None:
        """Steps of the stage are done."""
        if len(self._stages) == 1:
            self._of = self._of[0] + steps, self._of[1]
        self.draw()

    def draw(self) -> None:
        """Bring the bar up to date."""
        if self._bar is None or self._over.is_set():
            return
        with self._lock:
            rest, elapsed = self.remaining, time.perf_counter() - self.started
            text = ", ".join(part for part in (": ".join(self._stages), self.note) if part)
            self._bar.set_description_str(text or "reading", refresh=False)
            self._bar.set_postfix_str(f"about {duration(rest)} left" if rest else "", refresh=False)
            self._bar.n = 0 if rest is None else min(elapsed / max(elapsed + rest, 1e-9), 1.0)
            self._bar.refresh()

    def close(self) -> None:
        """Remove the bar, and be silent."""
        self._show = False
        self._over.set()
        if self._bar is not None:
            log.beside = contextlib.nullcontext
            with self._lock:
                self._bar.close()

    def _elapsed(self) -> float:
        return time.perf_counter() - self._since

    def _say(self, name: str, told: str, took: float) -> None:
        """A line for a stage that ended, where no bar is seen; for a short one, or in a short run, not even that."""
        busy, rest = time.process_time() - self._processor_since, self.remaining or 0.0
        logger.debug(
            "%s: %.1f s, %.1f s of them work; expected: %.1f s.", name, took, busy, self.expected.get(name, 0.0)
        )
        if not self._show:
            return
        if self._bar is None and took >= LONG / 30 and time.perf_counter() - self.started + rest >= LONG:
            left = f"; about {duration(rest)} left" if rest >= 1 else ""
            logger.info("%s done in %s%s%s.", name, duration(took), f" ({told})" if told else "", left)
        elif told:
            logger.info("%s: %s.", name, told)

    def _tick(self) -> None:
        while not self._over.wait(1.0):
            self.draw()


@contextlib.contextmanager
def displayed(show: bool = True) -> Iterator[Display]:
    """The display of a run; within another one it is that one."""
    if (outer := _current.get()) is not None:
        yield outer
        return
    display = Display(show)
    token = _current.set(display)
    try:
        yield display
    finally:
        _current.reset(token)
        display.close()


@contextlib.contextmanager
def stage(name: str, total: float = 1.0) -> Iterator[None]:
    """A named stage of ``total`` steps of the run that is displayed, if one is."""
    display = _current.get()
    with display.stage(name, total) if display is not None else contextlib.nullcontext():
        yield


def advance(steps: float = 1.0) -> None:
    """Steps of the current stage are done."""
    if (display := _current.get()) is not None:
        display.advance(steps)


def expect(seconds: Mapping[str, float]) -> None:
    """What stages to come will take, in seconds by name."""
    if (display := _current.get()) is not None:
        display.expect(seconds)


def hide() -> None:
    """Say nothing more of this run."""
    if (display := _current.get()) is not None:
        display.close()


def waiting() -> float:
    """See `Display.waiting`; 1 where none is displayed."""
    display = _current.get()
    return 1.0 if display is None else display.waiting


def note(text: str) -> None:
    """Say something about the current stage, such as that it stopped early."""
    if (display := _current.get()) is not None:
        display.note = text
        display.draw()


def fastest(step: Callable[[], object], times: int) -> float:
    """Seconds that a step takes, the least of some times after a first one."""
    step()
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        step()
        taken.append(time.perf_counter() - started)
    return min(taken)


def duration(seconds: float) -> str:
    """In words, with two digits at most."""
    if seconds < 59.5:
        return f"{max(round(seconds), 1)} s"
    if seconds < 90 * 60:
        minutes = seconds / 60
        return f"{minutes:.1f} minutes" if minutes < 9.95 else f"{minutes:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"


def _bar():
    """A bar where somebody sees it move; ``None`` elsewhere, and in the workers of another process."""
    from tqdm.auto import tqdm

    in_notebook = "ipykernel" in sys.modules and hasattr(sys.modules["ipykernel"], "kernelapp")
    if not (sys.stderr.isatty() or in_notebook) or multiprocessing.parent_process() is not None:
        return None
    bar = tqdm(
        total=1.0,
        desc="reading",
        leave=False,
        bar_format="{desc} {percentage:3.0f}%|{bar:24}| {elapsed}{postfix}",
        mininterval=0,
    )
    return None if bar.disable else bar
