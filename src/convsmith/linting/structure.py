"""Rules about how layers follow each other."""

from __future__ import annotations

import math

from convsmith.graph import Node
from convsmith.graph.operators import (
    Activation,
    AdaptivePool,
    Concat,
    Conv,
    Elementwise,
    GlobalPool,
    Identity,
    Linear,
    Norm,
    Pool,
    Reduce,
    Unary,
)
from convsmith.linting.rule import Site, Sites, rule
from convsmith.linting.subject import Subject

__all__: list[str] = []

NARROWING = 16
"""A middle layer is narrow if it has less than one in so many channels of both neighbours."""

PLAIN_DEPTH = 20
"""So many layers with weights may follow each other without normalization or shortcut."""


@rule(
    "S301",
    "note",
    what="A convolution or a linear layer with a bias whose output goes to a batch normalization"
    " and nowhere else.",
    why="The normalization subtracts the mean, and the bias with it: parameters, optimizer state"
    " and an addition per output for nothing.",
    example="3@8 > conv 4 3 > bn",
    fine="3@8 > conv 4 3 nobias > bn",
    remedy="Build the layer without a bias (bias=False).",
    caveats="In a trained network the bias can be folded into the stored mean without changing"
    " anything. Networks from before batch normalization to which it was added"
    " (VGG-16-BN) have biases.",
    references=("Ioffe & Szegedy, 2015, arXiv:1502.03167, section 3.2",),
)
def bias_before_batch_norm(net: Subject) -> Sites:
    """A bias that the next batch normalization removes."""
    for node in net.graph.nodes:
        if not isinstance(node.op, Conv | Linear) or not node.op.bias:
            continue
        user = net.only_user(node)
        if user is not None and isinstance(user.op, Norm) and user.op.kind == "batch":
            size = net.graph.parameter(node, "bias").size
            yield Site(node.name, f"{user.name} subtracts its bias of {size:,} numbers again")


def _is_weighted(node: Node | None) -> bool:
    return node is not None and isinstance(node.op, Conv | Linear)


def _channels(net: Subject, value: str) -> tuple[int, int]:
    """How many channels a value has, and how many positions."""
    shape = net.shape(value)
    if shape is None or len(shape) < 2:
        return 0, 0
    if len(shape) > 2:
        return shape[1], math.prod(shape[2:])
    return shape[-1], 1


@rule(
    "S302",
    "warning",
    what=f"A layer with fewer than 1 in {NARROWING} of the channels that it reads and of those"
    " that the next layer makes of it, where both work on whole images (more than one position)"
    " or are linear layers.",
    why="What passes has at most as many independent numbers a position as the narrow layer has"
    " channels: the rank of everything behind it is bounded by that width, however wide it is.",
    example="256@14 > conv 8 1 > relu > conv 256 3 p1",
    fine="256@14 > conv 16 1 > relu > conv 256 3 p1",
    remedy="Widen it; bottlenecks keep a quarter (ResNet) to an eighth (SqueezeNet).",
    caveats="Gates on pooled values (squeeze-and-excitation) are left alone. Autoencoders are"
    " narrow on purpose.",
    references=(
        "He et al., 2016, arXiv:1512.03385, figure 5",
        "Szegedy et al., 2016, arXiv:1512.00567, section 2, principle 1 (avoid bottlenecks)",
    ),
)
def narrow_middle(net: Subject) -> Sites:
    """A layer so narrow that it loses what its neighbours hold."""
    for node in net.graph.nodes:
        if not _is_weighted(node) or not net.values(node):
            continue
        user = net.only_user(node)
        while user is not None and isinstance(user.op, Activation | Norm | Identity):
            user = net.only_user(user)
        if user is None or type(user.op) is not type(node.op):
            continue
        before, _ = _channels(net, net.values(node)[0])
        here, places = _channels(net, node.name)
        after, _ = _channels(net, user.name)
        is_gate = isinstance(node.op, Conv) and places == 1
        if here * NARROWING < min(before, after) and not is_gate:
            yield Site(node.name, f"{before} channels pass through {here} to become {after} in"
                       f" {user.name}: their rank is at most {here}")  # fmt: skip


@rule(
    "S303",
    "warning",
    what=f"More than {PLAIN_DEPTH} convolutions and linear layers in a row without normalization,"
    " addition or concatenation on the way.",
    why="Signals and gradients grow or shrink by a factor a layer; plain networks get worse, also"
    " on training data, from about 20 layers on.",
    example="3@32 > conv 8 3 p1 > ( conv 8 3 p1 > relu ) x20",
    fine="3@32 > ( conv 8 3 p1 > relu ) x20",
    remedy="Add shortcuts or normalization, or initialize for depth (Fixup, orthogonal).",
    caveats="A shortcut around the whole stack, as in VDSR, helps gradients only as it begins;"
    " with exactly 20 layers VDSR is not found.",
    references=(
        "He et al., 2016, arXiv:1512.03385, figure 1 (20 layers against 56)",
        "Glorot & Bengio, 2010",
    ),
)
def deep_plain_stack(net: Subject) -> Sites:
    """A deep stack without normalization or shortcuts."""
    depth = {value.name: (0, "") for value in net.graph.inputs}
    for node in net.graph.nodes:
        parts = [depth[value] for value in net.values(node) if value in depth]
        joins = isinstance(node.op, Concat | Elementwise) and len(set(net.values(node))) > 1
        count, start = max(parts, default=(0, ""))
        if joins or isinstance(node.op, Norm):
            count, start = 0, ""
        elif _is_weighted(node):
            count, start = count + 1, start or node.name
            if count == PLAIN_DEPTH + 1:
                yield Site(node.name, f"layer {count} in a row since {start} without normalization"
                           " or shortcut")  # fmt: skip
        depth.update(dict.fromkeys(node.outputs, (count, start)))


