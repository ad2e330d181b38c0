"""Findings in a terminal: one block a rule, worst first, and what was not checked."""

from __future__ import annotations

import io
from collections.abc import Iterable
from itertools import groupby

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from convsmith.linting import Finding, Findings
from convsmith.report import wording
from convsmith.report.rendering import terminal_width, text

__all__ = ["STYLES", "console", "counted", "summary", "unchecked"]

WIDEST = 120
"""Longer lines are hard to read, however wide the terminal is."""

MOST_PLACES = 25
"""So many layers are shown per rule; files for programs have all."""

STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def console(width: int, color: bool) -> Console:
    """A console that writes into memory."""
    return Console(
        file=io.StringIO(),
        width=width,
        color_system="standard" if color else None,
        force_terminal=color,
        legacy_windows=False,
        highlight=False,
    )


def counted(number: int, thing: str) -> str:
    """A number with its noun.

    >>> counted(1, "finding"), counted(1200, "layer")
    ('1 finding', '1,200 layers')
    """
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


@text.register
def _(result: Findings, *, width: int | None = None, color: bool = False) -> str:
    """Renders the blocks and the summary."""
    width = min(max(width or terminal_width(), 20), WIDEST)
    screen = console(width, color)
    with screen.capture() as captured:
        source = wording.plain(" ".join(result.source.split())) or "network"
        screen.print(Text(wording.shorten(source, width), style="bold"))
        screen.print(Text(summary(result)))
        for _, block in groupby(result.findings, key=lambda finding: finding.code):
            screen.print()
            _print_block(screen, list(block), width)
        notes = [*unchecked(result), *_kept(result)]
        if notes:
            screen.print()
        for note in notes:
            screen.print(Text(note, style="dim"))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _print_block(screen: Console, block: list[Finding], width: int) -> None:
    first = block[0]
    heading = Text.assemble(
        (first.severity, STYLES[first.severity]),
        f" {first.code} ",
        (first.rule, "bold"),
        (f", {counted(len(block), 'place')}" if len(block) > 1 else "", "dim"),
    )
    screen.print(heading)
    shown = block[:MOST_PLACES]
    names = [wording.plain(finding.layer) for finding in shown]
    room = min(max(map(cell_len, names)), max(width // 3, 8))
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=room, no_wrap=True, style="green")
    table.add_column(overflow="fold")
    one_remedy = len({finding.remedy for finding in block}) == 1
    for name, finding in zip(names, shown, strict=True):
        said = f"{wording.plain(finding.message)}."
        if not one_remedy:
            said += f" Remedy: {wording.plain(finding.remedy).rstrip('.')}."
        table.add_row(Text(wording.shorten(name, room)), Text(said))
    if len(block) > len(shown):
        table.add_row("...", f"and {len(block) - len(shown):,} more; --format json has all.")
    screen.print(_indented(table))
    if one_remedy:
        remedy = Table.grid(padding=(0, 1, 0, 0))
        remedy.add_column(no_wrap=True)
        remedy.add_column(overflow="fold")
        remedy.add_row(Text("remedy:", style="dim"), Text(first.remedy))
        screen.print(_indented(remedy))


def _indented(table: Table) -> Table:
    outer = Table.grid()
    outer.add_column(width=2)
    outer.add_column()
    outer.add_row("", table)
    return outer


def summary(result: Findings) -> str:
    """How many findings there are, of how many rules."""
    rules = counted(len(result.checked), "rule")
    if not result.findings:
        return f"no findings; {rules} checked"
    parts = [counted(number, what) for what, number in result.counts.items() if number]
    return f"{', '.join(parts)}; {rules} checked"


def unchecked(result: Findings) -> list[str]:
    """Which rules were not checked, one line a reason."""
    reasons = dict.fromkeys(item.reason for item in result.not_checked)
    lines = []
    for reason in reasons:
        codes = [item.code for item in result.not_checked if item.reason == reason]
        lines.append(f"not checked, because {reason}: {', '.join(codes)}")
    return lines


def _kept(result: Findings) -> Iterable[str]:
    if result.suppressed:
        yield f"{counted(len(result.suppressed), 'finding')} suppressed"
    if result.baselined:
        yield f"{counted(len(result.baselined), 'finding')} known from the baseline"
    if result.fixed:
        places = ", ".join(f"{e.rule} at {wording.plain(e.layer)}" for e in result.fixed[:5])
        more = f" and {len(result.fixed) - 5} more" if len(result.fixed) > 5 else ""
        yield f"in the baseline, but gone: {places}{more}; write it again"
