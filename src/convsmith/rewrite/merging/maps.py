"""Nodes that are one factor and one summand per channel, whatever they are called."""

from __future__ import annotations

import numpy as np

from convsmith.errors import ConvsmithError
from convsmith.graph import Node
from convsmith.graph.affine import Affine, checked_affine
from convsmith.graph.operators import Elementwise, Norm, Unary
from convsmith.rewrite.merging.draft import Draft

__all__ = ["channel_map"]


def channel_map(draft: Draft, node: Node) -> tuple[str, Affine, int | None] | None:
    """A node as an affine map per channel of one value.

    Returns:
        The value, the map, and the axis of the channels (``None``: it is the same for
        all elements, and the map has one channel); ``None`` if the node is no such map.

    Raises:
        DataError: If the statistics of a normalization make no sense; names the node.
    """
    op = node.op
    if isinstance(op, Norm) and op.kind == "batch":
        arrays = [draft.array(name, node) for name in node.parameters]
        try:
            return node.inputs[0], checked_affine(op, arrays), 1
        except ConvsmithError as error:
            raise error.at(node.name) from None
    if isinstance(op, Unary) and op.kind == "neg":
        return node.inputs[0], Affine(scale=-np.ones(1), shift=np.zeros(1)), None
    if isinstance(op, Elementwise) and op.kind in ("add", "sub", "mul", "div"):
        return _elementwise(draft, node, op.kind)
    return None


def _elementwise(draft: Draft, node: Node, kind: str) -> tuple[str, Affine, int | None] | None:
    values = [name for name in node.inputs if draft.constant(name) is None]
    shape = draft.shapes[node.name]
    if len(values) != 1 or shape is None or draft.shapes[values[0]] != shape:
        return None
    scale, shift, axis = np.ones(1), np.zeros(1), None
    for place, name in enumerate(node.inputs):
        if name in values:
            if place and kind == "sub":
                scale, shift = -scale, shift
            elif place and kind == "div":
                return None
            continue
        constant = draft.constant(name)
        if constant is None or constant.data is None or constant.data.dtype.kind != "f":
            return None
        own = (1,) * (len(shape) - len(constant.shape)) + constant.shape
        long = [i for i, extent in enumerate(own) if extent > 1]
        if len(long) > 1 or (long and axis is not None and long != [axis]):
            return None
        axis = long[0] if long else axis
        data = np.asarray(constant.data, np.float64).reshape(-1)
        first = place == 0
        with np.errstate(all="ignore"):
            match kind:
                case "add":
                    shift = shift + data
                case "sub":
                    shift = shift + (data if first else -data)
                case "mul":
                    scale = scale * data
                case _:
                    scale = scale / data
    scale, shift = np.broadcast_arrays(scale, shift)
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return None
    return values[0], Affine(scale=scale, shift=shift), axis
