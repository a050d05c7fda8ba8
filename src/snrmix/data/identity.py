"""Which rows are which slide; where that cannot be told, nothing is computed over two slides taken for one."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd

from snrmix._log import logger
from snrmix._names import closest, listing
from snrmix.data.flags import read_added
from snrmix.data.identity_signs import DECISIVE, lie_apart, lie_between, mixes, split_names

TAKEN = "library_id"  # the one column that is taken without being asked for
SLIDE_COLUMNS = (  # names that columns of slides have; they are looked at, and named, but not taken
    TAKEN, "library", "sample", "sample_id", "sampleid", "sample_name", "slide", "slide_id", "section", "section_id",
    "batch", "dataset", "dataset_id", "capture_area", "puck", "puck_id", "orig.ident", "image", "image_id", "replicate",
)  # fmt: skip
MOST_SLIDES = 200
FEWEST_OF_A_SLIDE = 5


def as_name(value) -> str:
    """A name as text, so that 1, 1.0, ``np.int64(1)``, "1" and b"1" are one."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    return str(value)


def names_of_column(column: pd.Series) -> np.ndarray:
    """The values of a column as names, shape (n,); missing ones as "nan"."""
    codes, found = pd.factorize(column)
    return np.array([*map(as_name, found), "nan"], dtype=object)[codes].astype(str)


def read_labels(
    obs: pd.DataFrame, stored: Sequence[str], library_key: str | None, region_key: str | None = None
) -> tuple[np.ndarray, str | None]:
    """The library of every row, and the column that told it.

    It is ``library_key``, else the region key of a SpatialData, else ``"library_id"``, else a column whose values are the
    several keys of ``uns["spatial"]``. Without any, all rows are one library.

    Parameters
    ----------
    stored
        Keys of ``uns["spatial"]``.

    Returns
    -------
    tuple
        Names, shape (n,), and the name of the column or ``None``.

    Raises
    ------
    KeyError, ValueError
        For a column that is absent or has missing values, and for several stored libraries that no column tells apart.
    """
    if not isinstance(library_key, Hashable):
        raise TypeError(
            f"library_key must be the name of an obs column, not {type(library_key).__name__}: store the library of every row "
            "in one, adata.obs['library_id'] = ..., and pass its name."
        )
    key = library_key or region_key or (TAKEN if TAKEN in obs else None)
    if key is None and len(stored) > 1:
        key = _column_of(obs, stored)
        logger.info("the keys of uns['spatial'] are the values of obs[%r]: it tells the libraries apart.", key)
    if key is None:
        return np.full(len(obs), stored[0] if stored else "library").astype(str), None
    if key not in obs:
        raise KeyError(f"library_key={key!r} is not in obs; available: {listing(obs)}.{closest(key, obs)}")
    missing = obs[key].isna()
    if missing.any():
        others = [name for name in candidates(obs) if name != key and not obs[name].isna().any()]
        raise ValueError(
            f"obs[{key!r}] has {missing.sum()} missing values, e.g. at {listing(obs.index[missing], 3)}; every observation "
            f"needs a library: fill them in, drop these observations"
            + (f", or choose another column: library_key={listing(others, 5)}." if others else ".")
        )
    return names_of_column(obs[key]), key


def _column_of(obs: pd.DataFrame, stored: Sequence[str]) -> str:
    """The column whose values are the keys of ``uns["spatial"]``; refused where none is, or several differ."""
    named = {name: set(names_of_column(obs[name].dropna())) for name in [*candidates(obs), *_of_one_value(obs)]}
    fitting = [
        name for name, values in named.items() if values and values <= set(stored) and not obs[name].isna().any()
    ]
    whole = [name for name in fitting if named[name] == set(stored)]  # before part of the slides, which may be chance
    fitting = whole or fitting
    splits = {tuple(names_of_column(obs[name]).tolist()) for name in fitting}
    if len(splits) == 1:
        return fitting[0]
    maybe = fitting or [name for name in candidates(obs) if obs[name].nunique() == len(stored)]
    raise ValueError(
        f"uns['spatial'] has {len(stored)} libraries ({listing(stored)}); say which observation is in which with "
        f"library_key=, an obs column."
        + (
            f" It could be {listing(maybe, 5)}."
            if maybe
            else f" No column has as many values: make one first. If all are in one of them, {stored[0]!r} for example: "
            f"adata.obs['library_id'] = {stored[0]!r}."
        )
    )


def _of_one_value(obs: pd.DataFrame) -> list[str]:
    """Columns with the same name in every row, as a slide has that was cut out of several."""
    return [name for name in obs.columns if obs[name].dtype.kind not in "fb" and obs[name].nunique() == 1]


def candidates(obs: pd.DataFrame, most: int = MOST_SLIDES) -> list[str]:
    """Columns that split the rows into some groups of some size, names that slides have first."""
    found = []
    for name in obs.columns:
        column = obs[name]
        if isinstance(column, pd.DataFrame) or (column.dtype.kind == "f" and (column.dropna() % 1 != 0).any()):
            continue
        counts = column.value_counts()
        counts = counts[counts > 0]
        if 2 <= len(counts) <= most and counts.median() >= FEWEST_OF_A_SLIDE:
            found.append(name)
    return sorted(found, key=lambda name: (not is_slide_name(name), obs.columns.get_loc(name)))


def is_slide_name(name) -> bool:
    """Whether a column of that name says which slide a row is of."""
    return str(name).casefold() in SLIDE_COLUMNS


