from snrmix.io._description import Description
from snrmix.io.describe import describe
from snrmix.io.write_layer import write_layer

__all__ = ["Description", "describe", "write_layer"]


def __dir__() -> list[str]:
    return __all__
