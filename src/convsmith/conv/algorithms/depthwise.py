"""Depthwise convolution, one vector lane per channel: every filter sees a single channel.

A tile of output pixels of one vector of channels is summed in registers. With the channels together
in memory the input is read in place; its borders are never padded: rows outside are skipped, and
columns outside are left out of the code of the tiles at the borders. Other planes are first copied
by the thread that uses them, 16 channels side by side (*plane*), with their padding where border
code would be too long (*padded*).

Kernels of more than 7 columns slide: the input element stays in a register while the weights pass
by, so that no product with a zero of the padding is made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.algorithm import Lowered, Operations
from convsmith.conv.algorithms.depthwise_kernels import DepthwiseKernels
from convsmith.conv.algorithms.depthwise_sums import column_tiles
from convsmith.conv.geometry import Geometry
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.target import Target

__all__ = ["Depthwise", "DepthwiseTiling", "inside_taps"]

_UNIT_ROUNDOFF: Final = 2.0**-24
_STATIC: Final = 7  # kernel columns that are written out
_BORDERS: Final = 4  # tiles at the borders that have code of their own
_CHANNELS: Final = 4
_FILTERS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthwiseTiling:
    """How depthwise convolution cuts its work.

    Attributes:
        rows: Output rows of a register tile.
        columns: Output columns of a register tile.
        band: Output rows of one item.
        blocks: Vectors of channels of one item.
        source: What tiles read: the input in ``place``, a copied ``plane``, a ``padded`` copy.
        slides: Whether the columns of the kernel are a loop.
    """

    rows: int
    columns: int
    band: int
    blocks: int
    source: Literal["place", "plane", "padded"]
    slides: bool

    def __str__(self) -> str:
        way = f"{self.source}{' sliding' if self.slides else ''}"
        return f"{self.rows}x{self.columns} band {self.band} blocks {self.blocks} {way}"


def inside_taps(spec: ConvSpec, axis: int) -> int:
    """Returns how many taps of all outputs along one axis meet the input, not the padding."""
    n, k, s, d = (v[axis] for v in (spec.size, spec.kernel, spec.stride, spec.dilation))
    before = spec.padding[axis][0]
    count = 0
    for tap in range(k):
        # outputs o with 0 <= o * s + tap * d - before < n
        low = max(0, -(-(before - tap * d) // s))
        high = min(spec.output[axis], -(-(n + before - tap * d) // s))
        count += max(high - low, 0)
    return count


class Depthwise:
    """One input channel per group."""

    name = "depthwise"

    def refuses(self, spec: ConvSpec) -> str:
        """Returns why it does not take a spec, or nothing."""
        if not spec.depthwise:
            return "its filters see one channel each"
        if spec.channels < _CHANNELS:
            return f"fewer than {_CHANNELS} channels leave its lanes empty"
        if spec.filters // spec.channels > _FILTERS:
            return f"more than {_FILTERS} filters per channel fill vectors by themselves"
        return ""

    def tilings(self, spec: ConvSpec, target: Target, threads: int) -> tuple[DepthwiseTiling, ...]:
        """Returns tiles of two rows, whose input is loaded once for both, and of one."""
        g = Geometry.of(spec)
        sums = min(g.filters, 4)
        found: dict[DepthwiseTiling, None] = {}
        if g.kernel[2] > _STATIC and g.stride[2] == g.dilation[2] == 1:
            rows = 1
            if g.stride[1] == g.dilation[1] == 1 and g.kernel[1] > 2:
                rows = _even(g.rows, 2)
            room = 18 if target.registers >= 32 else 10
            columns = _even(g.columns, max(1, min(g.kernel[2], 8, room // (rows * sums))))
            found[self._tiling(spec, target, threads, rows, columns, "plane", 1, True)] = None
            return tuple(found)
        room = 20 if target.registers >= 32 else 10
        small = g.kernel[1] <= 5 and g.kernel[2] <= _STATIC and target.registers >= 32
        for most in (2, 1) if small and spec.layout == "channels_last" else (1,):
            rows = _even(g.rows, most)
            columns = _even(g.columns, max(1, min(8, room // (rows * sums))))
            source: Literal["place", "plane", "padded"] = "padded"
            if g.kernel[2] <= _STATIC and self._borders(g, columns) <= _BORDERS:
                source = "place" if spec.layout == "channels_last" else "plane"
            for blocks in (64, 1) if source == "place" else (1,):
                made = self._tiling(spec, target, threads, rows, columns, source, blocks, False)
                found[made] = None
        return tuple(found)

    @staticmethod
    def _borders(g: Geometry, columns: int) -> int:
        return sum(1 for tile in column_tiles(g, columns, padded=False) if tile.count == 1)

    def _tiling(
        self, spec: ConvSpec, target: Target, threads: int, rows: int, columns: int,
        source: Literal["place", "plane", "padded"], blocks: int, slides: bool,
    ) -> DepthwiseTiling:  # fmt: skip
        g = Geometry.of(spec)
        all_blocks = -(-g.groups // target.lanes)
        blocks = min(blocks, all_blocks)
        line = g.padded[2] * g.kernel[0] * g.stride[1] + g.columns * g.filters
        most = g.rows
        if source != "place":
            fitting = target.level2 // 2 // (4 * target.lanes * line)
            most = max(fitting - (g.reach[1] - g.stride[1]) // g.stride[1], 4 * rows)
        band = -(-g.rows // rows) * rows if most >= g.rows else max(rows, most // rows * rows)
        others = g.batch * g.output[0] * -(-all_blocks // blocks)
        while band > rows and others * -(-g.rows // band) < 3 * threads:
            band = max(rows, (band // 2 + rows - 1) // rows * rows)
        return DepthwiseTiling(
            rows=rows, columns=columns, band=band, blocks=blocks, source=source, slides=slides
        )

    def operations(self, spec: ConvSpec, tiling: DepthwiseTiling) -> Operations:
        """Returns one product per filter and tap that meets the input, and their sums.

        Of a padded copy the columns of the padding are multiplied too.
        """
        taps = spec.batch * spec.filters
        for axis in range(spec.rank):
            whole = tiling.source == "padded" and axis == spec.rank - 1
            taps *= spec.output[axis] * spec.kernel[axis] if whole else inside_taps(spec, axis)
        outputs = spec.batch * spec.filters * math.prod(spec.output)
        return Operations(mults=taps, adds=max(taps - outputs, 0))

    def error_ratio(self, spec: ConvSpec, tiling: DepthwiseTiling) -> float:
        """Returns 1: it is direct convolution."""
        return 1.0

    def error_bound(self, spec: ConvSpec, tiling: DepthwiseTiling) -> float:
        """Returns n u / (1 - n u) for n fused terms and unit roundoff u (Higham 2002.

        Section 3.1).
        """
        terms = math.prod(spec.weight_shape[1:]) + 2
        return terms * _UNIT_ROUNDOFF / (1 - terms * _UNIT_ROUNDOFF)

    def spread(self, spec: ConvSpec, tiling: DepthwiseTiling) -> tuple[int, ...]:
        """Returns ones: a NaN reaches what its products reach."""
        return (1,) * spec.rank

    def reference(
        self,
        spec: ConvSpec,
        x: NDArray[Any],
        w: NDArray[Any],
        tiling: DepthwiseTiling | None = None,
    ) -> NDArray[Any]:
        """Returns the sums tap by tap, each tap a product of planes with one weight per filter."""
        if spec.layout == "channels_last":
            x = np.moveaxis(x, -1, 1)
        padded = np.pad(x, ((0, 0), (0, 0), *spec.padding))
        padded = np.repeat(padded, spec.filters // spec.channels, axis=1)
        y = np.zeros((len(x), spec.filters, *spec.output), x.dtype)
        for tap in np.ndindex(*spec.kernel):
            seen = tuple(
                slice(t * d, t * d + (o - 1) * s + 1, s)
                for t, d, o, s in zip(tap, spec.dilation, spec.output, spec.stride, strict=True)
            )
            weights = w[(slice(None), 0, *tap)].reshape(-1, *(1,) * spec.rank)
            y += weights * padded[(slice(None), slice(None), *seen)]
        return np.moveaxis(y, 1, -1) if spec.layout == "channels_last" else y

    def lower(self, spec: ConvSpec, target: Target, tiling: DepthwiseTiling) -> Lowered:
        """Returns one kernel."""
        writer = DepthwiseKernels(spec, target, tiling)
        return Lowered(
            key=f"depthwise {spec.with_batch(1)!r} {tiling} {target.lanes} {target.registers}",
            functions=("compute",),
            write=writer.write,
            pack=writer.pack,
            workspace=writer.workspace,
            phases=writer.phases,
            lanes=max(64, target.lanes * (spec.filters // spec.channels)),
        )


def _even(total: int, most: int) -> int:
    """Returns the tile size that cuts ``total`` into the fewest tiles, all nearly alike."""
    return -(-total // -(-total // most))
