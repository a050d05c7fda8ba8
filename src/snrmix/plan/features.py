"""Features of all sites: those that there are, or those of an image that is opened and embedded now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from snrmix._log import logger
from snrmix._progress import stage
from snrmix.data.embedding import Embedding, patch_seconds, plan_embedding
from snrmix.data.embedding_cache import read_cache
from snrmix.data.sites import Sites, patch_sides
from snrmix.engine.patches import PatchStore
from snrmix.images.encoder import on_device
from snrmix.plan.cost import Run
from snrmix.plan.estimate import announce
from snrmix.plan.options import Options
from snrmix.plan.patches import read_patches
from snrmix.plan.source import Source


@dataclass(frozen=True)
class Features:
    """What is known of the looks of sites, in their order.

    Parameters
    ----------
    values, colour
        Shape (n, d), and which of them are colour statistics, bool, shape (d,). Without an image, d = 0.
    embedding
        What they were computed from; ``None`` with ``use_rep`` and without an image.
    patches
        For fine-tuning alone.
    images
        What to keep of the image that was read for each library, see `snrmix.images.source.SectionImage.record`.
    alike
        Shape (n, d): the values as if all slides were stained alike, for models that predict other slides; ``None``: the same.
    """

    values: np.ndarray
    colour: np.ndarray
    embedding: Embedding | None = None
    patches: PatchStore | None = None
    images: Mapping[str, dict] = field(default_factory=dict)
    alike: np.ndarray | None = None

    @property
    def record(self) -> dict | None:
        """What the embedding was computed from; ``None`` where there is none."""
        return self.embedding.record if self.embedding is not None else None

    def __getitem__(self, rows) -> Features:
        values, patches, alike = (
            part if part is None else part[rows] for part in (self.values, self.patches, self.alike)
        )
        return replace(self, values=values, patches=patches, alike=alike)


def read_features(
    source: Source, options: Options, run: Run, stages_of: Callable[[dict], dict] = dict, alike: bool = False
) -> Features:
    """Features of all sites of an object, after a look at what they and the rest of the run will take.

    Parameters
    ----------
    run
        What is known of it without features.
    stages_of
        See `snrmix.plan.estimate.announce`.
    alike
        Whether features are wanted as if all slides were stained alike, too.

    Raises
    ------
    KeyError, ValueError, TypeError
        For images that cannot be read or do not fit, encoders that fail, and a run that does not fit into memory.
    """
    if source.located is None:
        values = source.use_rep if source.use_rep is not None else np.zeros((len(source.sites), 0), np.float32)
        announce(replace(run, features=values.shape[1]), stages_of)
        return Features(values, np.zeros(values.shape[1], bool))
    with stage("opening the image"):
        sites = source.located.open()
        cached = read_cache(source.table, sites)
        plan = plan_embedding(sites, options.encoder, options.scales, options.settings.device, cached)
    patches, tuning = None, options.finetuning
    again = plan.in_common_stains() if alike and tuning is None else None
    run = run.with_embedding(plan, *([again] if again else []))
    if tuning is None:
        announce(run, stages_of)
    else:
        encoder, device = replace(options.encoder, size=tuning.size or options.encoder.size), options.settings.device
        with on_device(encoder.function, device):
            announce(replace(run, tuning_seconds=patch_seconds(replace(encoder, run_time="torch"), device)))
        patches = read_patches(sites, patch_sides(sites, plan.record["scales"]), encoder.size, tuning.folder)
    embedding = plan.embed()
    images = image_records(sites, embedding.record["scales"], options.encoder.size)
    restained = None
    if again is not None:
        logger.info("slides without measured spots: all patches are embedded as if the slides were stained alike.")
        restained = again.embed().features
    return Features(embedding.features, embedding.colour_columns, embedding, patches, images, restained)


def image_records(sites: Sites, scales: np.ndarray, size: int) -> dict[str, dict]:
    """What to keep of the image of each library, by its name, where patches of these scales are resized to ``size``."""
    sides = patch_sides(sites, scales)
    return {
        name: image.record(sides[code], size, sites.um_per_px[code])
        for code, (name, image) in enumerate(zip(sites.libraries, sites.images, strict=True))
    }
