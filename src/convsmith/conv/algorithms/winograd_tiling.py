"""How Winograd's algorithm cuts its work."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from convsmith.conv.algorithms.winograd_kernels import transforms_of
from convsmith.conv.geometry import Geometry
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.matrix import Parts
from convsmith.kernel.target import Target
from convsmith.kernel.tile import tile_shapes

__all__ = [
    "THREE_PHASES",
    "Schedule",
    "WinogradTiling",
    "cuts",
    "sizes_of",
]

_ALPHA: Final = 10  # the largest transformed tile per axis
_STRIDED_ALPHA: Final = 15  # the same at stride 2: two transforms side by side
_SMALLEST_BLOCK: Final = 8  # tiles: fewer are not worth the weights' way where caches are small
_PARTS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)  # of a side that is cut into blocks
_SLAB: Final = 32  # channels
_SHORT_SLAB: Final = 16  # the same of few tiles: their taps stay in the nearest cache
_FINE: Final = 8  # panels of a thread: with fewer, all wait for the slowest
_BLOCKED_ITEMS: Final = 8  # per thread, of Strassen's products
_ITEMS: Final = 12  # the same of products in three phases


Schedule = Literal["fused", "staged", "lean", "strassen"]

THREE_PHASES: Final = ("staged", "strassen")


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
        panels: Panels of filters of one item of the products' phase, if staged; else all.
        schedule: ``fused``, ``staged``, ``lean`` or ``strassen``.
        slab: Channels whose weights are transformed at a time, if lean; else 0.
        beside: Columns of elements whose weights are made in registers, beside their products, if
            lean and of few tiles; else 0.
        pieces: Items of the products' phase that the filters are cut into, if strassen; else 0.
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
    beside: int = 0
    pieces: int = 0

    @property
    def tiles(self) -> int:
        """Tiles of a block."""
        return self.rows * self.columns

    @property
    def on_the_way(self) -> bool:
        """Whether filters are transformed in every run."""
        return self.schedule == "lean"

    def __str__(self) -> str:
        size = f"{self.m[0]}x{self.m[1]}"
        way = {
            "fused": "fused", "staged": f"staged {self.panels}",
            "lean": f"lean {self.slab}" + (f" beside {self.beside}" if self.beside else ""),
            "strassen": f"strassen {self.pieces}",
        }[self.schedule]  # fmt: skip
        return (
            f"{size} block {self.rows}x{self.columns} tile {self.height}x{self.vectors} "
            f"channels {self.chunk} {way}"
        )


def sizes_of(outputs: int, taps: int, stride: int) -> tuple[int, ...]:
    """Returns the outputs per tile that one axis may have: those that no smaller tile covers."""
    if taps == 1:
        return (1,)
    largest = _ALPHA - taps + 1
    if stride == 2:  # m + (r + 1) // 2 - 1 and m + r // 2 - 1 multiplications
        largest = (_STRIDED_ALPHA - taps) // 2 + 1
    # A larger tile that leaves as many tiles only adds work.
    fewest = {-(-outputs // m): m for m in range(largest, 1, -1)}
    return tuple(sorted(fewest.values()))


def cuts(
    spec: ConvSpec, target: Target, threads: int, m: tuple[int, int], schedule: Schedule
) -> tuple[WinogradTiling, ...]:
    """Returns the ways to cut tiles of m outputs in one schedule: none if caches are too small.

    Args:
        spec: The problem.
        target: The machine.
        threads: How many share the work.
        m: Outputs of a tile per axis (rows, columns).
        schedule: ``fused``, ``staged``, ``lean`` or ``strassen``.
    """
    g, lanes = Geometry.of(spec), target.lanes
    high, wide = -(-g.rows // m[0]), -(-g.columns // m[1])
    if schedule == "fused":
        return _fused_cuts(spec, target, m, (high, wide))
    transforms = transforms_of(g, m)
    xi = math.prod(t.alpha for t in transforms)
    tiles = high * wide * g.batch * g.groups
    height, vectors = tile_shapes(target)[0]
    sums = target.registers // 2  # the rest is for weights and for what they are made of
    few = schedule == "lean" and 2 * high * wide <= sums  # two columns, a pair of points
    if schedule == "lean":
        # A slab of one vector has half the weights, but needs a broadcast for every product, an
        # instruction of its own where registers are few.
        free = target.registers >= 32
        narrow = few or free or g.filters < _FINE * threads * vectors * lanes
    else:  # such a panel of weights stays in the nearest cache, beside the tiles
        near = schedule == "staged" and 16 * lanes * g.channels <= target.level1
        narrow = near and high * wide > _SMALLEST_BLOCK
    if narrow:
        height, vectors = next(shape for shape in tile_shapes(target) if shape[1] == 1)
    vectors = min(vectors, -(-g.filters // lanes))
    width = vectors * lanes
    all_panels = -(-g.filters // width)
    deep = -(-g.channels // lanes) * lanes
    slab, panels, pieces = 0, all_panels, 0
    most = high * wide
    if schedule == "staged":
        panels = min(all_panels, max(1, g.groups * xi * all_panels // (_ITEMS * threads)))
    elif schedule == "strassen":
        pieces = min(-(-all_panels // 2), -(-_BLOCKED_ITEMS * threads // (g.groups * xi)))
    else:
        room, panels = 3 * target.level2 // 16, 1  # elements for weights and sums
        one = (transforms[1].r if few else math.prod(t.distinct for t in transforms)) * width
        longest = _SHORT_SLAB if few else _SLAB
        slab = max(min(longest, deep, room // 2 // one) // lanes, 1) * lanes
        slab = -(-deep // -(-deep // slab) // lanes) * lanes
        most = min((room - slab * one) // (xi * width), max(1, tiles * all_panels // threads))
        if most < 1:
            return ()
    columns = -(-wide // -(-wide // most))
    rows = max(1, min(high, most // columns)) if columns == wide else 1
    # The fewest rows of tiles past the end, then the fewest blocks.
    rows = min(range(rows, 0, -1), key=lambda n: -(-high // n) * n)
    count = rows * columns
    if schedule == "strassen":
        count = -(-count // 2)  # pairs
    made = WinogradTiling(
        m=m, rows=rows, columns=columns, height=Parts.of(count, most=height).longest,
        vectors=vectors,
        chunk=_chunk(spec, lanes), panels=panels, schedule=schedule, slab=slab,
        beside=sums // count if few else 0, pieces=pieces,
    )  # fmt: skip
    return (made,)


def _fused_cuts(
    spec: ConvSpec, target: Target, m: tuple[int, int], tiles: tuple[int, int]
) -> tuple[WinogradTiling, ...]:
    """Returns blocks of some rows of tiles, or of a part of one, that stay in a thread's cache."""
    g, lanes = Geometry.of(spec), target.lanes
    high, wide = tiles
    ty, tx = transforms_of(g, m)
    xi, chunk = ty.alpha * tx.alpha, _chunk(spec, lanes)
    deep, filters = -(-g.channels // lanes) * lanes, -(-g.filters // lanes)
    rows = {(-(-high // part), wide) for part in _PARTS}
    blocks = sorted(rows | {(1, -(-wide // part)) for part in _PARTS})
    least = min(_SMALLEST_BLOCK, high * wide)
    shapes = {min(vectors, filters): height for height, vectors in reversed(tile_shapes(target))}

    def held(down: int, across: int, vectors: int) -> int:
        """Bytes of a block's patch, its transformed tiles and one panel of their products."""
        lines, columns = (down - 1) * ty.step + ty.extent, (across - 1) * tx.step + tx.extent
        return 4 * (lines * columns * chunk + xi * down * across * (deep + vectors * lanes))

    def fitting(most: int, room: int) -> tuple[WinogradTiling, ...]:
        return tuple(
            WinogradTiling(
                m=m, rows=down, columns=across, height=Parts.of(down * across, most=height).longest,
                vectors=vectors, chunk=chunk, panels=-(-filters // vectors), schedule="fused",
            )
            for down, across in blocks
            for vectors, height in shapes.items()
            if down * across <= most and held(down, across, vectors) <= room
        )  # fmt: skip

    # A little more than fits: of the patch and the products only a part is in use.
    return fitting(high * wide, target.level2 * 9 // 8) or fitting(least, 2 * target.level2)


def _chunk(spec: ConvSpec, lanes: int) -> int:
    """Returns how many channels are gathered and transformed at a time."""
    channels = Geometry.of(spec).channels
    deep = -(-channels // lanes) * lanes
    if channels % lanes:
        return deep
    if spec.layout == "channels_first":
        return lanes  # a patch of one transpose stays in the first-level cache
    return lanes * max(c for c in (1, 2, 3, 4) if deep // lanes % c == 0)
