"""Signs that spots taken for one slide are of several: barcodes, array places and positions that one slide has once."""

from __future__ import annotations

import numpy as np
import pandas as pd

BARCODE = r"([ACGT]{12,})"
PAIR = r"\d+\D\d+"
MOST_ENDINGS = 200  # slides of one object
REPEATED_BARCODES = 0.05  # of the rows: lanes of one slide share 4 % of the barcodes of cells at most
REPEATED_PLACES = 0.05  # of the rows: one slide has none, but for rows that were doubled by mistake
REPEATED_POSITIONS = 0.1
REPEATED_NAMES = 0.03
FAR_STEPS, FEWEST_FAR = 2.0, 2
MIXED = 0.35  # of the pairs of neighbours that groups without order would have
MANY = 3000  # spots to look at

# Arrays on top of each other: steps of an array lead from nearly every spot to another one; spots of another array lie
# nearer than that.
FEWEST_OF_ARRAYS = 60
OCCUPIED, AS_OFTEN = 0.5, 0.7
NEARER, SHARE_NEARER = 0.8, 0.15
OFF_PLACE = 0.25  # of a step: spots of one array lie that near to where their places say


def same_barcodes(obs: pd.DataFrame, positions: np.ndarray) -> str | None:
    """A slide has each barcode once."""
    names = obs.index.astype(str)
    if names[:200].str.extract(BARCODE, expand=False).isna().all():
        return None
    cores = pd.Series(names.str.extract(BARCODE, expand=False))
    repeated = cores.notna() & cores.duplicated(keep=False)
    if repeated.sum() < max(10, REPEATED_BARCODES * len(cores)):
        return None
    example = names[(cores == cores[repeated].min()).to_numpy()]
    return f"{repeated.sum()} of {len(cores)} spots share their barcode with another one, e.g. {_pair(example)}"


def same_places(obs: pd.DataFrame, positions: np.ndarray) -> str | None:
    """A slide has each array place once, at one position."""
    places = _places(obs)
    if places is None:
        return None
    known = np.flatnonzero(np.isfinite(places).all(1))
    if len(known) < 10 or (np.ptp(places[known], axis=0) == 0).all():
        return None
    code = pd.DataFrame(places[known]).groupby([0, 1], sort=False).ngroup().to_numpy()
    count = np.bincount(code)[code]
    if (count > 1).sum() < 2 * FEWEST_FAR:
        return None
    first = known[np.unique(code, return_index=True)[1][code]]
    away = np.linalg.norm(positions[known] - positions[first], axis=1)
    far = away > FAR_STEPS * _step(places[known], positions[known])
    few_times = count.max() <= 3 or np.median(count[count > 1]) <= 2
    same = (count > 1) & (few_times | (away == 0))
    if far.sum() < FEWEST_FAR and same.sum() < max(6, REPEATED_PLACES * len(known)):
        return None
    worst = np.flatnonzero(far if far.sum() >= FEWEST_FAR else count > 1)
    example = obs.index[[known[worst[0]], first[worst[0]]]] if far.any() else obs.index[known[code == code[worst[0]]]]
    return f"{(count > 1).sum()} of {len(known)} spots share array_row and array_col with another one, e.g. {_pair(example)}"


def _step(places: np.ndarray, positions: np.ndarray) -> float:
    """Distance between spots whose places follow each other: the lower quartile, since others may be of other slides."""
    order = np.lexsort((places[:, 1], places[:, 0]))
    steps, moves = np.diff(places[order], axis=0), np.diff(positions[order], axis=0)
    follows = (steps[:, 0] == 0) & (steps[:, 1] > 0)
    length = np.linalg.norm(moves, axis=1)
    return float(np.quantile(length[follows], 0.25)) if follows.any() else np.inf


def same_positions(obs: pd.DataFrame, positions: np.ndarray) -> str | None:
    """A slide has one spot at a position, but for a few, and for those that failed and were put at one place."""
    code = pd.DataFrame(positions).groupby([0, 1], sort=False).ngroup().to_numpy()
    count = np.bincount(code)
    if (count > 1).sum() < 10:
        return None
    repeated = (count > 1)[code]
    if repeated.mean() < REPEATED_POSITIONS + _by_chance(positions):
        return None
    example = obs.index[code == np.flatnonzero(count > 1)[0]]
    return f"{repeated.sum()} of {len(code)} spots share their position with another one, e.g. {_pair(example)}"


def _by_chance(positions: np.ndarray) -> float:
    """Share of spots that have another one at their position by chance, where positions are whole numbers."""
    if not np.array_equal(positions, np.rint(positions)):
        return 0.0
    places = np.prod(np.ptp(positions, axis=0) + 1.0)
    return float(1 - np.exp(-len(positions) / places))


