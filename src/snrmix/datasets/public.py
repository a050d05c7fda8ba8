"""Real sections that anyone may download."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from snrmix._globals import settled
from snrmix.datasets.download import PublicFile, fetch

BULB = "jbergenstrahle/STUtility/9a8f421499e58b13340ee386db07b0eba923c88c/inst/extdata/counts"
TUMOUR = "almaan/her2st/85df7411b987a7dec3feff9718b869a7a82091ec/data"
BULB_SPOT_PX, TUMOUR_SPOT_PX = 17.0, 142.0  # diameters: 100 um, half the pitch
HIRES_PX = 1000  # of the small copy of an image that is too large to carry along

BULB_SUMS = {
    1: (
        "82c0691f800355369fd8a72ff44ba1e3112d4e44a790f490a9fa267876a9352e",
        "91ade06cf93bc0b3cd728846c34e310a8365200d1ad33498e6a0eb6951a92164",
        "c1c292187221bab077ac1b15e95cf665db35684c98d6193af56d2e8b7772fe20",
    ),
    2: (
        "449dcc351ede5c63f9afe313479dbb830ba32c6e86b56b258276304102d1f7e9",
        "6d86b226386b0a08f825b3bff4b5c359f00fd52d3f53d77db0376b0f7e0ec30d",
        "1079fe52f600ec212a6a59cef76b8697fcd776d0cdb10461ad3bb738eaa5c0b6",
    ),
}
TUMOUR_SUMS = {
    "B4": (
        "e38231c2a38c9bc7e6d550eec0e527c1869ee0e525fc913e708d1323c34f5ebb",
        "192b46f3ca414c85753a01a4fb5760a697ca6c0a1aadb949c4687cc6efa9faa0",
        "3cb165614ce2a13426381e450220dccac980cc9bda6a90fb041c28ca0e2c753d",
    ),
    "C2": (
        "c1c59ea6cffae36b9ecb561b8e2a97e3aa5f4085f748e991a0e330ed9d09773d",
        "235b5f4306b3b57c628ffc82c98c7109602474fbcc79a917b9c50517f99b6b1c",
        "26e2f73ae840cdd46c5bba405aae181f13a56a376b9848dff23f7a9c5de7f19e",
    ),
    "C3": (
        "e00c55a3eb9caac5d9c71b8906aae8be8b38f93e23938f4a0ebee17683ef6a2a",
        "7fd76c13370b7804ac3bb377b846d22485cf9223f9dd8dfc25be06e5aaf65755",
        "0005a92674014d473040a28f0afca89ce5fa5c44019b479b638ceb3272ceb568",
    ),
}
TUMOUR_IMAGES = {"B4": "B/B4/BT10737_D2_HE.jpg", "C2": "C/C2/5714_HE_BT_C2.jpg", "C3": "C/C3/5714_HE_BT_D1.jpg"}


@settled()
def olfactory_bulb(number: int = 1) -> AnnData:
    """A section of a mouse olfactory bulb on a Spatial Transcriptomics array (Ståhl et al. 2016), with its H&E image.

    Spots of 100 um lie 200 um apart. The 1,000 genes are those that the repository of STUtility publishes, under the MIT
    licence.

    The files (4.3 MB) are downloaded once, checked, and kept in the user's cache, or in the folder that the environment
    variable ``SNRMIX_CACHE`` names. ``SNRMIX_DATA`` may name a folder that has them already: a copy of such a cache, or
    one with ``public/stutility/MOB1.tsv`` and so on.

    Parameters
    ----------
    number
        1 (379 spots) or 2 (407 spots); the two are sections of one animal's bulb.

    Returns
    -------
    anndata.AnnData
        ``X`` holds counts (CSR, float32); rows are called ``{x}x{y}`` by their place on the array, genes by Ensembl, and
        ``var["symbol"]`` has their usual names. ``obsm["spatial"]`` has (x, y) in pixels of
        ``uns["spatial"]["MOB1"]["images"]["hires"]``, which has all pixels that were published, 1905 x 1905.

    Raises
    ------
    ValueError
        For another number, or when a file is not the published one.
    OSError
        When a file cannot be downloaded or stored; the message says where to put it instead.

    Examples
    --------
    >>> adata = snrmix.datasets.olfactory_bulb(1)
    >>> snrmix.tl.impute(adata)
    """
    if isinstance(number, bool) or number not in BULB_SUMS:
        raise ValueError(f"number={number!r} is not there; available: {', '.join(map(str, BULB_SUMS))}.")
    name = f"MOB{number}"
    counts, spots, image = (fetch(file) for file in bulb_files(number))
    adata = _section(counts, spots, name)
    symbols = pd.read_csv(files("snrmix.datasets") / "mouse_symbols.csv", index_col="gene")["symbol"]
    adata.var["symbol"] = symbols.reindex(adata.var_names.str.split(".").str[0]).to_numpy()
    pixels = np.asarray(_open(image).convert("RGB"))
    adata.uns["spatial"] = {name: _stored({"hires": pixels}, BULB_SPOT_PX, {"tissue_hires_scalef": 1.0})}
    return adata


@settled()
def her2_tumour(name: str = "B4") -> AnnData:
    """A section of a HER2-positive breast tumour on a Spatial Transcriptomics array (Andersson et al. 2021), with its H&E.

    Spots of 100 um lie 200 um apart. The files are public in the repository ``almaan/her2st``, which states no licence:
    cite the paper, and do not pass them on as your own.

    They (about 12 MB a section) are downloaded once, checked, and kept in the user's cache, or in the folder that the
    environment variable ``SNRMIX_CACHE`` names. ``SNRMIX_DATA`` may name a folder that has them already: a copy of such a
    cache, or one with ``public/her2st/B4.tsv.gz`` and so on, and the image as ``st_her2_B4.jpg``.

    Parameters
    ----------
    name
        ``"B4"`` (283 spots), ``"C2"`` (187) or ``"C3"`` (180). The letter is the patient: C2 and C3 are of one tumour.

    Returns
    -------
    anndata.AnnData
        ``X`` holds counts (CSR, float32) of about 15,500 genes; rows are called ``{x}x{y}`` by their place on the array,
        ``obs["patient"]`` has the letter, and ``obsm["spatial"]`` (x, y) in pixels of the full-resolution image. Its path
        is ``uns["spatial"][name]["images"]["fullres"]``, beside a copy ``"hires"`` of 1000 pixels.

    Raises
    ------
    ValueError
        For another name, or when a file is not the published one.
    OSError
        When a file cannot be downloaded or stored; the message says where to put it instead.

    Examples
    --------
    >>> adata = snrmix.datasets.her2_tumour("C2")
    >>> snrmix.tl.impute(adata, genes=[300, "ERBB2"])
    """
    if name not in TUMOUR_SUMS:
        raise ValueError(f"name={name!r} is not there; available: {', '.join(TUMOUR_SUMS)}.")
    counts_sum, spots_sum, image_sum = TUMOUR_SUMS[name]
    scan = f"st_her2_{name}.jpg"
    counts = fetch(PublicFile(f"her2st/{name}.tsv.gz", f"{TUMOUR}/ST-cnts/{name}.tsv.gz", counts_sum))
    spots = fetch(PublicFile(f"her2st/{name}_selection.tsv", f"{TUMOUR}/ST-spotfiles/{name}_selection.tsv", spots_sum))
    image = fetch(
        PublicFile(f"her2st/{name}.jpg", f"{TUMOUR}/ST-imgs/{TUMOUR_IMAGES[name]}", image_sum, (scan, f"../{scan}"))
    )
    adata = _section(counts, spots, name)
    adata.obs["patient"] = pd.Categorical([name[0]] * adata.n_obs)
    small, factor = _small_copy(image)
    scalefactors = {"tissue_hires_scalef": factor, "tissue_fullres_scalef": 1.0}
    adata.uns["spatial"] = {name: _stored({"fullres": str(image), "hires": small}, TUMOUR_SPOT_PX, scalefactors)}
    return adata


def bulb_files(number: int) -> list[PublicFile]:
    """Counts, spots and image of a section of the bulb."""
    name = f"MOB{number}"
    names = f"{name}.tsv", f"alignment_table_{name}.tsv", f"{name}.jpg"
    sums = zip(names, BULB_SUMS[number], strict=True)
    return [PublicFile(f"stutility/{file}", f"{BULB}/{file}", sha256) for file, sha256 in sums]


def _section(counts: Path, spots: Path, library: str) -> AnnData:
    """Counts and positions of the spots that lie on tissue, in the order of the table of spots."""
    table = pd.read_csv(counts, sep="\t", index_col=0)
    places = pd.read_csv(spots, sep="\t")
    places.index = [f"{x}x{y}" for x, y in zip(places["x"], places["y"], strict=True)]
    places = places[places["selected"] == 1]
    places = places[places.index.isin(table.index)]
    table = table.loc[places.index]
    obs = pd.DataFrame(
        {
            "array_row": places["y"].to_numpy(int),
            "array_col": places["x"].to_numpy(int),
            "library_id": pd.Categorical([library] * len(table)),
        },
        index=table.index.astype(str),
    )
    return AnnData(
        sparse.csr_matrix(table.to_numpy(np.float32)),
        obs=obs,
        var=pd.DataFrame(index=table.columns.astype(str)),
        obsm={"spatial": places[["pixel_x", "pixel_y"]].to_numpy(float)},
    )


def _stored(images: dict, spot_px: float, scalefactors: dict) -> dict:
    return {"images": images, "scalefactors": {**scalefactors, "spot_diameter_fullres": spot_px}}


def _open(path: Path):
    """A JPEG of any size."""
    from PIL import Image

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        return Image.open(path)
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _small_copy(path: Path) -> tuple[np.ndarray, float]:
    """The image at 1000 pixels along its longer side, and the factor to it."""
    with _open(path) as opened:
        factor = HIRES_PX / max(opened.size)
        size = [round(side * factor) for side in opened.size]
        opened.draft("RGB", size)  # decodes no more pixels than the copy needs
        return np.asarray(opened.convert("RGB").resize(size, reducing_gap=3.0)), factor
