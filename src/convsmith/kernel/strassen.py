"""Seven products for eight: Strassen's algorithm in Winograd's form, around a register tile.

A product of matrices of 2 x 2 blocks takes seven products of sums of blocks (Higham 2002, section
23.1, equation 23.7; Winograd 1971), and so on recursively: 7 / 8 of the multiplications per level.
Of each side seven sums are made while it is packed (:data:`LEFT`, :func:`right_sums`); the
fifteenth part of the work, putting the products together, is done here with tiles that never leave
the nearest cache::

    U2 = P1 + P6     C11 = P1 + P2     C12 = U2 + P3 + P5
    U3 = U2 + P7     C21 = U3 - P4     C22 = U3 + P5

Most of these sums cost nothing: a product is summed on top of what it is added to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from convsmith.kernel.emit import Code, Value
from convsmith.kernel.tile import Tile

__all__ = [
    "LEFT",
    "RIGHT",
    "block_of",
    "error_growth",
    "multiply_tiles",
    "product_by_blocks",
    "right_sums",
    "roundings",
    "scratch_elements",
    "sums",
]

_V = TypeVar("_V", Value, "NDArray[Any]")

Matrix = tuple[tuple[Fraction, ...], ...]


def _matrix(*rows: tuple[int, int, int, int]) -> Matrix:
    return tuple(tuple(Fraction(value) for value in row) for row in rows)


# By product, in the order P1, P2, P6, P7, P4, P3, P5; the blocks are 11, 12, 21, 22.
LEFT: Final[Matrix] = _matrix(
    (1, 0, 0, 0), (0, 1, 0, 0), (-1, 0, 1, 1), (1, 0, -1, 0), (0, 0, 0, -1), (1, 1, -1, -1),
    (0, 0, 1, 1),
)  # fmt: skip
"""What is multiplied on the left, per product; P4's sign is here, so that all are added."""
RIGHT: Final[Matrix] = _matrix(
    (1, 0, 0, 0), (0, 0, 1, 0), (1, -1, 0, 1), (0, -1, 0, 1), (1, -1, -1, 1), (0, 0, 0, 1),
    (-1, 1, 0, 0),
)  # fmt: skip
"""What is multiplied on the right, per product."""

_ZERO: Final = 7  # the buffer of zeros, behind those of the seven products
_STARTS: Final = (_ZERO, 0, 0, 2, 3, 2, _ZERO)  # by product: what it is summed on top of
_FIRST: Final = (1, 5, 4, 3)  # by block of the result: the buffers whose sum it is
_SECOND: Final = (_ZERO, 6, _ZERO, 6)


_GROWTH: Final = 15


def roundings(depth: int, levels: int) -> int:
    """Returns a bound of an entry's error, in unit roundoffs times a b.

    a is the largest sum of absolute values of a row on the left, b the largest absolute value on
    the right: unlike the plain product's, the bound knows no single rows, because blocks are mixed.

    Per level it grows 15-fold. The sums of blocks in C12 = P1 + P6 + P5 + P3 are up to a b +
    2 a * 3 b + a * 2 b + 2 a * b and less, C21 = P1 + P6 + P7 - P4 up to 15 a b; and 3 + 3 + 3
    roundings come in (the argument of Higham 2002, section 23.2.2, with these norms for his
    maxima). Products that are summed on top of others stay below that: partial sums are at most
    a b under P1, 5 a b under P6 and P7, and 3 a b under P4, whose sum is 14 a b.

    Args:
        depth: Terms of a product of blocks, and roundings that they bring along.
        levels: 0 or more.
    """
    bound = depth
    for _ in range(levels):
        bound = _GROWTH * (bound + 9)
    return bound


