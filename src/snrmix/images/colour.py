"""Statistics of the colour of a patch, and of the texture of its stains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

COLOUR_FEATURES = 22
TEXTURE_SIZE = 64  # pixels; patches of any size are brought to it, so that roughness means the same
STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11))  # optical density of haematoxylin and eosin in RGB
LEVELS = 3


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
        `stain_texture` of the patch at 64 pixels.
    """
    import torch

    patches = torch.from_numpy(crops).permute(0, 3, 1, 2).float().contiguous()
    factor, rest = divmod(crops.shape[1], TEXTURE_SIZE)
    if rest:
        patches = torch.nn.functional.interpolate(patches, size=TEXTURE_SIZE, mode="area")
    elif factor > 1:
        patches = torch.nn.functional.avg_pool2d(patches, factor)
    return np.concatenate([_of_channels(crops), stain_texture(patches / 255).numpy()], axis=1)


def _of_channels(crops: np.ndarray) -> np.ndarray:
    """Mean, standard deviation and the two quantiles of each channel, from how often a patch has each of the 256 values."""
    from PIL import Image

    counts = np.array([Image.fromarray(crop).histogram() for crop in crops]).reshape(len(crops), 3, 256)
    pixels, values = crops.shape[1] * crops.shape[2], np.arange(256) / 255
    mean = counts @ values / pixels
    sd = np.sqrt(np.maximum(counts @ values**2 / pixels - mean**2, 0))
    below = counts.cumsum(2)
    low, high = ((below <= round(share * (pixels - 1))).sum(2) / 255 for share in (0.1, 0.9))
    return np.concatenate([mean, sd, low, high], axis=1).astype(np.float32)


def stain_texture(patches: Tensor) -> Tensor:
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
    import torch
    from torch.nn.functional import avg_pool2d

    density = -avg_pool2d(patches.contiguous(), 2).clamp_min(1 / 255).log()
    red, green, blue = density.unbind(1)
    split = np.linalg.pinv(np.array(STAINS) / np.linalg.norm(STAINS, axis=1, keepdims=True)).T.tolist()
    stains = torch.stack([red * r + green * g + blue * b for r, g, b in split], dim=1)
    features = [stains.mean((2, 3)), stains.std((2, 3), correction=0)]
    for level in range(LEVELS):
        stains = avg_pool2d(stains, 2) if level else stains
        features.append((_roughness(stains, 2) + _roughness(stains, 3)) / 2)
    return torch.cat(features, dim=1)


def _roughness(stains: Tensor, axis: int) -> Tensor:
    return stains.diff(dim=axis).square().mean((2, 3)).sqrt()
