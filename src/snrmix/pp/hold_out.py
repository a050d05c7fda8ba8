from __future__ import annotations

import numbers

import numpy as np

from snrmix._log import logger
from snrmix._names import closest, listing
from snrmix.data.expression import MIN_MEASURED, read_measured
from snrmix.data.sites import Sites, read_sites
from snrmix.data.table import read_table
from snrmix.engine.folds import single_split

KINDS = ("random", "block", "library")


def hold_out(
    data,
    *,
    kind: str = "random",
    share: float = 0.5,
    library=None,
    n_blocks: int = 16,
    measured=None,
    layer: str | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    key_added: str = "measured",
    random_state: int = 0,
    copy: bool = False,
):
    """Hold some measured spots out, to impute them and compare with what was observed there.

    Parameters
    ----------
    data
        AnnData or SpatialData.
    kind
        ``"random"``: spots at random, within each library. ``"block"``: compact regions, within each library: blocks of
        equal size, cut along the longer side again and again, at a random angle. ``"library"``: whole libraries.
    share
        Share of the measured spots of each library that is held out; with blocks the nearest that whole blocks allow.
        Not used by ``"library"``.
    library
        Name, or names, of the libraries that ``"library"`` holds out.
    n_blocks
        Blocks per library.
    measured, layer, library_key, table_key
        As in `snrmix.tl.impute`.
    key_added
        Name of the result.
    random_state
        Seed. The order of rows and genes does not matter, and no global random state is touched.
    copy
        Return a modified copy of the table and leave ``data`` alone.

    Returns
    -------
    ``None``, or the modified copy. Sets, for ``key_added="measured"``,

    ``obs["measured"]``
        bool: measured and kept. For ``snrmix.tl.impute(data, measured="measured")``.
    ``obs["measured_held_out"]``
        bool: measured and held out. For ``snrmix.tl.evaluate(data, "measured_held_out")``. Spots that were not measured
        in the first place are in neither.

    Raises
    ------
    ValueError, KeyError, TypeError
        For an unknown kind or library, a share or a number of blocks out of range, or fewer than 20 spots left;
        ``data`` is then unchanged.

    Examples
    --------
    >>> adata = snrmix.datasets.synthetic_tissue()
    >>> snrmix.pp.hold_out(adata, kind="block", share=0.3)
    >>> snrmix.tl.impute(adata, measured="measured")
    >>> snrmix.tl.evaluate(adata, "measured_held_out")
    """
    _check(kind, share, library, n_blocks, key_added)
    table = read_table(data, table_key)
    if isinstance(measured, str) and measured == key_added:
        raise ValueError(
            f"key_added={key_added!r} would overwrite the column that says which spots are measured; "
            f"choose another, e.g. key_added='{key_added}_kept'."
        )
    is_measured = read_measured(table, measured, layer)
    sites = read_sites(data, table_key=table_key, library_key=library_key, with_images=False)
    rows = np.flatnonzero(is_measured[sites.order])
    if kind == "library":
        chosen = np.isin(sites.library[rows], _library_codes(sites, rows, library))
    else:
        rng = np.random.default_rng(random_state)
        chosen = _random(sites, rows, share, rng) if kind == "random" else _blocks(sites, rows, share, n_blocks, rng)
    if (~chosen).sum() < MIN_MEASURED:
        raise ValueError(
            f"holding out {chosen.sum()} of the {len(rows)} measured spots leaves {(~chosen).sum()}, and at least "
            f"{MIN_MEASURED} are needed to train: hold out fewer (share= or library=)."
        )
    held_out = np.zeros(len(sites), bool)
    held_out[rows[chosen]] = True
    held_out = sites.to_rows(held_out)
    names = key_added, f"{key_added}_held_out"
    if names[0] in table.obs and names[1] not in table.obs:
        logger.warning("obs[%r] was there before and is overwritten; choose another name with key_added=.", names[0])
    table = table.copy() if copy else table
    table.obs[names[0]], table.obs[names[1]] = is_measured & ~held_out, held_out
    logger.info(
        "%d of %d measured spots are held out (obs[%r]); the others are in obs[%r].",
        chosen.sum(), len(rows), names[1], names[0],
    )  # fmt: skip
    return table if copy else None


def _check(kind, share, library, n_blocks, key_added) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is unknown; choose one of {listing(KINDS)}.{closest(kind, KINDS)}")
    if isinstance(share, bool) or not isinstance(share, numbers.Real) or not 0 < share < 1:
        raise ValueError(f"share={share!r} must be a number between 0 and 1: the share of measured spots to hold out.")
    if isinstance(n_blocks, bool) or not isinstance(n_blocks, numbers.Integral) or n_blocks < 2:
        raise ValueError(f"n_blocks={n_blocks!r} must be a whole number from 2 up.")
    if library is not None and kind != "library":
        raise ValueError(f"library= goes with kind='library', not kind={kind!r}.")
    if not isinstance(key_added, str) or not key_added or "/" in key_added:
        raise ValueError(f"key_added={key_added!r} must be a name without '/'.")


def _random(sites: Sites, rows: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    chosen = np.zeros(len(rows), bool)
    chosen[single_split(sites.library[rows], share, rng).held_out] = True
    return chosen


def _blocks(sites: Sites, rows: np.ndarray, share: float, n_blocks: int, rng: np.random.Generator) -> np.ndarray:
    library, chosen = sites.library[rows], np.zeros(len(rows), bool)
    for code in np.unique(library):
        own = np.flatnonzero(library == code)
        if len(own) < n_blocks:
            raise ValueError(
                f"library {sites.libraries[code]!r} has {len(own)} measured spots, too few for n_blocks={n_blocks}."
            )
        block = compact_blocks(sites.positions[rows[own]], n_blocks, rng)
        n_held_out = min(max(round(share * n_blocks), 1), n_blocks - 1)
        chosen[own] = np.isin(block, rng.choice(n_blocks, n_held_out, replace=False))
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
