"""A model that was fitted to one section, on its sister section: from the image alone, and with a few measured spots.

python benchmarks/sister_sections.py
python benchmarks/sister_sections.py --pairs st_mob_1:st_mob_2 --spots 30 --seeds 0
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from sections import SECTIONS, add_options, load, machine, write_table

import snrmix

PAIRS = ("st_mob_1:st_mob_2", "st_her2_C2:st_her2_C3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_options(parser)
    parser.add_argument("--pairs", nargs="+", default=PAIRS, help="FITTED:PREDICTED, names of sections")
    parser.add_argument("--spots", nargs="+", type=int, default=[30, 100], help="measured spots of the second section")
    options = parser.parse_args()
    rows = [row for pair in options.pairs for row in run(*pair.split(":"), options)]
    keys = ["fitted", "predicted", "measured spots"]
    table = pd.DataFrame(rows).groupby(keys, sort=False, as_index=False).mean()
    title = (
        "A model on the sister section: Error as a share of that of the mean of the measured spots, on the other spots of the second "
        "section. By the model of the first section from the image alone, with the measured spots, and by "
        "snrmix.tl.impute on the second section alone."
    )
    seeds = ", ".join(map(str, options.seeds))
    note = f"{options.genes} genes; seeds {seeds}; snrmix {snrmix.__version__} on {machine()}."
    print("\n" + write_table(table, options.out / "sister_sections", title, note))


def run(first: str, second: str, options) -> list[dict]:
    """Ratios for every number of measured spots and seed."""
    fitted, other = (load(name, options.data, options.cache)[0] for name in (first, second))
    both = fitted.var_names.intersection(other.var_names)
    fitted, other = fitted[:, both].copy(), other[:, both].copy()
    model = snrmix.SNRMix(genes=options.genes).fit(fitted)
    counts = other.X.toarray()
    observed = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))[:, other.var_names.get_indexer(model.genes)]
    image_alone, rows = model.predict(other), []
    for spots in options.spots:
        for seed in options.seeds:
            measured = np.zeros(other.n_obs, bool)
            measured[np.random.default_rng(seed).permutation(other.n_obs)[:spots]] = True
            alone = snrmix.tl.impute(other, measured=measured, genes=list(model.genes), copy=True)
            predictions = {
                "image alone": image_alone,
                "with measured spots": model.predict(other, measured=measured),
                "second section alone": alone[:, model.genes].layers["snrmix"],
            }
            mean = ((observed[measured].mean(0) - observed[~measured]) ** 2).sum()
            ratios = {n: ((p - observed)[~measured] ** 2).sum() / mean for n, p in predictions.items()}
            names = {"fitted": SECTIONS.get(first, first), "predicted": SECTIONS.get(second, second)}
            rows.append({**names, "measured spots": spots, **ratios})
    return rows


if __name__ == "__main__":
    main()
