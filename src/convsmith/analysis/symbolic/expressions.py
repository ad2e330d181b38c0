"""What a cost is for every size: a polynomial along its class, and its value anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from convsmith.analysis.symbolic.polynomial import Polynomial
from convsmith.errors import UsageError

__all__ = ["Expression", "floor_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """One number that depends on the size of the image.

    Attributes:
        parts: The number is the largest of these; all but a peak have one. None: no polynomial
            was found; :meth:`at` still answers.
        modulus: By variable: sizes with the same remainder modulo this have the polynomials.
        remainder: By variable: the remainder of the network's own size.
        own: The network's own size, which stands for what :meth:`at` is not told.
    """

    parts: tuple[Polynomial, ...]
    modulus: Mapping[str, int]
    remainder: Mapping[str, int]
    own: Mapping[str, int]
    evaluate: Callable[[Mapping[str, int]], int] = field(compare=False, repr=False)

    @property
    def is_constant(self) -> bool:
        """Whether it is the same for every size."""
        return len(self.parts) == 1 and self.parts[0].is_constant

    def at(self, **sizes: int) -> int:
        """Returns the exact number at a size, of this class or any other.

        Args:
            **sizes: By variable (``H=224, W=224``); what is left out is as in the network.

        Raises:
            UsageError: If there is no such variable, or a size is less than 1.
            ConvsmithError: If the network does not work at this size.
        """
        for name, size in sizes.items():
            if name not in self.own:
                raise UsageError(
                    f"there is no size {name!r}", remedy=f"it has {', '.join(self.own)}"
                )
            if size < 1:
                raise UsageError(f"{name} is {size}", remedy="give sizes of at least 1")
        return self.evaluate({**self.own, **sizes})

    def __str__(self) -> str:
        if not self.parts:
            return "no polynomial"
        if len(self.parts) == 1:
            return str(self.parts[0])
        return f"max({', '.join(map(str, self.parts))})"

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON-ready data; coefficients are exact rationals as strings."""
        return {
            "text": str(self),
            "largest_of": [
                [
                    {
                        "coefficient": str(coefficient),
                        "exponents": {
                            name: exponent
                            for name, exponent in zip(part.variables, exponents, strict=True)
                            if exponent
                        },
                    }
                    for exponents, coefficient in part.terms.items()
                ]
                for part in self.parts
            ],
            "modulus": dict(self.modulus),
        }


def floor_of(
    polynomial: Polynomial, sizes: Mapping[str, list[int]], numbers: list[int | None]
) -> str | None:
    """Writes a size that grows in steps as ``floor((H + a)/b)``, if that is what it is.

    Nested floors of integers are one floor (Graham, Knuth & Patashnik, "Concrete Mathematics",
    equation 3.11), so the output of every chain of windows has this form.

    Args:
        polynomial: The size along one class, linear in one variable.
        sizes: By variable, sizes that follow each other, a period or more.
        numbers: What it is at each of them; ``None``: the network does not work there.

    Returns:
        The text; ``None`` if one floor does not describe all numbers.
    """
    slopes = {exponents: c for exponents, c in polynomial.terms.items() if any(exponents)}
    if len(slopes) != 1:
        return None
    ((exponents, slope),) = slopes.items()
    if sum(exponents) != 1 or slope <= 0:
        return None
    name = polynomial.variables[exponents.index(1)]
    p, q = slope.numerator, slope.denominator
    pairs = [(x, y) for x, y in zip(sizes[name], numbers, strict=True) if y is not None]
    if not pairs:
        return None
    if p * q > 1 and (factor := math.gcd(*(y - pairs[0][1] for _, y in pairs))) > 1:
        rest = pairs[0][1] % factor  # enlarged by a factor, and perhaps cut
        scaled = Polynomial(polynomial.variables, {exponents: slope / factor})
        text = floor_of(scaled, sizes, [None if y is None else y // factor for y in numbers])
        if text is not None and text.startswith("floor"):
            return f"{factor}*{text} + {rest}" if rest else f"{factor}*{text}"
    low = max(q * y - p * x for x, y in pairs)
    high = min(q * y - p * x + q - 1 for x, y in pairs)
    if low > high:
        return None
    shift = min(max(0, low), high)
    times = name if p == 1 else f"{p}*{name}"
    inner = times if shift == 0 else f"{times} {'-' if shift < 0 else '+'} {abs(shift)}"
    if q == 1:
        return inner
    return f"floor({inner}/{q})" if shift == 0 else f"floor(({inner})/{q})"
