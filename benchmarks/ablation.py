"""What each choice is worth: one thing is changed at a time, on the same hidden spots of real sections.

python benchmarks/ablation.py                                        # all groups, sections and seeds: hours
python benchmarks/ablation.py --sections st_her2_C3 --seeds 0 1      # some sections and seeds
python benchmarks/ablation.py --only strategies loss --share 0.9     # some groups, with 10 % of the spots measured
python benchmarks/ablation.py --read a.csv b.csv                     # the table of earlier runs together

Pixel mixing and fine-tuning are compared by benchmarks/finetuning.py.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree
from scipy.stats import false_discovery_control, wilcoxon
from sections import SECTIONS, add_options, load, machine, write_table

import snrmix
from snrmix.engine.fit import Member, kriging_members, stack_members
from snrmix.engine.folds import finer
from snrmix.engine.kriging.krige import krige_section
from snrmix.engine.mix import resolve_mixing
from snrmix.engine.network.crossfit import fit_network
from snrmix.engine.scores.baselines import ridge
from snrmix.plan.splits import settle_neighbours
from snrmix.tl import _methods
from snrmix.tl._methods import Case, Method

DEFAULT = "as it is"
COLUMNS = {"network": "network alone", "stack": "stack"}
TINY = 1e-6  # in place of a weight of zero where zero would not be allowed
SNR, Losses = snrmix.SNRMixing, snrmix.Losses
GROUPS = {
    "strategies": {
        "none": {"mix": "none"},
        "mixup": {"mix": "mixup"},
        "mixup without hesitation": {"mix": "mixup_without_hesitation"},
        "mixup without hesitation, 40 epochs": {"mix": "mixup_without_hesitation", "max_epochs": 40},
        "C-Mixup": {"mix": "cmixup"},
        "RC-Mixup": {"mix": "rcmixup"},
        "SNR, authors' program": {"mix": "snr_expression"},
        "SNR, authors' program and losses": {
            "mix": "snr_expression", "losses": Losses(consistency=0.5, edge=50, correlation=0.05),
        },
    },
    "snr": {
        "expression graph": {"mix": SNR(graph="expression")},
        "kernel not squared": {"mix": SNR(kernel="exponential")},
        "10 neighbours": {"mix": SNR(k=10)},
        "20 neighbours": {"mix": SNR(k=20)},
        "50 neighbours": {"mix": SNR(k=50)},
        "bandwidth 1/8": {"mix": SNR(sigma=0.125)},
        "bandwidth 1/2": {"mix": SNR(sigma=0.5)},
        "bandwidth 1": {"mix": SNR(sigma=1.0)},
        "alpha 0.4": {"mix": SNR(alpha=0.4)},
        "alpha 2": {"mix": SNR(alpha=2.0)},
    },
    "loss": {
        "no consistency term": {"losses": Losses(consistency=0)},
        "no edge term": {"losses": Losses(edge=0)},
        "no correlation term": {"losses": Losses(correlation=0)},
        "vicinal term alone": {"losses": Losses(consistency=0, edge=0, correlation=0)},
        "edge term of 0.5": {"losses": Losses(edge=0.5)},
        "no mixing, vicinal term alone": {"mix": "none", "losses": Losses(consistency=0, edge=0, correlation=0)},
    },
    "training": {
        "no weight averaging": {"weight_average": TINY},
        "dropout 0.3": {"dropout": 0.3},
        "512 hidden units": {"hidden": 512},
        "no early stopping": {"early_stopping": False},
    },
    "features": {
        "as it is, colour not told apart": {"features": "same"},
        "100 principal components": {"features": "components"},
        "with the mean of the 6 nearest": {"features": "surroundings"},
        "patches of 1.15 pitches": {"features": "scale 0"},
        "patches of 2.3 pitches": {"features": "scale 1"},
        "patches of 4.6 pitches": {"features": "scale 2"},
    },
    "stack": {
        "network alone": {"take": ("network",)},
        "kriging alone": {"take": ("kriging",)},
        "ridge as further member": {"take": ("network", "kriging", "rates", "ridge")},
    },
    "network": {
        "without the network": {"take": ("kriging", "rates")},
        "network of residuals": {"take": ("residuals", "kriging", "rates")},
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_options(parser, seeds=range(5))
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), help="groups of variants")
    parser.add_argument("--variants", nargs="+", help="some of these groups' variants, by name")
    parser.add_argument("--share", type=float, default=0.5, help="share of the spots that is hidden")
    parser.add_argument("--read", nargs="+", type=Path, help="tables by split of earlier runs, instead of running")
    options = parser.parse_args()
    table = pd.concat(map(pd.read_csv, options.read)) if options.read else run(options)
    hidden = sorted(table["hidden"].unique())
    title = (
        "One thing changed at a time: Error as a share of the mean's on hidden spots, less that of the default on the same spots, in "
        "thousandths: mean over sections ± standard error over sections; above 0, the default is better. In brackets the "
        "pairs of section and seed on which the default is better, and p of the signed-rank test over these pairs, "
        "false discovery rate over the table."
    )
    sections = ", ".join(f"{SECTIONS.get(name, name)}" for name in table["section"].unique())
    seeds = f"{table.groupby('section')['split'].nunique().max()} seeds"
    shares = ", ".join(f"{share:.0%}" for share in hidden)
    note = f"{sections}; {seeds}; {shares} hidden; {options.genes} genes; snrmix {snrmix.__version__} on {machine()}."
    print("\n" + write_table(paired(table), options.out / "ablation", title, note))
    title = (
        "One thing changed at a time, by section: Error as a share of the mean's on hidden spots, less that of the default on the same "
        "spots, in thousandths, mean over seeds; above 0, the default is better. The last column is the mean over sections ± "
        "standard error over sections."
    )
    print("\n" + write_table(by_section(table), options.out / "ablation_by_section", title, note))


def run(options) -> pd.DataFrame:
    """Ratio of every variant on every split, one row each; also kept as a table after each section."""
    rows = []
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.sections:
        started = time.perf_counter()
        adata, image = load(name, options.data, options.cache)
        rows += [{"section": name, "hidden": options.share, **row} for row in run_section(adata, image, options)]
        pd.DataFrame(rows).to_csv(options.out / "ablation_by_split.csv", index=False)
        print(f"{SECTIONS.get(name, name)}: {time.perf_counter() - started:.0f} s", flush=True)
    return pd.DataFrame(rows)


def run_section(adata, image: dict, options) -> list[dict]:
    """Ratios of all variants on one section. Kriging is done once per split."""
    variants = [("default", DEFAULT, {})]
    variants += [
        (group, name, change)
        for group in options.only
        for name, change in GROUPS[group].items()
        if options.variants is None or name in options.variants
    ]
    methods = {
        f"{group} | {variant} | {column}": Variant(change, column)
        for group, variant, change in variants
        for column in COLUMNS
    }
    _methods.METHODS = tuple(Method(name, predict) for name, predict in methods.items())
    splits = [{"share": options.share, "random_state": seed} for seed in options.seeds]
    result = snrmix.tl.benchmark(adata, list(methods), splits=splits, genes=options.genes, **image)
    sums = result.groupby(["split", "method"], observed=True)[["mse", "mse_mean"]].sum()
    ratio = (sums["mse"] / sums["mse_mean"]).rename("ratio").reset_index()
    parts = ratio["method"].astype(str).str.split(" | ", regex=False, expand=True)
    ratio[["group", "variant", "column"]] = parts
    return ratio.astype({"split": str}).drop(columns="method").to_dict("records")


class Variant:
    """Predictions with one thing changed: of the network alone, or of its stack with kriging."""

    def __init__(self, change: dict, column: str):
        self.change, self.column = change, column

    def __call__(self, case: Case) -> np.ndarray:
        if "take" in self.change:
            members = {name: member(case, name) for name in self.change["take"]}
        else:
            members = {"network": member(case, "network", self.change)}
            if self.column == "stack":
                members |= {name: member(case, name) for name in ("kriging", "rates")}
        return case.at_hidden(stacked(case, members).predicted)


def stacked(case: Case, members: dict[str, Member]) -> Member:
    """The stack of some members; what has no counts has no rates."""
    first = case.first_folds
    scored = np.sort(np.concatenate([fold.held_out for fold in first]))
    members = {name: one for name, one in members.items() if one is not None}
    return Member(*stack_members(case.section, first, scored, members)[1:])


def member(case: Case, name: str, change: dict | None = None) -> Member:
    """A member of the stack, computed once per split."""
    kept = case.__dict__.setdefault("members", {})
    key = name + str(change or {})
    if key not in kept:
        make = {"network": fit, "residuals": residual_member, "ridge": ridge_member}
        if name in make:
            kept[key] = make[name](case, **(change or {}))
        else:
            kept |= {"kriging{}": None, "rates{}": None, **kriged_members(case)}
    return kept[key]


def fit(case: Case, mix="snr", losses=None, features=None, **training) -> Member:
    """The network with some options changed."""
    section, settings = case.section, case.settings
    if features is not None:
        section = replace(section, features=change_features(case, features))
    mixing = settle_neighbours(resolve_mixing(mix), case.folds, chosen=False)
    options = replace(settings.training, **training)
    network = fit_network(section, case.folds, mixing, losses or settings.losses, options, settings.seed)
    return Member(network.out_of_fold, network.predict(section.features[section.unmeasured]))


def kriged_members(case: Case) -> dict[str, Member]:
    """Kriging, and where there are counts kriging of rates, by key."""
    kriged = krige_section(case.section, finer(case.first_folds, len(case.section.measured)), case.settings.device)
    return {name + "{}": one for name, one in kriging_members(kriged).items()}


def residual_member(case: Case) -> Member:
    """What kriging predicts, and what the network makes of its out-of-fold residuals."""
    section, settings = case.section, case.settings
    base = stacked(case, {name: member(case, name) for name in ("kriging", "rates")})
    rest = replace(section, expression=section.expression - base.out_of_fold)
    network = fit_network(rest, case.folds, case.mixing, settings.losses, settings.training, settings.seed)
    predicted = base.predicted + network.predict(section.features[section.unmeasured])
    return Member(base.out_of_fold + network.out_of_fold, predicted)


def ridge_member(case: Case) -> Member:
    """Out-of-fold values and predictions of ridge."""
    section, features = case.section, case.section.features
    out_of_fold = np.full(section.expression.shape, np.nan, np.float32)
    for fold in case.first_folds:
        train, held_out = section.measured[fold.train], section.measured[fold.held_out]
        out_of_fold[fold.held_out] = ridge(features, train, held_out, section.expression[fold.train])
    return Member(out_of_fold, ridge(features, section.measured, section.unmeasured, section.expression))


def change_features(case: Case, how: str) -> np.ndarray:
    """Other features made of the same embedding."""
    values, positions = np.asarray(case.section.features, np.float32), case.section.positions
    if how == "components":
        centred = (values - values.mean(0)) / np.maximum(values.std(0), 1e-3)
        u, s, _ = np.linalg.svd(centred, full_matrices=False)
        return u[:, :100] * s[:100]
    if how == "surroundings":
        near = cKDTree(positions).query(positions, 7)[1][:, 1:]
        return np.concatenate([values, values[near].mean(1)], axis=1)
    if how.startswith("scale"):
        scales = len(case.features.record["scales"])
        return np.ascontiguousarray(np.split(values, scales, axis=1)[int(how.split()[1])])
    return values


def paired(table: pd.DataFrame) -> pd.DataFrame:
    """A row per variant: differences to the default on the same section and split."""
    index = ["section", "hidden", "split"]
    wide = table.pivot_table(index=["group", "variant"], columns=["column", *index], values="ratio", sort=False)
    found = {}
    for column in COLUMNS:
        default = wide.loc[("default", DEFAULT), column]
        difference = {variant: (wide.loc[variant, column] - default).dropna() for variant in wide.index}
        p = {v: wilcoxon(d).pvalue for v, d in difference.items() if v[0] != "default" and len(d) > 1 and d.any()}
        p = dict(zip(p, false_discovery_control(list(p.values())), strict=True)) if p else {}
        for variant, values in difference.items():
            words = f"ratio {default.mean():.3f}" if variant[0] == "default" else in_words(values, p.get(variant))
            found.setdefault(variant, {"group": variant[0], "variant": variant[1]})[COLUMNS[column]] = words
    return pd.DataFrame(found.values())


def by_section(table: pd.DataFrame) -> pd.DataFrame:
    """A row per column of `COLUMNS` and variant, a column per section."""
    wide = table.pivot_table(
        index=["group", "variant"], columns=["column", "section", "split"], values="ratio", sort=False
    )
    rows = []
    for column, words in COLUMNS.items():
        default = wide.loc[("default", DEFAULT), column]
        for group, variant in wide.index:
            values = default if group == "default" else 1000 * (wide.loc[(group, variant), column] - default)
            means = values.groupby("section", sort=False).mean().rename(SECTIONS)
            form = ".3f" if group == "default" else "+.1f"
            cells = {name: f"{value:{form}}" for name, value in means.items()}
            error = "" if group == "default" or len(means) < 2 else f" ± {means.std() / np.sqrt(len(means)):.1f}"
            rows.append({"of": words, "variant": variant, **cells, "mean": f"{means.mean():{form}}{error}"})
    return pd.DataFrame(rows)


def in_words(difference: pd.Series, p: float | None) -> str:
    by_section = difference.groupby("section").mean()
    spread = f" ± {1000 * by_section.std() / np.sqrt(len(by_section)):.1f}" if len(by_section) > 1 else ""
    better = f"{(difference > 0).sum()}/{len(difference)}"
    test = "" if p is None else ", p < .001" if p < 0.001 else f", p = {p:.3f}".replace("0.", ".")
    return f"{1000 * by_section.mean():+.1f}{spread} ({better}{test})"


if __name__ == "__main__":
    main()
