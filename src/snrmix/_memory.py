"""How much main memory is left (of host, container and process), and what to do where a GPU has too little."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

OWN_GROUP = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")
LIMIT_USE_CACHE = {  # files of a control group, and what its memory.stat calls page cache, which is given back when needed
    2: ("memory.max", "memory.current", ("inactive_file", "active_file")),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
}


def free_memory() -> int:
    """Bytes of main memory that this process can still take: the least of what host, container and process limit leave.

    Containers and batch systems limit memory with control groups (version 1 or 2), some with the address space of a
    process; the host's free memory says nothing of either.
    """
    import psutil

    left = [psutil.virtual_memory().available, *_left_in_groups(), *_left_of_address_space()]
    return max(min(left), 0)


def _left_in_groups() -> Iterator[int]:
    """What the limits of the process's control groups, and of those around them, leave."""
    for version, folder in control_groups("memory"):
        limit_file, use_file, cache = LIMIT_USE_CACHE[version]
        limit, use = _number(folder / limit_file), _number(folder / use_file)
        if limit is not None and use is not None:
            yield limit - use + _page_cache(folder / "memory.stat", cache)


def control_groups(controller: str) -> Iterator[tuple[int, Path]]:
    """Version and folder of the process's group and of all around it; in a container the outermost is the container's.

    Parameters
    ----------
    controller
        ``"memory"`` or ``"cpu"``: what the groups limit.
    """
    try:
        lines = OWN_GROUP.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        version, root = (1, GROUPS / controller) if controllers else (2, GROUPS)
        own = Path(path.lstrip("/"))
        for part in (own, *own.parents):
            yield version, root / part


def _number(path: Path) -> int | None:
    """A number from a file; ``None`` where there is no file, or no limit."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # ValueError: "max"
        return None


def _page_cache(path: Path, names: tuple[str, ...]) -> int:
    try:
        found = dict(line.split() for line in path.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return sum(int(found.get(name, 0)) for name in names)


def _left_of_address_space() -> Iterator[int]:
    """What ``ulimit -v`` leaves."""
    try:
        import resource
    except ImportError:  # Windows
        return
    import psutil

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        yield limit - psutil.Process().memory_info().vms


def in_parts(compute: Callable, rows: int) -> list:
    """What ``compute(slice)`` gives for all rows, in order; a part for which a GPU has no room is halved, and so are later ones.

    Raises
    ------
    MemoryError
        Where not even one row fits.
    """
    import torch

    found, first, size = [], 0, rows
    while first < rows or not found:
        try:
            found.append(compute(slice(first, min(first + size, rows))))
        except torch.OutOfMemoryError as error:
            size = halved(size, 1, error)
        else:
            first += size
    return found


def halved(size: int, smallest: int, error: Exception) -> int:
    """Half of a batch for which the GPU had no room, said once; what is cached there is given back.

    Raises
    ------
    MemoryError
        When there is nothing to halve.
    """
    import torch

    error.__traceback__ = None  # its frames hold what did not fit
    if size <= smallest:
        raise MemoryError(
            f"the GPU has no room for {size} patches at once: close what else uses it, or pass accelerator='cpu'."
        ) from error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    logging.getLogger("snrmix").info("the GPU has no room for batches of %d; going on with %d.", size, size // 2)
    return size // 2
