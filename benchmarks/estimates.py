"""How near the time that a run says beforehand is to what it takes, stage by stage, on a quiet and on a busy machine.

python benchmarks/estimates.py                        # as the machine is
python benchmarks/estimates.py --busy 4               # beside so many programs that do nothing but compute
python benchmarks/estimates.py --cases "CRC, 250 genes" --threads 1
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
from sections import add_options, load, machine, write_table

import snrmix

COMPUTE = "import numpy as np\na = np.random.rand(800, 800)\nwhile True: a @ a"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_options(parser, sections=[], seeds=[0])
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES), help="what is run")
    parser.add_argument("--busy", type=int, default=0, help="programs that compute beside it")
    parser.add_argument("--threads", type=int, default=1, help="of every program")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(watched(options.child, options)))
        return
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "TQDM_DISABLE": "1"}
    beside = [subprocess.Popen([sys.executable, "-c", COMPUTE], env=environment) for _ in range(options.busy)]
    rows = []
    try:
        for case in options.cases:
            where = ["--data", str(options.data), "--cache", str(options.cache), "--genes", str(options.genes)]
            command = [sys.executable, __file__, "--child", case, *where]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
            rows += json.loads(done.stdout.splitlines()[-1])
            print(f"{case} done", flush=True)
    finally:
        for process in beside:
            process.kill()
    table = pd.DataFrame(rows)
    table["expected / taken"] = table["expected, s"] / table["taken, s"]
    note = f"{options.busy} programs that compute beside it; {options.threads} thread(s) each; {machine()}."
    title = "Time that was said beforehand, and time taken."
    print("\n" + write_table(table, options.out / f"estimates_{options.busy}", title, note, decimals=2))


def watched(case: str, options) -> list[dict]:
    """Seconds by stage as the log has them, and of all from the moment when they were said."""
    logger, found = logging.getLogger("snrmix"), []
    logger.setLevel("DEBUG")
    handler = logging.Handler()
    handler.emit = found.append
    logger.handlers = [handler]
    work = CASES[case](options)
    found.clear()
    work()
    ended = time.time()
    said = [record for record in found if "on this machine" in record.getMessage()]
    stages = [record.args for record in found if "of them work; expected" in record.getMessage()]
    rows = [
        {"run": case, "stage": name, "expected, s": planned, "taken, s": took, "of them work, s": busy}
        for name, took, busy, planned in stages
        if max(took, planned) > 1
    ]
    if said:
        counted = {name: planned for name, *_, planned in stages}
        whole = {"expected, s": sum(counted.values()), "taken, s": ended - said[0].created}
        rows.append({"run": case, "stage": f"all, said: {said[0].getMessage().split(' and ')[-1]}", **whole})
    return rows


def half(name: str, cold: bool, **given):
    """Impute the hidden half of a section, embedded in the call or before."""

    def prepare(options):
        adata, image = load(name, options.data, None if cold else options.cache)
        measured = np.random.default_rng(0).permutation(adata.n_obs) < adata.n_obs // 2
        return lambda: snrmix.tl.impute(adata, measured=measured, **{"genes": options.genes, **image, **given})

    return prepare


def bare(name: str, **given):
    """Impute every gene at every spot."""

    def prepare(options):
        adata, image = load(name, options.data, options.cache)
        return lambda: snrmix.tl.impute(adata, **image, **given)

    return prepare


def compared(name: str):
    """The methods of `snrmix.tl.benchmark`."""

    def prepare(options):
        adata, image = load(name, options.data, options.cache)
        return lambda: snrmix.tl.benchmark(adata, genes=options.genes, **image)

    return prepare


def embedded(name: str):
    """The histology alone."""

    def prepare(options):
        adata, image = load(name, options.data, None)
        return lambda: snrmix.pp.embed_histology(adata, **image)

    return prepare


TUNED = {"finetune": True, "scales": (2.3,), "n_folds": 2}
CASES = {
    "muscle, embedding": embedded("visium_muscle_2dpi"),
    "muscle, cold": half("visium_muscle_2dpi", True),
    "HER2 B4, cold": half("st_her2_B4", True),
    "CRC, cold": half("visium_crc", True),
    "CRC, 250 genes": half("visium_crc", False),
    "CRC, 2,000 genes": bare("visium_crc", genes=2000),
    "CRC, every gene": bare("visium_crc"),
    "muscle, benchmark": compared("visium_muscle_2dpi"),
    "MOB-2, fine-tuning of 5 epochs": half(
        "st_mob_2", False, **TUNED, finetuning=snrmix.Finetuning(max_epochs=5, progress=False)
    ),
}

if __name__ == "__main__":
    main()
