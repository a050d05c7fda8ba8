"""What a run costs beside seven other busy processes, with all threads and with one.

    python benchmarks/threads.py
    python benchmarks/threads.py --section st_her2_C3 --busy 7 --out docs/_tables

A run needs c seconds of one processor: what it takes alone, with one thread. Busy processes of one thread each run beside it,
and one of them is given f seconds of processors while the run goes on. A run that gets what each of them gets, and wastes
nothing, ends when f = c: f / c is its cost in fair shares, to be at most 1.5. It is below 1 where several threads get several
shares. Both are taken in the same minutes, so that work of others on the machine slows both alike and does not count.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from sections import DATA, RESULTS, machine, write_table

from snrmix.plan.threads import available_threads

COMMAND = [sys.executable, "-m", "snrmix.cli", "impute"]
CAPTION = (
    "Threads: what a run costs beside other busy processes, in fair shares: 1 when it is given what each of them is given, and "
    "wastes nothing"
)
NOTEBOOK = """
import sys, anndata, snrmix
adata = anndata.read_h5ad(sys.argv[1])
snrmix.tl.impute(adata, image=sys.argv[2], genes=int(sys.argv[3]))
adata.write_h5ad(sys.argv[4], compression="gzip")
"""


def spin() -> None:
    """A busy process."""
    while True:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--section", default="st_her2_C3", help="name of a .h5ad with a .jpg of the same name")
    parser.add_argument("--genes", type=int, default=50, help="genes of highest mean")
    parser.add_argument("--busy", type=int, default=7, help="busy processes beside the run")
    parser.add_argument("--times", type=int, default=1, help="how often each is measured; the table has the median")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the sections (default: SNRMIX_DATA)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the table (.csv and .md)")
    options = parser.parse_args()
    for name in [name for name in os.environ if name.endswith("_NUM_THREADS")]:
        del os.environ[name]
    threads, load = available_threads(), os.getloadavg()[0]
    ways = {"`snrmix impute --threads 1`": 1, "`snrmix impute`": None, "`snrmix.tl.impute` in Python": "python"}
    with tempfile.TemporaryDirectory() as folder:
        clock, needed = measure(words(1, options, folder), 0)[:2]
        rows = [("alone, `--threads 1`", clock, needed, np.nan, np.nan)]
        print(*rows[0], flush=True)
        for name, way in ways.items():
            runs = [measure(words(way, options, folder), options.busy) for _ in range(options.times)]
            clock, used, given = np.median(runs, axis=0)
            rows.append((f"{name}, beside {options.busy} busy processes", clock, used, given, given / needed))
            print(*rows[-1], flush=True)
    columns = ["run", "seconds", "of processors", "given to a busy process", "fair shares"]
    note = (
        f"{options.section}, {options.genes} genes, the whole command. {threads} processors; load before the start {load:.1f}. "
        f"Fair shares: what a busy process was given meanwhile over the {needed:.1f} s that the run needs. {machine()}."
    )
    print("\n" + write_table(pd.DataFrame(rows, columns=columns), options.out / "threads", CAPTION, note, decimals=2))


def words(way, options, folder: str) -> list[str]:
    """The command of a run: with one thread, with the threads that it chooses, or from Python."""
    section, out = options.data / f"{options.section}.h5ad", str(Path(folder) / "out.h5ad")
    image = str(section.with_suffix(".jpg"))
    if way == "python":
        return [sys.executable, "-c", NOTEBOOK, str(section), image, str(options.genes), out]
    limit = ["--threads", str(way)] if way else []
    genes = ["--genes", str(options.genes)]
    return [*COMMAND, str(section), "--image", image, "-o", out, "--force", "--quiet", *genes, *limit]


def measure(command: list[str], busy: int) -> tuple[float, float, float]:
    """Seconds on the clock, seconds of processors, and those that one of the busy processes was given meanwhile."""
    others = [multiprocessing.Process(target=spin, daemon=True) for _ in range(busy)]
    for other in others:
        other.start()
    try:
        processes = [psutil.Process(other.pid) for other in others]
        before = [_used(process) for process in processes]
        started = time.perf_counter()
        run = subprocess.Popen(command, env={**os.environ, "TQDM_DISABLE": "1"}, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(run.pid, 0)
        clock = time.perf_counter() - started
        given = [_used(process) - start for process, start in zip(processes, before, strict=True)]
    finally:
        for other in others:
            other.kill()
    if status:
        raise SystemExit(f"{' '.join(command)} failed.")
    return clock, usage.ru_utime + usage.ru_stime, float(np.mean(given)) if given else np.nan


def _used(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


if __name__ == "__main__":
    main()
