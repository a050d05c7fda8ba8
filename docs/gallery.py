"""Make the pictures of the gallery: run the code of ``gallery.md`` and save each figure under the name that follows it."""

import re
import sys
from pathlib import Path

import anndata as ad
import matplotlib
from PIL import Image

import snrmix

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
BLOCK = re.compile(r"```python\n(.*?)```(?:\s*!\[[^\]]*\]\((_static/gallery/\w+\.png)\))?", re.DOTALL)
COLOURS = 256  # of a picture: a third of the bytes, and nobody sees it


def prepare(small: bool = False) -> dict:
    """The names that the page takes for granted: a section with hidden spots, imputed, and two slides.

    Parameters
    ----------
    small
        Sections for a test.
    """
    size = {"n_rows": 12, "n_genes": 40, "image_px_per_pitch": 16} if small else {"n_rows": 26, "n_genes": 100}
    adata = snrmix.datasets.synthetic_tissue(**size)
    snrmix.pp.hold_out(adata, share=0.4)
    snrmix.tl.impute(adata, measured="measured")
    parts = {}
    for name, seed in (("A", 0), ("B", 1)):
        parts[name] = snrmix.datasets.synthetic_tissue(
            **{**size, "n_rows": 14, "image_px_per_pitch": 24}, random_state=seed
        )
        parts[name].uns["spatial"] = {name: parts[name].uns["spatial"].pop("synthetic")}
    slides = ad.concat(parts, label="library_id", index_unique="-", uns_merge="unique", merge="same")
    return {"adata": adata, "slides": slides, "snrmix": snrmix}


def main() -> None:
    """Run the page and write its pictures."""
    names = prepare()
    (HERE / "_static" / "gallery").mkdir(exist_ok=True)
    for code, picture in BLOCK.findall((HERE / "gallery.md").read_text()):
        exec(code, names)
        if picture:
            plt.gcf().savefig(HERE / picture, dpi=80, bbox_inches="tight")
            flat = Image.open(HERE / picture).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
            flat.save(HERE / picture, optimize=True)
            print(picture, (HERE / picture).stat().st_size // 1000, "kB", file=sys.stderr)
        plt.close("all")


if __name__ == "__main__":
    main()
