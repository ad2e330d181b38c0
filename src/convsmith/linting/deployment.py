"""Rules about networks that other engines run differently, slowly or not at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from convsmith.errors import ConvsmithError
from convsmith.graph.operators import (
    Conv,
    LocalResponseNorm,
    Pool,
    Reshape,
    Resize,
    Transpose,
    Unsupported,
)
from convsmith.graph.shape import infer_shapes
from convsmith.linting.rule import AXES, Site, Sites, by_axis, rule
from convsmith.linting.subject import Subject, times

__all__: list[str] = []

OLDEST_OPSET = 13
"""The first ONNX operator set with per-channel quantization and the present Resize of today."""

MOST_AXES = 5
"""Values with more axes are refused by many engines for small devices."""

RANGE_RATIO = 256
"""How many times wider the widest filter of a layer may be than the narrowest: the 8 bits."""


@rule(
    "D401",
    "warning",
    what="An operator that convsmith does not know.",
    why="Custom and rare operators need a plug-in in every engine, and nothing behind them can be"
    " counted, fused or checked.",
    example="3@8 > unsupported MyOp 3@8 > conv 4 1",
    fine="3@8 > conv 4 1",
    remedy="Express it in standard operators, or move it out of the network.",
)
def unsupported_operator(net: Subject) -> Sites:
    """An operator that is not known."""
    for node in net.graph.nodes:
        if isinstance(node.op, Unsupported):
            yield Site(node.name, f"{node.op.kind} is not known")


@rule(
    "D402",
    "note",
    what="A pooling or a convolution with ceil_mode whose output would be smaller without it, at"
    " the size that the network runs on.",
    why="Engines disagree about the last, incomplete window: some have no such mode, some count it"
    " where others do not (a window that starts in the padding), and averages divide by different"
    " counts.",
    example="64@56 > maxpool 3/2 ceil",
    fine="64@55 > maxpool 3/2 ceil",
    remedy="Pad explicitly behind, or choose sizes for which both modes agree.",
    caveats="GoogLeNet and SqueezeNet were published with it.",
    references=("ONNX operators MaxPool and AveragePool, attribute ceil_mode",),
)
def ceil_mode(net: Subject) -> Sites:
    """Rounding up changes the size of a value."""
    for node in net.graph.nodes:
        op = node.op
        if not isinstance(op, Pool | Conv) or op.rounding != "ceil" or op.same is not None:
            continue
        x, y = net.shape(node.inputs[0]), net.shape(node.name)
        if x is None or y is None:
            continue
        try:
            (plain,) = infer_shapes(replace(op, rounding="floor"), x)
        except ConvsmithError:
            plain = None
        if plain != y:
            smaller = (
                f"it would be {times(plain[2:])} rounded down" if plain else "without it, none"
            )
            yield Site(node.name, f"its output is {times(y[2:])}; {smaller}")


_PORTABLE = {("nearest", "asymmetric", "floor"), ("linear", "half_pixel")}


@rule(
    "D403",
    "note",
    what="A resize that changes the size and is neither nearest with asymmetric coordinates"
    " rounded down nor linear with half-pixel centres (ONNX's words).",
    why="Engines implement different subsets of modes and fall back to others silently: the image"
    " shifts by up to half a pixel, which segmentation and super-resolution notice.",
    example="16@14 > up 2 linear align_corners",
    fine="16@14 > up 2 linear half_pixel",
    remedy="Use nearest, or align_corners=False; or a transposed convolution with fixed weights.",
    references=("ONNX operator Resize, coordinate_transformation_mode",),
)
def resize_not_portable(net: Subject) -> Sites:
    """A resize whose coordinates engines disagree about."""
    for node in net.graph.nodes:
        op = node.op
        if not isinstance(op, Resize) or net.shape(node.inputs[0]) == net.shape(node.name):
            continue
        nearest = op.mode == "nearest"
        key = (op.mode, op.alignment, op.rounding) if nearest else (op.mode, op.alignment)
        if key not in _PORTABLE:
            yield Site(node.name, f"it is {op.mode} with {op.alignment}"
                       + (f", {op.rounding}" if nearest else ""))  # fmt: skip


@rule(
    "D404",
    "note",
    what="A convolution or a pooling with more padding on one side than on the other, SAME"
    " included, at the size that the network runs on.",
    why="Many engines pad both sides alike and need a separate layer that copies the image. SAME"
    " with a stride pads by other amounts for other sizes.",
    example="3@224 > conv 32 3/2 psame",
    fine="3@224 > conv 32 3/2 p1",
    remedy="Pad both sides alike when designing; trained weights must keep their padding.",
    caveats="TensorFlow's networks (MobileNet, EfficientNet) are trained with it.",
    references=("TensorFlow documentation, tf.nn.convolution, padding SAME",),
)
def uneven_padding(net: Subject) -> Sites:
    """More padding on one side than on the other."""
    for node, windows in net.all_windows():
        yield from by_axis(
            (
                window.axis,
                Site(node.name, f"{window.low} before and {window.high} behind, along {AXES}"),
            )
            for window in windows
            if window.low != window.high
        )


@rule(
    "D405",
    "note",
    what="A reshape that names the batch size (1 or more) as its first axis, where its input has"
    " the same first axis.",
    why="The network runs with that batch size only: a tracing exporter froze the example's.",
    example="16@4 > reshape 1,256",
    fine="16@4 > reshape -1,256",
    remedy="Reshape with -1 first, or flatten from axis 1, and export again.",
    caveats="A batch of -1 with a size that depends on the image only moves the problem.",
)
def frozen_batch(net: Subject) -> Sites:
    """A reshape that fixes the batch size."""
    batches = {value.shape[0] for value in net.graph.inputs if value.shape}
    for node in net.graph.nodes:
        shape = net.shape(node.inputs[0]) if node.inputs else None
        if isinstance(node.op, Reshape) and node.op.shape and shape:
            first = node.op.shape[0]
            if first == shape[0] and first in batches and len(node.op.shape) > 1:
                yield Site(node.name, f"its shape {','.join(map(str, node.op.shape))} begins with"
                           f" the batch size {first}")  # fmt: skip


@rule(
    "D406",
    "note",
    what=f"A value with more than {MOST_AXES} axes.",
    why="Mobile and embedded engines take four or five axes at most; pixel shuffles and attention"
    " windows written as reshape and transpose exceed that.",
    example="16@8 > reshape 1,2,2,4,8,8 > transpose 0,3,4,1,5,2 > reshape 1,4,16,16",
    fine="16@8 > reshape 1,2,8,8,8 > transpose 0,2,1,3,4 > reshape 1,16,8,8",
    remedy="Use the operator that does it (pixel shuffle, channel shuffle), or split the transpose"
    " into two of fewer axes.",
    references=("TensorFlow Lite operator compatibility; Core ML tensors have at most five axes",),
)
def many_axes(net: Subject) -> Sites:
    """A value with more axes than engines for small devices take."""
    for node in net.graph.nodes:
        shape = net.shape(node.name)
        wide = shape is not None and len(shape) > MOST_AXES
        if shape is not None and wide and not isinstance(node.op, Transpose):
            yield Site(node.name, f"its output {times(shape)} has {len(shape)} axes")


@rule(
    "D407",
    "note",
    what="A local response normalization.",
    why="It is not used any more, and few engines have a fast one; a power and a division per"
    " element dominate small networks.",
    example="64@28 > lrn 5",
    fine="64@28 > bn",
    remedy="Leave it out or use batch normalization when training again.",
    caveats="The original AlexNet and GoogLeNet need it.",
    references=("Simonyan & Zisserman, 2015, arXiv:1409.1556, section 4.1 (no gain from it)",),
)
def local_response_norm(net: Subject) -> Sites:
    """A normalization that few engines have a fast form of."""
    for node in net.graph.nodes:
        shape = net.shape(node.name)
        if isinstance(node.op, LocalResponseNorm) and shape is not None:
            yield Site(node.name, f"normalizes {times(shape)} over {node.op.size} channels")


@rule(
    "D408",
    "note",
    what="A convolution in which the largest weight of the widest filter is more than"
    f" {RANGE_RATIO} times that of the narrowest filter that is not zero.",
    why="With one scale for the whole tensor, 8 bits hold 256 steps: the narrowest filters become"
    " all zero.",
    example="8@8 > dw 3 p1",
    given="dw1.weight[0] is 1000 times as large as the others",
    fine="8@8 > dw 3 p1 > relu",
    remedy="Quantize per channel, or equalize ranges across layers first.",
    caveats="No problem for engines that quantize weights per channel.",
    references=("Nagel et al., 2019, arXiv:1906.04721, section 3.1 and figure 2",),
    needs="weights",
)
def uneven_filter_ranges(net: Subject) -> Sites:
    """Filters of very different ranges, which one scale cannot quantize."""
    for node in net.graph.nodes:
        filters = net.filters(node) if isinstance(node.op, Conv) else None
        if filters is None or not filters.size or not np.isfinite(filters).all():
            continue
        largest = np.abs(filters).max(1)
        alive = largest[largest > 1e-12 * largest.max()]
        if len(alive) > 1 and alive.max() > RANGE_RATIO * alive.min():
            yield Site(node.name, f"its filters reach from {alive.min():.2g} to {alive.max():.2g}:"
                       f" a factor of {alive.max() / alive.min():,.0f}")  # fmt: skip


@rule(
    "D409",
    "note",
    what=f"An ONNX file of an operator set below {OLDEST_OPSET}.",
    why="Old sets have other defaults (Resize, BatchNormalization, Softmax over flattened axes),"
    " which engines and converters support less and less.",
    example="3@8 > conv 4 3",
    given="an ONNX file of operator set 9",
    fine="3@8 > conv 4 3 > relu",
    remedy=f"Export again with operator set {OLDEST_OPSET} or newer, or convert it with"
    " onnx.version_converter.",
    references=("ONNX, Operators.md and Changelog.md",),
)
def old_opset(net: Subject) -> Sites:
    """An ONNX file of an old operator set."""
    model: Any = getattr(net.graph.origin, "model", None)
    for imported in getattr(model, "opset_import", ()):
        if imported.domain in ("", "ai.onnx") and imported.version < OLDEST_OPSET:
            place = net.graph.nodes[0].name if net.graph.nodes else net.graph.source
            yield Site(place, f"the file uses operator set {imported.version}")


@rule(
    "D410",
    "note",
    what="An input or a learnable tensor in double precision.",
    why="Most engines and all accelerators refuse it or compute it many times slower; convolutional"
    " networks gain nothing from it.",
    example="x : 3@8 float64\nc = conv 4 3 (x)\nreturn c",
    fine="x : 3@8 float32\nc = conv 4 3 (x)\nreturn c",
    remedy="Convert to float32 before exporting.",
)
def double_precision(net: Subject) -> Sites:
    """Numbers in double precision."""
    for value in net.graph.inputs:
        if value.dtype == "float64":
            yield Site(value.name, f"this input of shape {times(value.shape)} is float64")
    for node in net.graph.nodes:
        wide = [n for n in node.parameters if net.graph.constants[n].dtype == "float64"]
        if wide:
            size = sum(net.graph.constants[name].size for name in wide)
            yield Site(node.name, f"{size:,} numbers of it are float64")
