from snrmix.images.crops import read_crops
from snrmix.images.encoders import ENCODERS, Encoder, colour_statistics, resolve_encoder
from snrmix.images.source import Level, SectionImage, open_image

__all__ = [
    "ENCODERS",
    "Encoder",
    "Level",
    "SectionImage",
    "colour_statistics",
    "open_image",
    "read_crops",
    "resolve_encoder",
]
