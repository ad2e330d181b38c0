"""Rules about windows: strides, paddings, dilations and what they leave out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import reduce
from itertools import pairwise
from operator import or_

import numpy as np

from convsmith.graph import Node
from convsmith.graph.operators import Conv, Pool
from convsmith.linting.rule import AXES, Site, Sites, by_axis, rule
from convsmith.linting.subject import Subject, Window, is_elementwise
from convsmith.signal import folded_share

__all__: list[str] = []

EXAMINED = 4096
"""How many positions of an axis are examined one by one; longer axes repeat."""

SHOWN = 8
"""How many dilations of a run a message names."""

LONGEST_FIELD = 1 << 16
"""How many positions of a run of windows are told apart."""

GRID = 48
"""Frequencies per axis at which kernels are measured."""


Readers = list[tuple[Node, tuple[Window, ...]]]


def _by_axis(readers: Readers) -> Iterator[tuple[int, list[Window]]]:
    """The windows of all readers, axis by axis."""
    for axis in range(min(len(windows) for _, windows in readers)):
        yield axis, [windows[axis] for _, windows in readers]


def _readers(net: Subject, value: str) -> Readers | None:
    """The windows that read a value; ``None`` if something else reads all of it."""
    users = net.graph.consumers.get(value, ())
    found = [(node, net.windows(node)) for node in users]
    whole = not found or value in net.results or any(not windows for _, windows in found)
    return None if whole else found


@rule(
    "S101",
    "warning",
    what="Between the first and the last position that is read there are rows or columns that no"
    " window of any reader touches: a stride greater than what the kernel covers. Where several"
    " layers read the same value, only what none of them reads counts.",
    why="What is skipped was computed for nothing and is lost. A 1x1 with stride 2 skips three"
    " quarters of its input; moving the stride into the 3x3 made ResNet-50 about half a"
    " percent more accurate.",
    example="64@28 > relu > conv 128 1/2",
    fine="64@28 > relu > conv 128 2/2",
    remedy="Use a kernel at least as wide as the stride, or pool first.",
    caveats="The shortcut of a residual block skips pixels too, but the other branch reads them:"
    " not found. A network that subsamples on purpose is found.",
    references=(
        "Goyal et al., 2017, arXiv:1706.02677, section 5.1 (the stride in the 3x3)",
        "NVIDIA, ResNet-50 v1.5 for PyTorch",
    ),
)
def stride_skips_pixels(net: Subject) -> Sites:
    """A stride jumps over pixels that nobody reads."""
    for value in net.graph.shapes:
        readers = _readers(net, value)
        yield from by_axis(_skipping(value, readers)) if readers else ()


def _skipping(value: str, readers: Readers) -> Iterator[tuple[int, Site]]:
    for axis, windows in _by_axis(readers):
        skipped, span = _skipped(windows)
        if skipped:
            first, *rest = windows
            dilation = f", dilation {first.dilation}" if first.dilation > 1 else ""
            names = ", ".join(node.name for node, _ in readers[1:])
            also = f"; nor by those of {names}" if rest else ""
            yield (
                axis,
                Site(
                    readers[0][0].name,
                    f"{skipped} of {span} positions along {AXES} of {value} are read by no window"
                    f" (kernel {first.kernel}, stride {first.stride}{dilation}{also})",
                ),
            )


def _skipped(windows: Sequence[Window]) -> tuple[int, int]:
    """Positions that no window reads, out of those between the first and the last one read."""
    size = min(windows[0].size, EXAMINED)
    read = np.zeros(size, bool)
    for window in windows:
        if window.stride == 1 and window.count > 1 and window.dilation == 1:
            return 0, 0
        if window.kernel > EXAMINED:
            return 0, 0
        for tap in range(window.kernel):
            first = tap * window.dilation - window.low
            last = min(first + (window.count - 1) * window.stride, size - 1)
            first = first % window.stride if first < 0 else first
            if first <= last:
                read[first : last + 1 : window.stride] = True
    places = np.flatnonzero(read)
    if len(places) == 0 or max(window.count for window in windows) < 2:
        return 0, 0
    span = int(places[-1] - places[0]) + 1
    return span - len(places), span


@rule(
    "S102",
    "note",
    what="The last rows or columns of a value are read by no window of any reader, because the"
    " number of steps is rounded down.",
    why="They were computed for nothing, the network is blind along the lower and right edge, and"
    " the centre of the field shifts: a detector finds less there.",
    example="64@29 > relu > maxpool 2/2",
    fine="64@28 > relu > maxpool 2/2",
    remedy="Choose an input size that divides, pad behind by what is missing, or round up (ceil).",
    caveats="True at this input size only.",
    references=("Dumoulin & Visin, 2016, arXiv:1603.07285, relationship 14",),
)
def border_dropped(net: Subject) -> Sites:
    """Rounding down drops the last rows or columns."""
    for value in net.graph.shapes:
        readers = _readers(net, value)
        yield from by_axis(_dropping(value, readers)) if readers else ()


def _dropping(value: str, readers: Readers) -> Iterator[tuple[int, Site]]:
    for axis, windows in _by_axis(readers):
        first = windows[0]
        lost = first.size - 1 - max(window.last_read for window in windows)
        if lost > 0 and max(window.stride for window in windows) > 1:
            last = "last position" if lost == 1 else f"last {lost} positions"
            yield (
                axis,
                Site(
                    readers[0][0].name,
                    f"the {last} of {first.size} along {AXES} of {value}"
                    f" {'is' if lost == 1 else 'are'} read by no window (kernel {first.kernel},"
                    f" stride {first.stride}, padding {first.low} and {first.high})",
                    f"pad by {lost + first.high} behind, or use a size of {first.size - lost}",
                ),
            )


@rule(
    "S103",
    "warning",
    what="Along an unbranched run of windows of stride 1, at least one of them dilated, the input"
    " positions that one output sees have gaps wider than the field of a single position.",
    why="Neighbouring outputs then look at interleaved, disjoint pixels: a gridding pattern in"
    " dense prediction. Three 3x3 of dilation 2 see 49 of the 169 pixels of their 13x13 field.",
    example="3@64 > conv 8 3 p2 d2 > relu > conv 8 3 p2 d2 > relu > conv 8 3 p2 d2",
    fine="3@64 > conv 8 3 p1 > relu > conv 8 3 p2 d2 > relu > conv 8 3 p5 d5",
    remedy="Choose dilations without a common factor, such as 1, 2, 5, or begin or end the run"
    " with a dense 3x3.",
    caveats="The field of the run's input is taken to be dense. Parallel branches of other"
    " dilations, as in ASPP, may fill the holes.",
    references=(
        "Wang et al., 2018, arXiv:1702.08502, equation 2 (hybrid dilated convolution)",
        "Yu, Koltun & Funkhouser, 2017, arXiv:1705.09914, section 4 (degridding)",
    ),
)
def dilation_gridding(net: Subject) -> Sites:
    """Dilated windows leave a grid of unseen pixels."""
    for node, windows in net.all_windows():
        if _continues(net, node):
            continue
        run, start = _run(net, node)
        if not any(window.dilation > 1 for found in run for window in found):
            continue
        field = net.sight[start]
        for axis in range(len(windows)):
            here, stride = (
                (field.size[axis], field.stride[axis]) if axis < len(field.axes) else (1, 1)
            )
            if here is None or not stride:
                continue
            taps = _taps([found[axis] for found in run])
            gap = max((b - a for a, b in pairwise(taps)), default=0)
            if gap * stride > here:
                dilations = ", ".join(str(found[axis].dilation) for found in run[:SHOWN])
                dilations += ", ..." if len(run) > SHOWN else ""
                what = f"the run of {len(run)} windows that ends here (dilations {dilations})"
                if len(run) == 1:
                    what = f"its window (dilation {dilations})"
                extent = taps[-1] - taps[0] + 1
                yield Site(
                    node.name,
                    f"{what} sees {len(taps)} of the {extent} positions of its field along axis"
                    f" {axis + 2}, up to {gap} apart",
                )
                break


def _continues(net: Subject, node: Node) -> bool:
    """Whether the run of stride-1 windows goes on behind a node."""
    at = net.only_user(node)
    while at is not None and is_elementwise(at.op):
        at = net.only_user(at)
    return at is not None and bool(net.windows(at)) and _is_plain(net.windows(at))


def _is_plain(windows: tuple[Window, ...]) -> bool:
    return all(window.stride == 1 for window in windows)


def _run(net: Subject, node: Node) -> tuple[list[tuple[Window, ...]], str]:
    """The windows of a run that ends with a node, in order, and the value it begins with."""
    run, at = [net.windows(node)], node
    while True:
        before = net.back_through_elementwise(at)
        if before is None or not (windows := net.windows(before)) or not _is_plain(windows):
            return run[::-1], net.values(at)[0] if net.values(at) else at.name
        run.append(windows)
        at = before


def _taps(windows: Sequence[Window]) -> list[int]:
    """Where the taps of a whole run stand, relative to the first; one if that is too much."""
    extent = sum(window.extent - 1 for window in windows)
    if extent < LONGEST_FIELD:
        bits = 1
        for window in windows:
            bits = reduce(or_, (bits << tap * window.dilation for tap in range(window.kernel)))
        return [place for place, bit in enumerate(reversed(f"{bits:b}")) if bit == "1"]
    places = {0}
    for window in windows:
        if len(places) * window.kernel > EXAMINED:
            return [0]
        places = {p + tap * window.dilation for p in places for tap in range(window.kernel)}
    return sorted(places)


@rule(
    "S104",
    "warning",
    what="A transposed convolution whose taps reach the phases of its output unequally often: its"
    " kernel is not a multiple of its stride (or its dilation shares a factor with it).",
    why="Some output pixels are sums of more products than their neighbours: a checkerboard,"
    " visible in images and in gradients, which training has to unlearn.",
    example="64@14 > deconv 32 3/2 p1 o1",
    fine="64@14 > deconv 32 4/2 p1",
    remedy="Use a kernel that is a multiple of the stride, or resize and then convolve.",
    caveats="Widely used networks have it and cope; the pattern is worst in generated images.",
    references=("Odena, Dumoulin & Olah, 2016, doi:10.23915/distill.00003",),
)
def checkerboard(net: Subject) -> Sites:
    """A transposed convolution covers its output unevenly."""
    for node in net.graph.nodes:
        op = node.op
        if not isinstance(op, Conv) or not op.transposed:
            continue
        yield from by_axis(_uneven(node, op))


def _uneven(node: Node, op: Conv) -> Iterator[tuple[int, Site]]:
    for axis, (kernel, stride, dilation) in enumerate(
        zip(op.kernel, op.stride, op.dilation, strict=True)
    ):
        least, most = _coverage(kernel, stride, dilation)
        if least != most:
            yield (
                axis,
                Site(
                    node.name,
                    f"along {AXES}, kernel {kernel} and stride {stride} give some outputs"
                    f" {least} and others {most} products",
                    f"use kernel {-(-kernel // stride) * stride}, or resize by {stride} and"
                    " convolve",
                ),
            )


def _coverage(kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """The fewest and the most taps that reach a phase of the output."""
    classes = stride // math.gcd(stride, dilation)
    most = -(-kernel // classes)
    return (kernel // classes if classes == stride else 0), most


@rule(
    "S105",
    "note",
    what="A convolution with an even extent, stride 1 and the same padding, above 0, on both"
    " sides.",
    why="An even window has no middle: the image grows or shrinks by one pixel and moves by half"
    " a pixel at every such layer, and branches beside it no longer line up.",
    example="16@32 > conv 16 4 p2",
    fine="16@32 > conv 16 4 p1,1,2,2",
    remedy="Use an odd kernel, or pad one more on one side.",
    references=("Wu et al., 2019, arXiv:1903.08385 (even-sized kernels shift the image)",),
)
def even_kernel_shift(net: Subject) -> Sites:
    """An even kernel shifts the image by half a pixel."""
    for node, windows in net.all_windows():
        if not isinstance(node.op, Conv):
            continue
        yield from by_axis(
            (
                window.axis,
                Site(
                    node.name,
                    f"extent {window.extent} with padding {window.low} on both sides turns"
                    f" {window.size} positions along {AXES} into {window.count} and shifts them by"
                    " half a pixel",
                ),
            )
            for window in windows
            if window.extent % 2 == 0 and window.stride == 1 and window.low == window.high > 0
        )


@rule(
    "S106",
    "warning",
    what="Taps of a convolution that stand on padding in every window, at the size that the"
    " network runs on.",
    why="Their weights never meet a pixel: a 3x3 on a 1x1 image is a 1x1 with nine times the"
    " parameters. It happens when a network for large images runs on small ones, and when a"
    " dilation exceeds the image.",
    example="512@1 > conv 512 3 p1",
    fine="512@2 > conv 512 3 p1",
    remedy="Feed larger images, take a stride away, or use a smaller kernel or dilation.",
    references=(
        "Chen et al., 2017, arXiv:1706.05587, section 3.3 (large rates degenerate to 1x1)",
    ),
)
def dead_taps(net: Subject) -> Sites:
    """Weights that never meet a pixel."""
    for node, windows in net.all_windows():
        if not isinstance(node.op, Conv):
            continue
        alive = [_alive(window) for window in windows]
        total = math.prod(window.kernel for window in windows)
        if math.prod(alive) < total:
            sizes = "x".join(str(window.size) for window in windows)
            yield Site(
                node.name,
                f"only {math.prod(alive)} of its {total} taps ever"
                f" {'meets' if math.prod(alive) == 1 else 'meet'} its input of {sizes}",
            )


def _alive(window: Window) -> int:
    """How many taps stand on the input in at least one window."""
    found = 0
    for tap in range(min(window.kernel, EXAMINED)):
        first = tap * window.dilation - window.low
        # Outputs for which 0 <= first + output * stride < size.
        least = max(-(first // window.stride), 0)
        found += least < window.count and first + least * window.stride < window.size
    return found + max(window.kernel - EXAMINED, 0)


@rule(
    "S107",
    "note",
    what="An average pooling with padding, or with windows that reach beyond the image, that"
    " divides by the whole window.",
    why="Averages along the border count zeros that are not there and come out darker; frameworks"
    " disagree about it (PyTorch counts them by default, TensorFlow does not), so that a"
    " converted network differs along its edges.",
    example="64@28 > avgpool 3/1 p1",
    fine="64@28 > avgpool 3/1 p1 nopadcount",
    remedy="Do not count the padding (count_include_pad=False), unless trained weights need it.",
    caveats="A pretrained network must keep what it was trained with.",
    references=("ONNX operator AveragePool, attribute count_include_pad",),
)
def average_over_padding(net: Subject) -> Sites:
    """An average that counts padding."""
    for node, windows in net.all_windows():
        op = node.op
        if not isinstance(op, Pool) or op.kind != "average" or not op.count_padding:
            continue
        padded = [window for window in windows if window.low or window.high]
        if padded:
            window = padded[0]
            inside = max(min(window.extent - window.low, window.size), 0)
            yield Site(
                node.name,
                f"the first average along axis {window.axis + 2} divides {inside} elements by"
                f" {window.kernel}",
            )


@rule(
    "S108",
    "note",
    what="A convolution with stride whose kernel has more energy above the new Nyquist limit"
    " (frequency 1/2 over the stride, on any axis) than half way between white noise and all of"
    " it: above 1 - 1 / (2 x product of the strides), 87.5 % for stride 2 in two dimensions.",
    why="What lies above the limit is not removed but folded onto low frequencies: the output"
    " changes when the image moves by one pixel.",
    example="1@32 > conv 1 3/2 p1",
    given="conv1.weight is a Laplacian, [[0, -1, 0], [-1, 4, -1], [0, -1, 0]]",
    fine="1@32 > conv 1 3/1 p1",
    remedy="Blur before the stride: convolve with stride 1, low-pass, then subsample.",
    caveats="Even good kernels alias: white noise has 75 % above the limit for stride 2. Only"
    " kernels that are worse by half are found.",
    references=("Zhang, 2019, arXiv:1904.11486", "Azulay & Weiss, 2019, arXiv:1805.12177"),
    needs="weights",
)
def aliasing_stride(net: Subject) -> Sites:
    """A stride folds the high frequencies of a high-pass kernel."""
    for node in net.graph.nodes:
        op = node.op
        if not isinstance(op, Conv) or op.transposed or max(op.stride, default=1) == 1:
            continue
        weight = net.array(node, "weight")
        if weight is None or max(op.kernel) == 1 or math.prod(op.kernel) > GRID**2:
            continue
        share = folded_share(weight, op.stride, op.dilation, size=GRID)
        limit = 1 - Fraction(1, 2 * math.prod(op.stride))
        if share > limit:
            white = 1 - 1 / math.prod(op.stride)
            yield Site(
                node.name,
                f"{share:.1%} of the energy of its kernels lies above the Nyquist limit of stride"
                f" {'x'.join(map(str, op.stride))}; white noise has {white:.1%}",
            )
