"""The sums of depthwise convolution: one input row added to a tile, three ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convsmith.conv.geometry import Geometry
from convsmith.kernel.emit import Code, Value, Variable

__all__ = ["ColumnTiles", "Row", "RowSums", "Sums", "column_tiles"]

_UNROLL = 4  # input elements that share loaded weights while the kernel slides

Sums = list[list[list[Variable]]]
"""A tile's sums by row, column, filter of the channel."""


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
            found[-1] = ColumnTiles(first=last.first, width=wide, count=last.count + 1, inside=True)
        else:
            found.append(ColumnTiles(first=first, width=wide, count=1, inside=inside))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One output row of a tile that an input row adds to.

    Attributes:
        sums: Its sums by column and filter of the channel.
        weights: The row of the kernel that meets the input row there.
        kept: The same weights where they are in registers already.
    """

    sums: list[list[Variable]]
    weights: Value
    kept: Sequence[Value] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSums:
    """How the rows that tiles read lie in memory.

    Attributes:
        g: The convolution.
        lanes: Vector width: channels of a block.
        pixel: Elements from one column to the next.
        width: Columns of the rows, with padding if they have it.
        before: Columns of padding that they do not have.
    """

    g: Geometry
    lanes: int
    pixel: int
    width: int
    before: int

    def unroll(
        self, code: Code, source: Value, column: Value, tiles: ColumnTiles, rows: Sequence[Row],
        count: int | Value,
    ) -> None:  # fmt: skip
        """Adds one input row's products, every tap written out, those outside left out."""
        g, m = self.g, self.g.filters
        first = source.at((column * g.stride[2] - self.before) * self.pixel)
        loaded: dict[tuple[int, int, int], Value] = {}

        def weight(row: int, tap: int, i: int) -> Value:
            if rows[row].kept:
                return rows[row].kept[tap * m + i]
            if (row, tap, i) not in loaded:
                at = (tap * m + i) * self.lanes
                loaded[row, tap, i] = rows[row].weights.load(self.lanes, at)
            return loaded[row, tap, i]

        pairs: dict[int, list[tuple[int, int]]] = {}
        for c in range(tiles.width):
            for tap in range(g.kernel[2]):
                offset = c * g.stride[2] + tap * g.dilation[2]
                x = tiles.first * g.stride[2] - self.before + offset
                if tiles.inside or 0 <= x < self.width:
                    pairs.setdefault(offset, []).append((c, tap))
        for offset in sorted(pairs):
            element = first.load_first(count, self.lanes, offset * self.pixel)
            for r, row in enumerate(rows):
                for c, tap in pairs[offset]:
                    for i, total in enumerate(row.sums[c]):
                        total.set(code.fma(element, weight(r, tap, i), total.get()))

    def loop(
        self, code: Code, source: Value, column: Value, width: int, rows: Sequence[Row],
        count: int | Value,
    ) -> None:  # fmt: skip
        """Adds one input row's products tap by tap; all of them are inside."""
        g, m = self.g, self.g.filters
        first = source.at((column * g.stride[2] - self.before) * self.pixel)
        for tap in code.range(g.kernel[2]):
            right = tap * (m * self.lanes)
            factors = [
                [row.weights.at(right).load(self.lanes, i * self.lanes) for i in range(m)]
                for row in rows
            ]
            left = first.at(tap * (g.dilation[2] * self.pixel))
            for c in range(width):
                x = left.load_first(count, self.lanes, c * g.stride[2] * self.pixel)
                for row, factor in zip(rows, factors, strict=True):
                    for total, each in zip(row.sums[c], factor, strict=True):
                        total.set(code.fma(x, each, total.get()))

    def slide(
        self, code: Code, source: Value, column: Value, width: int, rows: Sequence[Row]
    ) -> None:
        """Adds one input row's products: input element j meets tap j - c of output column c."""
        m, lanes, size = self.g.filters, self.lanes, self.width
        taps = self.g.kernel[2]
        start = column - self.before  # the input column of the tile's first tap

        def steps(j: Value | int, count: int, columns: range) -> None:
            x = [source.load(lanes, (start + (j + u)) * self.pixel) for u in range(count)]
            for row in rows:
                right = row.weights.at(j * (m * lanes))
                # From the weight of the last column's first element on, each loaded once.
                for k in range(-columns[-1], count - columns[0]):
                    meeting = [(u, u - k) for u in range(count) if u - k in columns]
                    for i in range(m if meeting else 0):
                        weight = right.load(lanes, (k * m + i) * lanes)
                        for u, c in meeting:
                            total = row.sums[c][i]
                            total.set(code.fma(x[u], weight, total.get()))

        def edge(j: int, columns: range) -> None:
            at = start + j
            with code.when((at >= 0) & (at < size)):
                steps(j, 1, columns)

        for head in range(width - 1):
            edge(head, range(max(0, head - taps + 1), head + 1))
        low = code.larger(-start, width - 1)
        high = code.smaller(code.integer(size) - start, taps)
        whole = low + code.larger(high - low, 0) // _UNROLL * _UNROLL
        for j in code.range(low, whole, _UNROLL):
            steps(j, _UNROLL, range(width))
        for j in code.range(whole, high):
            steps(j, 1, range(width))
        for tail in range(max(taps, width - 1), taps + width - 1):
            edge(tail, range(tail - taps + 1, width))
