"""Rule ``norm``: batch normalizations and other affine maps, folded into a layer beside them.

Rule ``identity``: what changes nothing, removed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Place:
    """A layer that could do the work of an affine map beside its own.

    Attributes:
        layer: The layer; ``None`` or another operator: there is none.
        image: The value that the map is of, where the layer makes or reads it.
        axis: Along which the map has its numbers there; ``None``: one number for all.
        fold: How weights and map become weights.
        source: What the layer reads from then on.
        value: The value that it makes from then on.
        drop: The node that loses its constant, and which operand that is; ``None``: it goes.
        refusal: Why not; empty if nothing speaks against it.
    """

    layer: Node | None
    image: str
    axis: int | None
    fold: _Fold
    source: str = ""
    value: str
    drop: tuple[Node, int] | None = None
    refusal: str = ""


def fold_norms(draft: Draft) -> None:
    """Folds every affine map into the layer in front of it or, failing that, behind it."""
    for name in list(draft.nodes):
        node = draft.nodes.get(name)
        found = channel_map(draft, node) if node is not None else None
        if node is None or found is None:
            continue
        for find in (_in_front, _beyond_transposes, _behind):
            place = find(draft, node, *found)
            if place is not None and _fold(draft, node, found[1], place):
                break


def _in_front(draft: Draft, node: Node, value: str, affine: Affine, axis: int | None) -> _Place:
    """The layer that makes the value."""
    alone = draft.only_user(value) is node
    return _Place(
        layer=draft.producer(value),
        image=value,
        axis=axis,
        fold=fold_behind,
        value=node.name,
        refusal="" if alone else draft.why_not_alone(value),
    )


def _beyond_transposes(
    draft: Draft, node: Node, value: str, affine: Affine, axis: int | None
) -> _Place | None:
    """The layer that makes the value, where its axes are moved in between.

    So layer scales stand behind linear layers: Liu et al., 2022, arXiv:2201.03545 (ConvNeXt).
    """
    if not isinstance(node.op, Elementwise) or len(node.inputs) != 2:
        return None
    start, reader = value, node
    while (moved := draft.producer(value)) is not None and isinstance(moved.op, Transpose):
        if draft.only_user(value) is not reader:
            return None
        axis = None if axis is None else moved.op.permutation[axis]
        value, reader = moved.inputs[0], moved
    if value == start or draft.only_user(value) is not reader:
        return None
    return _Place(
        layer=draft.producer(value),
        image=value,
        axis=axis,
        fold=fold_behind,
        value=value,
        drop=(node, 1 - node.inputs.index(start)),
    )


def _behind(
    draft: Draft, node: Node, value: str, affine: Affine, axis: int | None
) -> _Place | None:
    """The layer that reads what the node makes."""
    after = draft.only_user(node.name)
    if after is None:
        return None
    cut = affine.shift.any() and not _sums_all(draft, after)
    return _Place(
        layer=after,
        image=node.name,
        axis=axis,
        fold=fold_before,
        source=value,
        value=after.name,
        refusal="its shift is missing in the border that the convolution pads" if cut else "",
    )


def _fold(draft: Draft, node: Node, affine: Affine, place: _Place) -> bool:
    """Folds the map of a node into a layer, if the layer can take it and nobody else minds."""
    layer, shape = place.layer, draft.shapes[place.image]
    if layer is None or not isinstance(layer.op, Conv | Linear) or shape is None:
        return False
    axis = 1 if isinstance(layer.op, Conv) else len(shape) - 1
    if place.axis not in (axis, None):
        return False
    layers = (layer, node) if place.fold is fold_behind else (node, layer)
    refusal = place.refusal
    if not refusal and (draft.is_shared(layer) or draft.is_shared(node)):
        refusal = "another layer has the same weights"
    if refusal:
        draft.block(layers, refusal)
        return False
    affine = Affine(
        scale=np.broadcast_to(affine.scale, (shape[axis],)),
        shift=np.broadcast_to(affine.shift, (shape[axis],)),
    )
    op = replace(layer.op, bias=layer.op.bias or bool(affine.shift.any()))

    def make() -> ConvStep:
        old = draft.layer(layer)
        weight, bias = place.fold(old.op, old.weight, old.bias, affine)
        return ConvStep(op=op, weight=weight, bias=bias if op.bias else None)

    return draft.attempt(
        Step(
            kind="norm",
            layers=layers,
            removed=() if place.drop is not None else (node,),
            into=layer,
            op=op,
            source=place.source or layer.inputs[0],
            value=place.value,
            drop=place.drop,
        ),
        make,
    )


def _sums_all(draft: Draft, node: Node) -> bool:
    """Whether every output of a layer sums up its whole kernel over pixels that are there."""
    op = node.op
    if not isinstance(op, Conv):
        return True
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
