from snrmix.pp.embed import embed_histology
from snrmix.pp.hold_out import hold_out

__all__ = ["embed_histology", "hold_out"]
