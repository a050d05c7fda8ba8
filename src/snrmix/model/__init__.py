"""The method as an object that is fitted, kept and asked about other sections."""

from snrmix.model.model import SNRMix

__all__ = ["SNRMix"]
