"""What may be computed on an imputed section: false hits, power, variance, correlation and clusters, layer against draws.

Half of the spots are hidden, and genes whose log values are permuted over all spots stand for genes that have nothing to
find. Every number is printed with its target.

python benchmarks/claims_statistics.py                                  # muscle, three seeds: the settings were chosen there
python benchmarks/claims_statistics.py --sections visium_crc st_mob_1   # and not here
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd
import scanpy as sc
import squidpy as sq
from scipy import stats
from sections import SECTIONS, add_options, load, machine, write_table
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

import snrmix

PERMUTED = 150
DRAWS = 20
CLUSTERS = 4
COLUMNS = ("full data", "measured half", "layer, completed", "draws, completed", "layer, all", "draws, all")
TESTS = ("clusters", "left / right", "Moran")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_options(parser, sections=("visium_muscle_2dpi",))
    parser.set_defaults(genes=800)
    options = parser.parse_args()
    rows = []
    for name in options.sections:
        for seed in options.seeds:
            started = time.perf_counter()
            found = run(name, seed, options)
            found.insert(0, "section", SECTIONS.get(name, name))
            found.insert(1, "seed", seed)
            rows.append(found)
            print(f"\n{SECTIONS.get(name, name)}, seed {seed} ({time.perf_counter() - started:.0f} s)")
            print(
                found.drop(columns=["section", "seed"]).to_string(index=False, float_format="{:.3f}".format), flush=True
            )
    table = pd.concat(rows, ignore_index=True)
    mean = table.drop(columns="seed").groupby(["section", "quantity", "target"], sort=False).mean().reset_index()
    mean = mean[["section", "quantity", *COLUMNS, "target"]]
    caption = (
        "Statistics on a section of which half is hidden: means over seeds. Hits at 5 % after correction for the false "
        f"discovery rate (Benjamini and Hochberg) of {PERMUTED} permuted and {options.genes - PERMUTED} real genes; "
        "variance and correlation at hidden spots, medians over genes and over pairs of real genes; adjusted Rand index with the "
        f"{CLUSTERS} clusters of the full data (k-means on 15 principal components)."
    )
    note = (
        f"{options.genes} genes of highest mean, log1p of counts per 10,000; {DRAWS} draws; seeds "
        f"{', '.join(map(str, options.seeds))}; snrmix {snrmix.__version__} on {machine()}."
    )
    print("\n" + write_table(mean, options.out / "claims_statistics", caption, note))


def run(name: str, seed: int, options) -> pd.DataFrame:
    """One section, one seed: a row per quantity, a column per kind of data."""
    full, image = prepared(name, seed, options)
    measured, noise = full.obs["measured"].to_numpy(), full.var["permuted"].to_numpy()
    results = {}
    for fill, word in (("unmeasured", "completed"), ("all", "all")):
        results[word] = full.copy()
        snrmix.tl.impute(results[word], measured="measured", units="log", fill=fill, random_state=seed, **image)
    data = {"full data": full, "measured half": with_graph(full[measured].copy())}
    for word, result in results.items():
        data[f"layer, {word}"] = result.copy()
        data[f"layer, {word}"].X = result.layers["snrmix"]
    p = {column: plain_tests(one) for column, one in data.items()}
    p |= {f"draws, {word}": draw_tests(result) for word, result in results.items()}
    rows = []
    for which, genes, target in (("permuted", noise, "at most 7 %"), ("real", ~noise, "9/10 of the measured half's")):
        for test in TESTS:
            hits = {column: float((adjusted(p[column][test]) < 0.05)[genes].sum()) for column in COLUMNS}
            rows.append({"quantity": f"{which} genes called, {test}", **hits, "target": target})
    rows += spread_rows(full, results, measured, noise) + [cluster_row(full, results)]
    return pd.DataFrame(rows)[["quantity", *COLUMNS, "target"]]


def prepared(name: str, seed: int, options):
    """The section in log units with permuted genes, labels of clusters and sides, half of it measured."""
    adata, image = load(name, options.data, options.cache)
    counts = np.asarray(adata.X.todense() if hasattr(adata.X, "todense") else adata.X, float)
    logs = np.log1p(1e4 * counts / np.maximum(counts.sum(1, keepdims=True), 1)).astype(np.float32)
    best = np.sort(np.argsort(-logs.mean(0), kind="stable")[: options.genes])
    adata, logs = adata[:, best].copy(), logs[:, best]
    rng = np.random.default_rng(100 + seed)
    permuted = rng.choice(len(best), PERMUTED, replace=False)
    for gene in permuted:
        logs[:, gene] = logs[rng.permutation(len(logs)), gene]
    adata.X = logs
    adata.var["permuted"] = np.isin(np.arange(len(best)), permuted)
    adata.obs["measured"] = np.random.default_rng(seed).permutation(adata.n_obs) < adata.n_obs // 2
    across = adata.obsm["spatial"][:, 0]
    adata.obs["left / right"] = pd.Categorical(np.where(across > np.median(across), "right", "left"))
    real = PCA(15, random_state=0).fit_transform(logs[:, ~adata.var["permuted"].to_numpy()])
    adata.obs["clusters"] = pd.Categorical(KMeans(2, n_init=5, random_state=0).fit_predict(real).astype(str))
    return with_graph(adata), image


def with_graph(adata):
    """The six nearest spots, as squidpy keeps them."""
    sc.settings.verbosity = 0
    sq.gr.spatial_neighbors_knn(adata, n_neighs=6)
    return adata


def plain_tests(adata) -> dict[str, np.ndarray]:
    """p values of a table as it is, by gene."""
    found = {}
    for groupby in TESTS[:2]:
        one = (adata.obs[groupby] == adata.obs[groupby].cat.categories[0]).to_numpy()
        found[groupby] = stats.ttest_ind(adata.X[one], adata.X[~one], equal_var=False).pvalue
    moran = sq.gr.spatial_autocorr(
        adata, copy=True, n_jobs=1, show_progress_bar=False, corr_method=None, two_tailed=False
    )
    moran = moran.loc[adata.var_names]
    z = (moran["I"] + 1 / (adata.n_obs - 1)) / np.sqrt(moran["var_norm"])
    return {**found, "Moran": stats.norm.sf(z)}


def draw_tests(result) -> dict[str, np.ndarray]:
    """p values of the functions that work on draws, by gene."""
    found = {}
    for groupby in TESTS[:2]:
        first = result.obs[groupby].cat.categories[0]
        snrmix.tl.rank_genes_groups(result, groupby, groups=[first], n_draws=DRAWS)
        frame = sc.get.rank_genes_groups_df(result, first).set_index("names")
        found[groupby] = frame["pvals"].loc[result.var_names].to_numpy()
    snrmix.tl.spatial_autocorr(result, n_draws=DRAWS)
    return {**found, "Moran": result.uns["moranI"]["pval_norm"].loc[result.var_names].to_numpy()}


def adjusted(p: np.ndarray) -> np.ndarray:
    return stats.false_discovery_control(np.nan_to_num(p, nan=1.0))


def spread_rows(full, results, measured, noise) -> list[dict]:
    """Variance at hidden spots as a share of that at measured ones; correlation between genes there."""
    values = {"full data": full.X, "layer, completed": results["completed"].layers["snrmix"]}
    values["layer, all"] = results["all"].layers["snrmix"]
    for word, result in results.items():
        values[f"draws, {word}"] = next(snrmix.tl.draws(result, 1))
    reference, pairs = full.X[measured].var(0), np.triu_indices(int((~noise).sum()), 1)
    variance, correlation = {}, {"measured half": np.nan}
    for column, one in values.items():
        variance[column] = float(np.median(one[~measured].var(0) / reference))
        with np.errstate(invalid="ignore"):
            correlation[column] = float(np.nanmedian(np.abs(np.corrcoef(one[~measured][:, ~noise].T)[pairs])))
    return [
        {"quantity": "variance at hidden spots / at measured", "measured half": 1.0, **variance, "target": ".8-1.25"},
        {"quantity": "absolute correlation of genes", **correlation, "target": "that of the full data"},
    ]


def cluster_row(full, results) -> dict:
    """Agreement with the clusters of the full data."""

    def clusters(values, seed=0):
        return KMeans(CLUSTERS, n_init=5, random_state=seed).fit_predict(
            PCA(15, random_state=seed).fit_transform(values)
        )

    truth = clusters(full.X)
    found = {"full data": adjusted_rand_score(truth, clusters(full.X, 1)), "measured half": np.nan}
    for word, result in results.items():
        snrmix.tl.leiden_consensus(result, function=lambda drawn: clusters(drawn.X), n_draws=DRAWS, key_added="vote")
        found[f"layer, {word}"] = adjusted_rand_score(truth, clusters(result.layers["snrmix"]))
        found[f"draws, {word}"] = adjusted_rand_score(truth, result.obs["vote"])
    return {"quantity": f"agreement of {CLUSTERS} clusters with full data", **found, "target": "above the layer's"}


if __name__ == "__main__":
    main()
