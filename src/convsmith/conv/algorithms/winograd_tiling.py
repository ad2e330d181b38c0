"""How Winograd's algorithm cuts its work, and a prediction of what a cut costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from convsmith.conv.algorithms.winograd_kernels import transforms_of
from convsmith.conv.algorithms.winograd_strassen import half_of
from convsmith.conv.geometry import Geometry
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.target import Target
from convsmith.kernel.tile import tile_shapes
from convsmith.kernel.transforms import operation_count

__all__ = [
    "Schedule",
    "WinogradTiling",
    "cut",
    "filter_operations",
    "held_bytes",
    "predicted_cycles",
    "sizes_of",
]

_ALPHA: Final = 10  # the largest transformed tile per axis
_STRIDED_ALPHA: Final = 15  # the same at stride 2: two transforms side by side
_SMALLEST_BLOCK: Final = 8  # tiles
_SLAB: Final = 32  # channels
_FINE: Final = 8  # panels of a thread: with fewer, all wait for the slowest
_BLOCKED: Final = 0.9  # of the products' time: 7 / 8, and what goes through the nearest cache
_SUMMING: Final = 12.0  # operations per vector of the tiles whose sums are made
_ITEMS: Final = 8  # per thread, of Strassen's products


Schedule = Literal["fused", "staged", "lean", "strassen"]

_THREE_PHASES: Final = ("staged", "strassen")


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
    pieces: int = 0

    def __str__(self) -> str:
        size = f"{self.m[0]}x{self.m[1]}"
        way = {
            "fused": "fused", "staged": f"staged {self.panels}",
            "lean": f"lean {self.slab}", "strassen": f"strassen {self.pieces}",
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


def _elements(g: Geometry, m: tuple[int, int]) -> int:
    """Returns how many elements the transformed tiles of one image and channel have."""
    return math.prod(
        -(-outputs // t.m) * t.alpha
        for outputs, t in zip((g.rows, g.columns), transforms_of(g, m), strict=True)
    )


def filter_operations(g: Geometry, m: tuple[int, int]) -> tuple[int, int]:
    """Returns (multiplications, additions) of the transform of one filter and channel."""
    down, across = transforms_of(g, m)
    both = (
        (operation_count(down.filters[: down.distinct]), across.r),
        (operation_count(across.filters[: across.distinct]), down.distinct),
    )
    mults, adds = (sum(count[i] * times for count, times in both) for i in (0, 1))
    return mults, adds


def held_bytes(spec: ConvSpec, target: Target, tiling: WinogradTiling) -> int:
    """Returns the bytes of all transformed tiles and, in three phases, of their products."""
    g, lanes = Geometry.of(spec), target.lanes
    vectors = -(-g.channels // lanes)
    if tiling.schedule in _THREE_PHASES:
        vectors += -(-g.filters // lanes)
    return 4 * lanes * g.batch * g.groups * _elements(g, tiling.m) * vectors


def predicted_cycles(spec: ConvSpec, target: Target, threads: int, tiling: WinogradTiling) -> float:
    """Returns a prediction of one thread's time, in vector operations.

    The products; the transforms, whose loads and stores count as well; weights that do not stay in
    the second-level cache; and, unless fused, what goes through the last level. That is taken to
    move half a vector to every thread in the time of one operation, memory a seventh to a thread
    and twice that to all of them.
    """
    lean, strassen = tiling.schedule == "lean", tiling.schedule == "strassen"
    g, lanes = Geometry.of(spec), target.lanes
    images = g.batch * g.groups
    ty, tx = transforms_of(g, tiling.m)
    elements = ty.alpha * tx.alpha
    high, wide = -(-g.rows // ty.m), -(-g.columns // tx.m)
    tiles = images * high * wide
    deep, filters = -(-g.channels // lanes), -(-g.filters // lanes)
    count = tiling.rows * tiling.columns
    blocks = images * -(-high // tiling.rows) * -(-wide // tiling.columns)
    panels = -(-filters // tiling.vectors)
    items = {
        "fused": blocks, "staged": threads, "lean": blocks * panels,
        "strassen": g.groups * elements * tiling.pieces,
    }[tiling.schedule]  # fmt: skip
    idle = -(-items // threads) * threads / items
    sums = tiling.height * tiling.vectors
    products = idle * blocks * count * elements * g.channels * filters * max(1.0, 8 / sums)
    transforms = 0.0
    if strassen:
        products *= _saved(g, tiling, count, lanes)
        transforms += _SUMMING * idle * tiling.pieces * tiles * elements * deep
    if lean:  # three sides of a row of G share one load
        work = sum(filter_operations(g, tiling.m)) + 2 * ty.distinct * tx.distinct
        transforms += 0.7 * idle * blocks * g.channels * filters * work
    for matrix, times, vectors in (
        (ty.inputs, tx.alpha, deep), (tx.inputs, ty.alpha, deep),
        (ty.outputs, tx.alpha, filters), (tx.outputs, ty.m, filters),
    ):  # fmt: skip
        steps = sum(operation_count(matrix)) + len(matrix) + len(matrix[0])
        transforms += tiles * times * vectors * steps
    weights = (ty.r * tx.r if lean else ty.distinct * tx.distinct) * g.channels * filters
    weights += 3 * weights // 4 if strassen else 0  # seven sums of four blocks
    passed = 0.0
    if weights * lanes * 4 > target.level2 // 2:
        # The last level loses them little by little, between 5/8 and 9/8 of its size.
        beyond = 4 * lanes * weights - 5 * target.level3 // 8
        far = min(max(2 * beyond, 0) / max(target.level3, 1), 1.0)
        often = 1 if tiling.schedule in _THREE_PHASES else blocks
        # Blocks of the fused schedule that run side by side read the same weights.
        shared = 7.0 * blocks if tiling.schedule == "fused" else max(7.0, 3.5 * threads)
        passed += (2.0 * often * (1 - far) + shared * far) * weights
    held = held_bytes(spec, target, tiling)
    if tiling.schedule != "fused" and held > target.level2:
        # In three phases the products go there as well; if lean, each panel reads the tiles.
        moved = 4.0 if tiling.schedule in _THREE_PHASES else 2.0 * (1 + idle * panels)
        passed += moved * held / (4 * lanes) * (1 if held <= target.level3 // 2 else 3)
        # The transforms wait for memory themselves.
        transforms += 24.0 * max(held - 3 * target.level2, 0) / (4 * lanes)
    return (max(products, passed) + 0.25 * min(products, passed) + transforms) / threads


def _saved(g: Geometry, tiling: WinogradTiling, tiles: int, lanes: int) -> float:
    """Returns the time of Strassen's products over the plain ones', with what fills up halves."""
    width = tiling.vectors * lanes
    wholes = (
        (2 * -(-tiles // 2), tiles), (2 * half_of(g.channels), g.channels),
        (2 * width * -(-g.filters // (2 * width)), width * -(-g.filters // width)),
    )  # fmt: skip
    return _BLOCKED * math.prod(whole / plain for whole, plain in wholes)


def cut(
    spec: ConvSpec, target: Target, threads: int, m: tuple[int, int], schedule: Schedule
) -> WinogradTiling | None:
    """Returns how tiles of m outputs are cut in one schedule, or none if caches are too small.

    Args:
        spec: The problem.
        target: The machine.
        threads: How many share the work.
        m: Outputs of a tile per axis (rows, columns).
        schedule: ``fused``, ``staged``, ``lean`` or ``strassen``.
    """
    g = Geometry.of(spec)
    lanes = target.lanes
    transforms = transforms_of(g, m)
    xi = math.prod(t.alpha for t in transforms)
    high, wide = -(-g.rows // m[0]), -(-g.columns // m[1])
    tiles = high * wide * g.batch * g.groups
    height, vectors = tile_shapes(target)[0]
    if schedule == "lean" and g.filters < _FINE * threads * vectors * lanes:
        height, vectors = next(shape for shape in tile_shapes(target) if shape[1] == 1)
    vectors = min(vectors, -(-g.filters // lanes))
    width = vectors * lanes
    all_panels = -(-g.filters // width)
    deep = -(-g.channels // lanes) * lanes
    slab, panels, pieces = 0, all_panels, 0
    if schedule in _THREE_PHASES:
        most = high * wide
        if schedule == "staged":
            panels = min(all_panels, max(1, g.groups * xi * all_panels // (24 * threads)))
        else:
            pieces = min(-(-all_panels // 2), -(-_ITEMS * threads // (g.groups * xi)))
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
    if schedule == "strassen":
        count = -(-count // 2)  # pairs
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
        panels=panels, schedule=schedule, slab=slab, pieces=pieces,
    )  # fmt: skip
