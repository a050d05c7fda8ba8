"""What fine-tuning is worth: frozen and fine-tuned networks on the same patches and the same hidden spots.

Half of the spots are measured; 4 of 5 of those train, the others choose the epoch (--folds for more than one split). On a
CPU core a section takes some minutes to an hour:

python benchmarks/finetuning.py --sections st_mob_1 --seeds 0 1 --size 64 --set max_epochs=15
python benchmarks/finetuning.py --only frozen "all, snr" --set learning_rate=3e-5
"""

from __future__ import annotations

import argparse
import ast
import time
from dataclasses import replace

import numpy as np
import pandas as pd
from sections import SECTIONS, add_options, load, machine, write_table

import snrmix
from snrmix.data.expression import read_expression
from snrmix.data.sites import patch_sides
from snrmix.engine.finetune.fit import fit_finetuned
from snrmix.engine.losses import Losses
from snrmix.engine.mix import resolve_mixing
from snrmix.engine.network.crossfit import fit_network
from snrmix.engine.options import Finetuning, Training
from snrmix.engine.scores.metrics import pearson
from snrmix.images import Encoder, resolve_encoder
from snrmix.plan.features import read_features
from snrmix.plan.options import read_options
from snrmix.plan.parts import plan_model, run_of
from snrmix.plan.patches import read_patches
from snrmix.plan.source import read_source

FROZEN = "frozen"
VARIANTS = [
    (FROZEN, "none"), (FROZEN, "snr"), ("last", "none"), ("last", "snr"), ("all", "none"), ("all", "snr"),
    ("all", "mixup"), ("all", "cutmix"),
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_options(parser, sections=["st_mob_1"], seeds=[0])
    parser.add_argument("--only", nargs="+", default=["frozen", "last", "all"], help='such as frozen, or "all, snr"')
    parser.add_argument("--size", type=int, default=96, help="side of the patches in pixels")
    parser.add_argument("--scales", nargs="+", type=float, default=[2.3], help="sides of the patches in pitches")
    parser.add_argument("--folds", type=int, default=1, help="1: one split of the measured spots")
    parser.add_argument("--set", nargs="+", default=[], metavar="OPTION=VALUE", help="of snrmix.Finetuning")
    options = parser.parse_args()
    given = dict(pair.split("=", 1) for pair in options.set)
    training = Finetuning(**{"progress": False, **{name: _value(text) for name, text in given.items()}})
    rows = []
    for name in options.sections:
        for seed in options.seeds:
            rows += list(run(name, seed, training, options))
    title = (
        "Fine-tuning: Error as a share of the mean's and mean Pearson correlation per gene on hidden spots (half measured), of "
        "networks that see the same patches at the same scale. Mean over seeds; seconds of one."
    )
    settings = ", ".join(f"{name} {value}" for name, value in given.items()) or "default options"
    note = (
        f"Patches of {', '.join(map(str, options.scales))} pitches at {options.size} px; {options.folds} split(s); seeds "
        f"{', '.join(map(str, options.seeds))}; {options.genes} genes; {settings}; snrmix {snrmix.__version__} on {machine()}."
    )
    table = pd.DataFrame(rows).drop(columns="seed").groupby(["section", "trained", "mix"], sort=False).mean()
    print("\n" + write_table(table.reset_index(), options.out / "finetuning", title, note, decimals=4))


def run(name: str, seed: int, training: Finetuning, options):
    """A row per variant of one section and one draw of hidden spots."""
    adata, given = load(name, options.data, cache=None)
    snrmix.pp.hold_out(adata, share=0.5, random_state=seed, key_added="measured")
    adata = adata[adata.obs["measured"] | adata.obs["measured_held_out"]].copy()
    encoder = resolve_encoder("efficientnet_lite0")
    checked = read_options(
        encoder=Encoder(encoder.name, encoder.function, options.size), scales=options.scales, n_folds=options.folds,
        random_state=seed, accelerator=training.accelerator,
    )  # fmt: skip
    source = read_source(adata, measured="measured", genes=options.genes, need_features=True, **given)
    prepared = plan_model(source, checked, range(len(source.sites.libraries)))
    section = prepared.section(read_features(source, checked, run_of(source, checked, [prepared])))
    folds, sites = prepared.folds, source.located.open()
    patches = read_patches(sites, patch_sides(sites, options.scales), options.size)
    truth = hidden_expression(adata, prepared)
    error_of_mean = np.mean((truth - section.expression.mean(0)) ** 2)
    for part, mix in VARIANTS:
        if not {part, f"{part}, {mix}"} & set(options.only):
            continue
        started = time.perf_counter()
        if part == FROZEN:
            frozen = Training(progress=False, accelerator=training.accelerator)
            fitted = fit_network(section, folds, resolve_mixing(mix), Losses(), frozen, seed)
            predicted = fitted.predict(section.features[section.unmeasured])
        else:
            chosen = replace(training, part=part)
            fitted = fit_finetuned(
                section, patches, folds, encoder.function, resolve_mixing(mix), Losses(), chosen, seed
            )
            predicted = fitted.predict(patches[section.unmeasured])
        row = {
            "section": SECTIONS.get(name, name),
            "seed": seed,
            "trained": part,
            "mix": mix,
            "ratio": float(np.mean((predicted - truth) ** 2) / error_of_mean),
            "pearson": float(np.nanmean(pearson(truth, predicted))),
            "epoch": float(np.mean(fitted.history["best_epoch"])),
            "seconds": time.perf_counter() - started,
        }
        print(", ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{v}" for k, v in row.items()), flush=True)
        print("  ", np.round(np.nanmean(fitted.history["validation_mse"], 0), 4).tolist(), flush=True)
        yield row


def hidden_expression(adata, prepared) -> np.ndarray:
    """Expression of the hidden spots in the units of the section, (hidden, genes)."""
    genes, everywhere = list(adata.var_names[prepared.expression.columns]), np.ones(len(prepared.sites), bool)
    expression = read_expression(adata, prepared.sites, everywhere, layer=None, units="auto", genes=genes)
    return expression.values[~prepared.is_measured]


def _value(text: str):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


if __name__ == "__main__":
    main()
