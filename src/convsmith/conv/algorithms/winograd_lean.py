"""Winograd's lean schedule: weights stay as they are and are transformed on the way.

A layer of many filters on a small image reads more weights than anything else, and transformed ones
are several times as many: 75 MB for F(6 x 7) of 512 x 512 filters of 3 x 3 taps, which weigh 9.4.
Here an item of work is a panel of filters. It goes through the channels in slabs: transforms the
slab's weights, adds its products to the sums of all elements and tiles of a block. Weights and sums
stay in the second-level cache; from beyond come the taps, once, asked for a slab ahead, and the
transformed tiles, once per item and in the order of their use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.algorithm import BATCH, WEIGHTS, WORKSPACE
from convsmith.conv.algorithms.winograd_kernels import Grid, WinogradKernels
from convsmith.kernel.emit import Code, Unit, Value
from convsmith.kernel.matrix import odd_pitch
from convsmith.kernel.moving import zero

if TYPE_CHECKING:
    from convsmith.conv.algorithms.winograd_tiling import WinogradTiling
    from convsmith.conv.spec import ConvSpec
    from convsmith.kernel.target import Target

__all__ = ["AddSlab", "LeanKernels"]

_REGISTERS: Final = 32  # more half-transformed taps go through memory

AddSlab = Callable[[Value, Value, Value, Value, int], None]
"""Adds the products of a slab: its tiles, its taps, where weights are made, the sums, channels."""


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
        # A slab's transformed weights lie as [stored element][channel][filter].
        self.element_weights = odd_pitch(tiling.slab * self.width, 16)
        self.shared = self.transformed
        self.own = self.patch + self.strip + self.made + self.products

    @property
    def made(self) -> int:
        """Elements of the weights that a thread makes at a time."""
        return self.stored * self.element_weights

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
        add_slab = self._add_slab(code)

        def add(slab: Value | int, channels: int) -> None:
            tiles = transformed.at(slab * self.slab_in)
            add_slab(tiles, taps.at(slab * size), made, sums, channels)

        whole = g.channels // t.slab
        for slab in code.range(whole):
            add(slab, t.slab)
        if g.channels % t.slab:
            add(whole, g.channels % t.slab)
        for r in code.range(code.smaller(code.integer(self.high) - at.row, t.rows)):
            self._restore_row(code, sums, panel, at, r, strip)

    def _add_slab(self, code: Code) -> AddSlab:
        """Returns what adds the products of a slab, and before that makes its weights."""

        def add(tiles: Value, taps: Value, made: Value, sums: Value, channels: int) -> None:
            self._transform_weights(code, taps, made, channels)
            for element in code.range(self.elements):
                self._ask(code, taps, element, self.elements)
                self._multiply(
                    code, tiles.at(element * self.element_in),
                    made.at(self._stored(code, element) * self.element_weights),
                    sums.at(element * self.element_out), channels=channels, adding=True,
                )  # fmt: skip

        return add

    def _ask(self, code: Code, taps: Value, part: Value, parts: int) -> None:
        """Asks for a part of the taps of the slab behind the one that begins at ``taps``."""
        size = self.tiling.slab * self.taps * self.width
        lines = -(-size // (16 * parts))
        for line in range(lines):
            taps.at(size).prefetch((part * lines + line) * 16, locality=2)

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
