from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from snrmix._globals import settled
from snrmix.datasets.tissue import MARGIN_UM, PITCH_UM, Slide, grow_tissue, stain

LIBRARY = "synthetic"
MAX_ROWS, MAX_COLUMNS = 78, 64  # a Visium capture area
HIRES_SCALE = 0.25  # pixels of the image per pixel of the full-resolution frame
SPOT_DIAMETER = 0.65  # in pitches, as Space Ranger writes it

# What a gene's log rate follows, and the share of the genes that follow it.
PROGRAMMES = {
    "GLAND": 0.14,
    "STROMA": 0.14,
    "IMMUNE": 0.10,
    "FAT": 0.06,
    "GRADIENT": 0.18,
    "MIXED": 0.26,
    "NOISE": 0.12,
}
TISSUES = ("GLAND", "STROMA", "IMMUNE", "FAT")


@settled()
def synthetic_tissue(
    n_rows: int = 32, n_genes: int = 200, *, image_px_per_pitch: int = 48, random_state: int = 0
) -> AnnData:
    """A made-up Visium section with an H&E-like image and known expression.

    The image shows glands with a lumen, fibrous stroma, lymphoid aggregates and fat. What lies under a spot drives some
    genes; smooth zones that leave no trace in the image drive others (``GRADIENT``); some respond to a tissue only
    inside a zone (``MIXED``), so that neither the image nor the neighbours suffice; ``NOISE`` genes follow nothing.

    Parameters
    ----------
    n_rows
        Rows of the spot lattice, 6 to 78; each has as many spots, at most 64, and those off the tissue are dropped.
    n_genes
        Number of genes, at least 7.
    image_px_per_pitch
        Pixels of the image per 100 um, the distance between neighbouring spots.
    random_state
        Seed. The image is the same tissue at every ``image_px_per_pitch``.

    Returns
    -------
    anndata.AnnData
        ``X`` holds counts (CSR, float32), ``layers["truth"]`` the noiseless log1p of the expected counts per 10,000,
        ``var["programme"]`` what drives a gene, ``obsm["spatial"]`` (x, y) in full-resolution pixels and
        ``uns["spatial"]["synthetic"]`` the image, which has a quarter of the full resolution.

    Raises
    ------
    ValueError
        When a size is out of range.

    Examples
    --------
    >>> adata = snrmix.datasets.synthetic_tissue()
    >>> adata.var["programme"].value_counts()
    """
    _check_sizes(n_rows, n_genes, image_px_per_pitch)
    rng_tissue, rng_genes, rng_pixels = np.random.default_rng(random_state).spawn(3)
    obs, spots = _visium_lattice(rng_genes, n_rows)
    slide = Slide(*(spots.max(0) + MARGIN_UM), PITCH_UM / image_px_per_pitch)
    maps, nuclei, fibres = grow_tissue(rng_tissue, slide)
    image = stain(rng_pixels, slide, maps, nuclei, fibres)

    under_spot = {name: slide.around(maps[name], spots) for name in ("TISSUE", *TISSUES)}
    kept = under_spot["TISSUE"] > 0.6
    tissues = {name: under_spot[name][kept] for name in TISSUES}
    programme, rates = _expected_rates(rng_genes, n_genes, tissues, spots[kept])
    counts = _draw_counts(rng_genes, rates)

    full_px_per_um = image_px_per_pitch / PITCH_UM / HIRES_SCALE
    adata = AnnData(
        sparse.csr_matrix(counts, dtype=np.float32),
        obs=obs[kept].copy(),
        var=pd.DataFrame({"programme": pd.Categorical(programme)}, index=_gene_names(programme)),
        obsm={"spatial": spots[kept] * full_px_per_um},
        layers={"truth": np.log1p(rates).astype(np.float32)},
    )
    scalefactors = {
        "tissue_hires_scalef": HIRES_SCALE,
        "spot_diameter_fullres": SPOT_DIAMETER * PITCH_UM * full_px_per_um,
    }
    adata.uns["spatial"] = {LIBRARY: {"images": {"hires": image}, "scalefactors": scalefactors}}
    return adata


@settled()
def synthetic_spatialdata(n_rows: int = 32, n_genes: int = 200, *, image_px_per_pitch: int = 48, random_state: int = 0):
    """The section of `synthetic_tissue` as ``spatialdata_io.visium`` would have read it.

    Parameters
    ----------
    n_rows, n_genes, image_px_per_pitch, random_state
        As in `synthetic_tissue`.

    Returns
    -------
    spatialdata.SpatialData
        Image ``synthetic_hires_image`` (a pyramid of three levels), circles ``synthetic`` (full-resolution pixels) and
        ``table``, whose ``spot_id`` annotates the circles in another order. They share the coordinate systems
        ``synthetic`` (full-resolution pixels) and ``synthetic_downscaled_hires`` (image pixels); there is no "global".

    Raises
    ------
    ValueError
        When a size is out of range.

    Examples
    --------
    >>> sdata = snrmix.datasets.synthetic_spatialdata(12, 40, image_px_per_pitch=16)
    >>> snrmix.tl.impute(sdata)
    >>> sdata["table"].layers["snrmix"].shape
    (117, 40)
    """
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel, ShapesModel, TableModel
    from spatialdata.transformations import Identity, Scale

    table = synthetic_tissue(n_rows, n_genes, image_px_per_pitch=image_px_per_pitch, random_state=random_state)
    section = table.uns.pop("spatial")[LIBRARY]
    del table.obs["library_id"]
    table.obs["spot_id"] = np.arange(table.n_obs)
    table.obs["region"] = pd.Categorical([LIBRARY] * table.n_obs)

    to_hires = Scale([HIRES_SCALE, HIRES_SCALE], axes=("y", "x"))
    hires = f"{LIBRARY}_downscaled_hires"
    circles = ShapesModel.parse(
        table.obsm["spatial"],
        geometry=0,
        radius=section["scalefactors"]["spot_diameter_fullres"] / 2,
        index=table.obs["spot_id"].copy(),
        transformations={LIBRARY: Identity(), hires: to_hires},
    )
    image = Image2DModel.parse(
        section["images"]["hires"].transpose(2, 0, 1),
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        scale_factors=[2, 2],
        chunks=(3, 512, 512),
        transformations={hires: Identity(), LIBRARY: to_hires.inverse()},
    )
    shuffled = table[np.random.default_rng(random_state).permutation(table.n_obs)].copy()
    table = TableModel.parse(shuffled, region=LIBRARY, region_key="region", instance_key="spot_id")
    return SpatialData(images={f"{LIBRARY}_hires_image": image}, shapes={LIBRARY: circles}, tables={"table": table})


