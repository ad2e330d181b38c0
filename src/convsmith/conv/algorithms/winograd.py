"""Winograd's minimal filtering: fewer multiplications through transforms of tiles.

A tile of m outputs per axis is A^T [ sum over c of (G g G^T) * (B^T d B) ] A (Lavin & Gray 2016,
equation 8), with the exact matrices of :mod:`convsmith.conv.toom_cook`; the sums over channels are
one matrix product per element of the transformed tile. Kernels of two sizes and of one axis work
alike: an axis of one tap is left alone. At stride 2 even and odd taps are filters of their own,
whose products are put together by one transform back.

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
from convsmith.conv.algorithms.winograd_error import error_bound, error_ratio
from convsmith.conv.algorithms.winograd_kernels import WinogradKernels, transforms_of
from convsmith.conv.geometry import Geometry
from convsmith.conv.spec import ConvSpec
from convsmith.conv.toom_cook import Transform
from convsmith.kernel.target import Target
from convsmith.kernel.tile import tile_shapes
from convsmith.kernel.transforms import operation_count

__all__ = ["Winograd", "WinogradTiling"]

_ALPHA: Final = 10  # the largest transformed tile per axis
_STRIDED_ALPHA: Final = 15  # the same at stride 2: two transforms side by side
_WORST: Final = 20.0  # error ratio: what choices accept by default; more is not offered
_ACCURATE: Final = 1.25  # error ratio
_OFFERED: Final = 4  # tilings of a spec that are worth measuring
_SMALLEST_GROUP: Final = 8
_SMALLEST_BLOCK: Final = 8  # tiles
_LARGEST_WORKSPACE: Final = 256 << 20  # bytes between the phases of the staged schedule


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
    return transforms_of(Geometry.of(spec), tiling.m)


def _sizes(outputs: int, taps: int, stride: int) -> tuple[int, ...]:
    """Returns the outputs per tile that one axis may have: those that no smaller tile covers."""
    if taps == 1:
        return (1,)
    largest = _ALPHA - taps + 1
    if stride == 2:  # m + (r + 1) // 2 - 1 and m + r // 2 - 1 multiplications
        largest = (_STRIDED_ALPHA - taps) // 2 + 1
    # A larger tile that leaves as many tiles only adds work.
    fewest = {-(-outputs // m): m for m in range(largest, 1, -1)}
    return tuple(sorted(fewest.values()))


def _products(g: Geometry, m: tuple[int, int]) -> int:
    """Returns how many elements the transformed tiles of one image and channel have."""
    return math.prod(
        -(-outputs // t.m) * t.alpha
        for outputs, t in zip((g.rows, g.columns), transforms_of(g, m), strict=True)
    )


def _held(spec: ConvSpec, target: Target, tiling: WinogradTiling) -> int:
    """Returns the bytes of all transformed tiles and their products."""
    g, lanes = Geometry.of(spec), target.lanes
    vectors = -(-g.channels // lanes) + -(-g.filters // lanes)
    return 4 * lanes * g.batch * g.groups * _products(g, tiling.m) * vectors


def _cycles(spec: ConvSpec, target: Target, threads: int, tiling: WinogradTiling) -> float:
    """Returns a prediction of one thread's time, in vector operations.

    The products; the transforms, whose loads and stores count as well; weights that do not stay in
    the second-level cache; and, if staged, what goes through the last level. That is taken to move
    half a vector to every thread in the time of one operation, memory a quarter to all of them.
    """
    g, lanes = Geometry.of(spec), target.lanes
    images = g.batch * g.groups
    ty, tx = _transforms(spec, tiling)
    elements = ty.alpha * tx.alpha
    high, wide = -(-g.rows // ty.m), -(-g.columns // tx.m)
    tiles = images * high * wide
    deep, filters = -(-g.channels // lanes), -(-g.filters // lanes)
    count = tiling.rows * tiling.columns
    blocks = images * -(-high // tiling.rows) * -(-wide // tiling.columns)
    rounds = -(-blocks // threads) * threads if not tiling.staged else blocks
    sums = tiling.height * tiling.vectors
    products = rounds * count * elements * g.channels * filters * max(1.0, 8 / sums)
    transforms = 0.0
    for matrix, times, vectors in (
        (ty.inputs, tx.alpha, deep), (tx.inputs, ty.alpha, deep),
        (ty.outputs, tx.alpha, filters), (tx.outputs, ty.m, filters),
    ):  # fmt: skip
        steps = sum(operation_count(matrix)) + len(matrix) + len(matrix[0])
        transforms += tiles * times * vectors * steps
    weights = ty.distinct * tx.distinct * g.channels * filters
    passed = 0.0
    if weights * lanes * 4 > target.level2 // 2:
        often = blocks if not tiling.staged else 1
        near = weights * lanes * 4 <= 3 * target.level3 // 4
        passed += (2.0 if near else 3.5 * threads) * weights * often
    if tiling.staged:
        held = _held(spec, target, tiling)
        if held > target.level2:
            passed += 4.0 * held / (4 * lanes) * (1 if held <= target.level3 // 2 else 3)
            # The transforms wait for memory themselves.
            transforms += 24.0 * max(held - 3 * target.level2, 0) / (4 * lanes)
    return (max(products, passed) + 0.25 * min(products, passed) + transforms) / threads


class Winograd:
    """Dense kernels of 2 to 7 taps per axis, stride 1 or 2."""

    name = "winograd"

    def refuses(self, spec: ConvSpec) -> str:
        """Returns why it does not take a spec, or nothing."""
        g = Geometry.of(spec)
        if max(spec.stride) > 2:
            return "its tiles need stride 1 or 2"
        if set(spec.dilation) != {1}:
            return "its tiles need dilation 1"
        if g.groups > 1 and min(g.channels, g.filters) < _SMALLEST_GROUP:
            return (
                f"groups below {_SMALLEST_GROUP} channels or filters leave its products too small"
            )
        if g.kernel[0] != 1 or g.output[0] != 1:
            return "it is written for one or two spatial axes"
        if max(g.kernel) == 1:
            return "a pointwise kernel has nothing to save"
        if all(k <= s for k, s in zip(spec.kernel, spec.stride, strict=True)):
            return "taps that share no input have nothing to save"
        if max(g.kernel) > 7:
            return "kernels above 7 need tiles beyond float32's accuracy"
        return ""

    def tilings(self, spec: ConvSpec, target: Target, threads: int) -> tuple[WinogradTiling, ...]:
        """Returns the most promising sizes of tiles in both schedules, by predicted time."""
        g = Geometry.of(spec)
        down = _sizes(g.rows, g.kernel[1], g.stride[1])
        across = _sizes(g.columns, g.kernel[2], g.stride[2])
        alike = down == across and g.rows == g.columns
        sizes = [m for m in product(down, across) if not alike or m[0] <= m[1]]
        sizes.sort(key=lambda m: self._error_ratio(g, m))
        sizes = [m for m in sizes if m == sizes[0] or self._error_ratio(g, m) <= _WORST]
        fused = [self._tiling(spec, target, threads, m, False) for m in sizes]
        staged = [self._tiling(spec, target, threads, m, True) for m in sizes]
        fitting = [t for t in staged if t and _held(spec, target, t) <= _LARGEST_WORKSPACE]
        possible = [t for t in (*fused, *(fitting if any(fused) else staged)) if t]
        possible.sort(key=lambda tiling: _cycles(spec, target, threads, tiling))
        # The other schedule and one as accurate as direct convolution have a place in any case.
        other = [t for t in possible if t.staged != possible[0].staged]
        accurate = [t for t in possible if self.error_ratio(spec, t) <= _ACCURATE]
        likely = [possible[0], *other[:1], *accurate[:1], *possible]
        chosen = tuple(dict.fromkeys(likely))[:_OFFERED]
        return tuple(sorted(chosen, key=possible.index))

    def _tiling(
        self, spec: ConvSpec, target: Target, threads: int, m: tuple[int, int], staged: bool
    ) -> WinogradTiling | None:
        g = Geometry.of(spec)
        lanes = target.lanes
        xi = math.prod(t.alpha for t in transforms_of(g, m))
        high, wide = -(-g.rows // m[0]), -(-g.columns // m[1])
        height, vectors = tile_shapes(target)[0]
        vectors = min(vectors, -(-g.filters // lanes))
        deep = -(-g.channels // lanes) * lanes
        if staged:
            rows, columns = high, wide
        else:
            one = 4 * xi * (deep + vectors * lanes)
            least = min(_SMALLEST_BLOCK, high * wide)
            most = max(3 * target.level2 // 4 // one, 1)
            if most < least:
                most = least  # a smaller one is not worth the weights' way
                if most * one > 2 * target.level2:
                    return None
            most = min(most, max(height, high * wide * g.batch * g.groups // (2 * threads)))
            columns = -(-wide // -(-wide // most))
            rows = max(1, min(high, most // columns)) if columns == wide else 1
            # The fewest rows of tiles past the end, then the fewest blocks.
            rows = min(range(rows, 0, -1), key=lambda n: -(-high // n) * n)
        count = rows * columns
        height = -(-count // -(-count // height))
        chunks = deep // lanes
        if g.channels % lanes:
            chunk = deep
        elif spec.layout == "channels_first":
            chunk = lanes  # a patch of one transpose stays in the first-level cache
        else:
            chunk = lanes * max(c for c in (1, 2, 3, 4) if chunks % c == 0)
        all_panels = -(-g.filters // (vectors * lanes))
        items = g.groups * xi * all_panels
        panels = min(all_panels, max(1, items // (24 * threads)))
        return WinogradTiling(
            m=m, rows=rows, columns=columns, height=height, vectors=vectors, chunk=chunk,
            panels=panels if staged else all_panels, staged=staged,
        )  # fmt: skip

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
        """Returns the expected rms error over direct convolution's, within a factor of 1.5.

        See :mod:`convsmith.conv.algorithms.winograd_error`.
        """
        return self._error_ratio(Geometry.of(spec), tiling.m)

    @staticmethod
    def _error_ratio(g: Geometry, m: tuple[int, int]) -> float:
        return max(1.0, error_ratio(*transforms_of(g, m), g.channels))

    def error_bound(self, spec: ConvSpec, tiling: WinogradTiling) -> float:
        """Returns a bound of an output's error over the sum of |w| max |x|.

        The maximum is over the input tile of the output, channel by channel: what lies beside the
        taps in the tile takes part in the rounding.
        """
        return error_bound(*_transforms(spec, tiling), Geometry.of(spec).channels)

    def spread(self, spec: ConvSpec, tiling: WinogradTiling) -> tuple[int, ...]:
        """Returns the tile: a NaN or Inf stays within the tiles that read it, and may fill them."""
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
        x = x.reshape(g.batch, g.groups, g.channels, *g.size[1:])
        high, wide = -(-g.rows // ty.m), -(-g.columns // tx.m)
        room = ((high - 1) * ty.step + ty.extent, (wide - 1) * tx.step + tx.extent)
        grid = np.zeros((*x.shape[:3], *room), x.dtype)
        inside = x[..., : room[0] - g.before[1], : room[1] - g.before[2]]
        inner = grid[..., g.before[1] :, g.before[2] :]
        inner[..., : inside.shape[-2], : inside.shape[-1]] = inside
        filters = gy @ w.reshape(g.groups, g.filters, g.channels, ty.r, tx.r) @ gx.T
        y = np.zeros((g.batch, g.groups, g.filters, high * ty.m, wide * tx.m), x.dtype)
        for i, j in product(range(high), range(wide)):
            top, left = i * ty.step, j * tx.step
            tile = by @ grid[..., top : top + ty.extent, left : left + tx.extent] @ bx.T
            sums = np.einsum("gkcab,ngcab->ngkab", filters, tile)
            place = (..., slice(i * ty.m, (i + 1) * ty.m), slice(j * tx.m, (j + 1) * tx.m))
            y[place] = ay @ sums @ ax.T
        y = y[..., : g.rows, : g.columns].reshape(g.batch, spec.filters, *spec.output)
        return np.moveaxis(y, 1, -1) if spec.layout == "channels_last" else y

    def lower(self, spec: ConvSpec, target: Target, tiling: WinogradTiling) -> Lowered:
        """Returns one kernel, or three."""
        writer = WinogradKernels(spec, target, tiling)
        return Lowered(
            key=f"winograd {spec.with_batch(1)!r} {tiling} {target.lanes} {writer.asks}",
            functions=("transform", "multiply", "restore") if tiling.staged else ("compute",),
            write=writer.write,
            pack=writer.pack,
            workspace=writer.workspace,
            phases=writer.phases,
        )
