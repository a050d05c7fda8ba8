"""Whether what a result says of itself holds: every claim against known truth, with its target.

Real sections have genes of constant share and genes of noise put in, see `simulations.with_known_genes`; the rest is
simulated. `claims_statistics.py` is the same for tests, variances and clusters on draws.

python benchmarks/claims.py                          # all parts; minutes for simulations, longer for the sections
python benchmarks/claims.py --parts folds few half   # some of them; a table keeps the rows of the other parts
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd
from sections import SECTIONS, add_options, load, machine, write_table
from simulations import counted, field, grid, rates, section, with_known_genes

import snrmix
from snrmix._log import logger
from snrmix.engine.depth import constant_share_at
from snrmix.engine.folds import held_out_distance, make_folds
from snrmix.engine.neighbours import distance_to_measured
from snrmix.engine.scores.metrics import pearson

QUICK = {"use_rep": "features", "max_epochs": 2, "hidden": 16, "accelerator": "cpu"}
CONSTANT, NOISE, PERMUTED = 150, 50, 50
LEVEL = 0.9
COLUMNS = ("claim", "data", "quantity", "measured", "target", "met", "seeds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_options(parser, sections=("visium_muscle_2dpi", "visium_crc"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="which claims")
    parser.add_argument("--simulations", type=int, default=10, help="number of simulated sections of a kind")
    parser.set_defaults(genes=400)
    options = parser.parse_args()
    logger.setLevel("ERROR")  # warnings are right here, and many
    stored = options.out / "claims.csv"
    known = pd.read_csv(stored, dtype=str, keep_default_na=False) if stored.exists() else pd.DataFrame(columns=["part"])
    for part in options.parts:
        started = time.perf_counter()
        found = pd.DataFrame(PARTS[part](options), columns=COLUMNS)
        found.insert(0, "part", part)
        print(f"\n{part} ({time.perf_counter() - started:.0f} s)\n{found.to_string(index=False)}", flush=True)
        same = known["part"].eq(part)
        if "data" in known and part in ("sections", "shallow sections"):
            same &= known["data"].isin(found["data"])
        known = pd.concat([known[~same], found], ignore_index=True)
        known = known.sort_values("part", key=lambda names: names.map(list(PARTS).index), kind="stable")
        options.out.mkdir(parents=True, exist_ok=True)
        caption = (
            "What results say of themselves, against known truth: genes of constant share have Poisson counts of the same "
            "share of all counts at every spot, noise genes have shares that scatter and follow nothing, permuted genes the log "
            "values of other spots."
        )
        note = (
            f"Targets are met or not by the mean over seeds; ranges are in brackets. snrmix {snrmix.__version__} on {machine()}; the "
            "program is `benchmarks/claims.py`."
        )
        write_table(known.drop(columns="part"), options.out / "claims", caption, note)
        known.to_csv(stored, index=False)


def row(claim: str, data: str, quantity: str, value, target: str, met: bool | None, seeds) -> tuple:
    """A line of the table; without a target nothing can be met."""
    value = value if isinstance(value, str) else number(value)
    return claim, data, quantity, value, target, "" if met is None else "yes" if met else "no", seeds


def number(value: float) -> str:
    return f"{value:.3f}"


def spread(values) -> str:
    """Mean over seeds, and the range."""
    return f"{np.mean(values):.3f} ({np.min(values):.3f} to {np.max(values):.3f})"


def named(seeds) -> str:
    return f"{min(seeds)}-{max(seeds)}" if len(seeds) > 1 else str(seeds[0])


# Depth, typical depth and reliable genes on real sections


def sections(options) -> list[tuple]:
    """Every spot measured, a bare call: a denoised layer at a typical depth."""
    return [line for name in options.sections for line in one_section(name, options)]


def one_section(name: str, options) -> list[tuple]:
    found = []
    for seed in options.seeds:
        adata, image = load(name, options.data, options.cache)
        adata = with_known_genes(adata, options.genes, CONSTANT, NOISE, PERMUTED, seed)
        genes = adata.var_names[adata.var["kind"] != ""].tolist()
        snrmix.tl.impute(adata, genes=genes, random_state=seed, **image)
        found.append(section_figures(adata))
        print(name, seed, found[-1], flush=True)
    mean = pd.DataFrame(found).mean()
    told, maps, typical = "depth told apart", "reliable genes", "typical depth"
    where, seeds = SECTIONS.get(name, name), named(options.seeds)
    near, below = abs(mean["constant given depth"]) < 0.05, mean["pattern of constant share"] < 0.15
    kept = mean["real beyond depth, typical"] > 0.95 * mean["real beyond depth, spot"]
    lines = [
        (told, "Pearson of constant-share genes (median)", mean["constant"], "", None),
        (told, "Pearson of constant-share genes given depth (median)", mean["constant given depth"], "about 0", near),
        (told, "Pearson of real genes (median)", mean["real"], "", None),
        (told, "Pearson of real genes given depth (median)", mean["real given depth"], "", None),
        (told, "MSE ratio of snrmix / of depth alone", f"{mean['ours']:.3f} / {mean['depth']:.3f}", "", None),
        (told, "share of the error's fall that is depth", mean["fall"], "", None),
        (maps, "constant-share genes reliable", mean["reliable constant"], "at most .05", mean["reliable constant"] <= 0.05),
        (maps, "noise genes reliable", mean["reliable noise"], "at most .05", mean["reliable noise"] <= 0.05),
        (maps, "permuted genes reliable", mean["reliable permuted"], "at most .05", mean["reliable permuted"] <= 0.05),
        (maps, "real genes reliable", mean["reliable real"], "", None),
        (maps, "real genes that beat all baselines", mean["beats real"], "", None),
        (typical, "spread times correlation with log depth, constant share / real", mean["pattern of constant share"], "under .15", below),
        (typical, "spread alone, constant share / real", mean["spread of constant share"], "", None),
        (typical, "real genes: Pearson with what is seen beyond depth, typical / spot", f"{mean['real beyond depth, typical']:.3f} / {mean['real beyond depth, spot']:.3f}", "as good", kept),
    ]  # fmt: skip
    return [row(claim, where, *rest, seeds) for claim, *rest in lines]


def section_figures(adata) -> dict[str, float]:
    """Figures of one result."""
    named_genes = adata.var["kind"].ne("") & adata.var["snrmix_modelled"]
    adata = adata[adata.obs["counts"].to_numpy() > 0, named_genes.to_numpy()]  # a spot without counts is not observed
    var, depth, scores = adata.var, adata.obs["counts"].to_numpy(), adata.uns["snrmix"]["scores"]["mse_ratio"]
    layer, kind = np.asarray(adata.layers["snrmix"]), var["kind"]
    along = np.broadcast_to(np.log(depth)[:, None], layer.shape)
    pattern = layer.std(0) * np.abs(pearson(along, layer))
    counts = adata.X.toarray()
    observed, alone = np.log1p(1e4 * counts / depth[:, None]), np.zeros(len(depth), int)
    beyond = pearson(observed - constant_share_at(observed, depth, alone, alone, depth), layer)
    median = {k: var[kind == k].median(numeric_only=True) for k in ("constant", "real")}
    share = {k: var.loc[kind == k, ["snrmix_reliable", "snrmix_beats_baselines"]].mean() for k in kind.unique()}
    return {
        "constant": median["constant"]["snrmix_pearson"],
        "constant given depth": median["constant"]["snrmix_pearson_given_depth"],
        "real": median["real"]["snrmix_pearson"],
        "real given depth": median["real"]["snrmix_pearson_given_depth"],
        "ours": scores["snrmix"],
        "depth": scores["depth"],
        "fall": (1 - scores["depth"]) / (1 - scores["snrmix"]),
        "reliable constant": share["constant"]["snrmix_reliable"],
        "reliable noise": share["noise"]["snrmix_reliable"],
        "reliable permuted": share["permuted"]["snrmix_reliable"],
        "reliable real": share["real"]["snrmix_reliable"],
        "beats real": share["real"]["snrmix_beats_baselines"],
        "pattern of constant share": np.median(pattern[kind == "constant"]) / np.median(pattern[kind == "real"]),
        "spread of constant share": np.median(layer.std(0)[kind == "constant"])
        / np.median(layer.std(0)[kind == "real"]),
        "real beyond depth, typical": np.median(beyond[kind == "real"]),
        "real beyond depth, spot": median["real"]["snrmix_pearson_given_depth"],
    }


# Reliable genes and typical depth in simulation


def simulated(options) -> list[tuple]:
    """200 of 400 spots measured; genes follow space alone, looks alone, depth alone, or nothing."""
    lines, seeds = [], range(options.simulations)
    for words, settings in (("deep", {"depth": 4000, "spread": 0.6}), ("shallow", {})):
        found = pd.DataFrame([simulated_figures(seed, settings) for seed in seeds])
        where = f"simulated, 200 spots, {words}"
        for kind in ("space", "image"):
            share = found[f"{kind} told"].sum() / found[f"{kind} good"].sum()
            quantity = f"reliable of genes that only {kind} tells, true Pearson over .4"
            lines.append(row("reliable genes", where, quantity, share, "at least 2/3", share >= 2 / 3, named(seeds)))
        for kind in ("constant", "noise"):
            share, quantity = found[kind].mean(), f"{kind.replace('constant', 'constant-share')} genes reliable"
            lines.append(row("reliable genes", where, quantity, share, "at most .05", share <= 0.05, named(seeds)))
        share = found["given depth"].mean()
        lines.append(row("depth told apart", where, "Pearson of constant-share genes given depth (median)", share, "about 0", abs(share) < 0.05, named(seeds)))  # fmt: skip
        share = found["pattern"].mean()
        lines.append(row("typical depth", where, "spread times correlation with log depth, constant share / space and image", share, "under .15", share < 0.15, named(seeds)))  # fmt: skip
        lines.append(row("typical depth", where, "Pearson with the true log share, space and image, typical / spot", f"{found['typical'].mean():.3f} / {found['spot'].mean():.3f}", "as good", found["typical"].mean() > found["spot"].mean() - 0.01, named(seeds)))  # fmt: skip
    return lines


def simulated_figures(seed: int, settings: dict) -> dict[str, float]:
    adata = section(seed, **settings)
    adata.obs["measured"] = np.random.default_rng(100 + seed).permutation(adata.n_obs) < 200
    snrmix.tl.impute(adata, measured="measured", random_state=seed, **QUICK)
    snrmix.tl.impute(adata, measured="measured", at_depth="typical", key_added="typical", random_state=seed, **QUICK)
    hidden, kind = ~adata.obs["measured"].to_numpy(), adata.var["kind"].to_numpy()
    true = snrmix.tl.evaluate(adata, hidden)["pearson"].reindex(adata.var_names).to_numpy()
    reliable = adata.var["snrmix_reliable"].to_numpy()
    log_share, follow = np.log(adata.layers["share"][hidden]), np.isin(kind, ["space", "image"])
    layers = {key: np.asarray(adata.layers[key])[hidden] for key in ("snrmix", "typical")}
    along = np.broadcast_to(np.log(adata.obs["counts"].to_numpy()[hidden])[:, None], log_share.shape)
    pattern = layers["typical"].std(0) * np.abs(pearson(along, layers["typical"]))
    found = {name: reliable[kind == name].mean() for name in ("constant", "noise")}
    for name in ("space", "image"):
        good = (kind == name) & (true > 0.4)
        found |= {f"{name} good": good.sum(), f"{name} told": reliable[good].sum()}
    return found | {
        "given depth": adata.var.loc[kind == "constant", "snrmix_pearson_given_depth"].median(),
        "pattern": np.median(pattern[kind == "constant"]) / np.median(pattern[follow]),
        "typical": np.median(pearson(log_share, layers["typical"])[follow]),
        "spot": np.median(pearson(log_share, layers["snrmix"])[follow]),
    }


# Folds, and a section of which half is missing


def layouts() -> dict[str, np.ndarray]:
    """Which spots of a 20 x 20 grid are measured."""
    rng, xy = np.random.default_rng(0), grid(20)
    x, y = xy.T
    depth = field(rng, xy, 1, 5.0)[:, 0]
    return {
        "half": x < 10,
        "a side": x < 15,
        "an arm": ~((x > 8) & (y > 13)),
        "a hole": np.hypot(x - 9.5, y - 9.5) > 5,
        "scattered": rng.random(len(xy)) < 0.5,
        "shallow ones": depth > np.quantile(depth, 0.4),
    }


def folds(options) -> list[tuple]:
    """Distances of held-out spots against those of the missing part, and whether a seed changes the choice."""
    lines, seeds, library = [], range(options.simulations), np.zeros(400, int)
    for name, is_measured in layouts().items():
        measured, kinds, means = np.flatnonzero(is_measured), set(), []
        wanted = distance_to_measured(grid(20), library, measured).mean()
        for seed in seeds:
            made = make_folds(grid(20), library, measured, 5, 1, np.random.default_rng(seed))
            number = np.empty(len(measured), int)
            for k, fold in enumerate(made):
                number[fold.held_out] = k
            kinds.add(tuple(number) if made[0].compact else "random")
            means.append(held_out_distance(grid(20)[measured], library[measured], number).mean())
        words = f"mean distance to the nearest spot, missing {wanted:.2f}, held out"
        kind = "random" if kinds == {"random"} else "compact"
        lines.append(row("folds like the missing part", name, f"{words} ({kind} folds)", np.mean(means), "the same choice with every seed", len(kinds) == 1, named(seeds)))  # fmt: skip
    return lines


def half(options) -> list[tuple]:
    """One side of a 20 x 20 grid is missing."""
    lines, seeds = [], range(options.simulations)
    for keep in (14, 10, 6):
        claimed, true, covered = [], [], []
        for seed in seeds:
            adata = section(seed, genes=8, length=2.0, depth=4000, spread=0.6)
            del adata.obsm["features"]
            adata.obs["measured"] = adata.obs["column"] < keep
            snrmix.tl.impute(adata, measured="measured", random_state=seed)
            away = ~adata.obs["measured"].to_numpy()
            true.append(snrmix.tl.evaluate(adata, away).attrs["overall"]["mse_ratio"])
            claimed.append(adata.uns["snrmix"]["scores"]["mse_ratio"]["snrmix"])
            covered.append(coverage(adata, away))
        where = f"simulated, {5 * keep} % measured"
        gaps = np.subtract(claimed, true)
        gap, held, near = np.mean(gaps), np.mean(covered), np.mean(np.abs(gaps) <= 0.05)
        lines.append(row("a side is missing", where, "MSE ratio claimed less true", spread(gaps), "within .05", abs(gap) <= 0.05, named(seeds)))  # fmt: skip
        lines.append(row("a side is missing", where, "the same without its sign; share of seeds within .05", f"{np.mean(np.abs(gaps)):.3f}; {near:.1f}", "", None, named(seeds)))  # fmt: skip
        lines.append(row("a side is missing", where, "standard deviation over seeds: claimed, true, their difference", ", ".join(f"{np.std(values, ddof=1):.3f}" for values in (claimed, true, gaps)), "", None, named(seeds)))  # fmt: skip
        lines.append(row("a side is missing", where, "coverage of 90 % intervals", spread(covered), ".85-.95", 0.85 <= held <= 0.95, named(seeds)))  # fmt: skip
    return lines


def coverage(adata, away, key: str = "snrmix") -> float:
    found = snrmix.tl.coverage(adata, away, levels=[LEVEL], key=key)
    return found.loc[found["by"] == "all", "observed"].item()


# Shallow spots are missing


def shallow(options) -> list[tuple]:
    """The 40 % shallowest of 400 simulated spots."""
    seeds, covered = range(options.simulations), {None: [], "counts": []}
    for seed in seeds:
        adata = section(seed, genes=12, depth=1200, spread=0.8)
        for depth_key, found in covered.items():
            found.append(shallow_coverage(adata, depth_key, random_state=seed, **QUICK))
    return shallow_rows("simulated, 400 spots", covered, named(seeds))


def shallow_sections(options) -> list[tuple]:
    """The same on real sections."""
    lines = []
    for name in options.sections:
        covered = {None: [], "counts": []}
        adata, image = load(name, options.data, options.cache)
        adata.obs["counts"] = np.asarray(adata.X.sum(1)).ravel()
        for depth_key, found in covered.items():
            found.append(shallow_coverage(adata, depth_key, genes=200, **image))
        lines += shallow_rows(SECTIONS.get(name, name), covered, "0")
    return lines


def shallow_coverage(adata, depth_key, **options) -> tuple[float, float]:
    """Coverage of 90 % intervals over all values and in the worst gene."""
    adata = adata.copy()
    adata.obs["measured"] = adata.obs["counts"] > adata.obs["counts"].quantile(0.4)
    snrmix.tl.impute(adata, measured="measured", depth_key=depth_key, at_depth="spot", **options)
    away, genes = ~adata.obs["measured"].to_numpy(), adata.var["snrmix_modelled"].to_numpy()
    counts = adata.X.toarray() if hasattr(adata.X, "toarray") else adata.X
    observed = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    low, high = snrmix.tl.interval(adata, LEVEL)
    inside = ((observed >= low - 1e-6) & (observed <= high + 1e-6))[np.ix_(away, genes)]
    return float(inside.mean()), float(inside.mean(0).min())


def shallow_rows(where: str, covered: dict, seeds: str) -> list[tuple]:
    lines = []
    for depth_key, found in covered.items():
        every, worst = np.array(found).T
        words = "depths known" if depth_key else "depths unknown"
        met = 0.85 <= every.mean() <= 0.95 if depth_key else None
        lines.append(row("the 40 % shallowest are missing", where, f"coverage of 90 % intervals, {words}", spread(every), ".85-.95" if depth_key else "", met, seeds))  # fmt: skip
        lines.append(row("the 40 % shallowest are missing", where, f"the same in the worst gene, {words}", worst.mean(), "", None, seeds))  # fmt: skip
    return lines


# Few spots


def few(options) -> list[tuple]:
    """Genes of noise at 20 to 200 spots: what out-of-fold values correlate at, of every method and as re-evaluated."""
    lines, seeds = [], range(options.simulations)
    for n, shape in ((20, (5, 4)), (40, (8, 5)), (100, (10, 10)), (200, (20, 10))):
        mean, others, given = [], [], []
        for seed in seeds:
            rng, xy = np.random.default_rng(seed), grid(*shape)
            depth = rng.lognormal(np.log(2000), 0.2, n)
            share = np.tile(np.append(np.full(60, 1.5e-3), 0.91), (n, 1))
            adata = counted(rng, xy, share, depth, ["noise"] * 60 + ["rest"], rng.standard_normal((n, 4)))
            snrmix.tl.impute(adata, random_state=seed, genes=adata.var_names[:60].tolist(), **QUICK)
            mean.append(adata.var["snrmix_pearson"].mean())
            others.append(adata.uns["snrmix"]["scores"]["pearson"].drop("snrmix"))
            again = snrmix.tl.evaluate(adata, np.ones(n, bool))
            given.append((adata.var["snrmix_pearson_given_depth"].mean(), again["pearson"].mean(), again["pearson_given_depth"].mean()))  # fmt: skip
        limit = 0.05 if n >= 40 else 0.1
        value, worst = np.mean(mean), pd.DataFrame(others).mean()
        name = worst.abs().idxmax()
        where = f"simulated noise, {n} spots"
        lines.append(row("few spots", where, "out-of-fold Pearson, mean over 60 genes", spread(mean), f"within {limit}", abs(value) <= limit, named(seeds)))  # fmt: skip
        lines.append(row("few spots", where, f"the same, farthest of the other methods ({name})", worst[name], f"within {limit}", abs(worst[name]) <= limit, named(seeds)))  # fmt: skip
        words = "given depth", "of the typical-depth layer at measured spots", "of that layer given depth"
        for word, value in zip(words, np.mean(given, axis=0), strict=True):
            lines.append(row("few spots", where, f"the same {word}", value, f"within {limit}", abs(value) <= limit, named(seeds)))  # fmt: skip
    return lines


# Noise ceiling


def ceiling(options) -> list[tuple]:
    """The floor that sampling noise sets, against the noise of counts drawn again; half of 400 spots held out."""
    lines, seeds = [], range(min(options.simulations, 3))
    for kind in ("smooth", "patchy", "overdispersed"):
        for depth in (500, 3000, 20_000):
            found = np.concatenate([[ceiling_ratios(seed, kind, depth) for seed in seeds]])
            total, low, high, scatter = found.mean(0)
            where = f"simulated, {kind} rates, depth {depth:,}"
            words = f"estimated / true noise, all genes; 5 % and 95 % of genes {low:.2f}, {high:.2f}"
            lines.append(row("noise ceiling", where, words, total, ".9-1.1", 0.9 <= total <= 1.1, named(seeds)))
            if kind == "overdispersed":
                words = "the same, if nothing could predict the scatter of rates"
                lines.append(
                    row("noise ceiling", where, words, scatter, "below 1, as the docs say", scatter < 1, named(seeds))
                )
    return lines


def ceiling_ratios(seed: int, kind: str, depth: float) -> tuple[float, float, float, float]:
    """Estimated over true noise: of all genes together, low and high ones of single genes with counts, and with scatter."""
    rng, xy = np.random.default_rng(seed), grid(20)
    share = rates(rng, xy, 60, kind)
    share = np.column_stack([share, np.maximum(1 - share.sum(1), 0.1)])
    share /= share.sum(1, keepdims=True)
    depths = depth * np.exp(0.4 * field(rng, xy, 1, 5.0)[:, 0] + 0.2 * rng.standard_normal(len(xy)))
    adata = counted(rng, xy, share, depths, ["gene"] * 60 + ["rest"])
    adata.obs["measured"] = rng.permutation(len(xy)) < 200
    genes = adata.var_names[:60].tolist()
    snrmix.tl.impute(adata, measured="measured", genes=genes, n_folds=2, random_state=seed)
    away = ~adata.obs["measured"].to_numpy()
    scores = snrmix.tl.evaluate(adata, away)
    columns = adata.var_names.get_indexer(scores.index)
    at, total = share[away][:, columns], adata.obs["counts"].to_numpy()[away, None]
    scattered = [again(rng, at, total)]
    if kind == "overdispersed":  # as much of it as follows a field, and scatter drawn again with the counts
        smooth = rates(np.random.default_rng(seed), xy, 60, "smooth")[away][:, columns]
        scattered.append(again(rng, smooth, total, scatter=True))
    noise = [values.var(0).mean(0) for values in scattered]
    ratio, often = scores["noise_known_depth"].to_numpy() / noise[0], (at * total).mean(0) > 1
    estimate = scores["noise_known_depth"].sum()
    return estimate / noise[0].sum(), *np.quantile(ratio[often], [0.05, 0.95]), estimate / noise[-1].sum()


def again(rng, share, depth, scatter: bool = False) -> np.ndarray:
    """Log values of counts that are drawn 300 times, shape (300, n, genes)."""
    shape = (300, *share.shape)
    factor = rng.gamma(2.0, 0.5, shape) if scatter else np.ones(shape, np.float32)
    return np.log1p(1e4 * rng.poisson(factor * share * depth) / depth)


PARTS = {
    "sections": sections,
    "simulated": simulated,
    "folds": folds,
    "half": half,
    "shallow": shallow,
    "shallow sections": shallow_sections,
    "few": few,
    "ceiling": ceiling,
}

if __name__ == "__main__":
    main()
