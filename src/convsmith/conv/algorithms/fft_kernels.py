"""The compiled form of convolution by Fourier transforms: gather, transform, multiply, back, store.

The n_y n_x numbers of the spectrum of a real tile are n_y n_x / 2 *slots*, each a complex number or
two real ones (*special*). With two axes, rows are transformed first. Their frequencies 0 and n_x/2
are real, so these two columns have packed spectra themselves: slots 0 and 1 are their real
frequencies, the slots of their complex frequencies follow, then n_y slots for each other column.
With one axis, slot 0 is special.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.algorithm import BATCH, WEIGHTS, WORKSPACE
from convsmith.conv.geometry import Geometry
from convsmith.conv.lines import gather_line, scatter_line
from convsmith.conv.output import load_bias, put
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.complex_tile import ComplexTile
from convsmith.kernel.emit import Code, Unit, Value
from convsmith.kernel.fourier import (
    Ends,
    Places,
    complex_dft,
    complex_inverse,
    real_dft,
    real_inverse,
)
from convsmith.kernel.target import Target

if TYPE_CHECKING:
    from convsmith.conv.algorithms.fft import FftTiling

__all__ = ["FftKernels"]

_FILTERS: Final = 16  # filters transformed together when weights are packed: bounds the memory

_Store = Callable[[int, Value], None]


class FftKernels:
    """Everything about one compiled form."""

    def __init__(self, spec: ConvSpec, target: Target, tiling: FftTiling) -> None:
        self.spec, self.tiling, self.lanes = spec, tiling, target.lanes
        self.g = g = Geometry.of(spec)
        t = tiling
        self.slots = t.size[0] * t.size[1] // 2
        self.special = 2 if min(t.size) > 1 else 1
        self.inner = max(t.size[0] // 2 - 1, 0)  # complex frequencies of a real column
        self.high, self.wide = -(-g.rows // t.m[0]), -(-g.columns // t.m[1])
        self.blocks = (-(-self.high // t.rows), -(-self.wide // t.columns))
        self.tiles = t.rows * t.columns
        self.deep = -(-spec.channels // self.lanes) * self.lanes
        self.width = t.vectors * self.lanes
        self.group_panels = -(-g.filters // self.width)
        self.all_panels = g.groups * self.group_panels
        self.patch_columns = (t.columns - 1) * t.m[1] + t.size[1]
        self.line = self.patch_columns * t.chunk
        gathered = 1 if t.staged else t.rows
        self.patch = _round(((gathered - 1) * t.m[0] + t.size[0]) * self.line)
        self.buffer = _round(t.size[0] * t.size[1] * self.lanes)
        planes = spec.layout == "channels_first"
        self.strip_line = (t.columns if planes else 1) * t.m[1] * self.lanes
        self.strip = _round(t.m[0] * self.strip_line + self.lanes * self.lanes)
        self.own = self.patch + self.buffer + self.strip
        # An odd number of cache lines: the stores of a transform go to different sets.
        self.left_slot = _round(self.tiles * 2 * self.deep) + 16
        self.sum_slot = _round(self.tiles * 2 * self.width) + 16
        self.transformed = self.slots * self.left_slot  # of one block
        self.products = self.slots * self.sum_slot  # of one block and panel
        self.panel = self.slots * g.channels * 2 * self.width  # weights of one panel

    # Around the kernels ---------------------------------------------------------------

    def pack(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Returns spectra of the kernels as [panel][slot][channel][re, im][filter of the panel]."""
        g = self.g
        packed = np.zeros(
            (g.groups, self.group_panels, self.slots, g.channels, 2, self.width), np.float32
        )
        w = weights.reshape(g.groups, g.filters, g.channels, g.kernel[1], g.kernel[2])
        for group in range(g.groups):
            for first in range(0, g.filters, _FILTERS):
                some = self.tiling.spectrum(self.spec, w[group, first : first + _FILTERS])
                for k, one in enumerate(some.astype(np.float32), first):
                    panel, lane = divmod(k, self.width)
                    packed[group, panel, :, :, :, lane] = one.transpose(1, 0, 2)
        return packed.reshape(-1)

    def workspace(self, batch: int, threads: int) -> int:
        """Returns what threads use for themselves, and what stands between phases."""
        if self.tiling.staged:
            return batch * (self.transformed + self.all_panels * self.products) + threads * self.own
        return threads * (self.own + self.transformed + self.products)

    def phases(self, batch: int) -> list[tuple[str, int]]:
        """Returns the one phase, or the three."""
        t = self.tiling
        if not t.staged:
            return [("compute", batch * math.prod(self.blocks))]
        return [
            ("transform", batch * t.rows * (self.deep // t.chunk)),
            ("multiply", self.slots * -(-self.all_panels // t.panels)),
            ("restore", batch * t.rows * self.all_panels),
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

    # Fused ----------------------------------------------------------------------------

    def _compute(self, code: Code) -> None:
        t = self.tiling
        own = code.pointer(WORKSPACE).at(
            code.worker * (self.own + self.transformed + self.products)
        )
        transformed = own.at(self.own)
        products = transformed.at(self.transformed)
        down, across = self.blocks
        image = code.item // (down * across)
        row = code.item // across % down * t.rows
        column = code.item % across * t.columns
        for channel in code.range(0, self.deep, t.chunk):
            self._gather(code, image, row, column, channel, own, t.rows)
            for r in code.range(t.rows):
                self._transform_row(
                    code, own.at(r * (t.m[0] * self.line)), own.at(self.patch),
                    transformed.at(r * (t.columns * 2 * self.deep) + channel),
                )  # fmt: skip
        for panel in code.range(self.all_panels):
            weights = code.pointer(WEIGHTS).at(panel * self.panel)
            left = transformed.at(panel // self.group_panels * self.g.channels)
            self._multiply_slots(code, code.integer(0), self.slots, left, weights, products)
            for r in code.range(code.smaller(code.integer(self.high) - row, t.rows)):
                self._restore_row(code, products, panel, image, row + r, r, column, own)

    def _multiply_slots(
        self, code: Code, first: Value, last: int, left: Value, weights: Value, products: Value
    ) -> None:
        """Multiplies all slots, the special ones first."""
        for real, slots in (
            (True, code.range(first, self.special)), (False, code.range(self.special, last)),
        ):  # fmt: skip
            for slot in slots:
                self._multiply(
                    code, left.at(slot * self.left_slot),
                    weights.at(slot * (self.g.channels * 2 * self.width)),
                    products.at(slot * self.sum_slot), real=real,
                )  # fmt: skip

    # Staged ---------------------------------------------------------------------------

    def _shared(self, code: Code) -> tuple[Value, Value, Value]:
        """Returns the transformed tiles, the products, and a thread's own memory."""
        batch, base = code.word(BATCH), code.pointer(WORKSPACE)
        products = base.at(batch * self.transformed)
        own = products.at(batch * (self.all_panels * self.products))
        return base, products, own.at(code.worker * self.own)

    def _transform_item(self, code: Code) -> None:
        t = self.tiling
        chunks = self.deep // t.chunk
        channel = code.item % chunks * t.chunk
        r = code.item // chunks % t.rows
        image = code.item // (chunks * t.rows)
        base, _, own = self._shared(code)
        self._gather(code, image, r, code.integer(0), channel, own, 1)
        at = base.at(image * self.transformed + r * (t.columns * 2 * self.deep) + channel)
        self._transform_row(code, own, own.at(self.patch), at)

    def _multiply_item(self, code: Code) -> None:
        t = self.tiling
        slot = code.item % self.slots
        first = code.item // self.slots * t.panels
        base, products, _ = self._shared(code)
        left, place = base.at(slot * self.left_slot), products.at(slot * self.sum_slot)

        def multiply(*, real: bool) -> None:
            for panel in code.range(first, code.smaller(first + t.panels, self.all_panels)):
                weights = code.pointer(WEIGHTS).at(
                    panel * self.panel + slot * (self.g.channels * 2 * self.width)
                )
                group = panel // self.group_panels * self.g.channels
                for image in code.range(code.word(BATCH)):
                    self._multiply(
                        code, left.at(image * self.transformed + group), weights,
                        place.at((image * self.all_panels + panel) * self.products), real=real,
                    )  # fmt: skip

        special = slot < self.special
        with code.when(special):
            multiply(real=True)
        with code.unless(special):
            multiply(real=False)

    def _restore_item(self, code: Code) -> None:
        t = self.tiling
        panel = code.item % self.all_panels
        r = code.item // self.all_panels % t.rows
        image = code.item // (self.all_panels * t.rows)
        _, products, own = self._shared(code)
        mine = products.at((image * self.all_panels + panel) * self.products)
        self._restore_row(code, mine, panel, image, r, r, code.integer(0), own)

    # Forward --------------------------------------------------------------------------

    def _gather(
        self, code: Code, image: Value, row: Value, column: Value, channel: Value, patch: Value,
        rows: int,
    ) -> None:  # fmt: skip
        """Copies what ``rows`` tile rows of a block read."""
        g, t = self.g, self.tiling
        channels = self.spec.channels if t.chunk == self.deep else t.chunk
        left: int | Value = column * t.m[1] - g.before[2] if self.blocks[1] > 1 else -g.before[2]
        for line in code.range((rows - 1) * t.m[0] + t.size[0]):
            gather_line(
                code, self.spec, patch.at(line * self.line), image=image,
                row=row * t.m[0] - g.before[1] + line, left=left, width=self.patch_columns,
                channel=channel, channels=channels, pitch=t.chunk, lanes=self.lanes,
            )  # fmt: skip

    def _transform_row(self, code: Code, patch: Value, buffer: Value, transformed: Value) -> None:
        """Transforms one row of tiles, ``chunk`` channels deep."""
        t = self.tiling
        for tile in code.range(t.columns):
            for channel in code.range(0, t.chunk, self.lanes):
                source = patch.at(tile * (t.m[1] * t.chunk) + channel)
                self._forward(
                    code, source, buffer, transformed.at(tile * (2 * self.deep) + channel)
                )

    def _forward(self, code: Code, source: Value, buffer: Value, place: Value) -> None:
        """Transforms one tile of one vector of channels."""
        t, lanes = self.tiling, self.lanes
        down, across = t.size

        def slots(first: int | Value) -> Places:
            return Places(place.at(first * self.left_slot), lanes, self.left_slot, self.deep)

        if min(t.size) == 1:
            pixels = Places(source, lanes, t.chunk if down == 1 else self.line)
            real_dft(max(t.size)).emit(code, pixels.load, slots(0).store)
            return
        for row in code.range(down):
            pixels = Places(source.at(row * self.line), lanes, t.chunk)
            spectrum = Places(buffer.at(row * (across * lanes)), lanes, lanes)
            real_dft(across).emit(code, pixels.load, spectrum.store)
        for j in code.range(2):
            ends = Ends(slots(j), slots(2 + j * self.inner))
            real_dft(down).emit(code, self._column(buffer, j).load, ends.store)
        for k in code.range(1, across // 2):
            to = slots((k - 1) * down + (2 + 2 * self.inner))
            complex_dft(down).emit(code, self._column(buffer, k, parts=True).load, to.store)

    def _column(self, buffer: Value, k: Value, *, parts: bool = False) -> Places:
        """Returns the column of a buffer of one real frequency, 0 or 1, or of a complex one."""
        lanes = self.lanes
        at = buffer.at(k * (2 * lanes if parts else lanes))
        return Places(at, lanes, self.tiling.size[1] * lanes, lanes if parts else 0)

    # Products -------------------------------------------------------------------------

    def _multiply(
        self, code: Code, left: Value, weights: Value, products: Value, *, real: bool
    ) -> None:
        """Multiplies one slot of all tiles of a block with one panel of filters."""
        t = self.tiling

        def some(first: Value | int, height: int) -> None:
            tile = ComplexTile(code, height, t.vectors, self.lanes)
            offsets = [r * 2 * self.deep for r in range(height)]
            tile.accumulate(
                left.at(first * (2 * self.deep)), offsets, self.deep, weights, self.g.channels,
                real=real,
            )  # fmt: skip
            place = products.at(first * (2 * self.width))
            tile.finish(
                lambda r, v, part, value: place.store(
                    value, (2 * r + part) * self.width + v * self.lanes
                )
            )

        whole = self.tiles // t.height * t.height
        for first in code.range(0, whole, t.height):
            some(first, t.height)
        if self.tiles > whole:
            some(whole, self.tiles - whole)

    # Back -----------------------------------------------------------------------------

    def _restore_row(
        self, code: Code, products: Value, panel: Value, image: Value, row: Value, r: Value,
        column: Value, own: Value,
    ) -> None:  # fmt: skip
        """Transforms one row of tiles back for one panel of filters, and stores it."""
        g, t, lanes = self.g, self.tiling, self.lanes
        buffer, strip = own.at(self.patch), own.at(self.patch + self.buffer)
        inner = panel % self.group_panels * self.width
        group = panel // self.group_panels * g.filters
        planes = self.spec.layout == "channels_first"
        rows = code.smaller(code.integer(g.rows) - row * t.m[0], t.m[0])
        across = column * t.m[1]
        tiles = code.smaller(code.integer(self.wide) - column, t.columns)
        for v in range(t.vectors):
            first = group + inner + v * lanes
            left = code.integer(g.filters) - inner - v * lanes
            filters: int | Value = left if g.filters % self.width else lanes
            bias = load_bias(code, self.spec, first, lanes)

            def scatter(line: Value, y: Value, x: Value, width: int | Value,
                        filters: int | Value = filters, first: Value = first) -> None:  # fmt: skip
                scatter_line(
                    code, self.spec, line, image=image, row=y, column=x, width=width, first=first,
                    filters=filters, lanes=lanes,
                )  # fmt: skip

            def vector(bias: Value | None = bias, first: Value = first, v: int = v,
                       filters: int | Value = filters) -> None:  # fmt: skip
                for tile in code.range(tiles):
                    source = products.at((r * t.columns + tile) * (2 * self.width) + v * lanes)
                    self._inverse_columns(code, source, buffer)
                    x = across + tile * t.m[1]
                    for line in code.range(rows):
                        y = row * t.m[0] + line
                        start = ((image * g.rows + y) * g.columns + x) * self.spec.filters + first
                        direct = not planes and g.columns % t.m[1] == 0
                        to = strip.at(
                            line * self.strip_line
                            + (tile * (t.m[1] * lanes) if planes else code.integer(0))
                        )

                        def store(i: int, value: Value, start: Value = start, to: Value = to,
                                  direct: bool = direct) -> None:  # fmt: skip
                            value = value if bias is None else value + bias
                            if direct:
                                at = start + i * self.spec.filters
                                put(code, self.spec, value, at, filters, lanes)
                            else:
                                to.store(value, i * lanes)

                        self._inverse_row(code, source, buffer, line, store)
                        if not planes and not direct:
                            width = code.smaller(code.integer(g.columns) - x, t.m[1])
                            scatter(to, y, x, width)
                if planes:
                    whole = self.blocks[1] == 1
                    width = code.smaller(code.integer(g.columns) - across, t.columns * t.m[1])
                    for line in code.range(rows):
                        scatter(
                            strip.at(line * self.strip_line), row * t.m[0] + line, across,
                            g.columns if whole else width,
                        )  # fmt: skip

            if isinstance(filters, Value):
                with code.when(filters > 0):
                    vector()
            else:
                vector()

    def _inverse_columns(self, code: Code, source: Value, buffer: Value) -> None:
        """Transforms the columns of one tile of one vector of filters back, those rows it needs."""
        t, lanes = self.tiling, self.lanes
        down, across = t.size
        if down == 1:
            return
        if across == 1:
            to = Places(buffer, lanes, lanes)
            real_inverse(down, t.m[0]).emit(code, self._sums(source, 0).load, to.store)
            return
        for j in code.range(2):
            ends = Ends(self._sums(source, j), self._sums(source, 2 + j * self.inner))
            real_inverse(down, t.m[0]).emit(code, ends.load, self._column(buffer, j).store)
        for k in code.range(1, across // 2):
            sums = self._sums(source, (k - 1) * down + (2 + 2 * self.inner))
            to = self._column(buffer, k, parts=True)
            complex_inverse(down, t.m[0]).emit(code, sums.load, to.store)

    def _sums(self, source: Value, first: int | Value) -> Places:
        return Places(source.at(first * self.sum_slot), self.lanes, self.sum_slot, self.width)

    def _inverse_row(
        self, code: Code, source: Value, buffer: Value, line: Value, store: _Store
    ) -> None:
        """Transforms one row of a tile back; the rows' columns are in the buffer already."""
        t, lanes = self.tiling, self.lanes
        down, across = t.size
        if across == 1:
            store(0, buffer.load(lanes, line * lanes))
            return
        row = Places(buffer.at(line * (across * lanes)), lanes, lanes)
        made = row if down > 1 else self._sums(source, 0)
        real_inverse(across, t.m[1]).emit(code, made.load, store)


def _round(elements: int) -> int:
    """An even number of cache lines."""
    return -(-elements // 32) * 32
