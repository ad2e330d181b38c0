"""Winograd's lean schedule: weights stay as they are and are transformed on the way.

A layer of many filters on a small image reads more weights than anything else, and transformed ones
are several times as many: 75 MB for F(6 x 7) of 512 x 512 filters of 3 x 3 taps, which weigh 9.4.
Here an item of work is a panel of filters. It goes through the channels in slabs: transforms the
slab's weights, adds its products to the sums of all elements and tiles of a block. Weights and sums
stay in the second-level cache; from beyond come the taps, once, asked for a slab ahead, and the
transformed tiles, once per item and in the order of their use.

For a few tiles, writing transformed weights takes as long as the products with them. There the
weights of some columns of a row of elements are made from the taps, which stay in the nearest
cache, and go from registers into the products with all tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.algorithm import BATCH, WEIGHTS, WORKSPACE
from convsmith.conv.algorithms.winograd_kernels import Grid, WinogradKernels
from convsmith.conv.toom_cook import Matrix
from convsmith.kernel.emit import Code, Unit, Value
from convsmith.kernel.matrix import odd_pitch
from convsmith.kernel.moving import zero
from convsmith.kernel.transforms import multiply, parts_of

if TYPE_CHECKING:
    from convsmith.conv.algorithms.winograd_tiling import WinogradTiling
    from convsmith.conv.spec import ConvSpec
    from convsmith.kernel.target import Target

__all__ = ["LeanKernels"]

_REGISTERS: Final = 32  # more half-transformed taps go through memory

_Simple = tuple[int | None, ...]


class LeanKernels(WinogradKernels):
    """Transform the tiles; then, per panel of filters, weights, products and outputs."""

    def __init__(self, spec: ConvSpec, target: Target, tiling: WinogradTiling) -> None:
        super().__init__(spec, target, tiling)
        g = self.g
        self.taps = self.ty.r * self.tx.r
        # The transformed tiles lie as [slab][element][tile][channel of the slab].
        self.pixel = tiling.slab
        self.element_in = odd_pitch(self.tiles * self.pixel, 16)
        self.slab_in = self.elements * self.element_in
        self.transformed = -(-g.channels // tiling.slab) * self.slab_in
        self.panel_taps = g.channels * self.taps * self.width
        # A slab's transformed weights lie as [stored element][channel][filter]; beside products,
        # a row of G w as [channel][tap of the row][filter].
        self.element_weights = odd_pitch(tiling.slab * self.width, 16)
        self.made = self.stored * self.element_weights
        if tiling.beside:
            self.made = tiling.slab * self.tx.r * self.width
        self.shared = self.transformed
        self.own = self.patch + self.strip + self.made + self.products

    def pack(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Returns the weights as [group][panel][channel][tap][filter of the panel]."""
        g = self.g
        padded = np.zeros((g.groups, self.all_panels * self.width, g.channels, self.taps), "f4")
        padded[:, : g.filters] = weights.reshape(g.groups, g.filters, g.channels, self.taps)
        panels = padded.reshape(g.groups, self.all_panels, self.width, g.channels, self.taps)
        return panels.transpose(0, 1, 3, 4, 2).reshape(-1)

    def phases(self, batch: int) -> list[tuple[str, int]]:
        """Returns the two phases."""
        t, blocks = self.tiling, self._blocks(batch)
        return [
            ("transform", blocks * t.rows * (self.deep // t.chunk)),
            ("combine", blocks * self.all_panels),
        ]

    def write(self, unit: Unit) -> None:
        """Writes the kernels."""
        with unit.kernel("transform") as code:
            self._transform_item(code)
        with unit.kernel("combine") as code:
            self._combine_item(code)

    def _depth(self, channel: Value) -> Value:
        slab = self.tiling.slab
        return channel // slab * self.slab_in + channel % slab

    def _combine_item(self, code: Code) -> None:
        """Makes the outputs of one panel of filters for one block."""
        g, t = self.g, self.tiling
        blocks = self._blocks(code.word(BATCH))
        # Threads that work side by side read the same weights.
        block, panel = code.item % blocks, code.item // blocks
        at = self._place(code, block)
        transformed = code.pointer(WORKSPACE).at(block * self.transformed)
        strip = self._own(code).at(self.patch)
        made = strip.at(self.strip)
        sums = made.at(self.made)
        taps = code.pointer(WEIGHTS).at((at.group * self.all_panels + panel) * self.panel_taps)
        zero(code, sums, self.products, self.lanes)
        size = t.slab * self.taps * self.width

        factors = self._factors(code) if t.beside else None

        def add(slab: Value | int, channels: int) -> None:
            source = taps.at(slab * size)
            tiles = transformed.at(slab * self.slab_in)
            if factors:
                self._multiply_rows(code, tiles, source, factors, made, sums, channels)
            else:
                self._transform_weights(code, source, made, channels)
                self._multiply_elements(code, tiles, made, sums, source.at(size), channels)

        whole = g.channels // t.slab
        for slab in code.range(whole):
            add(slab, t.slab)
        if g.channels % t.slab:
            add(whole, g.channels % t.slab)
        for r in code.range(code.smaller(code.integer(self.high) - at.row, t.rows)):
            self._restore_row(code, sums, panel, at, r, strip)

    def _ask(self, code: Code, following: Value, part: Value, parts: int) -> None:
        """Asks for a part of the next slab's taps."""
        lines = -(-self.tiling.slab * self.taps * self.width // (16 * parts))
        for line in range(lines):
            following.prefetch((part * lines + line) * 16, locality=2)

    def _transform_weights(self, code: Code, taps: Value, made: Value, channels: int) -> None:
        """Computes G w G^T of one panel of filters and some channels."""
        lanes, rows, columns = self.lanes, self.ty.distinct, self.tx.distinct
        gy, gx = self.ty.filters[:rows], self.tx.filters[:columns]
        straight = rows * self.tx.r <= _REGISTERS
        buffer = None if straight else code.local(rows * self.tx.r * lanes)
        for channel in code.range(channels):
            for v in code.range(0, self.width, lanes):
                place = made.at(channel * self.width + v)

                def store(i: Value | int, j: Value | int, value: Value, to: Value = place) -> None:
                    to.at((i * columns + j) * self.element_weights).store(value)

                source = taps.at(channel * (self.taps * self.width) + v)
                tile = Grid(source, self.tx.r * self.width, self.width, lanes)
                self._both_axes(code, gy, gx, tile, store, buffer)

    def _multiply_elements(
        self, code: Code, tiles: Value, made: Value, sums: Value, following: Value, channels: int
    ) -> None:
        """Adds the products of a slab, whose weights are made."""
        for element in code.range(self.elements):
            self._ask(code, following, element, self.elements)
            self._multiply(
                code, tiles.at(element * self.element_in),
                made.at(self._stored(code, element) * self.element_weights),
                sums.at(element * self.element_out), channels=channels, adding=True,
            )  # fmt: skip

    # Few tiles ------------------------------------------------------------------------

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
        following = taps.at(self.tiling.slab * self.taps * self.width)
        runs = groupby(range(self.ty.alpha), key=lambda row: _simple(self.ty.filters[row]))
        for simple, run in runs:
            rows = list(run)
            for row in code.range(rows[0], rows[-1] + 1):
                self._ask(code, following, row, self.ty.alpha)
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
