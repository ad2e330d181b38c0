"""Exact matrices of Winograd's minimal filtering F(m, r), by Toom and Cook over fractions.

m outputs of a filter with r taps need m + r - 1 multiplications (Winograd 1980). With distinct
points p_0 ... p_(n-1) and infinity, n = m + r - 2,

    y = A^T [ (G g) * (B^T d) ]          * elementwise

for the m outputs y_i = sum over k of g_k d_(i+k). G evaluates the filter's polynomial at the
points, A transposes the evaluation of the outputs' polynomial, and B^T is the transposed
interpolation. The factors 1 / f_i of interpolation, f_i = product over j != i of (p_i - p_j),
stand in G, which is applied once when weights are prepared; or, where weights are transformed in
every run and G should cost little, in B^T.

Which points are chosen decides the error in float32 (Barabasz et al. 2018; Alam et al. 2022), not
the number of multiplications.

With a stride s the taps k of one remainder modulo s meet inputs of that remainder only, so

    y_i = sum over k of g_k d_(s i + k) = sum over p < s of F(m, r_p) of (g_p, g_(p+s), ...)

is a sum of s filters without a stride, each with its own multiplications: 2 m + 1 for three taps at
stride 2, where 3 m are needed one by one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache

from convsmith.errors import UsageError

__all__ = ["POINTS", "Transform", "transform"]

Matrix = tuple[tuple[Fraction, ...], ...]


def _points(*texts: str) -> tuple[Fraction, ...]:
    return tuple(Fraction(text) for text in texts)


POINTS: dict[int, tuple[Fraction, ...]] = {
    1: (),
    2: _points("0"),
    3: _points("1/2", "-1/2"),
    4: _points("0", "1", "-1"),
    5: _points("3/8", "-3/8", "5/4", "-5/4"),
    6: _points("0", "5/8", "-5/8", "3/2", "-3/2"),
    7: _points("1/4", "-1/4", "7/8", "-7/8", "7/4", "-7/4"),
    8: _points("0", "1/2", "-1/2", "1", "-1", "2", "-2"),
    9: _points("1/4", "-1/4", "5/8", "-5/8", "9/8", "-9/8", "9/4", "-9/4"),
    10: _points("0", "3/8", "-3/8", "7/8", "-7/8", "5/4", "-5/4", "5/2", "-5/2"),
}
"""Finite points by alpha = m + r - 1, of the least expected error in two dimensions.

Among the multiples of 1/8 from 1/4 to 4 in pairs p, -p, which let the transforms share their
halves; 0 is a point only where their number is odd. All coefficients of A^T and B^T are exact in
float32, those of B^T unless it has the factors.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """The matrices of F(m, r).

    Attributes:
        m: Outputs of a tile.
        r: Taps.
        inputs: B^T, alpha x extent.
        filters: G, alpha x r.
        outputs: A^T, m x alpha.
        stride: Inputs from one output to the next.
    """

    m: int
    r: int
    inputs: Matrix
    filters: Matrix
    outputs: Matrix
    stride: int = 1

    @property
    def alpha(self) -> int:
        """Multiplications of a tile: m + r - 1 without a stride."""
        return len(self.filters)

    @property
    def extent(self) -> int:
        """Inputs of a tile."""
        return (self.m - 1) * self.stride + self.r

    @property
    def step(self) -> int:
        """Inputs from one tile to the next."""
        return self.m * self.stride

    @property
    def distinct(self) -> int:
        """Rows of G without the repetitions of the last one.

        A remainder with a single tap multiplies each of m inputs by it.
        """
        last = self.filters[-1]
        return (
            self.alpha
            - next((i for i, row in enumerate(reversed(self.filters)) if row != last), self.alpha)
            + 1
        )


