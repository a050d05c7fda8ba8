"""The torch modules that encoders are put together from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn.functional import avg_pool2d

STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11))  # optical density of haematoxylin and eosin in RGB
LEVELS = 3


class Normalised(torch.nn.Module):
    """A function of normalised patches, as a function of RGB in 0..1.

    Parameters
    ----------
    function
        Takes (patches - mean) / std, shape (b, 3, size, size).
    mean, std
        Of red, green and blue.
    """

    def __init__(self, function: Callable, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.function = function
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(3, 1, 1))

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Features of RGB in 0..1."""
        return self.function((patches - self.mean) / self.std)


class Pooled(torch.nn.Module):
    """A timm model with one row of features per patch.

    Where the model returns tokens, shape (b, tokens, d), the features are the class token and the mean of the patch
    tokens, shape (b, 2 d), without the register tokens between them; the mean alone where there is no class token.
    """

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Features, shape (b, d)."""
        features = self.model(patches)
        if features.ndim != 3:
            return features
        n_prefix = getattr(self.model, "num_prefix_tokens", 0)
        mean = features[:, n_prefix:].mean(1)
        return torch.cat([features[:, 0], mean], dim=1) if n_prefix else mean


def stain_texture(patches: torch.Tensor) -> torch.Tensor:
    """How much haematoxylin and eosin a patch holds, and how rough they are.

    The optical density at half the resolution is split into the two stains by least squares, with the stain vectors of
    Ruifrok and Johnston (2001). Of each stain: mean, standard deviation, and the root mean square difference between
    neighbouring pixels at that resolution, half and a quarter of it.

    Parameters
    ----------
    patches
        Float RGB in 0..1, shape (b, 3, size, size).

    Returns
    -------
    torch.Tensor
        Shape (b, 10).
    """
    density = -avg_pool2d(patches.contiguous(), 2).clamp_min(1 / 255).log()
    red, green, blue = density.unbind(1)
    split = np.linalg.pinv(np.array(STAINS) / np.linalg.norm(STAINS, axis=1, keepdims=True)).T.tolist()
    stains = torch.stack([red * r + green * g + blue * b for r, g, b in split], dim=1)
    features = [stains.mean((2, 3)), stains.std((2, 3), correction=0)]
    for level in range(LEVELS):
        stains = avg_pool2d(stains, 2) if level else stains
        features.append((_roughness(stains, 2) + _roughness(stains, 3)) / 2)
    return torch.cat(features, dim=1)


def _roughness(stains: torch.Tensor, axis: int) -> torch.Tensor:
    return stains.diff(dim=axis).square().mean((2, 3)).sqrt()
