"""The table of exports, continued: windows as columns, samples between pixels, contractions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from convsmith.graph.operators import DeformConv, Einsum, Fold, GridSample, Unfold, Unpool
from convsmith.sources.onnx.emitting import emit
from convsmith.sources.onnx.jobs import Job
from convsmith.sources.onnx.opening import NEWEST_OPSET

__all__: list[str] = []


def _window(op: DeformConv | Unfold | Fold) -> dict[str, Any]:
    return {
        "strides": op.stride,
        "dilations": op.dilation,
        "pads": [*(low for low, _ in op.padding), *(high for _, high in op.padding)],
    }


@emit.register
def _(op: DeformConv, job: Job) -> None:
    x, offset, *factors = job.inputs
    weight, *bias = job.parameters
    rest = [*(bias or ([""] if factors else [])), *factors]
    job.finish(
        "DeformConv",
        *(x, weight, offset, *rest),
        since=19,
        kernel_shape=op.kernel,
        group=op.groups,
        offset_group=op.offset_groups,
        **_window(op),
    )


@emit.register
def _(op: Unfold, job: Job) -> None:
    """A convolution of every channel by itself, with one tap per output channel."""
    channels, taps = job.shape()[1], math.prod(op.kernel)
    one = np.eye(taps).reshape(taps, 1, *op.kernel)
    weight = job.floats("weight", np.tile(one, (channels, *(1 for _ in one.shape[1:]))), job.kind)
    job.finish("Conv", job.inputs[0], weight, kernel_shape=op.kernel, group=channels, **_window(op))


@emit.register
def _(op: Fold, job: Job) -> None:
    flat = job.integers("flat", (*job.shape()[:2], math.prod(job.shape()[2:])))
    columns = job.step("Reshape", job.inputs[0], flat, since=5)
    size, kernel = job.integers("size", op.size), job.integers("kernel", op.kernel)
    job.finish("Col2Im", columns, size, kernel, since=18, **_window(op))


@emit.register
def _(op: Unpool, job: Job) -> None:
    """As unpooling with the stride 1, where that makes the size, or scattered into zeros."""
    shape = job.shape()
    kernel = tuple(want - have + 1 for want, have in zip(op.size, shape[2:], strict=True))
    if min(kernel) > 0 and len(kernel) < 4:
        planes = np.arange(math.prod(shape[:2]), dtype=np.int64) * math.prod(op.size)
        starts = planes.reshape(*shape[:2], *(1 for _ in kernel))
        shift = job.writer.tensor(f"{job.node.name}.planes", starts, "int64")
        places = job.step("Add", job.inputs[1], shift, since=7)
        job.finish("MaxUnpool", job.inputs[0], places, since=11, kernel_shape=kernel)
        return
    rows = math.prod(shape[:2])
    flat = job.integers("flat", (rows, math.prod(shape[2:])))
    values = job.step("Reshape", job.inputs[0], flat, since=5, name="values")
    places = job.step("Reshape", job.inputs[1], flat, since=5, name="places")
    zeros = job.floats("zeros", np.zeros((rows, math.prod(op.size))), job.kind)
    put = job.step("ScatterElements", zeros, places, values, since=18, axis=1)
    job.finish("Reshape", put, job.integers("shape", (*shape[:2], *op.size)), since=5)


@emit.register
def _(op: GridSample, job: Job) -> None:
    aligned = int(op.aligned)
    job.finish(
        "GridSample",
        *job.inputs,
        since=20,
        mode=op.mode,
        padding_mode=op.beyond,
        align_corners=aligned,
    )


@emit.register
def _(op: Einsum, job: Job) -> None:
    since = NEWEST_OPSET if job.kind == "bfloat16" else 12
    job.finish("Einsum", *job.inputs, since=since, equation=op.equation)
