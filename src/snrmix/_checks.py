"""Refuse arguments that are out of range, in one wording for the whole package."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from numbers import Integral, Real

import numpy as np

from snrmix._names import closest, listing


def whole_number(name: str, value, least: int = 1) -> int:
    """A whole number from ``least`` up.

    Raises
    ------
    ValueError
        For anything else, booleans included.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name}={value!r} must be a whole number from {least} up.")
    return int(value)


def key(name: str, value, what: str):
    """A name of something in the object, or ``None``.

    Raises
    ------
    TypeError
        For lists, arrays and the like.
    """
    if not isinstance(value, Hashable):
        raise TypeError(f"{name} must be the name of {what}, not {type(value).__name__}.")
    return value


def flag(name: str, value) -> bool:
    """``True`` or ``False``.

    Raises
    ------
    TypeError
        For anything else, numbers included.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}={value!r} must be True or False.")
    return bool(value)


def positive(name: str, value):
    """A number above 0.

    Raises
    ------
    ValueError
        For anything else, NaN included.
    """
    if not (isinstance(value, Real) and value > 0):
        raise ValueError(f"{name}={value!r} must be positive.")
    return value


def not_negative(name: str, value):
    """A number from 0 up.

    Raises
    ------
    ValueError
        For anything else, NaN included.
    """
    if not (isinstance(value, Real) and value >= 0):
        raise ValueError(f"{name}={value!r} must not be negative.")
    return value


def share(name: str, value, below_one: bool = False):
    """A number from 0 to 1, or with ``below_one`` less than 1.

    Raises
    ------
    ValueError
        For anything else, NaN included.
    """
    if not (isinstance(value, Real) and 0 <= value <= 1) or (below_one and value == 1):
        raise ValueError(
            f"{name}={value!r} must {'be a share from 0 up, and less than 1' if below_one else 'lie between 0 and 1'}."
        )
    return value


def choice(name: str, value, known: Iterable[str]):
    """One of the known values.

    Raises
    ------
    ValueError
        For anything else; it names the nearest ones.
    """
    known = tuple(known)
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name}={value!r} is unknown; choose one of {listing(known)}.{closest(value, known)}")
    return value


SAID_ELSEWHERE = {  # what other packages call an argument, and what it is here
    "random_state": ("seed", "random_seed", "rng"),
    "genes": ("n_genes", "n_top_genes", "hvg", "highly_variable", "gene_names", "var_names", "use_genes"),
    "library_key": ("batch_key", "sample_key", "slide_key", "section_key", "library_id", "batch", "sample"),
    "copy": ("inplace", "in_place"),
    "max_epochs": ("epochs", "n_epochs", "num_epochs"),
    "learning_rate": ("lr",),
    "accelerator": ("device", "gpu", "use_gpu"),
    "measured": ("mask", "obs_mask", "in_tissue"),
    "image": ("img", "image_path", "he", "histology"),
    "um_per_px": ("mpp", "pixel_size", "microns_per_pixel"),
    "n_folds": ("folds", "cv", "n_splits"),
    "mix": ("k", "n_neighbors", "n_neighs"),
    "encoder": ("model", "backbone", "feature_extractor"),
    "use_rep": ("obsm_key", "rep"),
    "key_added": ("key", "layer_added"),
    "table_key": ("table", "table_name"),
}


def arguments(call: str, given: Iterable[str], known: Iterable[str], options: Iterable[str] = ()) -> None:
    """Refuse arguments that a call does not have.

    Parameters
    ----------
    given
        Names that the call was given and does not name itself.
    known
        Names of its arguments.
    options
        Further names that it takes.

    Raises
    ------
    TypeError
        For others: the message names the nearest, and all there are.
    """
    known, options = list(known), list(options)
    for name in given:
        if name in options:
            continue
        meant = [one for one, others in SAID_ELSEWHERE.items() if name.casefold() in others and one in known + options]
        hint = f" Did you mean {meant[0]!r}?" if meant else closest(name, known + options)
        if meant == ["copy"]:
            hint = " Results are written into the object; copy=True returns a copy with them instead."
        more = f", and options of the training: {', '.join(options)}" if options else ""
        raise TypeError(f"{call}() got an unexpected keyword argument {name!r}.{hint} It has {', '.join(known)}{more}.")


def key_name(name: str, value) -> str:
    """A name under which results can be stored.

    Raises
    ------
    ValueError
        For anything but a text without ``/``.
    """
    if not isinstance(value, str) or not value or "/" in value:
        raise ValueError(f"{name}={value!r} must be a name without '/'.")
    return value
