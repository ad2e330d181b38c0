"""The compiled form of Winograd's algorithm: gather, transform, multiply, transform back, store."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.algorithm import BATCH, WEIGHTS, WORKSPACE, X
from convsmith.conv.geometry import Geometry
from convsmith.conv.output import load_bias, put
from convsmith.conv.spec import ConvSpec
from convsmith.conv.toom_cook import transform
from convsmith.kernel.emit import Code, Unit, Value
from convsmith.kernel.moving import gather_row_first, gather_row_last, transpose, zero
from convsmith.kernel.target import Target
from convsmith.kernel.tile import Tile
from convsmith.kernel.transforms import multiply

if TYPE_CHECKING:
    from convsmith.conv.algorithms.winograd import WinogradTiling

__all__ = ["WinogradKernels"]

_STRAIGHT: Final = 36  # transforms of more elements are loops over a buffer

_Matrix = Sequence[Sequence[Fraction]]
Index = int | Value
_Store = Callable[[Index, Index, Value], None]


@dataclass(frozen=True, slots=True)
class _Grid:
    """Vectors in memory by row and column."""

    base: Value
    row: int  # elements from one row to the next
    column: int  # elements from one column to the next
    lanes: int

    def load(self, i: Index, j: Index) -> Value:
        return self.base.at(j * self.column + i * self.row).load(self.lanes)

    def store(self, i: Index, j: Index, value: Value) -> None:
        self.base.at(j * self.column + i * self.row).store(value)


class WinogradKernels:
    """Everything about one compiled form."""

    def __init__(self, spec: ConvSpec, target: Target, tiling: WinogradTiling) -> None:
        self.spec, self.tiling, self.lanes = spec, tiling, target.lanes
        self.g = g = Geometry.of(spec)
        self.ty = transform(tiling.m[0], g.kernel[1])
        self.tx = transform(tiling.m[1], g.kernel[2])
        self.elements = self.ty.alpha * self.tx.alpha
        self.high, self.wide = -(-g.rows // self.ty.m), -(-g.columns // self.tx.m)
        self.blocks = (-(-self.high // tiling.rows), -(-self.wide // tiling.columns))
        self.tiles = tiling.rows * tiling.columns
        self.deep = -(-g.channels // self.lanes) * self.lanes
        self.width = tiling.vectors * self.lanes
        self.all_panels = -(-g.filters // self.width)
        self.patch_columns = (tiling.columns - 1) * self.tx.m + self.tx.alpha
        self.line = self.patch_columns * tiling.chunk
        gathered = 1 if tiling.staged else tiling.rows
        self.patch = _round(((gathered - 1) * self.ty.m + self.ty.alpha) * self.line)
        # Rows of pixels are read in groups of `lanes`, the last one past the end.
        self.strip = _round((self.ty.m * tiling.columns * self.tx.m + self.lanes) * self.lanes)
        self.transformed = _round(self.elements * self.tiles * self.deep)  # of one block
        self.products = _round(self.elements * self.tiles * self.width)  # of one block and panel

    # Around the kernels ---------------------------------------------------------------

    def pack(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Returns G g G^T, made in float64, as [panel][element][channel][filter of the panel]."""
        g = self.g
        gy, gx = (np.array(t.filters, dtype=np.float64) for t in (self.ty, self.tx))
        w = weights.reshape(g.filters, g.channels, self.ty.r, self.tx.r).astype(np.float64)
        u = np.einsum("ay,kcyx,bx->abck", gy, w, gx, optimize=True)
        u = u.reshape(self.elements, g.channels, g.filters)
        full = np.zeros((self.elements, g.channels, self.all_panels * self.width), np.float32)
        full[:, :, : g.filters] = u
        shaped = full.reshape(self.elements, g.channels, self.all_panels, self.width)
        return np.ascontiguousarray(shaped.transpose(2, 0, 1, 3)).reshape(-1)

    def workspace(self, batch: int, threads: int) -> int:
        """Returns what threads use for themselves, and what stands between phases."""
        if self.tiling.staged:
            blocks = batch * math.prod(self.blocks)
            shared = blocks * (self.transformed + self.all_panels * self.products)
            return shared + threads * (self.patch + self.strip)
        return threads * (self.patch + self.strip + self.transformed + self.products)

    def phases(self, batch: int) -> list[tuple[str, int]]:
        """Returns the one phase, or the three."""
        t = self.tiling
        blocks = batch * math.prod(self.blocks)
        if not t.staged:
            return [("compute", blocks)]
        return [
            ("transform", blocks * t.rows * (self.deep // t.chunk)),
            ("multiply", blocks * -(-self.all_panels // t.panels) * self.elements),
            ("restore", blocks * t.rows * self.all_panels),
        ]

    def write(self, unit: Unit) -> None:
        """Writes the kernels."""
        if not self.tiling.staged:
            with unit.kernel("compute") as code:
                self._compute(code)
            return
        with unit.kernel("transform") as code:
            self._transform_item(code)
        with unit.kernel("multiply") as code:
            self._multiply_item(code)
        with unit.kernel("restore") as code:
            self._restore_item(code)

    def _place(self, code: Code, block: Value) -> tuple[Value, Value, Value]:
        """Returns the image of a block, and its first tile row and column."""
        down, across = self.blocks
        image = block // (down * across)
        return (
            image,
            block // across % down * self.tiling.rows,
            block % across * self.tiling.columns,
        )

    # Fused ----------------------------------------------------------------------------

    def _compute(self, code: Code) -> None:
        t = self.tiling
        own = self.patch + self.strip + self.transformed + self.products
        patch = code.pointer(WORKSPACE).at(code.worker * own)
        strip = patch.at(self.patch)
        transformed = strip.at(self.strip)
        products = transformed.at(self.transformed)
        image, row, column = self._place(code, code.item)
        for channel in code.range(0, self.deep, t.chunk):
            self._gather(code, image, row, column, channel, patch, t.rows)
            for r in code.range(t.rows):
                self._transform_row(
                    code, patch.at(r * (self.ty.m * self.line)),
                    transformed.at(r * (t.columns * self.deep) + channel),
                )  # fmt: skip
        for panel in code.range(self.all_panels):
            weights = code.pointer(WEIGHTS).at(
                panel * (self.elements * self.g.channels * self.width)
            )
            for element in code.range(self.elements):
                self._multiply(
                    code, transformed.at(element * (self.tiles * self.deep)),
                    weights.at(element * (self.g.channels * self.width)),
                    products.at(element * (self.tiles * self.width)),
                )  # fmt: skip
            for r in code.range(code.smaller(code.integer(self.high) - row, t.rows)):
                self._restore_row(code, products, panel, image, row, r, column, strip)

    # Staged ---------------------------------------------------------------------------

    def _shared(self, code: Code) -> tuple[Value, Value, Value]:
        """Returns the transformed tiles, the products, and a thread's own memory."""
        blocks = code.word(BATCH) * math.prod(self.blocks)
        base = code.pointer(WORKSPACE)
        products = base.at(blocks * self.transformed)
        own = products.at(blocks * (self.all_panels * self.products))
        return base, products, own.at(code.worker * (self.patch + self.strip))

    def _transform_item(self, code: Code) -> None:
        t = self.tiling
        chunks = self.deep // t.chunk
        channel = code.item % chunks * t.chunk
        r = code.item // chunks % t.rows
        block = code.item // (chunks * t.rows)
        image, row, column = self._place(code, block)
        base, _, patch = self._shared(code)
        self._gather(code, image, row + r, column, channel, patch, 1)
        at = base.at(block * self.transformed + r * (t.columns * self.deep) + channel)
        self._transform_row(code, patch, at)

    def _multiply_item(self, code: Code) -> None:
        t = self.tiling
        element = code.item % self.elements
        chunks = -(-self.all_panels // t.panels)
        first = code.item // self.elements % chunks * t.panels
        block = code.item // (self.elements * chunks)
        base, products, _ = self._shared(code)
        left = base.at(block * self.transformed + element * (self.tiles * self.deep))
        place = products.at(element * (self.tiles * self.width))
        weights = code.pointer(WEIGHTS)
        for panel in code.range(first, code.smaller(first + t.panels, self.all_panels)):
            self._multiply(
                code,
                left,
                weights.at((panel * self.elements + element) * (self.g.channels * self.width)),
                place.at((block * self.all_panels + panel) * self.products),
            )

    def _restore_item(self, code: Code) -> None:
        t = self.tiling
        panel = code.item % self.all_panels
        r = code.item // self.all_panels % t.rows
        block = code.item // (self.all_panels * t.rows)
        image, row, column = self._place(code, block)
        _, products, own = self._shared(code)
        mine = products.at((block * self.all_panels + panel) * self.products)
        self._restore_row(code, mine, panel, image, row, r, column, own.at(self.patch))

    # Gathering ------------------------------------------------------------------------

    def _gather(
        self, code: Code, image: Value, row: Value, column: Value, channel: Value, patch: Value,
        rows: int,
    ) -> None:  # fmt: skip
        """Copies what ``rows`` tile rows of a block read: zeros outside the input."""
        g, t, lanes = self.g, self.tiling, self.lanes
        channels = g.channels if t.chunk == self.deep else t.chunk
        first_line = row * self.ty.m - g.before[1]
        if self.blocks[1] == 1:
            seen = max(0, min(g.size[2], self.patch_columns - g.before[2]))
            low: int | Value = g.before[2]
            width: int | Value = seen
            start: int | Value = 0
            after: int | Value = self.patch_columns - g.before[2] - seen
        else:
            left = column * self.tx.m - g.before[2]
            low = code.smaller(code.larger(-left, 0), self.patch_columns)
            start = code.larger(left, 0)
            high = code.smaller(code.integer(g.size[2]) - left, self.patch_columns)
            width = code.larger(high - low, 0)
            after = code.integer(self.patch_columns) - low - width
        for line in code.range((rows - 1) * self.ty.m + self.ty.alpha):
            y = first_line + line
            place = patch.at(line * self.line)
            inside = (y >= 0) & (y < g.size[1])
            with code.when(inside):
                zero(code, place, low * t.chunk, lanes)
                to = place.at(low * t.chunk)
                if self.spec.layout == "channels_last":
                    source = code.pointer(X).at(
                        ((image * g.size[1] + y) * g.size[2] + start) * g.channels + channel
                    )
                    gather_row_last(
                        code, source, to, width=width, channels=channels, pixel=g.channels,
                        pitch=t.chunk, lanes=lanes,
                    )  # fmt: skip
                else:
                    plane = g.size[1] * g.size[2]
                    source = code.pointer(X).at(
                        (image * g.channels + channel) * plane + y * g.size[2] + start
                    )
                    gather_row_first(
                        code, source, to, width=width, channels=channels, plane=plane,
                        pitch=t.chunk, lanes=lanes,
                    )  # fmt: skip
                zero(code, to.at(width * t.chunk), after * t.chunk, lanes)
            with code.unless(inside):
                zero(code, place, self.line, lanes)

    # Transforms -----------------------------------------------------------------------

    def _transform_row(self, code: Code, patch: Value, transformed: Value) -> None:
        """Transforms one row of tiles, ``chunk`` channels deep."""
        t, lanes = self.tiling, self.lanes
        buffer = code.local(self.elements * lanes) if self.elements > _STRAIGHT else None
        row, element = self.tx.alpha * self.tiles * self.deep, self.tiles * self.deep
        for tile in code.range(t.columns):
            for channel in code.range(0, t.chunk, lanes):
                place = transformed.at(tile * self.deep + channel)

                def store(i: Index, j: Index, value: Value, place: Value = place) -> None:
                    place.at(i * row + j * element).store(value)

                source = patch.at(tile * (self.tx.m * t.chunk) + channel)
                tile_of = _Grid(source, self.line, t.chunk, lanes)
                self._both_axes(code, self.ty.inputs, self.tx.inputs, tile_of, store, buffer)

    def _both_axes(
        self, code: Code, down: _Matrix, across: _Matrix, tile: _Grid, store: _Store,
        buffer: Value | None,
    ) -> None:  # fmt: skip
        """Computes down @ tile @ across^T for one tile of vectors."""
        lanes = self.lanes
        depth, width = len(down[0]), len(across[0])
        if buffer is None:
            columns = [
                multiply(code, down, [tile.load(i, j) for i in range(depth)]) for j in range(width)
            ]
            for i in range(len(down)):
                made = multiply(code, across, [column[i] for column in columns])
                for j, value in enumerate(made):
                    store(i, j, value)
            return
        half = _Grid(buffer, width * lanes, lanes, lanes)
        for column in code.range(width):
            made = multiply(code, down, [tile.load(i, column) for i in range(depth)])
            for i, value in enumerate(made):
                half.store(i, column, value)
        for row in code.range(len(down)):
            made = multiply(code, across, [half.load(row, j) for j in range(width)])
            for j, value in enumerate(made):
                store(row, j, value)

    # Products -------------------------------------------------------------------------

    def _multiply(self, code: Code, left: Value, weights: Value, products: Value) -> None:
        """Multiplies one element of all tiles of a block with one panel of filters."""
        t = self.tiling

        def some(first: Value | int, height: int) -> None:
            tile = Tile(code, height, t.vectors, self.lanes)
            offsets = [r * self.deep for r in range(height)]
            tile.accumulate(left.at(first * self.deep), offsets, weights, self.g.channels)
            place = products.at(first * self.width)
            tile.finish(lambda r, v, value: place.store(value, r * self.width + v * self.lanes))

        whole = self.tiles // t.height * t.height
        for first in code.range(0, whole, t.height):
            some(first, t.height)
        if self.tiles > whole:
            some(whole, self.tiles - whole)

    # Back -----------------------------------------------------------------------------

    def _restore_row(
        self, code: Code, products: Value, panel: Value, image: Value, row: Value, r: Value,
        column: Value, strip: Value,
    ) -> None:  # fmt: skip
        """Transforms one row of tiles back for one panel of filters, and stores it."""
        g, t, lanes = self.g, self.tiling, self.lanes
        y, x = (row + r) * self.ty.m, column * self.tx.m
        straight = self.elements <= _STRAIGHT
        buffer = None if straight else code.local(self.ty.m * self.tx.alpha * lanes)
        element = self.tiles * self.width
        pixels = _Grid(strip, t.columns * self.tx.m * lanes, lanes, lanes)
        planes = self.spec.layout == "channels_first"
        for v in range(t.vectors):
            first = panel * self.width + v * lanes
            filters = code.integer(g.filters) - first
            bias = load_bias(code, self.spec, first, lanes)
            for tile in code.range(code.smaller(code.integer(self.wide) - column, t.columns)):
                across = tile * self.tx.m

                def store(
                    i: Index, j: Index, value: Value, across: Value = across,
                    bias: Value | None = bias, first: Value = first, filters: Value = filters,
                ) -> None:  # fmt: skip
                    value = value if bias is None else value + bias
                    if planes:
                        pixels.store(i, across + j, value)
                    else:
                        self._store_pixel(code, image, y + i, x + across + j, first, filters, value)

                source = products.at((r * t.columns + tile) * self.width + v * lanes)
                sums = _Grid(source, self.tx.alpha * element, element, lanes)
                self._both_axes(code, self.ty.outputs, self.tx.outputs, sums, store, buffer)
            if planes:
                self._scatter(code, image, y, x, first, filters, strip)

    def _store_pixel(
        self, code: Code, image: Value, y: Value, x: Value, first: Value, filters: Value,
        value: Value,
    ) -> None:  # fmt: skip
        """Writes one vector of filters of one pixel, if the output has that pixel."""
        g, t = self.g, self.tiling
        conditions = []
        if g.rows != self.blocks[0] * t.rows * self.ty.m:
            conditions.append(y < g.rows)
        if g.columns != self.blocks[1] * t.columns * self.tx.m:
            conditions.append(x < g.columns)
        count = filters if g.filters % self.width else self.lanes
        at = ((image * g.rows + y) * g.columns + x) * g.filters + first
        if conditions:
            with code.when(conditions[0] & conditions[-1]):
                put(code, self.spec, value, at, count, self.lanes)
        else:
            put(code, self.spec, value, at, count, self.lanes)

    def _scatter(
        self, code: Code, image: Value, y: Value, x: Value, first: Value, filters: Value,
        strip: Value,
    ) -> None:  # fmt: skip
        """Writes a strip of pixels of one vector of filters into the filters' planes."""
        g, t, lanes = self.g, self.tiling, self.lanes
        width = t.columns * self.tx.m
        plane = g.rows * g.columns

        def group(line: Value, at: Value | int, count: int | Value) -> None:
            source = strip.at((line * width + at) * lanes)
            pixels = [source.load(lanes, i * lanes) for i in range(lanes)]
            start = (image * g.filters + first) * plane + (y + line) * g.columns + x + at
            for f, made in enumerate(transpose(code, pixels, lanes)):
                if g.filters % lanes:
                    with code.when(filters > f):
                        put(code, self.spec, made, start + f * plane, count, lanes)
                else:
                    put(code, self.spec, made, start + f * plane, count, lanes)

        def lines() -> None:
            for line in code.range(code.smaller(code.integer(g.rows) - y, self.ty.m)):
                if self.blocks[1] == 1:
                    whole = g.columns // lanes * lanes
                    for at in code.range(0, whole, lanes):
                        group(line, at, lanes)
                    if g.columns > whole:
                        group(line, whole, g.columns - whole)
                else:
                    columns = code.smaller(code.integer(g.columns) - x, width)
                    for at in code.range(0, columns, lanes):
                        group(line, at, columns - at)

        if g.filters % self.width:
            with code.when(filters > 0):
                lines()
        else:
            lines()


def _round(elements: int) -> int:
    """Whole cache lines."""
    return -(-elements // 16) * 16
