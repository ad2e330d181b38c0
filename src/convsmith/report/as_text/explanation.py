"""An explanation in a terminal: every formula with symbols, with numbers, and computed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.text import Text

from convsmith.analysis.conventions import Account, reason_text
from convsmith.analysis.explaining import (
    Explanation,
    LayerExplanation,
    Line,
    number_text,
    operator_name,
    quantity,
    word,
)
from convsmith.report import wording
from convsmith.report.columns import printed
from convsmith.report.rendering import terminal_width, text

__all__ = ["heading", "part_text", "shapes", "steps"]

_INDENT = 2
_LAYERS_NAMED = 3


@text.register
def _(result: Explanation, *, width: int | None = None, color: bool = False) -> str:
    """Renders all layers, the account of a convention, and what the symbols stand for."""
    width = max(width or terminal_width(), 40)
    source = wording.shorten(wording.plain(" ".join(result.source.split())), width)
    lines = [Text(source, style="bold"), Text()]
    if result.account is not None:
        lines += [*_account(result.account, result.lang, width), Text()]
    for layer in result.layers:
        lines += [*_layer(layer, result, width), Text()]
    symbols = [f"{name}\u00a0{stands}" for name, stands in result.legend()]
    if symbols:
        lines.append(Text(word("symbols", result.lang), style="bold"))
        lines += [
            Text(line, style="dim")
            for line in _wrapped("; ".join(symbols), width - _INDENT, first=_INDENT, rest=_INDENT)
        ]
    while lines and not lines[-1].plain:
        lines.pop()
    return printed(lines, color=color)


def heading(layer: LayerExplanation, lang: str) -> tuple[str, str, str]:
    """The name of a layer, what it is, and how it is written."""
    row = layer.row
    return wording.plain(row.name), operator_name(layer.kind, lang), wording.plain(row.text)


def shapes(layer: LayerExplanation) -> str:
    """The shapes that go in and come out."""

    def shown(sizes: Sequence[object]) -> str:
        return ", ".join(
            "?" if shape is None else "×".join(map(str, shape)) or "()"  # type: ignore[call-overload]
            for shape in sizes
        )

    return f"{shown(layer.row.inputs)} → {shown(layer.row.outputs)}"


def steps(line: Line) -> tuple[str, ...]:
    """What stands between the equals signs of a formula."""
    found = [subject.name for subject in line.subjects]
    for step in (
        line.formula.text(),
        line.formula.text(numbers=True),
        number_text(line.formula.value),
    ):
        if not found or step != found[-1]:
            found.append(step)
    return tuple(found)


def part_text(reason: str, per: int | None, lang: str) -> str:
    """A part of a tool's count in words."""
    return word("products", lang) if reason == "products" else reason_text(reason, per, lang)


def _layer(layer: LayerExplanation, result: Explanation, width: int) -> Iterator[Text]:
    name, title, notation = heading(layer, result.lang)
    yield from _heading(name, f"{title}: {notation}", width)
    yield Text(f"{' ' * _INDENT}{shapes(layer)}", style="dim")
    labels = [quantity(line.quantity, result.lang) for line in layer.lines]
    column = max(map(cell_len, labels), default=0)
    previous = ""
    for label, line in zip(labels, layer.lines, strict=True):
        shown = "" if label == previous else label
        previous = label
        lead = f"{' ' * _INDENT}{shown}{' ' * (column - cell_len(shown))}  "
        yield from _formula(lead, steps(line), width)
    for note in layer.notes:
        sentence = wording.plain(layer.note(note, result.lang))
        for part in _wrapped(sentence, width - _INDENT, first=_INDENT, rest=_INDENT):
            yield Text(part, style="italic")
    if layer.counted is not None:
        yield from _counted(layer, result, width)


def _heading(name: str, rest: str, width: int) -> Iterator[Text]:
    if cell_len(name) + 2 + cell_len(rest) <= width:
        line = Text(name, style="bold")
        line.append(f"  {rest}", style="green")
        yield line
        return
    yield Text(wording.shorten(name, width), style="bold")
    for part in _wrapped(rest, width - _INDENT, first=_INDENT, rest=_INDENT):
        yield Text(part, style="green")


