"""Sums of products over named axes: what the equation of an ``Einsum`` means."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from convsmith.errors import ShapeError

__all__ = ["Contraction", "axis_sizes", "contractions", "explicit", "read_equation"]


def _shown(equation: str) -> str:
    """An equation in a message: a file may hold one of any length."""
    return repr(equation if len(equation) <= 80 else f"{equation[:77]}...")


def read_equation(equation: str) -> tuple[tuple[str, ...], str]:
    """Takes an explicit equation apart: the letters of every operand and of the result.

    Raises:
        ShapeError: If it is none; ``...`` is not allowed any more (see :func:`explicit`).

    >>> read_equation("bij,bjk->bik")
    (('bij', 'bjk'), 'bik')
    """
    left, arrow, result = equation.partition("->")
    operands = tuple(left.split(","))
    letters = set("".join(operands))
    if not arrow or not all(term.isascii() and (term.isalpha() or not term) for term in operands):
        raise ShapeError(
            f"{_shown(equation)} is no equation over axes with one letter each",
            remedy="write it as in bij,bjk->bik",
        )
    if set(result) - letters or len(set(result)) < len(result):
        raise ShapeError(
            f"{_shown(equation)}: every axis of the result comes once, from an operand"
        )
    return operands, result


def explicit(equation: str, ranks: Sequence[int]) -> str:
    """Writes an equation out: letters in place of ``...``, and a result if there is none.

    Args:
        equation: As NumPy, PyTorch and ONNX take it.
        ranks: The number of axes of every operand.

    Raises:
        ValueError: If the equation does not suit the operands.

    >>> explicit("...ij, jk", (4, 2))
    'abij,jk->abik'
    """
    left, arrow, result = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise ValueError(f"equation {_shown(equation)} for {len(ranks)} operands")
    used = {letter for letter in equation if letter.isalpha()}
    free = [c for c in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in used]
    hidden = [
        rank - len(term.replace("...", "")) if "..." in term else 0
        for term, rank in zip(terms, ranks, strict=True)
    ]
    most = max(hidden, default=0)
    if min(hidden, default=0) < 0 or most > len(free):
        raise ValueError(f"equation {_shown(equation)} for operands of {tuple(ranks)} axes")
    dots = "".join(free[:most])
    if not arrow:
        seen = "".join(terms).replace("...", "")
        result = ("..." if most else "") + "".join(
            sorted(c for c in set(seen) if seen.count(c) < 2)
        )
    written = [
        term.replace("...", dots[most - count :]) for term, count in zip(terms, hidden, strict=True)
    ]
    return f"{','.join(written)}->{result.replace('...', dots)}"


def axis_sizes(equation: str, shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
    """Returns the size of every axis by its letter.

    Raises:
        ShapeError: If the operands do not fit the equation.

    >>> axis_sizes("ij,jk->ik", [(2, 3), (3, 4)])
    {'i': 2, 'j': 3, 'k': 4}
    """
    operands, _ = read_equation(equation)
    if len(operands) != len(shapes):
        raise ShapeError(f"{_shown(equation)} is for {len(operands)} operands, not {len(shapes)}")
    sizes: dict[str, int] = {}
    for term, shape in zip(operands, shapes, strict=True):
        if len(term) != len(shape):
            raise ShapeError(
                f"{_shown(equation)}: {_shown(term)} is no operand with {len(shape)} axes"
            )
        for letter, size in zip(term, shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise ShapeError(
                    f"{_shown(equation)}: axis {letter!r} has sizes {sizes[letter]} and {size}"
                )
    return sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class Contraction:
    """One step of an evaluation from the left to the right.

    Attributes:
        products: Products of two elements.
        sums: Additions.
    """

    products: int
    sums: int


def contractions(equation: str, shapes: Sequence[tuple[int, ...]]) -> Iterator[Contraction]:
    """Yields the steps that evaluate an equation two operands at a time, from the left.

    An axis that no other operand and not the result has is summed before it is multiplied.

    >>> list(contractions("ij,jk->ik", [(2, 3), (3, 4)]))
    [Contraction(products=24, sums=16)]
    """
    sizes = axis_sizes(equation, shapes)
    operands, result = read_equation(equation)
    terms = [set(term) for term in operands]

    def count(letters: set[str]) -> int:
        return math.prod(sizes[letter] for letter in letters)

    def summed(letters: set[str], kept: set[str]) -> tuple[set[str], int]:
        rest = letters & kept
        return rest, max(count(letters) - count(rest), 0)

    first = terms[0]
    for place, second in enumerate(terms[1:], start=1):
        needed = set(result).union(*terms[place + 1 :])
        first, before = summed(first, needed | second)
        second, behind = summed(second, needed | first)
        products = count(first | second)
        made = (first | second) & needed
        sums = max(products - count(made), 0)
        yield Contraction(products=products, sums=before + behind + sums)
        first = made
    if len(terms) == 1:
        yield Contraction(products=0, sums=summed(first, set(result))[1])
