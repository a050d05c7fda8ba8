"""Where on an image there is tissue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from snrmix.images.source import SectionImage

MASK_PX = 1024  # most pixels along the long side of the mask

# Lengths as shares of the long side, areas as shares of the image.
SMOOTHING = 0.003  # wider than nuclei and fibres, narrower than a spot
DUST = 0.003  # radius of what is wiped off: dust, and the lines of fiducials
GAP = 0.01  # radius of gaps that are bridged, such as the cells of fat
SMALLEST_PIECE, LARGEST_HOLE = 0.002, 0.03
DARK = 0.25  # least share of a piece that is dark: 0.5 and more of tissue; fiducials, joined by their blur, have 0.1

GLASS = 0.9  # quantile of light
TEXTURE_PX = 5  # side of the window in which deviations are taken


@dataclass(frozen=True)
class Tissue:
    """Which part of an image is tissue.

    Parameters
    ----------
    mask
        bool, shape (h, w), at a coarse resolution.
    affine
        Shape (2, 3); maps a position (x, y) of the section's frame to (x, y) pixels of the mask.
    contrast
        How much smoother the rest is than the tissue, 1 less the ratio of their local deviations: near 1 where it is
        glass, and below 0.75 where there is none, so that pale tissue was taken for it.
    """

    mask: np.ndarray
    affine: np.ndarray
    contrast: float

    def at(self, positions: np.ndarray, radius: float = 0.0) -> np.ndarray:
        """Share of tissue in discs around positions; outside the image there is none.

        Parameters
        ----------
        positions
            Shape (n, 2), in units of the frame.
        radius
            Of the discs, in units of the frame; 0 for points.

        Returns
        -------
        numpy.ndarray
            Shape (n,), 0 to 1.
        """
        offsets = radius * _disc() if radius > 0 else np.zeros((1, 2))
        return np.mean([self._is_tissue(positions + offset) for offset in offsets], axis=0)

    def _is_tissue(self, positions: np.ndarray) -> np.ndarray:
        column, row = np.floor(positions @ self.affine[:, :2].T + self.affine[:, 2]).astype(int).T
        height, width = self.mask.shape
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        found = np.zeros(len(positions), bool)
        found[inside] = self.mask[row[inside], column[inside]]
        return found


def tissue_mask(image: SectionImage) -> Tissue:
    """Find the tissue: what is darker than glass, by Otsu's threshold on the square root of the stain.

    `squidpy.experimental.im.detect_tissue` thresholds grey values, which leaves out fat and pale stroma; it also needs
    a SpatialData and keeps the largest pieces only. So scikit-image, which it builds on, is used here directly. Of an
    image in several resolutions the coarsest of at least 512 pixels is read, and at most 1,024 pixels along a side.
    """
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    pixels, affine = _coarse(image)
    sigma = SMOOTHING * max(pixels.shape[:2])
    light = ndimage.gaussian_filter(pixels.astype(np.float32), (sigma, sigma, 0))
    glass = np.quantile(light, GLASS, axis=(0, 1))
    stain = _stain(light, glass)
    mask = _clean(stain > threshold_otsu(stain), stain**2 > threshold_otsu(stain**2))
    return Tissue(mask, affine, _contrast(pixels, mask))


def _coarse(image: SectionImage) -> tuple[np.ndarray, np.ndarray]:
    """Few pixels that show the whole image, and the affine matrix from the frame to them."""
    large = [level for level in image.levels if max(level.pixels.shape[:2]) >= MASK_PX / 2]
    level = large[-1] if large else image.levels[0]
    step = -(-max(level.pixels.shape[:2]) // MASK_PX)
    return np.asarray(level.pixels[step // 2 :: step, step // 2 :: step]), level.affine / step


def _stain(light: np.ndarray, glass: np.ndarray) -> np.ndarray:
    """How much light is lost, shape (h, w); its root brings pale tissue nearer to dark tissue than to glass."""
    return np.sqrt(np.linalg.norm(np.minimum(light - glass, 0), axis=2))


def _clean(mask: np.ndarray, dark: np.ndarray) -> np.ndarray:
    """Without dust and fiducials, and with what tissue encloses, such as lumens and fat."""
    from scipy import ndimage
    from skimage.measure import label
    from skimage.morphology import isotropic_closing, isotropic_opening, remove_small_holes, remove_small_objects

    side = max(mask.shape)
    mask = remove_small_objects(isotropic_opening(mask, DUST * side), max_size=SMALLEST_PIECE * mask.size)
    gap = int(np.ceil(GAP * side))
    mask = isotropic_closing(np.pad(mask, gap), GAP * side)[gap:-gap, gap:-gap]
    pieces = label(mask)
    if mask.any():
        share = ndimage.mean(dark, pieces, np.arange(1, pieces.max() + 1))
        mask &= np.append(False, share >= min(DARK, share.max()))[pieces]
    return remove_small_holes(mask, max_size=LARGEST_HOLE * mask.size)


def _contrast(pixels: np.ndarray, mask: np.ndarray) -> float:
    from scipy import ndimage

    if mask.all() or not mask.any():
        return 0.0
    grey = pixels.mean(axis=2, dtype=np.float32)
    variance = ndimage.uniform_filter(grey**2, TEXTURE_PX) - ndimage.uniform_filter(grey, TEXTURE_PX) ** 2
    texture = np.sqrt(np.maximum(variance, 0))
    return float(1 - np.median(texture[~mask]) / max(np.median(texture[mask]), 1e-6))


def _disc() -> np.ndarray:
    """Points spread over the unit disc, shape (19, 2)."""
    rings = [np.zeros((1, 2))]
    for count, radius in ((6, 0.5), (12, 0.85)):
        angle = 2 * np.pi * np.arange(count) / count
        rings.append(radius * np.column_stack([np.cos(angle), np.sin(angle)]))
    return np.concatenate(rings)
