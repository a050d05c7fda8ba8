"""Where a cohort is worked on: workers of this machine, or of a scheduler that is there already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from snrmix._log import logger
from snrmix._memory import free_memory
from snrmix.data.paths import kind_of
from snrmix.plan.cost import Run
from snrmix.plan.threads import PATIENT, VARIABLES, available_threads
from snrmix.tl._cohort_unit import Unit

FEATURES = 5 * (1280 + 22)  # of the default encoder, at the five scales of a fine image
DENSITY = 0.1  # of a matrix of counts, whose entries take 8 bytes
REACH = 10  # seconds to wait for a scheduler
MISSING = "pip install distributed"


@contextmanager
def connected(client, scheduler: str | None, workers: int | None, units: Sequence[Unit]) -> Iterator[tuple]:
    """A client, and the threads that a sample may use (``None``: what its worker has).

    Raises
    ------
    ImportError, OSError, ValueError
        When dask.distributed is missing, the scheduler cannot be reached, or a number of workers makes no sense.
    """
    try:
        import distributed
    except ImportError as error:
        raise ImportError(f"a cohort needs dask.distributed: {MISSING}.") from error
    if client is not None:
        yield client, None
        return
    if scheduler is not None:
        with _reached(distributed, scheduler) as client:
            yield client, None
        return
    n, threads, memory = plan_workers(units, workers)
    with _local(distributed, n, threads, memory) as cluster, distributed.Client(cluster) as client:
        logger.info("%d workers with %d threads and %.1f GB of memory each.", n, threads, memory / 1e9)
        yield client, threads


@contextmanager
def _reached(distributed, scheduler: str) -> Iterator:
    try:
        client = distributed.Client(scheduler, timeout=REACH)
    except (OSError, ValueError, TimeoutError) as error:
        raise OSError(f"scheduler {scheduler!r} cannot be reached; is it running, and is the address right?") from error
    with client:
        yield client


def _local(distributed, n: int, threads: int, memory: float):
    """Workers in processes of their own, with one graphics processor each where there are several."""
    graphics = count_graphics_processors()
    base = {**PATIENT, **dict.fromkeys(VARIABLES, str(threads))}
    workers = {}
    for number in range(n):
        own = {"CUDA_VISIBLE_DEVICES": str(number % graphics)} if graphics > 1 else {}
        options = {"nthreads": 1, "memory_limit": int(memory), "dashboard": False, "env": {**base, **own}}
        workers[number] = {"cls": distributed.Nanny, "options": options}
    scheduler = {"cls": distributed.Scheduler, "options": {"dashboard_address": ":0", "host": "127.0.0.1", "port": 0}}
    return distributed.SpecCluster(scheduler=scheduler, workers=workers, silence_logs=50)


def count_graphics_processors() -> int:
    """Those that torch can use."""
    import torch

    return torch.cuda.device_count()


def plan_workers(units: Sequence[Unit], workers: int | None = None) -> tuple[int, int, float]:
    """How many workers this machine has room for, the threads of each, and its memory in bytes.

    As many as there are graphics processors, or else processors, as long as each can hold the largest unit.

    Raises
    ------
    ValueError
        For fewer than one.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers} must be 1 or more.")
    free, threads, graphics = free_memory(), available_threads(), count_graphics_processors()
    largest = max(estimate(unit) for unit in units)
    n = workers or max(1, min(graphics if graphics else threads, int(free // largest)))
    n = min(n, len(units))
    return n, max(1, threads // n), free / n


def estimate(unit: Unit) -> float:
    """Bytes that a unit will take, from the sizes of its tables: more than `snrmix.tl.impute` will say, once it is read."""
    shapes = [shape_of(sample.path) for sample in unit.samples]
    sites, columns = sum(n for n, _ in shapes), max(genes for _, genes in shapes)
    asked = unit.arguments(unit.samples[0]).get("genes")
    genes = min(asked, columns) if isinstance(asked, int) else columns
    run = Run(sites, sites, genes, columns, FEATURES, 5, patches=5 * sites)
    return run.bytes + 8 * DENSITY * sites * columns


def shape_of(path: Path) -> tuple[int, int]:
    """Rows and columns of the table at a path, without reading it; a typical section where that cannot be told."""
    typical = 4000, 20000
    try:
        kind = kind_of(path)
        if kind == "h5ad":
            import h5py

            with h5py.File(path, "r") as file:
                return tuple(_length(file[frame]) for frame in ("obs", "var"))
        if kind == "spaceranger":
            return typical
        import zarr

        store = zarr.open_group(path, mode="r", use_consolidated=False)
        groups = [store] if kind == "anndata" else [group for _, group in store["tables"].groups()]
        shapes = [tuple(_length(group[frame]) for frame in ("obs", "var")) for group in groups]
        return max(shapes)
    except Exception:  # noqa: BLE001 (a file that cannot be read is refused by the worker, with its sentence)
        return typical


def _length(frame) -> int:
    return frame[frame.attrs["_index"]].shape[0]
