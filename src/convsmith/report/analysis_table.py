"""An analysis in a terminal: one line a layer, from 80 columns to as many as there are."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from convsmith.analysis import Analysis, Row
from convsmith.report import wording
from convsmith.report.rendering import terminal_width, text

__all__ = ["WIDE"]

WIDE = 180
"""From this many columns on, everything is shown."""

_GAP = 2
_NARROWEST = 8
_BAR = 8


@dataclass(frozen=True, slots=True)
class _Column:
    """One column: its heading, what it says about a row, and what it says in the last line."""

    heading: str
    say: Callable[[Row], str]
    total: str = ""
    right: bool = True
    style: str = ""

    def cells(self, rows: tuple[Row, ...]) -> list[str]:
        return [self.say(row) for row in rows]


def _counted(number: Callable[[int], str], value: Callable[[Row], int]) -> Callable[[Row], str]:
    """A number where it was counted, else why there is none."""

    def say(row: Row) -> str:
        if row.status == "unsupported":
            return "?"
        return "-" if row.status == "free" else number(value(row))

    return say


def _columns(analysis: Analysis, number: Callable[[int], str], wide: bool) -> list[_Column]:
    total = analysis.total
    output = _Column(
        "output", lambda r: ", ".join(map(wording.shape, r.outputs)), right=False, style="dim"
    )
    params = _Column(
        "params", lambda r: number(r.params) if r.weight_bytes else "-", number(total.params)
    )
    macs = _Column("MACs", _counted(number, lambda r: r.macs), number(total.macs), style="bold")
    field = _Column("sees", lambda r: wording.field(r.rf), style="cyan")
    names = [
        _Column("layer", lambda r: wording.plain(r.name), "total", right=False),
        _Column("operator", lambda r: wording.plain(r.text), right=False, style="green"),
    ]
    if not wide:
        return [*names, output, params, macs, field]
    few, size = wording.short, wording.binary

    largest = max((row.macs for row in analysis.rows), default=0)

    def share(row: Row) -> str:
        if not row.macs:
            return ""
        return f"{wording.bar(row.macs / largest, _BAR)} {row.macs / total.macs:6.1%}"

    return [
        *names,
        output,
        params,
        macs,
        _Column("share", share, style="magenta"),
        _Column("mults", _counted(few, lambda r: r.mults), few(total.mults)),
        _Column("adds", _counted(few, lambda r: r.adds), few(total.adds)),
        _Column("others", _counted(few, lambda r: r.others), few(total.others)),
        _Column("weights", lambda r: size(r.weight_bytes), size(total.weight_bytes)),
        _Column("reads", lambda r: size(r.read_bytes)),
        _Column("writes", lambda r: size(r.write_bytes)),
        field,
        _Column("stride", lambda r: wording.strides(r.rf), style="cyan"),
        _Column("offset", lambda r: wording.offsets(r.rf), style="cyan"),
    ]


@text.register
def _(result: Analysis, *, width: int | None = None, color: bool = False) -> str:
    """Renders the table, the totals with all digits, and what is not in them."""
    width = max(width or terminal_width(), 20)
    columns = _columns(result, wording.exact, width >= WIDE)
    if sum(_widths(columns, result)) > width:  # whole names say more than the last digits
        columns = _columns(result, wording.short, width >= WIDE)
    room = width - _least(columns, result)
    console = Console(
        file=io.StringIO(),
        width=max(width, width - room),
        color_system="standard" if color else None,
        force_terminal=color,
        legacy_windows=False,
        highlight=False,
    )
    with console.capture() as captured:
        for line in _heading(result, width):
            console.print(line, soft_wrap=True)
        if result.rows:
            console.print(_table(result, columns, room))
        for line in _footing(result):
            console.print(line, soft_wrap=True)
    lines = captured.get().splitlines()
    return "\n".join(line.rstrip() for line in lines)


def _widths(columns: list[_Column], analysis: Analysis) -> list[int]:
    """The columns that each column takes, the gap before it included."""
    return [
        max(map(cell_len, [c.heading, c.total, *c.cells(analysis.rows)])) + (_GAP if i else 0)
        for i, c in enumerate(columns)
    ]


def _least(columns: list[_Column], analysis: Analysis) -> int:
    """The columns that a table takes when layers and operators are as short as they may get."""
    first, second, *rest = _widths(columns, analysis)
    return min(first, _NARROWEST) + min(second, _NARROWEST + _GAP) + sum(rest)


def _table(analysis: Analysis, columns: list[_Column], room: int) -> Table:
    """The rows; layers and operators share the room that the numbers leave them."""
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        show_footer=True,
        pad_edge=False,
        padding=(0, _GAP // 2),
        collapse_padding=True,
        header_style="bold",
        footer_style="bold",
    )
    first, second, *_ = _widths(columns, analysis)
    limits = _limits([first, second - _GAP], room)
    for column in columns:
        table.add_column(
            column.heading,
            column.total,
            justify="right" if column.right else "left",
            no_wrap=True,
            style=column.style,
        )
    for row in analysis.rows:
        cells = [column.say(row) for column in columns]
        cells[:2] = [wording.shorten(c, limit) for c, limit in zip(cells, limits, strict=False)]
        style = {"unsupported": "bold red", "free": "dim"}.get(row.status, "")
        table.add_row(*(Text(cell) for cell in cells), style=style)
    return table


def _limits(wanted: list[int], room: int) -> list[int]:
    """Shares out the room between two columns: the shorter one gets what it wants first."""
    least = [min(w, _NARROWEST) for w in wanted]
    free = max(room, 0)
    first = min(range(2), key=lambda i: wanted[i])
    limits = least.copy()
    for index in (first, 1 - first):
        share = free // 2 if index == first else free
        extra = min(wanted[index] - least[index], share)
        limits[index] += extra
        free -= extra
    limits[first] = min(wanted[first], limits[first] + free)
    return limits


def _heading(analysis: Analysis, width: int) -> list[Text]:
    source = wording.shorten(wording.plain(" ".join(analysis.source.split())), width)
    inputs = ", ".join(f"{wording.plain(n)} {wording.shape(s)}" for n, s in analysis.inputs.items())
    return [Text(source, style="bold"), Text(f"input {inputs}", style="dim"), Text()]


def _footing(analysis: Analysis) -> list[Text]:
    total = analysis.total
    counts = (
        (wording.exact(total.params), f"parameters, {wording.binary(total.weight_bytes)}"),
        (wording.exact(total.macs), "multiply-accumulates"),
        (wording.exact(total.flops), "operations, of them"),
        (wording.exact(total.mults), "  multiplications"),
        (wording.exact(total.adds), "  additions"),
        (wording.exact(total.others), "  others"),
        (wording.binary(total.peak_activation_bytes), "of activations, at most at one time"),
    )
    wide = max(len(count) for count, _ in counts)
    gap = [Text()] if analysis.rows else []
    lines = [*gap, *(Text(f"{count:>{wide}}  {what}") for count, what in counts), Text()]
    for name, value in analysis.outputs.items():
        reason = f" ({wording.plain(value.rf.reason)})" if value.rf.reason else ""
        lines.append(
            Text(
                f"output {wording.plain(name)} {wording.shape(value.shape)}"
                f" sees {wording.field(value.rf)}{reason}"
            )
        )
    if analysis.unsupported:
        named = ", ".join(
            f"{wording.plain(item.name)} ({wording.plain(item.op)})"
            for item in analysis.unsupported
        )
        lines.append(Text(f"not counted (?): {named}", style="bold red"))
    return lines
