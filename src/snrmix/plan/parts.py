"""Which models an object with several libraries needs: what each is fitted to, and whose spots it predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from snrmix._log import logger
from snrmix._names import listing
from snrmix.data.depth import site_depths
from snrmix.data.expression import MIN_MEASURED, Expression, number_among, read_expression, units_of
from snrmix.data.sites import Sites, restrict_sites
from snrmix.engine.fit import SectionFit, Settings, Stacked, fit_section, stack_section
from snrmix.engine.folds import Fold, clustered_assignment, random_assignment
from snrmix.engine.section import Section
from snrmix.engine.sharing import Shared
from snrmix.plan.cost import Run
from snrmix.plan.features import Features
from snrmix.plan.graph import spatial_neighbours
from snrmix.plan.options import Options
from snrmix.plan.source import Source
from snrmix.plan.splits import choose_folds, settle_neighbours

SHARED, OTHERS = "shared", "other slides"
REGIONS = 5  # held out one by one, where the user asked for a single split


@dataclass(frozen=True)
class Part:
    """One model: what it is fitted to, and whose spots it predicts.

    Parameters
    ----------
    name
        The library, `SHARED` or `OTHERS`.
    kind
        How its scores come about: ``"own"`` and ``"shared"`` hold out spots of the libraries that it predicts,
        ``"leave-group-out"`` all libraries of a group, ``"leave-library-out"`` whole libraries, ``"within-library"`` regions,
        for want of a second measured library.
    libraries
        Those that it predicts.
    sites
        Of the libraries that it sees.
    rows
        Where these are among the sites of the object.
    is_measured
        Shape (n,), bool, in the order of ``sites``.
    expression
        Of the measured ones.
    folds
        Of the measured ones.
    site_depth
        Counts of every site, see `snrmix.data.depth.site_depths`.
    partner
        A model of all libraries with the same folds, whose predictions are weighed with its own; ``None``: there is none.
    """

    name: str
    kind: str
    libraries: tuple[str, ...]
    sites: Sites
    rows: slice | np.ndarray
    is_measured: np.ndarray
    expression: Expression
    folds: list[Fold]
    site_depth: np.ndarray | None = None
    partner: Part | None = None

    @property
    def measured(self) -> np.ndarray:
        """Indices of the measured sites, ascending."""
        return np.flatnonzero(self.is_measured)

    @property
    def elsewhere(self) -> bool:
        """Whether it predicts libraries that its networks have not seen."""
        return self.kind not in ("own", "shared")

    @property
    def predicts(self) -> np.ndarray:
        """Which of its sites it predicts, bool, shape (n,)."""
        return np.isin(np.array(self.sites.libraries), self.libraries)[self.sites.library]

    @property
    def unplaced(self) -> np.ndarray:
        """Rows of the table that it would predict, if they had a position."""
        sites = self.sites
        return sites.unplaced[np.isin(np.array(sites.libraries), self.libraries)[sites.unplaced_library]]

    def settings(self, options: Options) -> Settings:
        """What the engine needs to know to fit it.

        Raises
        ------
        ValueError
            When the user chose more neighbours than there are training spots.
        """
        settings = options.settings
        return replace(settings, mixing=settle_neighbours(settings.mixing, self.folds, options.k_is_chosen))

    def section(self, features: Features) -> Section:
        """What the engine sees; ``features`` are those of all sites of the object."""
        own, positions, measured = features[self.rows], self.sites.lattice_positions, self.measured

        def neighbours(train: np.ndarray, k: int, values: np.ndarray | None = None) -> np.ndarray:
            space = positions[measured[train]] if values is None else values
            return spatial_neighbours(space, self.sites.library[measured[train]], k)

        values, depth = self.expression.values, self.expression.depth
        return Section(
            own.alike if self.elsewhere and own.alike is not None else own.values,
            own.colour,
            positions,
            self.sites.library,
            measured,
            values,
            depth,
            neighbours,
            own.patches,
            self.site_depth,
        )

    def stack(self, features: Features, settings: Settings) -> Stacked:
        """What it predicts, before that is calibrated."""
        return stack_section(self.section(features), self.folds, settings, self.elsewhere)

    def fit(self, features: Features, settings: Settings, shared: Shared | None = None) -> SectionFit:
        """Fit it; ``features`` are those of all sites of the object, ``shared`` is what its partner predicts."""
        return fit_section(self.section(features), self.folds, settings, self.elsewhere, shared)


def plan_models(source: Source, options: Options) -> list[Part]:
    """A model per library, or a shared one; and one of all measured libraries for those without measured spots.

    Expression is read and folds are drawn here; features are not needed.

    Raises
    ------
    ValueError, KeyError, TypeError
        When a library has too few measured spots for a model of its own, libraries differ in their units, the folds
        cannot be as asked for, or genes and units are not those of the expression.
    """
    names, share = source.sites.libraries, options.share
    for reserved in {SHARED, OTHERS} & set(names) if len(names) > 1 else ():
        raise ValueError(f"library {reserved!r} has the name that models of several libraries have; rename it.")
    count = np.bincount(source.sites.library[source.is_measured], minlength=len(names))
    enough = np.flatnonzero(count >= MIN_MEASURED)
    few = [f"{names[code]} ({count[code]})" for code in np.flatnonzero((count > 0) & (count < MIN_MEASURED))]
    if few and share is False:
        raise ValueError(
            f"fewer than {MIN_MEASURED} measured spots, too few for a model of its own, in library {listing(few)}: pass "
            "share=True, or mark these spots as unmeasured with measured=, so that the other libraries predict them."
        )
    if len(names) > 1 and source.units == "auto":
        _check_units(source, np.flatnonzero(count))
    source = _settle_genes(source)
    together = [enough] if share is True and len(enough) else [[code] for code in enough]
    parts = [plan_model(source, options, codes) for codes in together]
    if share == "auto" and len(parts) > 1:
        partner = read_part(source, SHARED, "shared", tuple(part.name for part in parts), enough)
        partner = replace(partner, folds=join_folds(parts, partner))
        parts = [replace(part, partner=partner) for part in parts]
    rest = tuple(names[code] for code in range(len(names)) if code not in enough)
    if rest:
        parts.append(_elsewhere(source, count, rest, options))
    return parts


def plan_model(source: Source, options: Options, codes: Sequence[int]) -> Part:
    """The model of some libraries, by their codes, ascending, all of which have measured spots.

    Raises
    ------
    ValueError, KeyError, TypeError
        As `plan_models`.
    """
    names = tuple(source.sites.libraries[code] for code in codes)
    name, kind = (names[0], "own") if len(names) == 1 else (SHARED, "shared")
    try:
        part = read_part(source, name, kind, names, codes)
        folds = choose_folds(source.table, part.sites, part.is_measured, options)
    except ValueError as error:
        if len(codes) == len(source.sites.libraries):
            raise
        raise ValueError(f"library {listing(names)}: {error}") from error
    return replace(part, folds=folds)


def read_part(source: Source, name: str, kind: str, predicts: tuple[str, ...], codes: Sequence[int]) -> Part:
    """A model that sees some libraries, without folds: as if the object had no others."""
    sites, rows, is_measured = source.sites, slice(None), source.is_measured
    if len(codes) < len(sites.libraries):
        rows, sites = restrict_sites(sites, codes)
        is_measured = is_measured[rows]
    wanted = {"layer": source.layer, "units": source.units, "genes": source.genes}
    expression = read_expression(source.table, sites, is_measured, **wanted)
    depth = site_depths(source.table, sites, is_measured, expression, source.depth_key)
    return Part(name, kind, predicts, sites, rows, is_measured, expression, [], depth)


def join_folds(own: Sequence[Part], everything: Part) -> list[Fold]:
    """Folds of a model of all libraries, which hold the same spots out together as the models of each.

    A library with fewer folds than others is trained on as a whole in the last ones.
    """
    held_out, compact = {}, {}
    for part in own:
        measured, count = where(part, everything)[0], {}
        for fold in part.folds:
            key = fold.repeat, count.get(fold.repeat, 0)
            count[fold.repeat] = key[1] + 1
            held_out.setdefault(key, []).append(measured[fold.held_out])
            compact[key] = compact.get(key, False) or fold.compact
    every, joined = np.arange(len(everything.measured)), []
    for key in sorted(held_out):
        held = np.sort(np.concatenate(held_out[key]))
        joined.append(Fold(np.setdiff1d(every, held), held, key[0], compact[key]))
    return joined


def where(part: Part, everything: Part) -> tuple[np.ndarray, np.ndarray]:
    """Which of the measured spots of another model a model's measured spots are, and likewise the unmeasured ones."""
    measured, others = part.is_measured, everything.is_measured
    pairs = ((measured, others), (~measured, ~others))
    return tuple(find(part.sites.order[own], everything.sites.order[other]) for own, other in pairs)


