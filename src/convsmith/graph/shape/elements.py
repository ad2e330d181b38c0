"""The table of shapes, part two: elements, products and their arrangement."""

from __future__ import annotations

import math

from convsmith.errors import ShapeError
from convsmith.graph.contraction import axis_sizes, read_equation
from convsmith.graph.operators import (
    Activation,
    Cast,
    Concat,
    Cumulate,
    DepthToSpace,
    Einsum,
    Elementwise,
    Expand,
    Flatten,
    Flip,
    Gather,
    Identity,
    Linear,
    LocalResponseNorm,
    MatMul,
    Norm,
    Operator,
    Pad,
    Reduce,
    Reshape,
    Slice,
    Softmax,
    SpaceToDepth,
    Split,
    TopK,
    Transpose,
    Unary,
    Unsupported,
    Where,
)
from convsmith.graph.shape.table import (
    Shape,
    broadcast,
    check_axis,
    check_image,
    infer_shapes,
    times,
)

__all__: list[str] = []


@infer_shapes.register(Cast)
@infer_shapes.register(Activation)
@infer_shapes.register(Unary)
@infer_shapes.register(Identity)
def _(op: Operator, x: Shape) -> tuple[Shape]:
    return (x,)


@infer_shapes.register
def _(op: Norm, x: Shape) -> tuple[Shape]:
    if len(x) < 2 and op.kind not in ("layer", "rms"):
        raise ShapeError(f"{op.kind} normalization needs a channel axis, not shape {times(x)}")
    if op.kind == "group" and x[1] % op.groups:
        raise ShapeError(
            f"{op.groups} groups do not divide {x[1]} channels",
            remedy="choose a number of groups that divides the channels",
        )
    if op.kind in ("layer", "rms") and op.axes > len(x):
        raise ShapeError(f"{op.kind} normalization over {op.axes} axes of shape {times(x)}")
    return (x,)


@infer_shapes.register
def _(op: LocalResponseNorm, x: Shape) -> tuple[Shape]:
    check_image("local response normalization", x)
    return (x,)


@infer_shapes.register
def _(op: Softmax, x: Shape) -> tuple[Shape]:
    check_axis(op.axis, x)
    return (x,)


@infer_shapes.register
def _(op: Linear, x: Shape) -> tuple[Shape]:
    if not x:
        raise ShapeError("a linear layer needs at least one axis, not a scalar")
    return ((*x[:-1], op.features),)


@infer_shapes.register
def _(op: MatMul, a: Shape, b: Shape) -> tuple[Shape]:
    if not a or not b:
        raise ShapeError("a matrix product needs at least one axis, not a scalar")
    left = a if len(a) > 1 else (1, *a)
    right = b if len(b) > 1 else (*b, 1)
    if left[-1] != right[-2]:
        raise ShapeError(f"matrix product of {times(a)} and {times(b)}: inner sizes differ")
    tail = ((left[-2],) if len(a) > 1 else ()) + ((right[-1],) if len(b) > 1 else ())
    return (broadcast(left[:-2], right[:-2]) + tail,)


@infer_shapes.register
def _(op: Einsum, *inputs: Shape) -> tuple[Shape]:
    sizes = axis_sizes(op.equation, inputs)
    return (tuple(sizes[letter] for letter in read_equation(op.equation)[1]),)


@infer_shapes.register(Elementwise)
@infer_shapes.register(Where)
def _(op: Operator, *inputs: Shape) -> tuple[Shape]:
    return (broadcast(*inputs),)


@infer_shapes.register
def _(op: Cumulate, x: Shape) -> tuple[Shape]:
    check_axis(op.axis, x)
    return (x,)


@infer_shapes.register
def _(op: TopK, x: Shape) -> tuple[Shape, Shape]:
    axis = check_axis(op.axis, x)
    if not 0 <= op.count <= x[axis]:
        raise ShapeError(
            f"there are no {op.count} elements along axis {axis} of {times(x)}",
            remedy="ask for at most as many as there are",
        )
    made = (*x[:axis], op.count, *x[axis + 1 :])
    return made, made


@infer_shapes.register
def _(op: Concat, *inputs: Shape) -> tuple[Shape]:
    first = inputs[0]
    axis = check_axis(op.axis, first)
    rest = {(*s[:axis], *s[axis + 1 :]) for s in inputs}
    if len(rest) > 1 or len({len(s) for s in inputs}) > 1:
        raise ShapeError(
            f"cannot concatenate {' and '.join(map(times, inputs))} along axis {axis}",
            remedy="all other axes must be equal; check stride and padding of the branches",
        )
    return ((*first[:axis], sum(s[axis] for s in inputs), *first[axis + 1 :]),)


@infer_shapes.register
def _(op: Split, x: Shape) -> tuple[Shape, ...]:
    axis = check_axis(op.axis, x)
    if sum(op.sizes) != x[axis] or min(op.sizes) < 0:
        raise ShapeError(f"sizes {op.sizes} do not add up to the {x[axis]} of axis {axis}")
    return tuple((*x[:axis], size, *x[axis + 1 :]) for size in op.sizes)