_NEUTRAL_ABOVE_ZERO = ("relu", "leakyrelu", "prelu", "elu", "celu")


@rule(
    "S304",
    "note",
    what="Interval arithmetic shows that an activation (relu, relu6, leakyrelu, prelu, elu, celu,"
    " clip, abs) passes every value that can reach it unchanged.",
    why="It costs a pass over memory and adds no nonlinearity; often one of the two was meant to"
    " be something else.",
    example="3@8 > conv 4 3 > relu > maxpool 2/2 > relu",
    fine="3@8 > conv 4 3 > maxpool 2/2 > relu",
    remedy="Remove it.",
    caveats="Bounds through convolutions are not followed, so that some are missed.",
)
def activation_without_effect(net: Subject) -> Sites:
    """An activation that changes nothing."""
    for node in net.graph.nodes:
        if not node.inputs or not isinstance(node.op, Activation | Unary):
            continue
        low, high = net.ranges[node.inputs[0]]
        match node.op:
            case Activation(kind="relu6"):
                idle = low >= 0 and high <= 6
            case Activation(kind="clip", low=least, high=most):
                idle = (least is None or low >= least) and (most is None or high <= most)
            case Activation(kind=kind):
                idle = kind in _NEUTRAL_ABOVE_ZERO and low >= 0
            case _:
                idle = node.op.kind == "abs" and low >= 0
        if idle:
            yield Site(node.name, f"its input already lies between {low:g} and {high:g}")


@rule(
    "S305",
    "note",
    what="A normalization whose input is the output of a normalization, with at most a dropout or"
    " an identity between them.",
    why="The second one undoes or repeats the first; two batch normalizations are one affine map.",
    example="3@8 > conv 4 3 nobias > bn > bn",
    fine="3@8 > conv 4 3 nobias > bn > relu > bn",
    remedy="Remove one; in a trained network fold the two batch normalizations into one.",
)
def norm_after_norm(net: Subject) -> Sites:
    """A normalization right after another one."""
    for node in net.graph.nodes:
        if not isinstance(node.op, Norm):
            continue
        before = net.before(node)
        while before is not None and isinstance(before.op, Identity):
            before = net.before(before)
        if before is not None and isinstance(before.op, Norm):
            yield Site(node.name, f"it normalizes what {before.name} has just normalized")


@rule(
    "S306",
    "warning",
    what="A grouped convolution whose output reaches another grouped convolution, with a common"
    " factor of their groups, while nothing between them mixes channels. Two depthwise layers"
    " in a row are left alone.",
    why="Each group then sees one part of the channels through both layers: the network is"
    " several thinner networks side by side.",
    example="64@14 > conv 64 3 p1 g4 > relu > conv 64 3 p1 g4",
    fine="64@14 > conv 64 3 p1 g4 > relu > conv 64 1 > conv 64 3 p1 g4",
    remedy="Shuffle the channels between them, or put a 1x1 convolution there.",
    caveats="AlexNet as it was published (on two devices) has it.",
    references=("Zhang et al., 2018, arXiv:1707.01083, figure 1 (ShuffleNet)",),
)
def groups_never_mix(net: Subject) -> Sites:
    """Grouped convolutions whose groups never meet."""
    for node in net.graph.nodes:
        if not isinstance(node.op, Conv) or node.op.groups == 1:
            continue
        before = net.before(node)
        while before is not None and _keeps_channels(before):
            before = net.before(before)
        if before is None or not isinstance(before.op, Conv) or before.op.groups == 1:
            continue
        shape, earlier = net.shape(node.inputs[0]), net.shape(before.inputs[0])
        common = math.gcd(node.op.groups, before.op.groups)
        if not shape or not earlier or common == 1:
            continue
        if node.op.groups < shape[1] or before.op.groups < earlier[1]:
            yield Site(node.name, f"its {node.op.groups} groups and the {before.op.groups} of"
                       f" {before.name} keep {common} parts of the channels apart")  # fmt: skip


def _keeps_channels(node: Node) -> bool:
    match node.op:
        case Norm(kind="batch" | "instance"):
            return True
        case Reduce(axes=axes, keep=True):
            return min(axes) > 1
    return isinstance(node.op, Activation | Unary | Identity | Pool | GlobalPool | AdaptivePool)
