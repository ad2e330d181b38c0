"""Moving blocks of channels between planes and pixels, for depthwise convolution."""

from __future__ import annotations

from collections.abc import Sequence

from convsmith.conv.algorithm import BIAS
from convsmith.conv.output import put
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.emit import Code, Value
from convsmith.kernel.moving import gather_row_first, transpose

__all__ = ["interleave", "put_planes", "take_planes"]


def interleave(code: Code, vectors: Sequence[Value], lanes: int) -> list[Value]:
    """Returns vectors that hold lane 0 of all given ones, then lane 1 of all, and so on."""
    count = len(vectors)
    if count == 1:
        return list(vectors)
    made = []
    for v in range(count):
        wanted = [divmod(v * lanes + lane, count) for lane in range(lanes)]  # (lane, vector)
        value = vectors[0]
        for other in range(1, count):
            first = [lane if other > 1 else source for lane, (source, _) in enumerate(wanted)]
            chosen = [
                lanes + source if vector == other else keep
                for keep, (source, vector) in zip(first, wanted, strict=True)
            ]
            value = code.shuffle(value, vectors[other], chosen)
        made.append(value)
    return made


def take_planes(
    code: Code, source: Value, place: Value, *, width: int | Value, plane: int, block: Value,
    channels: int, lanes: int,
) -> None:  # fmt: skip
    """Copies a run of ``width`` elements of a block's planes into pixels of ``lanes`` channels.

    Args:
        code: Where to write.
        source: The run in the block's first plane.
        place: Where the first pixel goes.
        width: Elements of each plane.
        plane: Elements from one plane to the next.
        block: Which block of ``lanes`` channels.
        channels: Channels in all; the last block may have fewer, zeros then.
        lanes: Vector width.
    """

    def take(count: int) -> None:
        gather_row_first(
            code, source, place, width=width, channels=count, plane=plane, pitch=lanes, lanes=lanes
        )

    whole, tail = divmod(channels, lanes)
    if not tail:
        take(lanes)
    elif not whole:
        take(tail)
    else:
        with code.when(block < whole):
            take(lanes)
        with code.unless(block < whole):
            take(tail)


def put_planes(
    code: Code, spec: ConvSpec, source: Value, *, at: Value, width: int | Value, room: int,
    plane: int, block: Value, channels: int, multiplier: int, lanes: int,
) -> None:  # fmt: skip
    """Finishes sums kept as pixels and stores them to their planes.

    Args:
        code: Where to write.
        spec: What is fused.
        source: The sums, [filter of the channel][pixel][lane].
        at: The element of the output where the run starts in the plane of filter 0.
        width: Pixels of the run.
        room: Pixels kept per filter of the channel, a multiple of ``lanes``.
        plane: Elements from one plane of the output to the next.
        block: Which block of ``lanes`` channels.
        channels: Channels in all.
        multiplier: Filters per channel.
        lanes: Vector width.
    """

    def some(first: Value | int, i: Value, count: int | Value) -> None:
        start = source.at((i * room + first) * lanes)
        pixels = [start.load(lanes, p * lanes) for p in range(lanes)]
        for lane, value in enumerate(transpose(code, pixels, lanes)):
            channel = block * lanes + lane

            def finish(value: Value = value, channel: Value = channel) -> None:
                which = channel * multiplier + i
                if spec.bias and multiplier > 1:
                    value = value + code.splat(code.pointer(BIAS).load(1, which), lanes)
                put(code, spec, value, at + which * plane + first, count, lanes)

            if channels % lanes:
                with code.when(channel < channels):
                    finish()
            else:
                finish()

    for i in code.range(multiplier):
        if isinstance(width, int):
            whole = width // lanes * lanes
            for first in code.range(0, whole, lanes):
                some(first, i, lanes)
            if width > whole:
                some(whole, i, width - whole)
        else:
            for first in code.range(0, width, lanes):
                some(first, i, width - first)
