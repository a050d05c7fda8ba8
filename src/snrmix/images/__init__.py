from snrmix.images.colour import colour_statistics
from snrmix.images.crops import read_crops
from snrmix.images.encoder import Encoder
from snrmix.images.encoders import ENCODERS, resolve_encoder
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
