"""The Dockerfile, as far as it can be checked without Docker: files, arguments, user, and the syntax of its commands."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import snrmix

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def steps():
    """Instructions and what follows them, long lines joined."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def test_commands_are_shell(steps):
    commands = [rest for name, rest in steps if name == "RUN"]
    assert len(commands) == 4
    for command in commands:
        subprocess.run(["sh", "-n", "-c", command], check=True)
    assert sum("-c constraints.txt" in command for command in commands) == 2


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"DEVICE": "cpu", "TORCH_INDEX": "INDEX"}, "-c constraints.txt --index-url INDEX torch"),
        ({"DEVICE": "cpu", "TORCH_INDEX": ""}, "-c constraints.txt torch"),
        ({"DEVICE": "gpu", "TORCH_INDEX": "INDEX"}, "-c constraints.txt torch"),
    ],
)
def test_build_arguments_choose_the_build_of_torch(steps, values, expected):
    command = next(rest for name, rest in steps if name == "RUN" and "TORCH_INDEX" in rest)
    said = subprocess.run(
        ["sh", "-c", f'pip() {{ echo "$@"; }}; {command}'], env=values, capture_output=True, text=True, check=True
    ).stdout
    assert said.strip() == f"install --no-cache-dir {expected}"


def test_copied_files_are_there_and_sent(steps):
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for name, rest in steps:
        if name == "COPY":
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists()
                assert source in sent


def test_extras_exist(steps):
    extras = next(rest for name, rest in steps if name == "ARG" and rest.startswith("EXTRAS=")).removeprefix("EXTRAS=")
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= set(known)


def test_a_user_runs_the_command(steps):
    last = dict(steps)
    assert last["USER"] != "root"
    assert json.loads(last["ENTRYPOINT"]) == ["snrmix"]
    assert [name for name, _ in steps].index("USER") > max(i for i, (name, _) in enumerate(steps) if name == "RUN")


def test_what_is_copied_is_enough_to_install(steps, tmp_path):
    """Version, readme and licence of the package are among it."""
    for name, rest in steps:
        if name == "COPY":
            *sources, target = rest.split()
            for source in sources:
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, tmp_path / target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy2(ROOT / source, tmp_path / source)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert wheel.name == f"snrmix-{snrmix.__version__}-py3-none-any.whl"
