"""The inner loop of complex matrix products: a tile of complex sums held in registers.

Real and imaginary parts are vectors of their own on the right and numbers of their own on the left,
so a product is four fused multiply-adds and nothing is shuffled. Two real products can take the
place of a complex one: the real frequencies of a transform come in pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from convsmith.kernel.emit import Code, Value, Variable
from convsmith.kernel.target import Target

__all__ = ["ComplexTile", "complex_tile_shapes"]

_UNROLL: Final = 2


def complex_tile_shapes(target: Target) -> tuple[tuple[int, int], ...]:
    """Returns the tiles (rows, vectors) that fit the registers, the best first.

    Two sums per row and vector, two parts of one step's right-hand side, two numbers of the left.
    """
    if target.registers >= 32:
        return ((6, 2), (13, 1))
    return ((5, 1), (2, 2))


class ComplexTile:
    """The sums of one tile while they are made."""

    def __init__(self, code: Code, rows: int, vectors: int, lanes: int) -> None:
        self.code = code
        self.vectors = vectors
        self.lanes = lanes
        zero = code.splat(0.0, lanes)
        self.sums: list[list[tuple[Variable, Variable]]] = [
            [(code.variable(zero), code.variable(zero)) for _ in range(vectors)]
            for _ in range(rows)
        ]

    def accumulate(
        self, left: Value, offsets: Sequence[int], apart: int, right: Value, steps: int, *,
        real: bool = False,
    ) -> None:  # fmt: skip
        """Adds ``steps`` products per sum.

        Args:
            left: Where the left-hand side starts; one term lies behind the other.
            offsets: Per row, how many elements from there.
            apart: Elements from a real part on the left to its imaginary part.
            right: The packed right-hand side: per step the vectors of real parts, then those of
                imaginary parts.
            steps: How many terms.
            real: Whether the parts are two real numbers, multiplied each by itself.
        """
        code, lanes = self.code, self.lanes
        width = self.vectors * lanes

        def step(a: Value, b: Value, at: int) -> None:
            parts = [
                (b.load(lanes, 2 * at * width + v * lanes),
                 b.load(lanes, (2 * at + 1) * width + v * lanes))
                for v in range(self.vectors)
            ]  # fmt: skip
            for row, offset in zip(self.sums, offsets, strict=True):
                re = code.splat(a.load(1, offset + at), lanes)
                im = code.splat(a.load(1, offset + apart + at), lanes)
                minus = -im
                for (total_re, total_im), (w_re, w_im) in zip(row, parts, strict=True):
                    if real:
                        total_re.set(code.fma(re, w_re, total_re.get()))
                        total_im.set(code.fma(im, w_im, total_im.get()))
                    else:
                        total_re.set(code.fma(re, w_re, total_re.get()))
                        total_im.set(code.fma(re, w_im, total_im.get()))
                        total_re.set(code.fma(minus, w_im, total_re.get()))
                        total_im.set(code.fma(im, w_re, total_im.get()))

        whole = steps // _UNROLL * _UNROLL
        for k in code.range(0, whole, _UNROLL):
            a, b = left.at(k), right.at(k * (2 * width))
            for at in range(_UNROLL):
                step(a, b, at)
        for last in range(whole, steps):
            step(left.at(last), right.at(2 * last * width), 0)

    def finish(self, store: Callable[[int, int, int, Value], None]) -> None:
        """Hands every sum to ``store(row, vector, part, value)``."""
        for r, row in enumerate(self.sums):
            for v, parts in enumerate(row):
                for part, total in enumerate(parts):
                    store(r, v, part, total.get())
