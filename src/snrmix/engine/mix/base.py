from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Protocol

import torch

from snrmix._names import closest, listing


@dataclass(frozen=True)
class PartnerTable:
    """What a strategy knows when it draws: whom a training spot may be mixed with, for K networks at once.

    Parameters
    ----------
    train
        int64, shape (K, n_train), ascending: indices of the training spots of each network.
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
    trusted
        bool, shape (K, n): whom a strategy that sorts out noisy spots would mix with; ``None``: all.
    progress
        Share of the training that is done, from 0 to 1.
    """

    train: torch.Tensor
    index: torch.Tensor
    weight: torch.Tensor
    library: torch.Tensor | None = None
    share_of_all: torch.Tensor | None = None
    labels: torch.Tensor | None = None
    spread: torch.Tensor | None = None
    trusted: torch.Tensor | None = None
    progress: float = 0.0

    def to(self, device) -> PartnerTable:
        """The same table on a device."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return PartnerTable(**{k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in parts.items()})

    def heads(self) -> torch.Tensor:
        """Number of every network, shape (K, 1), to index with."""
        return torch.arange(len(self.train), device=self.train.device)[:, None]


class Mixing(Protocol):
    """A mixing strategy: how many graph neighbours it wants, and whom it draws.

    One that wants neighbours (``k > 0``) is a `SNRMixing` or has its fields ``sigma``, ``graph`` and ``kernel``. One that
    compares any two spots says so with ``needs_labels = True``. One that mixes pixels has a method ``blend``, see
    `snrmix.engine.mix.CutMix`; one that sorts out noisy spots has ``sort_out``, see `snrmix.engine.mix.RCMixup`.
    """

    k: int

    def draw(
        self, anchors: torch.Tensor, table: PartnerTable, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Partners and mixing shares of a batch: anchors (K, b) in; partners (K, b) and lambda (K, b, 1) out."""
        ...


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
        For an unknown name, or an object without ``draw`` or ``k``.
    """
    if isinstance(mix, str):
        if mix not in MIXINGS:
            raise ValueError(f"unknown mix={mix!r}; available: {listing(MIXINGS)}.{closest(mix, MIXINGS)}")
        return MIXINGS[mix]()
    if isinstance(mix, type) or not callable(getattr(mix, "draw", None)) or not hasattr(mix, "k"):
        raise TypeError(f"mix must be a name ({listing(MIXINGS)}) or a strategy object, not {mix!r}.")
    return mix


def needs_pixels(mixing: Mixing) -> bool:
    """Whether a strategy cuts and pastes parts of images, which a vector of features does not have."""
    return hasattr(mixing, "blend")


def check_pixels(mixing: Mixing) -> None:
    """Refuse to work on features with a strategy that needs pixels.

    Raises
    ------
    ValueError
        For such a strategy.
    """
    if needs_pixels(mixing):
        others = [name for name, strategy in MIXINGS.items() if not needs_pixels(strategy())]
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
