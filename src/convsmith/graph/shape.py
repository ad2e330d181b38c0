"""The table of shapes: what every operator makes of the sizes of its inputs.

Sources of the formulas: Dumoulin & Visin, "A guide to convolution arithmetic for deep learning"
(2016), relations 6, 14 and their dilated form; TensorFlow's SAME rule; Caffe's rule for
``ceil``, which PyTorch shares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import singledispatch

from convsmith.errors import ShapeError, UnsupportedOperatorError
from convsmith.graph.operators import (
    Activation,
    AdaptivePool,
    Concat,
    Conv,
    Elementwise,
    Expand,
    Flatten,
    GlobalPool,
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
    Split,
    Transpose,
    Unary,
    Unsupported,
)

__all__ = [
    "Shape",
    "broadcast",
    "effective_kernel",
    "infer_shapes",
    "parameter_shapes",
    "resolve_padding",
]

Shape = tuple[int, ...]


@singledispatch
def infer_shapes(op: Operator, *inputs: Shape) -> tuple[Shape | None, ...]:
    """Returns the shape of every output; ``None`` where nobody can know it.

    Args:
        op: The operator.
        *inputs: The shapes of its inputs, batch and channels included.

    Raises:
        ShapeError: If the sizes do not fit; the message has no place yet.

    >>> from convsmith.graph.operators import Linear
    >>> infer_shapes(Linear(features=10), (5, 7, 3))
    ((5, 7, 10),)
    """
    raise UnsupportedOperatorError(f"no shape rule for {type(op).__name__}")


def effective_kernel(kernel: int, dilation: int) -> int:
    """The extent of a dilated window, ``d (k - 1) + 1``.

    >>> effective_kernel(3, 2)
    5
    """
    return dilation * (kernel - 1) + 1


def resolve_padding(op: Conv | Pool, spatial: Shape) -> Padding:
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


def _times(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def _check_image(op_name: str, shape: Shape, rank: int | None = None) -> None:
    if len(shape) < 3 or (rank is not None and len(shape) != rank + 2):
        wanted = f"(N, C, {rank} spatial axes)" if rank is not None else "(N, C, spatial ...)"
        raise ShapeError(
            f"{op_name} needs an input {wanted}, not shape {_times(shape) or 'scalar'}",
            remedy="check the layers before it",
        )


def _window_outputs(op: Conv | Pool, spatial: Shape) -> Shape:
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
            dilated = f" (dilated to {_times(extent)})" if extent != op.kernel else ""
            raise ShapeError(
                f"kernel {_times(op.kernel)}{dilated} does not fit input {_times(spatial)}"
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
    _check_image("a convolution", x, len(op.kernel))
    channels, spatial = x[1], x[2:]
    if channels % op.groups or op.channels % op.groups:
        raise ShapeError(
            f"{op.groups} groups do not divide {channels} input and {op.channels} output channels",
            remedy="choose a number of groups that divides both",
        )
    if not op.transposed:
        return ((x[0], op.channels, *_window_outputs(op, spatial)),)
    extra = op.output_padding or (0,) * len(spatial)
    sizes = tuple(
        (size - 1) * stride - low - high + effective_kernel(kernel, dilation) + more
        for size, kernel, stride, dilation, (low, high), more in zip(
            spatial, op.kernel, op.stride, op.dilation, op.padding, extra, strict=True
        )
    )
    if min(sizes) < 1:
        raise ShapeError(
            f"the padding cuts away more than is made of {_times(spatial)}",
            remedy="use less padding or a larger input",
        )
    return ((x[0], op.channels, *sizes),)


@infer_shapes.register
def _(op: Pool, x: Shape) -> tuple[Shape]:
    _check_image("pooling", x, len(op.kernel))
    return ((*x[:2], *_window_outputs(op, x[2:])),)


@infer_shapes.register
def _(op: GlobalPool, x: Shape) -> tuple[Shape]:
    _check_image("global pooling", x)
    return ((*x[:2], *(1 for _ in x[2:])),)


@infer_shapes.register
def _(op: AdaptivePool, x: Shape) -> tuple[Shape]:
    _check_image("adaptive pooling", x, len(op.size))
    return ((*x[:2], *(want or have for want, have in zip(op.size, x[2:], strict=True))),)


@infer_shapes.register(Activation)
@infer_shapes.register(Unary)
@infer_shapes.register(Identity)
def _(op: Operator, x: Shape) -> tuple[Shape]:
    return (x,)


@infer_shapes.register
def _(op: Norm, x: Shape) -> tuple[Shape]:
    if len(x) < 2 and op.kind != "layer":
        raise ShapeError(f"{op.kind} normalization needs a channel axis, not shape {_times(x)}")
    if op.kind == "group" and x[1] % op.groups:
        raise ShapeError(
            f"{op.groups} groups do not divide {x[1]} channels",
            remedy="choose a number of groups that divides the channels",
        )
    if op.kind == "layer" and op.axes > len(x):
        raise ShapeError(f"layer normalization over {op.axes} axes of shape {_times(x)}")
    return (x,)


@infer_shapes.register
def _(op: LocalResponseNorm, x: Shape) -> tuple[Shape]:
    _check_image("local response normalization", x)
    return (x,)


@infer_shapes.register
def _(op: Softmax, x: Shape) -> tuple[Shape]:
    _axis(op.axis, x)
    return (x,)


def _axis(axis: int, x: Shape) -> int:
    if not -len(x) <= axis < len(x):
        raise ShapeError(f"axis {axis} does not exist in shape {_times(x) or 'scalar'}")
    return axis % len(x)


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
        raise ShapeError(f"matrix product of {_times(a)} and {_times(b)}: inner sizes differ")
    tail = ((left[-2],) if len(a) > 1 else ()) + ((right[-1],) if len(b) > 1 else ())
    return (broadcast(left[:-2], right[:-2]) + tail,)


def broadcast(*shapes: Shape) -> Shape:
    """The shape that all the shapes broadcast to.

    >>> broadcast((3, 1, 5), (4, 1))
    (3, 4, 5)
    """
    rank = max(map(len, shapes))
    result = []
    for column in zip(*((1,) * (rank - len(s)) + s for s in shapes), strict=True):
        sizes = {size for size in column if size != 1}
        if len(sizes) > 1:
            raise ShapeError(
                f"shapes {' and '.join(_times(s) or 'scalar' for s in shapes)} do not broadcast",
                remedy="every axis must be equal or 1; check stride and padding of the branches",
            )
        result.append(sizes.pop() if sizes else 1)
    return tuple(result)


@infer_shapes.register
def _(op: Elementwise, *inputs: Shape) -> tuple[Shape]:
    return (broadcast(*inputs),)


@infer_shapes.register
def _(op: Concat, *inputs: Shape) -> tuple[Shape]:
    first = inputs[0]
    axis = _axis(op.axis, first)
    rest = {(*s[:axis], *s[axis + 1 :]) for s in inputs}
    if len(rest) > 1 or len({len(s) for s in inputs}) > 1:
        raise ShapeError(
            f"cannot concatenate {' and '.join(map(_times, inputs))} along axis {axis}",
            remedy="all other axes must be equal; check stride and padding of the branches",
        )
    return ((*first[:axis], sum(s[axis] for s in inputs), *first[axis + 1 :]),)


@infer_shapes.register
def _(op: Split, x: Shape) -> tuple[Shape, ...]:
    axis = _axis(op.axis, x)
    if sum(op.sizes) != x[axis] or min(op.sizes) < 0:
        raise ShapeError(f"sizes {op.sizes} do not add up to the {x[axis]} of axis {axis}")
    return tuple((*x[:axis], size, *x[axis + 1 :]) for size in op.sizes)


@infer_shapes.register
def _(op: Slice, x: Shape) -> tuple[Shape]:
    sizes = list(x)
    for axis, start, stop, step in op.ranges:
        size = x[_axis(axis, x)]
        end = size if stop is None else min(stop, size)
        sizes[axis] = max(0, -(-(end - start) // step))
    return (tuple(sizes),)


@infer_shapes.register
def _(op: Pad, x: Shape) -> tuple[Shape]:
    if len(op.padding) != len(x):
        raise ShapeError(f"padding for {len(op.padding)} axes, input has {len(x)}")
    sizes = tuple(s + low + high for s, (low, high) in zip(x, op.padding, strict=True))
    if sizes and min(sizes) < 0:
        raise ShapeError(f"negative padding cuts away more than there is of {_times(x)}")
    if op.mode == "reflect" and any(
        max(pair) >= size for size, pair in zip(x, op.padding, strict=True) if max(pair) > 0
    ):
        raise ShapeError(
            f"reflection padding must be smaller than the input {_times(x)}",
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
            raise ShapeError(f"cannot reshape {_times(x)} to {','.join(map(str, shape))}")
        shape = tuple(total // known if s == -1 else s for s in shape)
    if math.prod(shape) != total:
        raise ShapeError(f"cannot reshape {_times(x)} to {','.join(map(str, op.shape))}")
    return (shape,)


@infer_shapes.register
def _(op: Flatten, x: Shape) -> tuple[Shape]:
    if op.axis == len(x):
        return ((*x, 1),)
    axis, last = _axis(op.axis, x), _axis(op.last, x)
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
def _(op: Resize, x: Shape) -> tuple[Shape]:
    _check_image("resizing", x, len(op.scale or op.size))
    if op.size:
        return ((*x[:2], *op.size),)
    return ((*x[:2], *(math.floor(s * f) for s, f in zip(x[2:], op.scale, strict=True))),)


@infer_shapes.register
def _(op: Reduce, x: Shape) -> tuple[Shape]:
    axes = {_axis(axis, x) for axis in op.axes}
    if op.keep:
        return (tuple(1 if i in axes else s for i, s in enumerate(x)),)
    return (tuple(s for i, s in enumerate(x) if i not in axes),)


@infer_shapes.register
def _(op: Unsupported, *inputs: Shape) -> tuple[Shape | None, ...]:
    return op.shapes


def parameter_shapes(op: Operator, *inputs: Shape) -> tuple[Shape, ...]:
    """Returns the shapes of the parameter tensors, in the order of ``roles(op)``.

    >>> from convsmith.graph.operators import Linear
    >>> parameter_shapes(Linear(features=10), (1, 4))
    ((10, 4), (10,))
    """
    x = inputs[0] if inputs else ()
    match op:
        case Conv(transposed=False):
            weight: Shape = (op.channels, x[1] // op.groups, *op.kernel)
            return (weight, (op.channels,)) if op.bias else (weight,)
        case Conv():
            weight = (x[1], op.channels // op.groups, *op.kernel)
            return (weight, (op.channels,)) if op.bias else (weight,)
        case Linear():
            weight = (op.features, x[-1])
            return (weight, (op.features,)) if op.bias else (weight,)
        case Norm(kind="batch"):
            return ((x[1],),) * (4 if op.affine else 2)
        case Norm(kind="layer", affine=True):
            return (x[len(x) - op.axes :],) * 2
        case Norm(affine=True):
            return ((x[1],),) * 2
        case Activation(kind="prelu"):
            return ((x[1] if len(x) > 1 else 1,),)
    return ()
