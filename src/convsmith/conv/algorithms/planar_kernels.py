"""The compiled form of planar convolution: tiles of filters, rows and vectors of columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.algorithm import BIAS, WEIGHTS, X
from convsmith.conv.geometry import Geometry
from convsmith.conv.output import put
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.emit import Code, Unit, Value, Variable
from convsmith.kernel.target import Target

if TYPE_CHECKING:
    from convsmith.conv.algorithms.planar import PlanarTiling

__all__ = ["PlanarKernels"]

_KEPT = 9  # broadcast weights that stay in registers


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    """Tiles of output columns that run the same code.

    Attributes:
        first: The first column.
        width: Columns of a tile.
        count: Tiles, one behind the other.
        inside: Whether everything that they load is inside the row.
    """

    first: int
    width: int
    count: int
    inside: bool


Sums = list[list[list[Variable]]]  # by filter, row, vector


class PlanarKernels:
    """Everything about one compiled form."""

    def __init__(self, spec: ConvSpec, target: Target, tiling: PlanarTiling) -> None:
        self.spec = spec
        self.g = g = Geometry.of(spec)
        self.lanes = target.lanes
        self.tiling = tiling
        self.panels = -(-g.filters // tiling.filters)  # of a group
        self.chunks = -(-self.panels // tiling.panels)
        self.bands = -(-g.rows // tiling.band)
        self.taps = math.prod(g.kernel)
        self.columns = self._cut()
        self.keeps_weights = (
            g.channels == g.kernel[0] == self.chunks == tiling.panels == 1
            and self.taps * tiling.filters <= _KEPT
            and target.registers >= 32
        )

    def _cut(self) -> list[_Columns]:
        g, wide = self.g, self.tiling.vectors * self.lanes
        found: list[_Columns] = []
        for first in range(0, g.columns, wide):
            width = min(wide, g.columns - first)
            start = first * g.stride[2] - g.before[2]
            vectors = -(-width // self.lanes)
            behind = start + g.reach[2] - 1 + vectors * self.lanes * g.stride[2]
            inside = start >= 0 and behind <= g.size[2]
            last = found[-1] if found else None
            if last is not None and inside and last.inside and width == last.width:
                found[-1] = _Columns(
                    first=last.first, width=width, count=last.count + 1, inside=True
                )
            else:
                found.append(_Columns(first=first, width=width, count=1, inside=inside))
        return found

    # Around the kernel ----------------------------------------------------------------

    def pack(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Returns weights as [group][panel][channel][tap][filter of the panel]."""
        g, size = self.g, self.tiling.filters
        packed = np.zeros((g.groups, self.panels * size, g.channels, self.taps), np.float32)
        packed[:, : g.filters] = weights.reshape(g.groups, g.filters, g.channels, self.taps)
        shaped = packed.reshape(g.groups, self.panels, size, g.channels, self.taps)
        return np.ascontiguousarray(shaped.transpose(0, 1, 3, 4, 2)).reshape(-1)

    def workspace(self, batch: int, threads: int) -> int:
        """Returns 0: everything stays in registers."""
        return 0

    def phases(self, batch: int) -> list[tuple[str, int]]:
        """Returns the one phase."""
        g = self.g
        bands = self.bands * self.tiling.spans
        return [("compute", batch * g.output[0] * g.groups * self.chunks * bands)]

    def write(self, unit: Unit) -> None:
        """Writes the kernel."""
        with unit.kernel("compute") as code:
            self._compute(code)

    # One item -------------------------------------------------------------------------

    def _compute(self, code: Code) -> None:
        g, t = self.g, self.tiling
        span = code.item % t.spans
        rest = code.item // t.spans
        band = rest % self.bands
        rest = rest // self.bands
        chunk = rest % self.chunks
        rest = rest // self.chunks
        group = rest % g.groups
        rest = rest // g.groups
        depth = rest % g.output[0]
        image = rest // g.output[0]
        first_row = band * t.band
        rows = code.smaller(code.integer(g.rows) - first_row, t.band)
        first_panel = chunk * t.panels
        last_panel = code.smaller(first_panel + t.panels, self.panels)
        kept: list[Value] = []
        if self.keeps_weights:
            place = code.pointer(WEIGHTS).at(group * (self.taps * t.filters))
            kept = [code.splat(place.load(1, i), self.lanes) for i in range(self.taps * t.filters)]

        def tiles(row: Value, count: int) -> None:
            for run in self.columns:
                for column in self._columns(code, run, span):
                    for panel in code.range(first_panel, last_panel):
                        self._tile(code, image, depth, group, panel, row, count, column, run, kept)

        full = rows // t.rows
        for r in code.range(full):
            tiles(first_row + r * t.rows, t.rows)
        tail = g.rows % t.rows
        if tail:
            with code.when((rows % t.rows).equals(tail)):
                tiles(first_row + full * t.rows, tail)

    def _columns(self, code: Code, run: _Columns, span: Value) -> Any:
        """Yields the columns of a run's tiles that belong to a span."""
        spans = self.tiling.spans
        if spans == 1:
            yield from code.range(run.first, run.first + run.count * run.width, run.width)
        elif run.count == 1:
            with code.when(span.equals(0 if run is self.columns[0] else spans - 1)):
                yield code.integer(run.first)
        else:
            low = (span * run.count) // spans
            high = ((span + 1) * run.count) // spans
            yield from code.range(
                low * run.width + run.first, high * run.width + run.first, run.width
            )

    def _tile(
        self, code: Code, image: Value, depth: Value, group: Value, panel: Value, row: Value,
        rows: int, column: Value, run: _Columns, kept: Sequence[Value],
    ) -> None:  # fmt: skip
        g, t = self.g, self.tiling
        filter_ = group * g.filters + panel * t.filters
        vectors = -(-run.width // self.lanes)
        lines_held = -(-rows // 2) if t.folded else rows
        sums: Sums = []
        for f in range(t.filters):
            start = code.splat(0.0, self.lanes)
            if self.spec.bias:
                start = code.splat(code.pointer(BIAS).load(1, filter_ + f), self.lanes)
            sums.append([[code.variable(start) for _ in range(vectors)] for _ in range(lines_held)])
        size = math.prod(g.size)
        weights = code.pointer(WEIGHTS).at(
            (group * self.panels + panel) * (g.channels * self.taps * t.filters)
        )
        planes = code.pointer(X).at((image * (g.groups * g.channels) + group * g.channels) * size)
        first = column * g.stride[2] - g.before[2]
        for channel in code.range(g.channels):
            for tap in code.range(g.kernel[0]):
                z = depth * g.stride[0] + tap * g.dilation[0] - g.before[0]
                plane = planes.at(channel * size + z * (g.size[1] * g.size[2]) + first)
                right = weights.at(
                    (channel * g.kernel[0] + tap) * (g.kernel[1] * g.kernel[2] * t.filters)
                )
                reach = (g.output[0] - 1) * g.stride[0] + g.reach[0]
                if g.before[0] == 0 and reach <= g.size[0]:
                    self._rows(code, plane, right, row, run, sums, kept)
                else:
                    with code.when((z >= 0) & (z < g.size[0])):
                        self._rows(code, plane, right, row, run, sums, kept)
        for f, lines in enumerate(sums):
            # Filters that only fill up a panel are summed, but there is no place for them.
            if g.filters % t.filters and f:
                with code.when(panel * t.filters + f < g.filters):
                    self._store(code, image, depth, filter_ + f, row, column, run, lines)
            else:
                self._store(code, image, depth, filter_ + f, row, column, run, lines)

    def _store(
        self, code: Code, image: Value, depth: Value, filter_: Value, row: Value, column: Value,
        run: _Columns, lines: list[list[Variable]],
    ) -> None:  # fmt: skip
        g = self.g
        plane = (image * (g.groups * g.filters) + filter_) * g.output[0] + depth
        at = (plane * g.rows + row) * g.columns + column
        if self.tiling.folded:
            for pair, (total,) in enumerate(lines):
                count = min(2, g.rows - 2 * pair) * g.columns
                put(code, self.spec, total.get(), at + 2 * pair * g.columns, count, self.lanes)
            return
        for r, line in enumerate(lines):
            for v, total in enumerate(line):
                count = min(self.lanes, run.width - v * self.lanes)
                put(
                    code, self.spec, total.get(), at + (r * g.columns + v * self.lanes), count,
                    self.lanes,
                )  # fmt: skip

    # Summing --------------------------------------------------------------------------

    def _rows(
        self, code: Code, plane: Value, weights: Value, row: Value, run: _Columns, sums: Sums,
        kept: Sequence[Value],
    ) -> None:  # fmt: skip
        """Adds the products of one plane with one plane of the kernel."""
        g = self.g
        if self.tiling.folded:
            self._folded(code, plane.at(g.before[2]), weights, sums, kept)
            return
        taps, size, step, stride = g.kernel[1], g.size[1], g.dilation[1], g.stride[1]
        rows = len(sums[0])
        start = row * stride - g.before[1]
        tap_row = g.kernel[2] * self.tiling.filters
        if rows == 1 and not kept:
            low = (code.larger(-start, 0) + (step - 1)) // step
            high = (code.larger(code.integer(size) - start, 0) + (step - 1)) // step
            for ky in code.range(low, code.smaller(high, taps)):
                line = plane.at((start + ky * step) * g.size[2])
                self._row(code, line, run, sums, [(0, weights.at(ky * tap_row), ())])
            return
        outside = g.before[1] or (g.rows - 1) * stride + g.reach[1] > size
        for offset in sorted({r * stride + tap * step for r in range(rows) for tap in range(taps)}):
            active = []
            for r in range(rows):
                tap, uneven = divmod(offset - r * stride, step)
                if not uneven and 0 <= tap < taps:
                    own = kept[tap * tap_row : (tap + 1) * tap_row]
                    active.append((r, weights.at(tap * tap_row), own))
            y = start + offset
            line = plane.at(y * g.size[2])
            if outside:
                with code.when((y >= 0) & (y < size)):
                    self._row(code, line, run, sums, active)
            else:
                self._row(code, line, run, sums, active)

    def _row(
        self, code: Code, line: Value, run: _Columns, sums: Sums,
        active: Sequence[tuple[int, Value, Sequence[Value]]],
    ) -> None:  # fmt: skip
        """Adds the products of one input row; ``line`` is where the tile's first tap is."""
        g, lanes = self.g, self.lanes
        vectors = len(sums[0][0])
        cache: dict[tuple[int, int], Value] = {}
        for tap in range(g.kernel[2]):
            x = [self._column_vector(code, line, run, tap, v, cache) for v in range(vectors)]
            for r, weights, own in active:
                for f, lines in enumerate(sums):
                    at = tap * self.tiling.filters + f
                    weight = own[at] if own else code.splat(weights.load(1, at), lanes)
                    for each, total in zip(x, lines[r], strict=True):
                        total.set(code.fma(each, weight, total.get()))

    def _folded(
        self, code: Code, plane: Value, weights: Value, sums: Sums, kept: Sequence[Value]
    ) -> None:
        """Adds the products of one plane, two output rows to a vector, all of them at once."""
        g, lanes, filters = self.g, self.lanes, self.tiling.filters
        zeros = code.splat(0.0, lanes)
        loaded: dict[int, Value] = {}

        def line(y: int) -> Value:
            """Returns an input row, zeros behind it: there is room for one at least."""
            if not 0 <= y < g.size[1]:
                return zeros
            if y not in loaded:
                loaded[y] = plane.load_lanes(0, g.size[2], lanes, y * g.size[2])
            return loaded[y]

        def picked(y: int, tap: int) -> Value:
            first = tap * g.dilation[2] - g.before[2]
            source = [first + c * g.stride[2] for c in range(g.columns)]
            inside = [x if 0 <= x < g.size[2] else g.size[2] for x in source]
            rest = [g.size[2]] * (lanes - 2 * g.columns)
            chosen = inside + [lanes + x for x in inside] + rest
            return code.shuffle(line(y), line(y + g.stride[1]), chosen)

        made: dict[tuple[int, int], Value] = {}
        for pair in range(len(sums[0])):
            for ky in range(g.kernel[1]):
                y = 2 * pair * g.stride[1] + ky * g.dilation[1] - g.before[1]
                if not (0 <= y < g.size[1] or 0 <= y + g.stride[1] < g.size[1]):
                    continue
                for kx in range(g.kernel[2]):
                    if (y, kx) not in made:
                        made[y, kx] = picked(y, kx)
                    for f, lines in enumerate(sums):
                        at = (ky * g.kernel[2] + kx) * filters + f
                        weight = kept[at] if kept else code.splat(weights.load(1, at), lanes)
                        total = lines[pair][0]
                        total.set(code.fma(made[y, kx], weight, total.get()))

    def _column_vector(
        self, code: Code, line: Value, run: _Columns, tap: int, vector: int,
        cache: dict[tuple[int, int], Value],
    ) -> Value:  # fmt: skip
        """Returns the input elements that one tap meets, for one vector of output columns."""
        g, lanes = self.g, self.lanes
        stride = g.stride[2]
        phase = tap * g.dilation[2] % stride
        base = tap * g.dilation[2] - phase + vector * lanes * stride

        def piece(j: int) -> Value:
            offset = base + j * lanes
            if (offset, lanes) not in cache:
                if run.inside:
                    cache[offset, lanes] = line.load(lanes, offset)
                else:
                    x = run.first * stride - g.before[2] + offset
                    cache[offset, lanes] = line.load_lanes(-x, g.size[2] - x, lanes, offset)
            return cache[offset, lanes]

        if stride == 1:
            return piece(0)
        wanted = [divmod(phase + stride * lane, lanes) for lane in range(lanes)]  # (piece, lane)
        value = piece(0)
        for j in range(1, stride):
            keep = [lane if j > 1 else source for lane, (_, source) in enumerate(wanted)]
            value = code.shuffle(
                value, piece(j),
                [lanes + s if p == j else k for k, (p, s) in zip(keep, wanted, strict=True)],
            )  # fmt: skip
        return value
