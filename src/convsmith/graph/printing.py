"""Prints operators and graphs in the grammar that opens :mod:`convsmith.graph.operators`.

:mod:`convsmith.graph.parsing` is the inverse, operator by operator.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import singledispatch

from convsmith.graph.graph import Graph, Node
from convsmith.graph.operators import (
    Activation,
    AdaptivePool,
    Cast,
    Concat,
    Conv,
    Cumulate,
    DeformConv,
    DepthToSpace,
    Einsum,
    Elementwise,
    Expand,
    Flatten,
    Flip,
    Fold,
    Gather,
    GlobalPool,
    GridSample,
    Identity,
    Linear,
    LocalResponseNorm,
    MatMul,
    Norm,
    Operator,
    Pad,
    Padding,
    Pool,
    Reduce,
    Reshape,
    Resize,
    Slice,
    Softmax,
    SpaceToDepth,
    Split,
    TopK,
    Transpose,
    Unary,
    Unfold,
    Unpool,
    Unsupported,
    Where,
    roles,
)
from convsmith.graph.shape import Shape, Windowed

__all__ = ["listing", "operator_text", "shape_text"]


def _axes(sizes: Sequence[int | Fraction]) -> str:
    """``3`` when all axes agree, else ``1x7``."""
    return str(sizes[0]) if len(set(sizes)) == 1 else "x".join(map(str, sizes))


def _flat(padding: Padding) -> str:
    return ",".join(str(p) for side in (0, 1) for p in (pair[side] for pair in padding))


def _padding(padding: Padding) -> str:
    if all(low == high for low, high in padding):
        return _axes([low for low, _ in padding])
    return _flat(padding)


def _window(op: Windowed, default_stride: bool) -> str:
    words = [_axes(op.kernel)]
    if not default_stride:
        words[0] += f"/{_axes(op.stride)}"
    if op.same is not None:
        words.append("psame" if op.same == "upper" else "psame-lower")
    elif any(low or high for low, high in op.padding):
        words.append(f"p{_padding(op.padding)}")
    if set(op.dilation) != {1}:
        words.append(f"d{_axes(op.dilation)}")
    return " ".join(words)


def _options(**values: object) -> str:
    """``key=value`` for what is not None; floats in full precision."""
    return "".join(f" {key}={value}" for key, value in values.items() if value is not None)


def _number(value: float, default: float | None) -> str | None:
    return None if value == default else repr(float(value)).replace("e+", "e")


@singledispatch
def operator_text(op: Operator) -> str:
    """Returns an operator in the notation.

    >>> operator_text(Linear(features=10))
    'fc 10'
    """
    raise TypeError(f"no notation for {type(op).__name__}")


@operator_text.register
def _(op: Conv) -> str:
    word = "deconv" if op.transposed else "conv"
    words = [f"{word} {op.channels} {_window(op, set(op.stride) == {1})}"]
    if op.groups != 1:
        words.append(f"g{op.groups}")
    if any(op.output_padding):
        words.append(f"o{_axes(op.output_padding)}")
    if op.rounding == "ceil":
        words.append("ceil")
    if not op.bias:
        words.append("nobias")
    return " ".join(words)


@operator_text.register
def _(op: Pool) -> str:
    words = ["maxpool" if op.kind == "max" else "avgpool", _window(op, False)]
    if op.rounding == "ceil":
        words.append("ceil")
    if not op.count_padding:
        words.append("nopadcount")
    if op.indices:
        words.append("indices")
    return " ".join(words)


@operator_text.register
def _(op: DeformConv) -> str:
    words = [f"deformconv {op.channels} {_window(op, set(op.stride) == {1})}"]
    if op.groups != 1:
        words.append(f"g{op.groups}")
    if op.offset_groups != 1:
        words.append(f"og{op.offset_groups}")
    if not op.bias:
        words.append("nobias")
    return " ".join(words)


@operator_text.register
def _(op: Unpool) -> str:
    return f"unpool {_axes(op.size)}"


@operator_text.register
def _(op: Unfold) -> str:
    return f"unfold {_window(op, set(op.stride) == {1})}"


@operator_text.register
def _(op: Fold) -> str:
    return f"fold {_axes(op.size)} {_window(op, set(op.stride) == {1})}"


@operator_text.register
def _(op: GlobalPool) -> str:
    return "gmp" if op.kind == "max" else "gap"


@operator_text.register
def _(op: AdaptivePool) -> str:
    return f"adaptive{'max' if op.kind == 'max' else 'avg'}pool {_axes(op.size)}"


@operator_text.register
def _(op: Norm) -> str:
    word = {
        "batch": "bn",
        "instance": "instancenorm",
        "group": f"groupnorm {op.groups}",
        "layer": f"layernorm {op.axes}",
        "rms": f"rmsnorm {op.axes}",
    }[op.kind]
    affine = "" if op.affine else " noaffine"
    return word + affine + _options(eps=_number(op.epsilon, 1e-5))


@operator_text.register
def _(op: LocalResponseNorm) -> str:
    lean = " lower" if op.lean == "lower" else ""
    return f"lrn {op.size}{lean}" + _options(
        alpha=_number(op.alpha, 1e-4), beta=_number(op.beta, 0.75), k=_number(op.k, 1.0)
    )


@operator_text.register
def _(op: Activation) -> str:
    options = {
        name: None if (value := getattr(op, name)) is None else _number(value, None)
        for name in ("alpha", "beta", "low", "high")
    }
    return op.kind + _options(**options)


@operator_text.register
def _(op: Unary) -> str:
    return op.kind


@operator_text.register
def _(op: Where) -> str:
    return "where"


@operator_text.register
def _(op: Cast) -> str:
    return f"cast {op.dtype}"


@operator_text.register
def _(op: Cumulate) -> str:
    flags = " exclusive" * op.exclusive + " reverse" * op.reverse
    return f"cum{op.kind} {op.axis}{flags}"


@operator_text.register
def _(op: TopK) -> str:
    axis = _options(axis=None if op.axis == -1 else op.axis)
    return f"topk {op.count}{axis}" + ("" if op.largest else " smallest")


@operator_text.register
def _(op: Softmax) -> str:
    return f"{'logsoftmax' if op.log else 'softmax'} {op.axis}"


@operator_text.register
def _(op: Linear) -> str:
    return f"fc {op.features}" + ("" if op.bias else " nobias")


@operator_text.register
def _(op: MatMul) -> str:
    return "matmul"


@operator_text.register
def _(op: Einsum) -> str:
    return f"einsum {json.dumps(op.equation)}"


@operator_text.register
def _(op: Elementwise) -> str:
    return op.kind


@operator_text.register
def _(op: Concat) -> str:
    return "concat" + _options(axis=None if op.axis == 1 else op.axis)


@operator_text.register
def _(op: Split) -> str:
    return f"split {','.join(map(str, op.sizes))}" + _options(
        axis=None if op.axis == 1 else op.axis
    )


@operator_text.register
def _(op: Slice) -> str:
    return "slice " + " ".join(
        f"{axis}:{start}:{'' if stop is None else stop}:{step}"
        for axis, start, stop, step in op.ranges
    )


@operator_text.register
def _(op: Flip) -> str:
    return f"flip {','.join(map(str, op.axes))}"


@operator_text.register
def _(op: Gather) -> str:
    axis = _options(axis=None if op.axis == 0 else op.axis)
    return f"gather{axis}" + (" along" if op.along else "")


@operator_text.register
def _(op: DepthToSpace) -> str:
    return f"depthtospace {_axes(op.block)}" + (" dcr" if op.order == "dcr" else "")


@operator_text.register
def _(op: SpaceToDepth) -> str:
    return f"spacetodepth {_axes(op.block)}" + (" dcr" if op.order == "dcr" else "")


@operator_text.register
def _(op: Pad) -> str:
    mode = "" if op.mode == "constant" else f" {op.mode}"
    return f"pad {_flat(op.padding)}{mode}" + _options(value=_number(op.value, 0.0))


@operator_text.register
def _(op: Reshape) -> str:
    return f"reshape {','.join(map(str, op.shape))}"


@operator_text.register
def _(op: Flatten) -> str:
    if (op.axis, op.last) == (1, -1):
        return "flatten"
    return f"flatten {op.axis}" + ("" if op.last == -1 else f",{op.last}")


@operator_text.register
def _(op: Transpose) -> str:
    return f"transpose {','.join(map(str, op.permutation))}"


@operator_text.register
def _(op: Expand) -> str:
    return f"expand {','.join(map(str, op.shape))}"


@operator_text.register
def _(op: Resize) -> str:
    words = [f"up {_axes(op.scale)}" if op.scale else f"resize {_axes(op.size)}"]
    if op.mode != "nearest":
        words.append(op.mode)
    if op.alignment != "asymmetric":
        words.append(op.alignment)
    if op.rounding != "floor":
        words.append(op.rounding)
    return " ".join(words)


@operator_text.register
def _(op: GridSample) -> str:
    words = ["gridsample", op.mode, op.beyond, "aligned" if op.aligned else ""]
    return " ".join(word for word in words if word and word not in ("linear", "zeros"))


@operator_text.register
def _(op: Reduce) -> str:
    axes = ",".join(map(str, op.axes))
    return f"{op.kind} {axes}" + (" keep" if op.keep else "")


@operator_text.register
def _(op: Identity) -> str:
    return op.kind


@operator_text.register
def _(op: Unsupported) -> str:
    shapes = " ".join("?" if shape is None else _raw(shape) for shape in op.shapes)
    return f"unsupported {_name(op.kind)} {shapes}"


def _raw(shape: Shape) -> str:
    return f"<{','.join(map(str, shape))}>"


def shape_text(shape: Shape) -> str:
    """Returns a shape in the notation: ``3@224x224``, ``8x3@32x32`` or ``<1,64,100>``.

    >>> shape_text((1, 3, 224, 224))
    '3@224x224'
    """
    if not 4 <= len(shape) <= 5:
        return _raw(shape)
    batch = "" if shape[0] == 1 else f"{shape[0]}x"
    return f"{batch}{shape[1]}@{'x'.join(map(str, shape[2:]))}"


_PLAIN_NAME = re.compile(r"[A-Za-z_][\w./:-]*\Z", re.ASCII)


def _name(name: str) -> str:
    return name if _PLAIN_NAME.match(name) else json.dumps(name)


def listing(graph: Graph) -> str:
    """Returns a graph as a listing, one value a line; ``parse`` gives an equal graph back."""
    lines = [_input_line(v.name, shape_text(v.shape), v.dtype) for v in graph.inputs]
    implied = {name for node in graph.nodes for name in _implied(graph, node)}
    for name, constant in graph.constants.items():
        if name not in implied:
            kind = "parameter" if constant.learnable else "constant"
            lines.append(_input_line(name, f"{kind} {_raw(constant.shape)}", constant.dtype))
    lines += [_node_line(graph, node) for node in graph.nodes]
    results = " ".join(
        _name(o.value) if o.name == o.value else f"{_name(o.name)} = {_name(o.value)}"
        for o in graph.outputs
    )
    return "\n".join([*lines, f"return {results}".rstrip()])


def _input_line(name: str, shape: str, dtype: str) -> str:
    return f"{_name(name)} : {shape}" + ("" if dtype == "float32" else f" {dtype}")


def _implied(graph: Graph, node: Node) -> Iterable[str]:
    """The constants that a node's own line is enough to make again."""
    for role, name in zip(roles(node.op), node.parameters, strict=True):
        constant = graph.constants[name]
        usual = constant.dtype == "float32" and constant.learnable == (
            role not in ("mean", "variance")
        )
        known = all(graph.shapes[used] is not None for used in node.inputs)
        lone_slope = isinstance(node.op, Activation) and constant.shape == (1,)
        if name == f"{node.name}.{role}" and usual and known and not lone_slope:
            yield name


def _node_line(graph: Graph, node: Node) -> str:
    implied = set(_implied(graph, node))
    named = [
        f"{role} = {_name(name)}"
        for role, name in zip(roles(node.op), node.parameters, strict=True)
        if name not in implied
    ]
    constants = f" {{{' '.join(named)}}}" if named else ""
    inputs = " ".join(map(_name, node.inputs))
    return f"{_name(node.name)} = {operator_text(node.op)}{constants} ({inputs})"