def _formula(lead: str, parts: Sequence[str], width: int) -> Iterator[Text]:
    """As much on one line as fits; a line goes on with an equals sign."""
    indent = " " * cell_len(lead)
    line = parts[0]
    start = lead
    for part in parts[1:]:
        longer = f"{line} = {part}"
        if cell_len(start) + cell_len(longer) <= width:
            line = longer
            continue
        yield from _broken(start, line, width)
        start, line = indent, f"= {part}"
    yield from _broken(start, line, width)


def _broken(start: str, line: str, width: int) -> Iterator[Text]:
    """A step that is too long for a line goes on below, indented."""
    for index, part in enumerate(_wrapped(line, width - cell_len(start), first=0, rest=2)):
        yield Text((start if index == 0 else " " * cell_len(start)) + part)


def _counted(layer: LayerExplanation, result: Explanation, width: int) -> Iterator[Text]:
    parts = layer.counted or ()
    said = [f"{number_text(p.amount)} {part_text(p.reason, p.per, result.lang)}" for p in parts]
    total = number_text(sum(part.amount for part in parts))
    head = word("counts", result.lang, tool=result.convention)
    if not parts:
        sentence = f"{head}: {word('nothing', result.lang)}"
    elif len(parts) == 1:
        sentence = f"{head}: {said[0]}"
    else:
        sentence = f"{head}: {' + '.join(said)} = {total}"
    for part in _wrapped(sentence, width - _INDENT, first=_INDENT, rest=_INDENT + 2):
        yield Text(part, style="cyan")


def _account(account: Account, lang: str, width: int) -> Iterator[Text]:
    """A column of numbers that adds up, and where each comes from."""
    for part in _wrapped(word("difference", lang, tool=account.tool), width):
        yield Text(part, style="bold")
    yield Text()
    numbers = [number_text(account.exact)]
    numbers += [_signed(term.amount) for term in account.terms]
    numbers.append(number_text(account.counted))
    column = max(map(cell_len, numbers))
    yield from _item(numbers[0], word("exact", lang), column, width)
    for number, term in zip(numbers[1:-1], account.terms, strict=True):
        named = ", ".join(
            f"{wording.plain(name)} {number_text(amount)}"
            for name, amount in term.layers[:_LAYERS_NAMED]
        )
        more = len(term.layers) - _LAYERS_NAMED
        rest = f", +{more} {word('layers', lang)}" if more > 0 else ""
        yield from _item(number, f"{term.text(lang)} ({named}{rest})", column, width)
    yield Text("─" * column, style="dim")
    said = word(f"counted.{account.reports}", lang, tool=account.tool)
    yield from _item(numbers[-1], said, column, width)
    if not account.terms:
        yield Text(word("none", lang))
    yield Text()
    same = account.params == account.exact_params
    sentence = word(
        "params-same" if same else "params",
        lang,
        exact=number_text(account.exact_params),
        counted=number_text(account.params),
    )
    for part in _wrapped(sentence, width):
        yield Text(part)


def _signed(amount: int) -> str:
    return number_text(amount) if amount < 0 else f"+{number_text(amount)}"


def _item(number: str, said: str, column: int, width: int) -> Iterator[Text]:
    gap = column + 2
    for index, part in enumerate(_wrapped(said, max(width - gap, 20))):
        lead = f"{' ' * (column - cell_len(number))}{number}  " if index == 0 else " " * gap
        yield Text(lead + part)


# What stays together: a word, or one Chinese character, with the marks that close or open it.
_WIDE, _CLOSING = r"\u3000-\u9fff\uff00-\uffef", "，。；：）、"
_PIECES = re.compile(rf"（?(?:[{_WIDE}]|[^ \n\t{_WIDE}]+)[{_CLOSING}]*|[ \n\t]+")


def _wrapped(sentence: str, width: int, *, first: int = 0, rest: int = 0) -> list[str]:
    """Breaks between words, and between Chinese characters."""
    lines: list[str] = []
    line, bare = "", True
    for piece in _PIECES.findall(sentence):
        too_long = cell_len(line) + cell_len(piece.rstrip()) > width - (rest if lines else 0)
        if too_long and not bare:
            lines.append(line.rstrip())
            line, bare = "", True
        if bare and piece.isspace():
            continue
        line += piece
        bare = False
    lines.append(line.rstrip())
    return [
        " " * (rest if index else first) + each.replace("\u00a0", " ")
        for index, each in enumerate(lines)
    ]
