from snrmix.tl.impute import impute

__all__ = ["impute"]
