"""What a run will take, before it starts: memory and time, from the sizes of its arrays and the speed of the machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

from anndata import AnnData

from snrmix._log import logger
from snrmix._memory import free_memory
from snrmix._progress import LONG, duration, expect, fastest, waiting
from snrmix.data.embedding import FEW_PATCHES, EmbeddingPlan
from snrmix.engine.folds import HALVED_SPOTS
from snrmix.engine.kriging.krige import is_exact
from snrmix.engine.network.heads import batches
from snrmix.engine.network.inputs import width_of
from snrmix.engine.network.targets import COMPONENTS, WIDEST
from snrmix.engine.options import Training
from snrmix.engine.slices import MOST_VALUES
from snrmix.images.colour import COLOUR_FEATURES

FIXED_BYTES = 4e8  # packages that are loaded on the way
BLOCK_BYTES = 60  # of one value, while a block of at most `MOST_VALUES` of them is scored
SYSTEM_BYTES = 16  # of a pair of measured spots, where kriging uses them all
IMAGE_BYTES = 4e8  # a level of the image in memory, of ordinary size
# Work is counted in products of a matrix product:
KRIGING_WORK = 6e7  # of kriging from neighbourhoods, per site: many small systems
FIT_WORK = 2e9  # of kriging from all spots, per fit, whatever it is fitted to
SPOT_WORK = 10.0  # and per cubed number of spots
PACKAGES_WORK = 5e10  # of loading packages on the way
UPDATES = 2.0  # that an update of AdamW is worth, with the average of the weights and the choice of inputs
PATCH_SECONDS = 1e-3  # to read and resize a patch, beside what the encoder takes
PASSES = 9  # of a spot that is trained on: forward and backward, of itself, its partner and their mixture
SHARE_OF_EPOCHS = 0.5  # that are trained before it stops early, where spots are few
GATHERED = 1.5  # times a product with features takes, which have to be picked for every step
TURNS = 4.0  # products that coordinates of the features take, per feature and squared number of coordinates
LEADING_TURNS = 20.0  # and where they are leading ones, found once
VALUES = 70.0  # updates that a value of a step takes, per spot and unit: masks, activations, losses and what they read
STEP_SECONDS = 3e-3  # of a training step, beside its products and updates
SCORE_WORK = 100.0  # per site, gene and fold: baselines, scores, intervals
SHORT_RUN = 1e4  # values that are imputed: fewer take no time that would be worth an estimate
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
    embeddings
        How many there are of every site.
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
    embeddings: int = 1

    @classmethod
    def of_embedding(cls, plan: EmbeddingPlan) -> Run:
        """The run of `snrmix.pp.embed_histology`."""
        none = cls(len(plan.sites), 0, 0, 0, 0, 1, networks=1, folds=1, epochs=0, kriging=False)
        return none.with_embedding(plan)

    def with_embedding(self, *plans: EmbeddingPlan) -> Run:
        """The run with what embedding the histology takes, in one way or several."""
        patches, seconds = sum(plan.patches for plan in plans), plans[-1].patch_seconds + PATCH_SECONDS
        how = {"features": plans[0].width, "scales": plans[0].scales, "embeddings": len(plans)}
        return replace(self, patches=patches, patch_seconds=seconds, **how)

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
        features = 2 * self.sites * self.features * self.embeddings
        width = width_of(self.measured, self.features)
        bases = self.networks if width == self.measured else 1
        basis = 4 * bases * (self.features + self.measured) * width if width < self.features else 0
        targets = 4 * self.measured * self.outputs * self.networks
        # Kept: expression, out-of-fold values of network and stack with their sd; predictions with their sd.
        kept = 4 * measured + 2 * unmeasured + targets + features
        # While a model is fitted: four baselines, and kriging with its sd, also as a logarithm; the other members.
        more = 3 if self.kriging else 0
        fit = (4 + more) * measured + (1 + more) * unmeasured + targets + 2 * self.measured * self.features
        exact = self.kriging and is_exact(self.measured, self.sites - self.measured)
        systems = SYSTEM_BYTES * (self.largest * self.measured) ** 2 if exact else 0
        embedding = features + 2 * self.sites * self.features + IMAGE_BYTES if self.patches else 0
        # While layers are written, networks are still there, and freed systems are not given back.
        writing = kept + 8 * self.sites * self.columns + measured + features + basis + systems
        blocks = BLOCK_BYTES * min(self.measured * self.genes, MOST_VALUES)
        return FIXED_BYTES + blocks + max(embedding, kept + self.largest * (fit + basis) + systems, writing)

    def seconds(self, speed: Speed) -> dict[str, float]:
        """Time of every stage on a machine of this speed."""
        packages = 0.0 if "squidpy" in sys.modules or not self.measured else PACKAGES_WORK
        scores = SCORE_WORK * self.sites * self.genes * self.folds
        return {
            "embedding": self.patches * self.patch_seconds,
            "fine-tuning": self.passes * self.tuning_seconds,
            "graph": packages / speed.products,
            "networks": 0.0 if self.tuning_seconds else self._network_seconds(speed),
            "kriging": self._kriging_work() / speed.products,
            "scores": scores / speed.products,
        }

    def _network_seconds(self, speed: Speed) -> float:
        if not self.features:
            return 0.0
        hidden, train = Training.hidden, max(round(self.measured * (1 - 1 / max(self.folds, 2))), 1)
        batch, per_epoch = batches(train, Training(), self.features)
        width = width_of(train, self.features)
        step = 3 * batch * hidden * (width + 3 * self.outputs)  # of features, dropout leaves half
        judged = self.measured / self.networks * hidden * (width + self.outputs)
        updates = per_epoch * (hidden * (width + self.outputs) + VALUES * batch * (hidden + self.outputs) / UPDATES)
        few = width == train < self.features
        soon = width < self.features and batch * (per_epoch + 1) > train  # every epoch sees all spots
        epochs = self.epochs * (SHARE_OF_EPOCHS if soon else 1)
        step *= GATHERED if width == self.features else 1
        work = (per_epoch * step + judged) / speed.products + UPDATES * updates / speed.updates
        turned = 0.0
        if few:
            turned = self.networks * TURNS * self.features * width**2
        elif width < self.features:
            turned = self.features * width * (LEADING_TURNS * width + self.measured)
        return epochs * (self.networks * work + per_epoch * STEP_SECONDS) + turned / speed.products

    def _kriging_work(self) -> float:
        if not self.kriging or not self.measured:
            return 0.0
        if not is_exact(self.measured, self.sites - self.measured):
            return KRIGING_WORK * self.sites
        fits = (2 if self.measured <= HALVED_SPOTS else 1) * self.folds + 1
        return fits * (FIT_WORK + SPOT_WORK * float(self.measured) ** 3)

    @property
    def passes(self) -> float:
        """Patches that pass the encoder while it is fine-tuned, a backward pass counted as two."""
        held_out = self.measured / max(self.folds, 2)
        epoch = PASSES * (self.measured - held_out) + held_out
        return self.scales * (self.networks * (self.epochs * epoch + self.sites - self.measured) + self.measured)


@dataclass(frozen=True)
class Speed:
    """What the machine does now, beside its other work.

    Parameters
    ----------
    products
        That a matrix product of single precision makes in a second.
    updates
        Parameters that AdamW updates in a second, which takes memory more than the processor.
    """

    products: float
    updates: float


def machine_speed(size: int = 1024, times: int = 8) -> Speed:
    """Try it, for a fraction of a second: the fastest of a few times, which other work interrupts least."""
    import torch

    a = torch.rand(size, size, generator=torch.Generator().manual_seed(0))
    weights = torch.zeros(2 * size, size, requires_grad=True)
    weights.grad = torch.ones_like(weights)
    optimiser = torch.optim.AdamW([weights], fused=True)
    products, updates = fastest(lambda: a @ a, times), fastest(optimiser.step, times)
    return Speed(size**3 / products, weights.numel() / updates)


def announce(run: Run, stages_of: Callable[[dict], dict] = dict) -> None:
    """Log what a long run will take.

    Parameters
    ----------
    run
        Its sizes.
    stages_of
        Makes seconds by stage of those of one imputation, where the run does something else with it.

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
    is_long = run.sites * max(run.genes, 1) > SHORT_RUN or run.patches > FEW_PATCHES or run.tuning_seconds > 0
    stages = run.seconds(machine_speed()) if is_long else {}
    stages = {name: seconds * waiting() for name, seconds in stages_of(stages).items()} if stages else {}
    expect(stages)
    if (seconds := sum(stages.values())) > LONG:
        logger.info(
            "%s: about %.1f GB of memory (%.1f GB free) and %s on this machine.",
            run.subject, run.bytes / 1e9, free / 1e9, duration(seconds),
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
