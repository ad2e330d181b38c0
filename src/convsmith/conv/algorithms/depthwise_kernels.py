"""The compiled form of depthwise convolution: tiles of pixels of one vector of channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.algorithm import BIAS, WEIGHTS, WORKSPACE, X
from convsmith.conv.algorithms.depthwise_moving import interleave, put_planes, take_planes
from convsmith.conv.algorithms.depthwise_sums import (
    ColumnTiles,
    Row,
    RowSums,
    Sums,
    column_tiles,
)
from convsmith.conv.geometry import Geometry
from convsmith.conv.output import put
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.emit import Code, Unit, Value
from convsmith.kernel.target import Target

if TYPE_CHECKING:
    from convsmith.conv.algorithms.depthwise import DepthwiseTiling

__all__ = ["DepthwiseKernels"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    """Where one piece of work is.

    Attributes:
        image: Which image.
        depth: Output plane.
        first: First output row of the band.
        rows: Output rows of the band.
        top: First input row of the band that there is.
        bottom: Behind the last input row of the band that there is.
    """

    image: Value
    depth: Value
    first: Value
    rows: Value
    top: Value
    bottom: Value


class DepthwiseKernels:
    """Everything about one compiled form."""

    def __init__(self, spec: ConvSpec, target: Target, tiling: DepthwiseTiling) -> None:
        self.spec = spec
        self.g = g = Geometry.of(spec)
        self.lanes = target.lanes
        self.tiling = tiling
        self.channels = g.groups
        self.multiplier = g.filters
        self.all_blocks = -(-self.channels // self.lanes)
        self.chunks = -(-self.all_blocks // tiling.blocks)
        self.bands = -(-g.rows // tiling.band)
        self.in_place = tiling.source == "place"
        padded = tiling.source == "padded"
        self.before = 0 if padded else g.before[2]
        self.width = g.padded[2] if padded else g.size[2]
        self.pixel = self.channels if self.in_place else self.lanes
        self.source_rows = min(g.size[1], (tiling.band - 1) * g.stride[1] + g.reach[1])
        if tiling.slides:
            whole = g.columns // tiling.columns
            self.columns = [
                ColumnTiles(first=0, width=tiling.columns, count=whole, inside=False),
                ColumnTiles(
                    first=whole * tiling.columns, width=g.columns % tiling.columns, count=1,
                    inside=False,
                ),
            ]  # fmt: skip
            self.columns = [tiles for tiles in self.columns if tiles.width and tiles.count]
        else:
            self.columns = column_tiles(g, tiling.columns, padded=padded)
        self.tap_row = g.kernel[2] * self.multiplier * self.lanes  # weights of one kernel row
        self.sums = RowSums(
            g=g, lanes=self.lanes, pixel=self.pixel, width=self.width, before=self.before
        )
        kept = math.prod(g.kernel[1:]) * self.multiplier
        self.keeps_weights = tiling.rows > 1 and kept <= 9 and target.registers >= 32
        self.unrolled = g.kernel[2] <= 7

    # Around the kernel ----------------------------------------------------------------

    def pack(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Returns weights as [block][tap][filter of the channel][channel of the block]."""
        g = self.g
        packed = np.zeros((self.all_blocks * self.lanes, self.multiplier, *g.kernel), np.float32)
        packed[: self.channels] = weights.reshape(self.channels, self.multiplier, *g.kernel)
        shaped = packed.reshape(self.all_blocks, self.lanes, self.multiplier, *g.kernel)
        return np.ascontiguousarray(shaped.transpose(0, 3, 4, 5, 2, 1)).reshape(-1)

    def workspace(self, batch: int, threads: int) -> int:
        """Returns a band of one vector of channels per thread, and of its output."""
        return threads * (self._copied() + self._kept_outputs())

    def _copied(self) -> int:
        if self.in_place:
            return 0
        return self.g.kernel[0] * self.source_rows * self.width * self.lanes

    def _kept_outputs(self) -> int:
        if self.spec.layout == "channels_last":
            return 0
        return self.multiplier * self._kept_pixels() * self.lanes

    def _kept_pixels(self) -> int:
        return -(-self.tiling.band * self.g.columns // self.lanes) * self.lanes

    def phases(self, batch: int) -> list[tuple[str, int]]:
        """Returns the one phase: bands of blocks of channels."""
        return [("compute", batch * self.g.output[0] * self.bands * self.chunks)]

    def write(self, unit: Unit) -> None:
        """Writes the kernel."""
        with unit.kernel("compute") as code:
            self._compute(code)

    # One item -------------------------------------------------------------------------

    def _compute(self, code: Code) -> None:
        g, t = self.g, self.tiling
        chunk = code.item % self.chunks
        rest = code.item // self.chunks
        band = rest % self.bands
        rest = rest // self.bands
        first = band * t.band
        rows = code.smaller(code.integer(g.rows) - first, t.band)
        start = first * g.stride[1] - g.before[1]
        top = code.larger(start, 0)
        bottom = code.smaller(start + (rows - 1) * g.stride[1] + g.reach[1], g.size[1])
        item = _Item(
            image=rest // g.output[0], depth=rest % g.output[0], first=first, rows=rows, top=top,
            bottom=code.larger(bottom, top),
        )  # fmt: skip
        first_block = chunk * t.blocks
        if not self.in_place:
            self._copy(code, item, first_block)
        last_block = code.smaller(first_block + t.blocks, self.all_blocks)

        def blocks() -> Any:
            return [first_block] if t.blocks == 1 else code.range(first_block, last_block)

        full = rows // t.rows
        for r in code.range(full):
            self._row_tiles(code, item, first + r * t.rows, t.rows, blocks)
        tail = g.rows % t.rows
        if tail:
            with code.when((rows % t.rows).equals(tail)):
                self._row_tiles(code, item, first + full * t.rows, tail, blocks)
        if self.spec.layout == "channels_first":
            self._put_planes(code, item, first_block)

    def _row_tiles(
        self, code: Code, item: _Item, row: Value, rows: int, blocks: Callable[[], Any]
    ) -> None:
        for tiles in self.columns:
            stop = tiles.first + tiles.count * tiles.width
            for column in code.range(tiles.first, stop, tiles.width):
                for block in blocks():
                    sums = self._sums(code, block, rows, tiles.width)
                    self._accumulate(code, item, block, row, column, tiles, sums)
                    self._store(code, item, block, row, column, sums)

    def _copy(self, code: Code, item: _Item, block: Value) -> None:
        g = self.g
        for tap in code.range(g.kernel[0]):
            z = item.depth * g.stride[0] + tap * g.dilation[0] - g.before[0]
            with code.when((z >= 0) & (z < g.size[0])):
                self._copy_plane(code, item, block, tap, z)

    def _copy_plane(self, code: Code, item: _Item, block: Value, tap: Value, z: Value) -> None:
        g, lanes = self.g, self.lanes
        source, place = (
            code.pointer(X),
            self._scratch(code).at(tap * (self.source_rows * self._line)),
        )
        edge = (self.width - g.size[2]) and g.before[2]
        if self.spec.layout == "channels_last":
            start = ((item.image * g.size[0] + z) * g.size[1] + item.top) * g.size[2]
            first = source.at(start * self.channels + block * lanes)
            count = self._count(code, block)
            for row in code.range(item.bottom - item.top):
                from_, to = first.at(row * (g.size[2] * self.channels)), place.at(row * self._line)
                self._zero_edges(code, to)
                for i in code.range(g.size[2]):
                    pixel = from_.at(i * self.channels).load_first(count, lanes)
                    to.store(pixel, (i + edge) * lanes)
            return
        plane = math.prod(g.size)
        start = (item.image * self.channels + block * lanes) * plane
        first = source.at(start + (z * g.size[1] + item.top) * g.size[2])
        together = self.width == g.size[2]  # rows of the copy lie one behind the other
        if together and self.bands == 1:
            top = max(-g.before[1], 0)
            bottom = min((g.rows - 1) * g.stride[1] + g.reach[1] - g.before[1], g.size[1])
            elements: int | Value = max(bottom - top, 0) * g.size[2]
        elif together:
            elements = (item.bottom - item.top) * g.size[2]
        else:
            elements = g.size[2]
        for row in [code.integer(0)] if together else code.range(item.bottom - item.top):
            to = place.at(row * self._line)
            self._zero_edges(code, to)
            take_planes(
                code, first.at(row * g.size[2]), to.at(edge * lanes), width=elements, plane=plane,
                block=block, channels=self.channels, lanes=lanes,
            )  # fmt: skip

    def _zero_edges(self, code: Code, row: Value) -> None:
        g = self.g
        if self.width == g.size[2]:
            return
        nothing = code.splat(0.0, self.lanes)
        for first, last in ((0, g.before[2]), (g.before[2] + g.size[2], self.width)):
            for i in code.range(first, last):
                row.store(nothing, i * self.lanes)

    # Addresses ------------------------------------------------------------------------

    @property
    def _line(self) -> int:
        return self.width * self.pixel

    def _scratch(self, code: Code) -> Value:
        share = self._copied() + self._kept_outputs()
        return code.pointer(WORKSPACE).at(code.worker * share)

    def _origin(self, code: Code, item: _Item, block: Value, tap: Value, z: Value) -> Value:
        """Returns where column 0 of input row 0 is, or would be."""
        g = self.g
        if not self.in_place:
            return self._scratch(code).at((tap * self.source_rows - item.top) * self._line)
        plane = item.image * g.size[0] + z
        return code.pointer(X).at(plane * (g.size[1] * self._line) + block * self.lanes)

    def _count(self, code: Code, block: Value) -> int | Value:
        """Returns how many channels a block has."""
        if self.channels % self.lanes == 0:
            return self.lanes
        return code.smaller(code.integer(self.channels) - block * self.lanes, self.lanes)

    # Summing --------------------------------------------------------------------------

    def _sums(self, code: Code, block: Value, rows: int, columns: int) -> Sums:
        start = code.splat(0.0, self.lanes)
        if self.spec.bias and self.multiplier == 1:
            start = code.pointer(BIAS).load(self.lanes, block * self.lanes)
        return [
            [[code.variable(start) for _ in range(self.multiplier)] for _ in range(columns)]
            for _ in range(rows)
        ]

    def _accumulate(
        self, code: Code, item: _Item, block: Value, row: Value, column: Value, tiles: ColumnTiles,
        sums: Sums,
    ) -> None:  # fmt: skip
        g = self.g
        count = self._count(code, block) if self.in_place else self.lanes
        reach = (g.output[0] - 1) * g.stride[0] + g.reach[0]
        always = g.before[0] == 0 and reach <= g.size[0]
        for tap in code.range(g.kernel[0]):
            z = item.depth * g.stride[0] + tap * g.dilation[0] - g.before[0]
            at = (block * g.kernel[0] + tap) * (g.kernel[1] * self.tap_row)
            weights = code.pointer(WEIGHTS).at(at)
            kept: list[Value] = []
            if self.keeps_weights:
                taps = g.kernel[1] * self.tap_row // self.lanes
                kept = [weights.load(self.lanes, i * self.lanes) for i in range(taps)]
            add = partial(
                self._add, code, self._origin(code, item, block, tap, z), column, tiles, sums,
                weights, kept, count,
            )  # fmt: skip
            if always:
                self._rows(code, row * g.stride[1] - g.before[1], len(sums), add)
            else:
                with code.when((z >= 0) & (z < g.size[0])):
                    self._rows(code, row * g.stride[1] - g.before[1], len(sums), add)

    def _add(
        self, code: Code, origin: Value, column: Value, tiles: ColumnTiles, sums: Sums,
        weights: Value, kept: Sequence[Value], count: int | Value, y: Value,
        active: Sequence[tuple[int, Value | int]],
    ) -> None:  # fmt: skip
        """Adds the products of input row ``y`` to (output row, kernel row) pairs."""
        each = self.tap_row // self.lanes
        rows = [
            Row(
                sums=sums[r],
                weights=weights.at(ky * self.tap_row),
                kept=kept[ky * each : (ky + 1) * each] if kept and isinstance(ky, int) else (),
            )
            for r, ky in active
        ]
        source = origin.at(y * self._line)
        if self.tiling.slides:
            self.sums.slide(code, source, column, tiles.width, rows)
        elif self.unrolled:
            self.sums.unroll(code, source, column, tiles, rows, count)
        else:
            self.sums.loop(code, source, column, tiles.width, rows, count)

    def _rows(
        self, code: Code, start: Value, rows: int,
        add: Callable[[Value, Sequence[tuple[int, Value | int]]], None],
    ) -> None:  # fmt: skip
        """Hands the input rows that there are to ``add``, with (output row, kernel row) pairs.

        Args:
            code: Where to write.
            start: The input row of the first output row's first tap; may be outside.
            rows: Output rows.
            add: Adds the products of one input row.
        """
        g = self.g
        taps, size, step = g.kernel[1], g.size[1], g.dilation[1]
        if rows == 1:
            low = (code.larger(-start, 0) + (step - 1)) // step
            high = (code.larger(code.integer(size) - start, 0) + (step - 1)) // step
            for tap in code.range(low, code.smaller(high, taps)):
                add(start + tap * step, [(0, tap)])
            return
        if not self.tiling.slides or taps < rows:
            outside = g.before[1] or (g.rows - 1) * g.stride[1] + g.reach[1] > size
            for offset in sorted(
                {r * g.stride[1] + tap * step for r in range(rows) for tap in range(taps)}
            ):
                active: list[tuple[int, Value | int]] = [
                    (r, (offset - r * g.stride[1]) // step)
                    for r in range(rows)
                    if 0 <= offset - r * g.stride[1] < taps * step
                    and (offset - r * g.stride[1]) % step == 0
                ]
                y = start + offset
                if outside:
                    with code.when((y >= 0) & (y < size)):
                        add(y, active)
                else:
                    add(y, active)
            return
        for head in range(rows - 1):  # the first input rows meet the first output rows only
            y = start + head
            with code.when((y >= 0) & (y < size)):
                add(y, [(r, head - r) for r in range(head + 1)])
        low = code.larger(-start, rows - 1)
        high = code.smaller(code.integer(size) - start, taps)
        for j in code.range(low, high):
            add(start + j, [(r, j - r) for r in range(rows)])
        for tail in range(taps, taps + rows - 1):
            y = start + tail
            with code.when((y >= 0) & (y < size)):
                add(y, [(r, tail - r) for r in range(tail - taps + 1, rows)])

    # Storing --------------------------------------------------------------------------

    def _store(
        self, code: Code, item: _Item, block: Value, row: Value, column: Value, sums: Sums
    ) -> None:
        g, m, lanes = self.g, self.multiplier, self.lanes
        if self.spec.layout == "channels_first":
            kept = self._scratch(code).at(self._copied())
            place = kept.at(((row - item.first) * g.columns + column) * lanes)
            for r, line in enumerate(sums):
                for c, filters in enumerate(line):
                    for i, total in enumerate(filters):
                        pixel = i * self._kept_pixels() + r * g.columns + c
                        place.store(total.get(), pixel * lanes)
            return
        filters_in_all = self.channels * m
        plane = item.image * g.output[0] + item.depth
        start = ((plane * g.rows + row) * g.columns + column) * filters_in_all
        start = start + block * (lanes * m)
        count = self._count(code, block)
        for r, line in enumerate(sums):
            for c, filters in enumerate(line):
                at = start + (r * g.columns + c) * filters_in_all
                if m == 1:
                    put(code, self.spec, filters[0].get(), at, count, lanes)
                    continue
                for v, value in enumerate(interleave(code, [t.get() for t in filters], lanes)):
                    if self.spec.bias:
                        first = block * (lanes * m) + v * lanes
                        value = value + code.pointer(BIAS).load(lanes, first)
                    left = count if isinstance(count, int) else count * m - v * lanes
                    put(code, self.spec, value, at + v * lanes, left, lanes)

    def _put_planes(self, code: Code, item: _Item, block: Value) -> None:
        g = self.g
        even = g.rows % self.tiling.band == 0
        plane = math.prod(g.output)
        put_planes(
            code, self.spec, self._scratch(code).at(self._copied()),
            at=item.image * (self.channels * self.multiplier * plane)
            + (item.depth * g.rows + item.first) * g.columns,
            width=self.tiling.band * g.columns if even else item.rows * g.columns,
            room=self._kept_pixels(), plane=plane, block=block, channels=self.channels,
            multiplier=self.multiplier, lanes=self.lanes,
        )  # fmt: skip
