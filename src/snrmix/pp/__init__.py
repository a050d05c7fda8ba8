from snrmix.pp.embed import embed_histology

__all__ = ["embed_histology"]
