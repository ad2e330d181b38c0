"""The table of lowerings, part three: what moves elements, or only says how they lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from convsmith.graph import Node
from convsmith.graph.operators import (
    Concat,
    DepthToSpace,
    Expand,
    Flatten,
    Flip,
    Identity,
    Pad,
    Reshape,
    Slice,
    SpaceToDepth,
    Split,
    Transpose,
)
from convsmith.runtime.kernels.kernel import address
from convsmith.runtime.kernels.maps import Instruction, Map
from convsmith.runtime.lowering.lowering import Lowering, copy_phase, layout_of, lower
from convsmith.runtime.steps import Phase, Step, Storage, Tensor

__all__: list[str] = []


# Views ---------------------------------------------------------------------------------


@lower.register
def _(op: Identity, low: Lowering, node: Node) -> bool:
    low.alias(node.name, low.tensor(node.inputs[0]))
    return True


def _reshaped(low: Lowering, node: Node) -> bool:
    tensor = low.dense(node.inputs[0], last=False)
    low.alias(node.name, replace(tensor, shape=low.shape(node.name), last=False))
    return True


@lower.register
def _(op: Reshape, low: Lowering, node: Node) -> bool:
    return _reshaped(low, node)


@lower.register
def _(op: Flatten, low: Lowering, node: Node) -> bool:
    return _reshaped(low, node)


# Copies of boxes -----------------------------------------------------------------------


def _from(
    low: Lowering, node: Node, value: str, offset: int, strides: Sequence[int], *, last: bool
) -> None:
    """Makes a value whose elements lie in another tensor, at an offset and with strides."""
    source = low.tensor(node.inputs[0])
    shape = low.shape(value)
    last = last and len(shape) > 2
    dense = Tensor(shape=shape, last=last, storage=source.storage).strides
    if all(a == b or size == 1 for a, b, size in zip(strides, dense, shape, strict=True)):
        # It lies there as it has to.
        tensor = Tensor(
            shape=shape, last=last, storage=source.storage, offset=source.offset + offset
        )
        low.alias(value, tensor)
        return
    out = low.make(value, last=last)
    phase = copy_phase(shape, out, out.strides, source, strides, offset=offset)
    low.step(node, [phase], algorithm="copy", out=out)


@lower.register
def _(op: Slice, low: Lowering, node: Node) -> bool:
    source = low.tensor(node.inputs[0])
    strides = list(source.strides)
    offset = 0
    for axis, start, stop, step in op.ranges:
        axis %= len(strides)
        first, _, by = slice(start, stop, step).indices(source.shape[axis])
        offset += first * source.strides[axis]
        strides[axis] *= by
    if len({axis % len(strides) for axis, *_ in op.ranges}) < len(op.ranges):
        return False
    _from(low, node, node.name, offset, strides, last=source.last)
    return True


@lower.register
def _(op: Split, low: Lowering, node: Node) -> bool:
    source = low.tensor(node.inputs[0])
    axis = op.axis % len(source.shape)
    offset = 0
    for value, size in zip(node.outputs, op.sizes, strict=True):
        _from(low, node, value, offset, source.strides, last=source.last)
        offset += size * source.strides[axis]
    return True


@lower.register
def _(op: Flip, low: Lowering, node: Node) -> bool:
    source = low.tensor(node.inputs[0])
    strides = list(source.strides)
    offset = 0
    for axis in {axis % len(strides) for axis in op.axes}:
        offset += (source.shape[axis] - 1) * strides[axis]
        strides[axis] = -strides[axis]
    _from(low, node, node.name, offset, strides, last=source.last)
    return True


@lower.register
def _(op: Transpose, low: Lowering, node: Node) -> bool:
    source = low.tensor(node.inputs[0])
    strides = [source.strides[axis] for axis in op.permutation]
    shape = low.shape(node.name)
    as_last = Tensor(shape=shape, last=True, storage=source.storage).strides
    lies = all(a == b or n == 1 for a, b, n in zip(strides, as_last, shape, strict=True))
    _from(low, node, node.name, 0, strides, last=lies and len(shape) > 2)
    return True


@lower.register
def _(op: Expand, low: Lowering, node: Node) -> bool:
    source = low.tensor(node.inputs[0])
    shape = low.shape(node.name)
    steps = [
        0 if size == 1 else step for size, step in zip(source.shape, source.strides, strict=True)
    ]
    strides = [0] * (len(shape) - len(steps)) + steps
    _from(low, node, node.name, 0, strides, last=source.last and len(source.shape) == len(shape))
    return True


@lower.register
def _(op: DepthToSpace, low: Lowering, node: Node) -> bool:
    return _shuffled(op, low, node, to_space=True)


@lower.register
def _(op: SpaceToDepth, low: Lowering, node: Node) -> bool:
    return _shuffled(op, low, node, to_space=False)


def _shuffled(
    op: DepthToSpace | SpaceToDepth, low: Lowering, node: Node, *, to_space: bool
) -> bool:
    """Copies a box with an axis per block axis: n, inner channel, blocks, small pixels."""
    source = low.tensor(node.inputs[0])
    out = low.make(node.name, last=source.last)
    deep, wide = (source, out) if to_space else (out, source)
    blocks = math.prod(op.block)
    inner = deep.shape[1] // blocks
    sizes = (deep.shape[0], inner, *op.block, *deep.shape[2:])
    step = deep.strides[1]
    if op.order == "crd":
        channel = step * blocks
        block = [step * math.prod(op.block[i + 1 :]) for i in range(len(op.block))]
    else:
        channel = step
        block = [step * inner * math.prod(op.block[i + 1 :]) for i in range(len(op.block))]
    of_deep = (deep.strides[0], channel, *block, *deep.strides[2:])
    of_wide = (
        *wide.strides[:2],
        *wide.strides[2:],
        *(step * size for step, size in zip(wide.strides[2:], op.block, strict=True)),
    )
    pair = (of_wide, of_deep) if to_space else (of_deep, of_wide)
    low.step(node, [copy_phase(sizes, out, pair[0], source, pair[1])], algorithm="copy", out=out)
    return True


@lower.register
def _(op: Pad, low: Lowering, node: Node) -> bool:
    """Fills everything, then copies what is kept."""
    if op.mode != "constant":
        return False
    source = low.tensor(node.inputs[0])
    out = low.make(node.name, last=source.last)
    fill = Map.of(
        (out.elements,), (1,), [], [Instruction(name="constant", registers=(), numbers=(op.value,))]
    )
    phases = [Phase(function=address(fill), items=fill.items, words=(out.address,))]
    kept = [
        size - max(0, -before) - max(0, -after)
        for size, (before, after) in zip(source.shape, op.padding, strict=True)
    ]
    if min(kept) > 0:
        to = sum(max(0, p[0]) * s for p, s in zip(op.padding, out.strides, strict=True))
        at = sum(max(0, -p[0]) * s for p, s in zip(op.padding, source.strides, strict=True))
        phases.append(
            copy_phase(kept, out, out.strides, source, source.strides, to_offset=to, offset=at)
        )
    low.step(node, phases, algorithm="copy", out=out)
    return True


# Concatenation -------------------------------------------------------------------------


@lower.register
def _(op: Concat, low: Lowering, node: Node) -> bool:
    """Lets values be made where they are concatenated, and copies what cannot be."""
    shape = low.shape(node.name)
    axis = op.axis % len(shape)
    tensors = [low.tensor(value) for value in node.inputs]
    votes = sum(t.elements for t in tensors if t.last)
    last = len(shape) > 2 and 2 * votes > math.prod(shape)
    out = low.make(node.name, last=last)
    together = math.prod(shape[:axis]) == 1 and not last  # one part lies behind the other
    phases, copied = [], False
    offset = 0
    skip = 0
    for place, (value, tensor) in enumerate(zip(node.inputs, tensors, strict=True)):
        if skip:
            skip -= 1
        elif together and _moves_in(tensor, out.storage, offset):
            pass
        elif together and (run := _moves_in_together(tensors[place:], out.storage, offset)):
            skip = run - 1
        else:
            if tensor.last != last:
                tensor = low.dense(value, last=last)
            phases.append(
                copy_phase(
                    tensor.shape, out, out.strides, tensor, tensor.strides,
                    to_offset=offset * out.strides[axis] if not together else offset,
                )
            )  # fmt: skip
            copied = True
        offset += tensors[place].elements if together else tensors[place].shape[axis]
    if copied:
        low.steps.append(
            Step(
                name=node.name,
                nodes=(node.name,),
                text=low.describe(node),
                algorithm="copy",
                layout=layout_of(out),
                phases=tuple(phases),
            )
        )
    return True


def _free(storage: Storage) -> bool:
    return storage.kind == "arena" and storage.inside is None


def _moves_in(tensor: Tensor, into: Storage, offset: int) -> bool:
    """Makes a tensor that has a storage of its own a part of another one."""
    storage = tensor.storage
    if tensor.last or tensor.offset or storage.elements != tensor.elements or not _free(storage):
        return False
    storage.inside = (into, offset)
    return True


def _moves_in_together(tensors: Sequence[Tensor], into: Storage, offset: int) -> int:
    """Moves the storage that the next tensors were concatenated in before; returns how many."""
    outer = tensors[0].storage.inside
    if outer is None or not _free(outer[0]):
        return 0
    storage, filled = outer[0], 0
    if storage is into:
        return 0  # the same value twice
    for count, tensor in enumerate(tensors, start=1):
        place = tensor.storage.inside
        whole = tensor.offset == 0 and tensor.storage.elements == tensor.elements
        if place is None or place != (storage, filled) or tensor.last or not whole:
            return 0
        filled += tensor.elements
        if filled == storage.elements:
            storage.inside = (into, offset)
            return count
    return 0
