"""One reader of units: counts, logs of counts, or what is neither; by several signs, on measured rows only."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from snrmix._names import listing

LOG_BELOW = 20.0  # log1p of counts per 10,000 is at most 9.2, and of counts per billion 20.7
TOTALS = (  # obs columns with the counts of a spot over all genes
    "total_counts", "n_counts", "nCount_Spatial", "nCount_RNA", "nCount_SCT", "nUMI", "n_umi", "n_umis", "total_umis",
    "raw_sum", "umi_count",
)  # fmt: skip

FEWEST_GENES, FEW_GENES = 10, 30  # as counts: fewer are refused, and doubted
LEAST_SHARE, SMALL_SHARE = 0.2, 0.8  # of the counts of a spot that its genes have: less is refused, and doubted
SAME_TOTAL, SAME_ROUNDED = 1e-3, 0.01  # relative deviation of the sums of spots
OTHER_TOTALS = 0.1  # the same, of counts whose depth is still in them
COUNTS = ("counts", "rounded", "detected", "shifted")

FEATURE_TYPES, GENES = (
    ("feature_types", "feature_type"),
    ("gene expression", "gene", "genes", "rna", "mrna", "expression"),
)
MOST_OTHER = 0.01  # of the counts

MEANT = {
    "log": "natural logs", "log2": "logs to base 2", "log10": "logs to base 10", "square roots": "square roots",
    "linear": "not logged", "logged twice": "logged twice",
}  # fmt: skip

# On 7 real sections and parts of 30 to 500 genes, the right inverse makes multiples of nearly every spot, and a wrong one of 4 %
# at most; but squares of whole counts are whole, too.
ROWS, LEAST_ENTRIES, WHOLE, MOST_TIMES = 200, 3, 0.01, 50.0
EXPLAINED, OF_A_ROW = 0.3, 0.95
INVERSES = {
    "log": np.expm1,
    "log2": lambda x: np.exp2(x) - 1,
    "log10": lambda x: 10.0**x - 1,
    "square roots": np.square,
    "linear": lambda x: x,
    "logged twice": lambda x: np.expm1(np.expm1(x)),
}

# Of genes that a tenth of the spots have. On two of the real sections the logs of nearly all deviate by 0.8 to 1.2, but 41 %
# at most by as much as chance makes of scaled ones.
SHARE_ALIKE, FEWEST_ALIKE = 0.55, 8


@dataclass(frozen=True)
class Reading:
    """What values look like.

    Parameters
    ----------
    kind
        ``"counts"``, ``"rounded"``, ``"detected"``, ``"shifted"``, ``"log"``, ``"log of counts"``, ``"log2"``, ``"log10"``, ``"square roots"``, ``"linear"``, ``"logged twice"``,
        ``"scaled"``, ``"no zeros"``, ``"fractions"`` (of counts), or ``"unclear"``.
    seen
        What shows it, as the end of a sentence.
    largest
        Largest value.
    """

    kind: str
    seen: str
    largest: float = 0.0


def read_units(values: sparse.csc_matrix, totals: np.ndarray | None = None) -> Reading:
    """Tell what the expression of the measured spots is.

    Parameters
    ----------
    values
        Finite and not negative, shape (measured spots, all genes).
    totals
        Counts of the same spots over all genes, where ``obs`` has them, shape (measured spots,).
    """
    reading = _read(values, totals)
    return replace(reading, largest=float(values.data.max())) if values.nnz else reading


def _read(values: sparse.csc_matrix, totals: np.ndarray | None) -> Reading:
    data = values.data
    sums = np.asarray(values.sum(axis=1)).ravel()
    if not data.size or np.array_equal(data, np.rint(data)):
        if values.shape[1] >= FEW_GENES and len(sums) >= 20 and np.std(sums) <= SAME_ROUNDED * sums.mean():
            return Reading("rounded", f"whole numbers, but the total of every spot is about {sums.mean():.4g}")
        return _whole_numbers(values)
    if _are_logs_of_counts(data):
        linear = np.asarray(values.expm1().sum(axis=1)).ravel()
        kind = "log of counts" if np.std(linear) > OTHER_TOTALS * linear.mean() else "log"
        return Reading(kind, f"totals from {linear.min():,.0f} to {linear.max():,.0f} once the log is undone")
    kind, share, is_telling = _structure(values)
    if share >= EXPLAINED:
        return Reading(kind, f"the values of a spot are in the ratios of whole counts, if they are {MEANT[kind]}")
    if values.shape[1] >= FEWEST_GENES and np.ptp(sums) <= SAME_TOTAL * sums.mean():
        return Reading("linear", f"every spot has the same total, {sums.mean():.4g}")
    scaled = _scaled(values) if is_telling else None
    if scaled:
        return Reading("scaled", scaled)
    if totals is not None and np.median(np.abs(sums - totals) / np.maximum(totals, 1)) <= 0.1:
        return Reading("fractions", "fractions that sum up to the counts that obs has")
    if values.nnz > 0.99 * values.shape[0] * values.shape[1] and values.shape[1] >= FEW_GENES:
        return Reading("no zeros", "hardly any value is zero")
    kind = "unclear" if is_telling else "log"
    return Reading(kind, "fractions whose ratios are not those of counts" if is_telling else "fractions")


def _whole_numbers(values: sparse.csc_matrix) -> Reading:
    """Counts, or what is no longer that: whether there were any, or counts to which 1 was added."""
    if values.shape[1] >= FEW_GENES and values.nnz:
        if values.data.max() == 1:
            return Reading("detected", "no value is above 1")
        if values.nnz == values.shape[0] * values.shape[1] and (values.min(axis=0).toarray() == 1).mean() > 0.5:
            return Reading("shifted", "no value is 0, and the smallest of most genes is 1")
    return Reading("counts", "whole numbers")


def _are_logs_of_counts(data: np.ndarray) -> bool:
    """Whether values are natural logs of whole counts plus one, as log1p without normalisation makes."""
    some = np.expm1(data[:: max(1, len(data) // 10_000)].astype(float)) if data.max() < LOG_BELOW else np.full(1, 0.5)
    return bool((np.abs(some - np.rint(some)) <= 1e-4 * some + 1e-6).all())


def _structure(values: sparse.csc_matrix) -> tuple[str, float, bool]:
    """The inverse that makes most spots multiples of one number, as counts are, for what share, and whether any could tell."""
    rows = sparse.csr_matrix(values)[:: max(1, values.shape[0] // ROWS)]
    spots = [rows.data[a:b] for a, b in zip(rows.indptr, rows.indptr[1:], strict=False)]
    spots = [spot[spot > 0].astype(float) for spot in spots]
    found, telling = {}, False
    with np.errstate(over="ignore", invalid="ignore"):
        for kind, inverse in INVERSES.items():
            answers = [_are_multiples(inverse(spot)) for spot in spots if len(spot)]
            answers = [answer for answer in answers if answer is not None]
            enough = len(answers) >= max(5, 0.25 * len(spots))
            found[kind], telling = float(np.mean(answers)) if enough else 0.0, telling or enough
    best = max(found, key=found.get)
    simplest = next(
        kind for kind in ("log", "linear", *INVERSES) if found[kind] >= found[best] - 0.02
    )  # squares are whole, too
    return simplest, found[simplest], telling


def _are_multiples(linear: np.ndarray) -> bool | None:
    """Whether the values of a spot are small multiples of one number; ``None`` where too few tell."""
    ratio = linear / linear.min()
    ratio = ratio[(ratio > 1.2) & (ratio < MOST_TIMES)]
    if len(ratio) < LEAST_ENTRIES:
        return None
    return any((np.abs(k * ratio - np.rint(k * ratio)) < WHOLE).mean() >= OF_A_ROW for k in (1, 2, 3))


def _scaled(values: sparse.csc_matrix) -> str | None:
    """What shows that genes were scaled one by one: the same deviation, 1, or the same largest value of all."""
    seen = np.diff(values.indptr) >= max(5, 0.1 * values.shape[0])
    own = values[:, seen]
    if own.shape[1] < FEWEST_ALIKE:
        return None
    mean = np.asarray(own.mean(axis=0)).ravel()
    deviation = np.sqrt(np.maximum(np.asarray(own.power(2).mean(axis=0)).ravel() - mean**2, 0))
    if (np.abs(deviation - 1) < values.shape[0] ** -0.5).mean() >= SHARE_ALIKE:
        return f"every gene has a deviation of about 1, in the median {np.median(deviation):.2f}"
    largest = own.max(axis=0).toarray().ravel()
    if (np.abs(largest / np.median(largest) - 1) < 1e-3).mean() >= SHARE_ALIKE:
        return f"the largest value of every gene is {np.median(largest):.4g}"
    return None


def settle_units(asked: str, reading: Reading, name: str, is_log: bool) -> tuple[str, list[str]]:
    """``"counts"`` or ``"log"``, what was asked for or what the values are read as; and what is doubtful about it.

    Parameters
    ----------
    asked
        ``"auto"``, or what the user says: then nothing is refused.
    name
        What the matrix is called in a message.
    is_log
        Whether ``uns["log1p"]`` says that it was logged.

    Raises
    ------
    ValueError
        Where values are neither counts nor their logs.
    """
    kind, seen = reading.kind, reading.seen
    if asked == "log":
        looks = kind in COUNTS and reading.largest >= LOG_BELOW
        return asked, [
            f"units='log', but {name} has {seen} up to {reading.largest:.4g}: they look like counts."
        ] * looks
    if asked == "counts":
        looks = kind.startswith("log")
        return asked, [f"units='counts', but {name} looks logged already ({seen}): it is logged again."] * looks
    if kind in REFUSED:
        raise ValueError(f"{name} {REFUSED[kind].format(seen=seen)}")
    if kind not in COUNTS and not is_log and reading.largest >= LOG_BELOW:
        raise ValueError(
            f"{name} is neither integer counts nor clearly logarithmic ({seen}, largest value {reading.largest:.4g}): say "
            "units='counts' (it will be normalised) or units='log' (it will be used as it is), or choose a layer with layer=."
        )
    doubts = [f"{name} {DOUBTED[kind].format(seen=seen)}"] if kind in DOUBTED else []
    return "counts" if kind in COUNTS else "log", doubts


def settle_layer(values: sparse.csc_matrix, name: str) -> str:
    """``"counts"`` or ``"log"``, for a layer that is compared with an imputed one.

    Raises
    ------
    ValueError
        Where it is neither, and so cannot be compared.
    """
    reading, lowest = read_units(values), values.data.min() if values.nnz else 0
    if lowest < (0 if reading.kind in COUNTS else -NEARLY_ZERO * reading.largest):
        raise ValueError(f"{name} has negative values: {CANNOT_COMPARE}")
    if reading.kind in COUNTS:
        return "counts"
    if reading.kind in REFUSED or reading.largest >= LOG_BELOW:
        kind = reading.kind if reading.kind in REFUSED else "neither counts nor logs"
        raise ValueError(f"{name} looks {kind} ({reading.seen}, largest value {reading.largest:.4g}): {CANNOT_COMPARE}")
    return "log"


CANNOT_COMPARE = (
    "it cannot be compared with imputed values, which are logs; name a layer with counts or log-normalised values."
)
NEARLY_ZERO = 0.05  # of the largest value: predictions may fall a little below 0
OTHERWISE = "choose the layer with counts or log-normalised values with layer=, or say units='log' to use the values as they are."
REFUSED = {
    "scaled": f"looks scaled ({{seen}}): {OTHERWISE}",
    "linear": "looks normalised, but not logged ({seen}): say units='counts' (it is brought to 10,000 per spot and logged), or "
    "log it first: sc.pp.log1p(adata).",
    "square roots": f"looks like square roots of counts ({{seen}}): {OTHERWISE}",
    "logged twice": f"looks as if it had been logged twice ({{seen}}): {OTHERWISE}",
    "fractions": "looks like counts that are not whole, as after a correction for ambient RNA ({seen}): say units='counts'.",
}
BASES = (
    "is taken as log to the base of {base} of counts ({{seen}}): it is used as it is, and so the layer has this base; depth and "
    "noise are estimated as if it were natural. adata.X * np.log({base}) would be."
)
DOUBTED = {
    "log2": BASES.format(base=2),
    "log10": BASES.format(base=10),
    "rounded": "looks like counts that were normalised and rounded ({seen}): it is taken as counts, and the depth that noise is "
    "worked out from is lost. Choose the layer with the counts with layer=.",
    "detected": "looks like what was detected and what not, instead of how often ({seen}): it is taken as counts. layer= chooses "
    "others.",
    "shifted": "looks like counts to which 1 was added ({seen}): it is taken as it is. Take it away again: adata.X = adata.X - 1.",
    "log of counts": "is the log of counts that were not brought to one total ({seen}): it is used as it is, so that depth counts "
    "as biology. Better undo it, adata.X = np.rint(np.expm1(adata.X)), which is read as counts. After SCTransform it is meant so.",
    "no zeros": "is taken as logarithmic, but looks denoised, imputed or corrected ({seen}): what is learnt is that, and the "
    "uncertainty is that of its values, not of counts. layer= chooses others.",
    "unclear": "is taken as logarithmic, though it does not look like logs of counts ({seen}). Where it is counts, say "
    "units='counts'; where it is right, units='log' ends this warning; layer= chooses others.",
}


def few_counts(values: sparse.csc_matrix, totals: np.ndarray | None, name: str, *, is_sure: bool) -> list[str]:
    """Refuse, or doubt, counts that would be normalised by the total of a few of the genes that were counted.

    Parameters
    ----------
    values
        Counts, shape (measured spots, genes that are there).
    totals
        Counts of the same spots over all genes, where they are known.
    is_sure
        Whether the user says that they are counts: then nothing is refused.

    Raises
    ------
    ValueError
        Where that cannot be meant.
    """
    n_genes, share = values.shape[1], np.nan
    if totals is not None:
        share = float(np.median(np.asarray(values.sum(axis=1)).ravel() / totals))
    if SMALL_SHARE <= share <= 1.1:  # these are all
        return []
    if not (n_genes < FEW_GENES or share < SMALL_SHARE):
        return []
    part = f"{100 * share:.2g} % of the counts of a spot" if share < SMALL_SHARE else f"counts of {n_genes} gene(s)"
    says = (
        f"{name} has {part}, and counts are normalised by their total: it would be the total of these alone. Normalise with "
        "all genes first (sc.pp.normalize_total, sc.pp.log1p), or pass the full object and choose with genes=."
    )
    if (n_genes < FEWEST_GENES or share < LEAST_SHARE) and not is_sure:
        raise ValueError(f"{says} Where these are all genes that were counted, say units='counts'.")
    return [says]


def other_features(table: AnnData, values: sparse.csc_matrix) -> list[str]:
    """Refuse, or doubt, counts that would be normalised together with counts of what are no genes, such as antibodies.

    Parameters
    ----------
    values
        Counts, shape (measured spots, columns of ``table``).

    Raises
    ------
    ValueError
        Where these are more than a hundredth of all counts.
    """
    column = next((name for name in FEATURE_TYPES if name in table.var), None)
    if column is None:
        return []
    kinds = table.var[column].astype(str)
    is_gene = kinds.str.casefold().isin(GENES).to_numpy()
    if is_gene.all() or not is_gene.any():
        return []
    share = float(values[:, ~is_gene].sum() / max(values.sum(), 1))
    says = (
        f"{(~is_gene).sum()} of the {len(kinds)} features are {listing(pd.unique(kinds[~is_gene]), 3)}, with {100 * share:.2g} % of the "
        f"counts, and counts of genes would be normalised by the total of both. Keep the genes: adata = adata[:, "
        f"adata.var[{column!r}] == {kinds[is_gene].iloc[0]!r}].copy(), and impute others from a table of their own."
    )
    if share > MOST_OTHER:
        raise ValueError(says)
    return [says]


def find_totals(table: AnnData, rows: np.ndarray) -> np.ndarray | None:
    """Counts of some spots over all genes, float, shape (rows,): from ``obs``, or from a ``raw`` with more genes."""
    for column in TOTALS:
        if column in table.obs and pd.api.types.is_numeric_dtype(table.obs[column]):
            values = pd.to_numeric(table.obs[column].iloc[rows]).to_numpy(float, na_value=np.nan)
            if np.isfinite(values).all() and (values > 0).all():
                return values
    if table.raw is not None and table.raw.n_vars > table.n_vars:
        counts = sparse.csr_matrix(table.raw.X[rows], dtype=float)
        if np.array_equal(counts.data, np.rint(counts.data)):
            return np.asarray(counts.sum(axis=1)).ravel()
    return None
