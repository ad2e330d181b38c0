"""Sums by module or operator in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.text import Text

from convsmith.analysis import Group, View
from convsmith.analysis.modules import parts
from convsmith.report import wording
from convsmith.report.as_text.analysis_table import WIDE
from convsmith.report.columns import Column, filled, printed, table
from convsmith.report.rendering import terminal_width, text

__all__ = ["MEASURE_NAMES", "shown_measure"]

MEASURE_NAMES = {"macs": "MACs", "flops": "operations"}

_LEAST = 20
_BAR = 12
_NAMED = 10


def shown_measure(view: View) -> str:
    """Of what the shares are shown: operators without products have operations only."""
    return "flops" if view.by == "operator" or not view.total.macs else "macs"


@text.register
def _(result: View, *, width: int | None = None, color: bool = False) -> str:
    """Renders one line a group, modules indented below the one that they are in."""
    width = max(width or terminal_width(), _LEAST)
    source = wording.shorten(wording.plain(" ".join(result.source.split())), width)
    lines = [Text(source, style="bold"), *filled(_remark(result), width, style="dim"), Text()]
    wide = width >= WIDE
    columns = _columns(result, wording.exact, wide=wide)
    if _width(columns) > width:
        columns = _columns(result, wording.short, wide=wide)
    if _width(columns) > width:
        columns = _columns(result, wording.short, wide=wide, bars=0)
    if result.groups:
        styles = ["bold red" if _all_unknown(group) else "" for group in result.groups]
        lines += table(columns, width, styles=styles)
    if result.unsupported:
        named = ", ".join(map(wording.plain, result.unsupported[:_NAMED]))
        more = len(result.unsupported) - _NAMED
        rest = f" and {more} more" if more > 0 else ""
        lines += [Text(), Text(f"not counted (?): {named}{rest}", style="bold red")]
    return printed(lines, color=color)


def _remark(view: View) -> str:
    deep = f", at most {view.depth} deep" if view.depth is not None else ""
    counted = "" if view.convention == "exact" else f", counted as {view.convention}"
    return f"by {view.by}{deep}{counted}"


def _all_unknown(group: Group) -> bool:
    return group.unsupported == group.layers


def _width(columns: Sequence[Column]) -> int:
    """The terminal columns that all take, with the gaps between them."""
    return sum(column.width + 2 for column in columns) - 2


def _columns(
    view: View, number: Callable[[int], str], *, wide: bool, bars: int = _BAR
) -> list[Column]:
    groups, total, measure = view.groups, view.total, shown_measure(view)
    largest = max((view.share(group, measure) for group in groups), default=0.0)

    def name(group: Group) -> str:
        last = parts(group.name)[-1] if view.by == "module" else group.name
        return "  " * (group.level - 1) + wording.plain(last)

    def column(
        heading: str, say: Callable[[Group], str], total: str = "", *, style: str = ""
    ) -> Column:
        cells = [say(group) for group in groups]
        return Column(heading=heading, cells=cells, style=style, total=total)

    def counted(
        show: Callable[[int], str], value: Callable[[Group], int]
    ) -> Callable[[Group], str]:
        def say(group: Group) -> str:
            if _all_unknown(group):
                return "?"
            more = "+?" if group.unsupported else ""
            return f"{show(value(group))}{more}"

        return say

    def share(group: Group) -> str:
        part = view.share(group, measure)
        if not part:
            return ""
        return f"{wording.bar(part / largest, bars)} {part:6.1%}"

    few, size = wording.short, wording.binary
    columns = [
        Column(
            heading=view.by,
            cells=[name(group) for group in groups],
            right=False,
            shrinks=True,
            total="total",
        ),
        column("layers", lambda g: str(g.layers)),
        column("params", lambda g: number(g.params) if g.params else "-", number(total.params)),
        column("MACs", counted(number, lambda g: g.macs), number(total.macs), style="bold"),
    ]
    if wide or measure == "flops":
        columns.append(column("operations", counted(few, lambda g: g.flops), few(total.flops)))
    columns.append(column(f"of {MEASURE_NAMES[measure]}", share, style="magenta"))
    if not wide:
        return columns
    return [
        *columns,
        column("of params", lambda g: f"{view.share(g, 'params'):.1%}" if g.params else ""),
        column("mults", counted(few, lambda g: g.mults), few(total.mults)),
        column("adds", counted(few, lambda g: g.adds), few(total.adds)),
        column("others", counted(few, lambda g: g.others), few(total.others)),
        column("weights", lambda g: size(g.weight_bytes), size(total.weight_bytes)),
        column("reads", lambda g: size(g.read_bytes)),
        column("writes", lambda g: size(g.write_bytes)),
        column("ops/byte", lambda g: wording.intensity(g.arithmetic_intensity)),
    ]
