"""Sizes of a run, and the memory that it will take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from anndata import AnnData

from snrmix._memory import free_memory
from snrmix.data.embedding import EmbeddingPlan
from snrmix.engine.kriging.krige import is_exact
from snrmix.engine.network.inputs import width_of
from snrmix.engine.network.targets import COMPONENTS, WIDEST
from snrmix.engine.scores.baselines import MOST_RIDGE_SPOTS
from snrmix.engine.slices import MOST_VALUES
from snrmix.images.colour import COLOUR_FEATURES

FIXED_BYTES = 4e8  # packages that are loaded on the way
BLOCK_BYTES = 60  # of one value, while a block of at most `MOST_VALUES` of them is scored
SYSTEM_BYTES = 16  # of a pair of measured spots, where kriging uses them all
RIDGE_BYTES = 32  # of a value of the features of spots that ridge regression sees, where it does not see all of them
IMAGE_BYTES = 4e8  # a level of the image in memory, of ordinary size
PATCH_SECONDS = 1e-3  # to read and resize a patch, beside what the encoder takes
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
        ridge = 0.0
        if self.measured > MOST_RIDGE_SPOTS:  # their features, and those in its coordinates, and their products
            ridge = RIDGE_BYTES * self.features * (MOST_RIDGE_SPOTS * 3 / 4 + self.features)
        # While layers are written, networks are still there, and freed systems are not given back.
        writing = kept + 8 * self.sites * self.columns + measured + features + basis + systems
        blocks = BLOCK_BYTES * min(self.measured * self.genes, MOST_VALUES)
        fitting = kept + self.largest * (fit + basis) + systems + ridge
        return FIXED_BYTES + blocks + max(embedding, fitting, writing)


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