def error_growth() -> tuple[float, float]:
    """Returns how one level grows mean squares of errors, for independent entries of mean zero.

    Returns:
        The errors of summing up, over those of the plain product's one chain of sums: its k-th
        partial sum has variance k, and a product that is summed on top of others starts from
        theirs. And a relative error of the sums of blocks of one side, over one of its entries.

    >>> error_growth()
    (5.375, 7.0)
    """
    terms = np.einsum("pa,pb->pab", np.array(LEFT, float), np.array(RIGHT, float)).reshape(7, -1)
    # Of a buffer: its terms, the squared errors of its chains, and those of the sums of blocks.
    made = [np.zeros(terms.shape[1])] * (_ZERO + 1)
    chained, entered = [0.0] * (_ZERO + 1), [0.0] * (_ZERO + 1)
    for product, start in enumerate(_STARTS):
        made[product] = made[start] + terms[product]
        ends = np.sum(made[start] ** 2), np.sum(made[product] ** 2)
        chained[product] = chained[start] + float(sum(ends)) / 2
        entered[product] = entered[start] + float(np.sum(terms[product] ** 2))
    # One of four blocks; a plain one has a chain of 2 ** 2 / 2, and 2 terms.
    chains, entries = (sum(of[i] for i in (*_FIRST, *_SECOND)) / 4 for of in (chained, entered))
    return chains / 2, entries / 2


