"""The compiled form of pointwise convolution: gathering the pixels, multiplying them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from convsmith.conv.algorithm import WORKSPACE, X
from convsmith.conv.algorithms.product_kernels import Product
from convsmith.conv.geometry import Geometry
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.emit import Code, Unit, Value
from convsmith.kernel.matrix import Parts, odd_pitch
from convsmith.kernel.moving import copy, gather_row_first, load_spaced
from convsmith.kernel.target import Target

if TYPE_CHECKING:
    from convsmith.conv.algorithms.pointwise import PointwiseTiling

__all__ = ["PointwiseKernels"]


class PointwiseKernels:
    """Everything about one compiled form."""

    def __init__(self, spec: ConvSpec, target: Target, tiling: PointwiseTiling) -> None:
        self.spec, self.tiling, self.lanes = spec, tiling, target.lanes
        self.g = g = Geometry.of(spec)
        self.flat = tiling.pixels_in_lanes
        self.product = Product(
            spec, depth=g.channels, rows=tiling.rows, vectors=tiling.vectors, lanes=self.lanes,
            pixels_in_lanes=self.flat,
        )  # fmt: skip
        self.plane = math.prod(g.output)  # pixels of the output
        self.every = g.groups * g.channels  # channels
        self.parts = self.product.pixels(self.plane)
        self.pixel_blocks = Parts(self.parts.count, tiling.pixel_blocks)
        self.weight_blocks = Parts(self.product.weights.count, tiling.weight_blocks)
        if tiling.way == "local":
            self.pitch = g.channels if self.flat else odd_pitch(g.channels, self.lanes)
        elif tiling.way == "staged":
            self.pitch = odd_pitch(self.plane if self.flat else self.every, self.lanes)
        else:
            self.pitch = self.plane if self.flat else self.every

    # Around the kernels ---------------------------------------------------------------

    def pack(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Returns the weights as the tiles read them."""
        return self.product.pack(weights.reshape(self.g.groups, self.g.filters, self.g.channels))

    def _local(self) -> int:
        """Elements of a thread's copy of its pixels, whole cache lines."""
        unit = self.lanes if self.flat else 1
        most = self.pixel_blocks.longest * self.parts.longest * unit * self.pitch
        return -(-most // 64) * 64

    def _staged(self) -> int:
        return (self.every if self.flat else self.plane) * self.pitch

    def workspace(self, batch: int, threads: int) -> int:
        """Returns a copy of the input, or one block of it per thread, or nothing."""
        if self.tiling.way == "staged":
            return batch * self._staged()
        return threads * self._local() if self.tiling.way == "local" else 0

    def phases(self, batch: int) -> list[tuple[str, int]]:
        """Returns the gathering, if it is a phase, and the product."""
        items = batch * self.g.groups * self.tiling.pixel_blocks * self.tiling.weight_blocks
        compute = ("compute", items)
        if self.tiling.way == "staged":
            return [("stage", batch * -(-self.every // self.lanes)), compute]
        return [compute]

    def write(self, unit: Unit) -> None:
        """Writes the kernels."""
        if self.tiling.way == "staged":
            with unit.kernel("stage") as code:
                self._stage(code)
        with unit.kernel("compute") as code:
            self._compute(code)

    # Gathering ------------------------------------------------------------------------

    def _stage(self, code: Code) -> None:
        """Copies one vector of channels of an image, the pixels that the output sees."""
        whole, left = divmod(self.every, self.lanes)
        chunks = whole + (left > 0)
        image, chunk = code.item // chunks, code.item % chunks
        target = code.pointer(WORKSPACE).at(image * self._staged())

        def some(count: int) -> None:
            first = chunk * self.lanes
            source = code.pointer(X).at((image * self.every + first) * math.prod(self.g.size))
            if self.flat:
                self._stage_planes(code, source, target.at(first * self.pitch), count)
            else:
                self._stage_pixels(code, source, target.at(first), count)

        if whole:
            with code.when(chunk < whole):
                some(self.lanes)
        if left:
            with code.when(chunk.equals(whole)):
                some(left)

    def _stage_planes(self, code: Code, source: Value, target: Value, channels: int) -> None:
        g, lanes = self.g, self.lanes
        for channel in code.range(channels):
            plane = source.at(channel * math.prod(g.size))
            place = target.at(channel * self.pitch)
            for z in code.range(g.output[0]):
                for y in code.range(g.rows):
                    row = plane.at((z * (g.stride[0] * g.size[1]) + y * g.stride[1]) * g.size[2])
                    to = place.at((z * g.rows + y) * g.columns)
                    whole = g.columns // lanes * lanes
                    for at in code.range(0, whole, lanes):
                        to.store(load_spaced(code, row, lanes, lanes, g.stride[2], at), at)
                    left = g.columns - whole
                    if left:
                        last = load_spaced(code, row, left, lanes, g.stride[2], whole)
                        to.store_first(last, left, whole)

    def _stage_pixels(self, code: Code, source: Value, target: Value, channels: int) -> None:
        """Transposes: the channels of a pixel come to lie together."""
        g = self.g
        if max(g.stride) == 1:
            runs, rows, width = 1, 1, self.plane
        else:
            runs, rows, width = g.output[0], g.rows, g.columns
        for z in code.range(runs):
            for y in code.range(rows):
                row = source.at((z * (g.stride[0] * g.size[1]) + y * g.stride[1]) * g.size[2])
                gather_row_first(
                    code, row, target.at((z * rows + y) * (width * self.pitch)), width=width,
                    channels=channels, plane=math.prod(g.size), pitch=self.pitch,
                    lanes=self.lanes, step=g.stride[2],
                )  # fmt: skip

    def _pack_panels(
        self, code: Code, image: Value, group: Value, first: Value, last: Value, place: Value
    ) -> None:
        """Lays vectors of pixels out, tile by tile, the vectors of a channel together."""
        g, lanes = self.g, self.lanes
        begin = self.parts.start_of(code, first)
        source = code.pointer(X).at((image * self.every + group * g.channels) * self.plane)

        def panel(start: Value, vectors: int, left: int = lanes) -> None:
            at = source.at(start * lanes)
            to = place.at((start - begin) * (lanes * g.channels))

            def channel(c: int | Value) -> None:
                row, out = at.at(c * self.plane), to.at(c * (vectors * lanes))
                for v in range(vectors):
                    count = lanes if v < vectors - 1 else left
                    out.store(row.load_first(count, lanes, v * lanes), v * lanes)

            whole = g.channels // 4 * 4
            for c in code.range(0, whole, 4):
                for u in range(4):
                    channel(c + u)
            for c in code.range(whole, g.channels):
                channel(c)

        parts, ragged = self.parts, self.plane % lanes
        if not ragged:
            parts.each(code, first, last, panel)
            return
        parts.each(code, first, code.smaller(last, parts.count - 1), panel)
        with code.when(last.equals(parts.count)):
            panel(code.integer(parts.start(parts.count - 1)), parts.short, ragged)

    def _copy_pixels(
        self, code: Code, image: Value, group: Value, first: Value, last: Value, place: Value
    ) -> None:
        """Copies the channels of one group, pixel by pixel."""
        g = self.g
        source = code.pointer(X).at(image * (math.prod(g.size) * self.every) + group * g.channels)
        begin, end = (self.parts.start_of(code, part) for part in (first, last))
        for pixel in code.range(begin, end):
            if max(g.stride) == 1:
                at = pixel
            else:
                column, rest = pixel % g.columns, pixel // g.columns
                row, depth = rest % g.rows, rest // g.rows
                line = depth * (g.stride[0] * g.size[1]) + row * g.stride[1]
                at = line * g.size[2] + column * g.stride[2]
            to = place.at((pixel - begin) * self.pitch)
            copy(code, source.at(at * self.every), to, g.channels, self.lanes)

    # Multiplying ----------------------------------------------------------------------

    def _compute(self, code: Code) -> None:
        t, g = self.tiling, self.g
        item = code.item
        chunk, item = item % t.weight_blocks, item // t.weight_blocks
        block, item = item % t.pixel_blocks, item // t.pixel_blocks
        group, image = item % g.groups, item // g.groups
        first, last = (self.pixel_blocks.start_of(code, block + i) for i in (0, 1))
        unit = self.lanes if self.flat else 1
        pitch: int | None = self.pitch
        if t.way == "local":
            own = code.pointer(WORKSPACE).at(code.worker * self._local())
            begin = self.parts.start_of(code, first)
            gather = self._pack_panels if self.flat else self._copy_pixels
            gather(code, image, group, first, last, own)
            base, step = own.at(begin * (-unit * self.pitch)), unit * self.pitch
            pitch = None if self.flat else self.pitch
        else:
            staged = t.way == "staged"
            source = code.pointer(WORKSPACE if staged else X)
            matrix = (self.every if self.flat else self.plane) * self.pitch
            base = source.at(
                image * matrix + group * (g.channels * (self.pitch if self.flat else 1))
            )
            step = unit if self.flat else self.pitch
        self.product.write(
            code, image=image, group=group,
            weights=(
                self.weight_blocks.start_of(code, chunk),
                self.weight_blocks.start_of(code, chunk + 1),
            ),
            parts=self.parts, pixels=(first, last), operand=lambda pixel: base.at(pixel * step),
            pitch=pitch, origin=code.integer(0), total=self.plane,
        )  # fmt: skip
