"""A convolution against every cheaper arrangement with the same field; networks side by side."""

from __future__ import annotations

from convsmith.analysis.comparing.comparison import (
    KERNELS,
    ORIGINAL,
    Comparison,
    ComparisonRow,
    Curve,
    Refusal,
    Width,
    arrangements,
    side_by_side,
)
from convsmith.analysis.comparing.forms import FORMS

__all__ = [
    "FORMS",
    "KERNELS",
    "ORIGINAL",
    "Comparison",
    "ComparisonRow",
    "Curve",
    "Refusal",
    "Width",
    "arrangements",
    "side_by_side",
]
