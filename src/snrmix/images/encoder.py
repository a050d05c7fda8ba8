"""What an encoder is, and how it is run and its output checked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass
from itertools import chain
from numbers import Integral

import numpy as np

from snrmix._memory import in_parts
from snrmix._names import in_short, listing

RUN_TIMES = ("torch", "onnxruntime")


@dataclass(frozen=True)
class Encoder:
    """A patch encoder: what it is called, the patch size it wants, and the function.

    Parameters
    ----------
    name
        Recorded in ``uns``, and compared to decide whether an embedding can be reused.
    function
        Maps patches, shape (b, 3, size, size), to features (b, d); a ``torch.nn.Module`` or any callable. ``None``:
        colour statistics only.
    size
        Side of the resized patch in pixels.
    mean, std
        What the function was trained to see: of each channel of RGB in 0..1, ``mean`` is subtracted and the rest divided
        by ``std``, before ``function``. ``None``: the function takes RGB in 0..1 as it is.
    run_time
        What runs a module on a CPU: ``"torch"``, or ``"onnxruntime"``, where it is installed and gives the same features
        (for a module of your own the package ``onnx`` is needed too). On a GPU it is always PyTorch.

    Attributes
    ----------
    function
        With the normalisation inside: it maps float RGB in 0..1, and is a ``torch.nn.Module`` where ``mean`` and ``std``
        were given.

    Raises
    ------
    ValueError, TypeError
        For a size that is no positive whole number, or ``mean`` and ``std`` that are not three numbers each.

    Examples
    --------
    >>> snrmix.Encoder("my encoder", model, size=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    """

    name: str
    function: Callable | None
    size: int = 128
    mean: InitVar[Sequence[float] | None] = None
    std: InitVar[Sequence[float] | None] = None
    run_time: str = "torch"

    def __post_init__(self, mean, std):
        if self.function is not None and not callable(self.function):
            raise TypeError(f"function of encoder {self.name!r} must be callable, not {type(self.function).__name__}.")
        if not isinstance(self.size, Integral) or self.size < 1:
            raise ValueError(f"size={self.size!r} of encoder {self.name!r} must be a positive number of pixels.")
        if self.run_time not in RUN_TIMES:
            raise ValueError(f"run_time={self.run_time!r} of encoder {self.name!r} must be {listing(RUN_TIMES)}.")
        if mean is None and std is None:
            return
        for key, values, low in (("mean", mean, -np.inf), ("std", std, 0)):
            if np.shape(values) != (3,) or not (np.isfinite(values) & (np.asarray(values) > low)).all():
                raise ValueError(
                    f"{key}={values!r} of encoder {self.name!r} must be three numbers{' above 0' if low == 0 else ''}, "
                    "for red, green and blue."
                )
        from snrmix.images.modules import Normalised

        object.__setattr__(self, "function", Normalised(self.function, mean, std))


@contextlib.contextmanager
def on_device(function, device: str):
    """Move a module to a device in evaluation mode, and leave it as it was; other functions are left alone."""
    if function is None:
        yield
        return
    import torch

    if not isinstance(function, torch.nn.Module):
        yield
        return
    home = next((values.device for values in chain(function.parameters(), function.buffers())), device)
    modes = {module: module.training for module in function.modules()}
    function.to(device).eval()
    try:
        yield
    finally:
        function.to(home)
        for module, mode in modes.items():
            module.training = mode


def encode(encoder: Encoder, crops: np.ndarray, device: str) -> np.ndarray:
    """Features of a batch of crops, checked: float32, shape (b, d) with d >= 0.

    Raises
    ------
    TypeError, ValueError
        When the encoder fails, or returns no array, another shape than (b, d), or values that are not finite.
    """
    if encoder.function is None:
        return np.empty((len(crops), 0), np.float32)
    return np.concatenate(in_parts(lambda some: _encode(encoder, crops[some], device), len(crops)))


def _encode(encoder: Encoder, crops: np.ndarray, device: str) -> np.ndarray:
    import torch

    with torch.inference_mode():
        patches = torch.from_numpy(crops).to(device).permute(0, 3, 1, 2).float().div(255)  # stays channels-last
        try:
            features = encoder.function(patches.to(_type_of(encoder.function)))
        except torch.OutOfMemoryError:
            raise
        except (AssertionError, RuntimeError) as error:
            raise ValueError(
                f"encoder {encoder.name!r} failed on patches of shape {tuple(patches.shape)}: {in_short(error)} "
                "If it takes another size, pass snrmix.Encoder(name, function, size=...)."
            ) from error
    if isinstance(features, torch.Tensor):
        features = features.float().cpu().numpy()
    try:
        features = np.asarray(features, np.float32)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"encoder {encoder.name!r} returned {type(features).__name__}; expected a tensor or array, "
            "(patches, features)."
        ) from error
    return check_features(encoder, features, len(crops))


def check_features(encoder: Encoder, features: np.ndarray, n: int) -> np.ndarray:
    """Features of ``n`` patches; refused where they are not finite, or not of shape (n, d)."""
    if features.ndim != 2 or len(features) != n:
        raise ValueError(
            f"encoder {encoder.name!r} returned shape {features.shape} for {n} patches; expected "
            f"({n}, features): pool over the image, or pass model.forward_features with pooling."
        )
    if not np.isfinite(features).all():
        raise ValueError(f"encoder {encoder.name!r} returned values that are not finite (NaN or infinity).")
    return features


def _type_of(function):
    """The floating point type of a module's parameters, such as half precision; float32 of other functions."""
    import torch

    if not isinstance(function, torch.nn.Module):
        return torch.float32
    return next((p.dtype for p in function.parameters() if p.is_floating_point()), torch.float32)


def probe(encoder: Encoder, device: str) -> np.ndarray:
    """Features of two fixed patches, float32, flat: tells encoders of one name apart, whatever they are made of."""
    noise = np.random.default_rng(0).integers(256, size=(encoder.size, encoder.size, 3), dtype=np.uint8)
    ramp = np.broadcast_to(np.linspace(0, 255, encoder.size).astype(np.uint8)[:, None, None], noise.shape)
    return encode(encoder, np.stack([noise, ramp]), device).ravel()
