"""Products with constant matrices as straight-line code: the transforms of Winograd's algorithm.

Coefficients are known when the code is written, so zeros cost nothing, ones and minus ones no
multiplication, and what rows or columns share is computed once:

* two rows that agree but for the signs of some columns, as the points p and -p make them, are the
  sum and the difference of two halves (the input transform);
* two columns that agree but for signs enter as their sum and their difference (the output
  transform).

The same scheme counts its operations and follows their roundings: it runs over anything that can be
scaled and added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from convsmith.kernel.emit import Code, Value
from convsmith.kernel.kinds import lanes_of

__all__ = ["Rounding", "depth", "multiply", "operation_count", "parts_of", "traced"]

Matrix = Sequence[Sequence[Fraction]]
_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class _Arithmetic(Generic[_V]):
    """What the scheme needs of values."""

    scaled: Callable[[Fraction, _V], _V]
    scaled_sum: Callable[[_V, Fraction, _V], _V]  # total + factor * x
    zero: Callable[[], _V]


def multiply(code: Code, matrix: Matrix, x: Sequence[Value]) -> list[Value]:
    """Returns ``matrix @ x`` for vectors x: entry i is the sum of matrix[i][j] * x[j].

    Each row is a chain of fused multiply-adds in the order of the columns.
    """
    lanes = lanes_of(x[0].kind)

    def scaled(factor: Fraction, value: Value) -> Value:
        if factor == 1:
            return value
        if factor == -1:
            return -value
        return value * float(factor)

    def scaled_sum(total: Value, factor: Fraction, value: Value) -> Value:
        if factor == 1:
            return total + value
        if factor == -1:
            return total - value
        return code.fma(code.splat(float(factor), lanes), value, total)

    arithmetic = _Arithmetic(scaled, scaled_sum, lambda: code.splat(0.0, lanes))
    return _product(arithmetic, matrix, list(x))


def operation_count(matrix: Matrix) -> tuple[int, int]:
    """Returns how many (multiplications, additions) per lane :func:`multiply` writes.

    >>> operation_count([[Fraction(1), Fraction(2)], [Fraction(0), Fraction(1)]])
    (1, 1)
    """
    count = [0, 0]

    def scaled(factor: Fraction, value: None) -> None:
        count[0] += abs(factor) != 1

    def scaled_sum(total: None, factor: Fraction, value: None) -> None:
        count[0] += abs(factor) != 1
        count[1] += 1

    _product(_Arithmetic(scaled, scaled_sum, lambda: None), matrix, [None] * len(matrix[0]))
    return count[0], count[1]


def parts_of(matrix: Matrix, most: int) -> tuple[range, ...]:
    """Cuts rows into parts that :func:`multiply` makes one by one with the same operations.

    Args:
        matrix: Whose rows.
        most: How many rows a part has at most; a pair that shares its halves stays together.

    >>> one, two = Fraction(1), Fraction(2)
    >>> parts_of([[one, one, one], [one, two, one], [one, -two, one], [one, one, two]], 2)
    (range(0, 1), range(1, 3), range(3, 4))
    """
    partner = dict(_pairs(matrix))
    parts: list[range] = []
    first = row = 0
    while row < len(matrix):
        size = 2 if partner.get(row) == row + 1 else 1
        if row > first and row + size - first > most:
            parts.append(range(first, row))
            first = row
        row += size
    return (*parts, range(first, row))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rounding:
    """One rounded operation of a product ``matrix @ x``.

    Attributes:
        value: What is rounded, as its coefficients over x.
        effect: How much of its error each entry of the product has.
    """

    value: NDArray[np.float64]
    effect: NDArray[np.float64]


def traced(matrix: Matrix) -> tuple[Rounding, ...]:
    """Returns every rounding of :func:`multiply`, in the order of the operations.

    A coefficient that float32 does not hold counts as one more: it is as if its product were.

    >>> [rounding.value.tolist() for rounding in traced([[Fraction(1), Fraction(3)]])]
    [[1.0, 3.0]]
    """
    columns = len(matrix[0])
    values: list[NDArray[np.float64]] = []
    # Of a number: its coefficients over x, and over the errors made so far.
    Number = tuple[NDArray[np.float64], dict[int, float]]

    def rounded(value: NDArray[np.float64], errors: dict[int, float]) -> Number:
        values.append(value)
        return value, errors | {len(values) - 1: 1.0}

    def term(factor: Fraction, x: Number) -> Number:
        by = float(factor)
        made = by * x[0], {error: by * share for error, share in x[1].items()}
        return made if _is_single(factor) else rounded(*made)

    def scaled(factor: Fraction, x: Number) -> Number:
        made = term(factor, x)
        return made if _is_power_of_two(factor) else rounded(*made)

    def scaled_sum(total: Number, factor: Fraction, x: Number) -> Number:
        value, more = term(factor, x)
        errors = dict(total[1])
        for error, share in more.items():
            errors[error] = errors.get(error, 0.0) + share
        return rounded(total[0] + value, errors)

    def zero() -> Number:
        return np.zeros(columns), {}

    units: list[Number] = [(unit, {}) for unit in np.eye(columns)]
    made = _product(_Arithmetic(scaled, scaled_sum, zero), matrix, units)
    return tuple(
        Rounding(value=value, effect=np.array([errors.get(i, 0.0) for _, errors in made]))
        for i, value in enumerate(values)
    )


def depth(matrix: Matrix) -> int:
    """Returns the most roundings that lie between an entry of x and one of ``matrix @ x``.

    A coefficient that float32 does not hold counts as one more.

    >>> depth([[Fraction(1), Fraction(3), Fraction(-1)]])
    2
    """

    def scaled(factor: Fraction, x: int) -> int:
        return x + (not _is_power_of_two(factor)) + (not _is_single(factor))

    def scaled_sum(total: int, factor: Fraction, x: int) -> int:
        return max(total, x + (not _is_single(factor))) + 1

    made = _product(_Arithmetic(scaled, scaled_sum, lambda: 0), matrix, [0] * len(matrix[0]))
    return max(made)


def _is_power_of_two(factor: Fraction) -> bool:
    return all(n & (n - 1) == 0 for n in (abs(factor.numerator), factor.denominator))


def _is_single(factor: Fraction) -> bool:
    """Whether float32 holds a number of moderate size exactly."""
    return Fraction(float(np.float32(float(factor)))) == factor


def _product(arithmetic: _Arithmetic[_V], matrix: Matrix, x: list[_V]) -> list[_V]:
    rows = [list(row) for row in matrix]
    columns = list(zip(*rows, strict=True))
    pairs = _pairs(columns) if len(rows) < len(columns) else []
    for first, second in pairs:
        # x_a, x_b become x_a + x_b and x_a - x_b; each row uses one of them.
        total = arithmetic.scaled_sum(x[first], Fraction(1), x[second])
        difference = arithmetic.scaled_sum(x[first], Fraction(-1), x[second])
        x[first], x[second] = total, difference
        for row in rows:
            same = row[first] == row[second]
            row[second], row[first] = (
                (Fraction(0), row[first]) if same else (row[first], Fraction(0))
            )
    partner = {} if pairs else dict(_pairs(rows))
    made: dict[int, _V] = {}
    for index, row in enumerate(rows):
        if index in made:
            continue
        other = partner.get(index)
        if other is None:
            made[index] = _dot(arithmetic, row, x)
            continue
        both = list(zip(row, rows[other], strict=True))
        even = _dot(arithmetic, [(a + b) / 2 for a, b in both], x)
        odd = _dot(arithmetic, [(a - b) / 2 for a, b in both], x)
        made[index] = arithmetic.scaled_sum(even, Fraction(1), odd)
        made[other] = arithmetic.scaled_sum(even, Fraction(-1), odd)
    return [made[index] for index in range(len(rows))]


def _dot(arithmetic: _Arithmetic[_V], row: Sequence[Fraction], x: Sequence[_V]) -> _V:
    """Returns a sum of products, begun with a factor of 1 where there is one."""
    terms = [(factor, value) for factor, value in zip(row, x, strict=True) if factor]
    if not terms:
        return arithmetic.zero()
    start = next((i for i, (factor, _) in enumerate(terms) if factor == 1), 0)
    factor, value = terms.pop(start)
    total = arithmetic.scaled(factor, value)
    for factor, value in terms:
        total = arithmetic.scaled_sum(total, factor, value)
    return total


def _pairs(vectors: Sequence[Sequence[Fraction]]) -> list[tuple[int, int]]:
    """Returns pairs of vectors that agree but for the signs of some entries, not of all."""
    found: list[tuple[int, int]] = []
    used: set[int] = set()
    for i, a in enumerate(vectors):
        for j in range(i + 1, len(vectors)):
            b = vectors[j]
            if i in used or j in used or any(abs(p) != abs(q) for p, q in zip(a, b, strict=True)):
                continue
            same = sum(p == q != 0 for p, q in zip(a, b, strict=True))
            differ = sum(p == -q != 0 for p, q in zip(a, b, strict=True))
            if same and differ and same + differ > 2:
                found.append((i, j))
                used |= {i, j}
    return found
