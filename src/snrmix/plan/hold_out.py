"""Which measured spots are hidden, to be imputed and compared with what was observed there."""

from __future__ import annotations

import numbers
from dataclasses import dataclass

import numpy as np

from snrmix._checks import choice, whole_number
from snrmix._names import closest, listing
from snrmix.data.expression import MIN_MEASURED
from snrmix.data.sites import Sites
from snrmix.engine.folds import single_split

KINDS = ("random", "block", "library")


@dataclass(frozen=True)
class Split:
    """How to choose the spots, as `snrmix.pp.hold_out` explains it.

    Raises
    ------
    ValueError
        For an unknown kind, or numbers out of range.
    """

    kind: str = "random"
    share: float = 0.5
    library: object = None
    n_blocks: int = 16
    random_state: int = 0

    def __post_init__(self):
        choice("kind", self.kind, KINDS)
        if isinstance(self.share, bool) or not isinstance(self.share, numbers.Real) or not 0 < self.share < 1:
            raise ValueError(
                f"share={self.share!r} must be a number between 0 and 1: the share of measured spots to hold out."
            )
        whole_number("n_blocks", self.n_blocks, 2)
        if self.library is not None and self.kind != "library":
            raise ValueError(f"library= goes with kind='library', not kind={self.kind!r}.")

    def hide(self, sites: Sites, is_measured: np.ndarray) -> np.ndarray:
        """Which sites are held out, bool, shape (n,), in site order.

        Parameters
        ----------
        is_measured
            bool, shape (n,), in site order.

        Raises
        ------
        ValueError, KeyError
            For an unknown library, more blocks than spots, or fewer than 20 spots left.
        """
        rows = np.flatnonzero(is_measured)
        if self.kind == "library":
            chosen = np.isin(sites.library[rows], _library_codes(sites, rows, self.library))
        elif self.kind == "random":
            chosen = np.zeros(len(rows), bool)
            rng = np.random.default_rng(self.random_state)
            chosen[single_split(sites.library[rows], self.share, rng).held_out] = True
        else:
            chosen = self._blocks(sites, rows)
        if (~chosen).sum() < MIN_MEASURED:
            raise ValueError(
                f"holding out {chosen.sum()} of the {len(rows)} measured spots leaves {(~chosen).sum()}, and at least "
                f"{MIN_MEASURED} are needed to train: hold out fewer (share= or library=)."
            )
        held_out = np.zeros(len(sites), bool)
        held_out[rows[chosen]] = True
        return held_out

    def _blocks(self, sites: Sites, rows: np.ndarray) -> np.ndarray:
        """Which measured spots lie in the blocks that are held out."""
        library, chosen = sites.library[rows], np.zeros(len(rows), bool)
        rng = np.random.default_rng(self.random_state)
        n_held_out = min(max(round(self.share * self.n_blocks), 1), self.n_blocks - 1)
        for code in np.unique(library):
            own = np.flatnonzero(library == code)
            if len(own) < self.n_blocks:
                raise ValueError(
                    f"library {sites.libraries[code]!r} has {len(own)} measured spots, too few for "
                    f"n_blocks={self.n_blocks}."
                )
            block = compact_blocks(sites.positions[rows[own]], self.n_blocks, rng)
            chosen[own] = np.isin(block, rng.choice(self.n_blocks, n_held_out, replace=False))
        return chosen


def compact_blocks(positions: np.ndarray, n_blocks: int, rng: np.random.Generator) -> np.ndarray:
    """Cut spots into compact blocks of equal size (within one spot): halve along the longer side, again and again.

    Parameters
    ----------
    positions
        Shape (n, 2), n >= n_blocks.
    n_blocks
        Number of blocks.
    rng
        Turns the axes, so that different draws cut in different places.

    Returns
    -------
    numpy.ndarray
        Block of every spot, 0 .. n_blocks - 1, shape (n,).
    """
    angle = rng.uniform(0, np.pi / 2)
    turned = positions @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    block = np.empty(len(positions), int)
    waiting = [(np.arange(len(positions)), 0, n_blocks)]
    while waiting:
        spots, first, number = waiting.pop()
        if number == 1:
            block[spots] = first
            continue
        axis = np.argmax(np.ptp(turned[spots], axis=0))
        spots, left = spots[np.argsort(turned[spots, axis], kind="stable")], number // 2
        cut = round(len(spots) * left / number)
        waiting += [(spots[:cut], first, left), (spots[cut:], first + left, number - left)]
    return block


def _library_codes(sites: Sites, rows: np.ndarray, library) -> list[int]:
    """Codes of the named libraries."""
    known = [sites.libraries[code] for code in np.unique(sites.library[rows])]
    if library is None:
        raise ValueError(
            f"kind='library' needs library=, the name or names to hold out; measured are: {listing(known)}."
        )
    wanted = [library] if isinstance(library, str) else [str(name) for name in library]
    if not wanted:
        raise ValueError(f"library= names no library; measured are: {listing(known)}.")
    for name in wanted:
        if name not in known:
            raise KeyError(
                f"library {name!r} has no measured spots; measured are: {listing(known)}.{closest(name, known)}"
            )
    if set(wanted) == set(known):
        raise ValueError(f"all libraries with measured spots would be held out ({listing(known)}); keep at least one.")
    return [sites.libraries.index(name) for name in wanted]
