"""How features are made, so that those of another section mean the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from anndata import AnnData

from snrmix._log import logger
from snrmix._names import listing
from snrmix.data.embedding import compute_embedding
from snrmix.data.embedding_cache import SIDE_TOLERANCE, read_cache, same_encoder
from snrmix.data.sites import Sites, patch_sides, restrict_sites
from snrmix.data.table import read_representation
from snrmix.images.encoder import Encoder, on_device, probe
from snrmix.model.saved import plain
from snrmix.plan.features import Features


@dataclass(frozen=True)
class Encoding:
    """How features are made that the networks understand.

    Parameters
    ----------
    encoder
        Its name; ``None`` with ``use_rep``.
    probe
        What it makes of two fixed patches, see `snrmix.images.encoder.probe`.
    use_rep
        Key of ``obsm``.
    width
        Number of features.
    scales
        Sides of the patches in multiples of `snrmix.data.lattice.patch_units`.
    sides_um
        The same in micrometres, shape (scales,); ``None`` where these are unknown, or differ between libraries.
    """

    encoder: str | None
    probe: np.ndarray
    use_rep: str | None
    width: int
    scales: tuple[float, ...] = ()
    sides_um: tuple[float, ...] | None = None

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Its array by name."""
        return {"encoder_probe": self.probe}

    def to_record(self) -> dict[str, object]:
        """The rest, as JSON can hold it."""
        return {field.name: plain(getattr(self, field.name)) for field in fields(self) if field.name != "probe"}

    @classmethod
    def from_saved(cls, arrays: Mapping[str, np.ndarray], record: Mapping) -> Encoding:
        """What `to_arrays` and `to_record` gave."""
        sides = record["sides_um"]
        again = {"scales": tuple(record["scales"]), "sides_um": None if sides is None else tuple(sides)}
        known = {field.name for field in fields(cls)}  # a later version may have written more
        own = {name: value for name, value in record.items() if name in known}
        return cls(**{**own, **again, "probe": arrays["encoder_probe"]})

    def features(self, table: AnnData, sites: Sites, encoder: Encoder | None, device: str):
        """Features of all sites, made as those that the networks were trained on, and which of them are of colour.

        Raises
        ------
        KeyError, ValueError
            When there are none, or they would be others.
        """
        if self.use_rep is not None:
            features = read_representation(table, self.use_rep, sites.order)
            if features.shape[1] != self.width:
                raise ValueError(
                    f"obsm[{self.use_rep!r}] has {features.shape[1]} features, and the model was fitted to {self.width}: "
                    "make them in the same way."
                )
            return features, np.zeros(self.width, bool)
        self.check(encoder, device)
        parts = []
        for code, scales in enumerate(adapted_scales(self, sites)):
            _, own = restrict_sites(sites, [code])
            embedding = compute_embedding(own, encoder, scales, device, read_cache(table, own))
            parts.append(embedding.features)
        return np.concatenate(parts), embedding.colour_columns  # sites are sorted by library

    def check(self, encoder: Encoder, device: str) -> None:
        """Refuse an encoder that makes other features."""
        with on_device(encoder.function, device):
            found = probe(encoder, device)
        if not same_encoder(self.probe, found):
            raise ValueError(
                f"encoder {encoder.name!r} is not the one that the model was fitted with, {self.encoder!r}: it makes other "
                "features of the same patches. Pass that one to SNRMix.load(folder, encoder=...)."
            )


def describe_encoding(features: Features, sites: Sites, use_rep: str | None) -> Encoding:
    """How features were made, of the sites of an object that a model was fitted to."""
    width = features.values.shape[1]
    if features.record is None:
        return Encoding(None, np.zeros(0, np.float32), use_rep, width)
    record, um = features.record, sites.um_per_px
    scales = tuple(float(scale) for scale in record["scales"])
    sides = patch_sides(sites, scales) * um[:, None]
    agree = np.isfinite(um).all() and np.allclose(sides, sides.mean(0), rtol=SIDE_TOLERANCE)
    sides_um = tuple(sides.mean(0).tolist()) if agree else None
    return Encoding(str(record["encoder"]), np.asarray(record["encoder_probe"]), None, width, scales, sides_um)


def adapted_scales(encoding: Encoding, sites: Sites) -> list[tuple[float, ...]]:
    """For every library the multiples that give patches of the physical size that the model was fitted to.

    Where micrometres are not known for both, the same multiples of the pitch.
    """
    found = [encoding.scales] * len(sites.libraries)
    unit_um = patch_sides(sites, [1.0])[:, 0] * sites.um_per_px
    unknown = [name for name, um in zip(sites.libraries, unit_um, strict=True) if np.isnan(um)]
    if encoding.sides_um is None or unknown:
        logger.warning(
            "patches have the multiples of the spot pitch that the model was fitted with, whatever they measure: "
            "micrometres per pixel are unknown %s. Pass um_per_px= to set it.",
            f"here for {listing(unknown)}" if unknown else "there, or its libraries differ in the size of patches",
        )  # fmt: skip
    if encoding.sides_um is None:
        return found
    for code, um in enumerate(unit_um):
        scales = np.array(encoding.sides_um) / um
        if np.isfinite(um) and not np.allclose(scales, encoding.scales, rtol=SIDE_TOLERANCE):
            found[code] = tuple(scales.tolist())
            logger.info(
                "library %r: patches of %s spot pitches, the same size in micrometres as in the fit.",
                sites.libraries[code], ", ".join(f"{scale:.3g}" for scale in scales),
            )  # fmt: skip
    return found
