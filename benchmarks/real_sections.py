"""Error on hidden spots of real sections: snrmix and simpler predictors, and how well the intervals cover.

python benchmarks/real_sections.py                      # half of the spots hidden, seven sections, three seeds
python benchmarks/real_sections.py --design block       # compact regions hidden
python benchmarks/real_sections.py --protocol network   # one network, 30 % training and 20 % validation spots
python benchmarks/real_sections.py --read a b           # the tables of earlier runs, in folders of --out, together
python benchmarks/real_sections.py --read a b --against c d  # and the difference to runs of other code, on the same spots
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sections import SECTIONS, add_options, load, machine, write_table

import snrmix

DESIGNS = {
    "half": {"share": 0.5},
    "third": {"share": 0.7},
    "tenth": {"share": 0.9},
    "block": {"kind": "block", "share": 0.3, "n_blocks": 16},
}
IN_WORDS = {
    "half": "half of the spots measured, at random",
    "third": "30 % of the spots measured, at random",
    "tenth": "10 % of the spots measured, at random",
    "block": "five of sixteen compact blocks hidden",
}
METHODS = ("mean", "depth", "spatial kNN", "graph smoothing", "ridge", "kriging", "network", "snrmix")
VALIDATION = 0.4  # of the measured half: 30 % to train on, 20 % for early stopping


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_options(parser)
    parser.add_argument("--design", choices=DESIGNS, default="half", help="which spots are hidden")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="see snrmix.tl.benchmark")
    parser.add_argument("--protocol", choices=("full", "network"), default="full", help="see above")
    parser.add_argument("--no-coverage", action="store_true", help="leave the intervals out, in half the time")
    parser.add_argument("--read", nargs="+", type=Path, help="folders of earlier runs, instead of running")
    parser.add_argument("--against", nargs="+", type=Path, help="folders of earlier runs of other code")
    options = parser.parse_args()
    if options.protocol == "network":
        run_network(options)
    else:
        run_full(options)
    if options.against:
        report_difference(options)


def run_full(options) -> None:
    """Errors, paired differences and coverage."""
    errors, covered = stored(options.read, options.design) if options.read else measure(options)
    note = describe(options)
    where = options.out / f"errors_{options.design}"
    write_table(errors, where, f"Error on hidden spots, {IN_WORDS[options.design]}", note, 4)
    wide = ratios_by_section(errors, options.methods)
    text = write_table(wide, where.with_name(f"ratios_{options.design}"), caption(options.design), note)
    print(f"\n{text}")
    if len(covered):
        report_coverage(covered, options, note)


def measure(options) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Errors of every section and method, means over seeds, and coverage of every section and seed."""
    splits = [{**DESIGNS[options.design], "random_state": seed} for seed in options.seeds]
    errors, covered, by_split = [], [], []
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.sections:
        started = time.perf_counter()
        adata, image = load(name, options.data, options.cache)
        result = snrmix.tl.benchmark(adata, options.methods, splits=splits, genes=options.genes, **image)
        errors.append(summary_rows(name, result))
        by_split.append(ratios_by_split(name, result))
        pd.concat(by_split).to_csv(options.out / f"by_split_{options.design}.csv", index=False)
        print(f"\n{label(name)}, {IN_WORDS[options.design]} ({time.perf_counter() - started:.0f} s)")
        print(errors[-1].drop(columns="section").to_string(index=False, float_format="{:.4f}".format), flush=True)
        if not options.no_coverage:
            covered += [coverage_row(name, adata, image, split, options) for split in splits]
            print(
                pd.DataFrame(covered[-len(splits) :]).to_string(index=False, float_format="{:.3f}".format), flush=True
            )
    return pd.concat(errors, ignore_index=True), pd.DataFrame(covered)


