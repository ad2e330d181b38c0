"""The mapping table, third part: what moves elements without computing anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from convsmith.graph import Shape
from convsmith.graph.operators import (
    Cast,
    Concat,
    Expand,
    Flatten,
    Identity,
    Pad,
    Reshape,
    Slice,
    Split,
    Transpose,
)
from convsmith.sources.torch.call import Call, Unmapped, maps
from convsmith.sources.torch.memory import numpy_name

__all__: list[str] = []


# The same elements -------------------------------------------------------------------------


@maps("contiguous", "clone", "detach", "alias", "lift_fresh", "lift", "positive", "requires_grad")
def _(call: Call) -> str:
    return call.value(call.first)


@maps("to", "_to_copy", "type_as")
def _(call: Call) -> str:
    before, after = call.first.dtype, call.outputs[0].dtype
    if before == after:
        return call.value(call.first)
    if after.is_complex or before.is_complex:
        raise Unmapped
    op = Identity(kind="cast") if after.is_floating_point else Cast(dtype=numpy_name(after))
    return call.add(op, step="cast")


@maps("copy")
def _(call: Call) -> str:
    source = call["src"]
    if tuple(source.shape) == tuple(call["self"].shape):
        return call.value(source)
    return call.add(Expand(shape=tuple(call["self"].shape)), source)


@maps("fill", "zero")
def _(call: Call) -> str:
    value = call.arguments.get("value", 0)
    if isinstance(value, torch.Tensor):
        if value.is_meta:
            raise Unmapped
        value = value.item()
    x = call["self"]
    filled = torch.full(tuple(x.shape), value, dtype=x.dtype, device="cpu")
    recorder = call.recorder
    return recorder.constant(filled, recorder.names.next_name(call.name) + ".operand")


@maps("view", "reshape", "_unsafe_view", "_reshape_alias")
def _(call: Call) -> str:
    given = call.arguments.get("size", call.arguments.get("shape"))
    if not isinstance(given, list | tuple):
        raise Unmapped  # the same bytes seen as another type
    return _reshape(call, tuple(given))


@maps("flatten", "squeeze", "unsqueeze", "unflatten", "squeeze_copy", "unsqueeze_copy")
def _(call: Call) -> str:
    return _reshape(call, call.shape)


def _reshape(call: Call, given: Shape) -> str:
    x = call.first
    before, after = tuple(x.shape), call.shape
    if before == after:
        return call.value(x)
    if _joins_behind(before, after):
        return call.add(Flatten(axis=len(after) - 1))
    if -1 not in given and after and before and before[0] == after[0] and 0 not in after:
        given = (-1, *given[1:])  # any batch: the sizes behind it are the same
    return call.add(Reshape(shape=given))


def _joins_behind(before: Shape, after: Shape) -> bool:
    """Whether only the last axes were joined into one, and at least two of them."""
    kept = len(after) - 1
    return 1 <= kept < len(before) - 1 and before[:kept] == after[:kept]


@maps("permute")
def _(call: Call) -> str:
    rank = call.first.dim()
    return _transpose(call, [axis % rank for axis in call["dims"]])


@maps("transpose", "t", "swapaxes", "swapdims")
def _(call: Call) -> str:
    rank = call.first.dim()
    order = list(range(rank))
    given = [value for name, value in call.arguments.items() if name != "self"] or [0, 1]
    if rank > 1:
        one, other = (axis % rank for axis in given)
        order[one], order[other] = order[other], order[one]
    return _transpose(call, order)


def _transpose(call: Call, order: Sequence[int]) -> str:
    if list(order) == sorted(order):
        return call.value(call.first)
    return call.add(Transpose(permutation=tuple(order)))


@maps("expand")
def _(call: Call) -> str:
    if tuple(call.first.shape) == call.shape:
        return call.value(call.first)
    return call.add(Expand(shape=call.shape))


@maps("channel_shuffle", "native_channel_shuffle")
def _(call: Call) -> str:
    x = call.first
    groups, (_, channels, *spatial) = call["groups"], x.shape
    split = call.add(Reshape(shape=(-1, groups, channels // groups, *spatial)), step="split")
    order = (0, 2, 1, *range(3, x.dim() + 1))
    moved = call.add(Transpose(permutation=order), split, step="transpose")
    return call.add(Reshape(shape=(-1, channels, *spatial)), moved)


# Parts and wholes --------------------------------------------------------------------------


@maps("cat", "concat", "concatenate")
def _(call: Call) -> str:
    parts = [t for t in call["tensors"] if tuple(t.shape) != (0,)]  # torch skips these
    if len(parts) == 1:
        return call.value(parts[0])
    return call.add(Concat(axis=call["dim"] % parts[0].dim()), *parts)


@maps("stack")
def _(call: Call) -> str:
    parts, rank = call["tensors"], len(call.shape)
    axis = call["dim"] % rank
    shape = (*call.shape[:axis], 1, *call.shape[axis + 1 :])
    opened = [call.add(Reshape(shape=shape), part, step="unsqueeze") for part in parts]
    return opened[0] if len(opened) == 1 else call.add(Concat(axis=axis), *opened)


@maps("repeat")
def _(call: Call) -> str:
    x = call.first
    times = tuple(call["repeats"])
    value = call.value(x)
    if len(times) > x.dim():
        shape = (*(1,) * (len(times) - x.dim()), *x.shape)
        value = call.add(Reshape(shape=shape), value, step="unsqueeze")
    if 0 in times:
        raise Unmapped
    for axis, count in enumerate(times):
        if count > 1:
            value = call.add(Concat(axis=axis), *(value,) * count)
    return value


@maps("split", "split_with_sizes", "chunk", "unsafe_chunk", "unsafe_split", "tensor_split")
def _(call: Call) -> str | tuple[str, ...]:
    axis = call["dim"] % call.first.dim()
    if len(call.outputs) == 1:
        return call.value(call.first)
    return call.add_all(Split(sizes=tuple(o.shape[axis] for o in call.outputs), axis=axis))


@maps("unbind")
def _(call: Call) -> tuple[str, ...]:
    axis = call["dim"] % call.first.dim()
    parts: tuple[str, ...] = (call.value(call.first),)
    if len(call.outputs) > 1:
        parts = call.add_all(Split(sizes=(1,) * len(call.outputs), axis=axis))
    return tuple(call.add(Reshape(shape=call.shape), part, step="squeeze") for part in parts)


@maps("slice")
def _(call: Call) -> str:
    x = call.first
    axis = call["dim"] % x.dim()
    size, step = x.shape[axis], call["step"]
    start, stop = (
        min(max(position + size if position < 0 else position, 0), size)
        for position in (
            0 if call["start"] is None else call["start"],
            size if call["end"] is None else call["end"],
        )
    )
    if start == 0 and stop == size and step == 1:
        return call.value(x)
    return call.add(Slice(ranges=((axis, start, None if stop == size else stop, step),)))


@maps("roll")
def _(call: Call) -> str:
    x, shifts, axes = call.first, call["shifts"], call["dims"]
    value = call.value(x)
    if not axes:  # over all elements as one row
        cut = -shifts[0] % max(x.numel(), 1)
        flat = call.add(Reshape(shape=(-1,)), value, step="flatten")
        tail = call.add(Slice(ranges=((0, cut, None, 1),)), flat, step="slice")
        head = call.add(Slice(ranges=((0, 0, cut, 1),)), flat, step="slice")
        joined = call.add(Concat(axis=0), tail, head)
        return call.add(Reshape(shape=tuple(x.shape)), joined, step="view")
    for shift, given in zip(shifts, axes, strict=True):
        axis = given % x.dim()
        cut = -shift % x.shape[axis]
        if cut:
            tail = call.add(Slice(ranges=((axis, cut, None, 1),)), value, step="slice")
            head = call.add(Slice(ranges=((axis, 0, cut, 1),)), value, step="slice")
            value = call.add(Concat(axis=axis), tail, head)
    return value


@maps("select")
def _(call: Call) -> str:
    x = call.first
    axis = call["dim"] % x.dim()
    at = call["index"] % x.shape[axis]
    piece = call.add(Slice(ranges=((axis, at, at + 1, 1),)), step="slice")
    return call.add(Reshape(shape=call.shape), piece)


_Mode = Literal["constant", "reflect", "edge", "wrap"]
_MODES: dict[str, _Mode] = {
    "constant": "constant",
    "reflect": "reflect",
    "replicate": "edge",
    "circular": "wrap",
}


@maps(
    "pad",
    "constant_pad_nd",
    *(f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)),
)
def _(call: Call) -> str:
    if call.name.startswith("reflection"):
        mode: _Mode = "reflect"
    elif call.name.startswith("replication"):
        mode = "edge"
    else:
        mode = _MODES[call.arguments.get("mode", "constant")]
    x = call.first
    given = call.arguments.get("pad", call.arguments.get("padding"))
    pairs = list(zip(given[::2], given[1::2], strict=True))[::-1]  # torch: last axis first
    padding = ((0, 0),) * (x.dim() - len(pairs)) + tuple(pairs)
    if not any(given):
        return call.value(x)
    value = call.arguments.get("value") if mode == "constant" else None
    return call.add(Pad(padding=padding, mode=mode, value=float(value or 0)))
