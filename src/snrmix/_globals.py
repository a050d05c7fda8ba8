"""Settings of the whole process or thread, put aside while the library works: results depend on data and arguments alone."""

from __future__ import annotations

import importlib
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

NUMPY = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}  # its own defaults
PRECISE = ("ieee", "none")  # of products of float32; others are faster, and differ by a thousandth or more
OWN = "snrmix."
Function = TypeVar("Function", bound=Callable)  # what a decorator gives back: to a type checker, what it was given

_lock = threading.Lock()
_inside = 0
_of_the_process = ExitStack()


@contextmanager
def settled() -> Iterator[None]:
    """Work with ordinary settings, whatever the user's are, and leave the user's as they were.

    These are: torch's default type and device, precision of products, gradients, inference mode and autocast; numpy's
    treatment of overflow and the like; how scikit-learn returns arrays; and filters of warnings, of which only those that
    name this package are heeded. Use it as ``with settled():``, or as a decorator: ``@settled()``.
    """
    with _settled_process(), ExitStack() as stack:
        _settle_thread(stack)
        yield


@contextmanager
def _settled_process() -> Iterator[None]:
    """Several threads may be inside: the first one changes what all share, and the last one restores it."""
    global _inside
    with _lock:
        if not _inside:
            with ExitStack() as stack:
                _settle_process(stack)
                _of_the_process.push(stack.pop_all())
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _of_the_process.close()


def _settle_process(stack: ExitStack) -> None:
    stack.enter_context(warnings.catch_warnings())
    about_own = [entry for entry in warnings.filters if entry[3] is not None and re.match(entry[3], OWN)]
    warnings.resetwarnings()
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", module=r"snrmix\.")
    warnings.filters[:0] = about_own
    if (torch := _loaded("torch")) is not None:
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)
        _settle_precision(torch, stack)


def _settle_precision(torch, stack: ExitStack) -> None:
    """Full precision of products of float32, by the older and the newer switch, which torch wants not to be mixed.

    Convolutions on a GPU have less by default: features would differ from a processor's by a thousandth.
    """
    backends = torch.backends
    ours = (backends.mkldnn, "matmul"), (backends.mkldnn, "conv"), (backends.cudnn, "conv"), (backends.cudnn, "rnn")
    switches = [backends.cuda.matmul, *(getattr(backend, name, None) for backend, name in ours)]
    switches = [switch for switch in switches if getattr(switch, "fp32_precision", "none") not in PRECISE]
    for switch in switches:
        stack.callback(setattr, switch, "fp32_precision", switch.fp32_precision)
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # the newer one was used
        before = "highest"
    if before != "highest":
        stack.callback(torch.set_float32_matmul_precision, before)
        torch.set_float32_matmul_precision("highest")
    for switch in switches:
        switch.fp32_precision = "ieee"


def _settle_thread(stack: ExitStack) -> None:
    import numpy as np

    stack.enter_context(np.errstate(call=None, **NUMPY))
    if (sklearn := _loaded("sklearn")) is not None:
        stack.enter_context(sklearn.config_context(transform_output="default", array_api_dispatch=False))
    if (torch := _loaded("torch")) is not None:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.callback(torch.set_num_threads, torch.get_num_threads())  # numba, in other packages, sets them to all
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for device in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))


def _loaded(package: str):
    """A package that is loaded: one that is not has no settings but its defaults."""
    return importlib.import_module(package) if package in sys.modules else None  # waits for a thread that loads it