def product_by_blocks(a: NDArray[Any], b: NDArray[Any], levels: int) -> NDArray[Any]:
    """Returns a product of matrices as the definition has it, in NumPy: to be read and compared."""
    if levels == 0:
        return np.asarray(a @ b)
    height, width = len(a), b.shape[1]
    rows, depth, columns = (-(-size // 2) for size in (*a.shape, width))
    a = np.pad(a, ((0, 2 * rows - a.shape[0]), (0, 2 * depth - a.shape[1])))
    b = np.pad(b, ((0, 2 * depth - len(b)), (0, 2 * columns - width)))
    blocks_a = [a[i : i + rows, j : j + depth] for i in (0, rows) for j in (0, depth)]
    blocks_b = [b[i : i + depth, j : j + columns] for i in (0, depth) for j in (0, columns)]

    def combined(row: tuple[Any, ...], blocks: list[NDArray[Any]]) -> NDArray[Any]:
        return np.asarray(sum(int(c) * block for c, block in zip(row, blocks, strict=True) if c))

    p1, p2, p6, p7, minus_p4, p3, p5 = (
        product_by_blocks(combined(left, blocks_a), combined(right, blocks_b), levels - 1)
        for left, right in zip(LEFT, RIGHT, strict=True)
    )
    u2 = p1 + p6
    u3 = u2 + p7
    whole = np.block([[p1 + p2, u2 + p3 + p5], [u3 + minus_p4, u3 + p5]])
    return whole[:height, :width]


def sums(matrix: Matrix, levels: int) -> Matrix:
    """Returns the sums of one side for some levels: 7 ** levels rows, 4 ** levels columns.

    Block (i, j) of the 2 ** levels rows and columns of blocks is the column whose digits to base
    4, from the outermost level on, are 2 * (bit of i) + (bit of j).

    >>> len(sums(LEFT, 2)), len(sums(LEFT, 2)[0])
    (49, 16)
    """
    made: Matrix = ((Fraction(1),),)
    for _ in range(levels):
        made = tuple(
            tuple(a * b for a in outer for b in inner) for outer in made for inner in matrix
        )
    return made


def right_sums(blocks: Sequence[_V], levels: int) -> list[_V]:
    """Returns the sums of the right side: the rows of ``sums(RIGHT, levels)`` applied to blocks.

    What rows share is computed once: four additions instead of seven.

    Args:
        blocks: Vectors, or arrays, of 4 ** levels blocks, as numbered by :func:`block_of`.
        levels: 0 or more.
    """
    if levels == 0:
        return list(blocks)
    inner = len(blocks) // 4
    columns = []
    for i in range(inner):
        b11, b12, b21, b22 = (blocks[q * inner + i] for q in range(4))
        t1 = b12 - b11
        t2 = b22 - t1
        columns.append((b11, b21, t2, b22 - b12, t2 - b21, b22, t1))
    made: list[_V] = []
    for product in zip(*columns, strict=True):
        made += right_sums(product, levels - 1)
    return made


def block_of(row: int, column: int, levels: int) -> int:
    """Returns the number of a block, as in :func:`sums`.

    >>> [block_of(0, 1, 1), block_of(1, 0, 1), block_of(2, 1, 2)]
    [1, 2, 9]
    """
    number = 0
    for level in range(levels - 1, -1, -1):
        number = 4 * number + 2 * (row >> level & 1) + (column >> level & 1)
    return number


def scratch_elements(levels: int, rows: int, vectors: int, lanes: int) -> int:
    """Returns the elements of memory of its own that :func:`multiply_tiles` needs."""
    blocks: int = 4**levels // 3
    return rows * vectors * lanes * (_ZERO + 1) * blocks  # 1 + 4 + 16 ... blocks, level by level


def multiply_tiles(
    code: Code,
    *,
    levels: int,
    rows: int,
    vectors: int,
    lanes: int,
    scratch: Value,
    accumulate: Callable[[Tile, Value], None],
    finish: Callable[[Value, Value, Value], None],
) -> None:
    """Writes the product of 2 ** levels by 2 ** levels register tiles.

    Args:
        code: Where to write.
        levels: 1 or more; each saves an eighth of the products.
        rows: Rows of a register tile.
        vectors: Vectors of a register tile.
        lanes: Vector width.
        scratch: Memory of the thread's own, :func:`scratch_elements` of it.
        accumulate: Adds the product of a given number (a row of :func:`sums`) to a tile.
        finish: Takes the tiles of the result, in a loop over their numbers (as of
            :func:`block_of`): the number, and two addresses whose elements, [row][vector][lane],
            are to be added.
    """
    writer = _Writer(code, rows, vectors, lanes, accumulate)
    step = (_ZERO + 1) * 4 ** (levels - 1) * writer.tile
    _clear(code, scratch, levels, writer.tile, lanes)
    buffers = writer.products(levels, code.integer(0), scratch, scratch.at(step))
    block = 4 ** (levels - 1)
    for number in code.range(4**levels):
        inner = number % block * writer.tile
        first, second = (buffers(choose(code, number // block, of)) for of in (_FIRST, _SECOND))
        finish(number, first.at(inner), second.at(inner))


def _clear(code: Code, scratch: Value, levels: int, tile: int, lanes: int) -> None:
    """Writes the zeros of every level."""
    nothing = code.splat(0.0, lanes)
    at = scratch
    for level in range(levels, 0, -1):
        block = 4 ** (level - 1) * tile
        zeros = at.at(_ZERO * block)
        for i in code.range(0, block, lanes):
            zeros.store(nothing, i)
        at = at.at((_ZERO + 1) * block)


def choose(code: Code, index: Value, table: Sequence[int]) -> Value:
    """Returns an entry of a small table of integers."""
    made = code.integer(table[0])
    for i, value in enumerate(table[1:], 1):
        made = index.equals(i).select(code.integer(value), made)
    return made


class _Writer:
    """The recursion over levels."""

    def __init__(
        self,
        code: Code,
        rows: int,
        vectors: int,
        lanes: int,
        accumulate: Callable[[Tile, Value], None],
    ) -> None:
        self.code, self.rows, self.vectors, self.lanes = code, rows, vectors, lanes
        self.accumulate = accumulate
        self.tile = rows * vectors * lanes

    def products(
        self, level: int, base: Value, scratch: Value, deeper: Value
    ) -> Callable[[Value], Value]:
        """Writes the seven products of one level into buffers, and returns where those lie."""
        code, block = self.code, 4 ** (level - 1) * self.tile

        def buffer(index: Value) -> Value:
            return scratch.at(index * block)

        for i in code.range(7):
            start = buffer(choose(code, i, _STARTS))
            if level == 1:
                self._leaf(base + i, start, buffer(i))
            else:
                self._node(level - 1, (base + i) * 7, start, buffer(i), deeper)
        return buffer

    def _leaf(self, product: Value, start: Value, place: Value) -> None:
        tile = Tile(self.code, self.rows, self.vectors, self.lanes)
        for r, row in enumerate(tile.sums):
            for v, total in enumerate(row):
                total.set(start.load(self.lanes, (r * self.vectors + v) * self.lanes))
        self.accumulate(tile, product)
        tile.finish(lambda r, v, value: place.store(value, (r * self.vectors + v) * self.lanes))

    def _node(self, level: int, base: Value, start: Value, place: Value, scratch: Value) -> None:
        code, block = self.code, 4 ** (level - 1) * self.tile
        deeper = scratch.at((_ZERO + 1) * block)
        buffers = self.products(level, base, scratch, deeper)
        for number in code.range(4):
            first, second = (buffers(choose(code, number, of)) for of in (_FIRST, _SECOND))
            at = number * block
            for i in code.range(0, block, self.lanes):
                value = first.load(self.lanes, i) + second.load(self.lanes, i)
                place.store(value + start.load(self.lanes, at + i), at + i)
