"""A prediction of what a cut of Winograd's work costs, to rank cuts before any is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Final

from convsmith.conv.algorithms.winograd_strassen import half_of
from convsmith.conv.algorithms.winograd_tiling import THREE_PHASES, WinogradTiling
from convsmith.conv.geometry import Geometry
from convsmith.conv.spec import ConvSpec
from convsmith.conv.toom_cook import Matrix, transform
from convsmith.kernel.target import Target
from convsmith.kernel.transforms import operation_count

__all__ = ["filter_operations", "held_bytes", "predicted_cycles"]

_CHAIN: Final = 4.0  # sums of a register tile below which each waits for its last product
_BROADCAST: Final = 0.15  # of a product's time, per broadcast
_LOAD: Final = 0.8  # the same, per vector of weights
_SMOOTH: Final = 0.9  # the same, of a tile without either
_INWARDS, _OUTWARDS = 0.7, 0.5  # of a transform's steps: they run side by side
_ON_THE_WAY: Final = 0.5  # the same of filters
_PASS: Final = 4.0  # operations per channel around one pass over some columns of a row
_TRANSPOSED: Final = 6.0  # operations per vector that is gathered from planes, or scattered
_COPIED: Final = 2.0  # the same of pixels
_ITEM: Final = 1000.0  # operations around one block
_BARRIER: Final = 25_000.0  # operations until threads that share a phase have begun the next
_BESIDE: Final = 0.4  # of the shorter one of products and transfers
_BLOCKED: Final = 0.9  # of the products' time: 7 / 8, and what goes through the nearest cache
_SUMMING: Final = 12.0  # operations per vector of the tiles whose sums are made


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    """What the transforms of one axis come to."""

    alpha: int
    distinct: int
    step: int
    extent: int
    taps: int
    inputs: int  # operations, loads and stores per vector of a line
    outputs: int
    filters: tuple[int, int]  # multiplications and additions
    alone: tuple[int, int]  # the same, of every row of elements by itself


@cache
def _axis(m: int, taps: int, stride: int) -> _Axis:
    t = transform(m, taps, stride=stride)
    plain = transform(m, taps, stride=stride, plain_filters=True)

    def steps(matrix: Matrix) -> int:
        return sum(operation_count(matrix)) + len(matrix) + len(matrix[0])

    singles = [operation_count([row]) for row in plain.filters]
    return _Axis(
        alpha=t.alpha, distinct=t.distinct, step=t.step, extent=t.extent, taps=taps,
        inputs=steps(t.inputs), outputs=steps(t.outputs),
        filters=operation_count(plain.filters[: t.distinct]),
        alone=(sum(mults for mults, _ in singles), sum(adds for _, adds in singles)),
    )  # fmt: skip


def _axes(g: Geometry, m: tuple[int, int]) -> tuple[_Axis, _Axis]:
    return _axis(m[0], g.kernel[1], g.stride[1]), _axis(m[1], g.kernel[2], g.stride[2])


def filter_operations(g: Geometry, tiling: WinogradTiling) -> tuple[int, int]:
    """Returns (multiplications, additions) of the transform of one filter and channel on the way.

    Beside the products, columns are transformed once for every row of elements, one by one.
    """
    down, across = _axes(g, tiling.m)
    if tiling.beside:
        times, (mults, adds) = down.alpha, down.alone
    else:
        times, (mults, adds) = down.distinct, down.filters
    return (
        mults * across.taps + across.filters[0] * times,
        adds * across.taps + across.filters[1] * times,
    )


def held_bytes(spec: ConvSpec, target: Target, tiling: WinogradTiling) -> int:
    """Returns the bytes of all transformed tiles and, in three phases, of their products."""
    g, lanes = Geometry.of(spec), target.lanes
    down, across = _axes(g, tiling.m)
    elements = -(-g.rows // tiling.m[0]) * -(-g.columns // tiling.m[1]) * down.alpha * across.alpha
    vectors = -(-g.channels // lanes)
    if tiling.schedule in THREE_PHASES:
        vectors += -(-g.filters // lanes)
    return 4 * lanes * g.batch * g.groups * elements * vectors


def predicted_cycles(spec: ConvSpec, target: Target, threads: int, tiling: WinogradTiling) -> float:
    """Returns a prediction of one thread's time, in vector operations.

    The products, slower in register tiles that load much; the transforms, whose loads and stores
    count as well; moving the image in and out; weights that do not stay in the second-level cache;
    and, unless fused, what goes through the last level. That is taken to move half a vector to
    every thread in the time of one operation, memory a seventh to a thread and twice that to all
    of them.
    """
    lean, strassen = tiling.schedule == "lean", tiling.schedule == "strassen"
    fused = tiling.schedule == "fused"
    g, lanes = Geometry.of(spec), target.lanes
    images = g.batch * g.groups
    ty, tx = _axes(g, tiling.m)
    elements = ty.alpha * tx.alpha
    high, wide = -(-g.rows // tiling.m[0]), -(-g.columns // tiling.m[1])
    deep, filters = -(-g.channels // lanes), -(-g.filters // lanes)
    count = tiling.rows * tiling.columns
    blocks = images * -(-high // tiling.rows) * -(-wide // tiling.columns)
    tiles = blocks * count
    panels = -(-filters // tiling.vectors)
    items = {
        "fused": blocks, "staged": threads, "lean": blocks * panels,
        "strassen": g.groups * elements * tiling.pieces,
    }[tiling.schedule]  # fmt: skip
    idle = -(-items // threads) * threads / items
    # Products.
    waits, loads = 1.0, _BROADCAST
    if not tiling.beside:
        waits = max(1.0, _CHAIN / (tiling.height * tiling.vectors))
        loads = _BROADCAST / tiling.vectors + _LOAD / tiling.height
    products = tiles * elements * g.channels * panels * tiling.vectors * (waits * _SMOOTH + loads)
    moved = 0.0
    if strassen:
        products *= _saved(g, tiling, count, lanes)
        moved += _SUMMING * tiling.pieces * tiles * elements * deep
    # Transforms, and the way in and out.
    inwards = _INWARDS * tiles * deep * (tx.alpha * ty.inputs + ty.alpha * tx.inputs)
    outwards = _OUTWARDS * tiles * filters * (tx.alpha * ty.outputs + tiling.m[0] * tx.outputs)
    if lean:
        mults, adds = filter_operations(g, tiling)
        if tiling.beside:  # sums and differences run beside the products
            work = mults + _PASS * ty.alpha * -(-tx.alpha // tiling.beside)
        else:
            work = _ON_THE_WAY * (mults + adds + 2 * ty.distinct * tx.distinct)  # to and fro
        moved += blocks * g.channels * filters * work
    gathered = tiling.rows if fused else 1
    patch = ((gathered - 1) * ty.step + ty.extent) * ((tiling.columns - 1) * tx.step + tx.extent)
    each = _TRANSPOSED if spec.layout == "channels_first" else _COPIED
    around = each * (blocks * tiling.rows // gathered * patch * deep)
    around += each * images * g.rows * g.columns * filters
    # Weights.
    weights = (ty.taps * tx.taps if lean else ty.distinct * tx.distinct) * g.channels * filters
    weights += 3 * weights // 4 if strassen else 0  # seven sums of four blocks
    passed = 0.0
    if weights * lanes * 4 > target.level2 // 2:
        # The last level loses them little by little, between 5/8 and 9/8 of its size.
        beyond = 4 * lanes * weights - 5 * target.level3 // 8
        far = min(max(2 * beyond, 0) / max(target.level3, 1), 1.0)
        often = 1 if tiling.schedule in THREE_PHASES else blocks
        # Blocks of the fused schedule that run side by side read the same weights.
        shared = 7.0 * blocks if fused else max(7.0, 3.5 * threads)
        passed += (2.0 * often * (1 - far) + shared * far) * weights
    if count > tiling.height and 4 * lanes * g.channels * tiling.vectors > target.level1:
        # Every further tile of a block finds the panel's weights in the second level only.
        products += _LOAD * blocks * (-(-count // tiling.height) - 1) * weights
    held = held_bytes(spec, target, tiling)
    waiting = 0.0
    if not fused and held > target.level2:
        # In three phases the products go there as well; if lean, each panel reads the tiles.
        through = 4.0 if tiling.schedule in THREE_PHASES else 2.0 * (1 + idle * panels)
        passed += through * held / (4 * lanes) * (1 if held <= target.level3 // 2 else 3)
        # The transforms wait for memory themselves.
        waiting = 24.0 * max(held - 3 * target.level2, 0) / (4 * lanes)
    working = moved + max(products, passed) + _BESIDE * min(products, passed)
    if fused:
        return idle * (working + inwards + outwards + around + _ITEM * blocks) / threads
    if threads > 1:
        waiting += _BARRIER * threads * (1 if lean else 2)
    return (idle * working + inwards + outwards + around + waiting) / threads


def _saved(g: Geometry, tiling: WinogradTiling, tiles: int, lanes: int) -> float:
    """Returns the time of Strassen's products over the plain ones', with what fills up halves."""
    width = tiling.vectors * lanes
    wholes = (
        (2 * -(-tiles // 2), tiles), (2 * half_of(g.channels), g.channels),
        (2 * width * -(-g.filters // (2 * width)), width * -(-g.filters // width)),
    )  # fmt: skip
    return _BLOCKED * math.prod(whole / plain for whole, plain in wholes)
