"""Rules about layers that cost more than they need to."""

from __future__ import annotations

import math
from statistics import median

from convsmith.analysis.field.borders import unproductive_layers
from convsmith.graph.operators import Conv, Flatten, Linear, Reshape
from convsmith.linting.rule import Site, Sites, rule
from convsmith.linting.subject import Subject, times

__all__: list[str] = []

MACHINE_BALANCE = 5
"""Multiply-accumulates that a core does while it moves one byte from memory."""

VECTOR = 8
"""float32 numbers in a vector of 256 bits (AVX2)."""

PADDED_WASTE = 1 / 16
"""Share of idle lanes from which on a number of channels is reported."""

FC_SHARE = 0.5
"""Share of all parameters from which on one linear layer is reported."""

SPIKE = 4
"""How many times the typical memory of a layer the largest one may need."""

MANY_LAYERS = 8
"""Below so many layers there is no typical layer."""


@rule(
    "P101",
    "note",
    what="A dense convolution (groups 1, stride 1, no dilation) with an odd square kernel of 5 or"
    " more that needs more multiply-accumulates than the stack of 3x3 convolutions with the same"
    " field, whose middle layers are as wide as its output.",
    why="Two 3x3 see what one 5x5 sees, with 18 instead of 25 products, and have a nonlinearity"
    " more.",
    example="64@28 > conv 64 5 p2",
    fine="3@224 > conv 64 7 p3",
    remedy="Replace it: convsmith compare shows every form with the same field, convsmith rewrite"
    " does it in a trained network.",
    caveats="A stem with few input channels is cheaper as one large kernel and is not found. The"
    " stack reads and writes more memory.",
    references=(
        "Simonyan & Zisserman, 2015, arXiv:1409.1556, section 2.3",
        "Szegedy et al., 2016, arXiv:1512.00567, section 3.1",
    ),
)
def large_dense_kernel(net: Subject) -> Sites:
    """A large kernel that a stack of small ones replaces."""
    for node in net.graph.nodes:
        op = node.op
        shape = net.shape(node.inputs[0]) if isinstance(op, Conv) else None
        if not isinstance(op, Conv) or not shape or op.transposed or op.groups > 1:
            continue
        kernel = op.kernel[0]
        plain = set(op.stride) == set(op.dilation) == {1} and set(op.kernel) == {kernel}
        if not plain or kernel < 5 or kernel % 2 == 0:
            continue
        layers, rank = kernel // 2, len(op.kernel)
        dense = kernel**rank * shape[1] * op.channels
        stack = 3**rank * op.channels * (shape[1] + (layers - 1) * op.channels)
        if stack < dense:
            yield Site(
                node.name,
                f"{times(op.kernel)} from {shape[1]} to {op.channels} channels takes"
                f" {dense:,} multiply-accumulates per position, {layers} layers of"
                f" {times((3,) * rank)} take {stack:,}: {1 - stack / dense:.0%} fewer",
            )


@rule(
    "P102",
    "note",
    what="A depthwise convolution with fewer than"
    f" {MACHINE_BALANCE} multiply-accumulates per byte that it reads and writes (float32, every"
    f" value once). {MACHINE_BALANCE} is what a core of 100 GFLOP/s with 10 GB/s of memory"
    " sustains.",
    why="It waits for memory: it is not faster than a layer with several times its arithmetic,"
    " and a count of multiply-accumulates promises a speed that nobody sees.",
    example="64@56 > dw 3 p1",
    fine="64@56 > dw 31 p15",
    remedy="Fuse it with the 1x1 around it, or use a grouped or a dense convolution where it is"
    " small; measure before trading arithmetic for it.",
    caveats="Values that fit into the cache do not go through memory; accelerators have other"
    " balances.",
    references=(
        "Williams, Waterman & Patterson, 2009 (roofline)",
        "Ma et al., 2018, arXiv:1807.11164, guideline 4 (ShuffleNet v2)",
    ),
)
def depthwise_memory_bound(net: Subject) -> Sites:
    """A depthwise convolution that waits for memory."""
    for node in net.graph.nodes:
        shape = net.shape(node.inputs[0]) if isinstance(node.op, Conv) else None
        if not isinstance(node.op, Conv) or not shape or not 1 < node.op.groups == shape[1]:
            continue
        row = net.rows[node.name]
        moved = row.read_bytes + row.write_bytes + row.weight_bytes
        if row.macs and row.macs < MACHINE_BALANCE * moved:
            yield Site(node.name, f"{row.macs:,} multiply-accumulates for {moved:,} bytes:"
                       f" {row.macs / moved:.2f} a byte")  # fmt: skip


