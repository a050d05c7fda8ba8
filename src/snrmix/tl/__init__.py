from snrmix.tl.benchmark import benchmark
from snrmix.tl.coverage import coverage
from snrmix.tl.draws import draws
from snrmix.tl.evaluate import evaluate
from snrmix.tl.impute import impute
from snrmix.tl.interval import interval
from snrmix.tl.summarise import summarise

__all__ = ["benchmark", "coverage", "draws", "evaluate", "impute", "interval", "summarise"]
