"""How every number of an analysis comes about: formulas with symbols, numbers and results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from convsmith.analysis.analysis import analyze
from convsmith.analysis.conventions import Account, account, count, find_convention, reason_text
from convsmith.analysis.conventions.convention import Convention
from convsmith.analysis.explaining.causes import cause
from convsmith.analysis.explaining.costs import Costs, cost_formulas
from convsmith.analysis.explaining.expression import (
    Expression,
    Number,
    Symbol,
    number_text,
    product,
    total,
)
from convsmith.analysis.explaining.fields import backward_lines, field_lines, seen_backwards
from convsmith.analysis.explaining.layer import Layer, Line, Note, window_symbols
from convsmith.analysis.explaining.parameters import parameter_formula
from convsmith.analysis.explaining.shapes import shape_lines
from convsmith.analysis.explaining.words import (
    check_language,
    meaning,
    note_text,
    operator_name,
    quantity,
)
from convsmith.analysis.field import Field, fields
from convsmith.analysis.ledger import Row
from convsmith.analysis.memory import is_view
from convsmith.errors import UsageError
from convsmith.graph import Graph
from convsmith.graph.operators import Conv, Elementwise, Linear, MatMul, Norm, Operator
from convsmith.results import Result

__all__ = ["CountedPart", "Explanation", "LayerExplanation", "explain", "latex_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedPart:
    """What a tool counts for one layer, one part of it.

    Attributes:
        reason: ``products``, or a key of the reasons of
            :mod:`convsmith.analysis.conventions.reasons`.
        per: How much it is per element, where it is of this kind.
        amount: How much.
    """

    reason: str
    per: int | None
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerExplanation:
    """One layer.

    Attributes:
        row: Its row in the exact analysis, which the formulas come to.
        kind: Its operator, as the words of :func:`operator_name` take it.
        lines: The formulas, in the order in which they are read.
        notes: What is said in words, after the formulas.
        counted: What the tool of a convention counts for it; ``None`` without a convention.
    """

    row: Row
    kind: str
    lines: tuple[Line, ...]
    notes: tuple[Note, ...]
    counted: tuple[CountedPart, ...] | None = None

    def symbols(self) -> Iterator[Symbol]:
        """The symbols of all formulas, each name once."""
        seen = set()
        for line in self.lines:
            for symbol in (*line.subjects, *line.formula.symbols()):
                if symbol.name not in seen:
                    seen.add(symbol.name)
                    yield symbol

    def note(self, note: Note, lang: str) -> str:
        """A note in words."""
        rf, row = self.row.rf, self.row
        values = dict(note.values)
        values["reason"] = cause(values.get("reason") or rf.reason or row.reason, lang)
        values.setdefault("r", _several(rf.size))
        values.setdefault("j", _several(rf.stride))
        values.setdefault("o", _several(rf.offset))
        return note_text(note.key, lang, **values)


def _several(values: tuple[Any, ...]) -> str:
    shown = ["?" if value is None else number_text(value) for value in values]
    return shown[0] if len(set(shown)) == 1 else " × ".join(shown)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation(Result):
    """The formulas of one layer or of all, and how a tool's count differs from the exact one.

    Attributes:
        source: What the network was read from.
        lang: ``en`` or ``zh``.
        convention: Whose count is accounted for; ``exact``: nobody's.
        layers: The layers that are explained.
        account: The way from the exact count to that of the convention.
    """

    source: str
    lang: str
    convention: str
    layers: tuple[LayerExplanation, ...]
    account: Account | None = None

    def legend(self) -> Iterator[tuple[str, str]]:
        """All symbols that are used, with what they stand for."""
        seen: dict[str, str] = {}
        for layer in self.layers:
            for symbol in layer.symbols():
                letter = symbol.name if meaning(symbol.name, self.lang) else ""
                if letter and letter not in seen:
                    seen[letter] = meaning(symbol.name, self.lang)
        yield from seen.items()

    def to_dict(self) -> dict[str, Any]:
        """Returns the explanation as JSON-ready data, schema ``convsmith.explanation/1``."""
        return {
            "schema": "convsmith.explanation/1",
            "source": self.source,
            "lang": self.lang,
            "convention": self.convention,
            "layers": [self._layer(layer) for layer in self.layers],
            "symbols": dict(self.legend()),
            "difference": self.account and self.account.to_dict(self.lang),
        }

    def _layer(self, layer: LayerExplanation) -> dict[str, Any]:
        row = layer.row
        data: dict[str, Any] = {
            "name": row.name,
            "op": row.op,
            "text": row.text,
            "title": operator_name(layer.kind, self.lang),
            "inputs": [shape and list(shape) for shape in row.inputs],
            "outputs": [shape and list(shape) for shape in row.outputs],
            "params": row.params,
            "macs": row.macs,
            "mults": row.mults,
            "adds": row.adds,
            "others": row.others,
            "flops": row.flops,
            "status": row.status,
            "rf": row.rf.to_dict(),
            "lines": [self._line(line) for line in layer.lines],
            "notes": [layer.note(note, self.lang) for note in layer.notes],
        }
        if layer.counted is not None:
            data["counted"] = [
                {
                    "reason": part.reason,
                    "text": _part_text(part, self.lang),
                    "amount": part.amount,
                }
                for part in layer.counted
            ]
        return data

    def _line(self, line: Line) -> dict[str, Any]:
        value = line.formula.value
        return {
            "quantity": line.quantity,
            "label": quantity(line.quantity, self.lang),
            "symbols": [subject.name for subject in line.subjects],
            "formula": line.formula.text(),
            "numbers": line.formula.text(numbers=True),
            "value": value if isinstance(value, int) else str(value),
            "latex": latex_of(line),
        }


def _part_text(part: CountedPart, lang: str) -> str:
    if part.reason == "products":
        return {"en": "multiply-accumulates", "zh": "乘加"}[lang]
    return reason_text(part.reason, part.per, lang)


def latex_of(line: Line) -> str:
    """A line in LaTeX: symbols = formula = numbers = result, without the signs around."""
    steps = [subject.latex() for subject in line.subjects]
    formula, numbers = line.formula.latex(), line.formula.latex(numbers=True)
    result = Number(line.formula.value).latex()
    for step in (formula, numbers, result):
        if not steps or step != steps[-1]:
            steps.append(step)
    return " = ".join(steps)


def explain(
    graph: Graph, layer: str | None = None, *, convention: str | None = None, lang: str = "en"
) -> Explanation:
    """Says how the numbers of a network come about.

    Args:
        graph: The network; it needs no weights.
        layer: The layer to explain; without it, all of them, or, with a convention, only the
            difference to the exact count.
        convention: A tool or paper whose way of counting is accounted for.
        lang: ``en`` or ``zh``.

    Returns:
        Per layer the formulas of its sizes, parameters, operations and receptive field, each with
        symbols, with numbers, and computed.

    Raises:
        UsageError: If it is no graph, or there is no such layer, convention or language.

    >>> from convsmith.graph import parse
    >>> found = explain(parse("1@28 > conv 1 3 nobias > conv 1 3 nobias"), "conv2")
    >>> [line.formula.text(numbers=True) for line in found.layers[0].lines][2:4]
    ['1 × 1 × 24 × 24 × 1 × 3²', '1 × 1 × 24 × 24 × 1 × 3²']
    """
    if not isinstance(graph, Graph):
        raise UsageError(
            f"explain needs a network, not {type(graph).__name__}",
            remedy="read it first: convsmith.explain(convsmith.load(source))",
        )
    check_language(lang)
    rule = find_convention(convention) if convention is not None else None
    analysis = analyze(graph)
    wanted = [row for row in analysis.rows if layer in (None, row.name)]
    if not wanted and layer is not None:
        raise _missing(graph, layer)
    if layer is None and rule is not None:
        wanted = []
    sight = fields(graph)
    counted = _counted(graph, rule) if rule is not None else None
    back = seen_backwards(graph) if wanted else {}
    return Explanation(
        source=graph.source,
        lang=lang,
        convention=rule.name if rule is not None else "exact",
        layers=tuple(_explained(graph, row, sight, back, rule, counted) for row in wanted),
        account=account(graph, rule) if rule is not None and layer is None else None,
    )


def _missing(graph: Graph, layer: str) -> UsageError:
    names = [node.name for node in graph.nodes]
    layer = str(layer)
    close = (
        get_close_matches(layer, names, n=3)
        or [name for name in names if layer and layer.lower() in name.lower()][:3]
    )
    if close:
        remedy = f"did you mean {' or '.join(map(repr, close))}?"
    else:
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        remedy = f"it has {shown or 'no layers'}"
    return UsageError(f"the network has no layer {layer!r}", remedy=remedy)


def _counted(graph: Graph, rule: Convention) -> Mapping[str, tuple[CountedPart, ...]]:
    return {
        name: tuple(
            CountedPart(reason=part.reason, per=part.per, amount=part.amount)
            for part in found.parts
            if rule.reports == "flops" or part.measure == "mult"
        )
        for name, found in count(graph, rule).items()
    }


def _explained(
    graph: Graph,
    row: Row,
    sight: Mapping[str, Field],
    back: Mapping[str, tuple[int, ...]],
    rule: Convention | None,
    counted: Mapping[str, tuple[CountedPart, ...]] | None,
) -> LayerExplanation:
    node = graph.by_name[row.name]
    parts = counted[row.name] if counted is not None else None
    kind = _kind(node.op, row)
    inputs = tuple(s for used in node.inputs if (s := graph.shapes[used]) is not None)
    output = graph.shapes[node.name]
    if row.status == "unsupported" or output is None or len(inputs) < len(node.inputs):
        note = Note(key="unsupported", values=(("reason", row.reason),))
        return LayerExplanation(row=row, kind=kind, lines=(), notes=(note,), counted=parts)
    layer = Layer(
        graph=graph,
        node=node,
        inputs=inputs,
        output=output,
        row=row,
        before=tuple(sight.get(used) for used in node.inputs if used not in graph.constants),
    )
    found = (*_content(layer, kind, rule), *backward_lines(layer, back.get(row.name, ())))
    return LayerExplanation(
        row=row,
        kind=kind,
        lines=tuple(item for item in found if isinstance(item, Line)),
        notes=tuple(item for item in found if isinstance(item, Note)),
        counted=parts,
    )


def _kind(op: Operator, row: Row) -> str:
    if isinstance(op, Conv):
        channels = row.inputs[0][1] if row.inputs and row.inputs[0] else 0
        if op.transposed:
            return "Conv.transposed"
        if op.groups > 1:
            return "Conv.depthwise" if op.groups == channels else "Conv.grouped"
        return "Conv.pointwise" if set(op.kernel) == {1} else "Conv"
    kind = getattr(op, "kind", "")
    return f"{row.op}.{kind}" if kind else row.op


def _content(layer: Layer, kind: str, rule: Convention | None) -> Iterator[Line | Note]:
    """All lines and notes of one layer."""
    yield from shape_lines(layer)
    params = parameter_formula(layer)
    if params is not None:
        yield Line(quantity="params", subjects=(), formula=params)
    costs = cost_formulas(layer)
    if costs is not None:
        yield from _cost_lines(costs)
    if rule is not None and rule.name in ("textbook", "madd"):
        yield from _textbook(layer)
    yield from _remarks(layer, kind)
    yield from field_lines(layer)


def _cost_lines(costs: Costs) -> Iterator[Line]:
    shown: list[Expression] = []
    for name in ("macs", "mults", "adds", "others"):
        formula: Expression = getattr(costs, name)
        if formula.value:
            yield Line(quantity=name, subjects=(), formula=formula)
            if name != "macs":
                shown.append(formula)
    if len(shown) > 1:
        yield Line(quantity="flops", subjects=(), formula=total(*(Number(f.value) for f in shown)))


def _textbook(layer: Layer) -> Iterator[Line]:
    """A bias is one more multiplication; MAdd is multiplications and additions."""
    op, output = layer.op, layer.output
    if isinstance(op, Conv) and not op.transposed:
        letters = (
            ("f_h", "f_w") if len(output) == 4 else tuple(f"f_{i}" for i in range(len(output) - 2))
        )
        made = [Symbol(name, size) for name, size in zip(letters, output[2:], strict=True)]
        channels: Expression = Symbol("C_in", layer.inputs[0][1])
        if op.groups > 1:
            channels = channels / Symbol("g", op.groups)
        terms = product(window_symbols(op.kernel), channels)
        outputs = product(*_batch(output), *made, Symbol("C_out", op.channels))
    elif isinstance(op, Linear):
        terms = Symbol("F_in", layer.inputs[0][-1])
        outputs = product(*_batch(output), Symbol("F_out", op.features))
    else:
        return
    mults = product(outputs, total(terms, 1) if op.bias else terms)
    adds = product(outputs, total(terms - 1, 1) if op.bias else terms - 1)
    yield Line(quantity="textbook.mults", subjects=(), formula=mults)
    yield Line(quantity="textbook.adds", subjects=(), formula=adds)
    yield Line(
        quantity="textbook.madd",
        subjects=(),
        formula=total(Number(mults.value), Number(adds.value)),
    )


def _batch(output: tuple[int, ...]) -> tuple[Symbol, ...]:
    """The batch, where it is more than one image."""
    return (Symbol("N", output[0]),) if output and output[0] != 1 else ()


def _remarks(layer: Layer, kind: str) -> Iterator[Note]:
    op = layer.op
    if layer.row.status == "free":
        yield Note(key="free-view" if is_view(op) else "free-copy")
    match op:
        case Conv():
            key = kind.partition(".")[2]
            if key:
                yield Note(key=key)
        case Norm(kind="batch"):
            yield Note(key="batch-norm")
        case MatMul() if not any(used in layer.graph.constants for used in layer.node.inputs):
            yield Note(key="attention")
        case Elementwise(kind="mul") if _is_gate(layer):
            yield Note(key="gate")


def _is_gate(layer: Layer) -> bool:
    """Whether one factor per channel multiplies all its positions."""
    for shape in layer.inputs:
        plane = shape[2:]
        if len(shape) == len(layer.output) > 2 and set(plane) == {1} and layer.output[2:] != plane:
            return True
    return False
