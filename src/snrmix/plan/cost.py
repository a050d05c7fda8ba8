"""What a run will take, before it starts: memory and time, from the sizes of its arrays and the speed of the machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from anndata import AnnData

from snrmix._log import logger
from snrmix._memory import free_memory
from snrmix.data.embedding import EmbeddingPlan
from snrmix.engine.kriging.krige import is_exact
from snrmix.engine.network.heads import MOST_STEPS
from snrmix.engine.network.targets import COMPONENTS, WIDEST
from snrmix.engine.options import Training
from snrmix.engine.slices import MOST_VALUES
from snrmix.images.colour import COLOUR_FEATURES

LONG = 60.0  # seconds from which a run says what it will take
FIXED_BYTES = 4e8  # packages that are loaded on the way
BLOCK_BYTES = 60  # of one value, while a block of at most `MOST_VALUES` of them is scored
IMAGE_BYTES = 4e8  # a level of the image in memory, of ordinary size
KRIGING_WORK = 6e7  # per site, in products of a matrix product: many small systems
PATCH_SECONDS = 0.5e-3  # to read and resize a patch, beside what the encoder takes
PASSES = 9  # of a spot that is trained on: forward and backward, of itself, its partner and their mixture
FEWEST_GENES = 20  # an advice of fewer would be of no use


@dataclass(frozen=True)
class Run:
    """Sizes of a run.

    Parameters
    ----------
    sites, measured
        Numbers of sites, and of those that are measured.
    genes, columns
        Genes that are modelled, and genes of the object: layers have its full shape.
    features
        Features of a site, over all scales.
    scales
        Number of scales.
    patches
        Patches to embed; 0 where the embedding is reused.
    patch_seconds
        Time that one takes.
    networks, folds
        Networks that are trained together, and folds that kriging is fitted for.
    epochs
        Most epochs.
    kriging
        Whether kriging is part of it.
    largest
        Share of the sites that the largest model sees.
    tuning_seconds
        Time that the encoder takes for a patch, where it is fine-tuned; 0: it is not.
    """

    sites: int
    measured: int
    genes: int
    columns: int
    features: int
    scales: int
    patches: int = 0
    patch_seconds: float = 0.0
    networks: int = 5
    folds: int = 5
    epochs: int = 80
    kriging: bool = True
    largest: float = 1.0
    tuning_seconds: float = 0.0

    @classmethod
    def of_embedding(cls, plan: EmbeddingPlan) -> Run:
        """The run of `snrmix.pp.embed_histology`."""
        none = cls(len(plan.sites), 0, 0, 0, 0, 1, networks=1, folds=1, epochs=0, kriging=False)
        return none.with_embedding(plan)

    def with_embedding(self, plan: EmbeddingPlan) -> Run:
        """The run with what embedding the histology takes."""
        seconds = plan.patch_seconds + PATCH_SECONDS
        return replace(self, features=plan.width, scales=plan.scales, patches=plan.patches, patch_seconds=seconds)

    @property
    def subject(self) -> str:
        """What it is about, for messages."""
        if not self.genes:
            return f"the histology of {self.sites:,} sites"
        return f"{self.sites:,} sites x {self.genes:,} genes"

    @property
    def outputs(self) -> int:
        """What a network predicts: genes, or components of many."""
        many = self.genes > WIDEST or self.measured * self.genes > MOST_VALUES
        return min(self.genes, COMPONENTS) if many else self.genes

    @property
    def bytes(self) -> float:
        """Peak memory beyond what is in use: of the embedding, of the fit, or of writing the result."""
        measured, unmeasured = 4 * self.measured * self.genes, 4 * (self.sites - self.measured) * self.genes
        features = 2 * self.sites * self.features
        targets = 4 * self.measured * self.outputs * self.networks
        # Kept: expression, out-of-fold values of network and stack with their sd; predictions with their sd.
        kept = 4 * measured + 2 * unmeasured + targets + features
        # While a model is fitted: four baselines, and kriging with its sd, also as a logarithm; the other members.
        more = 3 if self.kriging else 0
        fit = (4 + more) * measured + (1 + more) * unmeasured + targets + 2 * self.measured * self.features
        embedding = 2 * features + IMAGE_BYTES if self.patches else 0
        writing = kept + 8 * self.sites * self.columns + measured + features
        blocks = BLOCK_BYTES * min(self.measured * self.genes, MOST_VALUES)
        return FIXED_BYTES + blocks + max(embedding, kept + self.largest * fit, writing)

    def seconds(self, speed: float) -> float:
        """Time on a machine that does ``speed`` products of a matrix product in a second."""
        batch, wanted, hidden = Training.largest_batch, Training.steps_per_epoch, Training.hidden
        steps = min(max(self.measured / batch, wanted), MOST_STEPS)
        inputs = self.features / 2  # dropout leaves half of them
        step = 3 * min(batch, self.measured / wanted) * hidden * (2 * inputs + 3 * self.outputs)
        judged = self.measured / self.networks * hidden * (self.features + self.outputs)
        is_frozen = self.features and not self.tuning_seconds
        work = self.epochs * self.networks * (steps * step + judged) if is_frozen else 0.0
        if self.kriging and is_exact(self.measured, self.sites - self.measured):
            work += 5 * (self.folds + 1) * float(self.measured) ** 3
        elif self.kriging:
            work += KRIGING_WORK * self.sites
        work += 100.0 * self.sites * self.genes * self.folds  # baselines, scores, intervals
        return self.patches * self.patch_seconds + self.passes * self.tuning_seconds + work / speed

    @property
    def passes(self) -> float:
        """Patches that pass the encoder while it is fine-tuned, a backward pass counted as two."""
        held_out = self.measured / max(self.folds, 2)
        epoch = PASSES * (self.measured - held_out) + held_out
        return self.scales * (self.networks * (self.epochs * epoch + self.sites - self.measured) + self.measured)


def machine_speed(size: int = 1024) -> float:
    """Products that a matrix product of single precision makes in a second on this machine."""
    a = np.random.default_rng(0).random((size, size), dtype=np.float32)
    a @ a
    started = time.perf_counter()
    a @ a
    return size**3 / (time.perf_counter() - started)


def announce(run: Run) -> None:
    """Log what a long run will take.

    Raises
    ------
    ValueError
        When it needs more memory than is free; the message names what would fit.
    """
    free = free_memory()
    if run.bytes > free:
        raise ValueError(
            f"about {run.bytes / 1e9:.1f} GB of memory are needed for {run.subject}, and {free / 1e9:.1f} GB are free. "
            f"What would fit: {', '.join(fitting_ways(run, free))}."
        )
    is_long = run.sites * max(run.genes, 1) > 1e6 or run.patches > 1000 or run.tuning_seconds > 0
    seconds = run.seconds(machine_speed()) if is_long else 0.0
    if seconds > LONG:
        logger.info(
            "%s: about %.1f GB of memory (%.1f GB free) and %s on this machine.",
            run.subject, run.bytes / 1e9, free / 1e9, _duration(seconds),
        )  # fmt: skip


def fitting_ways(run: Run, free: float) -> list[str]:
    """What would make a run fit into the free memory, each by itself; a smaller part of the section always would."""
    ways = {}
    if run.genes > FEWEST_GENES:
        genes = _most(lambda n: replace(run, genes=n), run.genes, free)
        ways[f"genes={genes}"] = replace(run, genes=max(genes, FEWEST_GENES))
    if run.scales > 1:
        ways["one of the scales, scales=(2.3,)"] = replace(run, features=run.features // run.scales, scales=1)
    if run.features > 2 * COLOUR_FEATURES * run.scales:
        ways["encoder='colour'"] = replace(run, features=COLOUR_FEATURES * run.scales)
    if run.kriging:
        ways["kriging=False"] = replace(run, kriging=False)

    def part(n: int) -> Run:
        return replace(run, sites=n, measured=n * run.measured // run.sites, patches=n * run.patches // run.sites)

    found = [way for way, other in ways.items() if other.bytes <= free]
    return [*found, f"a part of the section, up to about {_most(part, run.sites, free):,} sites (adata[rows].copy())"]


def _most(of: Callable[[int], Run], size: int, free: float) -> int:
    """The largest size that fits, but for a tenth."""
    while size > 1 and of(size).bytes > free:
        size = size * 9 // 10
    return size


def _duration(seconds: float) -> str:
    if seconds < 90 * 60:
        return f"{max(round(seconds / 60), 1)} minutes"
    return f"{seconds / 3600:.1f} hours"


def check_memory(table: AnnData) -> None:
    """Refuse what would not fit: layers have the full shape of the table.

    Raises
    ------
    ValueError
        When two float32 layers need more than 80 % of the memory that is free.
    """
    needed, free = 2 * 4 * table.n_obs * table.n_vars, free_memory()
    if needed > 0.8 * free:
        raise ValueError(
            f"layers of {table.n_obs} x {table.n_vars} values need {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are "
            "free. Log-normalise first (sc.pp.normalize_total, sc.pp.log1p), then subset to the genes you want: "
            "adata = adata[:, genes].copy()."
        )
