"""What each choice is worth: one thing is changed at a time, on the same hidden spots of real sections.

python benchmarks/ablation.py --sections st_her2_C3 st_mob_1 visium_muscle_2dpi --seeds 0 1 2
python benchmarks/ablation.py --only mixing loss        # some groups of variants
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree
from sections import SECTIONS, add_options, load, machine, write_table

import snrmix
from snrmix.engine.baselines import ridge
from snrmix.engine.fit import Member, finer, stack_members
from snrmix.engine.kriging import krige_section
from snrmix.tl.benchmark import METHODS, Case

DEFAULT = "as it is"
METHOD_COLUMNS = {"network": "network alone", "snrmix": "stack"}
TINY = 1e-6  # in place of a weight of zero where zero would not be allowed
GROUPS = {
    "mixing": {
        "no mixing": {"mix": "none"},
        "mixup with any spot": {"mix": "mixup"},
        "10 neighbours": {"mix": snrmix.SNRMixing(k=10)},
        "20 neighbours": {"mix": snrmix.SNRMixing(k=20)},
        "50 neighbours": {"mix": snrmix.SNRMixing(k=50)},
        "bandwidth 1/2": {"mix": snrmix.SNRMixing(sigma=0.5)},
        "bandwidth 1": {"mix": snrmix.SNRMixing(sigma=1.0)},
        "alpha 0.4": {"mix": snrmix.SNRMixing(alpha=0.4)},
        "alpha 2": {"mix": snrmix.SNRMixing(alpha=2.0)},
    },
    "loss": {
        "no consistency term": {"losses": snrmix.Losses(consistency=0)},
        "no edge term": {"losses": snrmix.Losses(edge=0)},
        "no correlation term": {"losses": snrmix.Losses(correlation=0)},
        "vicinal term alone": {"losses": snrmix.Losses(consistency=0, edge=0, correlation=0)},
        "edge term of 0.5": {"losses": snrmix.Losses(edge=0.5)},
    },
    "training": {
        "1 repeat of the folds": {"n_repeats": 1},
        "3 repeats of the folds": {"n_repeats": 3},
        "10 folds": {"n_folds": 10},
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
        "network alone": {"take": "network"},
        "kriging alone": {"take": "kriging"},
        "ridge as third member": {"take": "stack with ridge"},
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_options(parser)
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), help="groups of variants")
    options = parser.parse_args()
    METHODS.setdefault("stack with ridge", stack_with_ridge)
    rows = []
    for name in options.sections:
        adata, image = load(name, options.data, options.cache)
        started = time.perf_counter()
        for group, variant, ratios in run_section(adata, image, options):
            rows += [{"section": name, "group": group, "variant": variant, **row} for row in ratios]
            seconds, started = time.perf_counter() - started, time.perf_counter()
            words = ", ".join(f"{m} {r:.4f}" for m, r in mean_ratios(ratios).items())
            print(f"{SECTIONS.get(name, name)}, {variant}: {words} ({seconds:.0f} s)", flush=True)
    table = pd.DataFrame(rows)
    options.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.out / "ablation_by_split.csv", index=False)
    title = (
        "One thing changed at a time: MSE / MSE of the mean on hidden spots (half measured), less that of the default on "
        "the same spots, in thousandths ± standard error; above 0, the default is better. In brackets the pairs of "
        "section and seed on which the default is better."
    )
    sections = ", ".join(SECTIONS.get(name, name) for name in options.sections)
    seeds = ", ".join(map(str, options.seeds))
    note = f"{sections}; seeds {seeds}; {options.genes} genes; snrmix {snrmix.__version__} on {machine()}."
    print("\n" + write_table(paired(table), options.out / "ablation", title, note))


def run_section(adata, image: dict, options) -> Iterator[tuple[str, str, list[dict]]]:
    """Group, variant and its ratios, the default first."""
    plain = ["kriging", "network", "snrmix"] + (["stack with ridge"] if "stack" in options.only else [])
    default = run(adata, plain, options, image)
    yield "default", DEFAULT, [row for row in default if row["method"] in METHOD_COLUMNS]
    for group in options.only:
        for variant, change in GROUPS[group].items():
            if "take" in change:
                taken = [row for row in default if row["method"] == change["take"]]
                yield group, variant, [{**row, "method": "snrmix"} for row in taken]
            elif "features" in change:
                features = change_features(adata, change["features"])
                yield group, variant, run(features, list(METHOD_COLUMNS), options, {"use_rep": "X_changed"})
            else:
                yield group, variant, run(adata, list(METHOD_COLUMNS), options, {**image, **change})


def run(adata, methods: list[str], options, given: dict) -> list[dict]:
    """Ratio of every method on every split."""
    splits = [{"share": 0.5, "random_state": seed} for seed in options.seeds]
    result = snrmix.tl.benchmark(adata, methods, splits=splits, genes=options.genes, **given)
    sums = result.groupby(["split", "method"], observed=True)[["mse", "mse_mean"]].sum()
    ratio = (sums["mse"] / sums["mse_mean"]).rename("ratio").reset_index()
    return ratio.astype({"split": str, "method": str}).to_dict("records")


def stack_with_ridge(case: Case) -> np.ndarray:
    """The stack of network, kriging and ridge on the same features."""
    section, first, network = case.section, case.first_folds, case.fit.network
    kriged = krige_section(section, finer(first, len(section.measured)), case.settings.device)
    scored = np.sort(np.concatenate([fold.held_out for fold in first]))
    members = {
        "network": Member(network.out_of_fold, network.predict(section.features[section.unmeasured])),
        "kriging": Member(kriged.out_of_fold, kriged.predicted),
        "ridge": ridge_member(case),
    }
    return case.at_hidden(stack_members(section, first, scored, members)[2])


def ridge_member(case: Case) -> Member:
    """Out-of-fold values and predictions of ridge."""
    section, features = case.section, case.section.features
    out_of_fold = np.full(section.expression.shape, np.nan, np.float32)
    for fold in case.first_folds:
        train, held_out = section.measured[fold.train], section.measured[fold.held_out]
        out_of_fold[fold.held_out] = ridge(features, train, held_out, section.expression[fold.train])
    return Member(out_of_fold, ridge(features, section.measured, section.unmeasured, section.expression))


def change_features(adata, how: str):
    """A copy with other features made of the same embedding, in ``obsm["X_changed"]``."""
    values, scales = np.asarray(adata.obsm["X_histology"], np.float32), len(adata.uns["X_histology"]["scales"])
    if how == "components":
        centred = (values - values.mean(0)) / np.maximum(values.std(0), 1e-3)
        u, s, _ = np.linalg.svd(centred, full_matrices=False)
        values = u[:, :100] * s[:100]
    elif how == "surroundings":
        near = cKDTree(adata.obsm["spatial"]).query(adata.obsm["spatial"], 7)[1][:, 1:]
        values = np.concatenate([values, values[near].mean(1)], axis=1)
    elif how.startswith("scale"):
        values = np.split(values, scales, axis=1)[int(how.split()[1])]
    changed = adata.copy()
    changed.obsm["X_changed"] = values
    return changed


def mean_ratios(rows: list[dict]) -> dict[str, float]:
    return pd.DataFrame(rows).groupby("method", sort=False)["ratio"].mean().to_dict()


def paired(table: pd.DataFrame) -> pd.DataFrame:
    """A row per variant: differences to the default on the same section and split."""
    wide = table.pivot_table(
        index=["group", "variant"], columns=["method", "section", "split"], values="ratio", sort=False
    )
    rows = []
    for group, variant in wide.index:
        row = {"group": group, "variant": variant}
        for method, column in METHOD_COLUMNS.items():
            default = wide.loc[("default", DEFAULT), method]
            row[column] = in_words(wide.loc[(group, variant), method], default, variant == DEFAULT)
        rows.append(row)
    return pd.DataFrame(rows)


def in_words(ratio: pd.Series, default: pd.Series, is_default: bool) -> str:
    if is_default:
        return f"ratio {default.mean():.3f}"
    difference = (ratio - default).dropna()
    if not len(difference):
        return ""
    error = difference.std() / np.sqrt(len(difference)) if len(difference) > 1 else np.nan
    better = f"{(difference > 0).sum()}/{len(difference)}"
    spread = "" if np.isnan(error) else f" ± {1000 * error:.1f}"
    return f"{1000 * difference.mean():+.1f}{spread} ({better})"


if __name__ == "__main__":
    main()
