"""Operators that interpolate between pixels."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from convsmith.graph.operators.base import Operator

__all__ = ["GridSample", "Resize"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize(Operator):
    """Interpolation over the spatial axes, by exact ``scale`` or to a ``size``.

    Attributes:
        scale: Per spatial axis; empty when ``size`` is given.
        size: Per spatial axis; empty when ``scale`` is given.
        mode: The interpolation.
        alignment: How output coordinates map to the input, in ONNX's words.
        rounding: How ``nearest`` picks, in ONNX's words.
    """

    scale: tuple[Fraction, ...] = ()
    size: tuple[int, ...] = ()
    mode: Literal["nearest", "linear", "cubic"] = "nearest"
    alignment: Literal["asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners"] = (
        "asymmetric"
    )
    rounding: Literal["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"] = "floor"


@dataclass(frozen=True, slots=True, kw_only=True)
class GridSample(Operator):
    """Samples of an image at the places that a second input holds (spatial transformers).

    The grid is ``(N, *outputs, axes)``; its last axis holds the *innermost* coordinate first, from
    -1 to 1. Jaderberg et al., "Spatial transformer networks" (2015), equation 3.

    Attributes:
        mode: The interpolation.
        beyond: What lies outside the image: zeros, its border, or its reflection.
        aligned: Whether -1 and 1 are the centres of the corner pixels, else their outer edges.
    """

    mode: Literal["nearest", "linear", "cubic"] = "linear"
    beyond: Literal["zeros", "border", "reflection"] = "zeros"
    aligned: bool = False
