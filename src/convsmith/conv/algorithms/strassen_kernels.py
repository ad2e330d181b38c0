"""The compiled form of Strassen's product: sums while packing, tiles put together in the cache."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.algorithm import BIAS, WEIGHTS, WORKSPACE, X
from convsmith.conv.geometry import Geometry
from convsmith.conv.output import load_bias, put
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.emit import Code, Unit, Value
from convsmith.kernel.matrix import Parts, odd_pitch
from convsmith.kernel.strassen import (
    LEFT,
    block_of,
    choose,
    multiply_tiles,
    right_sums,
    scratch_elements,
    sums,
)
from convsmith.kernel.tile import Tile

if TYPE_CHECKING:
    from convsmith.conv.algorithms.strassen import StrassenTiling

__all__ = ["StrassenKernels"]


class StrassenKernels:
    """Everything about one compiled form.

    In the algorithm weights are the left side, pixels the right one, whose sums are differences
    more often and so lose less behind a ReLU. In a register tile channels first has filters as rows
    and pixels in the lanes, channels last the other way round. A *unit* is the smallest piece of a
    side that has all its blocks: one row, or one vector, of each.
    """

    def __init__(self, spec: ConvSpec, tiling: StrassenTiling) -> None:
        self.spec, self.tiling, self.lanes = spec, tiling, tiling.lanes
        self.g = g = Geometry.of(spec)
        self.flat = spec.layout == "channels_first"
        self.levels = tiling.levels
        self.n: int = 2**tiling.levels
        self.products: int = 7**tiling.levels
        self.blocks: int = 4**tiling.levels
        self.plane = math.prod(g.output)
        self.depth = -(-g.channels // self.n)  # of a block
        self.pixel, self.filter = (self.lanes, 1) if self.flat else (1, self.lanes)
        most = (tiling.vectors, tiling.rows) if self.flat else (tiling.rows, tiling.vectors)
        self.pixels = Parts.of(-(-self.plane // (self.pixel * self.n)), most=most[0])
        self.filters = Parts.of(-(-g.filters // (self.filter * self.n)), most=most[1])
        self.pixel_blocks = Parts(self.pixels.count, tiling.pixel_blocks)
        self.weight_blocks = Parts(self.filters.count, tiling.weight_blocks)
        self.pitch = odd_pitch(self.depth, self.lanes)
        # Elements of a packed unit of pixels.
        self.unit: int = self.products * (self.depth * self.lanes if self.flat else self.pitch)
        self.positions = [
            next(
                (i, j)
                for i in range(self.n)
                for j in range(self.n)
                if block_of(i, j, self.levels) == number
            )
            for number in range(self.blocks)
        ]

    # Around the kernels ---------------------------------------------------------------

    def pack(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Returns the sums of blocks of weights, made in float64, as the tiles read them."""
        g, n = self.g, self.n
        unit = n * self.filter
        full = np.zeros((self.filters.total * unit, n * self.depth))
        full[: g.filters, : g.channels] = weights.reshape(g.filters, g.channels)
        matrix = np.array(sums(LEFT, self.levels), dtype=np.float64)
        parts = []
        for part in range(self.filters.count):
            low, high = self.filters.start(part), self.filters.start(part + 1)
            blocks = full[low * unit : high * unit].reshape(n, -1, n, self.depth)
            ordered = np.stack([blocks[i, :, j] for i, j in self.positions])
            made = np.tensordot(matrix, ordered, 1).astype(np.float32)
            parts.append(np.swapaxes(made, 1, 2).reshape(-1))
        return np.concatenate(parts)

    def _packed(self) -> int:
        most = self.pixel_blocks.longest * self.pixels.longest
        return -(-most * self.unit // 64) * 64

    def _scratch(self) -> int:
        rows, vectors = (
            (self.filters.longest, self.pixels.longest)
            if self.flat
            else (self.pixels.longest, self.filters.longest)
        )
        return -(-scratch_elements(self.levels, rows, vectors, self.lanes) // 64) * 64

    def workspace(self, batch: int, threads: int) -> int:
        """Returns the packed sums of a block of pixels and some tiles, per thread."""
        return threads * (self._packed() + self._scratch())

    def phases(self, batch: int) -> list[tuple[str, int]]:
        """Returns the one phase."""
        return [("compute", batch * self.tiling.pixel_blocks * self.tiling.weight_blocks)]

    def write(self, unit: Unit) -> None:
        """Writes the kernel."""
        t = self.tiling
        with unit.kernel("compute") as code:
            chunk, rest = code.item % t.weight_blocks, code.item // t.weight_blocks
            block, image = rest % t.pixel_blocks, rest // t.pixel_blocks
            packed = code.pointer(WORKSPACE).at(code.worker * (self._packed() + self._scratch()))
            scratch = packed.at(self._packed())
            first, last = (self.pixel_blocks.start_of(code, block + i) for i in (0, 1))
            begin = self.pixels.start_of(code, first)
            source = code.pointer(X).at(image * (self.g.channels * self.plane))

            def gather(start: Value, size: int) -> None:
                place = packed.at((start - begin) * self.unit)
                if self.flat:
                    self._pack_planes(code, source, start, size, place)
                else:
                    self._pack_pixels(code, source, start, size, place)

            self.pixels.each(code, first, last, gather)

            def some_filters(filters: Value, count: int) -> None:
                weights = code.pointer(WEIGHTS).at(
                    filters * (self.products * self.depth * self.filter)
                )

                def some_pixels(start: Value, size: int) -> None:
                    self._product(
                        code, weights, filters, count, packed.at((start - begin) * self.unit),
                        start, size, image, scratch,
                    )  # fmt: skip

                self.pixels.each(code, first, last, some_pixels)

            low, high = (self.weight_blocks.start_of(code, chunk + i) for i in (0, 1))
            self.filters.each(code, low, high, some_filters)

    # Packing --------------------------------------------------------------------------

    def _pack_planes(
        self, code: Code, source: Value, start: Value, vectors: int, place: Value
    ) -> None:
        """Packs pixels in lanes: [product][channel][vector]."""
        lanes, step = self.lanes, vectors * self.lanes
        whole = self.plane % (self.n * lanes) == 0

        def channels(first: int, last: int, missing: int) -> None:
            """The blocks from ``missing`` on have no such channel."""
            for c in code.range(first, last):
                for v in range(vectors):
                    loaded = []
                    for i, j in self.positions:
                        if i >= missing:
                            loaded.append(code.splat(0.0, lanes))
                            continue
                        pixel = (start * self.n + (j * vectors + v)) * lanes
                        row = source.at((c + i * self.depth) * self.plane)
                        count = lanes if whole else code.integer(self.plane) - pixel
                        loaded.append(row.load_first(count, lanes, pixel))
                    at = place.at(c * step + v * lanes)
                    for p, value in enumerate(right_sums(loaded, self.levels)):
                        at.store(value, p * self.depth * step)

        self._by_channels(channels)

    def _pack_pixels(
        self, code: Code, source: Value, start: Value, rows: int, place: Value
    ) -> None:
        """Packs pixels as rows: [product][pixel][channel]."""
        g, lanes = self.g, self.lanes
        whole = self.plane % self.n == 0
        for r in code.range(rows):
            for c in code.range(0, self.depth, lanes):
                loaded = []
                for i, j in self.positions:
                    pixel = start * self.n + (r + j * rows)
                    there = min(self.depth, g.channels - i * self.depth)
                    if there <= 0:
                        loaded.append(code.splat(0.0, lanes))
                        continue
                    full = there == self.depth and there % lanes == 0
                    count: int | Value = lanes if full else code.integer(there) - c
                    if not whole:
                        left = count if isinstance(count, Value) else code.integer(count)
                        count = (pixel < self.plane).select(left, code.integer(0))
                    at = source.at(pixel * g.channels + (c + i * self.depth))
                    loaded.append(at.load_first(count, lanes))
                at = place.at(r * self.pitch + c)
                for p, value in enumerate(right_sums(loaded, self.levels)):
                    at.store(value, p * rows * self.pitch)

    def _by_channels(self, channels: Callable[[int, int, int], None]) -> None:
        """Calls ``channels(first, last, missing)`` for runs that the same blocks have."""
        g, n = self.g, self.n
        # Block i has min(depth, channels - i * depth) channels.
        have = [max(0, min(self.depth, g.channels - i * self.depth)) for i in range(n)]
        edges = sorted({0, self.depth, *have})
        for low, high in pairwise(edges):
            channels(low, high, sum(count > low for count in have))

    # Multiplying ----------------------------------------------------------------------

    def _product(
        self, code: Code, weights: Value, filters: Value, count: int, packed: Value, start: Value,
        size: int, image: Value, scratch: Value,
    ) -> None:  # fmt: skip
        """Writes one tile of every block: all of their products, and their way out."""
        lanes, depth = self.lanes, self.depth
        rows, vectors = (count, size) if self.flat else (size, count)

        def accumulate(tile: Tile, product: Value) -> None:
            width = vectors * lanes
            if self.flat:
                left, offsets, step = weights.at(product * (depth * rows)), range(rows), rows
                right = packed.at(product * (depth * width))
            else:
                left, step = packed.at(product * (rows * self.pitch)), 1
                offsets = range(0, rows * self.pitch, self.pitch)
                right = weights.at(product * (depth * width))
            tile.accumulate(left, offsets, right, depth, left_step=step)

        def finish(number: Value, first: Value, second: Value) -> None:
            places = [place if self.flat else place[::-1] for place in self.positions]
            down = choose(code, number, [i for i, _ in places])
            across = choose(code, number, [j for _, j in places])
            row = (filters if self.flat else start) * self.n + down * rows
            column = ((start if self.flat else filters) * self.n + across * vectors) * lanes
            for r in code.range(rows):
                self._store_row(code, image, row + r, column, r, vectors, first, second)

        multiply_tiles(
            code, levels=self.levels, rows=rows, vectors=vectors, lanes=lanes, scratch=scratch,
            accumulate=accumulate, finish=finish,
        )  # fmt: skip

    def _store_row(
        self, code: Code, image: Value, row: Value, column: Value, r: Value, vectors: int,
        first: Value, second: Value,
    ) -> None:  # fmt: skip
        """Stores the vectors of one row of a finished tile."""
        g, lanes = self.g, self.lanes
        high, wide = (g.filters, self.plane) if self.flat else (self.plane, g.filters)
        start = (image * high + row) * wide + column
        with code.when(row < high):
            for v in range(vectors):
                at = (r * vectors + v) * lanes
                value = first.load(lanes, at) + second.load(lanes, at)
                if self.spec.bias and self.flat:
                    value = value + code.splat(code.pointer(BIAS).load(1, row), lanes)
                bias = None if self.flat else self._bias(code, column + v * lanes)
                if bias is not None:
                    value = value + bias
                whole = wide % (self.n * lanes) == 0
                count = lanes if whole else code.integer(wide) - column - v * lanes
                put(code, self.spec, value, start + v * lanes, count, lanes)

    def _bias(self, code: Code, first: Value) -> Value | None:
        """Returns the biases of a vector of filters; a vector past the last one has none."""
        g = self.g
        return load_bias(code, self.spec, code.smaller(first, g.filters), self.lanes)
