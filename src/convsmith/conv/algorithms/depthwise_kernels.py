"""The compiled form of depthwise convolution: tiles of pixels of one vector of channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.algorithm import BIAS, WEIGHTS, WORKSPACE, X
from convsmith.conv.algorithms.depthwise_moving import interleave, put_planes, take_planes
from convsmith.conv.geometry import Geometry
from convsmith.conv.output import put
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.emit import Code, Unit, Value, Variable
from convsmith.kernel.target import Target

if TYPE_CHECKING:
    from convsmith.conv.algorithms.depthwise import DepthwiseTiling

__all__ = ["ColumnTiles", "DepthwiseKernels", "column_tiles"]

_UNROLL = 4  # input elements that share loaded weights while the kernel slides


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnTiles:
    """Tiles of output columns that run the same code.

    Attributes:
        first: The first column.
        width: Columns of a tile.
        count: Tiles, one behind the other.
        inside: Whether all taps of all of them meet the input.
    """

    first: int
    width: int
    count: int
    inside: bool


def column_tiles(g: Geometry, width: int, *, padded: bool) -> list[ColumnTiles]:
    """Returns how the output columns are cut: a run of tiles inside, single ones at the borders."""
    size, before = (g.padded[2], 0) if padded else (g.size[2], g.before[2])
    found: list[ColumnTiles] = []
    for first in range(0, g.columns, width):
        wide = min(width, g.columns - first)
        start = first * g.stride[2] - before
        inside = start >= 0 and start + (wide - 1) * g.stride[2] + g.reach[2] <= size
        last = found[-1] if found else None
        if last is not None and inside and last.inside and wide == last.width:
            found[-1] = ColumnTiles(
                first=last.first, width=wide, count=last.count + 1, inside=True
            )
        else:
            found.append(ColumnTiles(first=first, width=wide, count=1, inside=inside))
    return found


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


Sums = list[list[list[Variable]]]  # by row, column, filter of the channel


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
        kept = math.prod(g.kernel[1:]) * self.multiplier
        self.keeps_weights = tiling.rows > 1 and kept <= 9 and target.registers >= 32
        self.unrolled = g.kernel[2] <= 7

    # Around the kernel ----------------------------------------------------------------

    def pack(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Returns weights as [block][tap][filter of the channel][channel of the block]."""
        g = self.g
        packed = np.zeros(
            (self.all_blocks * self.lanes, self.multiplier, *g.kernel), np.float32
        )
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
        source, place = code.pointer(X), self._scratch(code).at(self._scratch_row(tap, 0))
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

    def _scratch_row(self, tap: Value, row: Value | int) -> Value:
        return (tap * self.source_rows + row) * self._line

    def _row_of(
        self, code: Code, item: _Item, block: Value, tap: Value, z: Value, row: Value
    ) -> Value:
        """Returns where column 0 of an input row is."""
        g = self.g
        if not self.in_place:
            return self._scratch(code).at(self._scratch_row(tap, row - item.top))
        start = (item.image * g.size[0] + z) * g.size[1] + row
        return code.pointer(X).at(start * self._line + block * self.lanes)

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
        for tap in code.range(g.kernel[0]):
            z = item.depth * g.stride[0] + tap * g.dilation[0] - g.before[0]
            weights = code.pointer(WEIGHTS).at(
                (block * g.kernel[0] + tap) * (g.kernel[1] * self.tap_row)
            )

            def add(y: Value, active: Sequence[tuple[int, Value | int]]) -> None:
                source = self._row_of(code, item, block, tap, z, y)
                rows = [(sums[r], weights.at(ky * self.tap_row), ky) for r, ky in active]
                if self.tiling.slides:
                    self._slide(code, source, column, tiles.width, rows)
                elif self.unrolled:
                    self._unroll(code, source, column, tiles, rows, count, kept)
                else:
                    self._loop(code, source, column, tiles.width, rows, count)

            def plane() -> None:
                self._rows(code, row * g.stride[1] - g.before[1], len(sums), add)

            reach = (g.output[0] - 1) * g.stride[0] + g.reach[0]
            kept: list[Value] = []
            if self.keeps_weights:
                taps = math.prod(g.kernel[1:]) * self.multiplier
                kept = [weights.load(self.lanes, i * self.lanes) for i in range(taps)]
            if g.before[0] == 0 and reach <= g.size[0]:
                plane()
            else:
                with code.when((z >= 0) & (z < g.size[0])):
                    plane()

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
                active = [
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
        for j in range(rows - 1):  # the first input rows meet the first output rows only
            y = start + j
            with code.when((y >= 0) & (y < size)):
                add(y, [(r, j - r) for r in range(j + 1)])
        low = code.larger(-start, rows - 1)
        high = code.smaller(code.integer(size) - start, taps)
        for j in code.range(low, high):
            add(start + j, [(r, j - r) for r in range(rows)])
        for j in range(taps, taps + rows - 1):
            y = start + j
            with code.when((y >= 0) & (y < size)):
                add(y, [(r, j - r) for r in range(j - taps + 1, rows)])

    def _unroll(
        self, code: Code, source: Value, column: Value, tiles: ColumnTiles,
        rows: Sequence[tuple[list[list[Variable]], Value, Value | int]], count: int | Value,
        kept: Sequence[Value],
    ) -> None:  # fmt: skip
        """Adds one input row's products, every tap written out, those outside left out."""
        g, m = self.g, self.multiplier
        first = source.at((column * g.stride[2] - self.before) * self.pixel)
        loaded: dict[tuple[int, int, int], Value] = {}

        def weight(row: int, tap: int, i: int) -> Value:
            _, weights, ky = rows[row]
            if kept and isinstance(ky, int):
                return kept[(ky * g.kernel[2] + tap) * m + i]
            if (row, tap, i) not in loaded:
                loaded[row, tap, i] = weights.load(self.lanes, (tap * m + i) * self.lanes)
            return loaded[row, tap, i]

        pairs: dict[int, list[tuple[int, int]]] = {}
        for c in range(tiles.width):
            for tap in range(g.kernel[2]):
                offset = c * g.stride[2] + tap * g.dilation[2]
                x = tiles.first * g.stride[2] - self.before + offset
                if tiles.inside or 0 <= x < self.width:
                    pairs.setdefault(offset, []).append((c, tap))
        for offset in sorted(pairs):
            x = first.load_first(count, self.lanes, offset * self.pixel)
            for row, (sums, _, _) in enumerate(rows):
                for c, tap in pairs[offset]:
                    for i, total in enumerate(sums[c]):
                        total.set(code.fma(x, weight(row, tap, i), total.get()))

    def _loop(
        self, code: Code, source: Value, column: Value, width: int,
        rows: Sequence[tuple[list[list[Variable]], Value, Value | int]], count: int | Value,
    ) -> None:  # fmt: skip
        """Adds one input row's products tap by tap; all of them are inside."""
        g, m = self.g, self.multiplier
        first = source.at((column * g.stride[2] - self.before) * self.pixel)
        for tap in code.range(g.kernel[2]):
            right = tap * (m * self.lanes)
            factors = [
                [weights.at(right).load(self.lanes, i * self.lanes) for i in range(m)]
                for _, weights, _ in rows
            ]
            left = first.at(tap * (g.dilation[2] * self.pixel))
            for c in range(width):
                x = left.load_first(count, self.lanes, c * g.stride[2] * self.pixel)
                for (sums, _, _), factor in zip(rows, factors, strict=True):
                    for total, each in zip(sums[c], factor, strict=True):
                        total.set(code.fma(x, each, total.get()))

    def _slide(
        self, code: Code, source: Value, column: Value, width: int,
        rows: Sequence[tuple[list[list[Variable]], Value, Value | int]],
    ) -> None:  # fmt: skip
        """Adds one input row's products: input element j meets tap j - c of output column c."""
        m, lanes, size = self.multiplier, self.lanes, self.width
        taps = self.g.kernel[2]
        start = column - self.before  # the input column of the tile's first tap

        def steps(j: Value | int, count: int, columns: range) -> None:
            x = [source.load(lanes, (start + (j + u)) * self.pixel) for u in range(count)]
            for sums, weights, _ in rows:
                right = weights.at(j * (m * lanes))
                # From the weight of the last column's first element on, each loaded once.
                for k in range(-columns[-1], count - columns[0]):
                    meeting = [(u, u - k) for u in range(count) if u - k in columns]
                    for i in range(m if meeting else 0):
                        weight = right.load(lanes, (k * m + i) * lanes)
                        for u, c in meeting:
                            sums[c][i].set(code.fma(x[u], weight, sums[c][i].get()))

        def edge(j: int, columns: range) -> None:
            at = start + j
            with code.when((at >= 0) & (at < size)):
                steps(j, 1, columns)

        for j in range(width - 1):
            edge(j, range(max(0, j - taps + 1), j + 1))
        low = code.larger(-start, width - 1)
        high = code.smaller(code.integer(size) - start, taps)
        whole = low + code.larger(high - low, 0) // _UNROLL * _UNROLL
        for j in code.range(low, whole, _UNROLL):
            steps(j, _UNROLL, range(width))
        for j in code.range(whole, high):
            steps(j, 1, range(width))
        for j in range(max(taps, width - 1), taps + width - 1):
            edge(j, range(j - taps + 1, width))

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
                        at = i * self._kept_pixels() + r * g.columns + c
                        place.store(total.get(), at * lanes)
            return
        pixel = self.channels * m
        plane = item.image * g.output[0] + item.depth
        start = ((plane * g.rows + row) * g.columns + column) * pixel + block * (lanes * m)
        count = self._count(code, block)
        for r, line in enumerate(sums):
            for c, filters in enumerate(line):
                at = start + (r * g.columns + c) * pixel
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
