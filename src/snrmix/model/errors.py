"""How wrong the networks are by themselves, and which depth their predictions assume: kept with a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd

from snrmix._log import logger
from snrmix.engine.at_depth import at_depth, tell_depths
from snrmix.engine.conformal import Calibration, calibrate
from snrmix.engine.depth import DepthReader, fit_depth_reader, gene_rates, tabulate_moments
from snrmix.engine.errors import Errors
from snrmix.engine.fit import Member, SectionFit, section_errors
from snrmix.engine.folds import Fold, held_out_together
from snrmix.engine.section import Section

OF_GENES = ("rates", "level", "kept")


@dataclass(frozen=True)
class TypicalDepth:
    """What moves predictions to a typical depth.

    Parameters
    ----------
    calibration
        Of residuals at that depth.
    joint
        How these go together.
    reader
        The depth that a prediction assumes.
    rates
        See `snrmix.engine.depth.gene_rates`.
    level
        Shape (genes,): means of the spots that were fitted to, less those of genes that follow depth alone.
    kept
        See `snrmix.engine.at_depth.kept_share`.
    depth
        The typical depth, in counts.
    """

    calibration: Calibration
    joint: Errors
    reader: DepthReader
    rates: np.ndarray
    level: np.ndarray
    kept: np.ndarray
    depth: float

    def move(self, predicted: np.ndarray) -> np.ndarray:
        """Predictions at the typical depth, float32, shape (n, genes)."""
        assumed = self.reader.read(predicted)
        moments = tabulate_moments(np.append(assumed, self.depth))
        before, after = (self.level + moments.mean(self.rates, depth) for depth in (assumed, np.array([self.depth])))
        return np.maximum(after + self.kept * (predicted - before), 0).astype(np.float32)


@dataclass(frozen=True)
class ImageErrors:
    """Errors of the networks alone at spots that were held out.

    Parameters
    ----------
    calibration
        Of values as observed at the spot.
    joint
        How their errors go together.
    typical
        The same at a typical depth; ``None`` where depths were not known.
    """

    calibration: Calibration
    joint: Errors
    typical: TypicalDepth | None = None

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Its arrays by name."""
        arrays = _arrays_of("errors", self.calibration) | _arrays_of("errors.joint", self.joint)
        if self.typical is not None:
            arrays |= _arrays_of("typical", self.typical.calibration) | _arrays_of("typical.joint", self.typical.joint)
            arrays["typical.reader"] = np.append(self.typical.reader.coefficients, self.typical.reader.intercept)
            arrays |= {f"typical.{name}": getattr(self.typical, name) for name in OF_GENES}
            arrays["typical.depth"] = np.array([self.typical.depth])
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ImageErrors | None:
        """What `to_arrays` gave; ``None`` for a model of an earlier version, which kept none."""
        if "errors.group" not in arrays:
            return None
        typical = None
        if "typical.reader" in arrays:
            reader, depth = arrays["typical.reader"], float(arrays["typical.depth"][0])
            genes = (arrays[f"typical.{name}"] for name in OF_GENES)
            reader = DepthReader(reader[:-1], float(reader[-1]))
            typical = TypicalDepth(*_both_of(arrays, "typical"), reader, *genes, depth)
        return cls(*_both_of(arrays, "errors"), typical)


def _arrays_of(prefix: str, found: Calibration | Errors) -> dict[str, np.ndarray]:
    return {f"{prefix}.{field.name}": getattr(found, field.name) for field in fields(found)}


def _both_of(arrays: Mapping[str, np.ndarray], prefix: str) -> tuple[Calibration, Errors]:
    kinds = (Calibration, prefix), (Errors, f"{prefix}.joint")
    return tuple(kind(*(arrays[f"{name}.{field.name}"] for field in fields(kind))) for kind, name in kinds)


def fit_image_errors(section: Section, folds: list[Fold], fit: SectionFit) -> ImageErrors:
    """Calibrate the networks' out-of-fold values; nothing near in space is assumed where they are used."""
    first = [fold for fold in folds if fold.repeat == 0]
    together = held_out_together(first, len(section.measured))
    out_of_fold, scored = np.maximum(fit.network.out_of_fold, 0), fit.scored
    calibration = calibrate(section.expression[scored], out_of_fold[scored], [])
    seen = out_of_fold[scored], calibration.sd(calibration.scale(out_of_fold[scored], []))
    joint = section_errors(section, *seen, calibration, together, scored)
    if section.site_depth is None:
        return ImageErrors(calibration, joint)
    alone = replace(section, site_depth=section.site_depth[section.measured])
    alone = replace(alone, measured=np.arange(len(section.measured)), library=section.library[section.measured])
    nothing = np.zeros((0, section.expression.shape[1]), np.float32)
    depths = tell_depths(alone, first, None, {"network": Member(out_of_fold, nothing)})
    known, rates = depths.known, gene_rates(section.expression, depths.known)
    typical = float(np.median(known))
    moved = at_depth(alone, first, depths, typical, scored, out_of_fold, nothing, [], [])
    scale = calibration_at(moved.calibration, moved.out_of_fold_sd[scored], moved.out_of_fold[scored])
    reader = fit_depth_reader(out_of_fold[scored], known[scored])
    level = section.expression.mean(0) - tabulate_moments(known).mean(rates, known).mean(0)
    there = section_errors(section, moved.seen, moved.seen_sd, moved.calibration, together, scored)
    return ImageErrors(calibration, joint, TypicalDepth(scale, there, reader, rates, level, moved.kept, typical))


def calibration_at(calibration: Calibration, sd: np.ndarray, values: np.ndarray) -> Calibration:
    """The calibration with the factor of one depth, the same for all spots, put into the scale of each gene."""
    without = calibration.sd(calibration.scale(values, []))
    factor = np.median(sd / np.maximum(without, 1e-12), axis=0)
    return replace(calibration, gene_scale=calibration.gene_scale * factor)


def say_how_good(scores: pd.DataFrame, genes: pd.DataFrame, n_spots: int) -> None:
    """Log what a fit came to: scores per method and per gene, see `snrmix.SNRMix`."""
    ratio = scores["mse_ratio"]
    logger.info(
        "fitted %d genes. On %d spots that were held out, MSE is %.3f of the mean's from the image alone (Pearson per gene %.2f "
        "in the median) and %.3f with measured neighbours (%.2f); %d genes are reliable.",
        len(genes), n_spots, ratio["network"], genes["pearson_network"].median(), ratio["snrmix"],
        genes["pearson"].median(), genes["reliable"].sum(),
    )  # fmt: skip
