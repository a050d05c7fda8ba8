"""What a run costs beside other busy processes, with one thread and with all of them.

    python benchmarks/threads.py [--busy 7] [--section FILE] [--out FILE.csv]

A machine of P processors gives each of n + 1 busy processes P / (n + 1) of a processor. A run that needs c seconds of one
processor when it is alone should then take c (n + 1) / P seconds: its fair share is used up. What takes longer lost time to
threads that wait for each other. The load of the machine before the start is printed: other work beside it spoils the figures.
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

import pandas as pd

import snrmix
from snrmix.plan.threads import PATIENT, available_threads


def spin():
    """A busy process."""
    while True:
        pass


def run(section: Path, threads: int) -> tuple[float, float]:
    """Seconds on the clock and of processors that an imputation takes, without loading its packages."""
    code = (
        "import sys, time, resource, anndata, snrmix\n"
        "from snrmix.plan.threads import limited_threads\n"
        "import snrmix.tl, squidpy, lightning\n"
        "adata = anndata.read_h5ad(sys.argv[1])\n"
        "with limited_threads(int(sys.argv[2])):\n"
        "    snrmix.tl.impute(adata.copy(), encoder='colour', n_folds=2, max_epochs=1)\n"  # loads what is left
        "    use = lambda: sum(resource.getrusage(resource.RUSAGE_SELF)[:2])\n"
        "    clock, cpu = time.perf_counter(), use()\n"
        "    snrmix.tl.impute(adata, encoder='colour')\n"
        "    print(time.perf_counter() - clock, use() - cpu)\n"
    )
    environment = {**os.environ, **PATIENT, "TQDM_DISABLE": "1", "OMP_NUM_THREADS": str(threads)}
    said = subprocess.run(
        [sys.executable, "-c", code, section, str(threads)], env=environment, capture_output=True, text=True, check=True
    )
    clock, cpu = map(float, said.stdout.split()[-2:])
    return clock, cpu


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--busy", type=int, default=7, help="busy processes beside the run")
    arguments.add_argument("--section", type=Path, help=".h5ad; by default a synthetic section")
    arguments.add_argument("--out", type=Path, help="table of the results, CSV")
    options = arguments.parse_args()
    os.environ.pop("OMP_NUM_THREADS", None)
    processors = available_threads()
    print(f"{processors} processors; load before the start: {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        section = options.section or Path(folder) / "section.h5ad"
        if options.section is None:
            snrmix.datasets.synthetic_tissue(n_rows=24, n_genes=200).write_h5ad(section)
        rows = []
        for threads in sorted({1, processors}):
            clock, cpu = run(section, threads)
            rows.append({"threads": threads, "busy": 0, "seconds": clock, "processor_seconds": cpu})
            print(rows[-1], flush=True)
            others = [multiprocessing.Process(target=spin, daemon=True) for _ in range(options.busy)]
            for other in others:
                other.start()
            time.sleep(1)
            slow, used = run(section, threads)
            for other in others:
                other.kill()
            fair = cpu * (options.busy + 1) / processors
            rows.append(
                {
                    "threads": threads,
                    "busy": options.busy,
                    "seconds": slow,
                    "processor_seconds": used,
                    "of_fair_share": slow / fair,
                }
            )
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    print(table.round(2).to_string(index=False))
    if options.out:
        table.to_csv(options.out, index=False)


if __name__ == "__main__":
    main()
