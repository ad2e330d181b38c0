"""The table of shapes, part one: windows that slide over images.

Sources: Dumoulin & Visin, "A guide to convolution arithmetic for deep learning" (2016), relations
6, 14 and their dilated form; TensorFlow's SAME rule; Caffe's rule for ``ceil``, which PyTorch
shares.
"""

from __future__ import annotations

import math

from convsmith.errors import ShapeError
from convsmith.graph.operators import (
    AdaptivePool,
    Conv,
    DeformConv,
    Fold,
    GlobalPool,
    GridSample,
    Padding,
    Pool,
    Resize,
    Unfold,
    Unpool,
)
from convsmith.graph.shape.table import Shape, check_image, infer_shapes, times

__all__ = ["Windowed", "effective_kernel", "fold_positions", "resolve_padding", "window_outputs"]


Windowed = Conv | DeformConv | Pool | Unfold | Fold
"""The operators whose windows slide over the spatial axes."""


def effective_kernel(kernel: int, dilation: int) -> int:
    """The extent of a dilated window, ``d (k - 1) + 1``.

    >>> effective_kernel(3, 2)
    5
    """
    return dilation * (kernel - 1) + 1


def resolve_padding(op: Windowed, spatial: Shape) -> Padding:
    """Returns the padding per axis in numbers, SAME resolved for this input.

    >>> from convsmith.graph.operators import Pool
    >>> pool = Pool(kind="max", kernel=(3,), stride=(2,), padding=((0, 0),), dilation=(1,),
    ...             same="upper")
    >>> resolve_padding(pool, (6,))
    ((0, 1),)
    """
    if op.same is None:
        return op.padding
    pads = []
    for size, kernel, stride, dilation in zip(
        spatial, op.kernel, op.stride, op.dilation, strict=True
    ):
        outputs = -(-size // stride)
        total = max((outputs - 1) * stride + effective_kernel(kernel, dilation) - size, 0)
        small, large = total // 2, total - total // 2
        pads.append((small, large) if op.same == "upper" else (large, small))
    return tuple(pads)


def window_outputs(op: Windowed, spatial: Shape) -> Shape:
    """Output sizes of sliding windows; Dumoulin & Visin, relation 14."""
    padding = resolve_padding(op, spatial)
    extent = tuple(effective_kernel(k, d) for k, d in zip(op.kernel, op.dilation, strict=True))
    outputs = []
    for size, window, stride, (low, high) in zip(spatial, extent, op.stride, padding, strict=True):
        room = size + low + high - window
        if room < 0:
            short = max(-(-(w - s - lo - hi) // 2) for s, w, (lo, hi) in zip(
                spatial, extent, padding, strict=True
            ))  # fmt: skip
            pads = [pair[side] for side in (0, 1) for pair in padding]
            padded = str(pads[0]) if len(set(pads)) == 1 else ",".join(map(str, pads))
            dilated = f" (dilated to {times(extent)})" if extent != op.kernel else ""
            raise ShapeError(
                f"kernel {times(op.kernel)}{dilated} does not fit input {times(spatial)}"
                f" with padding {padded}",
                remedy=f"pad by at least {short} more or use a smaller kernel"
                if any(pads)
                else f"pad by at least {short} or use a smaller kernel",
            )
        if op.same is not None:
            outputs.append(-(-size // stride))
        elif op.rounding == "floor":
            outputs.append(room // stride + 1)
        else:
            count = -(-room // stride) + 1
            starts_inside = (count - 1) * stride < size + low
            outputs.append(count if starts_inside else count - 1)
    return tuple(outputs)


@infer_shapes.register
def _(op: Conv, x: Shape) -> tuple[Shape]:
    check_image("a convolution", x, len(op.kernel))
    channels, spatial = x[1], x[2:]
    if channels % op.groups or op.channels % op.groups:
        raise ShapeError(
            f"{op.groups} groups do not divide {channels} input and {op.channels} output channels",
            remedy="choose a number of groups that divides both",
        )
    if not op.transposed:
        return ((x[0], op.channels, *window_outputs(op, spatial)),)
    extra = op.output_padding or (0,) * len(spatial)
    sizes = tuple(
        (size - 1) * stride - low - high + effective_kernel(kernel, dilation) + more
        for size, kernel, stride, dilation, (low, high), more in zip(
            spatial, op.kernel, op.stride, op.dilation, op.padding, extra, strict=True
        )
    )
    if min(sizes) < 1:
        raise ShapeError(
            f"the padding cuts away more than is made of {times(spatial)}",
            remedy="use less padding or a larger input",
        )
    return ((x[0], op.channels, *sizes),)


@infer_shapes.register
def _(op: Pool, x: Shape) -> tuple[Shape, ...]:
    check_image("pooling", x, len(op.kernel))
    made = (*x[:2], *window_outputs(op, x[2:]))
    return (made, made) if op.indices else (made,)


@infer_shapes.register
def _(op: GlobalPool, x: Shape) -> tuple[Shape]:
    check_image("global pooling", x)
    return ((*x[:2], *(1 for _ in x[2:])),)


@infer_shapes.register
def _(op: AdaptivePool, x: Shape) -> tuple[Shape]:
    check_image("adaptive pooling", x, len(op.size))
    return ((*x[:2], *(want or have for want, have in zip(op.size, x[2:], strict=True))),)


@infer_shapes.register
def _(op: DeformConv, x: Shape, offset: Shape, *factors: Shape) -> tuple[Shape]:
    check_image("a deformable convolution", x, len(op.kernel))
    for name, groups in (("groups", op.groups), ("groups of offsets", op.offset_groups)):
        if groups < 1 or x[1] % groups or (name == "groups" and op.channels % groups):
            raise ShapeError(
                f"{groups} {name} do not divide {x[1]} input and {op.channels} output channels",
                remedy="choose a number of groups that divides both",
            )
    outputs = window_outputs(op, x[2:])
    taps = op.offset_groups * math.prod(op.kernel)
    wanted = [(x[0], taps * len(op.kernel), *outputs), (x[0], taps, *outputs)]
    for name, have, want in zip(("offsets", "factors"), (offset, *factors), wanted, strict=False):
        if have != want:
            raise ShapeError(
                f"its {name} have shape {times(have) or 'scalar'}, the windows need {times(want)}",
                remedy="make them by a convolution with the same window",
            )
    return ((x[0], op.channels, *outputs),)


@infer_shapes.register
def _(op: Unpool, x: Shape, indices: Shape) -> tuple[Shape]:
    check_image("unpooling", x, len(op.size))
    if x != indices:
        raise ShapeError(f"indices of shape {times(indices)} for values of shape {times(x)}")
    return ((*x[:2], *op.size),)


@infer_shapes.register
def _(op: Unfold, x: Shape) -> tuple[Shape]:
    check_image("unfolding", x, len(op.kernel))
    return ((x[0], x[1] * math.prod(op.kernel), *window_outputs(op, x[2:])),)


def fold_positions(op: Fold) -> Shape:
    """How many windows the image that ``op`` makes has, per axis."""
    return window_outputs(op, op.size)


@infer_shapes.register
def _(op: Fold, x: Shape) -> tuple[Shape]:
    check_image("folding", x, len(op.kernel))
    taps, positions = math.prod(op.kernel), fold_positions(op)
    if x[1] % taps or x[2:] != positions:
        raise ShapeError(
            f"{times(op.size)} has {times(positions)} windows of {taps} elements,"
            f" not {times(x[2:])} of {x[1]}",
            remedy="fold to the size that was unfolded",
        )
    return ((x[0], x[1] // taps, *op.size),)


@infer_shapes.register
def _(op: GridSample, x: Shape, grid: Shape) -> tuple[Shape]:
    check_image("grid sampling", x)
    axes = len(x) - 2
    if len(grid) != len(x) or grid[0] != x[0] or grid[-1] != axes:
        raise ShapeError(
            f"a grid of shape {times(grid)} for an input of shape {times(x)}",
            remedy=f"give the batch, {axes} output axes and {axes} coordinates",
        )
    return ((*x[:2], *grid[1:-1]),)


@infer_shapes.register
def _(op: Resize, x: Shape) -> tuple[Shape]:
    check_image("resizing", x, len(op.scale or op.size))
    if op.size:
        return ((*x[:2], *op.size),)
    return ((*x[:2], *(math.floor(s * f) for s, f in zip(x[2:], op.scale, strict=True))),)
