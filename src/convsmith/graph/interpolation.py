"""Interpolation along one axis at a time, as sums of shifted inputs with weights.

Sources: ONNX ``Resize`` (coordinate transformations, nearest modes), Keys 1981 for cubic
convolution with a = -0.75, the value that ONNX and PyTorch use.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import ceil, floor
from typing import Any

import numpy as np
import numpy.typing as npt

from convsmith.graph.operators import Resize
from convsmith.graph.shape import infer_shapes

__all__ = ["keys", "resize", "source_position", "taps"]

Array = npt.NDArray[Any]

_CUBIC = -0.75


def source_position(op: Resize, output: int, before: int, after: int, axis: int) -> Fraction:
    """Where output ``output`` lies on the input axis, exactly.

    Args:
        op: The resize.
        output: Index along the output axis.
        before: Size of the input axis.
        after: Size of the output axis.
        axis: Which spatial axis (for its scale).
    """
    scale = op.scale[axis] if op.scale else Fraction(after, before)
    match op.alignment:
        case "align_corners":
            return Fraction(output * (before - 1), after - 1) if after > 1 else Fraction(0)
        case "half_pixel":
            return (output + Fraction(1, 2)) / scale - Fraction(1, 2)
        case "pytorch_half_pixel":
            centred = (output + Fraction(1, 2)) / scale - Fraction(1, 2)
            return centred if after > 1 else Fraction(0)
    return output / scale


_NEAREST: dict[str, Callable[[Fraction], int]] = {
    "floor": floor,
    "ceil": ceil,
    "round_prefer_floor": lambda x: ceil(x - Fraction(1, 2)),
    "round_prefer_ceil": lambda x: floor(x + Fraction(1, 2)),
}


def taps(op: Resize, output: int, before: int, after: int, axis: int) -> list[tuple[int, float]]:
    """The input elements that one output is made of, each with its weight.

    Indices are clamped to the input; an index may occur more than once at the border.
    """
    position = source_position(op, output, before, after, axis)
    if op.mode == "nearest":
        weighted = [(_NEAREST[op.rounding](position), 1.0)]
    elif op.mode == "linear":
        left = floor(position)
        share = float(position - left)
        weighted = [(left, 1 - share), (left + 1, share)]
    else:
        left = floor(position)
        share = float(position - left)
        weighted = [(left + i, keys(abs(share - i))) for i in (-1, 0, 1, 2)]
    return [(min(max(index, 0), before - 1), weight) for index, weight in weighted if weight]


def keys(distance: float) -> float:
    """The weight of a pixel at a distance from a sample (Keys 1981, equation 4)."""
    a = _CUBIC
    if distance <= 1:
        return ((a + 2) * distance - (a + 3)) * distance**2 + 1
    if distance < 2:
        return ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return 0.0


def resize(op: Resize, x: Array) -> Array:
    """Resizes the spatial axes of ``(N, C, *spatial)``."""
    outputs = infer_shapes(op, x.shape)[0]
    assert outputs is not None
    for axis, (before, after) in enumerate(zip(x.shape[2:], outputs[2:], strict=True)):
        if before == after and (op.alignment == "align_corners" or not op.scale):
            continue  # every output lies on its own input
        matrix = np.zeros((after, before), dtype=x.dtype)
        for output in range(after):
            for index, weight in taps(op, output, before, after, axis):
                matrix[output, index] += weight
        if op.mode == "nearest":
            x = x.take(matrix.argmax(axis=1), axis=axis + 2)
        else:
            x = np.moveaxis(np.moveaxis(x, axis + 2, -1) @ matrix.T, -1, axis + 2)
    return x
