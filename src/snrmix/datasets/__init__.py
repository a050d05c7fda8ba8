from snrmix.datasets.public import her2_tumour, olfactory_bulb
from snrmix.datasets.synthetic import synthetic_spatialdata, synthetic_tissue

__all__ = ["her2_tumour", "olfactory_bulb", "synthetic_spatialdata", "synthetic_tissue"]
