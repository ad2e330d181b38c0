"""Winograd's minimal filtering: fewer multiplications through transforms of tiles.

A tile of m outputs per axis is A^T [ sum over c of (G g G^T) * (B^T d B) ] A (Lavin & Gray 2016,
equation 8), with the exact matrices of :mod:`convsmith.conv.toom_cook`; the sums over channels are
one matrix product per element of the transformed tile. Kernels of two sizes and of one axis work
alike: an axis of one tap is left alone.

Work is cut into blocks of tiles. *Fused*: a thread transforms a block, multiplies and transforms
back, everything in its own cache, while the weights stream by. *Staged*: three phases over all
threads, for few tiles and many channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.algorithm import Lowered, Operations
from convsmith.conv.algorithms.winograd_kernels import WinogradKernels
from convsmith.conv.geometry import Geometry
from convsmith.conv.spec import ConvSpec
from convsmith.conv.toom_cook import Transform, transform
from convsmith.kernel.target import Target
from convsmith.kernel.tile import tile_shapes
from convsmith.kernel.transforms import operation_count

__all__ = ["Winograd", "WinogradTiling"]

_UNIT_ROUNDOFF: Final = 2.0**-24
_ALPHAS: Final = (6, 8, 4)  # sizes of a transformed tile per axis; 8 is the limit of float32


@dataclass(frozen=True, slots=True, kw_only=True)
class WinogradTiling:
    """How Winograd's algorithm cuts its work.

    Attributes:
        m: Outputs of a tile per axis (rows, columns).
        rows: Tile rows of a block.
        columns: Tile columns of a block.
        height: Tiles of a register tile.
        vectors: Vectors of filters of a register tile.
        chunk: Channels that are gathered and transformed at a time.
        panels: Panels of filters of one item of the products' phase, if staged.
        staged: Whether the three steps are phases of all threads.
    """

    m: tuple[int, int]
    rows: int
    columns: int
    height: int
    vectors: int
    chunk: int
    panels: int
    staged: bool

    def __str__(self) -> str:
        size = f"{self.m[0]}x{self.m[1]}"
        way = f"staged {self.panels}" if self.staged else "fused"
        return (
            f"{size} block {self.rows}x{self.columns} tile {self.height}x{self.vectors} "
            f"channels {self.chunk} {way}"
        )


def _transforms(spec: ConvSpec, tiling: WinogradTiling) -> tuple[Transform, Transform]:
    kernel = Geometry.of(spec).kernel
    return transform(tiling.m[0], kernel[1]), transform(tiling.m[1], kernel[2])


class Winograd:
    """Dense kernels of 2 to 7 taps per axis, stride 1."""

    name = "winograd"

    def refuses(self, spec: ConvSpec) -> str:
        """Returns why it does not take a spec, or nothing."""
        g = Geometry.of(spec)
        if set(spec.stride) != {1}:
            return "its tiles need stride 1"
        if set(spec.dilation) != {1}:
            return "its tiles need dilation 1"
        if spec.groups != 1:
            return "its products need all channels in one group"
        if g.kernel[0] != 1 or g.output[0] != 1:
            return "it is written for one or two spatial axes"
        if max(g.kernel) == 1:
            return "a pointwise kernel has nothing to save"
        if max(g.kernel) > 7:
            return "kernels above 7 need tiles beyond float32's accuracy"
        return ""

    def tilings(self, spec: ConvSpec, target: Target, threads: int) -> tuple[WinogradTiling, ...]:
        """Returns both schedules for tile sizes that leave little waste."""
        g = Geometry.of(spec)
        found: list[tuple[float, WinogradTiling]] = []
        sizes = {self._sizes(g, alpha) for alpha in _ALPHAS}
        for m in sorted(size for size in sizes if size):
            for staged in (False, True):
                tiling = self._tiling(spec, target, threads, m, staged)
                if tiling is not None:
                    found.append((self._effort(spec, tiling), tiling))
        found.sort(key=lambda pair: pair[0])
        return tuple(tiling for _, tiling in found)

    @staticmethod
    def _sizes(g: Geometry, alpha: int) -> tuple[int, int] | tuple[()]:
        made = tuple(1 if taps == 1 else alpha - taps + 1 for taps in (g.kernel[1], g.kernel[2]))
        return (
            (made[0], made[1])
            if all(m >= 2 or k == 1 for m, k in zip(made, g.kernel[1:], strict=True))
            else ()
        )

    def _tiling(
        self, spec: ConvSpec, target: Target, threads: int, m: tuple[int, int], staged: bool
    ) -> WinogradTiling | None:
        g = Geometry.of(spec)
        lanes = target.lanes
        xi = math.prod(size + taps - 1 for size, taps in zip(m, g.kernel[1:], strict=True))
        high, wide = -(-g.rows // m[0]), -(-g.columns // m[1])
        height, vectors = tile_shapes(target)[0]
        vectors = min(vectors, -(-g.filters // lanes))
        deep = -(-g.channels // lanes) * lanes
        if staged:
            most = high * wide
        else:
            most = max(3 * target.level2 // 4 // (4 * xi * (deep + vectors * lanes)), 1)
            if most < min(6, high * wide):
                return None  # a block in the cache would be too small to be worth the weights' way
            most = min(most, max(height, high * wide * g.batch // (2 * threads)))
        columns = -(-wide // -(-wide // most))
        rows = max(1, min(high, most // columns)) if columns == wide else 1
        if staged:
            rows, columns = high, wide
        count = rows * columns
        height = -(-count // -(-count // height))
        chunks = deep // lanes
        chunk = (
            deep if g.channels % lanes else lanes * max(c for c in (1, 2, 3, 4) if chunks % c == 0)
        )
        all_panels = -(-g.filters // (vectors * lanes))
        items = g.batch * xi * all_panels
        panels = min(all_panels, max(1, items // (24 * threads)))
        return WinogradTiling(
            m=m, rows=rows, columns=columns, height=height, vectors=vectors, chunk=chunk,
            panels=panels if staged else all_panels, staged=staged,
        )  # fmt: skip

    def _effort(self, spec: ConvSpec, tiling: WinogradTiling) -> float:
        return self.operations(spec, tiling).mults

    def operations(self, spec: ConvSpec, tiling: WinogradTiling) -> Operations:
        """Returns products of transformed tiles and both transforms; border tiles count whole."""
        g = Geometry.of(spec)
        ty, tx = _transforms(spec, tiling)
        tiles = g.batch * -(-g.rows // ty.m) * -(-g.columns // tx.m)
        products = tiles * ty.alpha * tx.alpha * g.channels * g.filters
        mults, adds = products, products - tiles * ty.alpha * tx.alpha * g.filters
        for matrix, times, each in (
            (ty.inputs, tx.alpha, g.channels), (tx.inputs, ty.alpha, g.channels),
            (ty.outputs, tx.alpha, g.filters), (tx.outputs, ty.m, g.filters),
        ):  # fmt: skip
            m, a = operation_count(matrix)
            mults += tiles * times * each * m
            adds += tiles * times * each * a
        return Operations(mults=mults, adds=adds)

    def error_ratio(self, spec: ConvSpec, tiling: WinogradTiling) -> float:
        """Returns the product of both axes' amplifications."""
        ty, tx = _transforms(spec, tiling)
        return max(1.0, ty.amplification * tx.amplification)

    def error_bound(self, spec: ConvSpec, tiling: WinogradTiling) -> float:
        """Returns a bound over sum |w| |x|: norms of the matrices times the lengths of the sums.

        Barabasz et al. 2018, theorem 4, for two axes and the sum over channels.
        """
        ty, tx = _transforms(spec, tiling)
        g = Geometry.of(spec)
        steps, growth = g.channels + 1, 1.0
        for t in (ty, tx):
            for matrix in (t.inputs, t.outputs, t.filters):
                growth *= max(sum(abs(float(e)) for e in row) for row in matrix)
                steps += max(sum(1 for e in row if e) for row in matrix) + 1
        return steps * growth * _UNIT_ROUNDOFF

    def spread(self, spec: ConvSpec, tiling: WinogradTiling) -> tuple[int, ...]:
        """Returns the tile: a NaN or Inf reaches all outputs of every tile that reads it."""
        return tiling.m[2 - spec.rank :]

    def reference(
        self, spec: ConvSpec, x: NDArray[Any], w: NDArray[Any], tiling: WinogradTiling
    ) -> NDArray[Any]:
        """Returns the formula, tile by tile."""
        g = Geometry.of(spec)
        ty, tx = _transforms(spec, tiling)
        by, gy, ay, bx, gx, ax = (
            np.array(matrix, dtype=np.float64).astype(x.dtype)
            for t in (ty, tx)
            for matrix in (t.inputs, t.filters, t.outputs)
        )
        if spec.layout == "channels_last":
            x = np.moveaxis(x, -1, 1)
        x = x.reshape(g.batch, g.channels, *g.size[1:])
        high, wide = -(-g.rows // ty.m), -(-g.columns // tx.m)
        room = (high * ty.m + ty.r - 1, wide * tx.m + tx.r - 1)
        grid = np.zeros((g.batch, g.channels, *room), x.dtype)
        inside = x[:, :, : room[0] - g.before[1], : room[1] - g.before[2]]
        grid[:, :, g.before[1] :, g.before[2] :][:, :, : inside.shape[2], : inside.shape[3]] = (
            inside
        )
        filters = gy @ w.reshape(g.filters, g.channels, ty.r, tx.r) @ gx.T
        y = np.zeros((g.batch, g.filters, high * ty.m, wide * tx.m), x.dtype)
        for i, j in product(range(0, high * ty.m, ty.m), range(0, wide * tx.m, tx.m)):
            tile = by @ grid[:, :, i : i + ty.alpha, j : j + tx.alpha] @ bx.T
            sums = np.einsum("kcab,ncab->nkab", filters, tile)
            y[:, :, i : i + ty.m, j : j + tx.m] = ay @ sums @ ax.T
        y = y[:, :, : g.rows, : g.columns].reshape(g.batch, g.filters, *spec.output)
        return np.moveaxis(y, 1, -1) if spec.layout == "channels_last" else y

    def lower(self, spec: ConvSpec, target: Target, tiling: WinogradTiling) -> Lowered:
        """Returns one kernel, or three."""
        writer = WinogradKernels(spec, target, tiling)
        return Lowered(
            key=f"winograd {spec.with_batch(1)!r} {tiling} {target.lanes}",
            functions=("transform", "multiply", "restore") if tiling.staged else ("compute",),
            write=writer.write,
            pack=writer.pack,
            workspace=writer.workspace,
            phases=writer.phases,
        )
