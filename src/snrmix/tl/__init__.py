from snrmix.tl.benchmark import benchmark, summarise
from snrmix.tl.coverage import coverage
from snrmix.tl.evaluate import evaluate
from snrmix.tl.impute import impute
from snrmix.tl.interval import interval

__all__ = ["benchmark", "coverage", "evaluate", "impute", "interval", "summarise"]
