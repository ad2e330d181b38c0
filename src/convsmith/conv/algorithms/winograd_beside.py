"""Winograd's lean schedule for a few tiles: weights are made in registers, beside their products.

There writing transformed weights to memory would take as long as the products with them. The
weights of some columns of a row of elements are made from the taps of a slab, which stay in the
nearest cache, and go from registers into the products with all tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import groupby

from convsmith.conv.algorithms.winograd_lean import AddSlab, LeanKernels
from convsmith.conv.toom_cook import Matrix
from convsmith.kernel.emit import Code, Value
from convsmith.kernel.transforms import multiply, parts_of

__all__ = ["BesideKernels"]

_Simple = tuple[int | None, ...]


class BesideKernels(LeanKernels):
    """Transform the tiles; then, per panel of filters, products and outputs."""

    @property
    def made(self) -> int:
        """Elements of one row of G w of a slab: [channel][tap of the row][filter]."""
        return self.tiling.slab * self.tx.r * self.width

    def _add_slab(self, code: Code) -> AddSlab:
        factors = self._factors(code)

        def add(tiles: Value, taps: Value, made: Value, sums: Value, channels: int) -> None:
            self._multiply_rows(code, tiles, taps, factors, made, sums, channels)

        return add

    def _factors(self, code: Code) -> Value:
        """Returns the address of the rows of G, in memory."""
        factors = [factor for row in self.ty.filters for factor in row]
        place = code.local(len(factors))
        for i, factor in enumerate(factors):
            place.store(code.scalar(float(factor)), i)
        return place

    def _multiply_rows(
        self, code: Code, tiles: Value, taps: Value, factors: Value, half: Value, sums: Value,
        channels: int,
    ) -> None:  # fmt: skip
        """Adds the products of a slab; weights are made row by row of elements.

        Rows of G with the same zeros and ones share their code.
        """
        columns, r = self.tx.alpha, self.ty.r
        runs = groupby(range(self.ty.alpha), key=lambda row: _simple(self.ty.filters[row]))
        for simple, run in runs:
            rows = list(run)
            for row in code.range(rows[0], rows[-1] + 1):
                self._ask(code, taps, row, self.ty.alpha)
                by: list[Value | int] = [
                    code.splat(factors.load(1, row * r + k), self.lanes) if one is None else one
                    for k, one in enumerate(simple)
                ]
                self._multiply_row(
                    code, tiles.at(row * (columns * self.element_in)), taps, by, half,
                    sums.at(row * (columns * self.element_out)), channels,
                )  # fmt: skip

    def _multiply_row(
        self, code: Code, tiles: Value, taps: Value, by: Sequence[Value | int], half: Value,
        sums: Value, channels: int,
    ) -> None:  # fmt: skip
        """Adds the products of one row, some columns at a time."""
        distinct, most, r = self.tx.distinct, self.tiling.beside, self.tx.r
        gx = self.tx.filters[:distinct]
        *parts, last = ((gx[part.start : part.stop], part) for part in parts_of(gx, most))
        # The last row of G belongs to all columns from there on.
        end = max(min(last[1].start + most, self.tx.alpha), distinct)
        parts.append((last[0], range(last[1].start, end)))
        parts += [
            (gx[-1:], range(j, min(j + most, self.tx.alpha)))
            for j in range(end, self.tx.alpha, most)
        ]

        def make(channel: Value) -> list[Value]:
            made = self._transform_columns(code, taps, channel, by)
            for k, value in enumerate(made if len(parts) > 1 else ()):
                half.store(value, (channel * r + k) * self.lanes)
            return made

        def find(channel: Value) -> list[Value]:
            return [half.load(self.lanes, (channel * r + k) * self.lanes) for k in range(r)]

        for rows, across in parts:
            some = find if across.start else make
            self._multiply_part(code, tiles, some, rows, across, sums, channels)

    def _transform_columns(
        self, code: Code, taps: Value, channel: Value, by: Sequence[Value | int]
    ) -> list[Value]:
        """Computes one row of G w of a channel; one of its factors, at least, is 1."""
        lanes, r = self.lanes, self.tx.r
        source = taps.at(channel * (self.taps * lanes))
        made = []
        for j in range(r):
            column = [source.load(lanes, (k * r + j) * lanes) for k in range(self.ty.r)]
            first, *rest = (tap for tap, factor in zip(column, by, strict=True) if factor == 1)
            total = sum(rest, start=first)
            for tap, factor in zip(column, by, strict=True):
                if isinstance(factor, Value):
                    total = code.fma(factor, tap, total)
            made.append(total)
        return made

    def _multiply_part(
        self, code: Code, tiles: Value, half: Callable[[Value], list[Value]], gx: Matrix,
        across: range, sums: Value, channels: int,
    ) -> None:  # fmt: skip
        """Adds the products of some columns of a row."""
        lanes = self.lanes
        nothing = code.splat(0.0, lanes)
        totals = {(j, n): code.variable(nothing) for j in across for n in range(self.tiles)}
        for channel in code.range(channels):
            made = multiply(code, gx, half(channel))
            numbers = tiles.at(channel)
            for (j, n), total in totals.items():
                number = numbers.load(1, j * self.element_in + n * self.pixel)
                weight = made[min(j - across.start, len(made) - 1)]
                total.set(code.fma(code.splat(number, lanes), weight, total.get()))
        for (j, n), total in totals.items():
            at = j * self.element_out + n * lanes
            sums.store(sums.load(lanes, at) + total.get(), at)


def _simple(row: Sequence[Fraction]) -> _Simple:
    """Returns the zeros and ones of a row of G, one of which is 1, and None for all else."""
    return tuple(int(factor) if factor in (0, 1) else None for factor in row)