def check_slides(
    labels: np.ndarray, obs: pd.DataFrame, positions: np.ndarray, key: str | None, *, has_images: bool = True
) -> None:
    """Refuse libraries that are several slides put together.

    Parameters
    ----------
    labels
        The library of every row.
    positions
        Shape (n, 2); rows without a position are not looked at.
    key
        The column that tells libraries apart, if any.
    has_images
        Whether the object, or the call, has any. Without, slides that lie side by side are warned of: nothing else would
        notice.

    Raises
    ------
    ValueError
        Where a library has barcodes, array places or positions twice, or the rows of two slides lie among each other. It
        names the columns that would tell them apart.
    """
    usable = np.isfinite(positions).all(1) & ~read_added(obs)
    for library in np.unique(labels).tolist():
        rows = np.flatnonzero((labels == library) & usable)
        if len(rows) < 2 * FEWEST_OF_A_SLIDE:
            continue
        rows = rows[np.lexsort((positions[rows, 1], positions[rows, 0]))]  # the order of the table does not matter
        own, places = obs.iloc[rows], positions[rows]
        sign = find_sign(own, places)
        if sign is not None:
            raise ValueError(_refusal(library, key, sign, own, places))
        if key is None:
            _say_of_groups(own, places, has_images)


def find_sign(obs: pd.DataFrame, positions: np.ndarray) -> str | None:
    """What shows that rows are of several slides, as the end of a sentence; ``None`` where nothing does."""
    for look in DECISIVE:
        sign = look(obs, positions)
        if sign is not None:
            return sign
    for name in candidates(obs):
        if is_slide_name(name) and _lie_mixed(obs[name], positions):
            return f"spots of different obs[{name!r}] lie among each other (where it means something else, rename it)"
    endings = split_names(obs.index)
    if endings is not None and _lie_mixed(endings, positions):
        return f"spots whose names differ by {listing(pd.unique(endings), 3)} lie among each other"
    return None


def _lie_mixed(groups, positions: np.ndarray) -> bool:
    """Whether groups lie among each other, and nearer than the spots of one array, which may have groups without order."""
    codes = pd.factorize(groups)[0]
    return mixes(codes, positions) and lie_between(codes, positions)


def _refusal(library: str, key: str | None, sign: str, obs: pd.DataFrame, positions: np.ndarray) -> str:
    columns = [name for name in candidates(obs) if name != key and _tells_apart(obs[name], obs, positions)]
    if columns:
        remedy = f"Say which spot is on which slide with library_key={columns[0]!r}" + (
            f"; obs[{columns[0]!r}] has {listing(pd.unique(obs[columns[0]].astype(str)), 4)}"
            + (f". {listing(columns[1:], 3)} would do, too." if len(columns) > 1 else ".")
        )
    elif (line := _line_of_names(obs, positions)) is not None:
        remedy = f"The names of the spots tell them apart: adata.obs['slide'] = adata.obs_names.{line}, then library_key='slide'."
    else:
        maybe = [name for name in candidates(obs) if name != key and is_slide_name(name)]
        remedy = (
            "No obs column tells them apart"
            + (f", not even {listing(maybe, 3)}" if maybe else "")
            + ": make one that names the slide of every spot, e.g. with ad.concat({'A': a, 'B': b}, label='slide', "
            "uns_merge='unique'), and pass library_key='slide'. Where they are one slide, keep one row of each place."
        )
    what = f"library {library!r}" if key is None else f"library {library!r} of obs[{key!r}]"
    return f"{what} seems to be several slides: {sign}. Nothing can be computed over slides taken for one. {remedy}"


def _line_of_names(obs: pd.DataFrame, positions: np.ndarray) -> str | None:
    """The code that gets the slide out of the names of the spots; ``None`` where they do not tell it."""
    for line, groups in PARTS_OF_NAMES.items():
        values = groups(obs.index.astype(str).str)
        counts = values.value_counts()
        if 2 <= len(counts) <= MOST_SLIDES and counts.median() >= FEWEST_OF_A_SLIDE:
            if _tells_apart(values, obs, positions):
                return line
    return None


PARTS_OF_NAMES = {
    "str.replace('[ACGT]{12,}', '', regex=True)": lambda names: names.replace("[ACGT]{12,}", "", regex=True),
    "str.extract('([^-_.]*)$', expand=False)": lambda names: names.extract("([^-_.]*)$", expand=False),
    "str.extract('^([^-_.]*)', expand=False)": lambda names: names.extract("^([^-_.]*)", expand=False),
}


def _tells_apart(groups, obs: pd.DataFrame, positions: np.ndarray) -> bool:
    """Whether no group shows a sign of several slides."""
    codes = pd.factorize(groups)[0]
    for code in range(codes.max() + 1):
        rows = codes == code
        if rows.sum() >= 2 and any(look(obs[rows], positions[rows]) is not None for look in DECISIVE):
            return False
    return True


def _say_of_groups(obs: pd.DataFrame, positions: np.ndarray, has_images: bool) -> None:
    """Name a column of slides whose spots lie apart: it may be slides side by side, or pieces on one slide."""
    for name in candidates(obs):
        if is_slide_name(name) and lie_apart(pd.factorize(obs[name])[0], positions):
            (logger.info if has_images else logger.warning)(
                "all spots are taken as one slide; if the %d values of obs[%r] are slides of their own, pass "
                "library_key=%r.", obs[name].nunique(), name, name,
            )  # fmt: skip
            return
