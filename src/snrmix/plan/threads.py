"""How many threads there are for this process, and how to use no more."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from snrmix._memory import control_groups

PATIENT = {
    # Threads that wait for work sleep, and do not spin. OpenBLAS, which NumPy and SciPy bring, spins all the same: it gets one
    # thread. Beside other work, two of its threads took twice the processor time of one for the same run.
    "OMP_WAIT_POLICY": "passive",
    "KMP_BLOCKTIME": "0",
    "OPENBLAS_NUM_THREADS": "1",
}
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_MAX_THREADS")


def available_threads() -> int:
    """Processors that this process may use: the least of its affinity, the limit of its container, ``OMP_NUM_THREADS``."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [affinity, *(n for _, folder in control_groups("cpu") for n in _quota(folder))]
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if asked.isdigit() and int(asked) > 0:
        limits.append(int(asked))
    return max(1, min(limits))


def _quota(folder: Path) -> list[int]:
    """What a control group (of either version) allows, in whole processors; empty where it does not limit them."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return [math.ceil(int(quota) / int(period))] if quota not in ("max", "-1") else []
    except (OSError, ValueError):
        return []


@contextmanager
def limited_threads(n: int | None = None) -> Iterator[int]:
    """Use at most ``n`` threads (``None``: all that are available) in what is loaded already and what is loaded later.

    They are those of torch; OpenBLAS gets one, see `PATIENT`.

    Raises
    ------
    ValueError
        For fewer than one.
    """
    if n is not None and n < 1:
        raise ValueError(f"threads={n} must be 1 or more.")
    n = n if n is not None else available_threads()
    wanted = {
        **{name: os.environ.get(name, value) for name, value in PATIENT.items()},
        **dict.fromkeys(VARIABLES, str(n)),
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    torch = sys.modules.get("torch")
    torch_before = torch.get_num_threads() if torch else None
    try:
        with _loaded(n):
            if torch:
                torch.set_num_threads(n)
            yield n
    finally:
        if torch:
            torch.set_num_threads(torch_before)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def _loaded(n: int) -> Iterator[None]:
    """Limit the libraries of linear algebra that the process has loaded."""
    if "numpy" not in sys.modules:  # they will look at the environment
        yield
        return
    from threadpoolctl import ThreadpoolController

    loaded = ThreadpoolController()
    with loaded.limit(limits=n), loaded.select(internal_api="openblas").limit(limits=1):
        yield
