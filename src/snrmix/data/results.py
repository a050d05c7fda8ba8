"""Where `snrmix.tl.impute` leaves its results in an object, and how they are found again."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from anndata import AnnData

from snrmix import _checks
from snrmix._names import closest, listing
from snrmix.data.flags import read_flags, read_mask
from snrmix.data.sites import Sites
from snrmix.data.table import read_table

PACKAGES = ("snrmix", "anndata", "lightning", "numpy", "squidpy", "torch")
UNITS = {"counts": "log1p(counts per 10,000)", "log": "as given (log)"}

SD, MEASURED, MODEL, CALIBRATION, MODELLED = "sd", "measured", "model", "calibration", "modelled"
DEPTH, FOLD, ERRORS = "depth", "fold", "errors"
WARNINGS = "warnings"  # of the record
WEIGHTS = ("weight_network", "weight_kriging", "weight_rates")
SCORES = ("pearson", "mse", "explained", "pearson_given_depth", "explained_given_depth", "reliable", "beats_baselines")
COLUMNS = (*SCORES, MODELLED, *WEIGHTS, CALIBRATION)  # of var


@dataclass(frozen=True)
class Result:
    """A result of `snrmix.tl.impute` in a table: the one place that knows the names of its parts.

    Parameters
    ----------
    table
        The table that holds it, or is to hold it.
    key
        Its name, ``key_added`` of the call.
    """

    table: AnnData
    key: str = "snrmix"

    @classmethod
    def find(cls, data, key: str = "snrmix", table_key: str | None = None) -> Result:
        """The result ``key`` of an object.

        Raises
        ------
        KeyError
            When there is no such result; the message lists what there is.
        """
        table = read_table(data, table_key)
        if key not in table.uns:
            raise KeyError(
                f"no result {key!r} in uns; run snrmix.tl.impute first, or pass the key= it was stored under. "
                f"uns has: {listing(table.uns)}.{closest(key, table.uns)}"
            )
        return cls(table, key)

    def name(self, part: str) -> str:
        """What a part is called: ``"snrmix_sd"`` for ``"sd"``."""
        return f"{self.key}_{part}"

    def names(self) -> list[tuple[str, str]]:
        """All places that a result may take: parts of the object, and names in them."""
        return [
            ("uns", self.key), ("layers", self.key), ("layers", self.name(SD)), ("obs", self.name(MEASURED)),
            ("obs", self.name(MODEL)), ("obs", self.name(DEPTH)), ("obs", self.name(FOLD)),
            ("varm", self.name(CALIBRATION)), ("obsm", self.name(ERRORS)), ("varm", self.name(ERRORS)),
            *(("var", self.name(one)) for one in COLUMNS),
        ]  # fmt: skip

    def taken(self) -> list[tuple[str, str]]:
        """Those of these places where something is."""
        return [(part, name) for part, name in self.names() if name in getattr(self.table, part)]

    @property
    def exists(self) -> bool:
        """Whether what is in ``uns`` under this name is a result."""
        record = self.table.uns.get(self.key)
        return isinstance(record, Mapping) and "calibration" in record

    @property
    def record(self) -> Mapping:
        """What ``uns`` has of it."""
        return self.table.uns[self.key]

    @property
    def layer(self) -> np.ndarray:
        """Imputed values, (n_obs, n_vars)."""
        return np.asarray(self.table.layers[self.key])

    @property
    def has_sd(self) -> bool:
        """Whether it has an uncertainty."""
        return self.name(SD) in self.table.layers

    @property
    def sd(self) -> np.ndarray:
        """Their uncertainty, (n_obs, n_vars)."""
        return np.asarray(self.table.layers[self.name(SD)])

    @property
    def is_measured(self) -> np.ndarray:
        """Which rows were taken as measured, bool, (n_obs,).

        Raises
        ------
        KeyError, TypeError, ValueError
            Where the column is missing or is not boolean.
        """
        return read_mask(self.table, self.name(MEASURED), self.name(MEASURED))

    @property
    def is_of_several(self) -> bool:
        """Whether several models made it."""
        return self.name(MODEL) in self.table.obs

    def has(self, part: str) -> bool:
        """Whether ``var`` has a column of it."""
        return self.name(part) in self.table.var

    def column(self, part: str, remedy: str) -> np.ndarray:
        """A numeric column of ``var``, float, (n_vars,).

        Raises
        ------
        KeyError
            When there is none; ``remedy`` ends the message.
        """
        if not self.has(part):
            raise KeyError(f"var[{self.name(part)!r}] is missing; {remedy}. var has: {listing(self.table.var)}.")
        return self.table.var[self.name(part)].to_numpy(dtype=float)

    def flags(self, part: str) -> np.ndarray | None:
        """A boolean column of ``var``, (n_vars,), missing values as ``False``; ``None`` where there is no such column."""
        if not self.has(part):
            return None
        name = self.name(part)
        return read_flags(self.table.var[name], f"var[{name!r}]").yes

    def modelled_genes(self) -> list[str]:
        """Names of the genes that were modelled, in the order of ``var``.

        Raises
        ------
        KeyError
            When the column is missing, or none is left.
        """
        modelled = self.flags(MODELLED)
        if modelled is None or not modelled.any():
            name = self.name(MODELLED)
            raise KeyError(f"var[{name!r}] is missing, or none of its genes is left; run snrmix.tl.impute again.")
        return list(self.table.var_names[modelled])

    def models(self) -> list[tuple[np.ndarray | slice, np.ndarray]]:
        """Rows that a model predicted, and which row of the calibration it has for every gene, -1 where it has none."""
        if not self.is_of_several:
            return [(slice(None), self.table.var[self.name(CALIBRATION)].to_numpy())]
        model = self.table.obs[self.name(MODEL)].to_numpy(str)
        groups = np.asarray(self.table.varm[self.name(CALIBRATION)])
        names = np.atleast_1d(self.record["models"])
        return [(np.flatnonzero(model == name), group) for name, group in zip(names, groups.T, strict=True)]

    def typical_depth(self) -> np.ndarray | None:
        """Depth that the values of every row are given for, in counts, (n_obs,); ``None``: that of the spot."""
        typical = self.record.get("typical_depth")
        if typical is None:
            return None
        depth = np.empty(self.table.n_obs)
        for own, (rows, _) in zip(np.atleast_1d(typical), self.models(), strict=True):
            depth[rows] = own
        return depth

    def own_columns(self, names: Iterable[str], others: Iterable[str]) -> list[str]:
        """Of the names of columns those of this result: they start with its name, and not with a longer one of another.

        Parameters
        ----------
        others
            Names in ``uns``, of other results among them.
        """
        longer = tuple(f"{other}_" for other in others if other != self.key and other.startswith(f"{self.key}_"))
        return [name for name in names if name.startswith(f"{self.key}_") and not name.startswith(longer)]

    def check_libraries(self, sites: Sites) -> None:
        """Refuse libraries that it does not know.

        Raises
        ------
        ValueError
            For such libraries.
        """
        known = [str(name) for name in np.atleast_1d(self.record["image"]["libraries"])]
        if not set(sites.libraries) <= set(known):
            raise ValueError(
                f"libraries are {listing(sites.libraries)} here and were {listing(known)} when {self.key!r} was imputed; "
                "pass the library_key= of that call."
            )

    def check_free(self, reserved: str) -> None:
        """Refuse a name that is none, that is ``reserved``, or under which something else is stored already.

        Raises
        ------
        ValueError
            For such a name.
        """
        key = _checks.key_name("key_added", self.key)
        taken = [] if self.exists else [f"{part}[{name!r}]" for part, name in self.taken()]
        if key == reserved or taken:
            raise ValueError(
                f"key_added={key!r} would overwrite something else: {', '.join(taken) or key}; choose another name."
            )

    def clear(self) -> None:
        """Remove those parts of an earlier result that a new one need not overwrite."""
        for frame, parts in ((self.table.var, (*WEIGHTS, CALIBRATION)), (self.table.obs, (MODEL, DEPTH))):
            for column in frame.columns.intersection([self.name(part) for part in parts]):
                del frame[column]
        if self.name(CALIBRATION) in self.table.varm:
            del self.table.varm[self.name(CALIBRATION)]


def versions() -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}