def _check_sizes(n_rows: int, n_genes: int, image_px_per_pitch: int) -> None:
    allowed = {"n_rows": (n_rows, 6, MAX_ROWS), "n_genes": (n_genes, len(PROGRAMMES), 10**5)}
    allowed["image_px_per_pitch"] = (image_px_per_pitch, 8, 400)
    for name, (value, low, high) in allowed.items():
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}; it must be from {low} to {high}.")


def _visium_lattice(rng: np.random.Generator, n_rows: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Barcodes and places of a hexagonal lattice, and the spots' (x, y) in um, shape (n, 2)."""
    n_columns = min(n_rows, MAX_COLUMNS)
    row, place = np.divmod(np.arange(n_rows * n_columns), n_columns)
    column = 2 * place + row % 2
    codes = rng.choice(4**16, size=len(row), replace=False)
    letters = np.array(list("ACGT"))[codes[:, None] // 4 ** np.arange(16) % 4]
    barcodes = ["".join(word) + "-1" for word in letters]
    obs = pd.DataFrame({"in_tissue": 1, "array_row": row, "array_col": column}, index=barcodes)
    obs["library_id"] = pd.Categorical([LIBRARY] * len(obs))
    return obs, np.column_stack([column / 2, row * np.sqrt(3) / 2]) * PITCH_UM + MARGIN_UM


def _expected_rates(
    rng: np.random.Generator, n_genes: int, tissues: dict[str, np.ndarray], spots: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Programme of every gene and its expected counts per 10,000, shape (n, n_genes)."""
    programme = _allot(n_genes)
    tissue = np.column_stack([_standardise(np.sqrt(share)) for share in tissues.values()])
    zones = np.column_stack([_zone(rng, spots) for _ in range(3)])
    log_rates = np.empty((len(spots), n_genes))
    for gene, name in enumerate(programme):
        direction = rng.standard_normal(zones.shape[1])
        zone = zones @ (direction / np.linalg.norm(direction))
        own = TISSUES.index(name) if name in TISSUES else gene % len(TISSUES)
        driver = {"GRADIENT": zone, "NOISE": 0 * zone, "MIXED": tissue[:, own] / (1 + np.exp(-4 * zone))}
        drive = driver.get(name, tissue[:, own])
        strength = rng.uniform(0.4, 1.0) * (1.6 if name == "MIXED" else 1)
        log_rates[:, gene] = rng.normal(0, 1) + strength * drive
    rates = np.exp(log_rates)
    return programme, 1e4 * rates / rates.sum(1, keepdims=True)


def _allot(n_genes: int) -> np.ndarray:
    """Programme of each gene, by share, at least one gene each."""
    bounds = np.cumsum(list(PROGRAMMES.values()))
    spare = n_genes - len(PROGRAMMES)
    filled = np.searchsorted(bounds, (np.arange(spare) + 0.5) / max(spare, 1))
    return np.array(list(PROGRAMMES))[np.sort(np.concatenate([np.arange(len(PROGRAMMES)), filled]))]


def _zone(rng: np.random.Generator, spots: np.ndarray, length_um: float = 450.0) -> np.ndarray:
    """A smooth field over the section, zero mean and unit variance: random Fourier features of a Gaussian kernel."""
    frequency = rng.standard_normal((2, 40)) / length_um
    return _standardise(np.cos(spots @ frequency + rng.uniform(0, 2 * np.pi, 40)).sum(1))


def _standardise(values: np.ndarray) -> np.ndarray:
    return np.clip((values - values.mean()) / max(values.std(), 1e-9), -2.5, 2.5)


def _draw_counts(rng: np.random.Generator, rates: np.ndarray, depth: float = 4000.0, shape: float = 8.0) -> np.ndarray:
    """Negative binomial counts, at a sequencing depth that varies from spot to spot."""
    depths = depth * rng.lognormal(0, 0.45, (len(rates), 1))
    return rng.poisson(depths * rates / 1e4 * rng.gamma(shape, 1 / shape, rates.shape))


def _gene_names(programme: np.ndarray) -> list[str]:
    seen = pd.Series(programme).groupby(programme).cumcount() + 1
    return [f"{name}_{number:02d}" for name, number in zip(programme, seen, strict=True)]
