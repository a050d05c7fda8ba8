from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch

from snrmix._names import closest, listing

DISTANCE_PAIRS = 4096  # of spots, whose median distance is that of all


@dataclass(frozen=True)
class PartnerTable:
    """What a strategy knows when it draws: whom a training spot may be mixed with, for K networks at once.

    Parameters
    ----------
    train
        int64, shape (K, n_train), ascending: indices of the training spots of each network, all of them or those that
        `Mixing.sort_out` has left.
    index
        int64, shape (K, n, k): graph neighbours of spot ``i`` among the training spots; any value where the weight is 0.
    weight
        float32, shape (K, n, k): probabilities, summing to 1, or to 0 for a spot without neighbours.
    library
        int64, shape (n,), ascending: the library of each spot; ``None``: one library.
    share_of_all
        float32, shape (K, n): the kernel summed over a spot's neighbours, as a share of its sum over all training spots;
        only for strategies whose edge term is weighted by it.
    labels
        float32, shape (K, n, outputs): what the networks learn; only for strategies that compare any two spots.
    spread
        float32, shape (K,): median distance of the labels of random pairs; likewise.
    bandwidth
        float32, shape (K,): what a strategy has chosen itself; ``None`` before it has.
    epoch, epochs
        The epoch that is trained, from 0, and how many there may be.
    """

    train: torch.Tensor
    index: torch.Tensor
    weight: torch.Tensor
    library: torch.Tensor | None = None
    share_of_all: torch.Tensor | None = None
    labels: torch.Tensor | None = None
    spread: torch.Tensor | None = None
    bandwidth: torch.Tensor | None = None
    epoch: int = 0
    epochs: int = 1

    @property
    def progress(self) -> float:
        """Share of the training that was done before this epoch, from 0 to below 1."""
        return self.epoch / self.epochs

    def to(self, device) -> PartnerTable:
        """The same table on a device."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return PartnerTable(**{k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in parts.items()})

    def heads(self) -> torch.Tensor:
        """Number of every network, shape (K, 1), to index with."""
        return torch.arange(len(self.train), device=self.train.device)[:, None]


@dataclass(frozen=True)
class TrainingSpots:
    """What a strategy may look at before a network is trained.

    Parameters
    ----------
    spots
        Shape (n_train,), indices of the training spots, ascending.
    values
        float32, shape (n, outputs): what the network learns, of all n measured spots.
    scale
        What ``values`` are to be multiplied by to be in units of the expression, which some kernels depend on.
    library
        Shape (n,), int codes.
    neighbours
        See `snrmix.engine.section.Section`.
    """

    spots: np.ndarray
    values: np.ndarray
    scale: float
    library: np.ndarray
    neighbours: Callable[..., np.ndarray]


class Mixing(ABC):
    """A mixing strategy: whom a spot is mixed with, and in what proportion. One needs `draw` only.

    Attributes
    ----------
    k : int
        Graph neighbours that it wants.
    count_self : bool
        Whether a spot is one of them.
    needs_pixels : bool
        Whether it mixes pixels by a method ``blend``, see `snrmix.engine.mix.CutMix.blend`.
    needs_saliency : bool
        Whether ``blend`` looks at the saliency of the patches.
    needs_errors : bool
        Whether `sort_out` is called after every epoch.
    settled : float
        Share of ``max_epochs`` from which on its schedule has done what defines it. No earlier epoch is kept, and training
        does not stop before, so that early stopping does not turn a strategy with stages into its first stage.
    """

    k = 0
    count_self = needs_pixels = needs_saliency = needs_errors = False
    settled = 0.0

    @abstractmethod
    def draw(
        self, anchors: torch.Tensor, table: PartnerTable, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Partners and mixing shares of a batch: anchors (K, b) in; partners (K, b) and lambda (K, b, 1) out."""

    def tabulate(self, spots: TrainingSpots, k: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Fields of the `PartnerTable` that concern one network, by name: without its first axis.

        Parameters
        ----------
        spots
            Those of the network.
        k
            Graph neighbours that there are for every network: at most those asked for, without the spot itself.
        rng
            Draws what is random.
        """
        n = len(spots.values)
        return {"index": np.zeros((n, 1), np.int64), "weight": np.zeros((n, 1), np.float32)}

    def edge_weight(self, anchors: torch.Tensor, partners: torch.Tensor, table: PartnerTable) -> torch.Tensor | None:
        """Weight ``w_ij`` of drawn pairs in the edge term, shape (K, b, 1); ``None`` for 1."""
        return None

    def sort_out(self, table: PartnerTable, spots: torch.Tensor, error: torch.Tensor) -> PartnerTable:
        """The table of the next epoch: spots that are not in its ``train`` are neither trained on nor partners.

        Parameters
        ----------
        table
            That of the epoch that has just ended.
        spots
            int64, shape (K, n): all training spots, also those that are not in the table.
        error
            Shape (K, n): their squared errors now.
        """
        return table


MIXINGS: dict[str, Callable[[], Mixing]] = {}


def register(name: str):
    """Make a strategy known by name."""

    def add(strategy):
        MIXINGS[name] = strategy
        return strategy

    return add


def resolve_mixing(mix) -> Mixing:
    """A strategy by name or as object.

    Raises
    ------
    ValueError, TypeError
        For an unknown name, or an object that is no `Mixing`.
    """
    if isinstance(mix, str):
        if mix not in MIXINGS:
            raise ValueError(f"unknown mix={mix!r}; available: {listing(MIXINGS)}.{closest(mix, MIXINGS)}")
        return MIXINGS[mix]()
    if not isinstance(mix, Mixing):
        raise TypeError(
            f"mix must be a name ({listing(MIXINGS)}) or a strategy object, derived from snrmix.engine.mix.Mixing, not "
            f"{mix!r}."
        )
    return mix


def check_pixels(mixing: Mixing) -> None:
    """Refuse to work on features with a strategy that needs pixels.

    Raises
    ------
    ValueError
        For such a strategy.
    """
    if mixing.needs_pixels:
        others = [name for name, strategy in MIXINGS.items() if not strategy().needs_pixels]
        raise ValueError(
            f"{type(mixing).__name__} mixes pixels, but a frozen encoder (or use_rep=) leaves only features: pass "
            f"finetune=True with an image, or a mix= that works on features: {listing(others)}."
        )


def beta(alpha: float, shape, generator: torch.Generator) -> torch.Tensor:
    """Draw from Beta(alpha, alpha), shape (*shape, 1)."""
    size = (*shape, 1)
    if alpha == 1.0:
        return torch.rand(size, generator=generator, device=generator.device)
    gamma = torch._standard_gamma(torch.full((2, *size), float(alpha), device=generator.device), generator=generator)
    return (gamma[0] / gamma.sum(0).clamp_min(torch.finfo(torch.float32).tiny)).clamp(0, 1)


def random_partners(anchors: torch.Tensor, table: PartnerTable, generator: torch.Generator) -> torch.Tensor:
    """Any training spot of the same library, with equal probability, shape (K, b)."""
    draw = torch.rand(anchors.shape, generator=generator, device=anchors.device)
    if table.library is None:
        first, count = torch.zeros_like(anchors), torch.full_like(anchors, table.train.shape[1])
    else:
        own, wanted = table.library[table.train], table.library[anchors].contiguous()
        first = torch.searchsorted(own, wanted)
        count = torch.searchsorted(own, wanted, right=True) - first
    place = first + (draw * count).long().minimum(count - 1)
    return table.train.gather(1, place)


def median_distance(values: np.ndarray, rng: np.random.Generator) -> float:
    """Median distance between random pairs of rows; 0 for a single row."""
    first, second = rng.integers(len(values), size=(2, DISTANCE_PAIRS))
    pairs = np.linalg.norm(values[first] - values[second], axis=1)[first != second]
    return float(np.median(pairs)) if len(pairs) else 0.0
