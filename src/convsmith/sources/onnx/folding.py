"""Evaluates nodes whose inputs are known while reading: the arithmetic of shapes.

Exporters write ``Shape -> Gather -> Concat -> Reshape`` where a network means "flatten"; under
given input sizes all of that is constant. Only operators of this table are evaluated, and never
into more elements than their inputs hold or :data:`MOST_ELEMENTS`, whatever a file claims. A
weight that is one number everywhere (``ConstantOfShape``) stays one number in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import AttributeProto, TensorProto, helper

from convsmith.graph.shape import broadcast
from convsmith.sources.onnx.calls import Call, Inexpressible
from convsmith.sources.onnx.tensors import Array, read_tensor

__all__ = ["MOST_ELEMENTS", "VIEWS", "fold", "has_rule"]

MOST_ELEMENTS = 1_000_000
_MOST_ALIKE = 2**28  # elements of a tensor that is one number everywhere

_Rule = Callable[[Call], "Array | None"]


def has_rule(kind: str) -> bool:
    """Whether nodes of this operator are evaluated when their inputs are known."""
    return kind in _RULES or kind in ("Shape", "Size")


def fold(call: Call) -> Array | None:
    """Returns the first output of a node when it is known, else ``None``.

    ``Shape`` and ``Size`` need only the shape of their input.
    """
    kind = call.entry.kind
    if kind in ("Shape", "Size"):
        return _shape(call) if call.shapes[0] is not None else None
    rule = _RULES.get(kind)
    if rule is None:
        return None
    for known, name in zip(call.known, call.entry.inputs, strict=True):
        if not name:
            continue
        if known is None or known.data is None or known.data.dtype.kind not in "biuf":
            return None
        if kind not in _KEEP_ALIKE and known.data.size > _held(known.data):
            return None
    try:
        return rule(call)
    except Inexpressible:
        return None


def _held(data: Array) -> int:
    """How many elements an array really holds, or may be given when it holds fewer."""
    own = data.size if 0 not in data.strides else 0
    return max(own, MOST_ELEMENTS)


def _bounded(call: Call, count: int) -> bool:
    """Whether an output of so many elements may be made: no more than the largest input has."""
    given = (_held(known.data) for known in call.known if known and known.data is not None)
    return 0 <= count <= max(given, default=MOST_ELEMENTS)


def _shape(call: Call) -> Array:
    shape = call.shape(0)
    if call.entry.kind == "Size":
        return np.array(math.prod(shape), np.int64)
    rank = len(shape)
    return np.array(shape[call.integer("start", 0) : call.integer("end", rank)], np.int64)


def _constant_of_shape(call: Call) -> Array | None:
    shape = call.data_ints(0)
    if any(size < 0 for size in shape):
        raise ValueError(f"shape {shape}")
    value: Array = np.zeros(1, np.float32)
    for attribute in call.proto.attribute:
        if attribute.name == "value" and attribute.type == AttributeProto.TENSOR:
            value = _single(attribute.t)
    return np.broadcast_to(value[0], shape) if math.prod(shape) <= _MOST_ALIKE else None


def _single(tensor: TensorProto) -> Array:
    if tensor.data_location == TensorProto.EXTERNAL:
        raise ValueError("the value of ConstantOfShape is in another file")
    data, _ = read_tensor(tensor, Path())
    if data is None or data.size != 1:
        raise ValueError("the value of ConstantOfShape is not one number")
    return data.reshape(1)


def _range(call: Call) -> Array | None:
    start, stop, step = (call.data(i).reshape(()) for i in range(3))
    numbers = [float(x.astype(np.float64)) for x in (start, stop, step)]
    if numbers[2] == 0 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"range {numbers}")
    count = max(math.ceil((numbers[1] - numbers[0]) / numbers[2]), 0)
    if not _bounded(call, count):
        return None
    return np.asarray(np.multiply(np.arange(count), step) + start, start.dtype)


def _reshape(call: Call) -> Array:
    return call.data(0).reshape(call.target_shape())


def _squeeze(call: Call) -> Array:
    axes = call.list_or_input("axes", 1, since=13)
    return np.squeeze(call.data(0), axes)


def _unsqueeze(call: Call) -> Array:
    axes = call.list_or_input("axes", 1, since=13)
    if axes is None or len(axes) > 32:
        raise ValueError(f"axes {axes}")
    return np.expand_dims(call.data(0), axes)


def _flatten(call: Call) -> Array:
    data = call.data(0)
    axis = call.integer("axis", 1)
    axis += data.ndim if axis < 0 else 0
    return data.reshape(math.prod(data.shape[:axis]), math.prod(data.shape[axis:]))


def _transpose(call: Call) -> Array:
    return np.transpose(call.data(0), call.integers("perm"))


def _cast(call: Call) -> Array | None:
    to = call.integer("to", TensorProto.UNDEFINED)
    if to == TensorProto.BFLOAT16 or to not in _NUMBERS:
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        return call.data(0).astype(helper.tensor_dtype_to_np_dtype(to))


_NUMBERS = frozenset(
    getattr(TensorProto, name)
    for name in (
        "FLOAT", "DOUBLE", "FLOAT16", "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16",
        "UINT32", "UINT64",
    )
)  # fmt: skip


def _gather(call: Call) -> Array | None:
    data, places = call.data(0), call.data(1)
    axis = call.axis(call.integer("axis", 0), data.ndim)
    if not _bounded(call, data.size // max(data.shape[axis], 1) * places.size):
        return None
    return np.take(data, places.astype(np.int64), axis=axis)


def _concat(call: Call) -> Array | None:
    parts = [call.data(i) for i in range(call.count)]
    # Weights of the file may be joined; what is made of others would double with every node.
    stored = {k.initializer: k.data.size for k in call.known if k and k.data is not None}
    stored.pop("", None)
    if sum(part.size for part in parts) > max(sum(stored.values()), MOST_ELEMENTS):
        return None
    return np.concatenate(parts, axis=call.integer("axis", 0))


def _slice(call: Call) -> Array:
    data = call.data(0)
    cuts = [slice(None)] * data.ndim
    for axis, start, stop, step in call.cuts():
        before_all = step < 0 and stop < -data.shape[axis]
        cuts[axis] = slice(start, None if before_all else stop, step)
    return data[tuple(cuts)]


def _expand(call: Call) -> Array | None:
    shape = broadcast(call.data(0).shape, call.data_ints(1))
    return np.broadcast_to(call.data(0), shape) if _bounded(call, math.prod(shape)) else None


def _tile(call: Call) -> Array | None:
    repeats = call.data_ints(1)
    if any(count < 0 for count in repeats) or len(repeats) != call.data(0).ndim:
        raise ValueError(f"repeats {repeats}")
    count = call.data(0).size * math.prod(repeats)
    return np.tile(call.data(0), repeats) if _bounded(call, count) else None


def _elementwise(function: Callable[..., Array]) -> _Rule:
    def rule(call: Call) -> Array | None:
        data = [call.data(i) for i in range(call.count)]
        if not _bounded(call, math.prod(broadcast(*(item.shape for item in data)))):
            return None
        with np.errstate(all="ignore"):
            return np.asarray(function(*data))

    return rule


def _many(function: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    def together(*data: Array) -> Array:
        result = data[0]
        for item in data[1:]:
            result = function(result, item)
        return result

    return together


def _divide(a: Array, b: Array) -> Array:
    """Division; of integers with rounding towards zero."""
    if a.dtype.kind == "f":
        return np.asarray(np.divide(a, b))
    if not np.all(b):
        raise ValueError("division by zero")
    quotient = np.abs(a.astype(np.int64)) // np.abs(b.astype(np.int64))
    return (quotient * np.sign(a) * np.sign(b)).astype(a.dtype)


def _power(a: Array, b: Array) -> Array:
    return np.asarray(np.power(a.astype(np.float64), b.astype(np.float64))).astype(a.dtype)


def _unary(function: Callable[[Array], Array]) -> _Rule:
    def rule(call: Call) -> Array:
        data = call.data(0)
        with np.errstate(all="ignore"):
            return np.asarray(function(data)).astype(data.dtype)

    return rule


def _modulo(call: Call) -> Array | None:
    if call.data(1).dtype.kind != "f" and not np.all(call.data(1)):
        raise ValueError("division by zero")
    return _elementwise(np.fmod if call.integer("fmod", 0) else np.mod)(call)


def _reduce(function: Callable[..., Array], since: int = 18) -> _Rule:
    def rule(call: Call) -> Array:
        axes = call.list_or_input("axes", 1, since)
        data = call.data(0)
        if not axes:
            if call.integer("noop_with_empty_axes", 0):
                return data
            axes = tuple(range(data.ndim))
        keep = bool(call.integer("keepdims", 1))
        return np.asarray(function(data, axis=axes, keepdims=keep)).astype(data.dtype)

    return rule


VIEWS: dict[str, _Rule] = {
    "Cast": _cast,
    "Flatten": _flatten,
    "Identity": lambda call: call.data(0),
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""Operators that give the same elements in another shape: a weight stays a weight."""

