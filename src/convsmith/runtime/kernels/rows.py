"""What needs all of a row before it can say anything: normalizations and softmax.

norm     (x - mean) / sqrt(variance + epsilon)        two passes: mean first, then the variance
rms      x / sqrt(mean of squares + epsilon)
softmax  exp(x - largest) / sum of these
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from convsmith.kernel.emit import Code, Value
from convsmith.kernel.target import Target
from convsmith.kernel.tile import exponential
from convsmith.runtime.kernels.functions import BINARY
from convsmith.runtime.kernels.kernel import GRAIN

__all__ = ["Rows", "across"]

Block = Callable[[int | Value, int], None]


def across(parts: Sequence[Value], combine: Callable[[Value, Value], Value]) -> Value:
    """Returns all parts combined, as a tree: short chains of operations, small errors."""
    now = list(parts)
    while len(now) > 1:
        pairs = zip(now[::2], now[1::2], strict=False)
        now = [combine(a, b) for a, b in pairs] + (now[-1:] if len(now) % 2 else [])
    return now[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows of a matrix; the arguments are output, input, and per column a factor and a summand.

    Attributes:
        kind: What is computed of a row.
        rows: How many.
        length: Of each.
        epsilon: Added to a variance or a mean square.
        factor: Whether there is a factor per column.
        summand: Whether there is a summand per column.
    """

    kind: Literal["norm", "rms", "softmax"]
    rows: int
    length: int
    epsilon: float = 0.0
    factor: bool = False
    summand: bool = False

    @property
    def _together(self) -> int:
        """Rows of one item."""
        return max(1, GRAIN // 4 // self.length)

    @property
    def items(self) -> int:
        """Independent pieces of work."""
        return -(-self.rows // self._together)

    def write(self, code: Code, target: Target) -> None:
        """Writes one item."""
        lanes = target.lanes
        first = code.item * self._together
        last = code.smaller(first + self._together, self.rows)
        for row in code.range(first, last):
            source = code.pointer(1).at(row * self.length)
            to = code.pointer(0).at(row * self.length)
            if self.kind == "softmax":
                self._softmax(code, lanes, source, to)
            else:
                self._norm(code, lanes, source, to)

    def _each(self, code: Code, lanes: int, block: Block) -> None:
        whole = self.length // lanes * lanes
        for at in code.range(0, whole, lanes):
            block(at, lanes)
        if self.length > whole:
            block(whole, self.length - whole)

    def _sum(self, code: Code, lanes: int, source: Value, term: Callable[[Value], Value]) -> Value:
        """The sum of a function of the elements."""
        zero = code.splat(0.0, lanes)
        total = code.variable(zero)

        def block(at: int | Value, wide: int) -> None:
            one = term(source.load_first(wide, lanes, at))
            if wide < lanes:  # lanes behind the row have no part in it
                one = code.first(wide, lanes).select(one, zero)
            total.set(total.get() + one)

        self._each(code, lanes, block)
        lanes_of_it = [code.lane(total.get(), i) for i in range(lanes)]
        return across(lanes_of_it, lambda a, b: a + b)

    def _norm(self, code: Code, lanes: int, source: Value, to: Value) -> None:
        share = 1.0 / self.length
        mean: Value | None = None
        if self.kind == "norm":
            mean = code.splat(self._sum(code, lanes, source, lambda x: x) * share, lanes)

        def centred(x: Value) -> Value:
            return x if mean is None else x - mean

        def square(x: Value) -> Value:
            return centred(x) * centred(x)

        spread = self._sum(code, lanes, source, square) * share + self.epsilon
        scale = code.splat(code.scalar(1.0) / code.sqrt(spread), lanes)

        def block(at: int | Value, wide: int) -> None:
            y = centred(source.load_first(wide, lanes, at)) * scale
            if self.factor:
                y = y * code.pointer(2).load_first(wide, lanes, at)
            if self.summand:
                y = y + code.pointer(3).load_first(wide, lanes, at)
            to.store_first(y, wide, at)

        self._each(code, lanes, block)

    def _softmax(self, code: Code, lanes: int, source: Value, to: Value) -> None:
        lowest = code.splat(-math.inf, lanes)
        largest = code.variable(lowest)

        def look(at: int | Value, wide: int) -> None:
            one = source.load_first(wide, lanes, at)
            if wide < lanes:
                one = code.first(wide, lanes).select(one, lowest)
            largest.set(BINARY["maximum"](code, largest.get(), one))

        self._each(code, lanes, look)
        parts = [code.lane(largest.get(), i) for i in range(lanes)]
        most = code.splat(across(parts, lambda a, b: BINARY["maximum"](code, a, b)), lanes)
        zero = code.splat(0.0, lanes)
        total = code.variable(zero)

        def raise_(at: int | Value, wide: int) -> None:
            one = exponential(code, source.load_first(wide, lanes, at) - most)
            to.store_first(one, wide, at)
            if wide < lanes:
                one = code.first(wide, lanes).select(one, zero)
            total.set(total.get() + one)

        self._each(code, lanes, raise_)
        parts = [code.lane(total.get(), i) for i in range(lanes)]
        whole = code.splat(across(parts, lambda a, b: a + b), lanes)

        def share(at: int | Value, wide: int) -> None:
            to.store_first(to.load_first(wide, lanes, at) / whole, wide, at)

        self._each(code, lanes, share)
