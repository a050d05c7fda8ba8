"""What runs an encoder: PyTorch, or on a CPU ONNX Runtime, which takes a quarter of the time for the same features."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from snrmix._log import logger, quiet
from snrmix._names import in_short
from snrmix.images.encoder import Encoder, check_features, encode, on_device
from snrmix.images.onnx_graph import INPUT, OUTPUT

TOLERANCE = 5e-4  # of the root mean square: what storing features in half precision rounds off
COMPARED = 8  # patches
AT_ONCE = 8  # patches per thread, whose intermediate values stay in the processor's cache
SILENT = {
    "ORT_DISABLE_TELEMETRY": "1"
}  # its release builds otherwise report to their makers, from when they are imported


class Running:
    """An encoder that is ready: called with crops, uint8, (b, size, size, 3), it gives checked features, float32, (b, d).

    Parameters
    ----------
    encoder, device
        On which device its function is.
    session
        Of ONNX Runtime; ``None``: PyTorch runs it.
    """

    def __init__(self, encoder: Encoder, device: str, session=None):
        self.encoder, self.device = encoder, device
        self._session, self._is_compared = session, False

    @property
    def name(self) -> str:
        """What runs it, and the version."""
        if self._session is None:
            return "none" if self.encoder.function is None else f"torch {_version('torch')}"
        return f"onnxruntime {_version('onnxruntime')}"

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """Features of crops; the first ones are compared with those of PyTorch, which takes over where they differ."""
        if self._session is None:
            return encode(self.encoder, crops, self.device)
        if not self._is_compared:
            self._compare(crops[:COMPARED])
            return self(crops)
        return check_features(self.encoder, self._run(crops), len(crops))

    def _run(self, crops: np.ndarray) -> np.ndarray:
        step = AT_ONCE * _threads()
        parts = [self._session.run([OUTPUT], {INPUT: crops[i : i + step]})[0] for i in range(0, len(crops), step)]
        return np.concatenate(parts)

    def _compare(self, crops: np.ndarray) -> None:
        self._is_compared, wanted = True, encode(self.encoder, crops, self.device)
        try:
            found = np.asarray(self._run(crops), np.float32)
            if found.shape == wanted.shape and bool(
                np.abs(found - wanted).max() <= TOLERANCE * np.sqrt(np.mean(np.square(wanted, dtype=float)))
            ):
                return
            reason = "gives other features there"
        except Exception as error:  # noqa: BLE001 (whatever it is, PyTorch can do it)
            reason = f"fails there ({in_short(error)})"
        logger.info("encoder %r is run by PyTorch, not ONNX Runtime: it %s.", self.encoder.name, reason)
        self._session = None


@contextlib.contextmanager
def running(encoder: Encoder, device: str) -> Iterator[Running]:
    """Make an encoder ready to run on a device, and leave it as it was.

    PyTorch runs it on a GPU, where ONNX Runtime is not installed, and where the encoder does not ask for that.
    """
    with on_device(encoder.function, device):
        session = _open(encoder) if encoder.run_time == "onnxruntime" and device == "cpu" else None
        yield Running(encoder, device, session)


def _open(encoder: Encoder):
    """A session of ONNX Runtime; ``None`` where it cannot be had."""
    try:
        runtime = _import_runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = _threads(), 1, 4
        options.add_session_config_entry(
            "session.intra_op.allow_spinning", "0"
        )  # threads that wait leave the processor
        graph = _graph_of(encoder)()
        return runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except ImportError as error:
        logger.debug("encoder %r is run by PyTorch: %s", encoder.name, error)
    except Exception as error:  # noqa: BLE001 (exporters raise all kinds)
        logger.info("encoder %r is run by PyTorch, not ONNX Runtime: %s", encoder.name, in_short(error))
    return None


def _import_runtime():
    """ONNX Runtime, without the reports it sends home; where the program had it already, its settings stay."""
    if "onnxruntime" in sys.modules:
        return sys.modules["onnxruntime"]
    before = {name: os.environ.get(name) for name in SILENT}
    os.environ.update(SILENT)
    try:
        import onnxruntime
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    return onnxruntime


def _graph_of(encoder: Encoder) -> Callable[[], bytes]:
    """What makes the model of an encoder in the ONNX format."""
    if hasattr(encoder.function, "to_onnx"):
        return partial(encoder.function.to_onnx, encoder.size)
    return partial(_exported, encoder.function, encoder.size)


def _exported(module, size: int) -> bytes:
    """A module of float RGB in 0..1 as a model of bytes, by PyTorch's exporter, which needs the package onnx."""
    import io

    import torch

    class OfBytes(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, crops):
            return self.module(crops.permute(0, 3, 1, 2).float().div(255))

    file, example = io.BytesIO(), torch.zeros(2, size, size, 3, dtype=torch.uint8)
    how = {"input_names": [INPUT], "output_names": [OUTPUT], "dynamic_axes": {INPUT: {0: "b"}, OUTPUT: {0: "b"}}}
    with quiet("torch.onnx"), contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(OfBytes().eval(), (example,), file, dynamo=False, **how)
    return file.getvalue()


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)
