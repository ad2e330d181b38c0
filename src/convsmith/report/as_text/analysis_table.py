"""An analysis in a terminal: one line a layer, from 80 columns to as many as there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rich.text import Text

from convsmith.analysis import Analysis, Memory, Row
from convsmith.report import wording
from convsmith.report.columns import Column, filled, printed, table
from convsmith.report.rendering import terminal_width, text

__all__ = ["WIDE", "uncounted_lines"]

WIDE = 180
"""From this many columns on, everything is shown."""

_GAP = 2
_NARROWEST = 8
_BAR = 8
_LEAST = 20
_NAMED = 4
"""So many of the values that are alive at the peak are named."""
_TOGETHER = "\ue000"
"""Stands for a blank at which no line may break; names never have it, it is not printable."""


def _counted(number: Callable[[int], str], value: Callable[[Row], int]) -> Callable[[Row], str]:
    """A number where it was counted, else why there is none."""

    def say(row: Row) -> str:
        if row.status == "unsupported":
            return "?"
        return "-" if row.status == "free" else number(value(row))

    return say


def _columns(analysis: Analysis, number: Callable[[int], str], wide: bool) -> list[Column]:
    total, rows = analysis.total, analysis.rows

    def column(
        heading: str,
        say: Callable[[Row], str],
        total: str = "",
        *,
        right: bool = True,
        style: str = "",
    ) -> Column:
        cells = [say(row) for row in rows]
        return Column(heading=heading, cells=cells, right=right, style=style, total=total)

    output = column(
        "output", lambda r: ", ".join(map(wording.shape, r.outputs)), right=False, style="dim"
    )
    params = column(
        "params", lambda r: number(r.params) if r.weight_bytes else "-", number(total.params)
    )
    macs = column("MACs", _counted(number, lambda r: r.macs), number(total.macs), style="bold")
    field = column("sees", lambda r: wording.field(r.rf), style="cyan")
    names = [
        column("layer", lambda r: wording.plain(r.name), "total", right=False),
        column("operator", lambda r: wording.plain(r.text), right=False, style="green"),
    ]
    if not wide:
        return [*names, output, params, macs, field]
    few, size = wording.short, wording.binary
    largest = max((row.macs for row in rows), default=0)

    def share(row: Row) -> str:
        if not row.macs:
            return ""
        return f"{wording.bar(row.macs / largest, _BAR)} {row.macs / total.macs:6.1%}"

    return [
        *names,
        output,
        params,
        macs,
        column("share", share, style="magenta"),
        column("mults", _counted(few, lambda r: r.mults), few(total.mults)),
        column("adds", _counted(few, lambda r: r.adds), few(total.adds)),
        column("others", _counted(few, lambda r: r.others), few(total.others)),
        column("weights", lambda r: size(r.weight_bytes), size(total.weight_bytes)),
        column("reads", lambda r: size(r.read_bytes)),
        column("writes", lambda r: size(r.write_bytes)),
        column("ops/byte", lambda r: wording.intensity(r.arithmetic_intensity)),
        field,
        column("stride", lambda r: wording.strides(r.rf), style="cyan"),
        column("offset", lambda r: wording.offsets(r.rf), style="cyan"),
    ]


@text.register
def _(result: Analysis, *, width: int | None = None, color: bool = False) -> str:
    """Renders the table, the totals with all digits, and what is not in them."""
    width = max(width or terminal_width(), _LEAST)
    columns = _columns(result, wording.exact, width >= WIDE)
    if sum(_widths(columns)) > width:  # whole names say more than the last digits
        columns = _columns(result, wording.short, width >= WIDE)
    lines = _heading(result, width)
    if result.rows:
        styles = [{"unsupported": "bold red", "free": "dim"}.get(r.status, "") for r in result.rows]
        lines += table(_fitted(columns, width), width, styles=styles)
    lines += _footing(result, width)
    return printed(lines, color=color)


def _widths(columns: Sequence[Column]) -> list[int]:
    """The columns that each column takes, the gap before it included."""
    return [column.width + (_GAP if i else 0) for i, column in enumerate(columns)]


def _fitted(columns: Sequence[Column], width: int) -> list[Column]:
    """Layers and operators share the room that the numbers leave them."""
    first, second, *rest = _widths(columns)
    room = width - min(first, _NARROWEST) - min(second, _NARROWEST + _GAP) - sum(rest)
    limits = _limits([first, second - _GAP], room)
    names = [
        replace(column, cells=[wording.shorten(cell, limit) for cell in column.cells])
        for column, limit in zip(columns, limits, strict=False)
    ]
    return [*names, *columns[2:]]


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
    counted = "" if analysis.convention == "exact" else f", counted as {analysis.convention}"
    return [Text(source, style="bold"), Text(f"input {inputs}{counted}", style="dim"), Text()]


def _footing(analysis: Analysis, width: int) -> list[Text]:
    total = analysis.total
    peak = wording.binary(total.peak_activation_bytes)
    counts = (
        (wording.exact(total.params), f"parameters, {wording.binary(total.weight_bytes)}"),
        (wording.exact(total.macs), "multiply-accumulates"),
        (wording.exact(total.flops), "operations, of them"),
        (wording.exact(total.mults), "  multiplications"),
        (wording.exact(total.adds), "  additions"),
        (wording.exact(total.others), "  others"),
        (peak, "of activations, at most at one time"),
    )
    wide = max(len(count) for count, _ in counts)
    lines = [Text()] if analysis.rows else []
    lines += [Text(f"{count:>{wide}}  {what}") for count, what in counts]
    indent = " " * (wide + 2)
    moment = filled(_moment(analysis.memory, width), max(width - len(indent), _LEAST))
    lines += [Text(f"{indent}{line.plain.replace(_TOGETHER, ' ')}") for line in moment]
    lines.append(Text())
    for name, value in analysis.outputs.items():
        reason = f" ({wording.plain(value.rf.reason)})" if value.rf.reason else ""
        lines.append(
            Text(
                f"output {wording.plain(name)} {wording.shape(value.shape)}"
                f" sees {wording.field(value.rf)}{reason}"
            )
        )
    uncounted = [(item.name, item.op) for item in analysis.unsupported]
    return lines + uncounted_lines(uncounted)


def _moment(memory: Memory, width: int) -> str:
    """When the peak is, and which values are alive then."""

    def short(name: str) -> str:
        return wording.shorten(wording.plain(name), max(width // 3, _NARROWEST))

    alive = [f"{short(v.name)} {wording.binary(v.bytes)}" for v in memory.alive[:_NAMED]]
    if len(memory.alive) > _NAMED:
        alive.append(f"{len(memory.alive) - _NAMED} more")
    alive = [value.replace(" ", _TOGETHER) for value in alive]
    when = f"at {short(memory.at)}" if memory.at else "before the first layer"
    unknown = "" if memory.complete else ", and what has no known shape"
    return f"{when}: {', '.join(alive) or 'none'}{unknown}"


def uncounted_lines(layers: Sequence[tuple[str, str]]) -> list[Text]:
    """Names the layers, and their operators, that totals leave out."""
    if not layers:
        return []
    named = ", ".join(f"{wording.plain(name)} ({wording.plain(op)})" for name, op in layers)
    return [Text(f"not counted (?): {named}", style="bold red")]
