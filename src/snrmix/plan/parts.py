"""Which models an object with several libraries needs: what each is fitted to, and whose spots it predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from snrmix._log import logger
from snrmix._names import listing
from snrmix.data.expression import MIN_MEASURED, read_expression, units_of
from snrmix.engine.fit import SectionFit, Settings, fit_section
from snrmix.engine.folds import Fold, clustered_assignment, random_assignment
from snrmix.plan.source import Prepared, Source, read_expression_of, restrict
from snrmix.plan.splits import check_numbers, choose_folds

SHARED, OTHERS = "shared", "other slides"
REGIONS = 5  # held out one by one, where the user asked for a single split


@dataclass(frozen=True)
class Part:
    """One model.

    Parameters
    ----------
    name
        The library, `SHARED` or `OTHERS`.
    kind
        How its scores come about: ``"own"`` and ``"shared"`` hold out spots of the libraries that it predicts,
        ``"leave-library-out"`` whole libraries, ``"within-library"`` regions, for want of a second measured library.
    prepared
        The libraries that it sees.
    folds
        Of their measured spots.
    libraries
        Those that it predicts.
    """

    name: str
    kind: str
    prepared: Prepared
    folds: list[Fold]
    libraries: tuple[str, ...]

    @property
    def elsewhere(self) -> bool:
        """Whether it predicts libraries that its networks have not seen."""
        return self.kind not in ("own", "shared")

    @property
    def predicts(self) -> np.ndarray:
        """Which of its sites it predicts, bool, shape (n,)."""
        sites = self.prepared.sites
        return np.isin(np.array(sites.libraries), self.libraries)[sites.library]

    def fit(self, settings: Settings) -> SectionFit:
        """Fit it."""
        return fit_section(self.prepared.section, self.folds, settings, self.elsewhere)


def plan_models(source: Source, share: bool, n_folds: int, n_repeats: int, validation, seed: int) -> list[Part]:
    """A model per library, or a shared one; and one of all measured libraries for those without measured spots.

    Parameters
    ----------
    source
        The object.
    share, n_folds, n_repeats, validation, seed
        As in `snrmix.tl.impute`.

    Raises
    ------
    ValueError, KeyError, TypeError
        When a library has too few measured spots for a model of its own, libraries differ in their units, or the folds
        cannot be as asked for.
    """
    check_numbers(n_folds, n_repeats)
    names = source.sites.libraries
    for reserved in {SHARED, OTHERS} & set(names) if len(names) > 1 else ():
        raise ValueError(f"library {reserved!r} has the name that models of several libraries have; rename it.")
    count = np.bincount(source.sites.library[source.is_measured], minlength=len(names))
    enough = np.flatnonzero(count >= MIN_MEASURED)
    few = [f"{names[code]} ({count[code]})" for code in np.flatnonzero((count > 0) & (count < MIN_MEASURED))]
    if few and not share:
        raise ValueError(
            f"fewer than {MIN_MEASURED} measured spots, too few for a model of its own, in library {listing(few)}: pass "
            "share=True, or mark these spots as unmeasured with measured=, so that the other libraries predict them."
        )
    if len(names) > 1 and source.units == "auto":
        _check_units(source, np.flatnonzero(count))
    source = _settle_genes(source)
    together = [enough] if share and len(enough) else [[code] for code in enough]
    split = {"n_folds": n_folds, "n_repeats": n_repeats, "validation": validation, "seed": seed}
    parts = [_own_or_shared(source, codes, split) for codes in together]
    rest = tuple(names[code] for code in range(len(names)) if code not in enough)
    if rest:
        parts.append(_elsewhere(source, count, rest, n_folds, seed))
    return parts


def _settle_genes(source: Source) -> Source:
    """A number of genes means those of highest mean over the measured spots of all libraries."""
    if isinstance(source.genes, str | list | None) or len(source.sites.libraries) == 1:
        return source
    found = read_expression(
        source.table, source.sites, source.is_measured, layer=source.layer, units=source.units, genes=source.genes
    )
    return replace(source, genes=list(source.table.var_names[np.append(found.columns, found.mean_columns)]))


def _own_or_shared(source: Source, codes, split: dict) -> Part:
    names = tuple(source.sites.libraries[code] for code in codes)
    try:
        prepared = read_expression_of(restrict(source, codes))
        folds = choose_folds(prepared, **split)
    except ValueError as error:
        if len(codes) == len(source.sites.libraries):
            raise
        raise ValueError(f"library {listing(names)}: {error}") from error
    if len(names) == 1:
        return Part(names[0], "own", prepared, folds, names)
    return Part(SHARED, "shared", prepared, folds, names)


def _elsewhere(source: Source, count: np.ndarray, predicted: tuple[str, ...], n_folds: int, seed: int) -> Part:
    """The model of libraries that have no measured spots, or few: scored on whole libraries that it has not seen."""
    prepared = read_expression_of(source)
    library = prepared.section.library[prepared.section.measured]
    names = np.array(source.sites.libraries)
    if not source.features.shape[1]:
        logger.warning(
            "library %s: without an image or use_rep= other libraries tell only the mean.", listing(predicted)
        )
    if count.sum() - count.max() >= MIN_MEASURED:
        logger.info(
            "library %s: predicted from the other slides (%s), with scores from leaving out each of them.",
            listing(predicted), listing(names[count > 0]),
        )  # fmt: skip
        return Part(OTHERS, "leave-library-out", prepared, _folds_of(library, compact=True), predicted)
    _warn_of_optimism(predicted, names[count >= MIN_MEASURED], names[(count > 0) & (count < MIN_MEASURED)])
    regions = min(n_folds if n_folds > 1 else REGIONS, len(library) // 2)
    rng, positions = np.random.default_rng(seed), prepared.section.positions[prepared.section.measured]
    fold = random_assignment(library, regions, rng)
    large = np.flatnonzero(count[library] >= MIN_MEASURED)
    fold[large] = clustered_assignment(positions[large], library[large], regions, 1, rng)
    return Part(OTHERS, "within-library", prepared, _folds_of(fold, compact=True), predicted)


def _warn_of_optimism(predicted: Sequence[str], large: Sequence[str], few: Sequence[str]) -> None:
    """Say what scores rest on, where no other library has enough measured spots to be left out."""
    seen = [f"library {listing(large)}"] if len(large) else []
    seen += [f"the few measured spots of {listing(few)}"] if len(few) else []
    logger.warning(
        "library %s: predicted from %s%s. Scores and intervals come from %s, and are optimistic for another library; %d "
        "or more measured spots of a second one would make them honest.",
        listing(predicted), " and ".join(seen), "" if len(few) else " alone",
        f"regions of library {listing(large)}" if len(large) else "spots of the same libraries", MIN_MEASURED,
    )  # fmt: skip


def _folds_of(label: np.ndarray, compact: bool) -> list[Fold]:
    """Hold out each label once."""
    return [Fold(np.flatnonzero(label != k), np.flatnonzero(label == k), compact=compact) for k in np.unique(label)]


def _check_units(source: Source, measured: np.ndarray) -> None:
    """Refuse libraries that look like different units; ``measured`` are the codes of those with measured spots."""
    units = {}
    for code in measured:
        name, own = source.sites.libraries[code], source.is_measured & (source.sites.library == code)
        try:
            units[name] = units_of(source.table, source.sites, own, source.layer)
        except ValueError as error:
            raise ValueError(f"library {name!r}: {error}") from error
    if len(set(units.values())) > 1:
        raise ValueError(
            "libraries differ in their units: "
            + ", ".join(f"{name!r} looks like {unit}" for name, unit in units.items())
            + ". Say units='counts' or units='log', or bring them into the same units first."
        )
