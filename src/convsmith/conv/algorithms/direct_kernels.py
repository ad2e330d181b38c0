"""The compiled form of direct convolution: patches with their padding, tiles of sums."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.algorithm import WEIGHTS, WORKSPACE, X
from convsmith.conv.geometry import Geometry
from convsmith.conv.output import load_bias, put
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.emit import Code, Unit, Value
from convsmith.kernel.matrix import odd_pitch
from convsmith.kernel.moving import gather_row_first, gather_row_last, transpose, zero
from convsmith.kernel.target import Target
from convsmith.kernel.tile import Tile

if TYPE_CHECKING:
    from convsmith.conv.algorithms.direct import DirectTiling

__all__ = ["DirectKernels"]


class DirectKernels:
    """Everything about one compiled form."""

    def __init__(
        self, spec: ConvSpec, target: Target, tiling: DirectTiling, *, in_place: bool
    ) -> None:
        self.spec = spec
        self.g = Geometry.of(spec)
        self.lanes = target.lanes
        self.tiling = tiling
        self.in_place = in_place
        self.stages = tiling.staged and not in_place
        self.width = tiling.vectors * self.lanes  # filters of a panel
        self.group_panels = -(-self.g.filters // self.width)
        self.all_panels = self.g.groups * self.group_panels
        self.chunks = -(-self.all_panels // tiling.panels)
        self.bands = -(-self.g.rows // tiling.band)
        self.pixel = self.g.groups * self.g.channels  # elements of a pixel
        self.pitch = self._pitch()
        self.line = self.g.padded[2] * self.pitch
        self.steps = self.g.channels * math.prod(self.g.kernel)

    def _pitch(self) -> int:
        """Elements from one pixel of a patch to the next.

        A tile reads all its pixels at each step. Where they would lie at multiples of 2048 bytes,
        they fall into so few sets of the first cache that they push each other out.
        """
        apart = 4 * self.pixel * self.g.stride[2]
        if self.in_place or apart % 2048:
            return self.pixel
        return odd_pitch(self.pixel, 16)

    # Around the kernels ---------------------------------------------------------------

    def pack(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Returns weights as [panel][tap][channel][filter of the panel].

        Zeros for missing filters.
        """
        g = self.g
        w = weights.reshape(g.groups, g.filters, g.channels, *g.kernel)
        packed = np.zeros(
            (g.groups, self.group_panels * self.width, g.channels, *g.kernel), np.float32
        )
        packed[:, : g.filters] = w
        shaped = packed.reshape(g.groups, self.group_panels, self.width, g.channels, *g.kernel)
        return np.ascontiguousarray(shaped.transpose(0, 1, 4, 5, 6, 3, 2)).reshape(-1)

    def workspace(self, batch: int, threads: int) -> int:
        """Returns a padded input, or a patch per thread."""
        if self.in_place:
            return 0
        if self.stages:
            return batch * self.g.padded[0] * self.g.padded[1] * self.line
        return threads * self._patch()

    def _patch(self) -> int:
        planes = self.g.kernel[0]
        return -(-planes * self._patch_rows() * self.line // 64) * 64

    def _patch_rows(self) -> int:
        return (self.tiling.band - 1) * self.g.stride[1] + self.g.reach[1]

    def phases(self, batch: int) -> list[tuple[str, int]]:
        """Returns the gathering, if it is a phase, and the sums."""
        g = self.g
        compute = ("compute", batch * g.output[0] * self.bands * self.chunks)
        if self.stages:
            return [("stage", batch * g.padded[0] * g.padded[1]), compute]
        return [compute]

    def write(self, unit: Unit) -> None:
        """Writes the kernels."""
        if self.stages:
            with unit.kernel("stage") as code:
                row = code.item % self.g.padded[1]
                plane = code.item // self.g.padded[1]
                image = plane // self.g.padded[0]
                place = code.pointer(WORKSPACE).at(code.item * self.line)
                self._gather_row(code, image, plane % self.g.padded[0], row, place)
        with unit.kernel("compute") as code:
            self._compute(code)

    # Gathering ------------------------------------------------------------------------

    def _gather_row(self, code: Code, image: Value, plane: Value, row: Value, place: Value) -> None:
        """Writes one padded row: zeros outside the input."""
        g, lanes = self.g, self.lanes
        z, y = plane - g.before[0], row - g.before[1]
        inside = (z >= 0) & (z < g.size[0]) & (y >= 0) & (y < g.size[1])
        with code.when(inside):
            before = g.before[2] * self.pitch
            after = (g.padded[2] - g.before[2] - g.size[2]) * self.pitch
            zero(code, place, before, lanes)
            zero(code, place.at(before + g.size[2] * self.pitch), after, lanes)
            if self.spec.layout == "channels_last":
                start = ((image * g.size[0] + z) * g.size[1] + y) * (g.size[2] * self.pixel)
                gather_row_last(
                    code, code.pointer(X).at(start), place.at(before),
                    width=g.size[2], channels=self.pixel, pixel=self.pixel, pitch=self.pitch,
                    lanes=lanes,
                )  # fmt: skip
            else:
                plane_size = math.prod(g.size)
                start = image * (plane_size * self.pixel) + (z * g.size[1] + y) * g.size[2]
                gather_row_first(
                    code, code.pointer(X).at(start), place.at(before),
                    width=g.size[2], channels=self.pixel, plane=plane_size, pitch=self.pitch,
                    lanes=lanes,
                )  # fmt: skip
        with code.unless(inside):
            zero(code, place, self.line, lanes)

    # Summing --------------------------------------------------------------------------

    def _compute(self, code: Code) -> None:
        g, t = self.g, self.tiling
        chunk = code.item % self.chunks
        rest = code.item // self.chunks
        band = rest % self.bands
        rest = rest // self.bands
        depth = rest % g.output[0]
        image = rest // g.output[0]
        first_row = band * t.band
        rows = code.smaller(code.integer(g.rows) - first_row, t.band)
        if self.in_place or self.stages:
            source = code.pointer(X if self.in_place else WORKSPACE)
            row_of = (image * g.padded[0] + depth * g.stride[0]) * g.padded[1]
            patch = source.at((row_of + first_row * g.stride[1]) * self.line)
            plane = g.padded[1] * self.line * g.dilation[0]
        else:
            patch = code.pointer(WORKSPACE).at(code.worker * self._patch())
            plane = self._patch_rows() * self.line
            wanted = (rows - 1) * g.stride[1] + g.reach[1]
            for tap in code.range(g.kernel[0]):
                for row in code.range(wanted):
                    self._gather_row(
                        code, image, depth * g.stride[0] + tap * g.dilation[0],
                        first_row * g.stride[1] + row, patch.at(tap * plane + row * self.line),
                    )  # fmt: skip
        first_panel = chunk * t.panels
        last_panel = code.smaller(first_panel + t.panels, self.all_panels)
        for panel in code.range(first_panel, last_panel):
            self._panel(code, panel, patch, plane, image * g.output[0] + depth, first_row, rows)

    def _panel(
        self, code: Code, panel: Value, patch: Value, plane: int, image: Value, first_row: Value,
        rows: Value,
    ) -> None:  # fmt: skip
        g, t = self.g, self.tiling
        group = panel // self.group_panels
        weights = code.pointer(WEIGHTS).at(panel * (self.steps * self.width))
        left = patch.at(group * g.channels)

        def tiles(row: Value, count: int) -> None:
            whole = g.columns // t.columns * t.columns
            start = left.at(row * (g.stride[1] * self.line))

            def tile(column: Value | int, wide: int) -> None:
                at = start.at(column * (g.stride[2] * self.pitch))
                done = self._tile(code, at, plane, weights, count, wide)
                self._store(code, done, panel, group, image, first_row + row, column, count, wide)

            for column in code.range(0, whole, t.columns):
                tile(column, t.columns)
            if g.columns > whole:
                tile(code.integer(whole), g.columns - whole)

        full = rows // t.rows
        for r in code.range(full):
            tiles(r * t.rows, t.rows)
        tail = g.rows % t.rows
        if tail:
            with code.when((rows % t.rows).equals(tail)):
                tiles(full * t.rows, tail)

    def _tile(
        self, code: Code, left: Value, plane: int, weights: Value, rows: int, columns: int
    ) -> Tile:
        g, t = self.g, self.tiling
        tile = Tile(code, rows * columns, t.vectors, self.lanes)
        offsets = [
            r * g.stride[1] * self.line + c * g.stride[2] * self.pitch
            for r in range(rows)
            for c in range(columns)
        ]
        together = self.pitch == g.channels and g.dilation[2] == 1
        run = g.channels * (g.kernel[2] if together else 1)
        for z in code.range(g.kernel[0]):
            for y in code.range(g.kernel[1]):
                tap = z * g.kernel[1] + y
                right = weights.at(tap * (g.kernel[2] * g.channels * self.width))
                row = left.at(z * plane + y * (g.dilation[1] * self.line))
                if together:
                    tile.accumulate(row, offsets, right, run)
                else:
                    for x in code.range(g.kernel[2]):
                        tile.accumulate(
                            row.at(x * (g.dilation[2] * self.pitch)), offsets,
                            right.at(x * (g.channels * self.width)), run,
                        )  # fmt: skip
        return tile

    # Storing --------------------------------------------------------------------------

    def _store(
        self, code: Code, tile: Tile, panel: Value, group: Value, image: Value, row: Value,
        column: Value | int, rows: int, columns: int,
    ) -> None:  # fmt: skip
        g = self.g
        inner = panel % self.group_panels * self.width  # first filter of the panel in its group
        first = group * g.filters + inner
        left_over = code.integer(g.filters) - inner  # filters of the group from there on
        biases = [
            load_bias(code, self.spec, first + v * self.lanes, self.lanes)
            for v in range(tile.vectors)
        ]
        if self.spec.layout == "channels_last":
            self._store_last(code, tile, biases, first, left_over, image, row, column, columns)
        else:
            self._store_first(code, tile, biases, first, left_over, image, row, column)

    def _store_last(
        self, code: Code, tile: Tile, biases: list[Value | None], first: Value, left_over: Value,
        image: Value, row: Value, column: Value | int, columns: int,
    ) -> None:  # fmt: skip
        g = self.g
        pixel = g.groups * g.filters
        start = ((image * g.rows + row) * g.columns + column) * pixel + first
        ragged = g.filters % self.width != 0

        def store(r: int, v: int, value: Value) -> None:
            at = start + ((r // columns * g.columns + r % columns) * pixel + v * self.lanes)
            count = left_over - v * self.lanes if ragged else self.lanes
            bias = biases[v]
            put(code, self.spec, value if bias is None else value + bias, at, count, self.lanes)

        tile.finish(store)

    def _store_first(
        self, code: Code, tile: Tile, biases: list[Value | None], first: Value, left_over: Value,
        image: Value, row: Value, column: Value | int,
    ) -> None:  # fmt: skip
        """Turns pixels of filters into rows of pixels; a tile's pixels lie together in a plane."""
        g, lanes = self.g, self.lanes
        plane = math.prod(g.output)
        depth = image % g.output[0]
        start = (
            (image // g.output[0] * (g.groups * g.filters) + first) * plane
            + (depth * g.rows + row) * g.columns
            + column
        )
        ragged = g.filters % self.width != 0
        for v in range(tile.vectors):
            for lowest in range(0, tile.rows, lanes):
                bias = biases[v]
                pixels = [total[v].get() for total in tile.sums[lowest : lowest + lanes]]
                if bias is not None:
                    pixels = [pixel + bias for pixel in pixels]
                count = len(pixels)

                for f, value in enumerate(transpose(code, pixels, lanes)):
                    at = start + ((v * lanes + f) * plane + lowest)
                    if ragged:
                        with code.when(left_over > v * lanes + f):
                            put(code, self.spec, value, at, count, lanes)
                    else:
                        put(code, self.spec, value, at, count, lanes)
