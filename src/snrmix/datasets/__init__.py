from snrmix.datasets.synthetic import synthetic_spatialdata, synthetic_tissue

__all__ = ["synthetic_spatialdata", "synthetic_tissue"]
