"""Lines of pixels on their way between tensors and tiles: padding in, activation out.

A line in a tile's memory is pixels one behind the other, each a vector (or several) of channels.
"""

from __future__ import annotations

from convsmith.conv.algorithm import X
from convsmith.conv.geometry import Geometry
from convsmith.conv.output import put
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.emit import Code, Value
from convsmith.kernel.moving import gather_row_first, gather_row_last, transpose, zero

__all__ = ["gather_line", "scatter_line"]

Index = int | Value


def gather_line(
    code: Code, spec: ConvSpec, place: Value, *, image: Value, row: Value, left: Index, width: int,
    channel: Value, channels: int, pitch: int, lanes: int,
) -> None:  # fmt: skip
    """Copies a run of one row of the input, zeros where it lies outside of the input.

    Args:
        code: Where to write.
        spec: The input's sizes and layout, of two spatial axes or one.
        place: Where the pixels go, ``pitch`` elements apart.
        image: Of the batch.
        row: Of the input; may be outside.
        left: The input column of the first pixel; may be outside. An ``int`` makes shorter code.
        width: Pixels.
        channel: The first channel.
        channels: Channels to take; zeros follow up to ``pitch``.
        pitch: A multiple of ``lanes``.
        lanes: Vector width.
    """
    g = Geometry.of(spec)
    low: Index
    seen: Index
    start: Index
    after: Index
    if isinstance(left, int):
        low = min(max(-left, 0), width)
        start = max(left, 0)
        seen = max(min(g.size[2] - left, width) - low, 0)
        after = width - low - seen
    else:
        low = code.smaller(code.larger(-left, 0), width)
        start = code.larger(left, 0)
        seen = code.larger(code.smaller(code.integer(g.size[2]) - left, width) - low, 0)
        after = code.integer(width) - low - seen
    inside = (row >= 0) & (row < g.size[1])
    with code.when(inside):
        zero(code, place, low * pitch, lanes)
        to = place.at(low * pitch)
        if spec.layout == "channels_last":
            at = ((image * g.size[1] + row) * g.size[2] + start) * spec.channels + channel
            gather_row_last(
                code, code.pointer(X).at(at), to, width=seen, channels=channels,
                pixel=spec.channels, pitch=pitch, lanes=lanes,
            )  # fmt: skip
        else:
            plane = g.size[1] * g.size[2]
            at = (image * spec.channels + channel) * plane + row * g.size[2] + start
            gather_row_first(
                code, code.pointer(X).at(at), to, width=seen, channels=channels, plane=plane,
                pitch=pitch, lanes=lanes,
            )  # fmt: skip
        zero(code, to.at(seen * pitch), after * pitch, lanes)
    with code.unless(inside):
        zero(code, place, width * pitch, lanes)


def scatter_line(
    code: Code, spec: ConvSpec, line: Value, *, image: Value, row: Value, column: Index,
    width: Index, first: Value, filters: Index, lanes: int,
) -> None:  # fmt: skip
    """Stores a run of one row of the output, residual and activation included.

    Args:
        code: Where to write.
        spec: The output's sizes and layout, and what is fused.
        line: The pixels, one vector of filters each, with their bias. Read in groups of ``lanes``:
            up to ``lanes - 1`` pixels past the end are read and not used.
        image: Of the batch.
        row: Of the output.
        column: Of the first pixel.
        width: Pixels.
        first: The filter of the first lane.
        filters: How many lanes are filters of the output; may be more than ``lanes``.
        lanes: Vector width.
    """
    g = Geometry.of(spec)
    if isinstance(filters, int):
        filters = min(filters, lanes)
    if spec.layout == "channels_last":
        start = ((image * g.rows + row) * g.columns + column) * spec.filters + first
        for pixel in code.range(width):
            value = line.at(pixel * lanes).load(lanes)
            put(code, spec, value, start + pixel * spec.filters, filters, lanes)
        return
    plane = g.rows * g.columns
    start = (image * spec.filters + first) * plane + row * g.columns + column

    def group(at: Index, count: Index) -> None:
        source = line.at(at * lanes)
        pixels = [source.load(lanes, i * lanes) for i in range(lanes)]
        for f, made in enumerate(transpose(code, pixels, lanes)):
            if isinstance(filters, int):
                if f < filters:
                    put(code, spec, made, start + (f * plane + at), count, lanes)
            else:
                with code.when(filters > f):
                    put(code, spec, made, start + (f * plane + at), count, lanes)

    if isinstance(width, int):
        whole = width // lanes * lanes
        for at in code.range(0, whole, lanes):
            group(at, lanes)
        if width > whole:
            group(whole, width - whole)
    else:
        for at in code.range(0, width, lanes):
            group(at, width - at)
