"""Rule ``norm``: batch normalizations and other affine maps, folded into a layer beside them.

Rule ``identity``: what changes nothing, removed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from convsmith.graph import Node
from convsmith.graph.affine import Affine, fold_before, fold_behind
from convsmith.graph.fragment import ConvStep
from convsmith.graph.operators import Conv, Elementwise, Identity, Linear, Transpose
from convsmith.rewrite.merging.draft import Draft
from convsmith.rewrite.merging.kernels import explicit, is_identity
from convsmith.rewrite.merging.maps import channel_map
from convsmith.rewrite.merging.steps import Step

__all__ = ["fold_norms", "remove_identities"]

_Array = npt.NDArray[Any]
_Fold = Callable[[Conv | Linear, _Array, _Array | None, Affine], tuple[_Array, _Array]]


def fold_norms(draft: Draft) -> None:
    """Folds every affine map into the layer in front of it or, failing that, behind it."""
    for name in list(draft.nodes):
        node = draft.nodes.get(name)
        found = channel_map(draft, node) if node is not None else None
        if node is None or found is None:
            continue
        value, affine, axis = found
        if not _fold_behind(draft, node, value, affine, axis) and not _fold_through(
            draft, node, value, affine, axis
        ):
            _fold_before(draft, node, value, affine, axis)


def _channel_axis(draft: Draft, value: str, layer: Node) -> int | None:
    shape = draft.shapes[value]
    if shape is None:
        return None
    return 1 if isinstance(layer.op, Conv) else len(shape) - 1


def _per_channel(draft: Draft, value: str, layer: Node, affine: Affine, axis: int | None) -> Affine:
    """The map with one number per channel; ``ValueError`` if it is along another axis."""
    shape, own = draft.shapes[value], _channel_axis(draft, value, layer)
    if shape is None or own is None or axis not in (own, None):
        raise ValueError
    return Affine(
        scale=np.broadcast_to(affine.scale, (shape[own],)),
        shift=np.broadcast_to(affine.shift, (shape[own],)),
    )


def _fold_behind(draft: Draft, node: Node, value: str, affine: Affine, axis: int | None) -> bool:
    """Into the layer that makes the value."""
    before = draft.producer(value)
    if before is None or not isinstance(before.op, Conv | Linear):
        return False
    try:
        affine = _per_channel(draft, value, before, affine, axis)
    except ValueError:
        return False
    if draft.only_user(value) is not node:
        draft.block((before, node), draft.why_not_alone(value))
        return False
    if draft.is_shared(before) or draft.is_shared(node):
        draft.block((before, node), "another layer has the same weights")
        return False
    op = _with_bias(before.op, affine)
    return draft.attempt(
        Step(
            kind="norm",
            layers=(before, node),
            removed=(node,),
            into=before,
            op=op,
            source=before.inputs[0],
            value=node.name,
        ),
        lambda: _folded(draft.layer(before), op, affine, fold_behind),
    )


def _fold_through(draft: Draft, node: Node, value: str, affine: Affine, axis: int | None) -> bool:
    """Into the layer that makes the value, where its axes are moved in between.

    So layer scales stand behind linear layers: Liu et al., 2022, arXiv:2201.03545 (ConvNeXt).
    """
    if not isinstance(node.op, Elementwise) or len(node.inputs) != 2:
        return False
    start, reader = value, node
    while (moved := draft.producer(value)) is not None and isinstance(moved.op, Transpose):
        if draft.only_user(value) is not reader:
            return False
        axis = None if axis is None else moved.op.permutation[axis]
        value, reader = moved.inputs[0], moved
    before = draft.producer(value)
    if before is None or not isinstance(before.op, Conv | Linear):
        return False
    if value == start or draft.only_user(value) is not reader:
        return False
    if draft.is_shared(before) or draft.is_shared(node):
        return False
    try:
        affine = _per_channel(draft, value, before, affine, axis)
    except ValueError:
        return False
    op = _with_bias(before.op, affine)
    return draft.attempt(
        Step(
            kind="norm",
            layers=(before, node),
            removed=(),
            into=before,
            op=op,
            source=before.inputs[0],
            value=before.name,
            drop=(node, 1 - node.inputs.index(start)),
        ),
        lambda: _folded(draft.layer(before), op, affine, fold_behind),
    )


def _fold_before(draft: Draft, node: Node, value: str, affine: Affine, axis: int | None) -> bool:
    """Into the layer that reads what the node makes."""
    after = draft.only_user(node.name)
    if after is None or not isinstance(after.op, Conv | Linear):
        return False
    try:
        affine = _per_channel(draft, node.name, after, affine, axis)
    except ValueError:
        return False
    if affine.shift.any() and not _sums_all(draft, after):
        draft.block((node, after), "its shift is missing in the border that the convolution pads")
        return False
    if draft.is_shared(after) or draft.is_shared(node):
        draft.block((node, after), "another layer has the same weights")
        return False
    op = _with_bias(after.op, affine)
    return draft.attempt(
        Step(
            kind="norm",
            layers=(node, after),
            removed=(node,),
            into=after,
            op=op,
            source=value,
            value=after.name,
        ),
        lambda: _folded(draft.layer(after), op, affine, fold_before),
    )


def _with_bias(op: Conv | Linear, affine: Affine) -> Conv | Linear:
    """The layer with a bias, if it has one or needs one."""
    return replace(op, bias=op.bias or bool(affine.shift.any()))


def _folded(layer: ConvStep, op: Conv | Linear, affine: Affine, fold: _Fold) -> ConvStep:
    weight, bias = fold(layer.op, layer.weight, layer.bias, affine)
    return ConvStep(op=op, weight=weight, bias=bias if op.bias else None)


def _sums_all(draft: Draft, node: Node) -> bool:
    """Whether every output of a layer sums up its whole kernel over pixels that are there."""
    op = node.op
    if isinstance(op, Linear):
        return True
    assert isinstance(op, Conv)
    spatial = draft.spatial(node.inputs[0])
    padding = None if spatial is None else explicit(op, spatial)
    if padding is None or any(map(any, padding)):
        return False
    if op.transposed:
        return set(op.kernel) == set(op.stride) == {1} and not any(op.output_padding)
    return op.rounding == "floor"


def remove_identities(draft: Draft) -> None:
    """Removes what changes nothing: identities, dropout, and layers that do the same by chance."""
    for name in list(draft.nodes):
        node = draft.nodes.get(name)
        if node is None or not node.inputs:
            continue
        value = node.inputs[0]
        nothing = isinstance(node.op, Identity) and node.op.kind != "cast"
        if not nothing:
            found = channel_map(draft, node)
            if found is not None and found[1].is_identity:
                value, nothing = found[0], True
            elif isinstance(node.op, Conv | Linear):
                nothing = _is_nothing(draft, node)
        if not nothing or draft.shapes[value] != draft.shapes[node.name]:
            continue
        if draft.is_public(node.name) and (draft.is_given(value) or draft.is_public(value)):
            continue  # an output needs a value of its own
        draft.attempt(
            Step(
                kind="identity",
                layers=(node,),
                removed=(node,),
                into=None,
                source=value,
                value=node.name,
            )
        )


def _is_nothing(draft: Draft, node: Node) -> bool:
    shape = draft.shapes[node.inputs[0]]
    if shape is None or shape != draft.shapes[node.name]:
        return False
    channels = shape[1] if isinstance(node.op, Conv) else shape[-1]
    if draft.nonzeros(node) != channels:
        return False
    return is_identity(draft.layer(node), shape[2:])
