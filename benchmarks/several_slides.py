"""Several slides in one object: a model of each, a shared one and both weighed, and slides that have an image alone.

python benchmarks/several_slides.py --seeds 0 1 2
python benchmarks/several_slides.py --groups mine=section_1,section_2,section_3
"""

from __future__ import annotations

import argparse
import gc
from functools import reduce

import anndata
import numpy as np
import pandas as pd
from sections import SECTIONS, add_options, embed, load, machine, write_table

import snrmix
from snrmix.engine.fit import settle_folds
from snrmix.engine.folds import fold_numbers
from snrmix.engine.sharing import weigh_sharing
from snrmix.plan.features import read_features
from snrmix.plan.options import read_options
from snrmix.plan.parts import Part, plan_models, run_of
from snrmix.plan.sharing import shared_of
from snrmix.plan.source import read_source

GROUPS = {
    "MOB": ("st_mob_1", "st_mob_2"),
    "HER2 C": ("st_her2_C2", "st_her2_C3"),
    "HER2": ("st_her2_B4", "st_her2_C2", "st_her2_C3"),
}
UNRELATED = {
    "HER2 B4 and CRC": ("st_her2_B4", "visium_crc"),
    "MOB-1 and muscle": ("st_mob_1", "visium_muscle_2dpi"),
    "synthetic": ("synthetic_0", "synthetic_1"),
}
PATIENTS = {"HER2 B4": "B", "HER2 C2": "C", "HER2 C3": "C", "CRC": "of another study"}
HIDDEN = (0.5, 0.8, 0.9)


def main() -> None:
    """Measure every group, and write two tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_options(parser)
    parser.add_argument("--groups", nargs="+", help="names, or name=section,section,... (default: all)")
    parser.add_argument("--hidden", nargs="+", type=float, default=list(HIDDEN), help="shares of the spots")
    parser.add_argument("--most", type=int, default=1000, help="spots of a section; more are cut to a random part")
    parser.add_argument("--tables", nargs="+", default=["several_slides", "image_alone"])
    options = parser.parse_args()
    groups = GROUPS | UNRELATED
    if options.groups:
        asked = (group.partition("=") for group in options.groups)
        groups = {name: tuple(members.split(",")) if members else groups[name] for name, _, members in asked}
    rows = {name: [] for name in options.tables}
    for name, members in groups.items():
        slides, images = load_group(members, options)
        if "several_slides" in rows:
            for share in options.hidden:
                rows["several_slides"] += compare(name, slides, images, share, options)
        if "image_alone" in rows:
            for slide in slides.obs["library_id"].unique():
                rows["image_alone"] += predict(name, slides, images, slide, options)
    seeds = ", ".join(map(str, options.seeds))
    note = f"{options.genes} genes of highest mean on measured spots; sections of more than {options.most} spots are a random "
    note += f"part of so many; snrmix {snrmix.__version__} on {machine()}."
    titles = {
        "several_slides": "A model of each slide, a shared one, or both weighed: error as a share of the slide mean's on hidden "
        "spots; the last column compares with the best of own, shared and their plain mean on the same spots, ± standard error "
        "over seeds; below 0 is better.",
        "image_alone": "Slides that have an image alone: what was claimed from the measured slides, and what is true on the "
        "slide: error as a share of that of the mean of the measured slides, Pearson correlation per gene within the slide, and "
        "how many values 90 % intervals hold. With one measured slide, the claim comes from regions of that slide.",
    }
    notes = {"several_slides": f"Seeds {seeds}; {note}", "image_alone": note}
    for table, found in rows.items():
        print("\n" + write_table(pd.DataFrame(found), options.out / table, titles[table], notes[table]))


def load_group(members, options) -> tuple[anndata.AnnData, dict]:
    """Sections in one object, embedded, with the genes they have in common, and their full-resolution images."""
    sections, images = {}, {}
    for member in members:
        name = SECTIONS.get(member, member)
        section, given = grow(member) if member.startswith("synthetic") else load(member, options.data, None)
        if section.n_obs > options.most:
            section = section[np.sort(np.random.default_rng(0).permutation(section.n_obs)[: options.most])].copy()
        if given:
            images[name] = given["image"]
        (entry,) = section.uns["spatial"].values()
        section.uns = {"spatial": {name: entry}}
        section.obs_names = f"{name}-" + section.obs_names
        section.obs = section.obs[[c for c in ("array_row", "array_col") if c in section.obs]]
        sections[name] = section
    if not reduce(pd.Index.intersection, (section.var_names for section in sections.values())).size:
        for section in sections.values():  # named by symbol in one, and by identifier in another
            names = section.var["gene_ids"] if "gene_ids" in section.var else section.var_names
            section.var_names = pd.Index(names).str.partition(".").get_level_values(0)
            section.var_names_make_unique()
    slides, given = (
        anndata.concat(sections, label="library_id", uns_merge="unique"),
        {"image": images} if images else {},
    )
    embed(slides, given, options.cache / f"{'+'.join(members)}.h5ad")
    return slides, given


def grow(name: str) -> tuple[anndata.AnnData, dict]:
    """A synthetic tissue whose genes have programmes of their own, under names that all such tissues share."""
    tissue = snrmix.datasets.synthetic_tissue(20, 250, image_px_per_pitch=32, random_state=int(name.partition("_")[2]))
    tissue.var_names = [f"gene_{i}" for i in range(tissue.n_vars)]
    return tissue, {}


def compare(name: str, slides, images: dict, share: float, options) -> list[dict]:
    """Errors of own, shared and weighed models on the same hidden spots, for every slide."""
    found: dict[str, list] = {}
    for seed in options.seeds:
        slides.obs = slides.obs[[c for c in slides.obs if not c.startswith("kept")]]
        snrmix.pp.hold_out(slides, share=share, random_state=seed, key_added="kept")
        checked = read_options(share="auto", random_state=0)
        source = read_source(slides, measured="kept", genes=options.genes, **images)
        parts = plan_models(source, checked)
        features = read_features(source, checked, run_of(source, checked, parts))
        partner = parts[0].partner
        if partner is None:  # fewer than 20 measured spots on all slides but one: there is nothing to weigh
            continue
        shared = partner.stack(features, partner.settings(checked))
        for part in parts:
            if part.kind == "own":
                found.setdefault(part.name, []).append(errors(part, slides, features, shared, checked))
        gc.collect()
    rows = []
    for slide, ratios in found.items():
        ratios = pd.DataFrame(ratios)
        best = ratios[["own", "shared", "plain mean"]].mean().idxmin()
        against = in_words((ratios["auto"] - ratios[best]).to_numpy())
        rows.append(
            {"slides": name, "slide": slide, "hidden": f"{share:.0%}", **ratios.mean(), "auto less best": against}
        )
        print(rows[-1], flush=True)
    return rows


def errors(part: Part, slides, features, shared, checked) -> dict[str, float]:
    """MSE ratios of one slide: its own model, that of all, their plain mean, and what ``share="auto"`` makes of them."""
    own, of_all = part.stack(features, part.settings(checked)), shared_of(part, shared)
    first, _, scored = settle_folds(part.folds, len(part.measured))
    fold = fold_numbers(first, len(own.out_of_fold))[scored]
    sharing = weigh_sharing(part.expression.values[scored], own.out_of_fold[scored], of_all.out_of_fold[scored], fold)
    values = {"own": own.predicted, "shared": of_all.predicted, "plain mean": (own.predicted + of_all.predicted) / 2}
    values["auto"] = sharing.take(scored, own, of_all)[1]
    observed = observed_values(slides, part)
    return {name: mean_ratio(part, observed, value) for name, value in values.items()}


def observed_values(slides, part: Part) -> np.ndarray:
    """What was hidden of the genes of a model, (unmeasured, genes)."""
    counts = slides.X[part.sites.order[~part.is_measured]].toarray()
    return np.log1p(1e4 * counts / counts.sum(1, keepdims=True))[:, part.expression.columns]


def mean_ratio(part: Part, observed: np.ndarray, predicted: np.ndarray) -> float:
    """Squared error at hidden spots as a share of that of the mean of their slide's measured spots, or of all without any."""
    sites, means = part.sites.library, np.empty_like(observed)
    for code in np.unique(sites):
        own = sites[part.measured] == code
        means[sites[~part.is_measured] == code] = part.expression.values[own if own.any() else slice(None)].mean(0)
    return float(((observed - predicted) ** 2).sum() / ((observed - means) ** 2).sum())