def find(wanted: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Where each of the wanted numbers is, all of which are there."""
    ascending = np.argsort(among)
    return ascending[np.searchsorted(among, wanted, sorter=ascending)]


def run_of(source: Source, options: Options, parts: Sequence[Part]) -> Run:
    """What is known of the size of a run before there are features."""
    partner = parts[0].partner
    every, models = [*parts, *([partner] if partner else [])], 2 if partner else 1
    return Run(
        sites=len(source.sites),
        measured=int(source.is_measured.sum()),
        genes=max(len(part.expression.columns) for part in every),
        columns=source.table.n_vars,
        features=0,
        scales=1,
        networks=models * max(len(part.folds) for part in parts),
        folds=models * max(sum(fold.repeat == 0 for fold in part.folds) for part in parts),
        epochs=options.settings.training.max_epochs,
        kriging=options.settings.kriging,
        largest=max(len(part.sites) for part in every) / len(source.sites),
    )


def _settle_genes(source: Source) -> Source:
    """A number of genes means those of highest mean over the measured spots of all libraries, also beside named genes."""
    genes, names = source.genes, source.table.var_names
    named = isinstance(genes, str | None) or (isinstance(genes, list) and number_among(genes, names) is None)
    if named or len(source.sites.libraries) == 1:
        return source
    found = read_expression(
        source.table, source.sites, source.is_measured, layer=source.layer, units=source.units, genes=source.genes
    )
    return replace(source, genes=list(source.table.var_names[np.append(found.columns, found.mean_columns)]))


def _elsewhere(source: Source, count: np.ndarray, predicted: tuple[str, ...], options: Options) -> Part:
    """The model of libraries that have no measured spots, or few: scored on whole libraries that it has not seen."""
    names = np.array(source.sites.libraries)
    if not source.has_features:
        logger.warning(
            "library %s: without an image or use_rep= other libraries tell only the mean.", listing(predicted)
        )
    kind, group = _what_is_left_out(source, count)
    part = read_part(source, OTHERS, kind, predicted, range(len(names)))
    library = part.sites.library[part.measured]
    if kind != "within-library":
        together = "each of them" if kind == "leave-library-out" else "all slides of one group after the other"
        logger.info(
            "library %s: predicted from the other slides (%s), with scores from leaving out %s.",
            listing(predicted), listing(names[count > 0]), together,
        )  # fmt: skip
        if kind == "leave-library-out" and source.group is not None:
            logger.warning(
                "library %s: the measured slides are of one group alone, and scores say nothing of another.",
                listing(predicted),
            )  # fmt: skip
        return replace(part, folds=_folds_of(group[library], compact=True))
    _warn_of_optimism(predicted, names[count >= MIN_MEASURED], names[(count > 0) & (count < MIN_MEASURED)])
    regions = min(options.n_folds if options.n_folds > 1 else REGIONS, len(library) // 2)
    rng, positions = np.random.default_rng(options.settings.seed), part.sites.lattice_positions[part.measured]
    fold = random_assignment(library, regions, rng)
    large = np.flatnonzero(count[library] >= MIN_MEASURED)
    fold[large] = clustered_assignment(positions[large], library[large], regions, 1, rng)
    return replace(part, folds=_folds_of(fold, compact=True))


def _what_is_left_out(source: Source, count: np.ndarray) -> tuple[str, np.ndarray]:
    """How a model of other slides is scored, and for every library the number of the group that is left out with it."""
    alone = np.arange(len(count))
    for kind, group in (("leave-group-out", source.group), ("leave-library-out", alone)):
        if group is not None and count.sum() - np.bincount(group, count).max() >= MIN_MEASURED:
            return kind, group
    return "within-library", alone


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
