"""How long things take: import, encoder, embedding, imputation of small and large sections, and peak memory.

    python benchmarks/speed.py
    python benchmarks/speed.py --small st_her2_C3 --jobs import embedding impute

Every time is also given as a multiple of a fixed reference calculation, measured in the same run, because machines
differ and change.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
from sections import add_options, load, machine, write_table

JOBS = ("import", "encoder", "embedding", "impute", "large", "all genes")
SCIENTIFIC = "import anndata, dask.array, matplotlib, numpy, pandas, scipy.sparse"
GENES = 250
REFERENCE_SIZE, REFERENCE_TIMES = 2000, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_options(parser)
    parser.add_argument("--small", default="visium_muscle_2dpi", help="section for embedding and imputing")
    parser.add_argument("--large", default="visium_crc", help="section for the large jobs")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS), help="what to time")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(impute_and_weigh(*options.child, options)))
        return
    rows = []
    for job in options.jobs:
        for what, value, unit in RUN[job](options):
            rows.append({"what": what, "value": value, "unit": unit})
            print(f"{what}: {value:.2f} {unit}", flush=True)
    unit = reference_seconds()
    table = pd.DataFrame(rows)
    seconds = table["value"].where(table["unit"] == "s")
    table["multiple of the reference"] = seconds / unit
    note = (
        f"Reference: {REFERENCE_TIMES} products of two {REFERENCE_SIZE} x {REFERENCE_SIZE} matrices in single precision, "
        f"{unit:.2f} s. {machine()}."
    )
    print("\n" + write_table(table, options.out / "speed", "Times and memory", note, decimals=2))


def time_import(options):
    """Seconds that snrmix adds to the packages that it cannot do without, in a fresh process; the median of five."""
    alone = median_seconds(SCIENTIFIC)
    yield "import of anndata, dask, matplotlib, numpy, pandas, scipy", alone, "s"
    yield "import snrmix beyond these", median_seconds(f"{SCIENTIFIC}, snrmix") - alone, "s"


def median_seconds(statement: str, times: int = 5) -> float:
    code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    runs = [
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True) for _ in range(times)
    ]
    return float(np.median([float(run.stdout) for run in runs]))


def time_encoder(options):
    """Milliseconds that the default encoder takes for a patch in what may run it, the fastest of some times."""
    from snrmix._progress import fastest
    from snrmix.images.encoder import RUN_TIMES
    from snrmix.images.encoders import resolve_encoder
    from snrmix.images.run_time import running

    encoder = resolve_encoder("efficientnet_lite0")
    crops = np.random.default_rng(0).integers(256, size=(64, encoder.size, encoder.size, 3), dtype=np.uint8)
    for run_time in RUN_TIMES:
        with running(replace(encoder, run_time=run_time), "cpu") as encode:
            seconds = fastest(partial(encode, crops), 5)
            yield f"a patch of the default encoder, {encode.name}", 1000 * seconds / len(crops), "ms"


def time_embedding(options):
    """Spots per second at the scales that the image holds, without an embedding to reuse."""
    import snrmix

    adata, image = load(options.small, options.data, cache=None)
    started = time.perf_counter()
    snrmix.pp.embed_histology(adata, **image)
    seconds = time.perf_counter() - started
    scales = len(adata.uns["X_histology"]["scales"])
    yield f"embedding {options.small}, {adata.n_obs} spots at {scales} scales", seconds, "s"
    yield "embedding", adata.n_obs / seconds, "spots/s"


def time_impute(options):
    """Half of a small section from the other half: a fresh process for the cold call, and once more."""
    for name in ("cold", "warm"):
        seconds, _ = in_process("impute", options.small, name, options)
        yield f"impute {options.small}, {GENES} genes, {name}", seconds, "s"


def time_large(options):
    seconds, memory = in_process("impute", options.large, "warm", options)
    yield f"impute {options.large}, {GENES} genes, embedded before", seconds, "s"
    yield "its peak memory", memory, "GB"


def time_all_genes(options):
    seconds, memory = in_process("bare", options.large, "warm", options)
    yield f"impute {options.large}, all genes, all spots measured, embedded before", seconds, "s"
    yield "its peak memory", memory, "GB"


RUN = dict(zip(JOBS, (time_import, time_encoder, time_embedding, time_impute, time_large, time_all_genes), strict=True))


def in_process(kind: str, section: str, state: str, options) -> tuple[float, float]:
    """Seconds of the call and peak memory of the process, in GB, measured in a process of its own."""
    where = ["--data", str(options.data), "--cache", str(options.cache)]
    command = [sys.executable, __file__, "--child", kind, section, state, *where]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def impute_and_weigh(kind: str, section: str, state: str, options) -> tuple[float, float]:
    """Impute as the parent asked: half of the spots (``impute``), or without any argument (``bare``)."""
    import snrmix

    adata, image = load(section, options.data, options.cache if state == "warm" else None)
    given = {}
    if kind == "impute":
        measured = np.random.default_rng(0).permutation(adata.n_obs) < adata.n_obs // 2
        given = {"measured": measured, "genes": GENES}
    started = time.perf_counter()
    snrmix.tl.impute(adata, **given, **image)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB; bytes on macOS
    return seconds, peak * (1 if sys.platform == "darwin" else 1024) / 1e9


def reference_seconds() -> float:
    """The fixed calculation that other times are compared with."""
    a = np.random.default_rng(0).random((REFERENCE_SIZE, REFERENCE_SIZE), dtype=np.float32)
    started = time.perf_counter()
    for _ in range(REFERENCE_TIMES):
        a @ a
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
