"""Rules about work that can be left out, merged or put elsewhere without changing the result."""

from __future__ import annotations

import math

from convsmith.graph import Node
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
    Norm,
    Pad,
    Pool,
    Reshape,
    Resize,
    Slice,
    Transpose,
    Unsupported,
)
from convsmith.linting.rule import Site, Sites, rule
from convsmith.linting.subject import Subject

__all__: list[str] = []

_MONOTONE = frozenset(
    (
        "relu",
        "relu6",
        "elu",
        "celu",
        "selu",
        "sigmoid",
        "hardsigmoid",
        "tanh",
        "softplus",
        "softsign",
        "clip",
    )
)


@rule(
    "P201",
    "note",
    what="An activation that never falls (relu, relu6, elu, celu, selu, sigmoid, hardsigmoid,"
    " tanh, softplus, softsign, clip, leakyrelu of a slope of at least 0) whose only reader is a"
    " maximum pooling with a stride.",
    why="The maximum of activated values is the activated maximum: pooling first gives the same"
    " result with one activation per output instead of one per input.",
    example="3@32 > conv 8 3 p1 > relu > maxpool 2/2",
    fine="3@32 > conv 8 3 p1 > maxpool 2/2 > relu",
    remedy="Swap the two; the result is the same, bit for bit.",
    caveats="Engines that fuse the activation into the convolution have it for free.",
)
def activation_before_max_pool(net: Subject) -> Sites:
    """An activation that is cheaper behind the pooling."""
    for node in net.graph.nodes:
        op = node.op
        if not isinstance(op, Activation):
            continue
        rising = op.kind in _MONOTONE or (op.kind == "leakyrelu" and (op.alpha or 0) >= 0)
        pool = net.only_user(node)
        if not rising or pool is None or not isinstance(pool.op, Pool) or pool.op.kind != "max":
            continue
        shape, pooled = net.shape(node.name), net.shape(pool.name)
        if shape and pooled and math.prod(pooled) < math.prod(shape):
            yield Site(node.name, f"{math.prod(shape):,} activations before {pool.name},"
                       f" {math.prod(pooled):,} behind it")  # fmt: skip


@rule(
    "P202",
    "note",
    what="A layer whose output equals its input: windows of one element and stride 1, a resize,"
    " reshape, transpose, slice, pad or expand that changes nothing, an adaptive or global"
    " pooling to the size that is there, a sum or concatenation of one value.",
    why="Engines that do not remove it copy the value.",
    example="512@7 > adaptiveavgpool 7 > flatten > fc 10",
    fine="512@14 > adaptiveavgpool 7 > flatten > fc 10",
    remedy="Remove it.",
    caveats="It may be there for other input sizes (adaptive pooling in VGG). Identity and"
    " dropout, which every engine removes, are not found.",
)
def no_op_layer(net: Subject) -> Sites:
    """A layer that changes nothing."""
    for node in net.graph.nodes:
        if len(node.inputs) == 1 and net.shape(node.inputs[0]) is not None and _is_no_op(net, node):
            yield Site(node.name, "its output equals its input")


def _is_no_op(net: Subject, node: Node) -> bool:
    same = net.shape(node.inputs[0]) == net.shape(node.name)
    match node.op:
        case Pool(kernel=kernel, stride=stride):
            return set(kernel) == set(stride) == {1} and same
        case Transpose(permutation=order):
            return order == tuple(range(len(order)))
        case Slice(ranges=ranges):
            return same and all(step == 1 for *_, step in ranges)
        case Pad(padding=padding):
            return not any(low or high for low, high in padding)
        case Resize(mode=mode):
            return same and mode == "nearest"
    one = AdaptivePool | GlobalPool | Reshape | Flatten | Expand | Concat | Elementwise
    return same and isinstance(node.op, one)


@rule(
    "P203",
    "note",
    what="A transpose that puts the axes back that the transpose before it moved, with at most"
    " activations, batch-free elementwise operators or identities between them.",
    why="Both copy the whole value; together they do nothing. Conversions between layouts (NHWC"
    " and NCHW) leave such pairs behind.",
    example="8@16 > transpose 0,2,3,1 > relu > transpose 0,3,1,2",
    fine="8@16 > transpose 0,2,3,1 > relu > transpose 0,2,1,3",
    remedy="Remove both.",
)
def cancelling_transposes(net: Subject) -> Sites:
    """Two transposes that cancel."""
    for node in net.graph.nodes:
        if not isinstance(node.op, Transpose):
            continue
        before = net.back_through_elementwise(node, norms=False)
        if before is None or not isinstance(before.op, Transpose):
            continue
        first, second = before.op.permutation, node.op.permutation
        moved = any(axis != place for place, axis in enumerate(first))
        if moved and all(first[axis] == place for place, axis in enumerate(second)):
            yield Site(node.name, f"it undoes {before.name}")


