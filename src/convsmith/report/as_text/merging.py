"""Merged layers in a terminal."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from convsmith.report import wording
from convsmith.report.as_text.rewriting import change_lines, heading_lines
from convsmith.report.columns import Column, filled, printed, table
from convsmith.report.measures import Measure, costs
from convsmith.report.rendering import terminal_width, text
from convsmith.rewrite.merging import Merging

__all__: list[str] = []

WIDE = 150
"""From this many columns on, counts are exact."""

_LEAST = 20
_SHOWN = 20


@text.register(Merging)
def _(result: Merging[Any], *, width: int | None = None, color: bool = False) -> str:
    """Renders costs before and after, one line a step, and what was not merged."""
    width = max(width or terminal_width(), _LEAST)
    steps = len(result.merges)
    remark = f"{steps} merge{'s' if steps != 1 else ''}, exact up to rounding"
    if not steps:
        remark = "nothing to merge"
    layers = _row("layers", result.layers_before, result.layers_after)
    operations = _row("operations", result.before.flops, result.after.flops)
    lines = [
        *heading_lines(result.source or "a network", remark, width),
        *change_lines([layers, *costs(result.before, result.after), operations], width),
    ]
    if result.merges:
        lines += [Text(), *_steps(result, width)]
    if result.notes:
        lines.append(Text())
        for note in result.notes[:_SHOWN]:
            lines += filled(wording.plain(note), width, hanging=2)
        if len(result.notes) > _SHOWN:
            lines.append(Text(f"and {len(result.notes) - _SHOWN} more not merged", style="dim"))
    return printed(lines, color=color)


def _row(name: str, before: int, after: int) -> Measure:
    return Measure(
        name=name,
        before=wording.exact(before),
        after=wording.exact(after),
        change=wording.change(before, after),
        better=None if before == after else after < before,
    )


def _steps(result: Merging[Any], width: int) -> list[Text]:
    number = wording.exact if width >= WIDE else wording.short
    merges = result.merges
    columns = [
        Column(heading="rule", cells=[step.kind for step in merges], right=False),
        Column(
            heading="layer",
            cells=[wording.plain(step.into) for step in merges],
            right=False,
            shrinks=True,
            style="green",
        ),
        Column(
            heading="made of",
            cells=[wording.plain(" + ".join(step.layers)) for step in merges],
            right=False,
            shrinks=True,
        ),
        Column(heading="MACs before", cells=[number(step.macs_before) for step in merges]),
        Column(heading="after", cells=[number(step.macs_after) for step in merges], style="bold"),
        Column(heading="params before", cells=[number(step.params_before) for step in merges]),
        Column(heading="after", cells=[number(step.params_after) for step in merges]),
    ]
    return table(columns if width >= 100 else columns[:5], width)
