"""Several slides in one object: a model of each, a shared one and both weighed, and slides that have an image alone.

python benchmarks/several_slides.py --seeds 0 1 2
python benchmarks/several_slides.py --groups mine=section_1,section_2,section_3
"""

from __future__ import annotations

import argparse
from functools import reduce

import anndata
import numpy as np
import pandas as pd
from sections import SECTIONS, add_options, embed, load, machine, write_table

import snrmix

GROUPS = {
    "MOB": ("st_mob_1", "st_mob_2"),
    "HER2 C": ("st_her2_C2", "st_her2_C3"),
    "HER2": ("st_her2_B4", "st_her2_C2", "st_her2_C3"),
}
UNRELATED = {
    "MOB-1 and muscle": ("st_mob_1", "visium_muscle_2dpi"),
    "HER2 B4 and CRC": ("st_her2_B4", "visium_crc"),
}
WAYS = {"own": False, "shared": True, "auto": "auto"}
HIDDEN = (0.5, 0.8)


def main() -> None:
    """Measure every group, and write two tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_options(parser)
    parser.add_argument("--groups", nargs="+", help="names=section,section,... (default: sister sections)")
    options = parser.parse_args()
    groups = GROUPS | UNRELATED
    if options.groups:
        groups = {name: tuple(members.split(",")) for name, members in (g.split("=") for g in options.groups)}
    shared, alone = [], []
    for name, members in groups.items():
        slides = load_group(members, options)
        for share in HIDDEN:
            shared.append({"slides": name, "hidden": f"{share:.0%}", **compare(slides, share, options)})
            print(shared[-1], flush=True)
        for slide in slides.obs["library_id"].unique() if name not in UNRELATED else ():
            alone.append({"slides": name, **predict(slides, slide, options)})
            print(alone[-1], flush=True)
    seeds = ", ".join(map(str, options.seeds))
    note = f"{options.genes} genes of highest mean on measured spots; snrmix {snrmix.__version__} on {machine()}."
    title = (
        "A model of each slide, a shared one, or both weighed: error as a share of the slide mean's on hidden spots; shared less own, "
        "and weighed less the best of the two, on the same spots ± standard error over seeds; below 0 is better."
    )
    print("\n" + write_table(pd.DataFrame(shared), options.out / "several_slides", title, f"Seeds {seeds}; {note}"))
    title = (
        "Slides that have an image alone: what was claimed from the measured slides, and what is true on the slide. With "
        "one measured slide, the claim comes from regions of that slide."
    )
    print("\n" + write_table(pd.DataFrame(alone), options.out / "image_alone", title, note))


def load_group(members, options) -> anndata.AnnData:
    """Sections in one object, embedded, with the genes they have in common."""
    sections = {}
    for member in members:
        section = load(member, options.data, None)[0]
        name = SECTIONS.get(member, member)
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
    slides = anndata.concat(sections, label="library_id", uns_merge="unique")
    embed(slides, {}, options.cache / f"{'+'.join(members)}.h5ad")
    return slides


def compare(slides, share: float, options) -> dict:
    """Errors of own, shared and weighed models on the same hidden spots."""
    splits = [{"share": share, "random_state": seed} for seed in options.seeds]
    ratio = {}
    for name, together in WAYS.items():
        result = snrmix.tl.benchmark(slides, ["snrmix"], splits=splits, genes=options.genes, share=together)
        sums = result.groupby("split", observed=True)[["mse", "mse_mean"]].sum()
        ratio[name] = (sums["mse"] / sums["mse_mean"]).to_numpy()
    best = min(("own", "shared"), key=lambda name: ratio[name].mean())
    differences = {
        "shared less own": in_words(ratio["shared"] - ratio["own"]),
        "auto less best": in_words(ratio["auto"] - ratio[best]),
    }
    return {name: values.mean() for name, values in ratio.items()} | differences


def in_words(difference: np.ndarray) -> str:
    """Mean over seeds ± its standard error."""
    error = f" ± {difference.std(ddof=1) / np.sqrt(len(difference)):.3f}" if len(difference) > 1 else ""
    return f"{difference.mean():+.3f}{error}"


def predict(slides, slide: str, options) -> dict:
    """Claimed and true scores of a slide without measured spots."""
    hidden = (slides.obs["library_id"] == slide).to_numpy()
    result = snrmix.tl.impute(slides, measured=~hidden, genes=options.genes, copy=True)
    record = result.uns["snrmix"]["libraries"][slide]
    true = snrmix.tl.evaluate(result, hidden).attrs["overall"]
    claimed = record["scores"].loc["snrmix"]
    return {
        "without measured spots": slide,
        "scored by": record["kind"],
        "MSE ratio claimed": claimed["mse_ratio"],
        "true": true["mse_ratio"],
        "Pearson claimed": claimed["pearson"],
        "true Pearson": true["pearson_mean"],
        "90 % intervals hold": snrmix.tl.coverage(result, hidden, levels=[0.9])["observed"][0],
    }


if __name__ == "__main__":
    main()
