"""What a call of `snrmix.tl.impute` on an object would take: all of its planning, and none of its work."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from snrmix._memory import free_memory
from snrmix.data.embedding import plan_embedding
from snrmix.data.embedding_cache import read_cache
from snrmix.data.sites import Sites
from snrmix.io._notes import Notes
from snrmix.io._parts import is_modelled, seen_genes
from snrmix.plan.cost import Run, check_memory
from snrmix.plan.estimate import machine_speed, seconds_of
from snrmix.plan.options import Options, read_options
from snrmix.plan.parts import plan_models, run_of
from snrmix.plan.source import Source, doubt

FEW_GENES = 30  # stand for all where models are planned


@dataclass(frozen=True)
class Cost:
    """What a run with default options takes."""

    genes: int
    models: int
    seconds: float
    gigabytes: float
    free_gigabytes: float


def cost_of(source: Source, sites: Sites | None, notes: Notes) -> dict | None:
    """Genes, models, seconds and gigabytes; ``None`` where the object is refused. ``sites`` have their images.

    Doubts and refusals that come up on the way are taken down.
    """
    notes.ask(doubt, source)
    notes.ask(check_memory, source.table)
    options = notes.look(read_options)
    if options is None:
        return None
    n_genes, parts = _plan(source, options, notes)
    if not parts:
        return None
    run = replace(run_of(source, options, parts), genes=n_genes)
    run = notes.look(_with_features, run, source, sites, options) or run
    free = free_memory()
    if run.bytes > free:
        notes.doubt(
            f"about {run.bytes / 1e9:.1f} GB of memory are needed for {run.subject}, and {free / 1e9:.1f} GB are free: fewer "
            "genes= or a part of the section would fit."
        )
    seconds = sum(seconds_of(run, machine_speed()).values())
    return vars(Cost(n_genes, len(parts), round(seconds, 1), round(run.bytes / 1e9, 2), round(free / 1e9, 2)))


def _plan(source: Source, options: Options, notes: Notes) -> tuple[int, list]:
    """Genes that would be modelled, and models that are planned with a few of them."""
    if source.genes is None:
        rows = source.sites.order[source.is_measured]
        seen = notes.ask(seen_genes, source.table, source.layer, rows)
        if seen is None:
            return 0, []
        few = np.argsort(-seen, kind="stable")[:FEW_GENES]
        parts = notes.ask(plan_models, replace(source, genes=list(source.table.var_names[few])), options)
        return int(is_modelled(seen).sum()), parts or []
    parts = notes.ask(plan_models, source, options) or []
    return max((len(part.expression.columns) for part in parts), default=0), parts


def _with_features(run: Run, source: Source, sites: Sites | None, options: Options) -> Run:
    if sites is None or not sites.images:
        return replace(run, features=0 if source.use_rep is None else source.use_rep.shape[1])
    cached = read_cache(source.table, sites)
    return run.with_embedding(plan_embedding(sites, options.encoder, options.scales, options.settings.device, cached))
