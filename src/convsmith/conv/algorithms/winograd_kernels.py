"""The compiled form of Winograd's algorithm: gather, transform, multiply, transform back, store."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.algorithm import BATCH, OUTPUT, WEIGHTS, WORKSPACE
from convsmith.conv.geometry import Geometry
from convsmith.conv.lines import gather_line, scatter_line
from convsmith.conv.output import load_bias, put
from convsmith.conv.spec import ConvSpec
from convsmith.conv.toom_cook import Transform, transform
from convsmith.kernel.emit import Code, Unit, Value
from convsmith.kernel.matrix import odd_pitch
from convsmith.kernel.target import Target
from convsmith.kernel.tile import Tile
from convsmith.kernel.transforms import multiply

if TYPE_CHECKING:
    from convsmith.conv.algorithms.winograd import WinogradTiling

__all__ = ["WinogradKernels", "transforms_of"]

_STRAIGHT: Final = 36  # transforms of more elements are loops over a buffer
_PACKED: Final = 1 << 21  # float64 elements of transformed weights that are made at a time

_Matrix = Sequence[Sequence[Fraction]]
Index = int | Value
_Store = Callable[[Index, Index, Value], None]


@dataclass(frozen=True, slots=True)
class _Grid:
    """Vectors in memory by row and column."""

    base: Value
    row: Index  # elements from one row to the next
    column: Index  # elements from one column to the next
    lanes: int

    def load(self, i: Index, j: Index) -> Value:
        return self.base.at(self._offset(i, j)).load(self.lanes)

    def store(self, i: Index, j: Index, value: Value) -> None:
        self.base.at(self._offset(i, j)).store(value)

    def _offset(self, i: Index, j: Index) -> Index:
        return j * self.column + i * self.row


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a block lies."""

    image: Value
    group: Value
    row: Value  # of tiles, the first
    column: Value


def transforms_of(g: Geometry, m: tuple[int, int]) -> tuple[Transform, Transform]:
    """Returns the transforms of rows and columns for tiles of m outputs."""
    down, across = (
        transform(size, taps, stride=stride)
        for size, taps, stride in zip(m, g.kernel[1:], g.stride[1:], strict=True)
    )
    return down, across


