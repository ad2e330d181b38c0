"""Formulas as data: one can be computed, and printed with symbols or with their numbers.

Whatever is shown is computed from the formula that is shown; nothing is written down twice.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce

__all__ = [
    "Expression",
    "Number",
    "Symbol",
    "ceiling",
    "floor",
    "gcd",
    "maximum",
    "minimum",
    "number_text",
    "product",
    "total",
]

Value = int | Fraction

# How strongly things hold together.
_SUM, _PRODUCT, _POWER, _ATOM = range(4)


class Expression(ABC):
    """A formula; abstract. Arithmetic on formulas makes formulas.

    >>> k, s = Symbol("k", 3), Symbol("s", 2)
    >>> formula = floor((k - 1) / s) + 1
    >>> formula.text(), formula.text(numbers=True), formula.value
    ('⌊(k − 1) / s⌋ + 1', '⌊(3 − 1) / 2⌋ + 1', 2)
    """

    __slots__ = ()

    @property
    @abstractmethod
    def value(self) -> Value:
        """What it comes to, exactly: an integer where it is one."""

    @property
    @abstractmethod
    def binding(self) -> int:
        """How strongly it holds together."""

    @property
    def parts(self) -> tuple[Expression, ...]:
        """The formulas that it is made of."""
        return ()

    @abstractmethod
    def text(self, *, numbers: bool = False) -> str:
        """The formula in a line of text, with symbols or with their numbers."""

    @abstractmethod
    def latex(self, *, numbers: bool = False) -> str:
        """The formula in LaTeX, without the signs that start mathematics."""

    def symbols(self) -> Iterator[Symbol]:
        """All symbols in it, in the order in which they stand there."""
        for part in self.parts:
            yield from part.symbols()

    def __add__(self, other: Expression | Value) -> Expression:
        return total(self, other)

    def __radd__(self, other: Expression | Value) -> Expression:
        return total(other, self)

    def __sub__(self, other: Expression | Value) -> Expression:
        return _sum(((1, self), (-1, _expression(other))))

    def __rsub__(self, other: Expression | Value) -> Expression:
        return _sum(((1, _expression(other)), (-1, self)))

    def __mul__(self, other: Expression | Value) -> Expression:
        return product(self, other)

    def __rmul__(self, other: Expression | Value) -> Expression:
        return product(other, self)

    def __truediv__(self, other: Expression | Value) -> Expression:
        return _Quotient(self, _expression(other))

    def __pow__(self, other: Expression | Value) -> Expression:
        exponent = _expression(other)
        return self if exponent == Number(1) else _Power(self, exponent)


def _expression(operand: Expression | Value) -> Expression:
    return operand if isinstance(operand, Expression) else Number(operand)


def _exact(value: Value) -> Value:
    return int(value) if value == int(value) else Fraction(value)


def number_text(value: Value) -> str:
    """Digits in groups of three; a fraction as ``1/2``.

    >>> number_text(118013952), number_text(Fraction(-1, 2))
    ('118,013,952', '−1/2')
    """
    sign = "−" if value < 0 else ""
    size = abs(Fraction(value))
    below = f"/{size.denominator:,}" if size.denominator != 1 else ""
    return f"{sign}{size.numerator:,}{below}"


def _number_latex(value: Value) -> str:
    sign = "-" if value < 0 else ""
    size = abs(Fraction(value))
    if size.denominator != 1:
        return rf"{sign}\frac{{{size.numerator}}}{{{size.denominator}}}"
    return sign + f"{size.numerator:,}".replace(",", "{,}")


@dataclass(frozen=True, slots=True)
class Number(Expression):
    """A number that stands in a formula."""

    number: Value

    @property
    def value(self) -> Value:
        """The number."""
        return _exact(self.number)

    @property
    def binding(self) -> int:
        """A negative number and a fraction want brackets inside a product."""
        return _ATOM if self.value >= 0 and isinstance(self.value, int) else _SUM

    def text(self, *, numbers: bool = False) -> str:
        """The number."""
        return number_text(self.value)

    def latex(self, *, numbers: bool = False) -> str:
        """The number."""
        return _number_latex(self.value)


@dataclass(frozen=True, slots=True)
class Symbol(Expression):
    """A named quantity with its number.

    Attributes:
        name: How it is written: a letter, and an index after ``_``.
        number: Its number for the layer at hand.
    """

    name: str
    number: Value

    @property
    def value(self) -> Value:
        """Its number."""
        return _exact(self.number)

    @property
    def binding(self) -> int:
        """A symbol stands alone; a negative number would not."""
        return _ATOM

    def text(self, *, numbers: bool = False) -> str:
        """Its name, or its number."""
        if not numbers:
            return self.name
        return number_text(self.value)

    def latex(self, *, numbers: bool = False) -> str:
        """Its name with the index below, or its number."""
        if numbers:
            return _number_latex(self.value)
        letter, _, index = self.name.partition("_")
        if not index:
            return letter
        return f"{letter}_{{{index}}}" if len(index) == 1 else rf"{letter}_{{\text{{{index}}}}}"

    def symbols(self) -> Iterator[Symbol]:
        """Itself."""
        yield self


@dataclass(frozen=True, slots=True)
class _Sum(Expression):
    terms: tuple[tuple[int, Expression], ...]

    @property
    def value(self) -> Value:
        return _exact(sum((sign * term.value for sign, term in self.terms), start=Fraction(0)))

    @property
    def binding(self) -> int:
        return _SUM

    @property
    def parts(self) -> tuple[Expression, ...]:
        return tuple(term for _, term in self.terms)

    def text(self, *, numbers: bool = False) -> str:
        return self._joined([_text(t, _PRODUCT, numbers) for t in self.parts], "−")

    def latex(self, *, numbers: bool = False) -> str:
        return self._joined([_latex(t, _PRODUCT, numbers) for t in self.parts], "-")

    def _joined(self, terms: Sequence[str], minus: str) -> str:
        first, *rest = zip(self.terms, terms, strict=True)
        line = f"{minus}{first[1]}" if first[0][0] < 0 else first[1]
        return line + "".join(f" {minus if s < 0 else '+'} {text}" for (s, _), text in rest)


@dataclass(frozen=True, slots=True)
class _Product(Expression):
    factors: tuple[Expression, ...]

    @property
    def value(self) -> Value:
        return _exact(math.prod((f.value for f in self.factors), start=Fraction(1)))

    @property
    def binding(self) -> int:
        return _PRODUCT

    @property
    def parts(self) -> tuple[Expression, ...]:
        return self.factors

    def text(self, *, numbers: bool = False) -> str:
        sign = " × " if numbers else " · "
        return sign.join(
            _text(f, _POWER if isinstance(f, _Quotient) else _PRODUCT, numbers)
            for f in self.factors
        )

    def latex(self, *, numbers: bool = False) -> str:
        sign = r" \times " if numbers else r" \, "
        return sign.join(_latex(f, _PRODUCT, numbers) for f in self.factors)


@dataclass(frozen=True, slots=True)
class _Quotient(Expression):
    top: Expression
    bottom: Expression

    @property
    def value(self) -> Value:
        return _exact(Fraction(self.top.value) / Fraction(self.bottom.value))

    @property
    def binding(self) -> int:
        return _PRODUCT

    @property
    def parts(self) -> tuple[Expression, ...]:
        return self.top, self.bottom

    def text(self, *, numbers: bool = False) -> str:
        return f"{_text(self.top, _PRODUCT, numbers)} / {_text(self.bottom, _POWER, numbers)}"

    def latex(self, *, numbers: bool = False) -> str:
        top, bottom = self.top.latex(numbers=numbers), self.bottom.latex(numbers=numbers)
        return rf"\frac{{{top}}}{{{bottom}}}"


@dataclass(frozen=True, slots=True)
class _Power(Expression):
    base: Expression
    exponent: Expression

    @property
    def value(self) -> Value:
        return _exact(Fraction(self.base.value) ** int(self.exponent.value))

    @property
    def binding(self) -> int:
        return _POWER

    @property
    def parts(self) -> tuple[Expression, ...]:
        return self.base, self.exponent

    def text(self, *, numbers: bool = False) -> str:
        exponent = _text(self.exponent, _ATOM, numbers)
        raised = exponent.translate(_SUPERSCRIPTS) if exponent.isdigit() else f"^{exponent}"
        return f"{_text(self.base, _ATOM, numbers)}{raised}"

    def latex(self, *, numbers: bool = False) -> str:
        exponent = self.exponent.latex(numbers=numbers)
        return f"{{{_latex(self.base, _ATOM, numbers)}}}^{{{exponent}}}"


_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_BRACKETS = {
    "floor": ("⌊", "⌋", r"\left\lfloor ", r" \right\rfloor"),
    "ceil": ("⌈", "⌉", r"\left\lceil ", r" \right\rceil"),
}


@dataclass(frozen=True, slots=True)
class _Rounded(Expression):
    inner: Expression
    how: str

    @property
    def value(self) -> Value:
        return math.floor(self.inner.value) if self.how == "floor" else math.ceil(self.inner.value)

    @property
    def binding(self) -> int:
        return _ATOM

    @property
    def parts(self) -> tuple[Expression, ...]:
        return (self.inner,)

    def text(self, *, numbers: bool = False) -> str:
        left, right, _, _ = _BRACKETS[self.how]
        return f"{left}{self.inner.text(numbers=numbers)}{right}"

    def latex(self, *, numbers: bool = False) -> str:
        _, _, left, right = _BRACKETS[self.how]
        return f"{left}{self.inner.latex(numbers=numbers)}{right}"


@dataclass(frozen=True, slots=True)
class _Function(Expression):
    name: str
    arguments: tuple[Expression, ...]

    @property
    def value(self) -> Value:
        values = [argument.value for argument in self.arguments]
        match self.name:
            case "max":
                return max(values)
            case "min":
                return min(values)
        return reduce(math.gcd, (int(value) for value in values))

    @property
    def binding(self) -> int:
        return _ATOM

    @property
    def parts(self) -> tuple[Expression, ...]:
        return self.arguments

    def text(self, *, numbers: bool = False) -> str:
        return f"{self.name}({', '.join(a.text(numbers=numbers) for a in self.arguments)})"

    def latex(self, *, numbers: bool = False) -> str:
        inside = ", ".join(a.latex(numbers=numbers) for a in self.arguments)
        return rf"\{self.name}\left({inside}\right)"


def _binding(expression: Expression, numbers: bool) -> int:
    """How strongly it holds together as it is written: a number may be negative."""
    if numbers and isinstance(expression, Symbol):
        return Number(expression.value).binding
    return expression.binding


def _text(expression: Expression, least: int, numbers: bool) -> str:
    text = expression.text(numbers=numbers)
    return f"({text})" if _binding(expression, numbers) < least else text


def _latex(expression: Expression, least: int, numbers: bool) -> str:
    latex = expression.latex(numbers=numbers)
    return rf"\left({latex}\right)" if _binding(expression, numbers) < least else latex


def _sum(terms: Sequence[tuple[int, Expression]]) -> Expression:
    flat: list[tuple[int, Expression]] = []
    for sign, term in terms:
        inner = term.terms if isinstance(term, _Sum) else ((1, term),)
        flat += [(sign * s, t) for s, t in inner if t != Number(0)]
    if not flat:
        return Number(0)
    if len(flat) == 1 and flat[0][0] > 0:
        return flat[0][1]
    return _Sum(tuple(flat))


def total(*terms: Expression | Value) -> Expression:
    """The sum of formulas.

    >>> total(Symbol("a", 2), Symbol("b", 3), 0).text()
    'a + b'
    """
    return _sum([(1, _expression(term)) for term in terms])


def product(*factors: Expression | Value) -> Expression:
    """The product of formulas.

    >>> product(Symbol("a", 2), 1, Symbol("b", 3)).text()
    'a · b'
    """
    flat: list[Expression] = []
    for factor in map(_expression, factors):
        flat += factor.factors if isinstance(factor, _Product) else (factor,)
    kept = [factor for factor in flat if factor != Number(1)]
    if not kept:
        return Number(1)
    return kept[0] if len(kept) == 1 else _Product(tuple(kept))


def floor(inner: Expression) -> Expression:
    """Rounded down."""
    return _Rounded(inner, "floor")


def ceiling(inner: Expression) -> Expression:
    """Rounded up."""
    return _Rounded(inner, "ceil")


def maximum(*arguments: Expression | Value) -> Expression:
    """The largest."""
    return _Function("max", tuple(map(_expression, arguments)))


def minimum(*arguments: Expression | Value) -> Expression:
    """The smallest."""
    return _Function("min", tuple(map(_expression, arguments)))


def gcd(*arguments: Expression | Value) -> Expression:
    """The greatest common divisor."""
    return _Function("gcd", tuple(map(_expression, arguments)))
