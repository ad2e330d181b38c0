"""The exact analysis with the size of the image left open."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convsmith.analysis.field import Field, fields
from convsmith.analysis.ledger import Row, totals
from convsmith.analysis.symbolic.expressions import Expression, floor_of
from convsmith.analysis.symbolic.family import COSTS, Family, Sizes, same_everywhere
from convsmith.analysis.symbolic.polynomial import Polynomial
from convsmith.errors import ConvsmithError, UsageError
from convsmith.graph import Graph, Shape
from convsmith.graph.operators import Conv, Pool
from convsmith.results import Result

__all__ = ["SymbolicAnalysis", "SymbolicRow", "SymbolicTotal", "symbolic"]

_LONGEST_PERIOD = 128
"""Sizes are not written as floors when it takes more shapes than this to find out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolicRow:
    """What one node costs and sees at every size.

    Attributes:
        name: The node.
        op: The class of its operator.
        text: The operator in the notation.
        outputs: Per output, its sizes; ``None`` if they are not known. Each is exact at every
            size: a number, a formula such as ``floor((H + 1)/2)``, or, where no such form was
            found, its polynomial along the class of the network's own size.
        params: Distinct learnable scalars it uses.
        weight_bytes: Bytes of all its constants.
        macs: Multiply-accumulate pairs, bias excluded.
        mults: Multiplications.
        adds: Additions.
        others: Comparisons, divisions, exponentials, roots.
        flops: All operations.
        read_bytes: Bytes of the values it reads.
        write_bytes: Bytes of the values it makes.
        alive_bytes: Bytes of all values that are alive while it runs.
        formula: Its MACs at every size, where they are a multiple of its output; else empty.
        status: ``counted``, ``free`` or ``unsupported``.
        rf: The receptive field of its first output.
        rf_depends_on_size: Whether it is another one at some other sizes: that of what sees the
            whole image is, and with SAME padding its offset.
        padding_depends_on_size: Whether its own SAME padding does.
    """

    name: str
    op: str
    text: str
    outputs: tuple[tuple[str, ...] | None, ...]
    params: int
    weight_bytes: int
    macs: Expression
    mults: Expression
    adds: Expression
    others: Expression
    flops: Expression
    read_bytes: Expression
    write_bytes: Expression
    alive_bytes: Expression
    formula: str
    status: str
    rf: Field
    rf_depends_on_size: bool
    padding_depends_on_size: bool

    def to_dict(self) -> dict[str, Any]:
        """Returns the row as JSON-ready data."""
        return {
            "name": self.name,
            "op": self.op,
            "text": self.text,
            "outputs": [sizes and list(sizes) for sizes in self.outputs],
            "params": self.params,
            "weight_bytes": self.weight_bytes,
            **{name: getattr(self, name).to_dict() for name in (*COSTS, "flops")},
            "formula": self.formula,
            "status": self.status,
            "rf": self.rf.to_dict(),
            "rf_depends_on_size": self.rf_depends_on_size,
            "padding_depends_on_size": self.padding_depends_on_size,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolicTotal:
    """Sums over all rows; shared tensors count once."""

    params: int
    weight_bytes: int
    macs: Expression
    mults: Expression
    adds: Expression
    others: Expression
    flops: Expression
    peak_activation_bytes: Expression

    def to_dict(self) -> dict[str, Any]:
        """Returns the sums as JSON-ready data."""
        names = ("macs", "mults", "adds", "others", "flops", "peak_activation_bytes")
        return {
            "params": self.params,
            "weight_bytes": self.weight_bytes,
            **{name: getattr(self, name).to_dict() for name in names},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolicAnalysis(Result):
    """What a network costs and sees at every size of its image; prints as a table.

    Attributes:
        source: What it was read from.
        inputs: The sizes of every input, the open ones as variables.
        own: The network's own size, by variable.
        modulus: By variable: polynomials hold for sizes with the same remainder modulo this.
        smallest: By variable: the smallest size of that class at which they were seen to hold.
        rows: What works at every size.
        total: Sums over the rows.
        fixed: The layers that need the network's own size; empty if none does. They, and all
            layers behind them, are not among the rows.
        fixed_layers: How many layers are left out for that reason.
        fixed_macs: Their multiply-accumulates.
        unsupported: The rows whose costs are not known, and which totals therefore leave out.

    >>> from convsmith.graph import parse
    >>> found = symbolic(parse("3@224 > conv 64 7/2 p3 > relu"))
    >>> print(found.rows[0].macs, "when H mod", found.modulus["H"], "is 0")
    2352*N*H*W when H mod 2 is 0
    >>> found.rows[0].formula
    '9408*N*floor((H + 1)/2)*floor((W + 1)/2)'
    >>> found.total.macs.at(H=225, W=17)
    9567936
    """

    source: str
    inputs: Mapping[str, tuple[str, ...]]
    own: Mapping[str, int]
    modulus: Mapping[str, int]
    smallest: Mapping[str, int]
    rows: tuple[SymbolicRow, ...]
    total: SymbolicTotal
    fixed: tuple[str, ...]
    fixed_layers: int
    fixed_macs: int
    unsupported: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the analysis as JSON-ready data, schema ``convsmith.symbolic/1``.

        An expression's ``largest_of`` holds polynomials, of which it is the largest (all but the
        peak have one): terms of an exact ``coefficient`` and the ``exponents`` of the variables.
        They hold where every size has the ``remainder`` modulo the expression's ``modulus``.
        """
        return {
            "schema": "convsmith.symbolic/1",
            "source": self.source,
            "inputs": {name: list(sizes) for name, sizes in self.inputs.items()},
            "own": dict(self.own),
            "modulus": dict(self.modulus),
            "remainder": {name: self.own[name] % m for name, m in self.modulus.items()},
            "smallest": dict(self.smallest),
            "rows": [row.to_dict() for row in self.rows],
            "total": self.total.to_dict(),
            "fixed": list(self.fixed),
            "fixed_layers": self.fixed_layers,
            "fixed_macs": self.fixed_macs,
            "unsupported": list(self.unsupported),
        }


def symbolic(
    graph: Graph, again: Callable[[Mapping[str, Shape]], Graph] | None = None
) -> SymbolicAnalysis:
    """Finds what a network costs for every size of its image and every batch.

    Costs are polynomials in the batch ``N`` and in the size of the image (``H`` and ``W``; ``L``
    for a signal, ``D``, ``H`` and ``W`` for a volume) for all sizes that leave the same remainder
    modulo the total stride, here those of the network's own size. Each is found by exact
    interpolation and checked at further sizes. :meth:`Expression.at` is exact at every size, also
    outside that class. Layers that need a size of their own, such as a linear layer behind a
    flatten, are named and left out, with all behind them.

    Args:
        graph: The network at a size of its own.
        again: Reads the network again for other sizes of its inputs. Needed for sources that write
            their size into the graph, such as ``x.view(n, groups, c, h, w)`` in a torch module.

    Raises:
        UsageError: If it is no graph, or it has no image.
        ShapeError: If its own sizes do not fit.

    >>> from convsmith.graph import parse
    >>> found = symbolic(parse("1@32 > conv 6 5 > maxpool 2 > fc 10"))
    >>> found.fixed, str(found.total.macs)
    (('fc1',), '150*N*H*W - 600*N*H - 600*N*W + 2400*N')
    """
    if not isinstance(graph, Graph):
        raise UsageError(
            f"symbolic needs a network, not {type(graph).__name__}",
            remedy="read it first: convsmith.load(source)",
        )
    _ = graph.shapes
    return _Reading(Family(graph, again)).result()


class _Reading:
    """Puts together what a family of sizes has in common."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.rows = list(family.places())
        self.times: dict[int, Sizes] = {}
        for row, start, stop in self.rows:
            extra = family.extra_period(family.graph.by_name[row.name])
            for place in range(start, stop):
                is_fold = place - start in (COSTS.index("adds"), COSTS.index("others"))
                self.times[place] = extra if is_fold else {}
        self.polynomials: dict[int, Polynomial] = {}
        groups: dict[tuple[tuple[str, int], ...], list[int]] = {}
        for place, given in self.times.items():
            groups.setdefault(tuple(given.items()), []).append(place)
        for repeats, places in groups.items():
            self.polynomials.update(family.fit(dict(repeats), places))
        self.floors = self._floors()
        self.moved = self._fields_elsewhere()

    def result(self) -> SymbolicAnalysis:
        family = self.family
        graph, own = family.graph, family.own
        names = {row.name for row, _, _ in self.rows}
        tensors = totals([row for row, _, _ in self.rows], 0)
        common = self._lcm(range(len(self.times)))
        left = [node for node in graph.nodes if node.name not in names]
        sums = {name: self._sum([s + i for _, s, _ in self.rows]) for i, name in enumerate(COSTS)}
        every = [start + i for _, start, _ in self.rows for i in (1, 2, 3)]
        return SymbolicAnalysis(
            source=graph.source,
            inputs={v.name: family.symbols(v) for v in graph.inputs},
            own=dict(own),
            modulus={name: family.periods[name] * common[name] for name in own},
            smallest=family.smallest(self.polynomials, common),
            rows=tuple(self._row(row, start, stop) for row, start, stop in self.rows),
            total=SymbolicTotal(
                params=tensors.params,
                weight_bytes=tensors.weight_bytes,
                **{name: sums[name] for name in ("macs", "mults", "adds", "others")},
                flops=self._sum(every),
                peak_activation_bytes=self._largest([s + 6 for _, s, _ in self.rows]),
            ),
            fixed=family.fixed,
            fixed_layers=len(left),
            fixed_macs=family.macs_of({node.name for node in left}),
            unsupported=tuple(row.name for row, _, _ in self.rows if row.status == "unsupported"),
        )

    def _row(self, row: Row, start: int, stop: int) -> SymbolicRow:
        node = self.family.graph.by_name[row.name]
        costs = {name: self._sum([start + i]) for i, name in enumerate(COSTS)}
        outputs: list[tuple[str, ...] | None] = []
        place = start + len(COSTS)
        for shape in row.outputs:
            count = len(shape or ())
            texts = tuple(self._size(p) for p in range(place, place + count))
            outputs.append(None if shape is None else texts)
            place += count
        op = node.op
        moving = isinstance(op, Conv | Pool) and op.same is not None and max(op.stride) > 1
        return SymbolicRow(
            name=row.name,
            op=row.op,
            text=row.text,
            outputs=tuple(outputs),
            params=row.params,
            weight_bytes=row.weight_bytes,
            **costs,
            flops=self._sum([start + 1, start + 2, start + 3]),
            formula=self._formula(row, start),
            status=row.status,
            rf=row.rf,
            rf_depends_on_size=row.name in self.moved,
            padding_depends_on_size=moving,
        )

    # Expressions -----------------------------------------------------------------------------

    def _lcm(self, places: Iterable[int]) -> dict[str, int]:
        common = dict.fromkeys(self.family.own, 1)
        for extra in {id(self.times[p]): self.times[p] for p in places}.values():
            for name, count in extra.items():
                common[name] = math.lcm(common.get(name, 1), count)
        return common

    def _sum(self, places: Sequence[int]) -> Expression:
        found = [self.polynomials[p] for p in places if p in self.polynomials]
        parts: tuple[Polynomial, ...] = ()
        if len(found) == len(places):
            parts = (sum(found[1:], start=found[0]) if found else Polynomial.constant(0),)
        return self._expression(parts, places, sum)

    def _largest(self, places: Sequence[int]) -> Expression:
        found = {str(p): p for place in places if (p := self.polynomials.get(place)) is not None}
        parts: list[Polynomial] = []
        for polynomial in found.values():
            if any(other.dominates(polynomial) for other in parts):
                continue
            parts = [other for other in parts if not polynomial.dominates(other)]
            parts.append(polynomial)
        known = all(place in self.polynomials for place in places)
        return self._expression(tuple(parts) if known else (), places, _most)

    def _expression(
        self,
        parts: tuple[Polynomial, ...],
        places: Sequence[int],
        combine: Callable[[Iterable[int]], int],
    ) -> Expression:
        family = self.family
        common = self._lcm(places)
        modulus = {name: family.periods[name] * common[name] for name in family.own}

        def evaluate(sizes: Sizes) -> int:
            if parts and all(
                sizes[name] >= own and (sizes[name] - own) % modulus[name] == 0
                for name, own in family.own.items()
            ):
                return int(max(part.at(sizes) for part in parts))
            numbers = family.measure(sizes)
            return combine(numbers[place] for place in places)

        return Expression(
            parts=parts,
            modulus=modulus,
            remainder={name: own % modulus[name] for name, own in family.own.items()},
            own=dict(family.own),
            evaluate=evaluate,
        )

    def _formula(self, row: Row, start: int) -> str:
        """MACs as a multiple of the elements of the output."""
        polynomial = self.polynomials.get(start)
        shape = row.outputs[0] if row.outputs else None
        if not row.macs or not shape or polynomial is None or polynomial.is_constant:
            return ""
        first = start + len(COSTS)
        places = range(first, first + len(shape))
        if any(place not in self.polynomials for place in places):
            return ""
        if row.macs % math.prod(shape) or not self._is_multiple(start, places):
            return ""
        factor = row.macs // math.prod(shape)
        variable = [p for p in places if not self.polynomials[p].is_constant]
        factor *= math.prod(
            size for p, size in zip(places, shape, strict=True) if p not in variable
        )
        texts = [self.floors.get(p) for p in variable]
        if None in texts:
            return ""
        wrapped = [f"({t})" if t and " " in t and t[:5] != "floor" else t for t in texts]
        return "*".join([str(factor), *map(str, wrapped)])

    def _is_multiple(self, place: int, sizes: Iterable[int]) -> bool:
        """Whether a number grows with the product of others: the same ratio at all sizes."""
        seen = self.family.seen()
        return len({(n[place], e) if not e else n[place] / e for n in seen
                    for e in (math.prod(n[s] for s in sizes),)}) == 1  # fmt: skip

    # Sizes and fields ------------------------------------------------------------------------

    def _size(self, place: int) -> str:
        polynomial = self.polynomials.get(place)
        if polynomial is None:
            return "?"
        if polynomial.is_constant:
            return str(polynomial)
        return self.floors.get(place) or str(polynomial)

    def _floors(self) -> dict[int, str]:
        family = self.family
        longest = max(family.periods.values())
        if longest > _LONGEST_PERIOD:
            return {}
        sizes = {n: [own + k for k in range(longest + 1)] for n, own in family.own.items()}
        seen = [
            family.output_sizes({name: given[k] for name, given in sizes.items()})
            for k in range(longest + 1)
        ]
        found: dict[int, str] = {}
        index = 0
        for row, start, _ in self.rows:
            place = start + len(COSTS)
            for shape in row.outputs:
                for _ in shape or ():
                    polynomial = self.polynomials.get(place)
                    if polynomial is not None and not polynomial.is_constant:
                        numbers = [None if one is None else one[index] for one in seen]
                        text = floor_of(polynomial, sizes, numbers)
                        if text is not None:
                            found[place] = text
                    place += 1
                    index += 1
        return found

    def _fields_elsewhere(self) -> set[str]:
        """The values whose field is another one at some other size."""
        family = self.family
        own = {name: size for name, size in family.own.items() if name != "N"}
        longest = max(family.periods.values())
        moved: set[str] = set()
        for step in dict.fromkeys((1, 2, 3, longest // 2, longest)):
            try:
                sight = fields(family.at({name: size + step for name, size in own.items()}))
            except ConvsmithError:
                continue
            moved.update(
                row.name for row, _, _ in self.rows if not same_everywhere(row.rf, sight[row.name])
            )
        return moved


def _most(numbers: Iterable[int]) -> int:
    return max(numbers, default=0)