class WinogradKernels:
    """Everything about one compiled form."""

    def __init__(self, spec: ConvSpec, target: Target, tiling: WinogradTiling) -> None:
        self.spec, self.tiling, self.lanes = spec, tiling, target.lanes
        self.g = g = Geometry.of(spec)
        self.ty, self.tx = transforms_of(g, tiling.m)
        self.elements = self.ty.alpha * self.tx.alpha
        self.high, self.wide = -(-g.rows // self.ty.m), -(-g.columns // self.tx.m)
        self.blocks = (-(-self.high // tiling.rows), -(-self.wide // tiling.columns))
        self.tiles = tiling.rows * tiling.columns
        self.deep = -(-g.channels // self.lanes) * self.lanes
        self.width = tiling.vectors * self.lanes
        self.all_panels = -(-g.filters // self.width)
        self.patch_columns = (tiling.columns - 1) * self.tx.step + self.tx.extent
        self.line = odd_pitch(self.patch_columns * tiling.chunk, 16)
        gathered = 1 if tiling.staged else tiling.rows
        self.patch = _round(((gathered - 1) * self.ty.step + self.ty.extent) * self.line)
        # Rows of pixels are read in groups of `lanes`, the last one past the end.
        self.strip = _round((self.ty.m * tiling.columns * self.tx.m + self.lanes) * self.lanes)
        # From one element of the transformed tiles, and of the products, to the next.
        # Tiles at multiples of 2048 bytes would push each other out of the nearest cache.
        self.pixel = self.deep if 4 * self.deep % 2048 else odd_pitch(self.deep, 16)
        self.element_in = odd_pitch(self.tiles * self.pixel, 16)
        self.element_out = odd_pitch(self.tiles * self.width, 16)
        self.transformed = self.elements * self.element_in  # of one block
        self.products = self.elements * self.element_out  # of one block and panel
        # Elements that are multiplied by the same weights share them.
        self.stored = self.ty.distinct * self.tx.distinct
        self.weights = self.all_panels * self.stored * g.channels * self.width  # of one group
        # Pixels of an output that is not in the cache; a line of planes would not be worth it.
        large = 4 * spec.filters * g.rows * g.columns > target.level2
        self.asks = large and spec.layout == "channels_last"

    # Around the kernels ---------------------------------------------------------------

    def pack(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Returns G w G^T, made in float64.

        Laid out in the order of their use, as [group][panel][element][channel][filter of the
        panel], or [group][element][panel]... if staged.
        """
        g, taps = self.g, self.ty.r * self.tx.r
        gy, gx = (np.array(t.filters[: t.distinct], dtype=np.float64) for t in (self.ty, self.tx))
        both = np.kron(gy, gx)
        w = weights.reshape(g.groups, g.filters, g.channels, taps)
        packed = np.empty(
            (g.groups, self.all_panels, self.stored, g.channels, self.width), np.float32
        )
        some = max(1, _PACKED // (self.stored * self.width))
        for group, panel in np.ndindex(g.groups, self.all_panels):
            first = panel * self.width
            part = w[group, first : first + self.width].astype(np.float64)
            full = np.zeros((taps, g.channels, self.width))
            full[:, :, : len(part)] = part.transpose(2, 1, 0)
            for channel in range(0, g.channels, some):
                chosen = full[:, channel : channel + some]
                made = both @ chosen.reshape(taps, -1)
                packed[group, panel, :, channel : channel + some] = made.reshape(
                    self.stored, -1, self.width
                )
        if self.tiling.staged:
            packed = np.ascontiguousarray(packed.swapaxes(1, 2))
        return packed.reshape(-1)

    def workspace(self, batch: int, threads: int) -> int:
        """Returns what threads use for themselves, and what stands between phases."""
        if self.tiling.staged:
            blocks = batch * self.g.groups * math.prod(self.blocks)
            shared = blocks * (self.transformed + self.all_panels * self.products)
            return shared + threads * (self.patch + self.strip)
        return threads * (self.patch + self.strip + self.transformed + self.products)

    def phases(self, batch: int) -> list[tuple[str, int]]:
        """Returns the one phase, or the three."""
        t = self.tiling
        blocks = batch * self.g.groups * math.prod(self.blocks)
        if not t.staged:
            return [("compute", blocks)]
        return [
            ("transform", blocks * t.rows * (self.deep // t.chunk)),
            ("multiply", self.g.groups * -(-self.all_panels // t.panels) * self.elements),
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

    def _place(self, code: Code, block: Value) -> _Place:
        down, across = self.blocks
        of = block // (down * across)
        return _Place(
            of // self.g.groups,
            of % self.g.groups,
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
        at = self._place(code, code.item)
        for channel in code.range(0, self.deep, t.chunk):
            self._gather(code, at, at.row, channel, patch, t.rows)
            for r in code.range(t.rows):
                self._transform_row(
                    code, patch.at(r * (self.ty.step * self.line)),
                    transformed.at(r * (t.columns * self.pixel) + channel),
                )  # fmt: skip
        for panel in code.range(self.all_panels):
            weights = code.pointer(WEIGHTS).at(
                at.group * self.weights + panel * (self.stored * self.g.channels * self.width)
            )
            for element in code.range(self.elements):
                if self.asks:
                    self._ask_for_output(code, at, panel, element)
                self._multiply(
                    code, transformed.at(element * self.element_in),
                    weights.at(self._stored(code, element) * (self.g.channels * self.width)),
                    products.at(element * self.element_out),
                )  # fmt: skip
            for r in code.range(code.smaller(code.integer(self.high) - at.row, t.rows)):
                self._restore_row(code, products, panel, at, r, strip)

    def _ask_for_output(self, code: Code, at: _Place, panel: Value, element: Value) -> None:
        """Asks for a share of the cache lines that the block's outputs of one panel will fill."""
        g, t = self.g, self.tiling
        columns = min(t.columns * self.tx.m, g.columns)
        share = -(-min(t.rows * self.ty.m, g.rows) * columns // self.elements)
        first = at.group * g.filters + panel * self.width
        corner = (at.image * g.rows + at.row * self.ty.m) * g.columns + at.column * self.tx.m
        for i in code.range(share):
            index = element * share + i
            pixel = corner + index // columns * g.columns + index % columns
            place = code.pointer(OUTPUT).at(pixel * self.spec.filters + first)
            for line in range(0, self.width, 16):
                place.prefetch(line, write=True)

    # Staged ---------------------------------------------------------------------------

    def _shared(self, code: Code) -> tuple[Value, Value, Value]:
        """Returns the transformed tiles, the products, and a thread's own memory."""
        blocks = code.word(BATCH) * (self.g.groups * math.prod(self.blocks))
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
        place = self._place(code, block)
        base, _, patch = self._shared(code)
        self._gather(code, place, place.row + r, channel, patch, 1)
        to = base.at(block * self.transformed + r * (t.columns * self.pixel) + channel)
        self._transform_row(code, patch, to)

    def _multiply_item(self, code: Code) -> None:
        """Multiplies one element of all images with some panels, each of which is read once."""
        t, groups = self.tiling, self.g.groups
        element = code.item % self.elements
        chunks = -(-self.all_panels // t.panels)
        first = code.item // self.elements % chunks * t.panels
        group = code.item // (self.elements * chunks)
        base, products, _ = self._shared(code)
        left = base.at(element * self.element_in)
        place = products.at(element * self.element_out)
        weights = code.pointer(WEIGHTS).at(group * self.weights)
        for panel in code.range(first, code.smaller(first + t.panels, self.all_panels)):
            which = self._stored(code, element) * self.all_panels + panel
            matrix = weights.at(which * (self.g.channels * self.width))
            for image in code.range(code.word(BATCH)):
                block = image * groups + group
                self._multiply(
                    code, left.at(block * self.transformed), matrix,
                    place.at((block * self.all_panels + panel) * self.products),
                )  # fmt: skip

    def _restore_item(self, code: Code) -> None:
        t = self.tiling
        panel = code.item % self.all_panels
        r = code.item // self.all_panels % t.rows
        block = code.item // (self.all_panels * t.rows)
        place = self._place(code, block)
        _, products, own = self._shared(code)
        mine = products.at((block * self.all_panels + panel) * self.products)
        self._restore_row(code, mine, panel, place, r, own.at(self.patch))

    # Gathering ------------------------------------------------------------------------

    def _gather(
        self, code: Code, at: _Place, row: Value, channel: Value, patch: Value, rows: int
    ) -> None:
        """Copies what ``rows`` tile rows of a block read: zeros outside the input."""
        g, t = self.g, self.tiling
        alone = self.blocks[1] == 1
        left: Index = -g.before[2] if alone else at.column * self.tx.step - g.before[2]
        for line in code.range((rows - 1) * self.ty.step + self.ty.extent):
            gather_line(
                code, self.spec, patch.at(line * self.line), image=at.image,
                row=row * self.ty.step - g.before[1] + line, left=left, width=self.patch_columns,
                channel=at.group * g.channels + channel,
                channels=g.channels if t.chunk == self.deep else t.chunk,
                pitch=t.chunk, lanes=self.lanes,
            )  # fmt: skip

    # Transforms -----------------------------------------------------------------------

    def _transform_row(self, code: Code, patch: Value, transformed: Value) -> None:
        """Transforms one row of tiles, ``chunk`` channels deep."""
        t, lanes = self.tiling, self.lanes
        buffer = code.local(self.elements * lanes) if self.elements > _STRAIGHT else None
        down, across = self.tx.alpha * self.element_in, self.element_in
        for tile in code.range(t.columns):
            for channel in code.range(0, t.chunk, lanes):
                place = transformed.at(tile * self.pixel + channel)

                def store(i: Index, j: Index, value: Value, place: Value = place) -> None:
                    place.at(i * down + j * across).store(value)

                source = patch.at(tile * (self.tx.step * t.chunk) + channel)
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

    def _stored(self, code: Code, element: Value) -> Value:
        """Returns which of the stored weights an element is multiplied by."""
        if self.stored == self.elements:
            return element
        row = code.smaller(element // self.tx.alpha, self.ty.distinct - 1)
        return row * self.tx.distinct + code.smaller(element % self.tx.alpha, self.tx.distinct - 1)

    def _multiply(self, code: Code, left: Value, weights: Value, products: Value) -> None:
        """Multiplies one element of all tiles of a block with one panel of filters."""
        t = self.tiling

        def some(first: Value | int, height: int) -> None:
            tile = Tile(code, height, t.vectors, self.lanes)
            offsets = [r * self.pixel for r in range(height)]
            tile.accumulate(left.at(first * self.pixel), offsets, weights, self.g.channels)
            place = products.at(first * self.width)
            tile.finish(lambda r, v, value: place.store(value, r * self.width + v * self.lanes))

        whole = self.tiles // t.height * t.height
        for first in code.range(0, whole, t.height):
            some(first, t.height)
        if self.tiles > whole:
            some(whole, self.tiles - whole)

    # Back -----------------------------------------------------------------------------

    def _restore_row(
        self, code: Code, products: Value, panel: Value, at: _Place, r: Value, strip: Value
    ) -> None:
        """Transforms one row of tiles back for one panel of filters, and stores it."""
        g, t, lanes = self.g, self.tiling, self.lanes
        y = (at.row + r) * self.ty.m
        buffer = (
            code.local(self.ty.m * self.tx.alpha * lanes) if self.elements > _STRAIGHT else None
        )
        edge = _Grid(code.local(self.ty.m * self.tx.m * lanes), self.tx.m * lanes, lanes, lanes)
        tiles = code.smaller(code.integer(self.wide) - at.column, t.columns)

        def restore(tile: Value, v: Value, store: _Store) -> None:
            """Hands the outputs of a tile with their bias to ``store``."""
            bias = load_bias(code, self.spec, self._first(at, panel, v), lanes)
            source = products.at((r * t.columns + tile) * self.width + v * lanes)
            sums = _Grid(source, self.tx.alpha * self.element_out, self.element_out, lanes)

            def biased(i: Index, j: Index, value: Value) -> None:
                store(i, j, value if bias is None else value + bias)

            self._both_axes(code, self.ty.outputs, self.tx.outputs, sums, biased, buffer)

        def row_of_planes(v: Value) -> None:
            for tile in code.range(tiles):
                place = strip.at(tile * (self.tx.m * lanes))
                grid = _Grid(place, t.columns * self.tx.m * lanes, lanes, lanes)
                restore(tile, v, grid.store)
            self._scatter(code, at, y, panel, v, strip)

        def pixels(tile: Value, v: Value) -> None:
            first, x = self._first(at, panel, v), (at.column + tile) * self.tx.m
            count = g.filters - panel * self.width - v * lanes if g.filters % lanes else lanes
            corner = ((at.image * g.rows + y) * g.columns + x) * self.spec.filters + first

            def store(i: Index, j: Index, value: Value) -> None:
                to = corner + (i * (g.columns * self.spec.filters) + j * self.spec.filters)
                put(code, self.spec, value, to, count, lanes)

            if g.rows % self.ty.m == 0 and g.columns % self.tx.m == 0:
                restore(tile, v, store)
                return
            inside = (y + self.ty.m <= g.rows) & (x + self.tx.m <= g.columns)
            with code.when(inside):
                restore(tile, v, store)
            with code.unless(inside):
                restore(tile, v, edge.store)
                for i in code.range(code.smaller(code.integer(g.rows) - y, self.ty.m)):
                    for j in code.range(code.smaller(code.integer(g.columns) - x, self.tx.m)):
                        store(i, j, edge.load(i, j))

        vectors = code.integer(t.vectors)
        if g.filters % self.width:
            rest = code.integer(-(-g.filters // lanes)) - panel * t.vectors
            vectors = code.smaller(rest, t.vectors)
        if self.spec.layout == "channels_first":
            for v in code.range(vectors):
                row_of_planes(v)
            return
        for tile in code.range(tiles):
            for v in code.range(vectors):
                pixels(tile, v)

    def _first(self, at: _Place, panel: Value, v: Value) -> Value:
        """Returns the filter that the first lane of a panel's vector belongs to."""
        return at.group * self.g.filters + panel * self.width + v * self.lanes

    def _scatter(
        self, code: Code, at: _Place, y: Value, panel: Value, v: Value, strip: Value
    ) -> None:
        """Writes a strip of pixels of one vector of filters into the filters' planes."""
        g, t, lanes = self.g, self.tiling, self.lanes
        width = t.columns * self.tx.m
        x = at.column * self.tx.m
        alone = self.blocks[1] == 1
        columns: Index = g.columns if alone else code.smaller(code.integer(g.columns) - x, width)
        left = g.filters - panel * self.width - v * lanes
        for line in code.range(code.smaller(code.integer(g.rows) - y, self.ty.m)):
            scatter_line(
                code, self.spec, strip.at(line * (width * lanes)), image=at.image, row=y + line,
                column=x, width=columns, first=self._first(at, panel, v),
                filters=left if g.filters % lanes else lanes, lanes=lanes,
            )  # fmt: skip


def _round(elements: int) -> int:
    """Whole cache lines."""
    return -(-elements // 16) * 16
