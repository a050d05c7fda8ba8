from snrmix.pl.compare import compare
from snrmix.pl.gene_scores import gene_scores
from snrmix.pl.training import training
from snrmix.pl.weights import weights

__all__ = ["compare", "gene_scores", "training", "weights"]
