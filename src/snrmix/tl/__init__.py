from snrmix.tl.evaluate import evaluate
from snrmix.tl.impute import impute
from snrmix.tl.interval import interval

__all__ = ["evaluate", "impute", "interval"]
