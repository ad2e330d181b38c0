"""Element by element, from anywhere to anywhere: the kernel behind most operators.

    out[i . s] = f(a[i . s_a], b[i . s_b], ...)        for every index i of a box of sizes

``f`` is straight-line code; the strides s may be 0 (broadcasting), negative (flipping) or in any
order (transposing). With no ``f`` at all it copies: slices, splits, concatenations, transposes,
pixel shuffles and changes of layout are this kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from convsmith.kernel.emit import Code, Value
from convsmith.kernel.moving import load_spaced, transpose
from convsmith.kernel.target import Target
from convsmith.runtime.kernels.functions import apply
from convsmith.runtime.kernels.kernel import GRAIN

__all__ = ["Instruction", "Map"]

Strides = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One function applied to registers.

    Registers are numbered: the operands first, then one per instruction.

    Attributes:
        name: The function, as :func:`convsmith.runtime.kernels.functions.apply` knows it.
        registers: What it is applied to.
        numbers: Constants of it.
    """

    name: str
    registers: tuple[int, ...]
    numbers: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """A map; make one with :meth:`of`.

    Attributes:
        sizes: Of the box, in the order of the output's memory.
        output: Strides of the output.
        operands: Strides of every operand.
        body: The function; its last register is the result. Nothing: a copy.
    """

    sizes: tuple[int, ...]
    output: Strides
    operands: tuple[Strides, ...]
    body: tuple[Instruction, ...] = ()

    @staticmethod
    def of(
        sizes: Sequence[int],
        output: Sequence[int],
        operands: Sequence[Sequence[int]],
        body: Sequence[Instruction] = (),
    ) -> Map:
        """Returns a map with as few axes as possible.

        >>> Map.of((2, 3, 4), (12, 4, 1), [(12, 4, 1)]).sizes
        (24,)
        >>> Map.of((2, 3, 4), (12, 4, 1), [(4, 8, 1)]).sizes
        (2, 3, 4)
        """
        rows = [output, *operands]
        axes = [axis for axis, size in enumerate(sizes) if size != 1]
        axes.sort(key=lambda axis: -abs(output[axis]))
        columns: list[tuple[int, list[int]]] = []
        for axis in axes:
            steps = [strides[axis] for strides in rows]
            if columns:
                size, outer = columns[-1]
                if all(a == b * sizes[axis] for a, b in zip(outer, steps, strict=True)):
                    columns[-1] = (size * sizes[axis], steps)
                    continue
            columns.append((sizes[axis], steps))
        if not columns:
            columns = [(1, [1] * len(rows))]
        by_row = [tuple(steps[row] for _, steps in columns) for row in range(len(rows))]
        return Map(
            sizes=tuple(size for size, _ in columns),
            output=by_row[0],
            operands=tuple(by_row[1:]),
            body=tuple(body),
        )

    # How it is cut --------------------------------------------------------------------

    @property
    def _across(self) -> int | None:
        """The axis along which a transposed operand lies in memory."""
        if len(self.operands) != 1 or self.output[-1] != 1 or self.operands[0][-1] in (0, 1):
            return None
        for axis, step in enumerate(self.operands[0][:-1]):
            if step == 1 and self.sizes[axis] > 1:
                return axis
        return None

    @property
    def _pieces(self) -> int:
        """Pieces of a long row."""
        return -(-self.sizes[-1] // GRAIN) if self.sizes[-1] > 2 * GRAIN else 1

    @property
    def _together(self) -> int:
        """Rows of one item."""
        return 1 if self._pieces > 1 else -(-GRAIN // self.sizes[-1])

    @property
    def items(self) -> int:
        """Independent pieces of work."""
        across = self._across
        rows = math.prod(self.sizes[:-1])
        if across is not None:
            return rows // self.sizes[across] * -(-self.sizes[across] // self._strip(16))
        return -(-rows // self._together) * self._pieces

    def _strip(self, lanes: int) -> int:
        """Elements of the crossing axis that one item transposes: whole vectors of any width."""
        return max(1, GRAIN // (16 * self.sizes[-1])) * 16

    # Writing --------------------------------------------------------------------------

    def write(self, code: Code, target: Target) -> None:
        """Writes one item."""
        across = self._across
        if across is not None:
            self._transposed(code, target.lanes, across)
        elif self._pieces > 1:
            row, piece = code.item // self._pieces, code.item % self._pieces
            first = piece * GRAIN
            count = code.smaller(code.integer(self.sizes[-1]) - first, GRAIN)
            self._row(code, target.lanes, self._places(code, row), first, count)
        else:
            rows = math.prod(self.sizes[:-1])
            first = code.item * self._together
            last = code.smaller(first + self._together, rows)
            for row in code.range(first, last):
                self._row(code, target.lanes, self._places(code, row), None, self.sizes[-1])

    def _places(self, code: Code, row: Value, skip: int | None = None) -> list[Value]:
        """Where a row begins, in the output and in every operand."""
        places = [code.pointer(i) for i in range(1 + len(self.operands))]
        for axis in range(len(self.sizes) - 2, -1, -1):
            if axis == skip:
                continue
            index, row = row % self.sizes[axis], row // self.sizes[axis]
            for i, strides in enumerate((self.output, *self.operands)):
                if strides[axis]:
                    places[i] = places[i].at(index * strides[axis])
        return places

    def _compute(self, code: Code, values: list[Value], lanes: int) -> Value:
        for step in self.body:
            if step.name == "constant":
                values.append(code.splat(step.numbers[0], lanes))
            else:
                handed = [values[register] for register in step.registers]
                values.append(apply(code, step.name, handed, step.numbers))
        return values[-1]

    def _row(
        self, code: Code, lanes: int, places: list[Value], first: Value | None, count: int | Value
    ) -> None:
        """One row, or ``count`` elements of it from ``first`` on."""
        to, *sources = places
        steps = [strides[-1] for strides in self.operands]
        if first is not None:
            to = to.at(first * self.output[-1])
            sources = [p.at(first * s) if s else p for p, s in zip(sources, steps, strict=True)]
        spread = {
            i: code.splat(place.load(1), lanes)
            for i, (place, step) in enumerate(zip(sources, steps, strict=True))
            if step == 0
        }

        def block(at: int | Value, wide: int | Value) -> None:
            values = []
            for i, (place, step) in enumerate(zip(sources, steps, strict=True)):
                if step == 0:
                    values.append(spread[i])
                elif step == 1:
                    values.append(place.load_first(wide, lanes, at))
                else:
                    assert isinstance(wide, int)
                    values.append(load_spaced(code, place, wide, lanes, step, at))
            result = self._compute(code, values, lanes)
            if self.output[-1] == 1:
                to.store_first(result, wide, at)
            else:
                assert isinstance(wide, int)
                for lane in range(wide):
                    to.store(code.lane(result, lane), (at + lane) * self.output[-1])

        unroll = 4 if len(self.body) <= 2 else 2
        if isinstance(count, int):
            whole = count // (unroll * lanes) * (unroll * lanes)
            for at in code.range(0, whole, unroll * lanes):
                for u in range(unroll):
                    block(at + u * lanes, lanes)
            for start in range(whole, count, lanes):
                block(start, min(lanes, count - start))
            return
        # The last piece of a long row; all others are whole.
        many = count // (unroll * lanes) * (unroll * lanes)
        for at in code.range(0, many, unroll * lanes):
            for u in range(unroll):
                block(at + u * lanes, lanes)
        every = count // lanes * lanes
        for at in code.range(many, every, lanes):
            block(at, lanes)
        left = self.sizes[-1] % lanes
        if left:  # only the row's end is no whole vector
            with code.when(every < count):
                block(every, left)

    def _transposed(self, code: Code, lanes: int, across: int) -> None:
        """Squares of ``lanes`` x ``lanes`` through registers."""
        long, inner = self.sizes[across], self.sizes[-1]
        strip = self._strip(lanes)
        strips = -(-long // strip)
        to, source = self._places(code, code.item // strips, skip=across)
        first = code.item % strips * strip
        to_step, from_step = self.output[across], self.operands[0][-1]

        def square(column: int | Value, wide: int, row: int | Value, high: int) -> None:
            loaded = [
                source.at(column).load_first(wide, lanes, (row + i) * from_step)
                for i in range(high)
            ]
            place = to.at(row)
            for i, line in enumerate(transpose(code, loaded, lanes)[:wide]):
                made = self._compute(code, [line], lanes)
                place.store_first(made, high, (column + i) * to_step)

        def strip_of(column: int | Value, wide: int) -> None:
            whole = inner // lanes * lanes
            for row in code.range(0, whole, lanes):
                square(column, wide, row, lanes)
            if inner > whole:
                square(column, wide, whole, inner - whole)

        last = code.smaller(first + strip, long // lanes * lanes)
        for column in code.range(first, last, lanes):
            strip_of(column, lanes)
        if long % lanes:
            with code.when((code.item % strips).equals(strips - 1)):
                strip_of(long // lanes * lanes, long % lanes)
