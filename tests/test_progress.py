"""One display over the stages of a run: what it is at, and how long the rest will take."""

import contextlib
import logging
import os
import subprocess
import sys

import pytest

import snrmix
from snrmix import _progress
from snrmix._progress import Display, advance, displayed, duration, expect, note, stage, waiting


@pytest.fixture
def clock(monkeypatch):
    """A clock that is moved by hand."""
    now = [1000.0]
    monkeypatch.setattr(_progress.time, "perf_counter", lambda: now[0])

    def move(seconds):
        now[0] += seconds

    return move


def test_what_remains_follows_the_pace_of_what_is_done(clock):
    display = Display(show=False)
    assert display.remaining is None
    display.expect({"embedding": 40.0, "networks": 20.0, "kriging": 10.0, "nothing": 0.0})
    assert display.remaining == 70.0
    with display.stage("embedding", 100):
        clock(20)
        assert display.remaining == 50.0  # by the plan, while nothing tells of the pace
        display.advance(25)
        assert display.remaining == pytest.approx(60 + 30)
        clock(60)
        display.advance(75)
        assert display.remaining == 30.0
    pace = (80 + _progress.DOUBT) / (40 + _progress.DOUBT)
    assert display.remaining == pytest.approx(30 * pace)
    with display.stage("other", 1):
        clock(5)
    assert display.remaining == pytest.approx(30 * pace)
    with display.stage("networks", 10), display.stage("graph", 3):
        clock(10)
        display.advance(3)  # steps of a stage within a stage are not its own
        assert display.remaining == pytest.approx(20 * pace - 10 + 10 * pace)


def test_a_stage_may_come_more_than_once(clock):
    display = Display(show=False)
    display.expect({"networks": 30.0})
    for _ in range(2):
        with display.stage("networks", 5):
            clock(10)
    assert display.spent == {"networks": 20.0}


def test_lines_tell_of_long_runs_only(clock, caplog):
    with caplog.at_level(logging.INFO, "snrmix"):
        with displayed():
            expect({"embedding": 10.0})
            with stage("embedding"):
                clock(10)
        assert caplog.text == ""
        with displayed():
            expect({"embedding": 60.0, "networks": 120.0})
            with stage("embedding", 8):
                clock(55)
                advance(8)
            with stage("moment"):
                clock(0.01)
            with stage("networks", 80):
                clock(100)
                note("stopped early, after 66 of 80 epochs")
    assert [record.message for record in caplog.records] == [
        "embedding done in 55 s; about 1.8 minutes left.",
        "networks done in 1.7 minutes (stopped early, after 66 of 80 epochs).",
    ]


@pytest.mark.parametrize("how", ["quiet", "hidden"])
def test_nothing_is_said_when_quiet(clock, caplog, how):
    with caplog.at_level("WARNING" if how == "quiet" else "INFO", "snrmix"), displayed(show=how == "quiet"):
        expect({"networks": 100.0})
        with stage("networks"):
            clock(100)
            note("stopped early")
    assert caplog.text == ""


def test_a_run_within_a_run_is_part_of_it(clock):
    with displayed(show=False) as outer, displayed() as inner:
        assert inner is outer
        clock(10)
        assert waiting() > 1
    assert waiting() == 1.0
    advance(), note("nobody listens"), expect({"networks": 1.0})
    with stage("networks"):
        pass


def test_stages_of_imputing_have_names_and_a_training_says_that_it_stopped(tissue, impute, caplog, monkeypatch):
    seen = []
    monkeypatch.setattr(Display, "_say", lambda self, name, told, took: seen.append((name, told)))
    impute(tissue, max_epochs=60, patience=1, learning_rate=0.05)
    names = list(dict.fromkeys(name for name, _ in seen))
    assert names == [
        "opening the image", "embedding", "graph", "networks", "kriging", "stack", "intervals", "scores", "writing",
    ]  # fmt: skip
    assert dict(seen)["networks"].startswith("stopped early, after ") and dict(seen)["networks"].endswith(
        "of 60 epochs"
    )


def test_a_comparison_shows_split_and_method(embedded, monkeypatch):
    seen, asked = [], []
    monkeypatch.setattr(Display, "_say", lambda self, name, *_: seen.append(name))
    monkeypatch.setattr(Display, "expect", lambda self, seconds: asked.append(dict(seconds)))
    monkeypatch.setattr("snrmix.plan.estimate.SHORT_RUN", 0)
    options = {"encoder": "colour", "genes": 20, "n_folds": 2, "max_epochs": 2}
    snrmix.tl.benchmark(embedded, ["mean", "kriging", "network", "snrmix"], splits=2, **options)
    halves = [name for name in seen if name.startswith("random 0.5, seed ")]
    assert len(halves) == 8 and set(halves) <= set(asked[0])
    assert asked[0]["random 0.5, seed 1, snrmix"] > asked[0]["random 0.5, seed 1, mean"]


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminal")
def test_a_bar_on_a_terminal_is_one_line_that_goes_away():
    import fcntl
    import pty
    import struct
    import termios

    code = (
        "from snrmix._progress import *; from snrmix._log import logger\n"
        "with displayed():\n"
        "    expect({'embedding': 40.0, 'networks': 20.0})\n"
        "    with stage('embedding', 4):\n        advance(2); logger.info('a line beside it')\n"
        "    with stage('networks', 4):\n        advance(1); note('stopped early, after 1 of 4 epochs')\n"
    )
    own, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("TQDM_DISABLE", "COLUMNS")}
    done = subprocess.run([sys.executable, "-c", code], stderr=other, stdout=other, env=environment)
    os.close(other)
    text = ""
    with contextlib.suppress(OSError):  # the end
        while part := os.read(own, 100_000):
            text += part.decode()
    os.close(own)
    assert done.returncode == 0, text
    for wanted in ("reading", "embedding", "about 1.0 minutes left", "networks, stopped early, after 1 of 4 epochs"):
        assert wanted in text
    shown = [line.rstrip("\r").rsplit("\r", 1)[-1].strip() for line in text.split("\n")]
    assert shown == ["snrmix: a line beside it", "snrmix: networks: stopped early, after 1 of 4 epochs.", ""]


def test_durations_read_well():
    assert [duration(s) for s in (0.2, 8.4, 59.4, 61, 95, 600, 7000)] == [
        "1 s", "8 s", "59 s", "1.0 minutes", "1.6 minutes", "10 minutes", "1.9 hours",
    ]  # fmt: skip