_KEEP_ALIKE = ("ConstantOfShape", "Identity", "Transpose")

_RULES: dict[str, _Rule] = {
    **VIEWS,
    "Abs": _unary(np.abs),
    "Add": _elementwise(np.add),
    "And": _elementwise(np.logical_and),
    "Ceil": _unary(np.ceil),
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _elementwise(_divide),
    "Equal": _elementwise(np.equal),
    "Expand": _expand,
    "Floor": _unary(np.floor),
    "Gather": _gather,
    "Greater": _elementwise(np.greater),
    "GreaterOrEqual": _elementwise(np.greater_equal),
    "Less": _elementwise(np.less),
    "LessOrEqual": _elementwise(np.less_equal),
    "Max": _elementwise(_many(np.maximum)),
    "Min": _elementwise(_many(np.minimum)),
    "Mod": _modulo,
    "Mul": _elementwise(np.multiply),
    "Neg": _unary(np.negative),
    "Not": _elementwise(np.logical_not),
    "Or": _elementwise(np.logical_or),
    "Pow": _elementwise(_power),
    "Range": _range,
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum, since=13),
    "Slice": _slice,
    "Sqrt": _unary(np.sqrt),
    "Sub": _elementwise(np.subtract),
    "Tile": _tile,
    "Where": _elementwise(np.where),
}
