"""The compiled product of weights with a matrix of pixels, into the output of a convolution.

    y[filter, pixel] = activation( bias + residual + sum over d of  w[filter, d] * m[d, pixel] )

Either side may lie in the lanes of the vectors. *Filters in lanes*: a register tile is some pixels
by vectors of filters; the numbers of a pixel lie together (channels last). *Pixels in lanes*: it is
some filters by vectors of pixels; each of the ``depth`` rows of the matrix is a run of pixels
(channels first), and the output needs no transposing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.algorithm import BIAS, WEIGHTS
from convsmith.conv.geometry import Geometry
from convsmith.conv.output import load_bias, put
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.emit import Code, Value
from convsmith.kernel.matrix import Parts
from convsmith.kernel.moving import transpose
from convsmith.kernel.tile import Tile

__all__ = ["Product"]


class Product:
    """One product, cut into register tiles.

    Args:
        spec: The convolution.
        depth: Terms of every sum, of one group.
        rows: Rows of a register tile, at most.
        vectors: Vectors of a register tile, at most.
        lanes: Vector width.
        pixels_in_lanes: Which side is in the lanes.
    """

    def __init__(
        self,
        spec: ConvSpec,
        *,
        depth: int,
        rows: int,
        vectors: int,
        lanes: int,
        pixels_in_lanes: bool,
    ) -> None:
        self.spec, self.g, self.lanes, self.depth = spec, Geometry.of(spec), lanes, depth
        self.pixels_in_lanes = pixels_in_lanes
        self.plane = math.prod(self.g.output)
        self._rows, self._vectors = rows, vectors
        side = self.g.filters
        self.weights = (
            Parts.of(side, most=rows)
            if pixels_in_lanes
            else Parts.of(-(-side // lanes), most=vectors)
        )

    def pixels(self, count: int) -> Parts:
        """Returns how ``count`` pixels are cut into tiles: in pixels, or in vectors of them."""
        if self.pixels_in_lanes:
            return Parts.of(-(-count // self.lanes), most=self._vectors)
        return Parts.of(count, most=self._rows)

    def pack(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Lays weights out as the tiles read them, one part behind the other, group by group.

        Args:
            weights: (groups, filters of a group, depth).
        """
        groups, filters, depth = weights.shape
        unit = 1 if self.pixels_in_lanes else self.lanes
        full = np.zeros((groups, self.weights.total * unit, depth), np.float32)
        full[:, :filters] = weights
        cuts = [self.weights.start(i) * unit for i in range(self.weights.count + 1)]
        parts = [
            np.swapaxes(full[group, low:high], 0, 1).reshape(-1)
            for group in range(groups)
            for low, high in pairwise(cuts)
        ]
        return np.concatenate(parts)

    def write(
        self,
        code: Code,
        *,
        image: Value,
        group: Value,
        weights: tuple[int | Value, int | Value],
        parts: Parts,
        pixels: tuple[int | Value, int | Value],
        operand: Callable[[Value], Value],
        pitch: int | None,
        origin: Value,
        total: int,
    ) -> None:
        """Writes the product of some parts of the weights with some parts of the pixels.

        The weights' loop is the outer one: each of their parts comes once, and stays near while
        all pixels pass by.

        Args:
            code: Where to write.
            image: The image of the output.
            group: The group of filters.
            weights: The first part of the weights, and the one behind the last.
            parts: How the pixels are cut.
            pixels: The first part of them, and the one behind the last.
            operand: Returns the address of the pixels from a given one on (in vectors of them,
                if pixels are in lanes).
            pitch: Elements from pixel to pixel; with pixels in lanes from row to row of the
                matrix, or ``None`` if the vectors of a tile lie together.
            origin: The pixel of the output that the parts count from.
            total: How many pixels the parts cover: lanes behind them are neither read nor stored.
        """
        side = self.weights.total * (1 if self.pixels_in_lanes else self.lanes) * self.depth
        packed = code.pointer(WEIGHTS).at(group * side)

        def some_weights(first: Value, size: int) -> None:
            at = packed.at(first * (self.depth * (1 if self.pixels_in_lanes else self.lanes)))

            def some_pixels(pixel: Value, count: int, last: int | None = None) -> None:
                if self.pixels_in_lanes:
                    tile = Tile(code, size, count, self.lanes)
                    tile.accumulate(
                        at, range(size), operand(pixel), self.depth, left_step=size,
                        right_step=pitch, last=last if pitch else None,
                    )  # fmt: skip
                    position = origin + pixel * self.lanes
                    self._store_planes(code, tile, image, group, first, position, last)
                else:
                    tile = Tile(code, count, size, self.lanes)
                    offsets = [r * (pitch or self.depth) for r in range(count)]
                    tile.accumulate(operand(pixel), offsets, at, self.depth)
                    self.store_filters(code, tile, image, group, first * self.lanes, origin + pixel)

            ragged = total % self.lanes
            if not self.pixels_in_lanes or not ragged:
                parts.each(code, *pixels, some_pixels)
                return
            low, high = (edge if isinstance(edge, Value) else code.integer(edge) for edge in pixels)
            parts.each(code, low, code.smaller(high, parts.count - 1), some_pixels)
            with code.when(high.equals(parts.count)):
                some_pixels(code.integer(parts.start(parts.count - 1)), parts.short, ragged)

        self.weights.each(code, *weights, some_weights)

    # Storing --------------------------------------------------------------------------

    def _store_planes(
        self, code: Code, tile: Tile, image: Value, group: Value, first: Value, pixel: Value,
        last: int | None,
    ) -> None:  # fmt: skip
        """Stores filters of vectors of pixels into the filters' planes."""
        g, lanes = self.g, self.lanes
        filter_ = group * g.filters + first
        start = (image * (g.groups * g.filters) + filter_) * self.plane + pixel
        counts = [lanes] * (tile.vectors - 1) + [lanes if last is None else last]
        for r, row in enumerate(tile.sums):
            bias = None
            if self.spec.bias:
                bias = code.splat(code.pointer(BIAS).load(1, filter_ + r), lanes)
            for v, (total, count) in enumerate(zip(row, counts, strict=True)):
                value = total.get() if bias is None else total.get() + bias
                put(code, self.spec, value, start + (r * self.plane + v * lanes), count, lanes)

    def store_filters(
        self, code: Code, tile: Tile, image: Value, group: Value, first: Value, pixel: Value
    ) -> None:
        """Stores pixels of vectors of filters, in the output's layout."""
        g, lanes = self.g, self.lanes
        filter_ = group * g.filters + first
        left = code.integer(g.filters) - first
        ragged = g.filters % lanes != 0
        biases = [
            load_bias(code, self.spec, filter_ + v * lanes, lanes) for v in range(tile.vectors)
        ]

        def biased(v: int, value: Value) -> Value:
            bias = biases[v]
            return value if bias is None else value + bias

        if self.spec.layout == "channels_last":
            every = g.groups * g.filters
            start = (image * self.plane + pixel) * every + filter_
            for r, row in enumerate(tile.sums):
                for v, total in enumerate(row):
                    last = ragged and v == tile.vectors - 1
                    count = left - v * lanes if last else lanes
                    at = start + (r * every + v * lanes)
                    put(code, self.spec, biased(v, total.get()), at, count, lanes)
            return
        start = (image * (g.groups * g.filters) + filter_) * self.plane + pixel
        for v in range(tile.vectors):
            for low in range(0, tile.rows, lanes):
                rows = [biased(v, row[v].get()) for row in tile.sums[low : low + lanes]]
                for f, value in enumerate(transpose(code, rows, lanes)):
                    at = start + ((v * lanes + f) * self.plane + low)
                    if ragged and v == tile.vectors - 1:
                        with code.when(left > v * lanes + f):
                            put(code, self.spec, value, at, len(rows), lanes)
                    else:
                        put(code, self.spec, value, at, len(rows), lanes)
