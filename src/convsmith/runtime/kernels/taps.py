"""Weighted sums along one axis: interpolation and adaptive means.

``out[a, o, b] = sum over t of  weight[o, t] * x[a, index[o, t], b]``
"""

from __future__ import annotations

from dataclasses import dataclass

from convsmith.kernel.emit import Code, Value
from convsmith.kernel.target import Target
from convsmith.runtime.kernels.kernel import GRAIN

__all__ = ["Taps"]

INDICES = 3
"""The argument with which the table of indices begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taps:
    """One axis; the arguments are output, input, the table of weights, then the indices.

    Attributes:
        outer: Elements of all axes before.
        before: The axis' size.
        after: Its new size.
        inner: Elements of all axes behind.
        taps: Terms of a sum.
    """

    outer: int
    before: int
    after: int
    inner: int
    taps: int

    @property
    def _together(self) -> int:
        """Outputs (a, o) of one item, or whole lines where there is no inner axis."""
        each = self.after if self.inner == 1 else self.inner
        return max(1, GRAIN // 2 // max(1, each))

    @property
    def _lines(self) -> int:
        return self.outer if self.inner == 1 else self.outer * self.after

    @property
    def items(self) -> int:
        """Independent pieces of work."""
        return -(-self._lines // self._together)

    def write(self, code: Code, target: Target) -> None:
        """Writes one item."""
        first = code.item * self._together
        last = code.smaller(first + self._together, self._lines)
        for line in code.range(first, last):
            if self.inner == 1:
                self._gathered(code, line)
            else:
                self._rows(code, target.lanes, line)

    def _rows(self, code: Code, lanes: int, line: Value) -> None:
        """One output of the axis: rows of the input, added up."""
        output, outer = line % self.after, line // self.after
        source = code.pointer(1).at(outer * (self.before * self.inner))
        rows, weights = [], []
        for tap in range(self.taps):
            at = output * self.taps + tap
            rows.append(source.at(code.word(at + INDICES) * self.inner))
            weights.append(code.splat(code.pointer(2).load(1, at), lanes))
        to = code.pointer(0).at(line * self.inner)

        def block(at: int | Value, wide: int) -> None:
            total = rows[0].load_first(wide, lanes, at) * weights[0]
            for row, weight in zip(rows[1:], weights[1:], strict=True):
                total = code.fma(row.load_first(wide, lanes, at), weight, total)
            to.store_first(total, wide, at)

        whole = self.inner // lanes * lanes
        for at in code.range(0, whole, lanes):
            block(at, lanes)
        if self.inner > whole:
            block(whole, self.inner - whole)

    def _gathered(self, code: Code, line: Value) -> None:
        """All outputs of one line, element by element."""
        source = code.pointer(1).at(line * self.before)
        to = code.pointer(0).at(line * self.after)
        for output in code.range(self.after):
            total: Value | None = None
            for tap in range(self.taps):
                at = output * self.taps + tap
                term = source.load(1, code.word(at + INDICES)) * code.pointer(2).load(1, at)
                total = term if total is None else total + term
            assert total is not None
            to.store(total, output)