def stored(folders: list[Path], design: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What `measure` gave in earlier runs; by split, it is stored together again."""
    errors = pd.concat([pd.read_csv(folder / f"errors_{design}.csv") for folder in folders], ignore_index=True)
    covered = [folder / f"coverage_by_seed_{design}.csv" for folder in folders]
    covered = [pd.read_csv(path) for path in covered if path.exists()]
    return errors, pd.concat(covered, ignore_index=True) if covered else pd.DataFrame()


def ratios_by_split(name: str, result: pd.DataFrame) -> pd.DataFrame:
    """Ratio and correlation of every method on every split, one row each."""
    groups = result.groupby(["split", "method"], observed=True)
    sums = groups[["mse", "mse_mean"]].sum()
    table = pd.DataFrame({"ratio": sums["mse"] / sums["mse_mean"], "pearson": groups["pearson"].mean()}).reset_index()
    table.insert(0, "section", label(name))
    return table


def report_difference(options) -> None:
    """Ratios of snrmix here and in runs of other code, and their difference on the same splits."""
    name = f"by_split_{options.design}.csv"
    ours, theirs = (
        pd.concat([pd.read_csv(folder / name) for folder in folders]).query("method == 'snrmix'")
        for folders in (options.read or [options.out], options.against)
    )
    both = ours.merge(theirs, on=["section", "split"], suffixes=("", " before"))
    rows = []
    for section, some in both.groupby("section", sort=False):
        difference, before = some["ratio"] - some["ratio before"], some["ratio before"].mean()
        error = difference.std() / np.sqrt(len(some))
        rows.append(
            {
                "section": section, "before": before, "now": some["ratio"].mean(),
                "difference": f"{difference.mean():+.4f} ± {error:.4f}",
                "in %": f"{100 * difference.mean() / before:+.1f} ± {100 * error / before:.1f}",
                "lower on": f"{(difference < 0).sum()} of {len(some)} splits",
            }
        )  # fmt: skip
    title = (
        f"Now and before: error of snrmix as a share of the mean's on hidden spots, {IN_WORDS[options.design]}, and the difference "
        "on the same spots ± its standard error over seeds; below 0 is better."
    )
    print(
        "\n" + write_table(pd.DataFrame(rows), options.out / f"difference_{options.design}", title, describe(options))
    )


def summary_rows(name: str, result: pd.DataFrame) -> pd.DataFrame:
    """One row per method: ratio, Pearson, and paired difference to the reference with its standard error."""
    table = result.attrs["summary"].reset_index()
    table.insert(0, "section", label(name))
    table.insert(len(table.columns), "splits", result["split"].nunique())
    return table


def ratios_by_section(errors: pd.DataFrame, methods: list[str]) -> pd.DataFrame:
    """A row per section and a column per method, see `caption`."""

    def cell(row) -> str:
        if "snrmix" not in methods:
            return f"{row['mse_ratio']:.3f}"
        if row["method"] == "snrmix":
            return f"{row['mse_ratio']:.3f} ({row['pearson']:.3f})"
        return f"{row['mse_ratio']:.3f} ({row['difference']:+.3f} ± {row['standard_error']:.3f})"

    cells = errors.assign(cell=errors.apply(cell, axis=1)).pivot(index="section", columns="method", values="cell")
    order = [m for m in methods if m in cells]
    return cells.loc[errors["section"].unique(), order].reset_index()


def caption(design: str) -> str:
    return (
        f"Error as a share of the mean's on hidden spots, {IN_WORDS[design]}: in brackets the paired difference to snrmix ± its "
        "standard error, and for snrmix the Pearson correlation per gene."
    )


def coverage_row(name: str, adata, image: dict, split: dict, options) -> dict:
    """Coverage of 90 % intervals on one split, and how well their width follows the error."""
    hidden = snrmix.pp.hold_out(adata, copy=True, key_added="kept", **split)
    snrmix.tl.impute(hidden, measured="kept", genes=options.genes, **image)
    table = snrmix.tl.coverage(hidden, "kept_held_out", levels=[0.9]).set_index(["by", "group"])["observed"]
    row = {"section": label(name), "seed": split["random_state"], "all": table["all", "all"]}
    for by in ("distance", "sd"):
        row |= {f"{by} {quarter}": table[by, f"quarter {quarter}"] for quarter in range(1, 5)}
    row["shallow tenth"] = table.get(("depth", "shallowest tenth"), np.nan)
    return row | interval_quality(hidden)


def interval_quality(adata, level: float = 0.9) -> dict:
    """Correlation of sd and absolute error, and the interval score against that of a constant width per gene."""
    held, genes = adata.obs["kept_held_out"].to_numpy(), adata.var["snrmix_modelled"].to_numpy()
    observed = log_normalised(adata)[np.ix_(held, genes)]
    predicted, sd = (np.asarray(adata.layers[name])[np.ix_(held, genes)] for name in ("snrmix", "snrmix_sd"))
    low, high = (end[np.ix_(held, genes)] for end in snrmix.tl.interval(adata, level))
    residual = observed - predicted
    # The constant is told the hidden residuals themselves: the best that a width per gene could do.
    ends = np.quantile(residual, [(1 - level) / 2, (1 + level) / 2], axis=0)
    constant = interval_score(observed, np.maximum(predicted + ends[0], 0), predicted + ends[1], level)
    centred = [values - values.mean(0) for values in (sd, np.abs(residual))]
    correlation = (centred[0] * centred[1]).sum() / np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())
    score = interval_score(observed, low, high, level)
    return {"sd and error": float(correlation), "score / constant": float(score / constant)}


def interval_score(observed, low, high, level: float) -> float:
    """Mean width plus penalty for what is missed (Gneiting and Raftery 2007, doi:10.1198/016214506000001437)."""
    miss = np.maximum(low - observed, 0) + np.maximum(observed - high, 0)
    return float(np.mean(high - low + 2 / (1 - level) * miss))


def log_normalised(adata) -> np.ndarray:
    """log1p of counts per 10,000."""
    counts = adata.X.toarray()
    return np.log1p(1e4 * counts / np.maximum(counts.sum(1, keepdims=True), 1))


def report_coverage(covered: pd.DataFrame, options, note: str) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    covered.to_csv(options.out / f"coverage_by_seed_{options.design}.csv", index=False)
    mean = covered.drop(columns="seed").groupby("section", sort=False).mean().reset_index()
    title = (
        f"Share of hidden values inside the 90 % interval, {IN_WORDS[options.design]}: all values, quarters by distance "
        "to the nearest measured spot and by predicted sd, the tenth of the spots of lowest depth; correlation of sd and "
        "absolute error within genes; interval score over that of the best constant width per gene."
    )
    print("\n" + write_table(mean, options.out / f"coverage_{options.design}", title, note))


def run_network(options) -> None:
    """One network without kriging: half measured, of which 40 % stop the training; ratio to the mean of the 30 %."""
    rows = []
    for name in options.sections:
        adata, image = load(name, options.data, options.cache)
        for seed in options.seeds:
            ratio = network_ratio(adata, image, seed, options.genes)
            rows.append({"section": label(name), "seed": seed, "ratio": ratio})
            print(f"{label(name)}, seed {seed}: {ratio:.4f}", flush=True)
    rows = pd.DataFrame(rows)
    wide = rows.pivot(index="section", columns="seed", values="ratio").loc[rows["section"].unique()]
    wide.columns = [f"seed {seed}" for seed in wide.columns]
    wide.insert(0, "mean over seeds", wide.mean(axis=1))
    title = (
        "One network alone: MSE on hidden spots over that of the mean of the training spots; 30 % of the spots to train "
        "on, 20 % for early stopping, 50 % hidden."
    )
    print("\n" + write_table(wide.reset_index(), options.out / "network", title, describe(options)))


def network_ratio(adata, image: dict, seed: int, genes: int) -> float:
    """Squared error at hidden spots over that of the mean of the spots that the network trained on."""
    adata = snrmix.pp.hold_out(adata, share=0.5, random_state=seed, key_added="kept", copy=True)
    snrmix.pp.hold_out(adata, share=VALIDATION, random_state=seed, measured="kept", key_added="train")
    snrmix.tl.impute(
        adata, measured="kept", genes=genes, n_folds=1, validation="train_held_out", kriging=False, random_state=seed,
        **image,
    )  # fmt: skip
    modelled = adata.var["snrmix_modelled"].to_numpy()
    observed, train = log_normalised(adata)[:, modelled], adata.obs["train"].to_numpy()
    hidden = adata.obs["kept_held_out"].to_numpy()
    predicted = np.asarray(adata.layers["snrmix"])[np.ix_(hidden, modelled)]
    error, reference = predicted - observed[hidden], observed[train].mean(0) - observed[hidden]
    return float((error**2).sum() / (reference**2).sum())


def label(name: str) -> str:
    return SECTIONS.get(name, name)


def describe(options) -> str:
    seeds = ", ".join(map(str, options.seeds))
    return (
        f"Sections of the folder SNRMIX_DATA; {options.genes} genes of highest mean on measured spots; seeds {seeds}; "
        f"snrmix {snrmix.__version__} on {machine()}."
    )


if __name__ == "__main__":
    main()
