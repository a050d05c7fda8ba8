"""What is free: of the host, of the container, of the process."""

import subprocess
import sys

import psutil
import pytest

from snrmix import _memory

GB = 10**9


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A host with 64 GB free, and control groups as a folder: from version, own path and {folder: {file: content}}."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 64 * GB}))
    monkeypatch.setattr(_memory, "_left_of_address_space", lambda: [])

    def make(own: str, folders: dict):
        for folder, files in folders.items():
            (tmp_path / "groups" / folder).mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                (tmp_path / "groups" / folder / name).write_text(f"{content}\n")
        (tmp_path / "own").write_text(own)
        monkeypatch.setattr(_memory, "OWN_GROUP", tmp_path / "own")
        monkeypatch.setattr(_memory, "GROUPS", tmp_path / "groups")

    return make


def second(limit, use, cache=0):
    return {"memory.max": limit, "memory.current": use, "memory.stat": f"anon 7\ninactive_file {cache}\nactive_file 0"}


def first(limit, use, cache=0):
    stat = f"cache {9 * GB}\ntotal_inactive_file {cache}\ntotal_active_file 0"
    return {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": use, "memory.stat": stat}


V1 = "5:cpu,cpuacct:/job\n4:memory:/slurm/job\n1:name=systemd:/x\n"


@pytest.mark.parametrize(
    ("own", "folders", "expected"),
    [
        ("0::/\n", {"": {}}, 64),  # a host: the outermost group has no limit
        ("0::/\n", {"": second(8 * GB, 3 * GB)}, 5),
        ("0::/\n", {"": second(8 * GB, 6 * GB, cache=2 * GB)}, 4),  # page cache is given back
        ("0::/\n", {"": second("max", 3 * GB)}, 64),
        ("0::/a/b\n", {"a": second(10 * GB, 9 * GB), "a/b": second(8 * GB, 1 * GB)}, 1),  # a group around it
        ("0::/a/b\n", {"a": second("max", 9 * GB), "a/b": second(8 * GB, 1 * GB)}, 7),
        ("0::/elsewhere\n", {"": second(8 * GB, 3 * GB)}, 5),  # the path is the host's, the folder the container's
        ("0::/\n", {"": second(100 * GB, 3 * GB)}, 64),
        ("0::/\n", {"": second(2 * GB, 3 * GB)}, 0),
        (V1, {"memory/slurm/job": first(6 * GB, 5 * GB, cache=1 * GB)}, 2),
        (V1, {"memory": first(6 * GB, 5 * GB)}, 1),
        (V1, {"memory/slurm/job": first(9223372036854771712, 5 * GB)}, 64),  # no limit
        (V1, {"job": first(1 * GB, 0)}, 64),  # of another controller
        ("", {}, 64),
    ],
)
def test_the_least_counts(machine, own, folders, expected):
    machine(own, folders)
    assert _memory.free_memory() == expected * GB


def test_a_machine_without_control_groups(machine, monkeypatch, tmp_path):
    machine("", {})
    monkeypatch.setattr(_memory, "OWN_GROUP", tmp_path / "absent")
    assert _memory.free_memory() == 64 * GB


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits")
def test_a_limit_of_the_address_space_counts():
    code = (
        "import resource, psutil; from snrmix._memory import free_memory; used = psutil.Process().memory_info().vms;"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000, resource.RLIM_INFINITY)); print(free_memory())"
    )
    found = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 200_000_000 < found <= 300_000_000
