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
small images, where reading transformed weights would take longer than the products. *Strassen*:
staged, and the products by Strassen's algorithm, for many channels, filters and tiles.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import product
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.algorithm import Lowered, Operations
from convsmith.conv.algorithms.winograd_beside import BesideKernels
from convsmith.conv.algorithms.winograd_error import error_bound, error_ratio
from convsmith.conv.algorithms.winograd_kernels import WinogradKernels, transforms_of
from convsmith.conv.algorithms.winograd_lean import LeanKernels
from convsmith.conv.algorithms.winograd_prediction import (
    filter_operations,
    held_bytes,
    predicted_cycles,
)
from convsmith.conv.algorithms.winograd_strassen import StrassenKernels, half_of
from convsmith.conv.algorithms.winograd_tiling import (
    Schedule,
    WinogradTiling,
    cuts,
    sizes_of,
)
from convsmith.conv.geometry import Geometry
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.strassen import LEFT, product_by_blocks
from convsmith.kernel.target import Target
from convsmith.kernel.transforms import operation_count

__all__ = ["Schedule", "Winograd", "WinogradTiling"]

_WORST: Final = 20.0  # error ratio: what choices accept by default; more is not offered
_ACCURATE: Final = 1.25  # error ratio
_OFFERED: Final = 4  # tilings of a spec that are worth measuring
_SMALLEST_GROUP: Final = 8
_PLAUSIBLE: Final = 1.3  # times the best predicted time
_COLD: Final = 1.7  # the same, for the schedule that reads the fewest weights
_CLOSE: Final = 1.08  # the same: only a measurement can tell
_LARGEST_WORKSPACE: Final = 256 << 20  # bytes between phases
_SMALLEST_BLOCKED: Final = 256  # channels and filters of a group below which Strassen does not pay


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
        """Returns the most promising sizes of tiles in all schedules, by predicted time."""
        g = Geometry.of(spec)
        down = sizes_of(g.rows, g.kernel[1], g.stride[1])
        across = sizes_of(g.columns, g.kernel[2], g.stride[2])
        alike = down == across and g.rows == g.columns
        sizes = [m for m in product(down, across) if not alike or m[0] <= m[1]]
        sizes.sort(key=lambda m: self._error_ratio(g, m))
        sizes = [m for m in sizes if m == sizes[0] or self._error_ratio(g, m) <= _WORST]
        ways: tuple[Schedule, ...] = get_args(Schedule)
        if min(g.channels, g.filters) < _SMALLEST_BLOCKED:
            ways = tuple(way for way in ways if way != "strassen")
        cycles: dict[WinogradTiling, float] = {}

        def by_time(some: Iterable[WinogradTiling]) -> list[WinogradTiling]:
            return sorted(some, key=lambda t: cycles[t])

        made: dict[Schedule, list[WinogradTiling]] = {}
        for way in ways:
            made[way] = []
            for m in sizes:
                possible = cuts(spec, target, threads, m, way)
                cycles |= {t: predicted_cycles(spec, target, threads, t) for t in possible}
                made[way] += by_time(possible)[:1]
            if way != "fused" and made["fused"]:
                made[way] = [
                    t for t in made[way] if held_bytes(spec, target, t) <= _LARGEST_WORKSPACE
                ]
        blocked = by_time(made.pop("strassen", []))
        ranked = by_time(t for way in made for t in made[way])
        first = ranked[0]
        # What is likely of each schedule and one as accurate as direct convolution have a place.
        best = {t.schedule: t for t in reversed(ranked)}.values()
        others = [t for t in best if cycles[t] <= _PLAUSIBLE * cycles[first]]
        accurate = [t for t in ranked if self.error_ratio(spec, t) <= _ACCURATE]
        likely = [first, *others, *accurate[:1], *ranked]
        chosen = list(dict.fromkeys(likely))[:_OFFERED]
        # Where threads are disturbed, blocks of half the size may be faster than what shares more.
        if first.schedule == "fused":
            same = cuts(spec, target, threads, first.m, "fused")
            finer = by_time(t for t in same if 2 * t.tiles <= first.tiles)
            chosen += [t for t in finer[:1] if cycles[t] <= _PLAUSIBLE * cycles[first]]
        # Strassen's products cost accuracy, like a larger tile: not worth it where that is faster.
        enough = _CLOSE * cycles[first]
        fit = [t for t in blocked if cycles[t] < enough and self.error_ratio(spec, t) <= _WORST]
        chosen += fit[:1]
        # Where weights come from memory, in a network of many layers, the fewest may win.
        heavy = 4 * math.prod(spec.weight_shape) > target.level2 // 2
        slow = _COLD * cycles[first]
        lean = [t for t in ranked if heavy and t.schedule == "lean" and cycles[t] <= slow]
        lean = lean[:1] + [t for t in lean[1:2] if cycles[t] <= _CLOSE * cycles[first]]
        chosen = list(dict.fromkeys([*chosen, *lean]))
        return tuple(by_time(chosen))

    def tiling(
        self, spec: ConvSpec, target: Target, threads: int, m: tuple[int, int], schedule: Schedule
    ) -> WinogradTiling | None:
        """Returns how tiles of m outputs (rows, columns) are best cut in one schedule.

        None if caches are too small for it.
        """
        possible = cuts(spec, target, threads, m, schedule)
        return min(possible, key=lambda t: predicted_cycles(spec, target, threads, t), default=None)

    def operations(self, spec: ConvSpec, tiling: WinogradTiling) -> Operations:
        """Returns products of transformed tiles and both transforms; border tiles count whole.

        Those of the weights count where they are made anew in every run.
        """
        g = Geometry.of(spec)
        ty, tx = transforms_of(g, tiling.m, plain_filters=tiling.on_the_way)
        high, wide = -(-g.rows // ty.m), -(-g.columns // tx.m)
        images, elements = g.batch * g.groups, ty.alpha * tx.alpha
        tiles = images * high * wide
        if tiling.schedule == "strassen":
            pairs = images * -(-high * wide // 2) * elements
            half, filters = half_of(g.channels), -(-g.filters // 2)
            # A product is summed on top of another one, or on zeros; four sums of two give blocks,
            # four additions the sums of tiles.
            mults = len(LEFT) * pairs * half * filters
            adds = mults + 4 * pairs * (filters + tiling.pieces * half)
        else:
            mults = tiles * elements * g.channels * g.filters
            adds = mults - tiles * elements * g.filters
        for matrix, times, each in (
            (ty.inputs, tx.alpha, g.channels), (tx.inputs, ty.alpha, g.channels),
            (ty.outputs, tx.alpha, g.filters), (tx.outputs, ty.m, g.filters),
        ):  # fmt: skip
            m, a = operation_count(matrix)
            mults += tiles * times * each * m
            adds += tiles * times * each * a
        if tiling.on_the_way:
            blocks = images * -(-high // tiling.rows) * -(-wide // tiling.columns)
            m, a = filter_operations(g, tiling)
            mults += blocks * g.channels * g.filters * m
            adds += blocks * g.channels * g.filters * a
        return Operations(mults=mults, adds=adds)

    def error_ratio(self, spec: ConvSpec, tiling: WinogradTiling) -> float:
        """Returns the expected rms error over direct convolution's, within a factor of 1.5.

        See :mod:`convsmith.conv.algorithms.winograd_error`.
        """
        g = Geometry.of(spec)
        ratio = error_ratio(
            *transforms_of(g, tiling.m, plain_filters=tiling.on_the_way), g.channels,
            slab=tiling.slab or None, blocked=tiling.schedule == "strassen",
        )  # fmt: skip
        return max(1.0, ratio)

    @staticmethod
    def _error_ratio(g: Geometry, m: tuple[int, int]) -> float:
        """The same for filters that are transformed beforehand, in one chain of sums."""
        return max(1.0, error_ratio(*transforms_of(g, m), g.channels))

    def error_bound(self, spec: ConvSpec, tiling: WinogradTiling) -> float:
        """Returns a bound of an output's error over the sum of |w| max |x|.

        The maximum is over the input tile of the output, channel by channel: what lies beside the
        taps in the tile takes part in the rounding. In the schedule of Strassen filters, channels
        and two tiles are mixed: the largest sum of |w| of a group's filters, times the largest |x|
        of all channels in both input tiles.
        """
        g = Geometry.of(spec)
        return error_bound(
            *transforms_of(g, tiling.m, plain_filters=tiling.on_the_way), g.channels,
            slab=tiling.slab or None, blocked=tiling.schedule == "strassen",
        )  # fmt: skip

    def spread(self, spec: ConvSpec, tiling: WinogradTiling) -> tuple[int, ...]:
        """Returns the tile: a NaN or Inf stays within the tiles that read it, and may fill them.

        In the schedule of Strassen it fills both tiles of a pair: neighbours in their row, where
        its tiles are even in number; else two whole rows of tiles keep their pairs to themselves.
        """
        m = tiling.m
        if tiling.schedule == "strassen":
            g = Geometry.of(spec)
            even = -(-g.columns // m[1]) % 2 == 0
            m = (m[0], min(2 * m[1], g.columns)) if even else (min(2 * m[0], g.rows), g.columns)
        return m[2 - spec.rank :]

    def reference(
        self, spec: ConvSpec, x: NDArray[Any], w: NDArray[Any], tiling: WinogradTiling
    ) -> NDArray[Any]:
        """Returns the formula, tile by tile."""
        g = Geometry.of(spec)
        ty, tx = transforms_of(g, tiling.m, plain_filters=tiling.on_the_way)
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
        corners = [(i * ty.step, j * tx.step) for i, j in product(range(high), range(wide))]
        windows = [grid[..., i : i + ty.extent, j : j + tx.extent] for i, j in corners]
        tiles = by @ np.stack(windows, axis=3) @ bx.T
        multiplied = _by_blocks if tiling.schedule == "strassen" else _multiplied
        outputs = ay @ multiplied(filters, tiles) @ ax.T
        outputs = outputs.reshape(*outputs.shape[:3], high, wide, ty.m, tx.m).swapaxes(-3, -2)
        y = outputs.reshape(g.batch, g.groups, g.filters, high * ty.m, wide * tx.m)
        y = y[..., : g.rows, : g.columns].reshape(g.batch, spec.filters, *spec.output)
        return np.moveaxis(y, 1, -1) if spec.layout == "channels_last" else y

    def lower(self, spec: ConvSpec, target: Target, tiling: WinogradTiling) -> Lowered:
        """Returns one kernel, or three, or two."""
        kinds = {
            "lean": BesideKernels if tiling.beside else LeanKernels,
            "strassen": StrassenKernels,
        }
        writer = kinds.get(tiling.schedule, WinogradKernels)(spec, target, tiling)
        return Lowered(
            key=f"winograd {spec.with_batch(1)!r} {tiling} {target.lanes} {writer.choices}",
            functions=writer.functions,
            write=writer.write,
            pack=writer.pack,
            workspace=writer.workspace,
            phases=writer.phases,
        )


def _multiplied(filters: NDArray[Any], tiles: NDArray[Any]) -> NDArray[Any]:
    """Returns the products [image][group][filter][tile], element by element."""
    return np.asarray(np.einsum("gkcab,ngctab->ngktab", filters, tiles))


def _by_blocks(filters: NDArray[Any], tiles: NDArray[Any]) -> NDArray[Any]:
    """Returns the same by Strassen's algorithm; which rows are whose halves does not matter."""
    y = np.empty((*tiles.shape[:2], filters.shape[1], *tiles.shape[3:]), tiles.dtype)
    for n, g, a, b in np.ndindex(*tiles.shape[:2], *tiles.shape[4:]):
        left, right = filters[g, ..., a, b], tiles[n, g, ..., a, b]
        y[n, g, ..., a, b] = product_by_blocks(left, right, 1)
    return y
