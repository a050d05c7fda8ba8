"""How many threads there are: the least that affinity, container and environment leave."""

import os

import pytest

from snrmix import _memory
from snrmix.plan.threads import available_threads, limited_threads


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of eight processors; writes limits of control groups."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(_memory, "GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(_memory, "OWN_GROUP", tmp_path / "membership")
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "membership").write_text("0::/\n")

    def limit(membership, **files):
        (tmp_path / "membership").write_text(membership)
        for name, text in files.items():
            path = tmp_path / "cgroup" / name.replace("__", "/").replace("_max", ".max").replace("cfs", "cpu.cfs")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return limit


def test_no_limit(machine):
    assert available_threads() == 8


@pytest.mark.parametrize(("quota", "expected"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 8)])
def test_limit_of_the_second_version(machine, quota, expected):
    machine("0::/\n", cpu_max=quota)
    assert available_threads() == expected


def test_limit_of_a_group_around(machine):
    machine("0::/slurm/job\n", slurm__job__cpu_max="max 100000", slurm__cpu_max="300000 100000")
    assert available_threads() == 3


def test_limit_of_the_first_version(machine):
    machine("4:cpu,cpuacct:/docker\n", cpu__docker__cfs_quota_us="200000", cpu__docker__cfs_period_us="100000")
    assert available_threads() == 2
    machine("4:cpu,cpuacct:/docker\n", cpu__docker__cfs_quota_us="-1", cpu__docker__cfs_period_us="100000")
    assert available_threads() == 8


@pytest.mark.parametrize(("given", "expected"), [("3", 3), ("2,4", 2), ("16", 8), ("", 8), ("many", 8)])
def test_environment(machine, monkeypatch, given, expected):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert available_threads() == expected


def test_affinity(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert available_threads() == 1


def test_limit_reaches_what_is_loaded_and_what_will_be_and_ends(monkeypatch):
    import torch
    from threadpoolctl import threadpool_info

    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    before = torch.get_num_threads(), [pool["num_threads"] for pool in threadpool_info()]
    with limited_threads(1) as n:
        assert n == 1
        assert torch.get_num_threads() == 1
        assert {pool["num_threads"] for pool in threadpool_info()} == {1}
        assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "1"
        assert os.environ["OMP_WAIT_POLICY"] == "passive"
    assert os.environ["OMP_NUM_THREADS"] == "2"
    assert "MKL_NUM_THREADS" not in os.environ
    assert "OMP_WAIT_POLICY" not in os.environ
    assert before == (torch.get_num_threads(), [pool["num_threads"] for pool in threadpool_info()])


def test_openblas_has_one_thread():
    import numpy  # noqa: F401 (loads it)
    from threadpoolctl import threadpool_info

    with limited_threads(2):
        counts = {pool["internal_api"]: pool["num_threads"] for pool in threadpool_info()}
        assert counts.get("openblas", 1) == 1
        assert counts.get("openmp", 2) == 2


def test_fewer_than_one():
    with pytest.raises(ValueError, match="threads=0 must be 1 or more"), limited_threads(0):
        pass
