"""A network from the patches of a spot to its expression."""

from __future__ import annotations

from collections.abc import Callable

import torch

from snrmix._memory import in_parts
from snrmix.engine.patches import to_float

CHUNK = 64  # sites encoded at once without gradients


class PatchNetwork(torch.nn.Module):
    """One encoder for all scales, and a linear head on their standardised features.

    Parameters
    ----------
    encoder
        From float RGB in 0..1, (b, 3, size, size), to features (b, d).
    centre, inverse_scale
        Standardise the features, float32, each shape (scales x d,).
    weight, bias
        The head, float32, shapes (scales x d, outputs) and (outputs,).
    precision
        Of the encoder, see `Finetuning`.
    """

    def __init__(self, encoder, centre, inverse_scale, weight, bias, precision: str):
        super().__init__()
        self.encoder, self.precision = encoder, precision
        self.register_buffer("centre", torch.as_tensor(centre))
        self.register_buffer("inverse_scale", torch.as_tensor(inverse_scale))
        self.weight = torch.nn.Parameter(torch.as_tensor(weight))
        self.bias = torch.nn.Parameter(torch.as_tensor(bias))

    def forward(self, patches: torch.Tensor, keep: torch.Tensor | float = 1.0) -> torch.Tensor:
        """Outputs (b, outputs) of patches (b, scales, 3, size, size); features are multiplied by ``keep``."""
        features = encode_scales(self.encoder, patches, self.precision)
        return ((features - self.centre) * self.inverse_scale * keep) @ self.weight + self.bias

    def train(self, mode: bool = True):
        """Training mode for all but batch norms."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self


def predict(network: PatchNetwork, weights: dict[str, torch.Tensor], read, rows: torch.Tensor) -> torch.Tensor:
    """Outputs for sites, (len(rows), outputs), with other weights than its own; its mode is left as it was."""
    training = network.training
    network.eval()
    outputs = without_gradients(lambda some: torch.func.functional_call(network, weights, to_float(read(some))), rows)
    network.train(training)
    return outputs


def without_gradients(compute: Callable, rows: torch.Tensor) -> torch.Tensor:
    """What ``compute`` gives for chunks of the rows, or for less where a GPU has no room for them, joined."""
    with torch.no_grad():
        return torch.cat(
            [
                part
                for some in rows.split(CHUNK)
                for part in in_parts(lambda own, some=some: compute(some[own]), len(some))
            ]
        )


def encode_scales(encoder: torch.nn.Module, patches: torch.Tensor, precision: str) -> torch.Tensor:
    """Features, float32, (b, scales x d), of patches (b, scales, 3, size, size)."""
    wanted = precision == "bf16"
    if precision == "auto":
        wanted = patches.device.type == "cuda" and torch.cuda.is_bf16_supported()
    with torch.autocast(patches.device.type, torch.bfloat16, enabled=wanted):
        features = encoder(patches.flatten(0, 1))
    return features.float().reshape(len(patches), -1)
