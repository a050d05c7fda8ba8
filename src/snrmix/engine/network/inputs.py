"""What the first layer of K networks multiplies: features, or fewer coordinates where training spots are few."""

from __future__ import annotations

import numpy as np
import torch

from snrmix.engine.scaling import CLIP

FEWER = 0.5  # coordinates per feature, up to which they save more than they take to make


class Features(torch.nn.Module):
    """z-scores of the features, made where they are read.

    Parameters
    ----------
    features
        Shape (n, d), of all measured spots.
    centre, inverse_scale
        Shape (K, d), see `snrmix.engine.scaling.standard_scale`.
    """

    def __init__(self, features: np.ndarray, centre: np.ndarray, inverse_scale: np.ndarray):
        super().__init__()
        self.register_buffer("features", torch.from_numpy(features))
        self.register_buffer("centre", torch.from_numpy(centre)[:, None])
        self.register_buffer("inverse_scale", torch.from_numpy(inverse_scale)[:, None])
        self.width = features.shape[1]

    def of(self, network: int, rows: torch.Tensor) -> torch.Tensor:
        """Inputs of some spots, (rows, width)."""
        values = (self.features[rows].float() - self.centre[network]) * self.inverse_scale[network]
        return values.clamp_(-CLIP, CLIP)

    def product(self, spots, weight, bias, dropout: float, generator: torch.Generator) -> torch.Tensor:
        """Pre-activations of spots, (K, b) -> (K, b, hidden); only what dropout leaves is multiplied."""
        k, d = len(spots), self.width
        kept = max(1, round(d * (1 - dropout)))
        columns = torch.rand(k, d, generator=generator, device=spots.device).argsort(1)[:, :kept]
        rows = (columns + torch.arange(k, device=spots.device)[:, None] * d).flatten()  # faster than `gather`
        weight = weight.flatten(0, 1).index_select(0, rows).unflatten(0, (k, kept)) * (d / kept)
        values = torch.stack([self.features[spots[head]][:, columns[head]] for head in range(k)]).float()
        centre, scale = (x.expand(k, -1, -1).gather(2, columns[:, None]) for x in (self.centre, self.inverse_scale))
        return torch.baddbmm(bias, ((values - centre) * scale).clamp_(-CLIP, CLIP), weight)

    def to_features(self, weight: torch.Tensor) -> torch.Tensor:
        """The first layer for z-scores, (K, d, hidden)."""
        return weight


class Coordinates(torch.nn.Module):
    """Coordinates of the z-scores in the space that the training spots span, turned at random.

    Distances and angles of training spots are kept, so that a layer can do with a weight per training spot what it could
    with one per feature. The turn gives every coordinate its share of all directions, as a feature has it: along principal
    axes AdamW would learn noise as fast as what many features agree on. A spot that is not trained on leaves out what is
    outside of that space, of which the training says nothing.

    Parameters
    ----------
    inputs
        The z-scores.
    train
        Shape (K, r): as many training spots of every network.
    seed
        Of the turn.
    """

    def __init__(self, inputs: Features, train: torch.Tensor, seed: int):
        super().__init__()
        self.width, self.features = train.shape[1], inputs.width
        turn = torch.randn(self.width, self.width, generator=torch.Generator().manual_seed(seed))
        turn = torch.linalg.qr(turn)[0]
        everywhere = torch.arange(len(inputs.features))
        bases, values = [], []
        for network, rows in enumerate(train):
            scaled = inputs.of(network, everywhere)
            bases.append(torch.linalg.qr(scaled[rows].T)[0] @ turn)
            values.append(scaled @ bases[-1])
        self.register_buffer("basis", torch.stack(bases))
        self.register_buffer("values", torch.stack(values))

    def of(self, network: int, rows: torch.Tensor) -> torch.Tensor:
        """Inputs of some spots, (rows, width)."""
        return self.values[network, rows]

    def product(self, spots, weight, bias, dropout: float, generator: torch.Generator) -> torch.Tensor:
        """Pre-activations of spots, (K, b) -> (K, b, hidden).

        A coordinate holds what many features do. So few are dropped that the noise of a pre-activation is that of
        dropping the share ``dropout`` of the features.
        """
        odds = dropout / (1 - dropout) * self.width / self.features
        keep = torch.empty(len(spots), 1, self.width, device=spots.device)
        keep.bernoulli_(1 / (1 + odds), generator=generator).mul_(1 + odds)
        values = self.values[torch.arange(len(spots), device=spots.device)[:, None], spots]
        return torch.baddbmm(bias, values * keep, weight)

    def to_features(self, weight: torch.Tensor) -> torch.Tensor:
        """The first layer for z-scores, (K, d, hidden)."""
        return torch.bmm(self.basis, weight)


def make_inputs(features: np.ndarray, scales: list[tuple], train: torch.Tensor, seed: int) -> Features | Coordinates:
    """Features, or coordinates where these are half as many or fewer.

    Parameters
    ----------
    features
        Shape (n, d), of all measured spots.
    scales
        Centre and inverse scale for every network, each of shape (d,).
    train
        Shape (K, r): as many training spots of every network.
    seed
        Of what is random.
    """
    inputs = Features(features, *(np.stack(parts) for parts in zip(*scales, strict=True)))
    return Coordinates(inputs, train, seed) if width_of(train.shape[1], inputs.width) < inputs.width else inputs


def width_of(n_train: int, features: int) -> int:
    """Inputs of a network."""
    return n_train if n_train <= FEWER * features else features
