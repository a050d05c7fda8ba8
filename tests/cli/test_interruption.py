"""Whatever ends a command, the output is whole or as it was, and the exit code tells."""

import contextlib
import fcntl
import multiprocessing
import os
import pty
import re
import resource
import signal
import struct
import subprocess
import sys
import termios
import time

import anndata
import pytest

from snrmix.cli import main

OLD = "what was there"


@pytest.fixture(scope="module")
def section(tmp_path_factory, small_tissue):
    path = tmp_path_factory.mktemp("section") / "in.h5ad"
    small_tissue.write_h5ad(path)
    main(["hold-out", str(path), "-o", str(path.with_name("warm.h5ad")), "--quiet"])  # loads all that children need
    return path


def stop_half_way(monkeypatch, before):
    """Let a process stop in the middle of writing, before or after it has written half of the file."""

    def write(adata, path, **options):
        before()
        path.write_text("half")
        (path.parent.parent / "half").touch()
        time.sleep(30)

    monkeypatch.setattr(anndata.AnnData, "write_h5ad", write)


def run_in_child(words, prepare=lambda: None):
    """The command in a process of its own, which has everything loaded."""

    def work():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        prepare()
        os._exit(main(words))

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    return child


def wait_for(path, seconds=30):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)


@pytest.mark.parametrize("existing", [False, True], ids=["new", "force"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_signal_while_writing(section, tmp_path, monkeypatch, number, existing):
    target = tmp_path / "out.h5ad"
    if existing:
        target.write_text(OLD)
    words = ["hold-out", str(section), "-o", str(target), "--quiet", *["--force"] * existing]
    with monkeypatch.context() as patched:
        stop_half_way(patched, lambda: None)
        child = run_in_child(words)
        wait_for(tmp_path / "half")
        os.kill(child.pid, number)
        child.join(20)
    assert child.exitcode == (130 if number != signal.SIGKILL else -signal.SIGKILL)
    assert target.exists() == existing
    if existing:
        assert target.read_text() == OLD
    left = list(tmp_path.glob(".out.h5ad-*"))
    assert len(left) == (number == signal.SIGKILL), "only a process that is killed leaves something"
    assert main(words) == 0
    assert anndata.read_h5ad(target).n_obs == 117
    assert {path.name for path in tmp_path.iterdir()} == {"out.h5ad", "half"}, "the next run clears that away"


def test_a_kill_between_the_two_halves_of_an_exchange(section, tmp_path, monkeypatch):
    target = tmp_path / "out.zarr"
    words = ["hold-out", str(section), "-o", str(target), "--quiet", "--force"]
    assert main(words) == 0
    (target / "mark").touch()
    rename = os.rename

    def die_after(source, to):
        rename(source, to)
        if str(to).endswith("old"):
            os.kill(os.getpid(), signal.SIGKILL)

    child = run_in_child(words, lambda: monkeypatch.setattr(os, "rename", die_after))
    child.join(30)
    assert child.exitcode == -signal.SIGKILL
    assert not target.exists()
    assert main(words[:-1]) == 1, "the old store is back, and is not replaced without --force"
    assert (target / "mark").exists()
    assert anndata.read_zarr(target).n_obs == 117
    assert not list(tmp_path.glob(".out.zarr-*"))


@pytest.mark.parametrize("name", ["out.h5ad", "out.zarr"])
def test_a_full_disk(section, tmp_path, name, capfd):
    target = tmp_path / name

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    child = run_in_child(["hold-out", str(section), "-o", str(target), "--quiet", "--compression", "none"], fill)
    child.join(30)
    assert child.exitcode == 1
    assert not list(tmp_path.iterdir())
    error = capfd.readouterr().err
    assert re.fullmatch(
        f"snrmix: error: output '.*{name}' could not be written: the disk is full; nothing was changed.\n", error
    )


def test_a_folder_that_cannot_be_written_to(section, tmp_path, monkeypatch, capsys):
    import tempfile

    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert main(["hold-out", str(section), "-o", str(tmp_path / "out.h5ad")]) == 1
    assert capsys.readouterr().err.endswith("out.h5ad' cannot be written: Permission denied.\n")


def test_help_is_quick():
    started = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "snrmix.cli", "impute", "--help"], check=True, stdout=subprocess.DEVNULL)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = ended.ru_utime + ended.ru_stime - started.ru_utime - started.ru_stime
    assert seconds < 0.5, "of processor time: what a machine that does nothing else needs"


def test_a_terminal_has_bars_and_ctrl_c_ends_a_run(section, tmp_path):
    words = ["impute", str(section), "-o", str(tmp_path / "out.h5ad"), "--encoder", "colour", "--max-epochs", "100000"]
    words += ["--no-early-stopping", "--verbose"]
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    run = subprocess.Popen([sys.executable, "-m", "snrmix.cli", *words], stderr=theirs, env=environment)
    os.close(theirs)
    said = b""
    while not re.search(rb"networks.* \d+%\|", said):
        said += os.read(ours, 4096)
    run.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # how a terminal says that nobody is there any more
        while rest := os.read(ours, 4096):
            said += rest
    os.close(ours)
    assert run.wait(60) == 130
    assert re.search(rb"embedding.* \d+%\|", said)
    assert re.search(rb"[\r\n]snrmix: fill=", said), "without a time"
    assert b"snrmix: error: interrupted" in said
    assert not list(tmp_path.iterdir())