@infer_shapes.register
def _(op: Slice, x: Shape) -> tuple[Shape]:
    sizes = list(x)
    for axis, start, stop, step in op.ranges:
        size = x[check_axis(axis, x)]
        end = size if stop is None else min(stop, size)
        sizes[axis] = max(0, -(-(end - start) // step))
    return (tuple(sizes),)


@infer_shapes.register
def _(op: Flip, x: Shape) -> tuple[Shape]:
    for axis in op.axes:
        check_axis(axis, x)
    return (x,)


@infer_shapes.register
def _(op: Gather, x: Shape, places: Shape) -> tuple[Shape]:
    axis = check_axis(op.axis, x)
    if not op.along:
        return ((*x[:axis], *places, *x[axis + 1 :]),)
    rest = [
        (have, want) for i, (have, want) in enumerate(zip(x, places, strict=False)) if i != axis
    ]
    if len(x) != len(places) or any(have < want for have, want in rest):
        raise ShapeError(
            f"places of shape {times(places)} along axis {axis} of {times(x)}",
            remedy="give as many axes, none longer except the one that is gathered from",
        )
    return (places,)


@infer_shapes.register
def _(op: DepthToSpace, x: Shape) -> tuple[Shape]:
    check_image("depth to space", x, len(op.block))
    cells = math.prod(op.block)
    if x[1] % cells:
        raise ShapeError(f"{x[1]} channels do not fill blocks of {times(op.block)} pixels")
    spatial = (size * block for size, block in zip(x[2:], op.block, strict=True))
    return ((x[0], x[1] // cells, *spatial),)


@infer_shapes.register
def _(op: SpaceToDepth, x: Shape) -> tuple[Shape]:
    check_image("space to depth", x, len(op.block))
    if any(size % block for size, block in zip(x[2:], op.block, strict=True)):
        raise ShapeError(f"blocks of {times(op.block)} do not tile an input of {times(x[2:])}")
    spatial = (size // block for size, block in zip(x[2:], op.block, strict=True))
    return ((x[0], x[1] * math.prod(op.block), *spatial),)


@infer_shapes.register
def _(op: Pad, x: Shape) -> tuple[Shape]:
    if len(op.padding) != len(x):
        raise ShapeError(f"padding for {len(op.padding)} axes, input has {len(x)}")
    sizes = tuple(s + low + high for s, (low, high) in zip(x, op.padding, strict=True))
    if sizes and min(sizes) < 0:
        raise ShapeError(f"negative padding cuts away more than there is of {times(x)}")
    if op.mode == "reflect" and any(
        max(pair) >= size for size, pair in zip(x, op.padding, strict=True) if max(pair) > 0
    ):
        raise ShapeError(
            f"reflection padding must be smaller than the input {times(x)}",
            remedy="use less padding or a larger input",
        )
    return (sizes,)


@infer_shapes.register
def _(op: Reshape, x: Shape) -> tuple[Shape]:
    total = math.prod(x)
    known = math.prod(s for s in op.shape if s != -1)
    shape = op.shape
    if min(shape, default=0) < -1 or shape.count(-1) > 1:
        raise ShapeError(
            f"{','.join(map(str, shape))} is no shape",
            remedy="at most one size may be -1, all others are 0 or more",
        )
    if -1 in shape:
        if known == 0 or total % known:
            raise ShapeError(f"cannot reshape {times(x)} to {','.join(map(str, shape))}")
        shape = tuple(total // known if s == -1 else s for s in shape)
    if math.prod(shape) != total:
        raise ShapeError(f"cannot reshape {times(x)} to {','.join(map(str, op.shape))}")
    return (shape,)


@infer_shapes.register
def _(op: Flatten, x: Shape) -> tuple[Shape]:
    if op.axis == len(x):
        return ((*x, 1),)
    axis, last = check_axis(op.axis, x), check_axis(op.last, x)
    if last < axis:
        raise ShapeError(f"cannot flatten axes {axis} to {last}")
    return ((*x[:axis], math.prod(x[axis : last + 1]), *x[last + 1 :]),)


@infer_shapes.register
def _(op: Transpose, x: Shape) -> tuple[Shape]:
    if sorted(op.permutation) != list(range(len(x))):
        raise ShapeError(f"{op.permutation} is not an order of the {len(x)} axes")
    return (tuple(x[axis] for axis in op.permutation),)


@infer_shapes.register
def _(op: Expand, x: Shape) -> tuple[Shape]:
    if min(op.shape, default=0) < 0:
        raise ShapeError(f"{','.join(map(str, op.shape))} is no shape")
    return (broadcast(x, op.shape),)


@infer_shapes.register
def _(op: Reduce, x: Shape) -> tuple[Shape]:
    axes = {check_axis(axis, x) for axis in op.axes}
    if op.keep:
        return (tuple(1 if i in axes else s for i, s in enumerate(x)),)
    return (tuple(s for i, s in enumerate(x) if i not in axes),)


@infer_shapes.register
def _(op: Unsupported, *inputs: Shape) -> tuple[Shape | None, ...]:
    return op.shapes
