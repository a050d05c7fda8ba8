"""Simulated sections whose truth is known: what follows space, looks, depth or nothing, and by how much."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd

KINDS = ("space", "image", "constant", "noise")


def field(rng, xy: np.ndarray, number: int, length: float) -> np.ndarray:
    """Smooth fields of unit variance, shape (n, number), of a reach in pitches."""
    waves = rng.standard_normal((2, 60, number)) / length
    return np.cos(np.einsum("nd,dkf->nkf", xy, waves) + rng.uniform(0, 2 * np.pi, (60, number))).sum(1) / np.sqrt(30)


def grid(side: int, other: int | None = None) -> np.ndarray:
    """Positions of a grid of spots, in pitches, shape (n, 2)."""
    return np.stack(np.meshgrid(np.arange(side), np.arange(other or side)), -1).reshape(-1, 2).astype(float)


def section(
    seed: int, side: int = 20, genes: int = 20, depth: float = 1200, spread: float = 0.9, length: float = 3.0
) -> anndata.AnnData:
    """A grid of spots with ``genes`` of each kind, and one more that has all other counts.

    The log share of a gene follows three smooth fields (``space``), three of the features that stand for looks
    (``image``), scatter that nothing tells (``noise``), or is the same everywhere (``constant``). Depth is a smooth field of its own.

    Parameters
    ----------
    depth, spread
        Median counts per spot, and the standard deviation of their logarithm.
    length
        Reach of the fields that genes follow, in pitches.
    """
    rng, xy = np.random.default_rng(seed), grid(side)
    looks = rng.standard_normal((len(xy), 4))
    drivers = {"space": field(rng, xy, 3, length), "image": looks[:, :3], "constant": np.zeros((len(xy), 1))}
    drivers["noise"] = rng.standard_normal((len(xy), 3))
    log_depth = spread * field(rng, xy, 1, 5.0)[:, 0] + 0.15 * rng.standard_normal(len(xy))
    fold_change = []
    for kind in KINDS:
        weight = rng.standard_normal((drivers[kind].shape[1], genes))
        fold_change.append(np.exp(0.8 * drivers[kind] @ (weight / np.linalg.norm(weight, axis=0))))
    fold_change = np.concatenate(fold_change, axis=1)
    share = np.exp(rng.uniform(np.log(5e-4), np.log(6e-3), fold_change.shape[1])) * fold_change / fold_change.mean(0)
    share = np.column_stack([share, 1 - share.sum(1)])
    kind = [*np.repeat(KINDS, genes), "rest"]
    return counted(rng, xy, share, depth * np.exp(log_depth), kind, looks)


def counted(rng, xy, share, depth, kind, looks=None) -> anndata.AnnData:
    """Poisson counts of shares, shape (n, genes), at the depths of the spots, with what they were drawn from."""
    counts = rng.poisson(share * depth[:, None]).astype(np.float32)
    obs = pd.DataFrame({"counts": counts.sum(1), "column": xy[:, 0]}, [f"s{i}" for i in range(len(xy))])
    adata = anndata.AnnData(counts, obs, pd.DataFrame({"kind": kind}, [f"g{i}" for i in range(share.shape[1])]))
    adata.obsm["spatial"], adata.layers["share"] = xy * 100, share
    if looks is not None:
        adata.obsm["features"] = looks.astype(np.float32)
    return adata


def rates(rng, xy: np.ndarray, genes: int, kind: str) -> np.ndarray:
    """Shares of counts, shape (n, genes): smooth, patchy (regions of eight times the rest), or smooth and scattered."""
    base = np.exp(rng.uniform(np.log(2e-4), np.log(2e-2), genes))
    if kind == "patchy":
        change = np.where(field(rng, xy, genes, 2.0) > 0.8, 8.0, 1.0)
    else:
        change = np.exp(0.7 * field(rng, xy, genes, 4.0))
    if kind == "overdispersed":
        change = change * rng.gamma(2.0, 0.5, change.shape)
    return base * change / change.mean(0)


def with_known_genes(
    adata: anndata.AnnData, genes: int, constant: int, noise: int, permuted: int, seed: int
) -> anndata.AnnData:
    """A real section of which some of the genes of highest mean follow depth alone, or nothing.

    Parameters
    ----------
    genes
        So many of highest mean are named in ``var["kind"]``; the others are ``""``.
    constant
        So many of them get Poisson counts of the share that they have of all counts, of the same at every spot: the other
        counts of a spot, as replaced, set its depth.
    noise
        So many get Poisson counts of shares that scatter around theirs, exponentially distributed, and follow nothing.
    permuted
        So many get the log values of other spots, at random, in whole counts.
    """
    counts = adata.X.tocsc().astype(np.float32)
    depth, rng = np.asarray(counts.sum(1)).ravel(), np.random.default_rng(1000 + seed)
    log_mean = np.asarray(adata.X.multiply(1e4 / depth[:, None]).log1p().mean(0)).ravel()
    best = rng.permutation(np.argsort(-log_mean, kind="stable")[:genes])
    kind = np.full(adata.n_vars, "", object)
    known = constant + noise + permuted
    kind[best] = np.repeat(["constant", "noise", "permuted", "real"], [constant, noise, permuted, genes - known])
    columns = counts[:, best[:known]].toarray()
    share, replaced = columns.sum(0) / depth.sum(), np.empty_like(columns)
    scatter = rng.exponential(1, (len(depth), noise))
    replaced[:, constant : constant + noise] = rng.poisson(
        share[constant : constant + noise] * scatter * depth[:, None]
    )
    for gene in range(constant + noise, known):
        replaced[:, gene] = np.floor(rng.permutation(columns[:, gene] / depth) * depth + rng.random(len(depth)))
    others = depth - columns.sum(1) + replaced[:, constant:].sum(1)
    total = np.maximum(others, 1) / (1 - share[:constant].sum())
    replaced[:, :constant] = rng.poisson(share[:constant] * total[:, None])
    values = counts.tolil()
    values[:, best[:known]] = replaced
    changed = adata.copy()
    changed.X, changed.var["kind"] = values.tocsr().astype(np.float32), kind.astype(str)
    changed.obs["counts"] = np.asarray(changed.X.sum(1)).ravel()
    return changed
