"""Kernels of one element: a convolution that is a product of matrices, pixels by channels.

    y[k, p] = sum over c of  w[k, c] * x[c, p * stride]

All spatial axes are one axis of pixels, so a map of 14 x 14 is 196 of them and no tile ends at a
row's end. Channels first, the pixels lie in the lanes of the vectors and weights are broadcast: the
output needs no transposing. Channels last, or where maps are too small to fill the lanes, the
filters do.

The pixels are read *in place*, from a *local* copy that a thread packs for itself in its cache, or
from a copy of the whole input that all threads make first, *staged*.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.algorithm import Lowered, Operations
from convsmith.conv.algorithms.pointwise_kernels import PointwiseKernels
from convsmith.conv.geometry import Geometry
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.matrix import Parts
from convsmith.kernel.target import Target
from convsmith.kernel.tile import tile_shapes

__all__ = ["Pointwise", "PointwiseTiling"]

_UNIT_ROUNDOFF: Final = 2.0**-24
_FEW_PIXELS: Final = 64  # a block of fewer is not worth reading the weights again
_SMALL_MAP: Final = 20  # vectors of pixels of a map whose last vector may cost much

_DEEP: Final = 512  # channels: as many runs of memory, and pages, are one tile's pixels in place

Way = Literal["place", "local", "staged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PointwiseTiling:
    """How a product is cut.

    Attributes:
        rows: Rows of a register tile: pixels, or filters if pixels are in the lanes.
        vectors: Vectors of a register tile.
        pixels_in_lanes: Whether the vectors are pixels and not filters.
        way: Where the pixels are read from.
        pixel_blocks: Pieces that the tiles of pixels of an image are cut into.
        weight_blocks: Pieces that the tiles of filters of a group are cut into.
    """

    rows: int
    vectors: int
    pixels_in_lanes: bool
    way: Way
    pixel_blocks: int
    weight_blocks: int

    def __str__(self) -> str:
        lanes = "pixels" if self.pixels_in_lanes else "filters"
        return (
            f"{self.rows}x{self.vectors} of {lanes} {self.way} "
            f"blocks {self.pixel_blocks}x{self.weight_blocks}"
        )


class Pointwise:
    """Kernels of one element: any stride, any groups."""

    name = "pointwise"

    def refuses(self, spec: ConvSpec) -> str:
        """Returns why it does not take a spec, or nothing."""
        if max(spec.kernel) > 1:
            return "its kernel has more than one element"
        if any(map(any, spec.padding)):
            return "a padded pixel has nothing to multiply"
        if spec.depthwise:
            return "a channel by itself is no product of matrices"
        return ""

    def tilings(self, spec: ConvSpec, target: Target, threads: int) -> tuple[PointwiseTiling, ...]:
        """Returns tiles that fill the registers, the likely best first."""
        g, lanes = Geometry.of(spec), target.lanes
        high, wide = tile_shapes(target)[:2]
        pixels = math.prod(g.output)
        strided = max(g.stride) > 1
        ways: list[tuple[tuple[int, int], bool, Way]] = []
        if spec.layout == "channels_last":
            # Pixels at a multiple of 2 kB crowd the sets of the nearest cache.
            crowded = g.groups * g.channels * 4 % 2048 == 0
            if strided or crowded:
                ways = [(high, False, "local"), (wide, False, "local")]
            if not strided:
                ways += [(high, False, "place"), (wide, False, "place")]
            if crowded and not strided:
                ways = [ways[0], ways[1], ways[3]]
        else:
            if strided:
                ways = [(high, True, "staged"), (wide, True, "staged")]
            else:
                ways = [(high, True, "place"), (wide, True, "place")]
                if pixels * 4 % 2048 == 0 or g.channels >= _DEEP:
                    ways.append((high, True, "local"))
            if -(-pixels // lanes) <= _SMALL_MAP and g.filters >= lanes // 2:
                ways = [(high, False, "staged"), (wide, False, "staged"), ways[1]]
        return tuple(
            dict.fromkeys(
                self._tiling(spec, target, threads, shape, flat, way) for shape, flat, way in ways
            )
        )

    @staticmethod
    def _tiling(
        spec: ConvSpec, target: Target, threads: int, shape: tuple[int, int], flat: bool, way: Way
    ) -> PointwiseTiling:
        g, lanes = Geometry.of(spec), target.lanes
        pixels = math.prod(g.output)
        rows, vectors = shape
        if flat:
            parts = Parts.of(-(-pixels // lanes), most=vectors)
            filters = Parts.of(g.filters, most=rows)
        else:
            parts = Parts.of(pixels, most=rows)
            filters = Parts.of(-(-g.filters // lanes), most=vectors)
        part = parts.longest * (lanes if flat else 1)  # pixels
        most = max(1, target.level2 // 2 // (4 * part * g.channels))
        blocks = -(-parts.count // most)
        outer = max(g.batch, 1) * g.groups
        wanted = 3 * threads if threads > 1 else 1
        if outer * blocks < wanted:
            largest = max(blocks, parts.count // max(1, -(-_FEW_PIXELS // part)))
            blocks = min(largest, -(-wanted // outer))
        if threads > 1 and outer == 1 and blocks > threads:
            blocks = min(parts.count, -(-blocks // threads) * threads)
        chunks = 1
        if outer * blocks < wanted:
            chunks = min(filters.count, -(-wanted // (outer * blocks)))
        return PointwiseTiling(
            rows=rows, vectors=vectors, pixels_in_lanes=flat, way=way, pixel_blocks=blocks,
            weight_blocks=chunks,
        )  # fmt: skip

    def operations(self, spec: ConvSpec, tiling: PointwiseTiling) -> Operations:
        """Returns one product per channel and output, and a sum of them."""
        outputs = spec.batch * spec.filters * math.prod(spec.output)
        return Operations(mults=spec.macs, adds=max(spec.macs - outputs, 0))

    def error_ratio(self, spec: ConvSpec, tiling: PointwiseTiling) -> float:
        """Returns 1: the sums of direct convolution, in the same order."""
        return 1.0

    def error_bound(self, spec: ConvSpec, tiling: PointwiseTiling) -> float:
        """Returns n u / (1 - n u) for n fused terms (Higham 2002, section 3.1)."""
        terms = spec.channels // spec.groups + 2
        return terms * _UNIT_ROUNDOFF / (1 - terms * _UNIT_ROUNDOFF)

    def spread(self, spec: ConvSpec, tiling: PointwiseTiling) -> tuple[int, ...]:
        """Returns ones: a NaN reaches what its products reach."""
        return (1,) * spec.rank

    def reference(
        self,
        spec: ConvSpec,
        x: NDArray[Any],
        w: NDArray[Any],
        tiling: PointwiseTiling | None = None,
    ) -> NDArray[Any]:
        """Returns one matrix product per image and group."""
        if spec.layout == "channels_last":
            x = np.moveaxis(x, -1, 1)
        seen = x[(slice(None), slice(None), *(slice(None, None, s) for s in spec.stride))]
        groups, shape = spec.groups, (len(x), spec.filters, *spec.output)
        columns = seen.reshape(len(x), groups, spec.channels // groups, math.prod(spec.output))
        y = (w.reshape(groups, spec.filters // groups, -1) @ columns).reshape(shape)
        return np.moveaxis(y, 1, -1) if spec.layout == "channels_last" else y

    def lower(self, spec: ConvSpec, target: Target, tiling: PointwiseTiling) -> Lowered:
        """Returns the product, with the gathering before it if that is a phase of its own."""
        writer = PointwiseKernels(spec, target, tiling)
        return Lowered(
            key=f"pointwise {spec.with_batch(1)!r} {tiling} {target.lanes}",
            functions=("stage", "compute") if tiling.way == "staged" else ("compute",),
            write=writer.write,
            pack=writer.pack,
            workspace=writer.workspace,
            phases=writer.phases,
        )
