"""The table of shapes: what every operator makes of the sizes of its inputs."""

from __future__ import annotations

from convsmith.graph.shape import elements  # fills the table
from convsmith.graph.shape.parameters import parameter_shapes
from convsmith.graph.shape.table import Shape, broadcast, infer_shapes
from convsmith.graph.shape.windows import (
    Windowed,
    effective_kernel,
    fold_positions,
    resolve_padding,
)

__all__ = [
    "Shape",
    "Windowed",
    "broadcast",
    "effective_kernel",
    "fold_positions",
    "infer_shapes",
    "parameter_shapes",
    "resolve_padding",
]

_ = elements
