from snrmix.pl.benchmark import benchmark
from snrmix.pl.calibration import calibration
from snrmix.pl.compare import compare
from snrmix.pl.crops import crops
from snrmix.pl.draws import draws
from snrmix.pl.gene_scores import gene_scores
from snrmix.pl.report import report
from snrmix.pl.share import share
from snrmix.pl.training import training
from snrmix.pl.weights import weights

__all__ = [
    "benchmark", "calibration", "compare", "crops", "draws", "gene_scores", "report", "share", "training", "weights",
]  # fmt: skip
