"""Pooling: the largest or the mean element of every window, in both layouts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from convsmith.kernel.emit import Code, Value
from convsmith.kernel.moving import load_spaced
from convsmith.kernel.target import Target
from convsmith.runtime.kernels.functions import BINARY
from convsmith.runtime.kernels.kernel import GRAIN
from convsmith.runtime.kernels.rows import across

__all__ = ["WIDEST", "GlobalPooling", "Pooling"]

WIDEST = 1 << 15
"""Elements of a padded row that fit a thread's stack comfortably."""

Kind = Literal["max", "average"]


def _combine(code: Code, kind: Kind, a: Value, b: Value) -> Value:
    return BINARY["maximum"](code, a, b) if kind == "max" else a + b


def _start(kind: Kind) -> float:
    return -math.inf if kind == "max" else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooling:
    """Windows over images of three spatial axes, unused ones of size 1.

    The arguments are the output, the image, and for means a table: per axis and output the number
    of elements that count, axis after axis.

    Attributes:
        kind: ``max`` or ``average``.
        last: Whether the channels lie together.
        batch: Images.
        channels: Of each.
        size: Of the input.
        output: Of the output.
        kernel: Of the window.
        stride: From window to window.
        dilation: From tap to tap.
        before: Padding before the input.
        even: How many elements count in every window, or 0 if that differs.
    """

    kind: Kind
    last: bool
    batch: int
    channels: int
    size: tuple[int, int, int]
    output: tuple[int, int, int]
    kernel: tuple[int, int, int]
    stride: tuple[int, int, int]
    dilation: tuple[int, int, int]
    before: tuple[int, int, int]
    even: int = 0

    @property
    def _rows(self) -> int:
        """Rows of the output, of one image or plane."""
        return self.output[0] * self.output[1]

    @property
    def _together(self) -> int:
        """Rows of one item."""
        row = self.output[2] * (self.channels if self.last else 1)
        return max(1, min(self._rows, GRAIN // 4 // max(1, row)))

    @property
    def items(self) -> int:
        """Independent pieces of work."""
        planes = self.batch * (1 if self.last else self.channels)
        return planes * -(-self._rows // self._together)

    def write(self, code: Code, target: Target) -> None:
        """Writes one item: some rows of an image or of a plane."""
        blocks = -(-self._rows // self._together)
        plane, block = code.item // blocks, code.item % blocks
        first = block * self._together
        last = code.smaller(first + self._together, self._rows)
        unit = self.channels if self.last else 1
        to = code.pointer(0).at(plane * (math.prod(self.output) * unit))
        source = code.pointer(1).at(plane * (math.prod(self.size) * unit))
        write = self._row_last if self.last else self._row_first
        write(code, target.lanes, to, source, first, last)

    def _taps(self, code: Code, axis: int, output: Value) -> tuple[Value, Value, Value]:
        """The taps that fall on the input, from the first to behind the last, and the start."""
        k, d = self.kernel[axis], self.dilation[axis]
        begin = output * self.stride[axis] - self.before[axis]
        low = code.larger(code.integer(0) - begin, 0)
        high = code.larger(code.integer(self.size[axis]) - begin, 0)
        return (low + (d - 1)) // d, code.smaller((high + (d - 1)) // d, k), begin

    def _counted(self, code: Code, axis: int, output: Value) -> Value:
        """How many elements of an axis count."""
        return code.pointer(2).at(sum(self.output[:axis])).load(1, output)

    def _row_last(
        self, code: Code, lanes: int, to: Value, source: Value, first: Value, last: Value
    ) -> None:
        size, out, d, c = self.size, self.output, self.dilation, self.channels
        for row in code.range(first, last):
            z, y = row // out[1], row % out[1]
            z0, z1, at_z = self._taps(code, 0, z)
            y0, y1, at_y = self._taps(code, 1, y)
            for x in code.range(out[2]):
                x0, x1, at_x = self._taps(code, 2, x)
                place = to.at((row * out[2] + x) * c)
                count = None
                if self.kind == "average" and not self.even:
                    parts = [self._counted(code, i, p) for i, p in enumerate((z, y, x))]
                    count = code.splat(parts[0] * parts[1] * parts[2], lanes)

                def block(channel: int | Value, counts: list[int]) -> None:
                    sums = [code.variable(code.splat(_start(self.kind), lanes)) for _ in counts]
                    for tz in code.range(z0, z1):  # noqa: B023 - written at once
                        plane = (at_z + tz * d[0]) * size[1]  # noqa: B023
                        for ty in code.range(y0, y1):  # noqa: B023
                            line = (plane + at_y + ty * d[1]) * size[2]  # noqa: B023
                            for tx in code.range(x0, x1):  # noqa: B023
                                pixel = (line + at_x + tx * d[2]) * c  # noqa: B023
                                seen = source.at(pixel).at(channel)
                                for v, (total, wide) in enumerate(zip(sums, counts, strict=True)):
                                    one = seen.load_first(wide, lanes, v * lanes)
                                    total.set(_combine(code, self.kind, total.get(), one))
                    for v, (total, wide) in enumerate(zip(sums, counts, strict=True)):
                        made = self._finished(total.get(), count)  # noqa: B023
                        place.at(channel).store_first(made, wide, v * lanes)  # noqa: B023

                whole = c // (4 * lanes) * (4 * lanes)
                for channel in code.range(0, whole, 4 * lanes):
                    block(channel, [lanes] * 4)
                left = c - whole
                if left:
                    block(whole, [min(lanes, left - i) for i in range(0, left, lanes)])

    def _finished(self, total: Value, count: Value | None) -> Value:
        if self.kind == "max":
            return total
        return total / count if count is not None else total / float(self.even)

    def _row_first(
        self, code: Code, lanes: int, to: Value, source: Value, first: Value, last: Value
    ) -> None:
        """Down the columns into a padded row, then along it."""
        size, out, k, s, d = self.size, self.output, self.kernel, self.stride, self.dilation
        before, wide = self.before[2], size[2]
        needed = (out[2] - 1) * s[2] + (k[2] - 1) * d[2] + 1
        length = -(-max(needed, before + wide) // lanes) * lanes
        row_of = code.local(length)
        empty = code.splat(_start(self.kind), lanes)
        for at in code.range(0, length, lanes):
            row_of.store(empty, at)
        for row in code.range(first, last):
            z, y = row // out[1], row % out[1]
            z0, z1, at_z = self._taps(code, 0, z)
            y0, y1, at_y = self._taps(code, 1, y)

            def column(at: int | Value, count: int) -> None:
                total = code.variable(empty)
                for tz in code.range(z0, z1):  # noqa: B023 - written at once
                    plane = (at_z + tz * d[0]) * size[1]  # noqa: B023
                    for ty in code.range(y0, y1):  # noqa: B023
                        line = source.at((plane + at_y + ty * d[1]) * size[2])  # noqa: B023
                        one = line.load_first(count, lanes, at)
                        total.set(_combine(code, self.kind, total.get(), one))
                row_of.at(before).store_first(total.get(), count, at)

            self._over(code, wide, lanes, column)
            place = to.at(row * out[2])
            scale: Value | None = None
            if self.kind == "average" and not self.even:
                scale = self._counted(code, 0, z) * self._counted(code, 1, y)

            def along(at: int | Value, count: int) -> None:
                total = code.variable(empty)
                for tx in range(k[2]) if k[2] <= 9 else code.range(k[2]):
                    one = load_spaced(code, row_of.at(tx * d[2]), count, lanes, s[2], at)
                    total.set(_combine(code, self.kind, total.get(), one))
                counted = None
                if scale is not None:  # noqa: B023
                    counts = code.pointer(2).at(out[0] + out[1]).load_first(count, lanes, at)
                    counted = counts * code.splat(scale, lanes)  # noqa: B023
                place.store_first(self._finished(total.get(), counted), count, at)  # noqa: B023

            self._over(code, out[2], lanes, along)

    @staticmethod
    def _over(
        code: Code, length: int, lanes: int, block: Callable[[int | Value, int], None]
    ) -> None:
        whole = length // lanes * lanes
        for at in code.range(0, whole, lanes):
            block(at, lanes)
        if length > whole:
            block(whole, length - whole)


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalPooling:
    """The largest or the mean element of every channel.

    Attributes:
        kind: ``max`` or ``average``.
        last: Whether the channels lie together.
        batch: Images.
        channels: Of each.
        pixels: Of each.
    """

    kind: Kind
    last: bool
    batch: int
    channels: int
    pixels: int

    @property
    def _together(self) -> int:
        """Channels of one item."""
        return 64 if self.last else max(1, GRAIN // 4 // self.pixels)

    @property
    def items(self) -> int:
        """Independent pieces of work."""
        if self.last:
            return self.batch * -(-self.channels // 64)
        return -(-self.batch * self.channels // self._together)

    def write(self, code: Code, target: Target) -> None:
        """Writes one item."""
        if self.last:
            self._last(code, target.lanes)
        else:
            self._first(code, target.lanes)

    def _finished(self, total: Value) -> Value:
        return total if self.kind == "max" else total / float(self.pixels)

    def _last(self, code: Code, lanes: int) -> None:
        """64 channels of an image, pixel after pixel."""
        blocks = -(-self.channels // 64)
        image, block = code.item // blocks, code.item % blocks
        channel = block * 64
        source = code.pointer(1).at(image * (self.pixels * self.channels)).at(channel)
        to = code.pointer(0).at(image * self.channels).at(channel)

        def some(channels: int) -> None:
            counts = [min(lanes, channels - i) for i in range(0, channels, lanes)]
            sums = [code.variable(code.splat(_start(self.kind), lanes)) for _ in counts]
            for pixel in code.range(self.pixels):
                seen = source.at(pixel * self.channels)
                for v, (total, wide) in enumerate(zip(sums, counts, strict=True)):
                    one = seen.load_first(wide, lanes, v * lanes)
                    total.set(_combine(code, self.kind, total.get(), one))
            for v, (total, wide) in enumerate(zip(sums, counts, strict=True)):
                to.store_first(self._finished(total.get()), wide, v * lanes)

        left = self.channels % 64
        if left == 0:
            some(64)
            return
        if blocks > 1:
            with code.when(block < blocks - 1):
                some(64)
        with code.when(block.equals(blocks - 1)):
            some(left)

    def _first(self, code: Code, lanes: int) -> None:
        """Some planes, each from end to end."""
        planes = self.batch * self.channels
        first = code.item * self._together
        last = code.smaller(first + self._together, planes)
        for plane in code.range(first, last):
            source = code.pointer(1).at(plane * self.pixels)
            sums = [code.variable(code.splat(_start(self.kind), lanes)) for _ in range(4)]
            four = 4 * lanes
            whole = self.pixels // four * four
            for at in code.range(0, whole, four):
                for v, total in enumerate(sums):
                    one = source.load(lanes, at + v * lanes)
                    total.set(_combine(code, self.kind, total.get(), one))
            rest = [(at, min(lanes, self.pixels - at)) for at in range(whole, self.pixels, lanes)]
            scalars: list[Value] = []
            for total, (start, wide) in zip(sums, rest, strict=False):
                if wide == lanes:
                    one = source.load(lanes, start)
                    total.set(_combine(code, self.kind, total.get(), one))
                else:
                    scalars = [source.load(1, start + i) for i in range(wide)]
            together = sums[0].get()
            for total in sums[1:]:
                together = _combine(code, self.kind, together, total.get())
            parts = [code.lane(together, i) for i in range(lanes)] + scalars
            whole_plane = across(parts, lambda a, b: _combine(code, self.kind, a, b))
            code.pointer(0).store(self._finished(whole_plane), plane)
