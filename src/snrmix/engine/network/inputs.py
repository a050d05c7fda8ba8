"""What the first layer of K networks multiplies: features, or coordinates along fewer directions where features are many."""

from __future__ import annotations

import numpy as np
import torch

from snrmix.engine.folds import Fold
from snrmix.engine.mix import PartnerTable
from snrmix.engine.scaling import CLIP, standard_scale

FEWER = 0.5  # coordinates per feature, up to which they save more than they take to make
LEADING = 1024  # coordinates where training spots are more than half as many as features
SAMPLE = 4 * LEADING  # spots whose leading directions these follow
ROUNDS = 2  # in which these are found
SPOTS_AT_ONCE = 4096


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
    """Coordinates of the z-scores along fewer directions, turned at random.

    The turn gives every coordinate its share of all directions, as a feature has it: along principal axes AdamW would learn
    noise as fast as what many features agree on. What a spot has outside of the directions is left out.

    Parameters
    ----------
    inputs
        The z-scores of n spots.
    bases
        Orthonormal columns, shape (d, r): one per network, or one for all, whose z-scores are then the same.
    turn
        Orthogonal, shape (r, r).
    """

    def __init__(self, inputs: Features, bases: list[torch.Tensor], turn: torch.Tensor):
        super().__init__()
        n, networks = len(inputs.features), len(inputs.centre)
        bases = [basis @ turn for basis in bases]
        self.width, self.features = len(turn), inputs.width
        values = torch.empty(len(bases) * n, self.width)
        for network, basis in enumerate(bases):
            for rows in torch.arange(n).split(SPOTS_AT_ONCE):
                values[network * n + rows] = inputs.of(network, rows) @ basis
        self.register_buffer("basis", torch.stack(bases))
        self.register_buffer("values", values)
        self.register_buffer("start", torch.arange(networks) * (n if len(bases) > 1 else 0))
        self.read = torch.empty(0)

    def of(self, network: int, rows: torch.Tensor) -> torch.Tensor:
        """Inputs of some spots, (rows, width)."""
        return self.values[self.start[network] + rows]

    def product(self, spots, weight, bias, dropout: float, generator: torch.Generator) -> torch.Tensor:
        """Pre-activations of spots, (K, b) -> (K, b, hidden).

        A coordinate holds what many features do. So few are dropped that the noise of a pre-activation is that of
        dropping the share ``dropout`` of the features.
        """
        odds = dropout / (1 - dropout) * self.width / self.features
        keep = torch.empty(len(spots), 1, self.width, device=spots.device)
        keep.bernoulli_(1 / (1 + odds), generator=generator).mul_(1 + odds)
        rows = (spots + self.start[:, None]).flatten()
        if self.read.shape[0] != len(rows) or self.read.device != rows.device:
            self.read = torch.empty(len(rows), self.width, device=rows.device)
        # Always to one place: new memory takes four times as long.
        torch.index_select(self.values, 0, rows, out=self.read)
        return torch.baddbmm(bias, self.read.view(*spots.shape, -1).mul_(keep), weight)

    def to_features(self, weight: torch.Tensor) -> torch.Tensor:
        """The first layer for z-scores, (K, d, hidden)."""
        return torch.bmm(self.basis.expand(len(weight), -1, -1), weight)


def make_inputs(
    features: np.ndarray, folds: list[Fold], table: PartnerTable, seed: int
) -> tuple[Features | Coordinates, np.ndarray, np.ndarray]:
    """What the networks' first layers multiply, and centre and inverse scale of the features, each of shape (K, d).

    Where training spots are half as many as features or fewer, these are coordinates in the space that they span: distances
    and angles of training spots are kept, so that a layer can do with a weight per training spot what it could with one per
    feature. Where they are more, and features many, it is coordinates along so many leading directions of the features of
    `SAMPLE` training spots; they are the same for all networks, unless one is to predict a library that it has not seen:
    how that one differs is then not to be known. With few features it is these.

    Parameters
    ----------
    features
        Shape (n, d), of all measured spots.
    folds
        Training and held-out spots of every network.
    table
        As many training spots of every network, and libraries.
    seed
        Of what is random.
    """
    n_train, wide = table.train.shape[1], features.shape[1]
    width = width_of(n_train, wide)
    shared = n_train > width != wide and not _new_libraries(folds, table.library)
    rows = [fold.train for fold in folds]
    rows = [np.unique(np.concatenate(rows))] if shared else rows
    scales = [standard_scale(features, some) for some in rows] * (len(folds) if shared else 1)
    centre, inverse_scale = (np.stack(parts) for parts in zip(*scales, strict=True))
    inputs = Features(features, centre, inverse_scale)
    if width < wide:
        generator = torch.Generator().manual_seed(seed)
        turn = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
        train = table.train if n_train == width else [torch.from_numpy(some) for some in rows]
        bases = [_basis(inputs, k, some, width, generator) for k, some in enumerate(train)]
        inputs = Coordinates(inputs, bases, turn)
    return inputs, centre, inverse_scale


def width_of(n_train: int, features: int) -> int:
    """Inputs of a network."""
    if n_train <= FEWER * features:
        return n_train
    return LEADING if LEADING <= FEWER * features else features


def _new_libraries(folds: list[Fold], library: torch.Tensor | None) -> bool:
    """Whether a fold holds out spots of a library of which it trains on none."""
    if library is None:
        return False
    return any(len(np.setdiff1d(library[fold.held_out], library[fold.train])) for fold in folds)


def _basis(inputs: Features, network: int, rows: torch.Tensor, width: int, generator: torch.Generator) -> torch.Tensor:
    """Orthonormal columns: of the space that so many spots span, or of about the leading directions of more."""
    if len(rows) == width:
        return torch.linalg.qr(inputs.of(network, rows).T)[0]
    some = rows[torch.randperm(len(rows), generator=generator)[:SAMPLE]]
    values = inputs.of(network, some)
    basis = values.T @ torch.randn(len(values), width, generator=generator)
    for _ in range(ROUNDS):
        basis = values.T @ (values @ torch.linalg.qr(basis)[0])
    return torch.linalg.qr(basis)[0]
