"""Rules about stored numbers and about arithmetic that loses or overflows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from convsmith.graph import Node
from convsmith.graph.operators import Activation, Conv, Linear, Norm, Softmax, Unary
from convsmith.linting.rule import Site, Sites, rule
from convsmith.linting.subject import Subject

__all__: list[str] = []

Array = npt.NDArray[Any]

DENORMAL_SHARE = 0.001
"""Share of denormal weights from which on they are reported."""

LEAST_EPSILON = 1e-8
"""Epsilons below this one vanish beside a variance of 1 in float32."""

HALF_MAX = 65504.0
"""The largest finite number in half precision."""

HALF_INPUT = 8.0
"""Assumed bound of the values that a layer reads, for the bound of what it makes."""

NOTHING = 1e-12
"""A filter is dead if no weight is larger than this share of the largest one of its layer."""


@rule(
    "N301",
    "note",
    what=f"More than {DENORMAL_SHARE:.1%} of the weights of a layer are denormal (nearer to 0 than"
    " the smallest normal number of their type, 1.2e-38 for float32).",
    why="Many processors take a hundred cycles for an operation on a denormal number, others"
    " flush it to 0: slow here, different there. They come from weight decay on dead filters.",
    example="3@8 > conv 4 3",
    given="some of conv1.weight are 1e-40",
    fine="3@8 > conv 4 3 > relu",
    remedy="Set them to 0; the result changes by nothing that float32 shows.",
    caveats="No difference where flushing to zero is on.",
    references=("IEEE 754-2019, section 2.1.50 (subnormal numbers)",),
    needs="weights",
)
def denormal_weights(net: Subject) -> Sites:
    """Weights so small that processors slow down."""
    for node, role, data in net.parameters():
        if data.dtype.kind != "f" or not data.size:
            continue
        tiny = float(np.finfo(data.dtype).tiny)
        small = int(((data != 0) & (np.abs(data) < tiny)).sum())
        if small > DENORMAL_SHARE * data.size:
            yield Site(node.name, f"{small:,} of the {data.size:,} numbers of its {role} are"
                       f" denormal (below {tiny:.2g})")  # fmt: skip


@rule(
    "N302",
    "note",
    what="A running variance of a batch normalization below its epsilon.",
    why="The channel before it was constant in training: a dead filter. The layer multiplies what"
    " little it gets by up to 1 / sqrt(epsilon), 316 for 1e-5: noise, and an outlier that ruins"
    " the range of a quantized weight.",
    example="3@8 > conv 4 3 nobias > bn",
    given="one element of bn1.variance is 1e-12",
    fine="3@8 > conv 4 3 nobias > bn > relu",
    remedy="Prune the channel: set its scale to 0 and add what it gives to the next bias.",
    caveats="Trained MobileNets have such channels: true, and usually harmless in float32.",
    references=("Nagel et al., 2019, arXiv:1906.04721, section 3 (data-free quantization)",),
    needs="weights",
)
def tiny_variance(net: Subject) -> Sites:
    """A variance so small that only epsilon keeps the scale finite."""
    for node in net.graph.nodes:
        variance = net.array(node, "variance")
        if variance is None or not isinstance(node.op, Norm):
            continue
        small = int(((variance >= 0) & (variance < node.op.epsilon)).sum())
        if small:
            yield Site(node.name, f"{small} of its {variance.size} variances are below epsilon"
                       f" ({node.op.epsilon:g}), down to {variance.min():.2g}")  # fmt: skip


@rule(
    "N303",
    "note",
    what="An output channel of a convolution or a linear layer whose weights are all 0, or below"
    f" {NOTHING:g} of the largest weight of the layer.",
    why="The channel is its bias at every position, for every image: it, and what the next layer"
    " does with it, is computed for nothing.",
    example="3@8 > conv 4 3",
    given="conv1.weight[2] is all 0",
    fine="3@8 > conv 4 3 > relu",
    remedy="Prune the channel and add its bias, through the next layer, to the next bias.",
    caveats="A network that was pruned by masks has them on purpose.",
    needs="weights",
)
def dead_filters(net: Subject) -> Sites:
    """Filters that are zero."""
    for node in net.graph.nodes:
        filters = net.filters(node)
        if filters is None or not filters.size or not np.isfinite(filters).all():
            continue
        largest = np.abs(filters).max(1)
        dead = np.flatnonzero(largest <= NOTHING * largest.max())
        if len(dead):
            yield Site(node.name, f"{len(dead)} of its {len(filters)} filters are zero:"
                       f" {_listed(dead)}")  # fmt: skip


def _listed(indices: Array) -> str:
    shown = ", ".join(str(index) for index in indices[:5])
    return f"{shown}, ..." if len(indices) > 5 else shown


@rule(
    "N304",
    "note",
    what="Two output channels of a dense convolution or a linear layer with the same weights and"
    " the same bias, bit for bit.",
    why="Both channels are equal for every image. Equal from the start, they stay equal: it is the"
    " mark of a broken initialization, or of channels that were copied.",
    example="3@8 > conv 4 3",
    given="conv1.weight[3] and conv1.bias[3] are those of channel 0",
    fine="3@8 > conv 4 3 > relu",
    remedy="Keep one of them and add the weights with which the next layer reads the others.",
    caveats="Zero filters are left to dead-filters. Depthwise layers are left alone: their filters"
    " read different channels.",
    needs="weights",
)
def duplicate_filters(net: Subject) -> Sites:
    """Filters that are equal."""
    for node in net.graph.nodes:
        filters = net.filters(node)
        if filters is None or (isinstance(node.op, Conv) and node.op.groups > 1):
            continue
        bias = net.array(node, "bias")
        if bias is not None:
            filters = np.concatenate([filters, bias[:, None]], axis=1)
        alive = filters[np.abs(filters).max(1, initial=0) > 0]
        copies = len(alive) - len({row.tobytes() for row in alive})
        if copies:
            yield Site(node.name, f"{copies} of its {len(filters)} filters are copies of another"
                       " one")  # fmt: skip


@rule(
    "N305",
    "note",
    what="A weight, or a bound of a layer's output, beyond the largest number of half precision"
    f" ({HALF_MAX:g}). The bound takes every input between {-HALF_INPUT:g} and {HALF_INPUT:g}:"
    f" {HALF_INPUT:g} times the sum of a filter's absolute weights, plus its bias.",
    why="In half precision it becomes infinite, and NaN one subtraction later.",
    example="3@8 > conv 4 3",
    given="one element of conv1.weight is 70000",
    fine="3@8 > conv 4 3 > relu",
    remedy="Keep the layer in float32 or bfloat16, or fold scales differently between layers.",
    caveats="The bound is reached only if every input takes its worst value; inputs beyond the"
    " assumed range are not covered.",
    references=("Micikevicius et al., 2018, arXiv:1710.03740 (mixed precision training)",),
    needs="weights",
)
def half_overflow(net: Subject) -> Sites:
    """Numbers that overflow in half precision."""
    for node in net.graph.nodes:
        filters = net.filters(node)
        if filters is None or not filters.size or not np.isfinite(filters).all():
            continue
        largest = float(np.abs(filters).max())
        bias = net.array(node, "bias")
        added = np.abs(bias) if bias is not None else np.zeros(len(filters))
        bound = float((HALF_INPUT * np.abs(filters).sum(1) + added).max())
        if largest > HALF_MAX:
            yield Site(node.name, f"its largest weight is {largest:,.0f}, half precision ends at"
                       f" {HALF_MAX:,.0f}")  # fmt: skip
        elif bound > HALF_MAX:
            yield Site(node.name, f"inputs within {HALF_INPUT:g} of 0 can give {bound:,.0f}, half"
                       f" precision ends at {HALF_MAX:,.0f}")  # fmt: skip


@rule(
    "N306",
    "note",
    what="A batch normalization whose scale is exactly 0 for a channel.",
    why="The channel is its shift everywhere: the layers before it are computed for nothing.",
    example="3@8 > conv 4 3 nobias > bn",
    given="one element of bn1.weight is 0",
    fine="3@8 > conv 4 3 nobias > bn > relu",
    remedy="Prune the channel, or train it: a scale that starts at 0 must not stay there.",
    caveats="Residual branches are initialized with scales of 0 on purpose; found in a network"
    " that was not trained yet.",
    references=("Liu et al., 2017, arXiv:1708.06519 (network slimming)",),
    needs="weights",
)
def zero_scale(net: Subject) -> Sites:
    """A normalization that switches channels off."""
    for node in net.graph.nodes:
        scale = net.array(node, "weight") if isinstance(node.op, Norm) else None
        if scale is not None and (zeros := int((scale == 0).sum())):
            yield Site(node.name, f"{zeros} of its {scale.size} scales are 0")


@rule(
    "N307",
    "warning",
    what=f"A normalization whose epsilon is below {LEAST_EPSILON:g}.",
    why="Epsilon keeps the division finite where the variance is 0: a constant image, a dead"
    " channel. Half precision has no number between 0 and 6e-8, and in float32 a variance is"
    " known to about 1e-7 of the square of the mean.",
    example="16@28 > instancenorm eps=1e-09 > conv 16 1",
    fine="16@28 > instancenorm eps=1e-08 > conv 16 1",
    remedy="Use 1e-5 (the default of PyTorch), at least 1e-6 for half precision.",
    references=("PyTorch documentation, torch.nn.BatchNorm2d, eps",),
)
def tiny_epsilon(net: Subject) -> Sites:
    """An epsilon that protects from nothing."""
    for node in net.graph.nodes:
        if isinstance(node.op, Norm) and node.op.epsilon < LEAST_EPSILON:
            yield Site(node.name, f"its epsilon is {node.op.epsilon:g}")


@rule(
    "N308",
    "warning",
    what="A logarithm of a softmax or of a sigmoid.",
    why="The softmax rounds small probabilities to 0 (below 1e-38 in float32, 6e-8 in half"
    " precision), and the logarithm makes them minus infinity, the loss infinite and its gradient"
    " NaN.",
    example="16@7 > gap > fc 8 > softmax > log",
    fine="16@7 > gap > fc 8 > logsoftmax",
    remedy="Use log-softmax, or softplus with a sign for the sigmoid: -softplus(-x).",
    references=("Blanchard, Higham & Higham, 2021, arXiv:1909.03469 (log-sum-exp and softmax)",),
)
def log_of_softmax(net: Subject) -> Sites:
    """A logarithm of probabilities that may round to zero."""
    for node in net.graph.nodes:
        before = net.before(node) if isinstance(node.op, Unary) and node.op.kind == "log" else None
        match before:
            case Node(op=Softmax(log=False) | Activation(kind="sigmoid")):
                yield Site(node.name, f"{before.name} rounds probabilities to 0, whose logarithm is"
                           " minus infinity")  # fmt: skip


_FORBIDDEN = {"log": "at most 0", "rsqrt": "at most 0", "reciprocal": "0", "sqrt": "below 0"}


@rule(
    "N309",
    "warning",
    what="A logarithm, root, reciprocal root or reciprocal whose input has a known least value"
    " (interval arithmetic from the input on) at which it is not defined.",
    why="The first image that reaches that value gives an infinity or NaN. ReLU gives exactly 0"
    " for about half of its inputs.",
    example="3@8 > conv 4 1 > relu > log",
    fine="3@8 > conv 4 1 > relu > sqrt",
    remedy="Add an epsilon before it, or clip.",
    caveats="Values without known bounds are not judged. What is 0 only by rounding (softmax,"
    " sigmoid) is left to log-of-softmax.",
)
def undefined_value(net: Subject) -> Sites:
    """A function of values for which it is not defined."""
    for node in net.graph.nodes:
        if not isinstance(node.op, Unary) or node.op.kind not in _FORBIDDEN:
            continue
        low, high = net.ranges[node.inputs[0]]
        kind = node.op.kind
        wrong = low < 0 if kind == "sqrt" else low <= 0 and (kind != "reciprocal" or high >= 0)
        if math.isfinite(low) and wrong:
            yield Site(node.name, f"its input can be as small as {low:g}; the {node.op.kind} of a"
                       f" number that is {_FORBIDDEN[kind]} is not defined")  # fmt: skip


@rule(
    "N310",
    "note",
    what="A convolution or a linear layer all of whose weights are equal.",
    why="All its channels are equal, and gradients keep them so: the symmetry is never broken."
    " Either the weights were never initialized, or never loaded.",
    example="3@8 > conv 4 3",
    given="conv1.weight is all 0.1",
    fine="3@8 > conv 4 3 > relu",
    remedy="Load the checkpoint (with strict=True), or initialize at random.",
    caveats="A box blur on purpose has equal weights; a depthwise layer is left alone for it.",
    references=("Glorot & Bengio, 2010 (initialization)",),
    needs="weights",
)
def equal_weights(net: Subject) -> Sites:
    """A layer whose weights are all the same number."""
    for node in net.graph.nodes:
        if not isinstance(node.op, Conv | Linear):
            continue
        if isinstance(node.op, Conv) and node.op.groups > 1:
            continue
        weight = net.array(node, "weight")
        if weight is not None and weight.size > 1 and np.ptp(weight) == 0:
            yield Site(node.name, f"all {weight.size:,} weights are {weight.flat[0]:g}")
