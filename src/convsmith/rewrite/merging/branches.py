"""Rules about layers that read the same value.

``parallel``: branches that are summed (RepVGG: Ding et al., 2021, arXiv:2101.03697, section 3.3;
ACNet: Ding et al., 2019, arXiv:1908.03930, section 3.3), as one layer. Kernels are padded with
zeros to the grid that has the taps of both; a branch that passes its input through, or maps it
per channel, is a kernel of one element. ``zero``: branches without any weight other than 0, left
out of their sum. ``concat``: branches whose channels stand side by side, as one wider layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from convsmith.graph import Node
from convsmith.graph.affine import Affine
from convsmith.graph.fragment import ConvStep
from convsmith.graph.operators import Concat, Conv, Elementwise, Linear
from convsmith.rewrite.merging.draft import Draft
from convsmith.rewrite.merging.kernels import (
    concatenated_op,
    concatenation,
    pointwise_layer,
    sum_of,
    summed_op,
)
from convsmith.rewrite.merging.maps import channel_map
from convsmith.rewrite.merging.steps import Step

__all__ = ["drop_zeros", "merge_concatenations", "merge_sums"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Leaf:
    """One operand of a sum, through sums of sums.

    Attributes:
        value: The operand.
        total: The node that adds or subtracts it.
        place: Which of the node's operands it is.
        sign: 1 or -1 in the whole sum.
        node: The layer that makes it, if nobody else reads what it makes.
    """

    value: str
    total: Node
    place: int
    sign: int
    node: Node | None

    @property
    def local(self) -> int:
        """Its sign in the node that adds or subtracts it."""
        return -1 if _op(self.total) == "sub" and self.place else 1

    @property
    def can_go(self) -> bool:
        """Whether the node means the same to its other operands without it."""
        return _op(self.total) == "add" or self.place > 0


def _op(node: Node) -> str:
    assert isinstance(node.op, Elementwise)
    return node.op.kind


def _is_sum(draft: Draft, node: Node | None) -> bool:
    """Whether a node adds or subtracts values of one size, none of them constant."""
    if node is None or not isinstance(node.op, Elementwise):
        return False
    shape = draft.shapes[node.name]
    return (
        node.op.kind in ("add", "sub")
        and len(node.inputs) > 1
        and shape is not None
        and all(draft.shapes[value] == shape for value in node.inputs)
    )


def _leaves(draft: Draft, total: Node, sign: int) -> Iterator[_Leaf]:
    for place, value in enumerate(total.inputs):
        own = -sign if _op(total) == "sub" and place else sign
        node = draft.producer(value)
        if draft.only_user(value) is not total:
            node = None
        if node is not None and _is_sum(draft, node):
            yield from _leaves(draft, node, own)
        else:
            yield _Leaf(value=value, total=total, place=place, sign=own, node=node)


def _sums(draft: Draft) -> Iterator[list[_Leaf]]:
    """The operands of every sum that is not part of another one."""
    for name in list(draft.nodes):
        node = draft.nodes.get(name)
        if node is None or not _is_sum(draft, node):
            continue
        if not _is_sum(draft, draft.only_user(node.name)):
            yield list(_leaves(draft, node, 1))


# Sums of layers ----------------------------------------------------------------------------


def merge_sums(draft: Draft) -> None:
    """Merges branches of every sum, two at a time, as long as two fit."""
    while any(_merge_two(draft, leaves) for leaves in _sums(draft)):
        pass


def _merge_two(draft: Draft, leaves: list[_Leaf]) -> bool:
    layers = [leaf for leaf in leaves if leaf.node and isinstance(leaf.node.op, Conv | Linear)]
    for kept in layers:
        for other in leaves:
            if other is not kept and _merge(draft, kept, other):
                return True
    return False


def _merge(draft: Draft, kept: _Leaf, other: _Leaf) -> bool:
    one, total = kept.node, other.total
    assert one is not None
    assert isinstance(one.op, Conv | Linear)
    source = one.inputs[0]
    spatial = draft.spatial(source)
    branch = _as_branch(draft, other, one, source)
    if branch is None or spatial is None:
        return False
    whole = False  # whether the merged layer stands for the node that subtracts
    if not other.can_go:
        whole = kept.total is total and len(total.inputs) == 2
        if branch.is_layer or not whole:
            return False  # a layer's turn comes with the roles exchanged
    nodes = (one,) if branch.node is None else (one, branch.node)
    if any(draft.is_shared(each) for each in nodes):
        draft.block((*nodes, total), "another layer has the same weights")
        return False
    if branch.is_layer and draft.dtype(one) != draft.dtype(nodes[-1]):
        return False
    op = summed_op(one.op, branch.op, spatial)
    if isinstance(op, str):
        draft.block((*nodes, total), op)
        return False
    signs = (kept.local, other.local) if whole else (1, kept.sign * other.sign)

    def make() -> ConvStep:
        return sum_of(draft.layer(one), branch.make(), op, spatial, signs)

    return draft.attempt(
        Step(
            kind="parallel",
            layers=(*nodes, *_listed(total if whole else draft.goes_with(total, other.place))),
            removed=(*nodes[1:], *((total,) if whole else ())),
            into=one,
            op=op,
            source=source,
            value=total.name if whole else one.name,
            drop=None if whole else (total, other.place),
        ),
        make,
    )


def _listed(node: Node | None) -> tuple[Node, ...]:
    return () if node is None else (node,)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Branch:
    """An operand as a layer over the value that the other branch reads.

    Attributes:
        op: The layer.
        make: Returns it with its numbers.
        node: The node that goes with it; ``None``: the value itself passes through.
        is_layer: Whether that node is a layer.
    """

    op: Conv | Linear
    make: Callable[[], ConvStep]
    node: Node | None
    is_layer: bool = False


def _as_branch(draft: Draft, leaf: _Leaf, like: Node, source: str) -> _Branch | None:
    assert isinstance(like.op, Conv | Linear)
    shape = draft.shapes[source]
    if shape is None:
        return None
    axis = 1 if isinstance(like.op, Conv) else len(shape) - 1
    node = leaf.node
    if leaf.value == source:
        affine = Affine(scale=np.ones(shape[axis]), shift=np.zeros(shape[axis]))
        layer = pointwise_layer(like.op, affine)
        return _Branch(op=layer.op, make=lambda: layer, node=None)
    if node is None:
        return None
    if isinstance(node.op, Conv | Linear):
        if node.inputs[0] != source:
            return None
        return _Branch(op=node.op, make=lambda: draft.layer(node), node=node, is_layer=True)
    found = channel_map(draft, node)
    if found is None or found[0] != source or found[2] not in (axis, None):
        return None
    affine = Affine(
        scale=np.broadcast_to(found[1].scale, (shape[axis],)),
        shift=np.broadcast_to(found[1].shift, (shape[axis],)),
    )
    mapped = pointwise_layer(like.op, affine)
    return _Branch(op=mapped.op, make=lambda: mapped, node=node)


def drop_zeros(draft: Draft) -> None:
    """Leaves branches out of their sum whose last layer has nothing but zeros."""
    for leaves in _sums(draft):
        for leaf in leaves:
            node = leaf.node
            if node is None or not isinstance(node.op, Conv | Linear) or not leaf.can_go:
                continue
            if not draft.is_zero(node):
                continue
            left = [value for i, value in enumerate(leaf.total.inputs) if i != leaf.place]
            if draft.is_public(leaf.total.name) and len(left) == 1 and (
                draft.is_given(left[0]) or draft.is_public(left[0])
            ):  # fmt: skip
                continue  # an output needs a value of its own
            gone = draft.served_only(node)
            taken = draft.goes_with(leaf.total, leaf.place)
            rest = left[0] if taken is leaf.total else leaf.total.name
            done = draft.attempt(
                Step(
                    kind="zero",
                    layers=(*gone, *_listed(taken)),
                    removed=gone,
                    into=None,
                    source=rest,
                    value=rest,
                    drop=(leaf.total, leaf.place),
                )
            )
            if done:
                break  # the operands are others now


# Concatenations of layers ------------------------------------------------------------------


def merge_concatenations(draft: Draft) -> None:
    """Merges neighbours in every concatenation of channels."""
    for name in list(draft.nodes):
        while (node := draft.nodes.get(name)) is not None and _merge_neighbours(draft, node):
            pass


def _merge_neighbours(draft: Draft, node: Node) -> bool:
    if not isinstance(node.op, Concat):
        return False
    shape = draft.shapes[node.name]
    if shape is None:
        return False
    for place, (left, right) in enumerate(zip(node.inputs, node.inputs[1:], strict=False)):
        one, two = draft.producer(left), draft.producer(right)
        if one is None or two is None or one is two or one.inputs[:1] != two.inputs[:1]:
            continue
        if not isinstance(one.op, Conv | Linear) or not isinstance(two.op, Conv | Linear):
            continue
        axis = 1 if isinstance(one.op, Conv) else len(shape) - 1
        if node.op.axis % len(shape) != axis:
            continue
        if draft.only_user(left) is not node or draft.only_user(right) is not node:
            continue
        if draft.is_shared(one) or draft.is_shared(two) or draft.dtype(one) != draft.dtype(two):
            continue
        op = concatenated_op(one.op, two.op)
        made = draft.shapes[one.name]
        if op is None or made is None:
            continue
        step = Step(
            kind="concat",
            layers=(one, two, *_listed(draft.goes_with(node, place + 1))),
            removed=(two,),
            into=one,
            op=op,
            source=one.inputs[0],
            value=one.name,
            shape=(*made[:axis], op.channels, *made[axis + 1 :]),
            drop=(node, place + 1),
        )
        if draft.attempt(step, partial(_wider, draft, one, two, op)):
            return True
    return False


def _wider(draft: Draft, one: Node, two: Node, op: Conv | Linear) -> ConvStep:
    return concatenation(draft.layer(one), draft.layer(two), op)
