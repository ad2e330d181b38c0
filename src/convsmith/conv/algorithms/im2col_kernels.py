"""The compiled form of im2col: writing a block of the patch matrix, multiplying it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.algorithm import WORKSPACE, X
from convsmith.conv.algorithms.product_kernels import Product
from convsmith.conv.geometry import Geometry
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.emit import Code, Unit, Value
from convsmith.kernel.matrix import Parts, odd_pitch
from convsmith.kernel.moving import copy, load_spaced, zero
from convsmith.kernel.target import Target

if TYPE_CHECKING:
    from convsmith.conv.algorithms.im2col import Im2colTiling

__all__ = ["Im2colKernels"]


class Im2colKernels:
    """Everything about one compiled form.

    Channels first, the matrix is [channel][tap][pixel]; channels last, [pixel][tap][channel].
    """

    def __init__(self, spec: ConvSpec, target: Target, tiling: Im2colTiling) -> None:
        self.spec, self.tiling, self.lanes = spec, tiling, target.lanes
        self.g = g = Geometry.of(spec)
        self.flat = spec.layout == "channels_first"
        self.taps = math.prod(g.kernel)
        self.depth = g.channels * self.taps
        self.product = Product(
            spec, depth=self.depth, rows=tiling.rows, vectors=tiling.vectors, lanes=self.lanes,
            pixels_in_lanes=self.flat,
        )  # fmt: skip
        self.blocks = Parts(g.rows if tiling.by_rows else g.columns, tiling.blocks)
        self.weight_blocks = Parts(self.product.weights.count, tiling.weight_blocks)
        most = self.blocks.longest * (g.columns if tiling.by_rows else 1)  # pixels
        self.pitch = odd_pitch(most if self.flat else self.depth, self.lanes)
        self.matrix = -(-(self.depth if self.flat else most) * self.pitch // 64) * 64
        self.planes = g.output[0] * (1 if tiling.by_rows else g.rows)

    # Around the kernel ----------------------------------------------------------------

    def pack(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Returns the weights as the tiles read them, in the matrix's order of terms."""
        shaped = weights.reshape(self.g.groups, self.g.filters, self.g.channels, self.taps)
        if not self.flat:
            shaped = np.swapaxes(shaped, 2, 3)
        return self.product.pack(shaped.reshape(self.g.groups, self.g.filters, self.depth))

    def workspace(self, batch: int, threads: int) -> int:
        """Returns a block of the matrix per thread."""
        return threads * self.matrix

    def phases(self, batch: int) -> list[tuple[str, int]]:
        """Returns the one phase."""
        blocks = batch * self.g.groups * self.planes * self.tiling.blocks
        return [("compute", blocks * self.tiling.weight_blocks)]

    def write(self, unit: Unit) -> None:
        """Writes the kernel."""
        t, g = self.tiling, self.g
        with unit.kernel("compute") as code:
            chunk, item = code.item % t.weight_blocks, code.item // t.weight_blocks
            block, item = item % t.blocks, item // t.blocks
            plane, item = item % self.planes, item // self.planes
            group, image = item % g.groups, item // g.groups
            matrix = code.pointer(WORKSPACE).at(code.worker * self.matrix)
            if t.by_rows:
                depth, row = plane, code.integer(0)
            else:
                depth, row = plane // g.rows, plane % g.rows

            def some(start: Value, size: int) -> None:
                if t.by_rows:
                    place = (depth, start, code.integer(0))
                    rows, columns = size, g.columns
                else:
                    place, rows, columns = (depth, row, start), 1, size
                source = code.pointer(X).at(self._start(image, group))
                if self.flat:
                    self._planes(code, source, place, rows, columns, matrix)
                else:
                    self._pixels(code, source, place, rows, columns, matrix)
                self._multiply(code, image, group, chunk, place, rows * columns, matrix)

            self.blocks.each(code, block, block + 1, some)

    def _start(self, image: Value, group: Value) -> Value:
        """Returns where the channels of a group of an image start."""
        g = self.g
        elements = math.prod(g.size)
        start = image * (elements * g.groups * g.channels)
        return start + group * (g.channels * (elements if self.flat else 1))

    # Writing the matrix ---------------------------------------------------------------

    def _rows(self, code: Code, place: tuple[Value, Value, Value], z: Value, y: Value, r: Value,
              ) -> tuple[Value, Value]:  # fmt: skip
        """Returns the row of the input that a tap of an output row reads, and if there is one."""
        g = self.g
        deep = place[0] * g.stride[0] + z * g.dilation[0] - g.before[0]
        down = (place[1] + r) * g.stride[1] + y * g.dilation[1] - g.before[1]
        inside = (deep >= 0) & (deep < g.size[0]) & (down >= 0) & (down < g.size[1])
        return deep * g.size[1] + down, inside

    def _planes(
        self, code: Code, source: Value, place: tuple[Value, Value, Value], rows: int,
        columns: int, matrix: Value,
    ) -> None:  # fmt: skip
        """Writes one run of pixels per channel, tap and output row."""
        g, lanes = self.g, self.lanes
        step, size = g.stride[2], g.size[2]
        for x in code.range(g.kernel[2]):
            # Outputs that this tap sees inside of the input: from low on, wide of them.
            shift = code.integer(g.before[2]) - x * g.dilation[2]
            low = (code.larger(shift, 0) + (step - 1)) // step - place[2]
            high = code.larger(shift + (size - 1 + step), 0) // step - place[2]
            low = code.smaller(code.larger(low, 0), columns)
            high = code.smaller(code.larger(high, low), columns)
            first = (low + place[2]) * step - shift
            for c in code.range(g.channels):
                for z in code.range(g.kernel[0]):
                    for y in code.range(g.kernel[1]):
                        tap = (z * g.kernel[1] + y) * g.kernel[2] + x
                        to = matrix.at((c * self.taps + tap) * self.pitch)
                        for r in code.range(rows):
                            row, inside = self._rows(code, place, z, y, r)
                            out = to.at(r * columns)
                            with code.when(inside):
                                zero(code, out, low, lanes)
                                at = source.at((c * (g.size[0] * g.size[1]) + row) * size + first)
                                self._spaced(code, at, out.at(low), high - low)
                                zero(code, out.at(high), code.integer(columns) - high, lanes)
                            with code.unless(inside):
                                zero(code, out, columns, lanes)

    def _spaced(self, code: Code, source: Value, place: Value, count: Value) -> None:
        """Copies elements that lie a stride apart."""
        lanes, step = self.lanes, self.g.stride[2]
        if step == 1:
            copy(code, source, place, count, lanes)
            return
        whole = count // lanes * lanes
        for i in code.range(0, whole, lanes):
            place.store(load_spaced(code, source, lanes, lanes, step, i), i)
        for i in code.range(whole, count):
            place.store(source.load(1, i * step), i)

    def _pixels(
        self, code: Code, source: Value, place: tuple[Value, Value, Value], rows: int,
        columns: int, matrix: Value,
    ) -> None:  # fmt: skip
        """Writes the channels of one tap of one pixel at a time."""
        g, lanes = self.g, self.lanes
        every = g.groups * g.channels
        for r in code.range(rows):
            for z in code.range(g.kernel[0]):
                for y in code.range(g.kernel[1]):
                    row, inside = self._rows(code, place, z, y, r)
                    for column in code.range(columns):
                        for x in code.range(g.kernel[2]):
                            across = (place[2] + column) * g.stride[2] + x * g.dilation[2]
                            across = across - g.before[2]
                            tap = (z * g.kernel[1] + y) * g.kernel[2] + x
                            out = matrix.at((r * columns + column) * self.pitch + tap * g.channels)
                            there = inside & (across >= 0) & (across < g.size[2])
                            with code.when(there):
                                at = source.at((row * g.size[2] + across) * every)
                                copy(code, at, out, g.channels, lanes)
                            with code.unless(there):
                                zero(code, out, g.channels, lanes)

    # Multiplying ----------------------------------------------------------------------

    def _multiply(
        self, code: Code, image: Value, group: Value, chunk: Value,
        place: tuple[Value, Value, Value], pixels: int, matrix: Value,
    ) -> None:  # fmt: skip
        g = self.g
        parts = self.product.pixels(pixels)
        step = self.lanes if self.flat else self.pitch
        self.product.write(
            code, image=image, group=group,
            weights=(
                self.weight_blocks.start_of(code, chunk),
                self.weight_blocks.start_of(code, chunk + 1),
            ),
            parts=parts, pixels=(0, parts.count), operand=lambda pixel: matrix.at(pixel * step),
            pitch=self.pitch,
            origin=(place[0] * g.rows + place[1]) * g.columns + place[2], total=pixels,
        )  # fmt: skip