@rule(
    "P204",
    "warning",
    what="Two convolutions (groups 1, not transposed) or two linear layers with nothing nonlinear"
    " between them (batch normalization is linear), where one layer does the same with no more"
    " multiply-accumulates: one of two convolutions is 1x1 with stride 1 and no padding.",
    why="Two linear maps in a row are one linear map. Unless the middle is narrow on purpose (a"
    " low rank), a nonlinearity was forgotten or a layer is wasted.",
    example="16@28 > conv 64 3 p1 > conv 32 1",
    fine="64@28 > conv 16 1 > conv 64 3 p1",
    remedy="Put a nonlinearity between them, or multiply the two weights into one layer: exact.",
    caveats="Over-parametrized training on purpose (RepVGG, ExpandNets) merges them afterwards."
    " Where the first has a bias and the second pads, the merged layer differs along the border.",
    references=("Guo et al., 2020, arXiv:1811.10495 (ExpandNets)",),
)
def mergeable_layers(net: Subject) -> Sites:
    """Two linear layers in a row that one replaces at no more cost."""
    for node in net.graph.nodes:
        before = net.before(node) if isinstance(node.op, Conv | Linear) else None
        while (
            before is not None
            and net.only_user(before) is not None
            and (
                isinstance(before.op, Identity)
                or (isinstance(before.op, Norm) and before.op.kind == "batch")
            )
        ):
            before = net.before(before)
        if before is None or net.only_user(before) is None:
            continue
        merged = _merged(net, before, node)
        spent = net.rows[before.name].macs + net.rows[node.name].macs
        if merged is not None and merged <= spent:
            yield Site(node.name, f"with {before.name} it takes {spent:,} multiply-accumulates, one"
                       f" layer in their place {merged:,}")  # fmt: skip


def _merged(net: Subject, first: Node, second: Node) -> int | None:
    """What one layer costs that does the work of two; ``None`` if there is no such layer."""
    x, y = net.shape(first.inputs[0]), net.shape(second.name)
    if x is None or y is None:
        return None
    match first.op, second.op:
        case Linear(), Linear():
            return math.prod(y) * x[-1]
        case Conv() as a, Conv() as b:
            if a.groups > 1 or b.groups > 1 or a.transposed or b.transposed:
                return None
            if _is_pointwise(b) or _is_pointwise(a):
                kernel = a.kernel if _is_pointwise(b) else b.kernel
                return math.prod(y) * x[1] * math.prod(kernel)
    return None


def _is_pointwise(op: Conv) -> bool:
    padded = op.same is None and any(low or high for low, high in op.padding)
    return set(op.kernel) == set(op.stride) == {1} and not padded


@rule(
    "P205",
    "note",
    what="A maximum pooling without padding whose input is, directly, a maximum pooling with a"
    " stride and without padding; or the same with averages, where the first one's windows do not"
    " overlap.",
    why="One pooling does the same (kernel k1 + (k2 - 1) s1, stride s1 s2) and the value between"
    " them is never written.",
    example="16@32 > maxpool 2/2 > maxpool 2/2",
    fine="16@32 > maxpool 2/2 > relu > maxpool 2/2",
    remedy="Merge them, or put a layer between them: so fast a loss of resolution is rarely meant.",
)
def mergeable_pools(net: Subject) -> Sites:
    """Two poolings in a row that one replaces."""
    for node in net.graph.nodes:
        before = net.before(node)
        if before is None or net.only_user(before) is None:
            continue
        match before.op, node.op:
            case (Pool(kind=kind) as a, Pool() as b) if kind == b.kind:
                apart = kind == "max" or a.kernel == a.stride
                if not (apart and _is_bare(a) and _is_bare(b) and max(a.stride) > 1):
                    continue
                kernel = [k + (m - 1) * s for k, m, s in zip(a.kernel, b.kernel, a.stride,
                                                             strict=True)]  # fmt: skip
                stride = [s * t for s, t in zip(a.stride, b.stride, strict=True)]
                yield Site(node.name, f"with {before.name} it is one pooling of kernel"
                           f" {'x'.join(map(str, kernel))} and stride"
                           f" {'x'.join(map(str, stride))}")  # fmt: skip