@cache
def transform(
    m: int,
    r: int,
    points: tuple[Fraction, ...] | None = None,
    stride: int = 1,
    *,
    plain_filters: bool = False,
) -> Transform:
    """Returns the matrices of F(m, r).

    Args:
        m: Outputs of a tile.
        r: Taps of the filter.
        points: m + r - 2 distinct fractions; by default those of :data:`POINTS`.
        stride: Inputs from one output to the next; with the default points only.
        plain_filters: Whether the rows of G begin with ones, and B^T has the factors.

    Raises:
        UsageError: If there are no such points.

    >>> [[str(entry) for entry in row] for row in transform(2, 3).outputs]
    [['1', '1', '1', '0'], ['0', '1', '-1', '1']]
    """
    if plain_filters:
        return _plain(transform(m, r, points, stride))
    alpha = m + r - 1
    if m < 1 or r < 1 or stride < 1:
        raise UsageError(f"F({m}, {r}) is no filter", remedy="choose sizes of 1 or more")
    if stride > 1:
        return _strided(m, r, stride)
    chosen = POINTS.get(alpha) if points is None else points
    if chosen is None or len(chosen) != alpha - 1 or len(set(chosen)) != len(chosen):
        raise UsageError(
            f"F({m}, {r}) needs {alpha - 1} distinct points"
            + ("" if chosen is None else f", not {', '.join(map(str, chosen))}"),
            remedy=f"pass points, or choose m + r - 1 <= {max(POINTS)}",
        )
    if m == 1 or r == 1:
        return _trivial(m, r)
    factors = [math.prod((p - q for q in chosen if q != p), start=Fraction(1)) for p in chosen]
    outputs = tuple((*(p**i for p in chosen), Fraction(int(i == m - 1))) for i in range(m))
    filters = (
        *(
            tuple(p**k / factor for k in range(r))
            for p, factor in zip(chosen, factors, strict=True)
        ),
        tuple(Fraction(int(k == r - 1)) for k in range(r)),
    )
    inputs = (
        *((*_polynomial([q for q in chosen if q != p]), Fraction(0)) for p in chosen),
        tuple(_polynomial(chosen)),
    )
    return Transform(m=m, r=r, inputs=inputs, filters=filters, outputs=outputs)


def _plain(t: Transform) -> Transform:
    """Moves the first factor of each row of G, which is not 0, to that row of B^T."""
    factors = [next(entry for entry in row if entry) for row in t.filters]
    filters, inputs = (
        tuple(
            tuple(entry * by**way for entry in row) for row, by in zip(rows, factors, strict=True)
        )
        for rows, way in ((t.filters, -1), (t.inputs, 1))
    )
    return replace(t, filters=filters, inputs=inputs)


def _trivial(m: int, r: int) -> Transform:
    """One output, or one tap: nothing to save, the products themselves."""

    def unit(n: int) -> Matrix:
        return tuple(tuple(Fraction(int(i == j)) for j in range(n)) for i in range(n))

    ones = (Fraction(1),)
    if r == 1:
        return Transform(m=m, r=r, inputs=unit(m), filters=(ones,) * m, outputs=unit(m))
    return Transform(m=m, r=r, inputs=unit(r), filters=unit(r), outputs=(ones * r,))


def _strided(m: int, r: int, stride: int) -> Transform:
    """A filter per remainder of the taps modulo the stride, side by side."""
    extent = (m - 1) * stride + r
    inputs: list[tuple[Fraction, ...]] = []
    filters: list[tuple[Fraction, ...]] = []
    outputs: list[tuple[Fraction, ...]] = [()] * m
    for phase in range(min(stride, r)):
        part = transform(m, len(range(phase, r, stride)))
        inputs += [_spread(row, extent, phase, stride) for row in part.inputs]
        filters += [_spread(row, r, phase, stride) for row in part.filters]
        outputs = [(*row, *more) for row, more in zip(outputs, part.outputs, strict=True)]
    return Transform(
        m=m, r=r, inputs=tuple(inputs), filters=tuple(filters), outputs=tuple(outputs),
        stride=stride,
    )  # fmt: skip


def _spread(row: Sequence[Fraction], length: int, first: int, apart: int) -> tuple[Fraction, ...]:
    """Returns a row whose entries lie ``apart``, zeros between them."""
    made = [Fraction(0)] * length
    for i, entry in enumerate(row):
        made[first + i * apart] = entry
    return tuple(made)


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients of the product of (x - root), lowest power first."""
    made = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *made]
        scaled = [*(-root * c for c in made), Fraction(0)]
        made = [a + b for a, b in zip(shifted, scaled, strict=True)]
    return made
