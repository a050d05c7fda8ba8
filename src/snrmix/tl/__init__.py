from snrmix.tl.benchmark import benchmark
from snrmix.tl.coverage import coverage
from snrmix.tl.draws import draws
from snrmix.tl.evaluate import evaluate
from snrmix.tl.impute import impute
from snrmix.tl.impute_cohort import impute_cohort
from snrmix.tl.interval import interval
from snrmix.tl.leiden_consensus import leiden_consensus
from snrmix.tl.pool import pool
from snrmix.tl.rank_genes_groups import rank_genes_groups
from snrmix.tl.spatial_autocorr import spatial_autocorr
from snrmix.tl.summarise import summarise

__all__ = [
    "benchmark",
    "coverage",
    "draws",
    "evaluate",
    "impute",
    "impute_cohort",
    "interval",
    "leiden_consensus",
    "pool",
    "rank_genes_groups",
    "spatial_autocorr",
    "summarise",
]
