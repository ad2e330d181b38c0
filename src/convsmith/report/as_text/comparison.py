"""A comparison in a terminal, from 80 columns to as many as there are."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text

from convsmith.analysis.comparing import KERNELS, Comparison, ComparisonRow
from convsmith.report import wording
from convsmith.report.as_text.comparison_words import (
    MEASURES,
    heading,
    measured,
    percent,
    saved,
    shown_curves,
    sparkline,
    standing,
    subtitle,
)
from convsmith.report.columns import Column, filled, printed, table
from convsmith.report.rendering import terminal_width, text

__all__ = ["WIDE"]

WIDE = 150
"""From this many columns on, the notation stands in the table."""

_BAR = 12
_LEAST = 40
_STEPS = (3, 5, 7, 9, 11, 15)
"""Kernel sizes whose ratios are written out."""


@text.register
def _(result: Comparison, *, width: int | None = None, color: bool = False) -> str:
    """Renders a table, the notation of every row, the curves, and the forms without a row."""
    width = max(width or terminal_width(), _LEAST)
    if result.kind == "networks":
        lines = _networks(result, width)
    else:
        lines = [*_table(result, width), *_curves(result), *_standing(result, width)]
    if result.clock:
        lines += [Text(), Text(f"times: {result.clock}", style="dim")]
    top = [Text(wording.shorten(wording.plain(heading(result)), width), style="bold")]
    if result.kind != "networks":
        top += filled(wording.plain(subtitle(result)), width, style="dim")
    return printed([*top, Text(), *lines], color=color)


# One convolution ------------------------------------------------------------------


def _table(result: Comparison, width: int) -> list[Text]:
    rows, wide = result.rows, width >= WIDE
    number = wording.exact if wide else wording.short
    timed = any(row.milliseconds is not None for row in rows)
    columns = [
        Column(heading="form", cells=[row.form for row in rows], right=False, style="bold"),
        Column(heading="MACs", cells=[number(row.macs) for row in rows]),
        Column(heading="saves", cells=[saved(row) for row in rows], style="green"),
    ]
    if wide:
        bars = [wording.bar(row.ratio_macs or 0, _BAR) for row in rows]
        columns.append(Column(heading="costs", cells=bars, right=False, style="magenta"))
    if timed:
        times = ["" if r.milliseconds is None else measured(r.milliseconds) for r in rows]
        columns.append(Column(heading="ms", cells=times))
        columns.append(Column(heading="time", cells=[percent(r) for r in rows], style="green"))
    columns.append(Column(heading="params", cells=[number(row.params) for row in rows]))
    columns.append(Column(heading="sees", cells=[_sees(row) for row in rows], style="cyan"))
    columns.append(Column(heading="acts", cells=[str(row.nonlinearities) for row in rows]))
    if wide or not timed:
        peaks = [wording.binary(row.peak_activation_bytes) for row in rows]
        columns.append(Column(heading="peak", cells=peaks))
    notation = [row.text.partition(" > ")[2] for row in rows]
    room = 0
    if wide:
        room = width - sum(column.width + 2 for column in columns)
        columns.append(
            Column(heading="notation", cells=notation, right=False, shrinks=True, style="green")
        )
    lines = table(columns, width, styles=["bold"])
    lines += [Text(), *_notes(rows, width)]
    long = [index for index in range(1, len(rows)) if cell_len(notation[index]) > room]
    if long:
        lines.append(Text("in the notation", style="bold"))
        longest = max(cell_len(rows[index].form) for index in long)
        for index in long:
            line = Text(f"{rows[index].form:<{longest}}  ", style="dim")
            lines.append(line.append(wording.plain(notation[index]), style="green"))
        lines.append(Text())
    return lines


def _sees(row: ComparisonRow) -> str:
    return wording.field(row.rf) + ("*" if row.note else "")


def _notes(rows: Sequence[ComparisonRow], width: int) -> list[Text]:
    acts = "acts: nonlinearities inside; peak: of activations; sees: pixels of the input"
    notes = filled(acts, width, style="dim")
    for row in rows:
        if row.note:
            notes += filled(f"* {row.form}: {wording.plain(row.note)}", width, style="dim")
    return [*notes, Text()]


def _curves(result: Comparison) -> list[Text]:
    shown = shown_curves(result)
    if not shown:
        return []
    first, last = KERNELS[0], KERNELS[-1]
    lines = [Text(f"MACs in % of those of a k x k kernel, k = {first} to {last}", style="bold")]
    longest = max(cell_len(curve.form) for curve in shown)
    heads = "".join(f"{f'k={size}':>6}" for size in _STEPS)
    lines.append(Text(f"{'':<{longest}}  {'':<{len(KERNELS)}}{heads}", style="dim"))
    kernel = set(result.kernel) - {1}
    for curve in shown:
        ratios = dict(curve.points)
        line = Text(f"{curve.form:<{longest}}  ").append(sparkline(curve), style="magenta")
        for size in _STEPS:
            cell = f"{100 * ratios[size]:>6.3g}" if size in ratios else f"{'-':>6}"
            line.append(cell, style="bold" if {size} == kernel else "")
        lines.append(line)
    return [*lines, Text()]


def _standing(result: Comparison, width: int) -> list[Text]:
    lines: list[Text] = []
    for reason, names in standing(result):
        sentence = f"no row: {', '.join(names)} ({reason})"
        lines += filled(wording.plain(sentence), width, style="dim", hanging=2)
    return lines


# Networks -------------------------------------------------------------------------


def _networks(result: Comparison, width: int) -> list[Text]:
    lines: list[Text] = []
    for row in result.rows:
        sizes = ", ".join(map(wording.shape, row.inputs))
        named = wording.plain(" ".join(row.text.split()))
        lines.append(Text(f"{row.form}  ", style="bold").append(named, style="green"))
        lines.append(Text(f"   input {sizes}", style="dim"))
    first, *rest = result.rows
    while rest:
        count = len(rest)
        while count > 1 and _wide([first, *rest[:count]], first) > width:
            count -= 1
        lines += [Text(), *table(_columns([first, *rest[:count]], first), width)]
        rest = rest[count:]
    for row in result.rows:
        if row.unsupported:
            named = wording.plain(", ".join(row.unsupported))
            lines += [Text(f"{row.form}: not counted: {named}", style="bold red")]
    return lines


def _columns(rows: Sequence[ComparisonRow], first: ComparisonRow) -> list[Column]:
    names, cells = _cells(rows, first)
    return [
        Column(heading="", cells=names, right=False),
        *(
            Column(heading=row.form, cells=column, style="bold" if row is first else "")
            for row, column in zip(rows, cells, strict=True)
        ),
    ]


def _cells(
    rows: Sequence[ComparisonRow], first: ComparisonRow
) -> tuple[list[str], list[list[str]]]:
    """What is compared, and one column per network."""
    names, columns = [], [list[str]() for _ in rows]
    for measure in MEASURES:
        said = [measure.says(row, first) for row in rows]
        if any(said):
            names.append(measure.name)
            for column, cell in zip(columns, said, strict=True):
                column.append(cell)
    for name, say in (("output", _output), ("sees", _seen)):
        names.append(name)
        for column, row in zip(columns, rows, strict=True):
            column.append(say(row))
    return names, columns


def _output(row: ComparisonRow) -> str:
    return wording.shape(row.shape) + (f" ({row.note})" if row.note else "")


def _seen(row: ComparisonRow) -> str:
    return wording.field(row.rf)


def _wide(rows: Sequence[ComparisonRow], first: ComparisonRow) -> int:
    return sum(column.width + 2 for column in _columns(rows, first)) - 2
