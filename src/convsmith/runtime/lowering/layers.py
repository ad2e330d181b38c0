"""The table of lowerings, part four: convolutions and products, on planned kernels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.choice import plan
from convsmith.conv.fusing import Fusion
from convsmith.conv.layers import spec_of
from convsmith.conv.plan import ConvPlan, Prepared
from convsmith.conv.spec import ConvSpec
from convsmith.conv.transposed import Phase as Part
from convsmith.conv.transposed import TransposedSpec, phase_weights, turned_weights
from convsmith.errors import ShapeError, UsageError
from convsmith.graph import Node
from convsmith.graph.affine import affine_of, fold_behind
from convsmith.graph.operators import Conv, Linear, MatMul, Norm
from convsmith.kernel.store import digest
from convsmith.parallel import threads
from convsmith.runtime.kernels.kernel import address
from convsmith.runtime.kernels.maps import Instruction, Map
from convsmith.runtime.lowering.lowering import Lowering, layout_of, lower
from convsmith.runtime.steps import Address, Phase, Scratch, Step, Storage, Tensor, Word

__all__: list[str] = []

Array = NDArray[Any]


def _weights(
    low: Lowering, fusion: Fusion, op: Conv | Linear, weight: Array, bias: Array | None
) -> tuple[Array, Array | None]:
    """The weights and the bias of a layer with the normalization behind it folded in."""
    norm = fusion.norm
    if norm is None:
        return weight, bias
    assert isinstance(norm.op, Norm)
    made, shift = fold_behind(op, weight, bias, affine_of(norm.op, low.parameters(norm)))
    return made.astype(weight.dtype), shift.astype(weight.dtype)


def _prepared(low: Lowering, spec: ConvSpec, weight: Array, bias: Array | None) -> Prepared:
    """A convolution with packed weights, those of the same numbers shared between sizes."""
    options = low.options
    algorithm = options.algorithm
    try:
        made = plan(
            spec, algorithm=algorithm, tolerance=options.tolerance, tune=options.tune, cold=low.cold
        )
    except UsageError:
        raise
    except Exception:  # the algorithm that was named does not take this one
        if algorithm in ("auto", "exact"):
            raise
        made = plan(spec, tolerance=options.tolerance, tune=options.tune, cold=low.cold)
    weight = np.ascontiguousarray(weight, np.float32)
    numbers = digest(weight.tobytes(), b"" if bias is None else np.asarray(bias).tobytes())
    key = (numbers, f"{made.algorithm} {made.tiling}", spec.with_batch(1))
    found = low.prepared.get(key)
    if found is None:
        found = low.prepared[key] = made.prepare(weight, bias)
    return found


def _phases(
    prepared: Prepared, batch: int, x: Word, out: Word, residual: Word, scratch: int = 0
) -> list[Phase]:
    """The kernels of a convolution, with their arguments in the order of conv.algorithm."""
    words: tuple[Word, ...] = (
        x, out, *prepared.addresses, residual, Scratch(offset=scratch), batch, 0,
    )  # fmt: skip
    return [Phase(function=f, items=n, words=words) for f, n in prepared.kernels(batch)]


def _workspace(made: ConvPlan, batch: int) -> int:
    return -(-made.lowered.workspace(batch, threads()) // 16) * 16


def _detail(made: ConvPlan) -> str:
    return str(made.tiling)


def _step(low: Lowering, fusion: Fusion, out: Tensor, **what: Any) -> None:
    low.steps.append(
        Step(
            name=fusion.output,
            nodes=tuple(node.name for node in fusion.nodes),
            text=" > ".join(low.describe(node) for node in fusion.nodes),
            layout=layout_of(out),
            **what,
        )
    )


@lower.register
def _(op: Conv, low: Lowering, node: Node) -> bool:
    fusion = low.fusion(node)
    shape = low.shape(node.inputs[0])
    if not 1 <= len(op.kernel) <= 3:
        return False
    weight, *rest = low.parameters(node)
    bias = rest[0] if rest else None
    if op.transposed:
        return _transposed(op, low, fusion, weight, bias)
    layout = low.options.layout
    try:
        spec = spec_of(op, shape, layout=layout)
    except (ShapeError, UsageError):
        return False  # negative padding: the definition computes it
    if spec.output != low.shape(node.name)[2:]:
        return False  # rounded up: the last window is incomplete
    weight, bias = _weights(low, fusion, op, weight, bias)
    spec = _with(spec, fusion, bias)
    prepared = _prepared(low, spec, weight, bias)
    x = low.dense(node.inputs[0], last=low.last)
    residual: Word = 0
    if fusion.residual:
        residual = low.dense(fusion.residual, last=low.last).address
    out = low.make(fusion.output, last=low.last)
    made = prepared.plan
    _step(
        low, fusion, out,
        algorithm=made.algorithm, detail=_detail(made), macs=spec.macs,
        phases=tuple(_phases(prepared, spec.batch, x.address, out.address, residual)),
        scratch=_workspace(made, spec.batch), keeps=(prepared,),
    )  # fmt: skip
    return True


def _with(spec: ConvSpec, fusion: Fusion, bias: Array | None) -> ConvSpec:
    from dataclasses import replace

    return replace(
        spec,
        bias=bias is not None,
        residual=bool(fusion.residual),
        activation=fusion.activation,
    )


@lower.register
def _(op: Linear, low: Lowering, node: Node) -> bool:
    weight, *rest = low.parameters(node)
    fusion = low.fusion(node)
    weight, bias = _weights(low, fusion, op, weight, rest[0] if rest else None)
    _product(low, fusion, node.inputs[0], weight, bias)
    return True


@lower.register
def _(op: MatMul, low: Lowering, node: Node) -> bool:
    """A product with a constant matrix is a linear layer."""
    constant = low.constant(node.inputs[1])
    if constant is None or constant.ndim != 2 or len(low.shape(node.inputs[0])) < 2:
        return False
    if constant.dtype != np.float32 or low.constant(node.inputs[0]) is not None:
        return False
    _product(low, Fusion(node=node), node.inputs[0], constant.T, None)
    return True


def _product(low: Lowering, fusion: Fusion, value: str, weight: Array, bias: Array | None) -> None:
    """Lowers rows times a matrix: a convolution of pixels by themselves."""
    x = low.dense(value, last=False)
    features, inside = weight.shape
    spec = ConvSpec(
        size=(x.elements // inside,),
        channels=inside,
        filters=features,
        kernel=(1,),
        layout="channels_last",
    )
    spec = _with(spec, fusion, bias)
    prepared = _prepared(low, spec, weight[:, :, None], bias)
    residual: Word = 0
    if fusion.residual:
        residual = low.dense(fusion.residual, last=False).address
    out = low.make(fusion.output)
    made = prepared.plan
    _step(
        low, fusion, out,
        algorithm=made.algorithm, detail=_detail(made), macs=spec.macs,
        phases=tuple(_phases(prepared, 1, x.address, out.address, residual)),
        scratch=_workspace(made, 1), keeps=(prepared,),
    )  # fmt: skip


# Transposed ----------------------------------------------------------------------------


def _transposed(op: Conv, low: Lowering, fusion: Fusion, weight: Array, bias: Array | None) -> bool:
    """Lowers a transposed convolution: the outputs of each remainder are a plain convolution.

    What a part reads and makes is copied where it is not all of the image.
    """
    node = fusion.node
    shape = low.shape(node.inputs[0])
    filters = op.channels
    try:
        spec = TransposedSpec(
            batch=shape[0], size=shape[2:], channels=shape[1], filters=filters, kernel=op.kernel,
            stride=op.stride, dilation=op.dilation, padding=op.padding, groups=op.groups,
            output_padding=op.output_padding or (0,) * len(op.kernel),
            layout=low.options.layout, bias=True, activation=fusion.activation,
        )  # fmt: skip
    except (ShapeError, UsageError):
        return False
    if min(spec.output) < 1:
        return False
    weight, bias = _weights(low, fusion, op, weight, bias)
    turned = turned_weights(spec, weight)
    bias = np.zeros(filters, np.float32) if bias is None else bias
    x = low.dense(node.inputs[0], last=low.last)
    out = low.make(fusion.output, last=low.last)
    phases: list[Phase] = []
    names: list[str] = []
    keeps: list[Any] = []
    macs = 0
    scratch = 0
    for part in spec.phases:
        inner = spec.convolution(part)
        if inner is None:
            phases.append(_bias_alone(low, spec, part, out, bias))
            continue
        prepared = _prepared(low, inner, phase_weights(turned, part), bias)
        made = prepared.plan
        at = _workspace(made, spec.batch)
        source: Word = x.address
        inside = Tensor(
            shape=(shape[0], shape[1], *inner.size), last=x.last,
            storage=Storage(math.prod((*shape[:2], *inner.size))),
        )  # fmt: skip
        if inner.size != spec.size:
            source = Scratch(offset=at)
            offset = sum(
                axis.inputs.start * step
                for axis, step in zip(part.axes, x.strides[2:], strict=True)
            )
            kernel = Map.of(inside.shape, inside.strides, [x.strides])
            origin = Address(storage=x.storage, offset=x.offset + offset)
            phases.append(
                Phase(function=address(kernel), items=kernel.items, words=(source, origin))
            )
            at += -(-inside.elements // 16) * 16
        alone = len(spec.phases) == 1
        to: Word = out.address if alone else Scratch(offset=at)
        phases += _phases(prepared, spec.batch, source, to, 0)
        if not alone:
            phases.append(_scattered(part, inner, out, to))
            at += -(-math.prod((shape[0], filters, *inner.output)) // 16) * 16
        scratch = max(scratch, at)
        names.append(made.algorithm)
        keeps.append(prepared)
        macs += inner.macs
    _step(
        low, fusion, out,
        algorithm="+".join(dict.fromkeys(names)) or "copy",
        detail=f"{len(spec.phases)} convolutions", macs=macs, phases=tuple(phases),
        scratch=scratch, keeps=tuple(keeps),
    )  # fmt: skip
    return True


def _places(part: Part, out: Tensor) -> tuple[tuple[int, ...], int]:
    """The strides and the offset of the outputs of one part."""
    steps = [
        step * (axis.outputs.step if len(axis.outputs) > 1 else 1)
        for axis, step in zip(part.axes, out.strides[2:], strict=True)
    ]
    offset = sum(
        axis.outputs.start * step for axis, step in zip(part.axes, out.strides[2:], strict=True)
    )
    return (*out.strides[:2], *steps), offset


def _scattered(part: Part, inner: ConvSpec, out: Tensor, source: Word) -> Phase:
    shape = (out.shape[0], out.shape[1], *inner.output)
    strides, offset = _places(part, out)
    made = Tensor(shape=shape, last=out.last, storage=out.storage)
    kernel = Map.of(shape, strides, [made.strides])
    to = Address(storage=out.storage, offset=out.offset + offset)
    return Phase(function=address(kernel), items=kernel.items, words=(to, source))


def _bias_alone(low: Lowering, spec: TransposedSpec, part: Part, out: Tensor, bias: Array) -> Phase:
    """Fills the outputs that no input reaches."""
    shape = (out.shape[0], out.shape[1], *(len(axis.outputs) for axis in part.axes))
    strides, offset = _places(part, out)
    held = low.hold(np.asarray(bias, np.float32))
    body = []
    if spec.activation != "none":
        body = [Instruction(name=spec.activation, registers=(0,))]
    steps = (0, 1, *(0,) * (len(shape) - 2))
    kernel = Map.of(shape, strides, [steps], body)
    to = Address(storage=out.storage, offset=out.offset + offset)
    return Phase(function=address(kernel), items=kernel.items, words=(to, Address(storage=held)))
