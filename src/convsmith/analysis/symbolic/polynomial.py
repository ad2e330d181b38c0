"""Exact polynomials in a few sizes, found from their values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

__all__ = ["Polynomial", "interpolate"]

Exponents = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Polynomial:
    """A polynomial with rational coefficients.

    Attributes:
        variables: The names of what it depends on.
        terms: Exponents, one per variable, and the coefficient that they have; no zeros.

    >>> area = Polynomial(("H", "W"), {(1, 1): Fraction(49, 4), (0, 0): Fraction(-2)})
    >>> print(area)
    49/4*H*W - 2
    >>> area.at({"H": 4, "W": 2})
    Fraction(96, 1)
    """

    variables: tuple[str, ...]
    terms: Mapping[Exponents, Fraction]

    @classmethod
    def constant(cls, value: int) -> Polynomial:
        """A polynomial in nothing."""
        return cls((), {(): Fraction(value)} if value else {})

    @property
    def is_constant(self) -> bool:
        """Whether it has the same value everywhere."""
        return not any(any(exponents) for exponents in self.terms)

    @property
    def degree(self) -> int:
        """The largest sum of exponents; 0 for a constant."""
        return max((sum(exponents) for exponents in self.terms), default=0)

    def at(self, sizes: Mapping[str, int]) -> Fraction:
        """Returns its value.

        Args:
            sizes: By variable; may hold others too.
        """
        values = [sizes[name] for name in self.variables]
        return sum(
            (c * math.prod(map(pow, values, exponents)) for exponents, c in self.terms.items()),
            start=Fraction(0),
        )

    def dominates(self, other: Polynomial) -> bool:
        """Whether it is certain to be nowhere less, because no coefficient is, for sizes >= 0."""
        mine, others = self._named(), other._named()
        return all(mine.get(key, 0) >= others.get(key, 0) for key in {*mine, *others})

    def _named(self) -> dict[tuple[tuple[str, int], ...], Fraction]:
        """The coefficients by the variables that they really have."""
        return {
            tuple((n, e) for n, e in zip(self.variables, exponents, strict=True) if e): c
            for exponents, c in self.terms.items()
        }

    def __add__(self, other: Polynomial) -> Polynomial:
        variables = tuple(dict.fromkeys((*self.variables, *other.variables)))
        terms: dict[Exponents, Fraction] = {}
        for named in (self._named(), other._named()):
            for powers, coefficient in named.items():
                have = dict(powers)
                key = tuple(have.get(name, 0) for name in variables)
                terms[key] = terms.get(key, Fraction(0)) + coefficient
        return Polynomial(variables, {key: c for key, c in terms.items() if c})

    def __str__(self) -> str:
        parts: list[str] = []
        for exponents, c in sorted(self.terms.items(), key=_order):
            powers = [
                name if e == 1 else f"{name}^{e}"
                for name, e in zip(self.variables, exponents, strict=True)
                if e
            ]
            number = str(abs(c))
            text = "*".join(powers if powers and abs(c) == 1 else [number, *powers])
            sign = "-" if c < 0 else "+"
            parts.append(f" {sign} {text}" if parts else f"{'-' if c < 0 else ''}{text}")
        return "".join(parts) or "0"


def _order(term: tuple[Exponents, Fraction]) -> tuple[int, Exponents]:
    """Highest degree first, then by the variables in their order."""
    exponents, _ = term
    return -sum(exponents), tuple(-e for e in exponents)


def interpolate(grid: Mapping[str, Sequence[int]], values: Sequence[int]) -> Polynomial:
    """Returns the polynomial of least degrees that has the given values.

    Args:
        grid: Per variable, distinct sizes: n of them find degrees up to n - 1.
        values: At every point of the grid, the last variable changing fastest.

    >>> print(interpolate({"H": (1, 2), "W": (3, 5)}, (8, 12, 14, 22)))
    2*H*W + 2
    """
    if len(set(values)) == 1:
        return Polynomial.constant(values[0])
    names = tuple(grid)
    counts = [len(points) for points in grid.values()]
    coefficients = [Fraction(value) for value in values]
    for axis, points in enumerate(grid.values()):
        stride = math.prod(counts[axis + 1 :])
        basis = _lagrange(tuple(points))
        for start in range(len(coefficients)):
            if start // stride % counts[axis]:
                continue
            places = [start + i * stride for i in range(counts[axis])]
            samples = [coefficients[place] for place in places]
            for power, place in enumerate(places):
                coefficients[place] = sum(
                    (s * row[power] for s, row in zip(samples, basis, strict=True)),
                    start=Fraction(0),
                )
    keys = product(*(range(count) for count in counts))
    return Polynomial(names, {k: c for k, c in zip(keys, coefficients, strict=True) if c})


def _lagrange(points: tuple[int, ...]) -> list[list[Fraction]]:
    """Per point, the coefficients of the polynomial that is 1 there and 0 at all others."""
    basis = []
    for index, own in enumerate(points):
        row = [Fraction(1)]
        for other in (*points[:index], *points[index + 1 :]):
            shifted = [Fraction(0), *row]
            scaled = [-other * c for c in row] + [Fraction(0)]
            row = [(a + b) / (own - other) for a, b in zip(shifted, scaled, strict=True)]
        basis.append(row)
    return basis
