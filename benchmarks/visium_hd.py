"""Visium HD at scale: time, memory and truth of embedding and imputing a synthetic section of 8 um bins.

    python benchmarks/visium_hd.py
    python benchmarks/visium_hd.py --bins 20000 --folder /tmp/hd --encoder colour

The section is grown once and kept in a folder: a pyramidal TIFF, log-normalised counts and the true rates. The image
drives some genes, smooth zones that leave no trace in it drive others (see `snrmix.datasets.synthetic_tissue`). Every
measurement runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy import ndimage, sparse

BIN_UM, PX_UM, COARSE = 8.0, 0.24, 4  # the tissue is grown at a quarter of the resolution of the image
DEPTH = 200.0  # counts per bin over all genes of the object
UNMEASURED = 0.4
TILE = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bins", type=int, default=250_000, help="number of bins")
    parser.add_argument("--genes", type=int, default=500, help="number of genes")
    parser.add_argument("--encoder", default="colour", help="see snrmix.tl.impute")
    parser.add_argument(
        "--folder", type=Path, default=Path(__file__).parent / ".cache", help="where the section is kept"
    )
    parser.add_argument("--jobs", nargs="+", choices=("rate", "embed", "impute"), default=["rate", "embed", "impute"])
    parser.add_argument("--child", choices=("grow", "rate", "embed", "impute"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.section = options.folder / f"hd_{options.bins}_{options.genes}"
    if options.child:
        print(json.dumps(CHILDREN[options.child](options)))
        return
    if not (options.section / "truth.npy").exists():
        in_process("grow", options)
    for job in options.jobs:
        for name, value in in_process(job, options).items():
            print(f"{job}: {name} {value}", flush=True)


def in_process(job: str, options) -> dict:
    """What a job says of itself, from a process of its own."""
    given = ["--bins", str(options.bins), "--genes", str(options.genes), "--encoder", options.encoder]
    command = [sys.executable, __file__, "--child", job, "--folder", str(options.folder), *given]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def usage(started: tuple[float, float]) -> dict:
    """Wall and processor seconds since ``started``, and the peak memory of this process in GB."""
    now, peak = clock(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB; bytes on macOS
    return {
        "wall seconds": round(now[0] - started[0], 1),
        "processor seconds": round(now[1] - started[1], 1),
        "peak memory in GB": round(peak * (1 if sys.platform == "darwin" else 1024) / 1e9, 2),
    }


def clock() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def rate(options) -> dict:
    """Patches to embed, with a grid and without, and the time for all from the time for some."""
    from snrmix.data.embedding import count_patches, patch_seconds
    from snrmix.data.scales import COARSE_SCALES, patch_grids
    from snrmix.data.sites import patch_sides, read_sites
    from snrmix.images.encoders import resolve_encoder

    adata, encoder = anndata.read_h5ad(options.section / "section.h5ad"), resolve_encoder(options.encoder)
    sites = read_sites(adata, with_images=False)
    patches = count_patches(sites, patch_grids(sites, patch_sides(sites, COARSE_SCALES)))
    second = patch_seconds(encoder, "cpu")
    return {
        "patches": patches,
        "patches without a grid": len(sites) * len(COARSE_SCALES),
        "encoded in a second": round(1 / second, 1),
        "minutes for all": round(patches * second / 60, 1),
    }


def embed(options) -> dict:
    """Embed the bins from the image on disk."""
    import snrmix

    adata = anndata.read_h5ad(options.section / "section.h5ad")
    started = clock()
    snrmix.pp.embed_histology(adata, encoder=options.encoder, image=options.section / "image.tif")
    used = usage(started)
    return used


def impute(options) -> dict:
    """Impute the unmeasured bins from the rest, and compare with the true rates."""
    import snrmix

    adata = anndata.read_h5ad(options.section / "section.h5ad")
    given = {"image": options.section / "image.tif", "encoder": options.encoder}
    started = clock()
    snrmix.tl.impute(adata, measured="measured", **given)
    used = usage(started)
    truth = np.load(options.section / "truth.npy", mmap_mode="r")
    hidden = np.flatnonzero(~adata.obs["measured"].to_numpy())
    section = adata.uns["snrmix"]
    return {
        **used,
        **correlations(adata, truth, hidden),
        "scores": section["scores"].round(4).to_dict(),
        "reliable genes": int(adata.var["snrmix_reliable"].sum()),
    }


def correlations(adata, truth: np.ndarray, hidden: np.ndarray) -> dict:
    """Mean over genes of the correlation with the truth at hidden bins, by what drives a gene, beside spatial kNN."""
    from scipy.spatial import cKDTree

    measured = np.flatnonzero(adata.obs["measured"].to_numpy())
    near = cKDTree(adata.obsm["spatial"][measured]).query(adata.obsm["spatial"][hidden], k=10)[1]
    mean_of_near = sparse.csr_array(
        (np.full(near.size, 0.1, np.float32), near.ravel(), np.arange(0, near.size + 1, 10)),
        shape=(len(hidden), len(measured)),
    )
    values, found = adata.X[measured].tocsc(), []
    for gene in range(adata.n_vars):
        true = truth[gene, hidden].astype(float)
        ours = adata.layers["snrmix"][hidden, gene]
        knn = mean_of_near @ values[:, [gene]].toarray().ravel()
        found.append([np.corrcoef(true, ours)[0, 1], np.corrcoef(true, knn)[0, 1]])
    table = pd.DataFrame(found, columns=["snrmix", "spatial kNN"]).fillna(0.0)
    by_programme = table.groupby(adata.var["programme"].to_numpy()).mean().round(3)
    return {"correlation with the truth": table.mean().round(3).to_dict(), "by programme": by_programme.T.to_dict()}


def grow(options) -> dict:
    """Grow the section and write it: image, log-normalised counts with the mask of measured bins, and the truth."""
    from snrmix.datasets.tissue import MARGIN_UM, Slide, grow_tissue, stain

    options.section.mkdir(parents=True, exist_ok=True)
    started = clock()
    width = 2 * MARGIN_UM + 1.15 * BIN_UM * np.sqrt(options.bins)  # enough for the tissue's rounded outline
    slide = Slide(width, width, PX_UM * COARSE)
    rng_tissue, rng_pixels, rng_genes = np.random.default_rng(0).spawn(3)
    maps, nuclei, fibres = grow_tissue(rng_tissue, slide)
    write_pyramid(stain(rng_pixels, slide, maps, nuclei, fibres), options.section / "image.tif")
    adata, truth = express(rng_genes, slide, maps, options.bins, options.genes)
    adata.write_h5ad(options.section / "section.h5ad", compression="lzf")
    np.save(options.section / "truth.npy", truth)
    return usage(started)


def write_pyramid(coarse: np.ndarray, path: Path) -> None:
    """Write an image enlarged four times, and its levels down to half of what is given, as tiled TIFF."""
    import tifffile
    from PIL import Image

    height, width = (side - side % 2 for side in coarse.shape[:2])
    levels = [(1 / COARSE, COARSE), (2 / COARSE, COARSE // 2), (1, 1), (2, 0.5)]

    def tiles(step: float, factor: float):
        source = Image.fromarray(coarse[:height, :width])
        for top in np.arange(0, height, TILE * step):
            for left in np.arange(0, width, TILE * step):
                bottom, right = min(top + TILE * step, height), min(left + TILE * step, width)
                size = (round((right - left) * factor), round((bottom - top) * factor))
                tile = np.zeros((TILE, TILE, 3), np.uint8)
                box = (left, top, right, bottom)
                tile[: size[1], : size[0]] = source.resize(size, Image.Resampling.BICUBIC, box=box)
                yield tile

    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for number, (step, factor) in enumerate(levels):
            shape = (round(height * factor), round(width * factor), 3)
            tiff.write(
                tiles(step, factor), shape=shape, dtype=np.uint8, tile=(TILE, TILE), photometric="rgb",
                compression="zlib", subifds=len(levels) - 1 if number == 0 else None, subfiletype=int(number > 0),
            )  # fmt: skip


def express(rng: np.random.Generator, slide, maps, n_bins: int, n_genes: int) -> tuple[anndata.AnnData, np.ndarray]:
    """Log-normalised counts of the bins with most tissue, and the log of their true rates, float16, (genes, bins)."""
    from snrmix.datasets.synthetic import TISSUES, _expected_rates, _gene_names

    side = int(slide.width_um // BIN_UM)
    row, column = (index.ravel() for index in np.indices((side, side)))
    centres = np.column_stack([column + 0.5, row + 0.5]) * BIN_UM
    at = (centres[:, ::-1] / slide.um_per_px - 0.5).T

    def under_bin(name: str) -> np.ndarray:  # transcripts diffuse by about a bin
        smooth = ndimage.gaussian_filter(maps[name], BIN_UM / slide.um_per_px)
        return np.clip(ndimage.map_coordinates(smooth, at, order=1, mode="nearest"), 0, 1)

    kept = np.sort(np.argsort(-under_bin("TISSUE"), kind="stable")[:n_bins])
    tissues = {name: under_bin(name)[kept] for name in TISSUES}
    programme, rates = _expected_rates(rng, n_genes, tissues, centres[kept])
    depth = DEPTH * rng.lognormal(0, 0.35, len(kept))
    blocks = [
        sparse.csr_matrix(rng.poisson(rates[rows] * depth[rows, None] / 1e4), dtype=np.float32)
        for rows in np.array_split(np.arange(len(kept)), max(len(kept) // 10_000, 1))
    ]
    counts = sparse.vstack(blocks, format="csr")
    counts = sparse.diags_array(1e4 / np.maximum(np.asarray(counts.sum(1)).ravel(), 1)) @ counts
    log_counts = sparse.csr_matrix(counts.astype(np.float32)).log1p()
    names = [f"s_008um_{r:05d}_{c:05d}-1" for r, c in zip(row[kept], column[kept], strict=True)]
    obs = pd.DataFrame({"in_tissue": 1, "array_row": row[kept], "array_col": column[kept]}, index=names)
    obs["measured"] = rng.random(len(kept)) >= UNMEASURED
    adata = anndata.AnnData(
        log_counts,
        obs=obs,
        var=pd.DataFrame({"programme": programme}, index=_gene_names(programme)),
        obsm={"spatial": centres[kept] / PX_UM},
    )
    adata.uns["log1p"] = {}
    factors = {"spot_diameter_fullres": BIN_UM / PX_UM, "bin_size_um": BIN_UM, "microns_per_pixel": PX_UM}
    adata.uns["spatial"] = {"hd": {"images": {}, "scalefactors": factors}}
    return adata, np.log1p(rates).T.astype(np.float16)


CHILDREN = {"grow": grow, "rate": rate, "embed": embed, "impute": impute}

if __name__ == "__main__":
    os.environ.setdefault("TQDM_DISABLE", "1")
    main()
