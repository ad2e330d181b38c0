"""Winograd's minimal filtering: fewer multiplications through transforms of tiles.

A tile of m outputs per axis is A^T [ sum over c of (G g G^T) * (B^T d B) ] A (Lavin & Gray 2016,
equation 8), with the exact matrices of :mod:`convsmith.conv.toom_cook`; the sums over channels are
one matrix product per element of the transformed tile. Kernels of two sizes and of one axis work
alike: an axis of one tap is left alone. At stride 2 even and odd taps are filters of their own,
whose products are put together by one transform back.

Work is cut into blocks of tiles. *Fused*: a thread transforms a block, multiplies and transforms
back, everything in its own cache, while the weights stream by. *Staged*: three phases over all
threads, for few tiles and many channels. *Lean*: the weights stay as they are; a thread transforms
those of some filters, multiplies all tiles with them and transforms back, for many filters on
small images, where reading transformed weights would take longer than the products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.algorithm import Lowered, Operations
from convsmith.conv.algorithms.winograd_error import error_bound, error_ratio
from convsmith.conv.algorithms.winograd_kernels import WinogradKernels, transforms_of
from convsmith.conv.algorithms.winograd_lean import LeanKernels
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
_SLAB: Final = 32  # channels
_PLAUSIBLE: Final = 1.3  # times the best predicted time
_LARGEST_WORKSPACE: Final = 256 << 20  # bytes between phases


Schedule = Literal["fused", "staged", "lean"]


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
        schedule: ``fused``, ``staged`` or ``lean``.
        slab: Channels whose weights are transformed at a time, if lean; else 0.
    """

    m: tuple[int, int]
    rows: int
    columns: int
    height: int
    vectors: int
    chunk: int
    panels: int
    schedule: Schedule
    slab: int = 0

    def __str__(self) -> str:
        size = f"{self.m[0]}x{self.m[1]}"
        way = {
            "fused": "fused", "staged": f"staged {self.panels}",
            "lean": f"lean {self.slab}",
        }[self.schedule]  # fmt: skip
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


def _filter_operations(g: Geometry, m: tuple[int, int]) -> tuple[int, int]:
    """Returns (multiplications, additions) of the transform of one filter and channel."""
    down, across = transforms_of(g, m)
    both = (
        (operation_count(down.filters[: down.distinct]), across.r),
        (operation_count(across.filters[: across.distinct]), down.distinct),
    )
    mults, adds = (sum(count[i] * times for count, times in both) for i in (0, 1))
    return mults, adds


