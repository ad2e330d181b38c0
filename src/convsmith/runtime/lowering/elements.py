"""The table of lowerings, part one: functions of elements, and sums over images."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from convsmith.graph import Node
from convsmith.graph.affine import affine_of
from convsmith.graph.operators import Activation, Elementwise, Norm, Reduce, Softmax, Unary
from convsmith.runtime.kernels.functions import BINARY, UNARY
from convsmith.runtime.kernels.kernel import address
from convsmith.runtime.kernels.maps import Instruction, Map
from convsmith.runtime.kernels.rows import Rows
from convsmith.runtime.lowering.lowering import Lowering, lower
from convsmith.runtime.lowering.windows import global_pool
from convsmith.runtime.steps import Address, Phase

__all__: list[str] = []


def _instruction(op: Activation) -> Instruction | None:
    """The function of an activation, or nothing if there is none."""
    numbers: tuple[float, ...] = ()
    match op.kind:
        case "leakyrelu":
            numbers = (0.01 if op.alpha is None else op.alpha,)
        case "elu" | "celu":
            numbers = (1.0 if op.alpha is None else op.alpha,)
            if op.kind == "celu" and not numbers[0] > 0:
                return None
        case "hardsigmoid":
            numbers = (
                1 / 6 if op.alpha is None else op.alpha,
                0.5 if op.beta is None else op.beta,
            )
        case "clip":
            numbers = (
                -math.inf if op.low is None else op.low,
                math.inf if op.high is None else op.high,
            )
    if op.kind not in UNARY:
        return None
    return Instruction(name=op.kind, registers=(0,), numbers=numbers)


@lower.register
def _(op: Activation, low: Lowering, node: Node) -> bool:
    value = node.inputs[0]
    if op.kind == "prelu":
        (slope,) = low.parameters(node)
        axis = 1 if len(low.shape(value)) > 1 else 0
        body = [Instruction(name="prelu", registers=(0, 1))]
        low.map(node, [value], body, held=[(slope, axis)])
        return True
    instruction = _instruction(op)
    if instruction is None:
        return False
    low.map(node, [value], [instruction])
    return True


@lower.register
def _(op: Unary, low: Lowering, node: Node) -> bool:
    if op.kind not in UNARY:
        return False
    low.map(node, node.inputs, [Instruction(name=op.kind, registers=(0,))])
    return True


@lower.register
def _(op: Elementwise, low: Lowering, node: Node) -> bool:
    """Joins all operands, from the left; single numbers become part of the code."""
    if op.kind not in BINARY:
        return False
    operands: list[str] = []
    numbers: list[Instruction] = []
    places: list[tuple[bool, int]] = []
    for used in node.inputs:
        constant = low.constant(used)
        if constant is not None and constant.size == 1:
            places.append((True, len(numbers)))
            number = float(np.asarray(constant).ravel()[0])
            numbers.append(Instruction(name="constant", registers=(), numbers=(number,)))
        else:
            places.append((False, len(operands)))
            operands.append(used)
    count = len(operands)
    registers = [count + at if number else at for number, at in places]
    body = list(numbers)
    total = registers[0]
    for register in registers[1:]:
        body.append(Instruction(name=op.kind, registers=(total, register)))
        total = count + len(body) - 1
    if len(node.inputs) < 2:
        return False
    low.map(node, operands, body)
    return True


@lower.register
def _(op: Norm, low: Lowering, node: Node) -> bool:
    """A batch normalization that no convolution took in: a factor and a summand per channel."""
    value = node.inputs[0]
    if op.kind in ("layer", "rms"):
        return _rows(low, node, "norm" if op.kind == "layer" else "rms", op.axes, op.epsilon)
    if op.kind in ("group", "instance"):
        return _groups(op, low, node)
    if op.kind != "batch" or len(low.shape(value)) < 2:
        return False
    found = affine_of(op, low.parameters(node))
    body = [Instruction(name="affine", registers=(0, 1, 2))]
    low.map(node, [value], body, held=[(found.scale, 1), (found.shift, 1)])
    return True


def _rows(
    low: Lowering,
    node: Node,
    kind: Literal["norm", "rms", "softmax"],
    axes: int,
    epsilon: float = 0.0,
) -> bool:
    """What is computed row by row, over the last axes."""
    tensor = low.dense(node.inputs[0], last=False)
    length = math.prod(tensor.shape[len(tensor.shape) - axes :])
    learned = [low.hold(np.asarray(array, np.float32)) for array in low.parameters(node)]
    kernel = Rows(
        kind=kind,
        rows=tensor.elements // length,
        length=length,
        epsilon=epsilon,
        factor=len(learned) > 0,
        summand=len(learned) > 1,
    )
    out = low.make(node.name)
    words = [tensor.address, *(Address(storage=storage) for storage in learned)]
    low.kernel(node, kernel, out, words, algorithm="rows")
    return True


def _groups(op: Norm, low: Lowering, node: Node) -> bool:
    """A normalization over groups of channels, then a factor and a summand per channel."""
    tensor = low.dense(node.inputs[0], last=False)
    batch, channels, *size = tensor.shape
    groups = op.groups if op.kind == "group" else channels
    pixels = math.prod(size)
    kernel = Rows(
        kind="norm",
        rows=batch * groups,
        length=channels // groups * pixels,
        epsilon=op.epsilon,
    )
    out = low.make(node.name)
    words = (out.address, tensor.address)
    phases = [Phase(function=address(kernel), items=kernel.items, words=words)]
    if op.affine:
        factor, summand = (low.hold(np.asarray(a, np.float32)) for a in low.parameters(node))
        column = (0, 1, 0)
        scaling = Map.of(
            (batch, channels, pixels), (channels * pixels, pixels, 1),
            [(channels * pixels, pixels, 1), column, column],
            [Instruction(name="affine", registers=(0, 1, 2))],
        )  # fmt: skip
        held = (Address(storage=factor), Address(storage=summand))
        phases.append(
            Phase(
                function=address(scaling),
                items=scaling.items,
                words=(out.address, out.address, *held),
            )
        )
    low.step(node, phases, algorithm="rows", out=out)
    return True


@lower.register
def _(op: Softmax, low: Lowering, node: Node) -> bool:
    """Over the last axis that has more than one element."""
    shape = low.shape(node.inputs[0])
    axis = op.axis % len(shape)
    behind = math.prod(shape[axis + 1 :])
    if op.log or behind != 1:
        return False
    return _rows(low, node, "softmax", len(shape) - axis)


@lower.register
def _(op: Reduce, low: Lowering, node: Node) -> bool:
    """A mean or maximum over all pixels."""
    shape = low.shape(node.inputs[0])
    axes = sorted(axis % len(shape) for axis in op.axes)
    if len(shape) < 3 or axes != list(range(2, len(shape))) or op.kind not in ("mean", "max"):
        return False
    return global_pool(low, node, "max" if op.kind == "max" else "average")
