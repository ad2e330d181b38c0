"""The table of exports, continued: choices, places, orders and running sums."""

from __future__ import annotations

import math

from convsmith.errors import SourceError
from convsmith.graph.operators import (
    Cast,
    Cumulate,
    DepthToSpace,
    Flip,
    Gather,
    SpaceToDepth,
    TopK,
    Where,
)
from convsmith.graph.shape import infer_shapes
from convsmith.sources.onnx.emitting import emit
from convsmith.sources.onnx.jobs import Job
from convsmith.sources.onnx.opening import NEWEST_OPSET
from convsmith.sources.onnx.tensors import element_type_code

__all__: list[str] = []

_CUMULATED_PRODUCTS = 26


@emit.register
def _(op: Where, job: Job) -> None:
    job.finish("Where", *job.inputs, since=9)


@emit.register
def _(op: Cast, job: Job) -> None:
    job.finish("Cast", job.inputs[0], since=9, to=element_type_code(op.dtype))


@emit.register
def _(op: Gather, job: Job) -> None:
    job.finish("GatherElements" if op.along else "Gather", *job.inputs, since=13, axis=op.axis)


@emit.register
def _(op: Flip, job: Job) -> None:
    count = len(op.axes)
    job.finish(
        "Slice",
        job.inputs[0],
        job.integers("starts", [-1] * count),
        job.integers("ends", [-(2**63)] * count),
        job.integers("axes", op.axes),
        job.integers("steps", [-1] * count),
        since=10,
    )


@emit.register
def _(op: TopK, job: Job) -> None:
    count = job.integers("count", [op.count])
    largest = int(op.largest)
    job.finish("TopK", job.inputs[0], count, since=11, axis=op.axis, largest=largest)


@emit.register
def _(op: Cumulate, job: Job) -> None:
    since = 11 if op.kind == "sum" else _CUMULATED_PRODUCTS
    if since > NEWEST_OPSET:
        raise SourceError(
            "this version of the onnx package has no running products",
            remedy="install a newer onnx, or replace this layer",
        )
    axis = job.integers("axis", [op.axis])
    scalar = job.step("Squeeze", axis, since=13, name="along")
    flags = {"exclusive": int(op.exclusive), "reverse": int(op.reverse)}
    job.finish(
        "CumSum" if op.kind == "sum" else "CumProd", job.inputs[0], scalar, since=since, **flags
    )


@emit.register
def _(op: DepthToSpace, job: Job) -> None:
    shape, rank = job.shape(), len(op.block)
    if rank == 2 and len(set(op.block)) == 1:
        mode, block = op.order.upper(), op.block[0]
        job.finish("DepthToSpace", job.inputs[0], since=11, blocksize=block, mode=mode)
        return
    inner = shape[1] // math.prod(op.block)
    crd = op.order == "crd"
    apart = (inner, *op.block) if crd else (*op.block, inner)
    blocks = range(2 if crd else 1, rank + (2 if crd else 1))
    pairs = (axis for i, b in enumerate(blocks) for axis in (2 + rank + i, b))
    _rearranged(op, job, (shape[0], *apart, *shape[2:]), (0, 1 if crd else 1 + rank, *pairs))


@emit.register
def _(op: SpaceToDepth, job: Job) -> None:
    shape, rank = job.shape(), len(op.block)
    if rank == 2 and len(set(op.block)) == 1 and op.order == "dcr":
        job.finish("SpaceToDepth", job.inputs[0], blocksize=op.block[0])
        return
    split = [p for size, b in zip(shape[2:], op.block, strict=True) for p in (size // b, b)]
    places, blocks = range(2, 2 + 2 * rank, 2), range(3, 3 + 2 * rank, 2)
    channels = (1, *blocks) if op.order == "crd" else (*blocks, 1)
    _rearranged(op, job, (*shape[:2], *split), (0, *channels, *places))


def _rearranged(
    op: DepthToSpace | SpaceToDepth, job: Job, apart: tuple[int, ...], order: tuple[int, ...]
) -> None:
    made = infer_shapes(op, job.shape())[0]
    assert made is not None
    split = job.step("Reshape", job.inputs[0], job.integers("apart", apart), since=5)
    turned = job.step("Transpose", split, perm=order)
    job.finish("Reshape", turned, job.integers("shape", made), since=5)