def _is_bare(op: Pool) -> bool:
    """Whether a pooling has plain windows: no padding, dilation or rounding up."""
    padded = op.same is not None or any(low or high for low, high in op.padding)
    return not padded and set(op.dilation) == {1} and op.rounding == "floor"


@rule(
    "P206",
    "note",
    what="A layer with the same operator, inputs and parameters as an earlier one.",
    why="It computes again what is there already.",
    example="x : 8@16\na = relu (x)\nb = relu (x)\nc = conv 8 3 (a)\nd = conv 8 3 (b)\nreturn c d",
    fine="x : 8@16\na = relu (x)\nc = conv 8 3 (a)\nd = conv 8 3 (a)\nreturn c d",
    remedy="Compute it once and use the value twice.",
    caveats="Convolutions of which both results go into one sum are left to twin-layers.",
)
def repeated_computation(net: Subject) -> Sites:
    """The same computation done twice."""
    seen: dict[object, Node] = {}
    for node in net.graph.nodes:
        if isinstance(node.op, Unsupported | Identity) or not node.inputs:
            continue
        first = seen.setdefault((node.op, node.inputs, node.parameters), node)
        if first is not node:
            yield Site(node.name, f"{first.name} computes the same from the same input")


@rule(
    "P207",
    "note",
    what="A 1x1 convolution (stride 1, no padding) whose input is, directly, an upsampling"
    " (nearest or linear) that nothing else reads.",
    why="Interpolation takes means of positions, a 1x1 takes sums over channels: their order does"
    " not matter. Before an upsampling by 2 the convolution costs a quarter.",
    example="256@14 > up 2 > conv 128 1",
    fine="256@14 > up 2 > conv 128 3 p1",
    remedy="Convolve first, then upsample: equal up to rounding.",
    caveats="If the convolution makes more channels than it reads, the resize has more to do.",
)
def pointwise_behind_upsampling(net: Subject) -> Sites:
    """A 1x1 convolution that is cheaper before the upsampling."""
    for node in net.graph.nodes:
        before = net.before(node)
        if (
            not isinstance(node.op, Conv)
            or node.op.transposed
            or not _is_pointwise(node.op)
            or before is None
            or not isinstance(before.op, Resize)
            or before.op.mode == "cubic"
            or net.only_user(before) is None
        ):
            continue
        small, large = net.shape(before.inputs[0]), net.shape(before.name)
        if small and large and (ratio := math.prod(large) / max(math.prod(small), 1)) > 1:
            macs = net.rows[node.name].macs
            yield Site(node.name, f"{macs:,} multiply-accumulates behind {before.name},"
                       f" {round(macs / ratio):,} before it")  # fmt: skip


@rule(
    "P208",
    "note",
    what="A 1x1 convolution (stride 1, no padding) whose output goes, directly and only, to an"
    " average pooling without padding and with a stride, or to a global average pooling.",
    why="Means over positions and sums over channels can be taken in any order. Behind a 2x2"
    " pooling the convolution costs a quarter.",
    example="256@56 > relu > conv 128 1 > avgpool 2/2",
    fine="256@56 > relu > conv 128 1 > relu > avgpool 2/2",
    remedy="Pool first, then convolve: equal up to rounding.",
    caveats="DenseNet's transitions are built this way: true there, too.",
    references=("Huang et al., 2017, arXiv:1608.06993, section 3 (transition layers)",),
)
def pointwise_before_average(net: Subject) -> Sites:
    """A 1x1 convolution that is cheaper behind the average."""
    for node in net.graph.nodes:
        pool = net.only_user(node)
        if not isinstance(node.op, Conv) or node.op.transposed or not _is_pointwise(node.op):
            continue
        if pool is None or not _is_mean(pool):
            continue
        large, small = net.shape(node.name), net.shape(pool.name)
        if small and large and (ratio := math.prod(large) / max(math.prod(small), 1)) > 1:
            macs = net.rows[node.name].macs
            yield Site(node.name, f"{macs:,} multiply-accumulates before {pool.name},"
                       f" {round(macs / ratio):,} behind it")  # fmt: skip


def _is_mean(node: Node) -> bool:
    match node.op:
        case Pool(kind="average") as op:
            return _is_bare(op)
        case GlobalPool(kind="average"):
            return True
    return False
