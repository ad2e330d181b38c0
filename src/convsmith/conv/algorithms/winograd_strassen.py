"""Winograd's products by Strassen's algorithm: seven products of blocks for eight, one level.

Per element of the transformed tiles there is one product of matrices: filters by channels by tiles.
Here each side is cut in two: tiles alternate, neighbours side by side in a row of the image where
their number is even; channels are the first and the second half; filters alternate panel by panel.
An item of work is an element and some pairs of panels. It makes the sums of tiles once, from the
transformed tiles into a thread's own cache, and puts the products together there, register tile by
register tile (:mod:`convsmith.kernel.strassen`), so that neither the sums nor the seven products go
through the last level: what stands between the phases is what stands there in the staged schedule,
whose transforms are used as they are. The sums of weights are made when they are packed.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from operator import and_
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.algorithm import BATCH, WEIGHTS, WORKSPACE
from convsmith.conv.algorithms.winograd_kernels import WinogradKernels
from convsmith.kernel.emit import Code, Value
from convsmith.kernel.matrix import Parts, odd_pitch
from convsmith.kernel.strassen import LEFT, multiply_tiles, right_sums, scratch_elements
from convsmith.kernel.tile import Tile

if TYPE_CHECKING:
    from convsmith.conv.algorithms.winograd_tiling import WinogradTiling
    from convsmith.conv.spec import ConvSpec
    from convsmith.kernel.target import Target

__all__ = ["StrassenKernels", "half_of"]

_LINE: Final = 16  # elements of a cache line
_WIDEST: Final = 16  # lanes: halves of channels are whole vectors of any width


def half_of(channels: int) -> int:
    """Returns how many channels the first half has; the second is filled up with zeros.

    >>> half_of(256), half_of(272), half_of(5)
    (128, 144, 16)
    """
    return -(-channels // (2 * _WIDEST)) * _WIDEST


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """Where the operands of one part of the tiles and one pair of panels lie."""

    tiles: Value  # of the image
    following: Value  # tiles of the part behind it
    sums: Value
    weights: Value
    products: Value
    scratch: Value
    pair: Value  # of panels
    is_first: Value  # whether it is the item's first one


class StrassenKernels(WinogradKernels):
    """Transform the tiles; multiply their sums and put the products together; transform back."""

    def __init__(self, spec: ConvSpec, target: Target, tiling: WinogradTiling) -> None:
        super().__init__(spec, target, tiling)
        lanes = self.lanes
        self.half = half_of(self.g.channels)
        self.pairs = Parts.of(-(-self.tiles // 2), most=tiling.height)  # of tiles
        self.panel_pairs = Parts(-(-self.all_panels // 2), tiling.pieces)
        self.pair = len(LEFT) * self.half * self.width  # weights of a pair of panels
        self.weights = self.stored * self.panel_pairs.total * self.pair  # of one group
        # The sums of a part of the tiles lie as [product][pair of tiles][channel].
        self.pitch = odd_pitch(self.half, 16)
        self.sums = len(LEFT) * self.pairs.longest * self.pitch
        # As many parts as leave half of the cache to the weights share one way of those.
        self.resident = max(1, target.level2 // 2 // (4 * self.sums))
        scratch = scratch_elements(1, self.pairs.longest, tiling.vectors, lanes)
        self.shared = self.transformed + self.all_panels * self.products
        self.own = max(self.patch + self.strip, self.resident * self.sums + -(-scratch // 16) * 16)

    def pack(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Returns the sums of blocks of transformed weights, made in float64.

        Laid out as [group][element][pair of panels][product][channel][filter of the panel].
        """
        g, half, width, count = self.g, self.half, self.width, self.panel_pairs.total
        sums = np.array(LEFT, dtype=np.float64)
        w = weights.reshape(g.groups, g.filters, g.channels, -1)
        packed = np.empty((g.groups, self.stored, count, len(sums), half, width), np.float32)
        for group, pair in np.ndindex(g.groups, count):
            part = w[group, 2 * pair * width : 2 * (pair + 1) * width]
            full = np.zeros((2 * width, 2 * half, part.shape[-1]))
            full[: len(part), : g.channels] = part
            # The transform is linear: sums of taps are transformed instead of transforms summed up.
            blocks = full.reshape(2, width, 2, half, -1).swapaxes(1, 2).reshape(4, width, half, -1)
            for product, made in enumerate(np.tensordot(sums, blocks, 1)):
                self._pack_panel(made, packed[group, :, pair, product])
        return packed.reshape(-1)

    @property
    def choices(self) -> str:
        """What the size of the caches decides about the code, beside the tiling."""
        return f"{self.asks} {self.resident}"

    def phases(self, batch: int) -> list[tuple[str, int]]:
        """Returns the three phases."""
        t, blocks = self.tiling, self._blocks(batch)
        return [
            ("transform", blocks * t.rows * (self.deep // t.chunk)),
            ("multiply", self.g.groups * t.pieces * self.elements),
            ("restore", blocks * t.rows * self.all_panels),
        ]

    def _multiply_item(self, code: Code) -> None:
        """Multiplies one element of all images with some pairs of panels."""
        t, groups, count = self.tiling, self.g.groups, self.pairs.count
        element = code.item % self.elements
        piece = code.item // self.elements % t.pieces
        group = code.item // (self.elements * t.pieces)
        tiles = code.pointer(WORKSPACE).at(element * self.element_in)
        products = self._between(code).at(element * self.element_out)
        stored = self._stored(code, element) * (self.panel_pairs.total * self.pair)
        weights = code.pointer(WEIGHTS).at(group * self.weights + stored)
        sums = self._own(code)
        scratch = sums.at(self.resident * self.sums)
        begin, end = (self.panel_pairs.start_of(code, piece + i) for i in (0, 1))

        def block_of(part: Value) -> Value:
            return part // count * groups + group

        def first_tile(part: Value) -> Value:
            start = self.pairs.start_of(code, part % count)
            return tiles.at(block_of(part) * self.transformed + start * (2 * self.pixel))

        parts = code.word(BATCH) * count
        rounds = (parts + (self.resident - 1)) // self.resident
        together = (parts + rounds - 1) // rounds
        for first in code.range(0, parts, together):
            last = code.smaller(first + together, parts)
            for pair in code.range(begin, end):
                for part in code.range(first, last):
                    block = block_of(part)
                    work = _Part(
                        tiles=tiles.at(block * self.transformed),
                        following=first_tile(part + 1),
                        sums=sums.at((part - first) * self.sums),
                        weights=weights.at(pair * self.pair),
                        products=products.at((block * self.all_panels + pair * 2) * self.products),
                        scratch=scratch,
                        pair=pair,
                        is_first=pair.equals(begin),
                    )

                    def multiply(start: Value, size: int, work: _Part = work) -> None:
                        self._multiply_part(code, work, start, size)

                    self.pairs.each(code, part % count, part % count + 1, multiply)

    def _multiply_part(self, code: Code, work: _Part, start: Value, size: int) -> None:
        """Multiplies ``size`` pairs of tiles from ``start`` on with a pair of panels.

        The first pair of panels finds the sums to be made; while it is multiplied, the tiles of the
        following part are asked for, and so are always the lines that the products will fill.
        """
        t, lanes, width = self.tiling, self.lanes, self.width
        with code.when(work.is_first):
            self._add_tiles(code, work.tiles, start, size, work.sums)
        filled = _share(2 * size * width)
        read = _share(2 * self.pairs.longest * self.pixel)
        asked = work.is_first.select(code.integer(read), code.integer(0))
        offsets = range(0, size * self.pitch, self.pitch)

        def accumulate(tile: Tile, product: Value) -> None:
            for panel in (0, 1):
                place = work.products.at(panel * self.products + start * (2 * width))
                for line in range(filled):
                    place.prefetch((product * filled + line) * _LINE, write=True)
            for ahead in code.range(asked):
                work.following.prefetch((product * read + ahead) * _LINE, locality=2)
            left = work.sums.at(product * (size * self.pitch))
            right = work.weights.at(product * (self.half * width))
            tile.accumulate(left, offsets, right, self.half)

        def finish(number: Value, first: Value, second: Value) -> None:
            panel, which = number // 2, number % 2
            place = work.products.at(panel * self.products)
            for r in code.range(size):
                tile = (start + r) * 2 + which
                with self._is_there(code, tile, work.pair * 2 + panel):
                    for v in range(0, width, lanes):
                        at = r * width + v
                        value = first.load(lanes, at) + second.load(lanes, at)
                        place.store(value, tile * width + v)

        multiply_tiles(
            code, levels=1, rows=size, vectors=t.vectors, lanes=lanes, scratch=work.scratch,
            accumulate=accumulate, finish=finish,
        )  # fmt: skip

    def _is_there(self, code: Code, tile: Value, panel: Value) -> AbstractContextManager[None]:
        """Guards what is done with a tile and a panel, of which odd numbers lack the last one."""
        odd = [
            index < count
            for index, count in ((tile, self.tiles), (panel, self.all_panels))
            if count % 2
        ]
        return code.when(reduce(and_, odd)) if odd else nullcontext()

    def _add_tiles(self, code: Code, tiles: Value, start: Value, size: int, place: Value) -> None:
        """Makes the sums of ``size`` pairs of tiles of one element, from pair ``start`` on."""
        lanes = self.lanes
        # How many channels each half has, in whole vectors.
        have = [max(0, min(self.half, self.deep - i * self.half)) for i in (0, 1)]
        for r in code.range(size):
            first = (start + r) * 2
            second = first + 1
            if self.tiles % 2:  # the last one is paired with itself
                second = code.smaller(second, self.tiles - 1)
            pair = [tiles.at(tile * self.pixel) for tile in (first, second)]
            for low, high in pairwise(sorted({0, *have, self.half})):
                for c in code.range(low, high, lanes):
                    blocks = [
                        tile.load(lanes, c + i * self.half)
                        if low < have[i]
                        else code.splat(0.0, lanes)
                        for i in (0, 1)
                        for tile in pair
                    ]
                    at = place.at(r * self.pitch + c)
                    for product, value in enumerate(right_sums(blocks, 1)):
                        at.store(value, product * (size * self.pitch))


def _share(elements: int) -> int:
    """Returns how many cache lines to ask for during each of the products."""
    return -(-elements // (_LINE * len(LEFT)))
