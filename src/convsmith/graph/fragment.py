"""A layer with its weights: the piece that a rewrite puts into a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from convsmith.graph.operators import Conv, Linear

__all__ = ["ConvStep"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConvStep:
    """One layer of the chain that stands for a layer.

    Attributes:
        op: A convolution, transposed or not, or a linear layer.
        weight: As the operator stores it: ``(C_out, C_in / groups, *kernel)``,
            ``(C_in, C_out / groups, *kernel)`` transposed, ``(features, in)`` linear.
        bias: ``(C_out,)``, or ``None`` when ``op.bias`` is false.
        rectified: Whether a ReLU follows.

    >>> import numpy as np
    >>> plain = {"stride": (1,), "padding": ((0, 0),), "dilation": (1,), "bias": False}
    >>> step = ConvStep(op=Conv(channels=2, kernel=(1,), **plain), weight=np.ones((2, 3, 1)))
    >>> [array.shape for array in step.parameters]
    [(2, 3, 1)]
    """

    op: Conv | Linear
    weight: npt.NDArray[Any]
    bias: npt.NDArray[Any] | None = None
    rectified: bool = False

    @property
    def parameters(self) -> list[npt.NDArray[Any]]:
        """Its tensors, in the order of ``roles(op)``."""
        return [self.weight] if self.bias is None else [self.weight, self.bias]