def in_words(difference: np.ndarray) -> str:
    """Mean over seeds ± its standard error."""
    error = f" ± {difference.std(ddof=1) / np.sqrt(len(difference)):.4f}" if len(difference) > 1 else ""
    return f"{difference.mean():+.4f}{error}"


def predict(name: str, slides, images: dict, slide: str, options) -> list[dict]:
    """Claimed and true scores of a slide without measured spots, without and with the patients where these are known."""
    hidden = (slides.obs["library_id"] == slide).to_numpy()
    ways = [{}]
    patients = slides.obs["library_id"].astype(str).map(PATIENTS)
    if patients.notna().all() and patients[~hidden].nunique() > 1:
        slides.obs["patient"] = patients
        ways.append({"group_key": "patient"})
    rows = []
    for way in ways:
        result = snrmix.tl.impute(slides, measured=~hidden, genes=options.genes, copy=True, **images, **way)
        record = result.uns["snrmix"]["libraries"][slide]
        true = snrmix.tl.evaluate(result, hidden).attrs["overall"]
        claimed = record["scores"].loc["snrmix"]
        rows.append({
            "slides": name,
            "without measured spots": slide,
            "scored by": record["kind"],
            "MSE ratio claimed": claimed["mse_ratio"],
            "true": true["mse_ratio"],
            "Pearson claimed": claimed["pearson"],
            "true Pearson": true["pearson_mean"],
            "90 % intervals hold": snrmix.tl.coverage(result, hidden, levels=[0.9])["observed"][0],
        })  # fmt: skip
        print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    main()
