from snrmix.pp.embed import embed_histology
from snrmix.pp.fill_grid import fill_grid
from snrmix.pp.hold_out import hold_out

__all__ = ["embed_histology", "fill_grid", "hold_out"]
