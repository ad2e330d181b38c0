"""Rules about networks that compute something else than was meant."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from convsmith.graph import Node
from convsmith.graph.operators import (
    Activation,
    Conv,
    Elementwise,
    Flatten,
    Identity,
    Norm,
    Reshape,
    Softmax,
    Unsupported,
)
from convsmith.linting.rule import AXES, Site, Sites, by_axis, rule
from convsmith.linting.subject import Subject, Window, times

__all__: list[str] = []

ENDS = 64
"""How many windows are examined at each end of an axis; padding is at the ends."""


@rule(
    "C001",
    "error",
    what="A stored tensor holds NaN or an infinity.",
    why="One NaN reaches every output that the layer feeds, and comparisons with NaN are false:"
    " a maximum or a ReLU may hide it, so that only some images fail.",
    example="3@8 > conv 4 3",
    given="one element of conv1.weight is NaN",
    fine="3@8 > conv 4 3 > relu",
    remedy="Go back to the last checkpoint whose numbers are finite; training diverged, or a"
    " conversion to half precision overflowed.",
    references=("IEEE 754-2019, section 6.2",),
    needs="weights",
)
def non_finite_weights(net: Subject) -> Sites:
    """A stored number is NaN or infinite."""
    for node, role, data in net.parameters():
        if not np.issubdtype(data.dtype, np.inexact):
            continue
        wrong = int(data.size - np.isfinite(data).sum())
        if wrong:
            yield Site(node.name, f"{wrong:,} of the {data.size:,} numbers of its {role} are not"
                       " finite")  # fmt: skip


@rule(
    "C002",
    "error",
    what="A running variance of a batch normalization is below 0.",
    why="A variance cannot be negative. The layer divides by its root: NaN, or a scale that has"
    " nothing to do with the data where epsilon hides the sign.",
    example="3@8 > conv 4 3 nobias > bn",
    given="one element of bn1.variance is -0.1",
    fine="3@8 > conv 4 3 nobias > bn > relu",
    remedy="Load the statistics again and check the order in which mean, variance, scale and"
    " shift are assigned.",
    caveats="A variance of exactly 0 is legal and left to tiny-variance.",
    references=("Ioffe & Szegedy, 2015, arXiv:1502.03167, algorithm 1",),
    needs="weights",
)
def negative_variance(net: Subject) -> Sites:
    """A stored variance is negative."""
    for node in net.graph.nodes:
        variance = net.array(node, "variance")
        if variance is not None and (wrong := int((variance < 0).sum())):
            yield Site(node.name, f"{wrong} of its {variance.size} variances are negative, down to"
                       f" {variance.min():.3g}")  # fmt: skip


@rule(
    "C003",
    "warning",
    what="At least one window of a convolution or a pooling has all its taps in the padding, at"
    " the size that the network runs on. Kernels of a single element are left to"
    " padded-pointwise.",
    why="A convolution then outputs its bias, an average its zeros and a maximum minus infinity,"
    " whatever the image shows: a frame of constants that later layers learn to read.",
    example="3@8 > conv 4 3 p3",
    fine="3@8 > conv 4 3 p2",
    remedy="Pad by less than the extent of the kernel; half of it keeps the size.",
    caveats="Full convolutions on purpose (padding of extent - 1) are not found: every window"
    " still meets one pixel.",
    references=("Dumoulin & Visin, 2016, arXiv:1603.07285, section 2.4",),
)
def window_in_padding(net: Subject) -> Sites:
    """A window sees nothing but padding."""
    for node, windows in net.all_windows():
        yield from by_axis(
            (
                window.axis,
                Site(
                    node.name,
                    f"{blind} of its {window.count} windows along {AXES} see only padding:"
                    f" {window.low} before and {window.high} behind {window.size} elements, for an"
                    f" extent of {window.extent}",
                    f"pad by less than {window.extent}",
                ),
            )
            for window in windows
            if (blind := _blind(window)) and window.kernel > 1
        )


def _blind(window: Window) -> int:
    """How many windows see only padding, of those at the ends."""
    count = window.count
    ends = {*range(min(ENDS, count)), *range(max(count - ENDS, 0), count)}
    return sum(window.is_blind(output) for output in ends)


@rule(
    "C004",
    "warning",
    what="A kernel has one element along an axis that is padded.",
    why="The frame that the padding adds is the bias and nothing else, and the image grows for"
    " it. It is the usual trace of a 3x3 that was changed to 1x1, or of a 1xN that kept the"
    " padding of an NxN.",
    example="64@28 > conv 32 1 p1",
    fine="64@28 > conv 32 1x3 p0x1",
    remedy="Take the padding of that axis away.",
    references=("Szegedy et al., 2016, arXiv:1512.00567, figure 6 (1xN with padding 0xM)",),
)
def padded_pointwise(net: Subject) -> Sites:
    """A kernel of one element is padded."""
    for node, windows in net.all_windows():
        yield from by_axis(
            (
                window.axis,
                Site(
                    node.name,
                    f"its kernel is 1 along {AXES} but padded by {window.low} and {window.high}:"
                    f" {_blind(window)} of {window.count} outputs see no input",
                ),
            )
            for window in windows
            if window.kernel == 1 and (window.low > 0 or window.high > 0)
        )


@rule(
    "C005",
    "warning",
    what="A layer whose values reach no output of the network.",
    why="It costs parameters, memory and, in engines that do not remove it, time. Often a branch"
    " was meant to be joined and was not.",
    example="x : 3@8\na = conv 4 3 (x)\nb = conv 4 3 (x)\nreturn a",
    fine="x : 3@8\na = conv 4 3 (x)\nb = conv 4 3 (x)\nreturn a b",
    remedy="Join it, return it, or delete it.",
    caveats="Auxiliary heads that only training uses are found when they were left in.",
)
def dead_layer(net: Subject) -> Sites:
    """Nobody uses what a layer computes."""
    alive = set(net.results)
    for node in reversed(net.graph.nodes):
        if alive.intersection(node.outputs):
            alive.update(node.inputs)
    for node in net.graph.nodes:
        if not alive.intersection(node.outputs):
            row = net.rows[node.name]
            yield Site(node.name, f"no output depends on it; it has {row.params:,} parameters and"
                       f" {row.macs:,} multiply-accumulates")  # fmt: skip
            continue
        made = node.outputs
        for index, value in enumerate(made):
            if value not in alive:
                yield Site(node.name, f"nobody uses output {index} of its {len(made)}")


@rule(
    "C006",
    "warning",
    what="An input of the network that no layer reads and that is no output.",
    why="Whoever calls the network must make something up for it, and will wonder why it changes"
    " nothing.",
    example="x : 3@8\nmask : 1@8\nc = conv 4 3 (x)\nreturn c",
    fine="x : 3@8\nmask : 1@8\nc = conv 4 3 (x)\nreturn c mask",
    remedy="Remove the input or use it.",
)
def unused_input(net: Subject) -> Sites:
    """An input that nothing reads."""
    for value in net.graph.inputs:
        if not net.graph.consumers.get(value.name) and value.name not in net.results:
            yield Site(value.name, f"no layer reads this input of shape {times(value.shape)}")


@rule(
    "C007",
    "note",
    what="A stored tensor that no layer reads.",
    why="It is written into every file and loaded every time. A weight that nobody reads may also"
    " mean that a layer reads another one by mistake.",
    example="x : 3@8\nw : parameter <4,3,3,3>\nc = conv 4 3 nobias (x)\nreturn c",
    fine="x : 3@8\nw : parameter <4,3,3,3>\nc = conv 4 3 nobias {weight = w} (x)\nreturn c",
    remedy="Delete it, or connect the layer that was meant to read it.",
)
def unused_constant(net: Subject) -> Sites:
    """A stored tensor that nothing reads."""
    used = {name for node in net.graph.nodes for name in (*node.parameters, *node.inputs)}
    used.update(net.results)
    for name, constant in net.graph.constants.items():
        if name not in used:
            yield Site(name, f"no layer reads this tensor of {constant.size:,} elements")


@rule(
    "C008",
    "warning",
    what="A softmax whose input is the output of a softmax or a sigmoid, with at most reshapes"
    " between them.",
    why="A second softmax flattens probabilities: of numbers between 0 and 1, the largest of"
    " k classes can get no more than e / (e + k - 1), 27 % for k = 8. Usually the loss has one"
    " already (PyTorch's CrossEntropyLoss takes logits).",
    example="16@7 > gap > fc 8 > softmax > softmax",
    fine="16@7 > gap > fc 8 > softmax",
    remedy="Remove one of them.",
    references=("PyTorch documentation, torch.nn.CrossEntropyLoss: input is unnormalized logits",),
)
def softmax_twice(net: Subject) -> Sites:
    """A softmax of probabilities."""
    for node in net.graph.nodes:
        if not isinstance(node.op, Softmax):
            continue
        before = net.before(node)
        while before is not None and isinstance(before.op, Reshape | Flatten | Identity):
            before = net.before(before)
        if before is not None and (
            isinstance(before.op, Softmax)
            or (isinstance(before.op, Activation) and before.op.kind == "sigmoid")
        ):
            yield Site(node.name, f"it normalizes what {before.name} has already put between 0"
                       " and 1")  # fmt: skip


@rule(
    "C009",
    "error",
    what="A softmax over an axis of size 1.",
    why="The softmax of one number is 1 (its logarithm 0), whatever the number: the layers before"
    " it have no effect and get no gradient.",
    example="16@7 > gap > fc 1 > softmax",
    fine="16@7 > gap > fc 1 > sigmoid",
    remedy="For one class use a sigmoid; else check the axis.",
)
def softmax_of_one(net: Subject) -> Sites:
    """A softmax over a single value is constant."""
    for node in net.graph.nodes:
        if isinstance(node.op, Softmax) and (shape := net.shape(node.name)):
            axis = node.op.axis % len(shape)
            if shape[axis] == 1:
                constant = 0 if node.op.log else 1
                yield Site(node.name, f"axis {axis} of {times(shape)} has size 1: the output is"
                           f" always {constant}")  # fmt: skip


@rule(
    "C010",
    "error",
    what="Interval arithmetic from the input on shows that an activation has one and the same"
    " output for every input.",
    why="Everything before it has no effect and gets no gradient.",
    example="3@8 > conv 4 1 > relu > neg > relu",
    fine="3@8 > conv 4 1 > neg > relu",
    remedy="Check the sign, the bounds or the order of the layers before it.",
    caveats="Bounds through convolutions are not followed; no false alarms are known.",
)
def constant_activation(net: Subject) -> Sites:
    """An activation that always gives the same number."""
    for node in net.graph.nodes:
        low, high = net.ranges[node.name]
        if isinstance(node.op, Activation) and low == high and math.isfinite(low):
            below, above = net.ranges[node.inputs[0]]
            yield Site(node.name, f"its input lies between {below + 0.0:g} and {above + 0.0:g},"
                       f" where its output is always {low + 0.0:g}")  # fmt: skip


@rule(
    "C011",
    "error",
    what="An instance, group or layer normalization whose sets have one element each, at the size"
    " that the network runs on.",
    why="A single number minus its mean is 0: the layer outputs its shift, and the image is gone.",
    example="16@7 > gap > instancenorm > conv 8 1",
    fine="16@7 > gap > groupnorm 4 > conv 8 1",
    remedy="Normalize before the pooling, over more channels, or not at all.",
    references=("Wu & He, 2018, arXiv:1803.08494, equations 1 to 7",),
)
def norm_of_one(net: Subject) -> Sites:
    """A normalization over single values erases them."""
    for node in net.graph.nodes:
        shape = net.shape(node.inputs[0]) if isinstance(node.op, Norm) else None
        if shape and isinstance(node.op, Norm) and _set_size(node.op, shape) == 1:
            yield Site(node.name, f"it normalizes sets of 1 element of {times(shape)}: the output"
                       " does not depend on the input")  # fmt: skip


def _set_size(op: Norm, shape: tuple[int, ...]) -> int:
    """How many elements share a mean; 0 where stored statistics are used."""
    match op.kind:
        case "instance":
            return math.prod(shape[2:])
        case "group":
            return shape[1] // op.groups * math.prod(shape[2:])
        case "layer":
            return math.prod(shape[len(shape) - op.axes :])
    return 0


@rule(
    "C012",
    "warning",
    what="Two values that are computed from the input are combined element by element, and each"
    " of them is stretched along another axis.",
    why="Adding (N, 1) and (N,) gives (N, N): every sample meets every other one, and nothing"
    " complains. Gates of squeeze-and-excitation stretch only one side.",
    example="x : <4,1>\na = relu (x)\nb = reshape 4 (x)\ny = add (a b)\nreturn y",
    fine="x : <4,1>\na = relu (x)\nb = reshape 4,1 (x)\ny = add (a b)\nreturn y",
    remedy="Reshape one side so that the axes correspond.",
    caveats="Outer sums and coordinate grids on purpose are found too.",
    references=("NumPy documentation, broadcasting",),
)
def stretched_both_ways(net: Subject) -> Sites:
    """Both sides of an elementwise operator are stretched."""
    for node in _elementwise(net):
        output = net.shape(node.name)
        shapes = [net.shape(value) for value in dict.fromkeys(net.values(node))]
        known = [shape for shape in shapes if shape and math.prod(shape) > 1]
        if output and len(known) > 1 and all(math.prod(s) < math.prod(output) for s in known):
            sides = " and ".join(times(shape) for shape in known)
            yield Site(node.name, f"{sides} are both stretched to {times(output)}")


def _elementwise(net: Subject) -> Iterator[Node]:
    for node in net.graph.nodes:
        if isinstance(node.op, Elementwise):
            yield node


@rule(
    "C013",
    "warning",
    what="Two different layers of the same operator and the same input share one weight, and both"
    " results are used in one place.",
    why="Both compute the same: the wider sum or concatenation holds every value twice. A copy of"
    " the module was most likely meant.",
    example=(
        "x : 3@8\nw : parameter <4,3,3,3>\na = conv 4 3 nobias {weight = w} (x)\n"
        "b = conv 4 3 nobias {weight = w} (x)\nc = concat (a b)\nreturn c"
    ),
    fine="3@8 > [ conv 4 3 nobias | conv 4 3 nobias ]",
    remedy="Make a second module, or compute the value once and use it twice.",
)
def twin_layers(net: Subject) -> Sites:
    """The same layer twice, side by side."""
    for join in net.graph.nodes:
        seen: dict[object, Node] = {}
        for value in dict.fromkeys(join.inputs):
            node = net.graph.producers.get(value)
            if node is None or isinstance(node.op, Unsupported) or not isinstance(node.op, Conv):
                continue
            twin = seen.setdefault((node.op, node.inputs, node.parameters), node)
            if twin is not node:
                yield Site(node.name, f"it computes what {twin.name} computes, with the same"
                           f" weights, and {join.name} takes both")  # fmt: skip
