"""The table of lowerings, part two: pooling and interpolation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from convsmith.graph import Node
from convsmith.graph.interpolation import taps
from convsmith.graph.operators import AdaptivePool, GlobalPool, Pool, Resize
from convsmith.graph.shape import resolve_padding
from convsmith.runtime.kernels.kernel import address
from convsmith.runtime.kernels.pools import WIDEST, GlobalPooling, Pooling
from convsmith.runtime.kernels.taps import Taps
from convsmith.runtime.lowering.lowering import Lowering, lower
from convsmith.runtime.steps import Phase, Scratch, Word

__all__ = ["global_pool"]

_Three = tuple[int, int, int]
_MOST_TAPS = 64


def three(values: Sequence[int], fill: int) -> _Three:
    """Returns one to three numbers as three, the missing ones in front."""
    full = (*(fill,) * (3 - len(values)), *values)
    return full[0], full[1], full[2]


def global_pool(low: Lowering, node: Node, kind: Literal["max", "average"]) -> bool:
    """Lowers the maximum or the mean of all pixels."""
    value = node.inputs[0]
    tensor = low.tensor(value)
    shape = tensor.shape
    out = low.make(node.name, last=tensor.last)
    kernel = GlobalPooling(
        kind=kind, last=tensor.last, batch=shape[0], channels=shape[1], pixels=math.prod(shape[2:])
    )
    low.kernel(node, kernel, out, [tensor.address], algorithm="sum")
    return True


@lower.register
def _(op: GlobalPool, low: Lowering, node: Node) -> bool:
    return global_pool(low, node, op.kind)


def _counts(op: Pool, shape: Sequence[int], outputs: Sequence[int]) -> list[NDArray[np.float32]]:
    """Per axis and output, how many elements a mean divides by."""
    found = []
    padding = resolve_padding(op, tuple(shape))
    for size, out, k, s, d, (low, high) in zip(
        shape, outputs, op.kernel, op.stride, op.dilation, padding, strict=True
    ):
        at = np.arange(out)[:, None] * s + np.arange(k) * d
        begin, end = (0, low + size + high) if op.count_padding else (low, low + size)
        found.append(((at >= begin) & (at < end)).sum(1).astype(np.float32))
    return found


@lower.register
def _(op: Pool, low: Lowering, node: Node) -> bool:
    rank = len(op.kernel)
    value = node.inputs[0]
    shape, made = low.shape(value), low.shape(node.name)
    padding = resolve_padding(op, shape[2:])
    if op.indices or rank > 3 or min(side for pair in padding for side in pair) < 0:
        return False
    if made[-1] * op.stride[-1] + op.kernel[-1] * op.dilation[-1] > WIDEST or shape[-1] > WIDEST:
        return False
    counts = _counts(op, shape[2:], made[2:])
    even = 0
    if op.kind == "average":
        if min(float(c.min()) for c in counts) < 1:
            return False
        if all(c.min() == c.max() for c in counts):
            even = int(math.prod(float(c[0]) for c in counts))
    tensor = low.dense(value, last=low.last)
    out = low.make(node.name, last=tensor.last)
    kernel = Pooling(
        kind=op.kind,
        last=tensor.last,
        batch=shape[0],
        channels=shape[1],
        size=three(shape[2:], 1),
        output=three(made[2:], 1),
        kernel=three(op.kernel, 1),
        stride=three(op.stride, 1),
        dilation=three(op.dilation, 1),
        before=three([pair[0] for pair in padding], 0),
        even=even,
    )
    words: list[Word] = [tensor.address]
    keeps: tuple[Any, ...] = ()
    if op.kind == "average" and not even:
        table = np.concatenate([np.ones(3 - rank, np.float32), *counts])
        keeps = (table,)
        words.append(table.ctypes.data)
    low.kernel(node, kernel, out, words, algorithm="windows", keeps=keeps)
    return True


@lower.register
def _(op: Resize, low: Lowering, node: Node) -> bool:
    shape, made = low.shape(node.inputs[0]), low.shape(node.name)
    rows: list[list[list[tuple[int, float]]] | None] = []
    for axis, (before, after) in enumerate(zip(shape[2:], made[2:], strict=True)):
        if before == after and (op.alignment == "align_corners" or not op.scale):
            rows.append(None)  # every output lies on its own input
        else:
            rows.append([taps(op, o, before, after, axis) for o in range(after)])
    return _along_axes(low, node, rows)


@lower.register
def _(op: AdaptivePool, low: Lowering, node: Node) -> bool:
    shape, made = low.shape(node.inputs[0]), low.shape(node.name)
    if all(size == 1 for size in made[2:]):
        return global_pool(low, node, op.kind)
    if op.kind != "average":
        return False
    rows: list[list[list[tuple[int, float]]] | None] = []
    for before, after in zip(shape[2:], made[2:], strict=True):
        if before == after:
            rows.append(None)
            continue
        axis = []
        for o in range(after):
            begin, end = o * before // after, -(-(o + 1) * before // after)
            axis.append([(i, 1 / (end - begin)) for i in range(begin, end)])
        rows.append(axis)
    return _along_axes(low, node, rows)


def _along_axes(
    low: Lowering, node: Node, rows: Sequence[list[list[tuple[int, float]]] | None]
) -> bool:
    """Lowers weighted sums along one spatial axis after the other; what shrinks comes first."""
    made = low.shape(node.name)
    most = max((len(r) for axis in rows if axis is not None for r in axis), default=0)
    work = [axis for axis, table in enumerate(rows) if table is not None]
    if most > _MOST_TAPS:
        return False
    tensor = low.tensor(node.inputs[0])
    if not work:
        low.alias(node.name, tensor)
        return True
    out = low.make(node.name, last=tensor.last)
    shape = list(tensor.shape)
    work.sort(key=lambda axis: made[2 + axis] / shape[2 + axis])
    phases, keeps = [], []
    source: Word = tensor.address
    scratch = 0
    for number, axis in enumerate(work):
        table = rows[axis]
        assert table is not None
        count = max(map(len, table))
        padded = [[*row, *[(row[0][0], 0.0)] * (count - len(row))] for row in table]
        weights = np.array([[w for _, w in row] for row in padded], np.float32)
        keeps.append(weights)
        memory = [shape[0], *shape[2:], shape[1]] if tensor.last else list(shape)
        place = axis + (1 if tensor.last else 2)
        kernel = Taps(
            outer=math.prod(memory[:place]),
            before=memory[place],
            after=made[2 + axis],
            inner=math.prod(memory[place + 1 :]),
            taps=count,
        )
        shape[2 + axis] = made[2 + axis]
        to: Word = out.address
        if number + 1 < len(work):
            to = Scratch(offset=scratch)
            scratch += -(-math.prod(shape) // 16) * 16
        indices = [index for row in padded for index, _ in row]
        phases.append(
            Phase(
                function=address(kernel),
                items=kernel.items,
                words=(to, source, weights.ctypes.data, *indices),
            )
        )
        source = to
    low.step(node, phases, algorithm="interpolation", out=out, scratch=scratch, keeps=tuple(keeps))
    return True
