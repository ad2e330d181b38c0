"""The compiled form of Winograd's algorithm: gather, transform, multiply, transform back, store."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, TypeVar

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
    from convsmith.conv.algorithms.winograd_tiling import WinogradTiling

__all__ = ["Grid", "WinogradKernels", "transforms_of"]

_STRAIGHT: Final = 36  # transforms of more elements are loops over a buffer
_PACKED: Final = 1 << 21  # float64 elements of transformed weights that are made at a time

_Matrix = Sequence[Sequence[Fraction]]
Index = int | Value
_Count = TypeVar("_Count", int, Value)
_Store = Callable[[Index, Index, Value], None]


@dataclass(frozen=True, slots=True)
class Grid:
    """Vectors in memory by row and column."""

    base: Value
    row: Index  # elements from one row to the next
    column: Index  # elements from one column to the next
    lanes: int

    def load(self, i: Index, j: Index) -> Value:
        """Returns the vector of a row and a column."""
        return self.base.at(self._offset(i, j)).load(self.lanes)

    def store(self, i: Index, j: Index, value: Value) -> None:
        """Stores the vector of a row and a column."""
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


def transforms_of(
    g: Geometry, m: tuple[int, int], *, plain_filters: bool = False
) -> tuple[Transform, Transform]:
    """Returns the transforms of rows and columns for tiles of m outputs."""
    down, across = (
        transform(size, taps, stride=stride, plain_filters=plain_filters)
        for size, taps, stride in zip(m, g.kernel[1:], g.stride[1:], strict=True)
    )
    return down, across


class WinogradKernels:
    """Everything about one compiled form."""

    def __init__(self, spec: ConvSpec, target: Target, tiling: WinogradTiling) -> None:
        self.spec, self.tiling, self.lanes = spec, tiling, target.lanes
        self.g = g = Geometry.of(spec)
        self.ty, self.tx = transforms_of(g, tiling.m, plain_filters=tiling.on_the_way)
        self.elements = self.ty.alpha * self.tx.alpha
        self.high, self.wide = -(-g.rows // self.ty.m), -(-g.columns // self.tx.m)
        self.blocks = (-(-self.high // tiling.rows), -(-self.wide // tiling.columns))
        self.tiles = tiling.rows * tiling.columns
        self.deep = -(-g.channels // self.lanes) * self.lanes
        self.width = tiling.vectors * self.lanes
        self.all_panels = -(-g.filters // self.width)
        self.patch_columns = (tiling.columns - 1) * self.tx.step + self.tx.extent
        self.line = odd_pitch(self.patch_columns * tiling.chunk, 16)
        gathered = tiling.rows if tiling.schedule == "fused" else 1
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
        # What stands between the phases, per block, and what threads use for themselves.
        self.shared, self.own = 0, self.patch + self.strip
        if tiling.schedule == "staged":
            self.shared = self.transformed + self.all_panels * self.products
        else:
            self.own += self.transformed + self.products
        # Pixels of an output that is not in the cache; a line of planes would not be worth it.
        large = 4 * spec.filters * g.rows * g.columns > target.level2
        self.asks = large and spec.layout == "channels_last"

    # Around the kernels ---------------------------------------------------------------

    def pack(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Returns G w G^T, made in float64.

        Laid out in the order of their use, as [group][panel][element][channel][filter of the
        panel], or [group][element][panel]... if staged.
        """
        g = self.g
        w = weights.reshape(g.groups, g.filters, g.channels, -1)
        packed = np.empty(
            (g.groups, self.all_panels, self.stored, g.channels, self.width), np.float32
        )
        for group, panel in np.ndindex(g.groups, self.all_panels):
            first = panel * self.width
            self._pack_panel(w[group, first : first + self.width], packed[group, panel])
        if self.tiling.schedule == "staged":
            packed = np.ascontiguousarray(packed.swapaxes(1, 2))
        return packed.reshape(-1)

    def _pack_panel(self, weights: NDArray[Any], packed: NDArray[Any]) -> None:
        """Transforms the weights [filter][channel][tap] of one panel, in float64.

        They go to [element][channel][filter], with zeros for filters that the panel lacks.
        """
        filters, channels, taps = weights.shape
        gy, gx = (np.array(t.filters[: t.distinct], dtype=np.float64) for t in (self.ty, self.tx))
        both = np.kron(gy, gx)
        full = np.zeros((taps, channels, self.width))
        full[:, :, :filters] = weights.transpose(2, 1, 0)
        some = max(1, _PACKED // (self.stored * self.width))
        for channel in range(0, channels, some):
            chosen = full[:, channel : channel + some]
            made = both @ chosen.reshape(taps, -1)
            packed[:, channel : channel + some] = made.reshape(self.stored, -1, self.width)

    def workspace(self, batch: int, threads: int) -> int:
        """Returns what threads use for themselves, and what stands between phases."""
        return self._blocks(batch) * self.shared + threads * self.own

    @property
    def functions(self) -> tuple[str, ...]:
        """The kernels' names, in order."""
        return tuple(name for name, _ in self.phases(1))

    @property
    def choices(self) -> str:
        """What the size of the caches decides about the code, beside the tiling."""
        return str(self.asks)

    def phases(self, batch: int) -> list[tuple[str, int]]:
        """Returns the one phase, or the three."""
        t = self.tiling
        blocks = self._blocks(batch)
        if t.schedule == "fused":
            return [("compute", blocks)]
        return [
            ("transform", blocks * t.rows * (self.deep // t.chunk)),
            ("multiply", self.g.groups * -(-self.all_panels // t.panels) * self.elements),
            ("restore", blocks * t.rows * self.all_panels),
        ]

    def write(self, unit: Unit) -> None:
        """Writes the kernels."""
        if self.tiling.schedule == "fused":
            with unit.kernel("compute") as code:
                self._compute(code)
            return
        with unit.kernel("transform") as code:
            self._transform_item(code)
        with unit.kernel("multiply") as code:
            self._multiply_item(code)
        with unit.kernel("restore") as code:
            self._restore_item(code)

    def _blocks(self, batch: _Count) -> _Count:
        """Returns how many blocks some images have."""
        return batch * (self.g.groups * math.prod(self.blocks))

    def _place(self, code: Code, block: Value) -> _Place:
        down, across = self.blocks
        of = block // (down * across)
        return _Place(
            of // self.g.groups,
            of % self.g.groups,
            block // across % down * self.tiling.rows,
            block % across * self.tiling.columns,
        )

    def _own(self, code: Code) -> Value:
        """Returns a thread's own memory: a patch, a strip and more."""
        between = self._blocks(code.word(BATCH)) * self.shared if self.shared else 0
        return code.pointer(WORKSPACE).at(code.worker * self.own + between)

    # Fused ----------------------------------------------------------------------------

    def _compute(self, code: Code) -> None:
        t = self.tiling
        patch = self._own(code)
        strip = patch.at(self.patch)
        transformed = strip.at(self.strip)
        products = transformed.at(self.transformed)
        at = self._place(code, code.item)
        for channel in code.range(0, self.deep, t.chunk):
            self._gather(code, at, at.row, channel, patch, t.rows)
            for r in code.range(t.rows):
                self._transform_row(
                    code, patch.at(r * (self.ty.step * self.line)),
                    transformed.at(r * (t.columns * self.pixel)), channel,
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
                    products.at(element * self.element_out), channels=self.g.channels,
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

    def _transform_item(self, code: Code) -> None:
        t = self.tiling
        chunks = self.deep // t.chunk
        channel = code.item % chunks * t.chunk
        r = code.item // chunks % t.rows
        block = code.item // (chunks * t.rows)
        place = self._place(code, block)
        patch = self._own(code)
        self._gather(code, place, place.row + r, channel, patch, 1)
        to = code.pointer(WORKSPACE).at(block * self.transformed + r * (t.columns * self.pixel))
        self._transform_row(code, patch, to, channel)

    def _multiply_item(self, code: Code) -> None:
        """Multiplies one element of all images with some panels, each of which is read once."""
        t, groups = self.tiling, self.g.groups
        element = code.item % self.elements
        chunks = -(-self.all_panels // t.panels)
        first = code.item // self.elements % chunks * t.panels
        group = code.item // (self.elements * chunks)
        left = code.pointer(WORKSPACE).at(element * self.element_in)
        place = self._between(code).at(element * self.element_out)
        weights = code.pointer(WEIGHTS).at(group * self.weights)
        for panel in code.range(first, code.smaller(first + t.panels, self.all_panels)):
            which = self._stored(code, element) * self.all_panels + panel
            matrix = weights.at(which * (self.g.channels * self.width))
            for image in code.range(code.word(BATCH)):
                block = image * groups + group
                self._multiply(
                    code, left.at(block * self.transformed), matrix,
                    place.at((block * self.all_panels + panel) * self.products),
                    channels=self.g.channels,
                )  # fmt: skip

    def _restore_item(self, code: Code) -> None:
        t = self.tiling
        panel = code.item % self.all_panels
        r = code.item // self.all_panels % t.rows
        block = code.item // (self.all_panels * t.rows)
        place = self._place(code, block)
        mine = self._between(code).at((block * self.all_panels + panel) * self.products)
        self._restore_row(code, mine, panel, place, r, self._own(code).at(self.patch))

    def _between(self, code: Code) -> Value:
        """Returns the products of all blocks and panels."""
        blocks = self._blocks(code.word(BATCH))
        return code.pointer(WORKSPACE).at(blocks * self.transformed)

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

    def _depth(self, channel: Value) -> Value:
        """Returns where a channel of the transformed tiles lies."""
        return channel

    def _transform_row(self, code: Code, patch: Value, transformed: Value, first: Value) -> None:
        """Transforms one row of tiles, ``chunk`` channels deep from ``first`` on."""
        t, lanes = self.tiling, self.lanes
        buffer = code.local(self.elements * lanes) if self.elements > _STRAIGHT else None
        down, across = self.tx.alpha * self.element_in, self.element_in
        for tile in code.range(t.columns):
            for channel in code.range(0, t.chunk, lanes):
                place = transformed.at(tile * self.pixel + self._depth(first + channel))

                def store(i: Index, j: Index, value: Value, place: Value = place) -> None:
                    place.at(i * down + j * across).store(value)

                source = patch.at(tile * (self.tx.step * t.chunk) + channel)
                tile_of = Grid(source, self.line, t.chunk, lanes)
                self._both_axes(code, self.ty.inputs, self.tx.inputs, tile_of, store, buffer)

    def _both_axes(
        self, code: Code, down: _Matrix, across: _Matrix, tile: Grid, store: _Store,
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
        half = Grid(buffer, width * lanes, lanes, lanes)
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

    def _multiply(
        self, code: Code, left: Value, weights: Value, products: Value, *,
        channels: int, adding: bool = False,
    ) -> None:  # fmt: skip
        """Multiplies one element of all tiles of a block with one panel of filters.

        Args:
            code: Where to write.
            left: The element of the transformed tiles.
            weights: That of the panel's transformed weights.
            products: Where the sums go.
            channels: How many are summed up.
            adding: Whether to add them, summed up, to the sums that are there.
        """
        t = self.tiling

        def some(first: Value | int, height: int) -> None:
            place = products.at(first * self.width)
            tile = Tile(code, height, t.vectors, self.lanes)
            offsets = [r * self.pixel for r in range(height)]
            tile.accumulate(left.at(first * self.pixel), offsets, weights, channels)

            def store(r: int, v: int, value: Value) -> None:
                at = r * self.width + v * self.lanes
                place.store(place.load(self.lanes, at) + value if adding else value, at)

            tile.finish(store)

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
        edge = Grid(code.local(self.ty.m * self.tx.m * lanes), self.tx.m * lanes, lanes, lanes)
        tiles = code.smaller(code.integer(self.wide) - at.column, t.columns)

        def restore(tile: Value, v: Value, store: _Store) -> None:
            """Hands the outputs of a tile with their bias to ``store``."""
            bias = load_bias(code, self.spec, self._first(at, panel, v), lanes)
            source = products.at((r * t.columns + tile) * self.width + v * lanes)
            sums = Grid(source, self.tx.alpha * self.element_out, self.element_out, lanes)

            def biased(i: Index, j: Index, value: Value) -> None:
                store(i, j, value if bias is None else value + bias)

            self._both_axes(code, self.ty.outputs, self.tx.outputs, sums, biased, buffer)

        def row_of_planes(v: Value) -> None:
            for tile in code.range(tiles):
                place = strip.at(tile * (self.tx.m * lanes))
                grid = Grid(place, t.columns * self.tx.m * lanes, lanes, lanes)
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