def _waste(channels: int) -> float:
    """The share of vector lanes that stay idle."""
    return 1 - channels / (-(-channels // VECTOR) * VECTOR)


@rule(
    "P103",
    "note",
    what="A dense convolution that is not the network's output and makes a number of channels"
    f" above {VECTOR} that leaves more than {PADDED_WASTE:.1%} of the lanes of vectors of {VECTOR}"
    " idle.",
    why="Blocked layouts round channels up: 33 channels cost as much as 40, in this layer and in"
    " the next.",
    example="16@28 > conv 33 3 p1 > relu > conv 16 1",
    fine="16@28 > conv 31 3 p1 > relu > conv 16 1",
    remedy=f"Use a multiple of {VECTOR}, better of {2 * VECTOR} (AVX-512, tensor cores in half"
    " precision).",
    caveats=f"Engines that vectorize over positions do not care. Multiples of {VECTOR} waste half"
    " of a 512-bit vector at worst.",
    references=("NVIDIA, Deep Learning Performance: Tensor Core requirements", "oneDNN: nChw16c"),
)
def channels_beside_vector(net: Subject) -> Sites:
    """A number of channels that leaves vector lanes idle."""
    for node in net.graph.nodes:
        if not isinstance(node.op, Conv) or node.op.groups > 1 or node.name in net.results:
            continue
        waste = _waste(node.op.channels)
        if waste > PADDED_WASTE and node.op.channels > VECTOR:
            rounded = -(-node.op.channels // VECTOR) * VECTOR
            yield Site(
                node.name,
                f"{node.op.channels} channels are computed as {rounded}: {waste:.0%} for nothing",
                f"use {rounded} or {rounded - VECTOR} channels",
            )


@rule(
    "P104",
    "note",
    what="A grouped convolution, not depthwise, whose groups read or make a number of channels"
    f" that is not a multiple of {VECTOR}.",
    why="Every group is a small matrix product of its own; with fewer channels than lanes most"
    " engines fall back to slow code, and fewer multiply-accumulates become more time.",
    example="128@14 > conv 128 3 p1 g32",
    fine="128@14 > conv 128 3 p1 g16",
    remedy=f"Use fewer groups, of {VECTOR} or {2 * VECTOR} channels each.",
    caveats="ResNeXt (32x4d) has groups of 4 by design.",
    references=("Ma et al., 2018, arXiv:1807.11164, guideline 2 (group convolution costs memory)",),
)
def narrow_groups(net: Subject) -> Sites:
    """Groups narrower than a vector."""
    for node in net.graph.nodes:
        shape = net.shape(node.inputs[0]) if isinstance(node.op, Conv) else None
        if not isinstance(node.op, Conv) or not shape or not 1 < node.op.groups < shape[1]:
            continue
        inside, outside = shape[1] // node.op.groups, node.op.channels // node.op.groups
        if inside % VECTOR or outside % VECTOR:
            yield Site(node.name, f"its {node.op.groups} groups read {inside} and make {outside}"
                       f" channels each, for vectors of {VECTOR}")  # fmt: skip


@rule(
    "P105",
    "note",
    what="A convolution or pooling of more than one element whose input already sees more than"
    " the whole image, on every axis and along every path: a border layer.",
    why="It can bring in no pixel that was not seen before; in experiments such layers contribute"
    " nothing that an output layer could not read before them.",
    example="3@32 > conv 8 7/4 p3 > relu > conv 8 7/4 p3 > relu > conv 8 3 p1 > relu > conv 8 3 p1",
    fine="3@96 > conv 8 7/4 p3 > relu > conv 8 7/4 p3 > relu > conv 8 3 p1 > relu > conv 8 3 p1",
    remedy="Feed larger images, remove the layer or make it 1x1, or take a stride away before it.",
    caveats="Along shortcuts the field is smaller; the smallest one counts here, so that residual"
    " networks are rarely found. Depth that is not needed for context may still help.",
    references=(
        "Richter, Byttner, Krumnack, Wiedenroth, Schallner & Shenk, 2021, arXiv:2106.12307",
        "Richter, Shenk, Byttner, Arpteg & Huss, 2021, arXiv:2102.01582",
    ),
)
def border_layer(net: Subject) -> Sites:
    """A layer past the border: its input has seen everything."""
    for value in net.graph.inputs:
        image = value.shape[2:]
        for layer in unproductive_layers(net.graph, value.name) if image else ():
            field = net.sight[net.graph.by_name[layer].inputs[0]]
            sizes = tuple(size or 0 for size in field.size)
            macs = net.rows[layer].macs
            cost = f"; it takes {macs:,} multiply-accumulates" if macs else ""
            yield Site(
                layer, f"its input sees {times(sizes)} pixels of an image of {times(image)}{cost}"
            )


@rule(
    "P106",
    "note",
    what=f"In a network of at least {MANY_LAYERS} layers, the values that are alive at the moment"
    f" of the peak take more than {SPIKE} times the bytes of the median moment, and of every moment"
    " of a layer that neither reads nor makes any of them.",
    why="It alone decides how much memory the network needs, and on small devices whether it runs"
    " at all.",
    example="3@64 > conv 64 3 p1 > ( maxpool 4/4 > conv 16 3 p1 > relu > conv 16 3 p1 > relu )"
    " > ( conv 16 3 p1 > relu ) x3",
    fine="3@64 > conv 8 3/2 p1 > ( conv 8 3 p1 > relu ) x6",
    remedy="Make that layer narrower, give it a stride, or compute it in tiles.",
    caveats="The highest resolution of an encoder and decoder is wide by design.",
    references=("Lin et al., 2021, arXiv:2110.15352 (MCUNetV2: the first layers decide the peak)",),
)
def memory_spike(net: Subject) -> Sites:
    """One layer that needs far more memory than all others."""
    memory = net.analysis.memory
    if len(net.graph.nodes) < MANY_LAYERS or not memory.at:
        return
    held = {value.name for value in memory.alive}
    apart = [
        size
        for node, size in zip(net.graph.nodes, memory.curve, strict=True)
        if held.isdisjoint({*node.inputs, *node.outputs})
    ]
    typical = median(memory.curve)
    if apart and memory.peak_bytes > SPIKE * max(*apart, typical):
        names = " and ".join(value.name for value in memory.alive[:2])
        yield Site(
            memory.at,
            f"{memory.peak_bytes:,} bytes are alive while it runs ({names}); at most"
            f" {max(apart):,} while layers apart from it run, {round(typical):,} at the median",
        )


@rule(
    "P107",
    "note",
    what="A linear layer that reads all positions of a flattened image (more than one) and has"
    f" more than {FC_SHARE:.0%} of the parameters of the network.",
    why="It has a weight for every pixel and feature: most of the file, most of the overfitting,"
    " and a network that works at one input size only.",
    example="64@7 > conv 64 3 p1 > relu > flatten > fc 100",
    fine="64@7 > conv 64 3 p1 > relu > gap > flatten > fc 100",
    remedy="Pool globally before it, or factor it (a truncated SVD halves it with little loss).",
    caveats="True for AlexNet and VGG, which were made like that.",
    references=("Lin, Chen & Yan, 2014, arXiv:1312.4400 (global average pooling)",),
)
def large_linear_layer(net: Subject) -> Sites:
    """A linear layer on a flattened image has most of the parameters."""
    total = net.analysis.total.params
    for node in net.graph.nodes:
        if not isinstance(node.op, Linear):
            continue
        before = net.back_through_elementwise(node)
        if before is None or not isinstance(before.op, Flatten | Reshape):
            continue
        shape = net.shape(before.inputs[0])
        params = net.rows[node.name].params
        if shape and math.prod(shape[2:]) > 1 and params > FC_SHARE * total:
            yield Site(node.name, f"{params:,} of {total:,} parameters ({params / total:.0%}), for"
                       f" {math.prod(shape[1:]):,} flattened elements")  # fmt: skip
