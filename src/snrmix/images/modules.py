"""The torch modules that encoders are put together from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch


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
        how = {"dtype": torch.float32, "device": "cpu"}  # an encoder is put together outside of any call
        self.register_buffer("mean", torch.tensor(mean, **how).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std, **how).view(3, 1, 1))

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