def _held(spec: ConvSpec, target: Target, tiling: WinogradTiling) -> int:
    """Returns the bytes of all transformed tiles and, if staged, of their products."""
    g, lanes = Geometry.of(spec), target.lanes
    vectors = -(-g.channels // lanes)
    if tiling.schedule == "staged":
        vectors += -(-g.filters // lanes)
    return 4 * lanes * g.batch * g.groups * _products(g, tiling.m) * vectors


def _cycles(spec: ConvSpec, target: Target, threads: int, tiling: WinogradTiling) -> float:
    """Returns a prediction of one thread's time, in vector operations.

    The products; the transforms, whose loads and stores count as well; weights that do not stay in
    the second-level cache; and, unless fused, what goes through the last level. That is taken to
    move half a vector to every thread in the time of one operation, memory a seventh to a thread
    and twice that to all of them.
    """
    lean = tiling.schedule == "lean"
    g, lanes = Geometry.of(spec), target.lanes
    images = g.batch * g.groups
    ty, tx = _transforms(spec, tiling)
    elements = ty.alpha * tx.alpha
    high, wide = -(-g.rows // ty.m), -(-g.columns // tx.m)
    tiles = images * high * wide
    deep, filters = -(-g.channels // lanes), -(-g.filters // lanes)
    count = tiling.rows * tiling.columns
    blocks = images * -(-high // tiling.rows) * -(-wide // tiling.columns)
    panels = -(-filters // tiling.vectors)
    items = {"fused": blocks, "staged": threads, "lean": blocks * panels}[tiling.schedule]
    idle = -(-items // threads) * threads / items
    sums = tiling.height * tiling.vectors
    products = idle * blocks * count * elements * g.channels * filters * max(1.0, 8 / sums)
    transforms = 0.0
    if lean:  # three sides of a row of G share one load
        work = sum(_filter_operations(g, tiling.m)) + 2 * ty.distinct * tx.distinct
        transforms += 0.7 * idle * blocks * g.channels * filters * work
    for matrix, times, vectors in (
        (ty.inputs, tx.alpha, deep), (tx.inputs, ty.alpha, deep),
        (ty.outputs, tx.alpha, filters), (tx.outputs, ty.m, filters),
    ):  # fmt: skip
        steps = sum(operation_count(matrix)) + len(matrix) + len(matrix[0])
        transforms += tiles * times * vectors * steps
    weights = (ty.r * tx.r if lean else ty.distinct * tx.distinct) * g.channels * filters
    passed = 0.0
    if weights * lanes * 4 > target.level2 // 2:
        # The last level loses them little by little, between 5/8 and 9/8 of its size.
        beyond = 4 * lanes * weights - 5 * target.level3 // 8
        far = min(max(2 * beyond, 0) / max(target.level3, 1), 1.0)
        often = 1 if tiling.schedule == "staged" else blocks
        # Blocks of the fused schedule that run side by side read the same weights.
        shared = 7.0 * blocks if tiling.schedule == "fused" else max(7.0, 3.5 * threads)
        passed += (2.0 * often * (1 - far) + shared * far) * weights
    held = _held(spec, target, tiling)
    if tiling.schedule != "fused" and held > target.level2:
        # The products are written and read as well if staged; if lean, each panel reads the tiles.
        moved = 4.0 if tiling.schedule == "staged" else 2.0 * (1 + idle * panels)
        passed += moved * held / (4 * lanes) * (1 if held <= target.level3 // 2 else 3)
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
        made = {
            way: [t for m in sizes if (t := self.tiling(spec, target, threads, m, way))]
            for way in get_args(Schedule)
        }
        for way in ("staged", "lean"):
            fitting = [t for t in made[way] if _held(spec, target, t) <= _LARGEST_WORKSPACE]
            made[way] = fitting if made["fused"] else made[way]
        cycles = {t: _cycles(spec, target, threads, t) for way in made for t in made[way]}
        possible = sorted(cycles, key=lambda t: cycles[t])
        # What is likely of each schedule and one as accurate as direct convolution have a place.
        best = {t.schedule: t for t in reversed(possible)}.values()
        others = [t for t in best if cycles[t] <= _PLAUSIBLE * cycles[possible[0]]]
        accurate = [t for t in possible if self.error_ratio(spec, t) <= _ACCURATE]
        likely = [possible[0], *others, *accurate[:1], *possible]
        chosen = tuple(dict.fromkeys(likely))[:_OFFERED]
        return tuple(sorted(chosen, key=possible.index))

    def tiling(
        self, spec: ConvSpec, target: Target, threads: int, m: tuple[int, int], schedule: Schedule
    ) -> WinogradTiling | None:
        """Returns how tiles of m outputs are cut in one schedule, or none if caches are too small.

        Args:
            spec: The problem.
            target: The machine.
            threads: How many share the work.
            m: Outputs of a tile per axis (rows, columns).
            schedule: ``fused``, ``staged`` or ``lean``.
        """
        g = Geometry.of(spec)
        lanes = target.lanes
        transforms = transforms_of(g, m)
        xi = math.prod(t.alpha for t in transforms)
        high, wide = -(-g.rows // m[0]), -(-g.columns // m[1])
        tiles = high * wide * g.batch * g.groups
        height, vectors = tile_shapes(target)[0]
        vectors = min(vectors, -(-g.filters // lanes))
        width = vectors * lanes
        all_panels = -(-g.filters // width)
        deep = -(-g.channels // lanes) * lanes
        slab, panels = 0, all_panels
        if schedule == "staged":
            most = high * wide
            panels = min(all_panels, max(1, g.groups * xi * all_panels // (24 * threads)))
        elif schedule == "lean":
            room, panels = 3 * target.level2 // 16, 1  # elements for weights and sums
            one = math.prod(t.distinct for t in transforms) * width
            slab = max(min(_SLAB, deep, room // 2 // one) // lanes, 1) * lanes
            slab = -(-deep // -(-deep // slab) // lanes) * lanes
            most = min((room - slab * one) // (xi * width), max(1, tiles * all_panels // threads))
            if most < 1:
                return None
        else:
            one = 4 * xi * (deep + width)
            least = min(_SMALLEST_BLOCK, high * wide)
            most = max(3 * target.level2 // 4 // one, 1)
            if most < least:
                most = least  # a smaller one is not worth the weights' way
                if most * one > 2 * target.level2:
                    return None
            most = min(most, max(height, tiles // (2 * threads)))
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
        return WinogradTiling(
            m=m, rows=rows, columns=columns, height=height, vectors=vectors, chunk=chunk,
            panels=panels, schedule=schedule, slab=slab,
        )  # fmt: skip

    def operations(self, spec: ConvSpec, tiling: WinogradTiling) -> Operations:
        """Returns products of transformed tiles and both transforms; border tiles count whole.

        Those of the weights count where they are made anew in every run.
        """
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
        if tiling.schedule == "lean":
            high, wide = -(-g.rows // ty.m), -(-g.columns // tx.m)
            blocks = g.batch * -(-high // tiling.rows) * -(-wide // tiling.columns)
            m, a = _filter_operations(g, tiling.m)
            mults += blocks * g.channels * g.filters * m
            adds += blocks * g.channels * g.filters * a
        return Operations(mults=mults, adds=adds)

    def error_ratio(self, spec: ConvSpec, tiling: WinogradTiling) -> float:
        """Returns the expected rms error over direct convolution's, within a factor of 1.5.

        See :mod:`convsmith.conv.algorithms.winograd_error`.
        """
        return self._error_ratio(Geometry.of(spec), tiling.m, tiling.schedule)

    @staticmethod
    def _error_ratio(g: Geometry, m: tuple[int, int], schedule: Schedule = "fused") -> float:
        on_the_way = schedule == "lean"
        return max(1.0, error_ratio(*transforms_of(g, m), g.channels, on_the_way=on_the_way))

    def error_bound(self, spec: ConvSpec, tiling: WinogradTiling) -> float:
        """Returns a bound of an output's error over the sum of |w| max |x|.

        The maximum is over the input tile of the output, channel by channel: what lies beside the
        taps in the tile takes part in the rounding.
        """
        transforms, channels = _transforms(spec, tiling), Geometry.of(spec).channels
        return error_bound(*transforms, channels, on_the_way=tiling.schedule == "lean")

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
        """Returns one kernel, or three, or two."""
        kind = LeanKernels if tiling.schedule == "lean" else WinogradKernels
        writer = kind(spec, target, tiling)
        return Lowered(
            key=f"winograd {spec.with_batch(1)!r} {tiling} {target.lanes} {writer.asks}",
            functions=writer.functions,
            write=writer.write,
            pack=writer.pack,
            workspace=writer.workspace,
            phases=writer.phases,
        )
