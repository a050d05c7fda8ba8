"""Few measured spots: the stack against each of its members, where spots are scattered, in patches, or on one side.

python benchmarks/few_spots.py                                            # all amounts, designs and sections
python benchmarks/few_spots.py --amounts 40 --sections st_mob_1 st_mob_2   # 40 spots in all
python benchmarks/few_spots.py --read a.csv b.csv                         # the table of earlier runs together
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sections import SECTIONS, add_options, load, machine, split_case, write_table

import snrmix
from snrmix.plan.hold_out import compact_blocks

AMOUNTS = ("10%", "20%", "40")  # a share of the spots, or spots in all
FEWEST = 20  # below, nothing is imputed
PATCHES = 4  # compact, that hold the measured spots
STACK = "stack"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_options(parser, seeds=range(5))
    parser.add_argument(
        "--amounts", nargs="+", default=list(AMOUNTS), help="measured spots: a share with %%, or in all"
    )
    parser.add_argument("--designs", nargs="+", choices=DESIGNS, default=list(DESIGNS), help="where measured spots lie")
    parser.add_argument("--read", nargs="+", type=Path, help="tables by split of earlier runs, instead of running")
    options = parser.parse_args()
    table = pd.concat(map(pd.read_csv, options.read)) if options.read else run(options)
    title = (
        "Few measured spots: error as a share of the mean's on the other spots, of the stack and of its members; the stack less "
        "the member that is best in the mean over seeds, on the same spots, ± standard error over seeds. Spots are scattered at "
        "random, in four compact patches, or at random in one half of the section."
    )
    note = f"{options.genes} genes of highest mean on measured spots; snrmix {snrmix.__version__} on {machine()}."
    print("\n" + write_table(against_best(table), options.out / "few_spots", title, note))


def run(options) -> pd.DataFrame:
    """Ratio of stack and members on every split, one row each; also kept as a table after each section."""
    rows = []
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.sections:
        started = time.perf_counter()
        adata, image = load(name, options.data, options.cache)
        for amount in options.amounts:
            for design in options.designs:
                for seed in options.seeds:
                    kept = choose(adata.obsm["spatial"], count_of(amount, adata.n_obs), design, seed)
                    split = {"section": SECTIONS.get(name, name), "measured": amount, "spots": int(kept.sum())}
                    rows.append({**split, "design": design, "seed": seed, **ratios(adata, kept, options.genes, image)})
        pd.DataFrame(rows).to_csv(options.out / "few_spots_by_split.csv", index=False)
        print(f"{SECTIONS.get(name, name)}: {time.perf_counter() - started:.0f} s", flush=True)
    return pd.DataFrame(rows)


def count_of(amount: str, spots: int) -> int:
    """Measured spots."""
    wanted = round(float(amount.rstrip("%")) / 100 * spots) if amount.endswith("%") else int(amount)
    return max(wanted, FEWEST)


def choose(positions: np.ndarray, count: int, design: str, seed: int) -> np.ndarray:
    """Which spots are measured, bool, shape (n,): about ``count`` of them."""
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(positions), bool)
    chosen[DESIGNS[design](np.asarray(positions, float), count, rng)] = True
    return chosen


def scattered(positions: np.ndarray, count: int, rng) -> np.ndarray:
    """At random."""
    return rng.choice(len(positions), count, replace=False)


def in_patches(positions: np.ndarray, count: int, rng) -> np.ndarray:
    """In compact patches at random."""
    number = max(round(PATCHES * len(positions) / count), PATCHES + 1)
    block = compact_blocks(positions, number, rng)
    return np.flatnonzero(np.isin(block, rng.choice(number, PATCHES, replace=False)))


def on_one_side(positions: np.ndarray, count: int, rng) -> np.ndarray:
    """At random within one half of the section, cut in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    along = positions @ np.array([np.cos(angle), np.sin(angle)])
    return rng.choice(np.argsort(along, kind="stable")[: len(positions) // 2], count, replace=False)


DESIGNS = {"random": scattered, "patches": in_patches, "half": on_one_side}


def ratios(adata, kept: np.ndarray, genes: int, image: dict) -> dict[str, float]:
    """Squared error at the other spots over that of the mean of the measured ones, of the stack and of its members."""
    case, observed = split_case(adata, kept, genes, image)
    stacked = case.stacked
    predicted = {STACK: stacked.predicted} | {name: member.predicted for name, member in stacked.members.items()}
    of_mean = np.sum((case.means - observed) ** 2)
    return {
        name: float(np.sum((case.at_hidden(values) - observed) ** 2) / of_mean) for name, values in predicted.items()
    }


def against_best(table: pd.DataFrame) -> pd.DataFrame:
    """A row per section, amount and design: mean ratios, and the stack less the member of lowest mean."""
    place = ["section", "measured", "design"]
    members = [name for name in table if name not in (*place, "spots", "seed", STACK)]
    rows = []
    for key, some in table.groupby(place, sort=False):
        means = some[members].mean()
        difference = some[STACK] - some[means.idxmin()]
        error = difference.std() / np.sqrt(len(some))
        rows.append(
            {
                **dict(zip(place, key, strict=True)), "spots": round(some["spots"].mean()), STACK: some[STACK].mean(),
                **means, "best": means.idxmin(), "stack less best": f"{difference.mean():+.3f} ± {error:.3f}",
                "worse": "yes" if difference.mean() > 2 * error else "no", "seeds": len(some),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
