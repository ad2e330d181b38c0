"""The layer that is explained, and the symbols that its formulas are written in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convsmith.analysis.explaining.expression import Expression, Symbol, product
from convsmith.analysis.field import Field
from convsmith.analysis.ledger import Row
from convsmith.graph import Graph, Node, Shape
from convsmith.graph.operators import Operator

__all__ = ["Layer", "Line", "Note", "axis_letters", "elements", "window_symbols"]

_LETTERS = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One formula: what it is of, the symbols on the left, and the formula.

    Attributes:
        quantity: A key of :data:`convsmith.analysis.explaining.words.QUANTITIES`.
        subjects: The symbols that it gives a number to; several where the numbers agree.
        formula: The right side.
    """

    quantity: str
    subjects: tuple[Symbol, ...]
    formula: Expression

    @property
    def trivial(self) -> bool:
        """Whether the formula is a number or a single symbol: nothing to substitute."""
        return not any(True for _ in self.formula.symbols())


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something that is said in words.

    Attributes:
        key: A key of :data:`convsmith.analysis.explaining.words.NOTES`.
        values: What is put into its text.
    """

    key: str
    values: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A node with everything that formulas need.

    Attributes:
        graph: The network.
        node: The node.
        inputs: The shapes of its inputs.
        output: The shape of its first output.
        row: Its row in the analysis.
        before: The fields of its inputs.
    """

    graph: Graph
    node: Node
    inputs: tuple[Shape, ...]
    output: Shape
    row: Row
    before: tuple[Field | None, ...]

    @property
    def op(self) -> Operator:
        """The operator."""
        return self.node.op


def axis_letters(rank: int) -> tuple[str, ...]:
    """What the spatial axes are called, outermost first.

    >>> axis_letters(2)
    ('H', 'W')
    """
    return _LETTERS.get(rank, tuple(f"A{axis}" for axis in range(1, rank + 1)))


def axis_symbol(letter: str, axis: int, rank: int, number: int, *, alike: bool) -> Symbol:
    """``k`` where all axes are alike, else ``k_h``, ``k_w``."""
    index = "" if alike or rank == 1 else f"_{axis_letters(rank)[axis].lower()}"
    return Symbol(f"{letter}{index}", number)


def elements(shape: Shape, where: str = "") -> tuple[Symbol, ...]:
    """Symbols of the sizes of a tensor, one an axis.

    Args:
        shape: Its sizes.
        where: ``in`` or ``out`` for channels and spatial axes; nothing if it does not matter.

    >>> product(*elements((1, 64, 112, 112), "out")).text()
    'N · C_out · H_out · W_out'
    """
    index = f"_{where}" if where else ""
    if len(shape) >= 3 and len(shape) - 2 in _LETTERS:
        names = ["N", f"C{index}", *(f"{a}{index}" for a in axis_letters(len(shape) - 2))]
    elif len(shape) == 2:
        names = ["N", f"F{index}"]
    else:
        names = [f"n_{axis}" for axis in range(1, len(shape) + 1)]
    return tuple(Symbol(name, size) for name, size in zip(names, shape, strict=True))


def window_symbols(kernel: Sequence[int]) -> Expression:
    """The taps of a window: ``k²`` where it is square, else ``k_h · k_w``.

    >>> window_symbols((3, 3)).text(), window_symbols((1, 7)).text()
    ('k²', 'k_h · k_w')
    """
    rank = len(kernel)
    if len(set(kernel)) == 1:
        power: Expression = Symbol("k", kernel[0])
        return power**rank
    return product(*(axis_symbol("k", a, rank, k, alike=False) for a, k in enumerate(kernel)))