def arrays_on_top(obs: pd.DataFrame, positions: np.ndarray) -> str | None:
    """Steps of an array lead from spot to spot; where others lie nearer than one step, there is a second array."""
    from scipy.spatial import cKDTree

    distinct = np.unique(positions, axis=0)
    if len(distinct) < FEWEST_OF_ARRAYS or _are_of_one_array(obs, positions):
        return None
    tree = cKDTree(distinct)
    some = distinct[:: max(1, len(distinct) // MANY)]
    distance, nearest = tree.query(some, k=min(25, len(distinct)))
    steps = _common_steps(distinct[nearest[:, 1:]] - some[:, None])
    if not len(steps):
        return None
    length = np.linalg.norm(steps, axis=1)
    near = steps[np.argsort(length)][:24]
    found = [(tree.query(some + step)[0] < 0.08 * np.linalg.norm(step)).mean() for step in near]
    best = max(found)
    if best < OCCUPIED:
        return None
    step = near[next(i for i, share in enumerate(found) if share >= AS_OFTEN * best)]
    nearer = distance[:, 1] < NEARER * np.linalg.norm(step)
    if nearer.mean() < SHARE_NEARER:
        return None
    return (
        f"the array is spaced by {np.linalg.norm(step):.4g} in obsm['spatial'], but {100 * nearer.mean():.0f} % of the spots "
        "have another one nearer than that, as where two arrays lie on top of each other"
    )


def _are_of_one_array(obs: pd.DataFrame, positions: np.ndarray) -> bool:
    """Whether array places that no two rows share say where all lie, as after every second spot was left out."""
    places = _places(obs)
    if places is None or not np.isfinite(places).all() or len(np.unique(places, axis=0)) < len(places):
        return False
    design = np.column_stack([np.ones(len(places)), places])
    wrong = np.linalg.norm(positions - design @ np.linalg.lstsq(design, positions, rcond=None)[0], axis=1)
    return bool(np.quantile(wrong, 0.95) < OFF_PLACE * _step(places, positions))


def _places(obs: pd.DataFrame) -> np.ndarray | None:
    """Row and column of the array, shape (n, 2), NaN where they are no numbers; ``None`` without the columns."""
    if not {"array_row", "array_col"} <= set(obs.columns):
        return None
    return np.column_stack(
        [pd.to_numeric(obs[c], errors="coerce").to_numpy(float, na_value=np.nan) for c in ("array_row", "array_col")]
    )


def _common_steps(steps: np.ndarray) -> np.ndarray:
    """Steps to neighbours that many spots have in common, shape (m, 2): peaks of their histogram."""
    flat = steps.reshape(-1, 2)
    flat = flat[(flat[:, 1] > 0) | ((flat[:, 1] == 0) & (flat[:, 0] > 0))]  # one of each pair of opposite ones
    width = 0.05 * np.median(np.linalg.norm(steps[:, :6], axis=2))
    if not width > 0:
        return np.empty((0, 2))
    cells = pd.DataFrame(np.rint(flat / width).astype(int)).groupby([0, 1]).size()
    peaks = cells[cells >= 0.1 * len(steps)].index.to_numpy()
    centres = np.array([np.array(peak) for peak in peaks], float).reshape(-1, 2) * width
    means = [flat[np.abs(flat - centre).max(1) <= width].mean(0) for centre in centres[:100]]
    return np.array(means).reshape(-1, 2)


DECISIVE = (same_barcodes, same_places, same_positions, arrays_on_top)


def split_names(names: pd.Index) -> np.ndarray | None:
    """What follows, or surrounds, the part of the names that repeats: "-A" and "-B", as ``ad.concat`` and Seurat add.

    Shape (n,); ``None`` where names have no such parts.
    """
    names = pd.Series(names.astype(str))
    for pattern in (BARCODE, r"^(.+?)[-_.:#|][^-_.:#|]*$", r"^[^-_.:#|]*[-_.:#|](.+)$"):
        cores = names.str.extract(pattern, expand=False).fillna(names)
        repeated = cores.duplicated(keep=False)
        if repeated.sum() < max(6, REPEATED_NAMES * len(names)):
            continue
        rest = pd.Series([name.replace(core, "", 1) for name, core in zip(names, cores, strict=True)])
        counts = rest.value_counts()
        most = 4 if names.str.fullmatch(PAIR).mean() > 0.9 else MOST_ENDINGS  # "12_28": a row and a column
        if 2 <= len(counts) <= most and counts.median() >= 5 and cores.nunique() >= 8 * len(counts):
            return rest.to_numpy()
    return None


def mixes(groups: np.ndarray, positions: np.ndarray) -> bool:
    """Whether groups lie among each other, as slides do that were not moved apart."""
    return _share_across(groups, positions) >= MIXED


def lie_between(groups: np.ndarray, positions: np.ndarray) -> bool:
    """Whether many spots are nearer to one of another group than spots of a group are to each other, as on one array none is."""
    from scipy.spatial import cKDTree

    trees = [cKDTree(positions[groups == code]) for code in range(groups.max() + 1)]
    nearer, looked = 0, 0
    for code, tree in enumerate(trees):
        some = tree.data[:: max(1, tree.n // MANY)]
        if tree.n < 2:
            continue
        own = np.median(tree.query(some, k=2)[0][:, 1])
        across = np.min([other.query(some)[0] for i, other in enumerate(trees) if i != code], axis=0)
        nearer, looked = nearer + (across < NEARER * own).sum(), looked + len(some)
    return looked > 0 and nearer >= SHARE_NEARER * looked


def lie_apart(groups: np.ndarray, positions: np.ndarray) -> bool:
    """Whether hardly any spot has a neighbour of another group."""
    return _share_across(groups, positions) < 0.05


def _share_across(groups: np.ndarray, positions: np.ndarray) -> float:
    """Pairs of neighbours of two groups, over what groups without order would have."""
    from scipy.spatial import cKDTree

    known = groups >= 0
    groups, positions = groups[known], positions[known]
    if len(groups) < 20:
        return 0.0
    chance = 1 - ((np.bincount(groups) / len(groups)) ** 2).sum()
    some = np.arange(0, len(groups), max(1, len(groups) // MANY))
    nearest = cKDTree(positions).query(positions[some], k=7)[1][:, 1:]
    return float((groups[nearest] != groups[some, None]).mean() / max(chance, 1e-9))


def _pair(names) -> str:
    return " and ".join(repr(str(name)) for name in list(names)[:2])
