"""Strassen's algorithm for large pointwise convolutions: seven products of blocks for eight.

In Winograd's form (Higham 2002, section 23.1), one or two levels of it. Filters, pixels and
channels are each cut in two (four); sums of blocks are multiplied, the sums of weights made once,
those of pixels while they are packed, and the results put together in the nearest cache
(:mod:`convsmith.kernel.strassen`). Blocks alternate tile by tile, so the pixels that are mixed are
neighbours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.algorithm import Lowered, Operations
from convsmith.conv.algorithms.strassen_kernels import StrassenKernels
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.matrix import Parts
from convsmith.kernel.strassen import product_by_blocks, roundings
from convsmith.kernel.target import Target
from convsmith.kernel.tile import tile_shapes

__all__ = ["Strassen", "StrassenTiling"]

_UNIT_ROUNDOFF: Final = 2.0**-24
_SMALLEST: Final = 128
"""Filters, channels or pixels below which no level pays."""
_SECOND_LEVEL: Final = 256
"""Filters and channels below which a second level does not pay."""
_PIXELS: Final = 512
"""Pixels below which it does not either, where they lie in lanes: too many would be empty."""
_RATIOS: Final = (1.0, 2.5, 5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StrassenTiling:
    """How Strassen's product is cut.

    Attributes:
        levels: How often; each level saves an eighth of the multiplications.
        rows: Rows of a register tile: filters (channels first) or pixels.
        vectors: Vectors of a register tile, of the other side.
        lanes: Width of a vector.
        pixel_blocks: Pieces that the pixels of an image are cut into.
        weight_blocks: Pieces that the filters are cut into.
    """

    levels: int
    rows: int
    vectors: int
    lanes: int
    pixel_blocks: int
    weight_blocks: int

    def __str__(self) -> str:
        return (
            f"levels {self.levels} tile {self.rows}x{self.vectors}x{self.lanes} "
            f"blocks {self.pixel_blocks}x{self.weight_blocks}"
        )


class Strassen:
    """Large pointwise convolutions."""

    name = "strassen"

    def refuses(self, spec: ConvSpec) -> str:
        """Returns why it does not take a spec, or nothing."""
        if max(spec.kernel) > 1:
            return "its kernel has more than one element"
        if any(map(any, spec.padding)):
            return "a padded pixel has nothing to multiply"
        if max(spec.stride) > 1:
            return "its pixels have to lie side by side: stride 1"
        if spec.groups != 1:
            return "its products need all channels in one group"
        for name, count in (
            ("channels", spec.channels),
            ("filters", spec.filters),
            ("pixels", math.prod(spec.output)),
        ):
            if count < _SMALLEST:
                return f"{count} {name} are too few to save anything, below {_SMALLEST}"
        return ""

    def tilings(self, spec: ConvSpec, target: Target, threads: int) -> tuple[StrassenTiling, ...]:
        """Returns one level, and two for sizes where that may pay."""
        fills = spec.layout == "channels_last" or math.prod(spec.output) >= _PIXELS
        deep = fills and min(spec.channels, spec.filters) >= _SECOND_LEVEL
        return tuple(
            self._tiling(spec, target, threads, levels) for levels in ((1, 2) if deep else (1,))
        )

    @staticmethod
    def _tiling(spec: ConvSpec, target: Target, threads: int, levels: int) -> StrassenTiling:
        rows, vectors = tile_shapes(target)[0]
        n, lanes, pixels = 2**levels, target.lanes, math.prod(spec.output)
        flat = spec.layout == "channels_first"
        if flat:
            parts = Parts.of(-(-pixels // (n * lanes)), most=vectors)
            filters = Parts.of(-(-spec.filters // n), most=rows)
        else:
            parts = Parts.of(-(-pixels // n), most=rows)
            filters = Parts.of(-(-spec.filters // (n * lanes)), most=vectors)
        packed = 4 * 7**levels * -(-spec.channels // n) * parts.longest * (lanes if flat else 1)
        blocks = -(-parts.count // max(1, target.level2 // 2 // packed))
        outer = max(spec.batch, 1)
        wanted = 3 * threads if threads > 1 else 1
        if outer * blocks < wanted:
            blocks = min(parts.count, -(-wanted // outer))
        chunks = min(filters.count, max(1, wanted // (outer * blocks)))
        return StrassenTiling(
            levels=levels, rows=rows, vectors=vectors, lanes=lanes, pixel_blocks=blocks,
            weight_blocks=chunks,
        )  # fmt: skip

    def operations(self, spec: ConvSpec, tiling: StrassenTiling) -> Operations:
        """Returns products of sums of blocks and those sums; border blocks count whole."""
        writer = StrassenKernels(spec, tiling)
        pixels, filters = writer.pixels.total * writer.pixel, writer.filters.total * writer.filter
        depth, products = writer.depth, writer.products
        mults = products * pixels * filters * depth
        # A product is summed on top of another one, or on zeros.
        adds = mults
        # Four additions per level for the sums of pixels.
        packing = sum(
            7**level * 4 ** (tiling.levels - 1 - level) * 4 for level in range(tiling.levels)
        )
        adds += packing * pixels * depth * tiling.weight_blocks
        # Four blocks are put together per level from two buffers, and below the first level added
        # to what they stand on.
        together = 4**tiling.levels + sum(
            7**level * 4 ** (tiling.levels - level) * 2 for level in range(1, tiling.levels)
        )
        adds += together * pixels * filters
        return Operations(mults=spec.batch * mults, adds=spec.batch * adds)

    def error_ratio(self, spec: ConvSpec, tiling: StrassenTiling) -> float:
        """Returns 2.5 for one level and 5 for two.

        As measured for balanced weights and inputs behind a ReLU, for 256 to 2048 channels alike;
        inputs around zero have 2.3 and 4.4.
        """
        return _RATIOS[tiling.levels]

    def error_bound(self, spec: ConvSpec, tiling: StrassenTiling) -> float:
        """Returns a bound over the largest sum of |w| of a filter times the largest |x|.

        That product bounds the sum of |w| |x| of every output of an image: blocks are mixed, so
        small outputs carry the error of large ones
        (:func:`convsmith.kernel.strassen.roundings`).
        """
        depth = -(-spec.channels // 2**tiling.levels) + 2
        bound = roundings(depth, tiling.levels) * _UNIT_ROUNDOFF
        return bound / (1 - bound)

    def spread(self, spec: ConvSpec, tiling: StrassenTiling) -> tuple[int, ...]:
        """Returns whole rows, as many as no block of pixels straddles.

        A NaN or Inf of one pixel reaches the pixels at its place in the other blocks.
        """
        writer = StrassenKernels(spec, tiling)
        parts = writer.pixels
        block = 2**tiling.levels * writer.pixel * parts.longest
        if parts.longest != parts.short or writer.plane % block:
            return spec.output  # blocks of several sizes: no grid of tiles keeps them apart
        tile, inner = [], 1
        for axis, size in reversed(list(enumerate(spec.output))):
            need = block // math.gcd(block, inner)  # elements that make whole blocks
            tile.append(need if need < size and (size % need == 0 or axis == 0) else size)
            inner *= size
        return tuple(reversed(tile))

    def reference(
        self, spec: ConvSpec, x: NDArray[Any], w: NDArray[Any], tiling: StrassenTiling
    ) -> NDArray[Any]:
        """Returns the product by blocks, as the definition has them: w on the left."""
        if spec.layout == "channels_last":
            x = np.moveaxis(x, -1, 1)
        a = w.reshape(spec.filters, spec.channels)
        y = np.zeros((len(x), spec.filters, *spec.output), x.dtype)
        for image, out in zip(x, y, strict=True):
            product = product_by_blocks(a, image.reshape(spec.channels, -1), tiling.levels)
            out[...] = product.reshape(out.shape)
        return np.moveaxis(y, 1, -1) if spec.layout == "channels_last" else y

    def lower(self, spec: ConvSpec, target: Target, tiling: StrassenTiling) -> Lowered:
        """Returns one kernel."""
        writer = StrassenKernels(spec, tiling)
        return Lowered(
            key=f"strassen {spec.with_batch(1)!r} {tiling} {target.lanes}",
            functions=("compute",),
            write=writer.write,
            pack=writer.pack,
            workspace=writer.workspace,
            phases=writer.phases,
        )
