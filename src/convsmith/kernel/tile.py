"""The inner loop of everything that multiplies matrices: a tile of sums held in registers.

A tile is M rows by V vectors of L lanes. One step of the sum loads V vectors of the packed
right-hand side, and per row broadcasts one number of the left-hand side and adds M * V products.
With enough independent sums the multipliers never wait: 14 x 2 fills 28 of 32 registers, 6 x 2
fills 12 of 16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from convsmith.kernel.emit import Code, Value, Variable
from convsmith.kernel.target import Target

__all__ = ["Tile", "activate", "tile_shapes"]

_UNROLL: Final = 4


def tile_shapes(target: Target) -> tuple[tuple[int, int], ...]:
    """Returns the tiles (rows, vectors) that fit the registers, the best first.

    Accumulators and one step's vectors of the right-hand side stay in registers; a broadcast is
    an operand from memory on AVX-512 and needs a register elsewhere.
    """
    if target.registers >= 32:
        return ((14, 2), (7, 4), (9, 3), (28, 1))
    return ((6, 2), (4, 3), (12, 1))


class Tile:
    """The sums of one tile while they are made."""

    def __init__(self, code: Code, rows: int, vectors: int, lanes: int) -> None:
        self.code = code
        self.rows = rows
        self.vectors = vectors
        self.lanes = lanes
        zero = code.splat(0.0, lanes)
        self.sums: list[list[Variable]] = [
            [code.variable(zero) for _ in range(vectors)] for _ in range(rows)
        ]

    def accumulate(
        self,
        left: Value,
        offsets: Sequence[int],
        right: Value,
        steps: int | Value,
        *,
        left_step: int = 1,
        right_step: int | None = None,
        last: int | None = None,
    ) -> None:
        """Adds ``steps`` products per sum.

        Args:
            left: Where the left-hand side starts.
            offsets: Per row, how many elements from there.
            right: Where the packed right-hand side starts.
            steps: How many terms.
            left_step: Elements from one term to the next on the left.
            right_step: The same on the right; by default the vectors lie one behind the other.
            last: Elements of the last vector that may be read, if not all.
        """
        code = self.code
        apart = self.vectors * self.lanes if right_step is None else right_step
        counts = [self.lanes] * (self.vectors - 1) + [self.lanes if last is None else last]

        def step(a: Value, b: Value, at: int) -> None:
            loaded = [
                b.load_first(count, self.lanes, at * apart + v * self.lanes)
                for v, count in enumerate(counts)
            ]
            for row, offset in zip(self.sums, offsets, strict=True):
                scalar = code.splat(a.load(1, offset + at * left_step), self.lanes)
                for total, vector in zip(row, loaded, strict=True):
                    total.set(code.fma(scalar, vector, total.get()))

        def block(first: int | Value, count: int) -> None:
            a, b = left.at(first * left_step), right.at(first * apart)
            for at in range(count):
                step(a, b, at)

        if isinstance(steps, int):
            whole = steps // _UNROLL * _UNROLL
            for k in code.range(0, whole, _UNROLL):
                block(k, _UNROLL)
            if steps > whole:
                block(whole, steps - whole)
        else:
            for k in code.range(steps):
                block(k, 1)

    def finish(self, store: Callable[[int, int, Value], None]) -> None:
        """Hands every sum to ``store(row, vector, value)``."""
        for r, row in enumerate(self.sums):
            for v, total in enumerate(row):
                store(r, v, total.get())


def activate(code: Code, kind: str, x: Value) -> Value:
    """Returns an activation of a vector.

    ``silu`` is x / (1 + exp(-x)), its exponential by :func:`exponential`; ``hardswish`` is
    x * min(max(x + 3, 0), 6) / 6 (Howard et al. 2019, section 5.2).
    """
    match kind:
        case "none":
            return x
        case "relu":
            return code.maximum(x, 0.0)
        case "relu6":
            return code.minimum(code.maximum(x, 0.0), 6.0)
        case "silu":
            return x / (exponential(code, -x) + 1.0)
        case "hardswish":
            return x * (code.minimum(code.maximum(x + 3.0, 0.0), 6.0) * (1.0 / 6.0))
    raise ValueError(f"no activation {kind!r}")


def exponential(code: Code, x: Value) -> Value:
    """Returns e to the x of a vector, within 2 units in the last place.

    x = n ln 2 + r with |r| <= ln 2 / 2, ln 2 in two parts (Cody & Waite); e^r by its Taylor
    polynomial of degree 7, whose remainder is below 1e-9 there. Infinity above 88.72, 0 below
    -104, NaN for NaN.
    """
    from math import factorial

    lanes = int(x.kind[1 : x.kind.index(" ")]) if x.kind.startswith("<") else 1
    bounded = code.maximum(code.minimum(x, 88.8), -104.0)
    n = code.floor(bounded * 1.4426950408889634 + 0.5)
    r = code.fma(n, code.splat(-0.693359375, lanes), bounded)
    r = code.fma(n, code.splat(2.12194440e-4, lanes), r)
    power = code.splat(1.0 / factorial(7), lanes)
    for degree in range(6, -1, -1):
        power = code.fma(power, r, code.splat(1.0 / factorial(degree), lanes))
    # 2 ** n in two factors, for n from -150 to 128.
    half = code.floor(n * 0.5)
    return power * code.power_of_two(half) * code.power_of_two(n - half)
