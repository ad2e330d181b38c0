"""What happens to sums on their way out: residual, activation, the store itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.algorithm import BIAS, OUTPUT, RESIDUAL
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.emit import Code, Value
from convsmith.kernel.tile import activate

__all__ = ["activated", "load_bias", "put"]


def load_bias(code: Code, spec: ConvSpec, first: Value, lanes: int) -> Value | None:
    """Returns the biases of ``lanes`` filters from ``first`` on, zeros past the last filter."""
    return code.pointer(BIAS).load(lanes, first) if spec.bias else None


def put(
    code: Code, spec: ConvSpec, value: Value, at: Value, count: int | Value, lanes: int
) -> None:
    """Adds the residual, applies the activation and stores the first ``count`` lanes.

    Args:
        code: Where to write.
        spec: What is fused.
        value: Sums with their bias.
        at: The element of the output that the first lane belongs to.
        count: Lanes that belong to the output; the memory behind them is not touched.
        lanes: Vector width.
    """
    if spec.residual:
        value = value + code.pointer(RESIDUAL).load_first(count, lanes, at)
    code.pointer(OUTPUT).store_first(activate(code, spec.activation, value), count, at)


def activated(kind: str, x: NDArray[Any]) -> NDArray[Any]:
    """Returns an activation of an array, in its own type."""
    match kind:
        case "relu":
            return np.asarray(np.maximum(x, 0))
        case "relu6":
            return np.asarray(np.minimum(np.maximum(x, 0), 6))
        case "silu":
            with np.errstate(over="ignore"):
                return np.asarray(x / (1 + np.exp(-x)))
        case "hardswish":
            return np.asarray(x * np.minimum(np.maximum(x + 3, 0), 6) / 6)
    return x
