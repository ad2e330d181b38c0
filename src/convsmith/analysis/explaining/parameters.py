"""The formulas of parameters: distinct learnable scalars."""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch

from convsmith.analysis.explaining.expression import Expression, Number, Symbol, product, total
from convsmith.analysis.explaining.layer import Layer, elements, window_symbols
from convsmith.graph.operators import (
    Activation,
    Conv,
    DeformConv,
    Linear,
    Norm,
    Operator,
    roles,
)

__all__ = ["parameter_formula"]


@singledispatch
def _roles(op: Operator, layer: Layer) -> Mapping[str, Expression]:
    """The elements of every parameter tensor, by role."""
    return {}


def parameter_formula(layer: Layer) -> Expression | None:
    """Returns the parameters of a layer; ``None`` without any.

    A tensor that is not learned is left out, and one that is used twice counts once.
    """
    constants, op = layer.graph.constants, layer.op
    known = _roles(op, layer)
    learned: dict[str, Expression] = {}
    for role, name in zip(roles(op), layer.node.parameters, strict=True):
        if constants[name].learnable and name not in learned:
            learned[name] = known.get(role, Number(constants[name].size))
    backwards = isinstance(op, Conv) and op.transposed
    if isinstance(op, Conv | DeformConv | Linear) and len(learned) == 2 and not backwards:
        return _factored(op, layer)
    for name in layer.node.inputs:
        if name in constants and constants[name].learnable and name not in learned:
            learned[name] = product(*_sizes(constants[name].shape))
    if not learned:
        return None
    if isinstance(op, Norm) and op.kind not in ("layer", "rms") and len(learned) == 2:
        return product(2, next(iter(learned.values())))
    return total(*learned.values())


def _sizes(shape: tuple[int, ...]) -> tuple[Symbol, ...]:
    return tuple(Symbol(f"w_{axis}", size) for axis, size in enumerate(shape, start=1))


def _terms(op: Conv | DeformConv | Linear, layer: Layer) -> Expression:
    """The products in one output: what one filter has as weights."""
    source = layer.inputs[0]
    if isinstance(op, Linear):
        return Symbol("F_in", source[-1])
    channels: Expression = Symbol("C_in", source[1])
    if op.groups != 1:
        channels = channels / Symbol("g", op.groups)
    return product(channels, window_symbols(op.kernel))


def _made(op: Conv | DeformConv | Linear) -> Symbol:
    if isinstance(op, Linear):
        return Symbol("F_out", op.features)
    return Symbol("C_out", op.channels)


def _factored(op: Conv | DeformConv | Linear, layer: Layer) -> Expression:
    return product(_made(op), total(_terms(op, layer), 1))


@_roles.register(Conv)
@_roles.register(DeformConv)
@_roles.register(Linear)
def _(op: Conv | DeformConv | Linear, layer: Layer) -> Mapping[str, Expression]:
    made = _made(op)
    if isinstance(op, Conv) and op.transposed:
        source = Symbol("C_in", layer.inputs[0][1])
        each: Expression = made if op.groups == 1 else made / Symbol("g", op.groups)
        return {"weight": product(source, each, window_symbols(op.kernel)), "bias": made}
    return {"weight": product(made, _terms(op, layer)), "bias": made}


@_roles.register
def _(op: Norm, layer: Layer) -> Mapping[str, Expression]:
    shape = layer.inputs[0]
    if op.kind in ("layer", "rms"):
        each = product(*elements(shape)[len(shape) - op.axes :])
    else:
        each = Symbol("C", shape[1])
    return {"weight": each, "bias": each}


@_roles.register
def _(op: Activation, layer: Layer) -> Mapping[str, Expression]:
    slopes = layer.graph.constants[layer.node.parameters[0]].size if layer.node.parameters else 0
    return {"weight": Symbol("C", slopes)}
