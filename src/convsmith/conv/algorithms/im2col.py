"""im2col: the patches that the outputs see, written out as a matrix, and one product with it.

    y[k, p] = sum over d of  w[k, d] * patches[d, p]      d = (channel, tap), p = output pixel

The oldest way to convolve with a matrix product (Chellapilla et al. 2006), and the easiest to
check. The matrix repeats every input element once per tap, so it is made in blocks that stay in
the cache of the thread that multiplies them: all taps of some rows of the output, or of a part of
a row that is long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.algorithm import Lowered, Operations
from convsmith.conv.algorithms.im2col_kernels import Im2colKernels
from convsmith.conv.geometry import Geometry
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.target import Target
from convsmith.kernel.tile import tile_shapes

__all__ = ["Im2col", "Im2colTiling"]

_UNIT_ROUNDOFF: Final = 2.0**-24


@dataclass(frozen=True, slots=True, kw_only=True)
class Im2colTiling:
    """How the patch matrix and its product are cut.

    Attributes:
        rows: Rows of a register tile: filters (channels first) or pixels.
        vectors: Vectors of a register tile, of the other side.
        by_rows: Whether blocks of the matrix are whole rows of the output, not parts of one.
        blocks: Blocks of an output plane, or of an output row.
        weight_blocks: Pieces that the filters of a group are cut into.
    """

    rows: int
    vectors: int
    by_rows: bool
    blocks: int
    weight_blocks: int

    def __str__(self) -> str:
        axis = "rows" if self.by_rows else "columns"
        return f"{self.rows}x{self.vectors} {self.blocks} of {axis} x{self.weight_blocks}"


class Im2col:
    """Every spec, by the definition."""

    name = "im2col"

    def refuses(self, spec: ConvSpec) -> str:
        """Takes everything."""
        return ""

    def tilings(self, spec: ConvSpec, target: Target, threads: int) -> tuple[Im2colTiling, ...]:
        """Returns one way: blocks that take half of the second-level cache."""
        g = Geometry.of(spec)
        rows, vectors = tile_shapes(target)[0]
        pixel = 4 * g.channels * math.prod(g.kernel)  # bytes of a patch
        most = max(1, target.level2 // 2 // pixel)
        by_rows = most >= g.columns
        length = g.rows if by_rows else g.columns
        blocks = -(-length // max(1, most // g.columns if by_rows else most))
        outer = max(g.batch, 1) * g.groups * g.output[0] * (1 if by_rows else g.rows)
        wanted = 3 * threads if threads > 1 else 1
        if outer * blocks < wanted:
            blocks = min(length, -(-wanted // outer))
        step = rows if spec.layout == "channels_first" else vectors * target.lanes
        tiles = -(-g.filters // step)
        chunks = min(tiles, max(1, wanted // (outer * blocks)))
        return (
            Im2colTiling(
                rows=rows, vectors=vectors, by_rows=by_rows, blocks=blocks, weight_blocks=chunks
            ),
        )

    def operations(self, spec: ConvSpec, tiling: Im2colTiling) -> Operations:
        """Returns one product per tap, channel and output, and a sum of them."""
        outputs = spec.batch * spec.filters * math.prod(spec.output)
        return Operations(mults=spec.macs, adds=max(spec.macs - outputs, 0))

    def error_ratio(self, spec: ConvSpec, tiling: Im2colTiling) -> float:
        """Returns 1: the products of direct convolution, summed one by one."""
        return 1.0

    def error_bound(self, spec: ConvSpec, tiling: Im2colTiling) -> float:
        """Returns n u / (1 - n u) for n fused terms (Higham 2002, section 3.1)."""
        terms = math.prod(spec.weight_shape[1:]) + 2
        return terms * _UNIT_ROUNDOFF / (1 - terms * _UNIT_ROUNDOFF)

    def spread(self, spec: ConvSpec, tiling: Im2colTiling) -> tuple[int, ...]:
        """Returns ones: a NaN reaches what its products reach."""
        return (1,) * spec.rank

    def reference(
        self, spec: ConvSpec, x: NDArray[Any], w: NDArray[Any], tiling: Im2colTiling | None = None
    ) -> NDArray[Any]:
        """Returns weights times patches, group by group."""
        if spec.layout == "channels_last":
            x = np.moveaxis(x, -1, 1)
        padded = np.pad(x, ((0, 0), (0, 0), *spec.padding))
        axes = tuple(range(2, 2 + spec.rank))
        windows = np.lib.stride_tricks.sliding_window_view(padded, spec.reach, axis=axes)
        outputs = tuple(slice(None, None, s) for s in spec.stride)
        taps = tuple(slice(None, None, d) for d in spec.dilation)
        every = (slice(None), slice(None))
        seen = windows[(*every, *outputs, *taps)]  # image, channel, output, tap
        patches = np.moveaxis(seen, axes, range(-spec.rank, 0))
        depth, pixels = math.prod(w.shape[1:]), math.prod(spec.output)
        columns = patches.reshape(len(x), spec.groups, depth, pixels)
        y = w.reshape(spec.groups, -1, depth) @ columns
        y = y.reshape(len(x), spec.filters, *spec.output)
        return np.moveaxis(y, 1, -1) if spec.layout == "channels_last" else y

    def lower(self, spec: ConvSpec, target: Target, tiling: Im2colTiling) -> Lowered:
        """Returns one kernel: a block of patches, then its product."""
        writer = Im2colKernels(spec, target, tiling)
        return Lowered(
            key=f"im2col {spec.with_batch(1)!r} {tiling} {target.lanes}",
            functions=("compute",),
            write=writer.write,
            pack=writer.pack,
            workspace=writer.workspace,
            phases=writer.phases,
        )
