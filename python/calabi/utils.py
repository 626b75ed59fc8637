"""The original project's names for what this package does."""

from __future__ import annotations

from .low_rank import LowRankLinear
from .replace import replace_linear_layers

__all__ = ["OptimizedCYModelUtils", "OptimizedCalabiYauLinear"]


class OptimizedCalabiYauLinear(LowRankLinear):
    """`LowRankLinear` by its former name and arguments."""

    def __init__(self, original_linear, compression_ratio=0.5, **settings):
        """The best factors of a layer; `compression_ratio` is the share of dimensions kept."""
        super().__init__(original_linear, compression_ratio=compression_ratio, **settings)


class OptimizedCYModelUtils:
    """`replace_linear_layers` by its former place."""

    replace_linear_layers = staticmethod(replace_linear_layers)
