"""Draw the picture of the README: half of a real section hidden, imputed, and compared with what had been measured.

    python benchmarks/readme_picture.py [--out docs/_static/real_section.png]

The section is that of `snrmix.datasets.olfactory_bulb`: downloaded once, or taken from the folder ``SNRMIX_DATA``.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import snrmix

GENES = ["Penk", "S100a5", "Doc2g"]  # granule cells, nerve layer, mitral cells and glomeruli
OUT = Path(__file__).parents[1] / "docs" / "_static" / "real_section.png"
COLOURS, WIDTH = 160, 1400
MOST_BYTES = 400_000


def impute_half(seed: int = 0):
    """The bulb with half of its spots hidden and imputed; ``layers["observed"]`` has the truth."""
    adata = snrmix.datasets.olfactory_bulb(1)
    adata.var_names = adata.var["symbol"]
    counts = adata.X.toarray()
    adata.layers["observed"] = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    snrmix.pp.hold_out(adata, share=0.5, random_state=seed)
    snrmix.tl.impute(adata, measured="measured")
    return adata


def draw(adata, path: Path) -> None:
    """Draw and store it in few colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    snrmix.pl.compare(adata, GENES, truth="observed", show=False, save=path, dpi=150)
    image = Image.open(path).convert("RGB")
    image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    assert path.stat().st_size < MOST_BYTES, f"{path} has {path.stat().st_size} bytes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    path = parser.parse_args().out
    plt.switch_backend("Agg")
    adata = impute_half()
    draw(adata, path)
    overall = snrmix.tl.evaluate(adata, "measured_held_out").attrs["overall"]
    coverage = snrmix.tl.coverage(adata, "measured_held_out", levels=[0.9]).iloc[0]["observed"]
    for name in ("mse_ratio", "pearson_median", "pearson_given_depth_median"):
        print(f"{name:28} {overall[name]:.3f}")
    print(f"{'90 % intervals hold':28} {coverage:.3f}")
    print(adata.var.loc[GENES, ["snrmix_pearson", "snrmix_explained_given_depth"]].round(2).to_string())


if __name__ == "__main__":
    main()
