"""Rules: the list of all, and the page of one."""

from __future__ import annotations

from itertools import groupby

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from convsmith.linting import Rule, Rules
from convsmith.linting.registry import DEFAULT
from convsmith.report.as_data.lint import escaped
from convsmith.report.as_text.lint import STYLES, WIDEST, console
from convsmith.report.rendering import markdown, terminal_width, text

__all__ = ["sections"]


@text.register
def _(result: Rules, *, width: int | None = None, color: bool = False) -> str:
    """One line a rule, by category."""
    width = min(max(width or terminal_width(), 20), WIDEST)
    screen = console(width, color)
    names = max((cell_len(rule.name) for rule in result.rules), default=0)
    with screen.capture() as captured:
        for category, group in groupby(result.rules, key=lambda rule: rule.category):
            default = "" if category in DEFAULT else f" (--select default,{category})"
            screen.print(Text.assemble((category, "bold"), (default, "dim")), soft_wrap=True)
            table = Table.grid(padding=(0, 2, 0, 0))
            table.add_column(no_wrap=True)
            table.add_column(no_wrap=True, width=min(names, max(width // 2 - 6, 8)))
            table.add_column(overflow="fold")
            for rule in group:
                table.add_row(
                    Text(f"  {rule.code}"),
                    Text(rule.name, style=STYLES[rule.severity]),
                    Text(rule.summary),
                )
            screen.print(table)
        screen.print(Text("convsmith rule NAME prints the page of a rule", style="dim"))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


@text.register
def _(result: Rule, *, width: int | None = None, color: bool = False) -> str:
    """The page, wrapped to the terminal."""
    width = min(max(width or terminal_width(), 20), WIDEST)
    screen = console(width, color)
    with screen.capture() as captured:
        heading = f"{result.code} {result.name}"
        screen.print(Text(heading, style="bold"))
        screen.print(Text(f"{result.category}, {result.severity}", style="dim"))
        for title, body in sections(result):
            screen.print()
            screen.print(Text(title, style="bold"))
            table = Table.grid()
            table.add_column(width=2)
            table.add_column(overflow="fold")
            for line in body:
                table.add_row("", Text(line))
            screen.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def sections(rule: Rule) -> list[tuple[str, list[str]]]:
    """The page of a rule: titles, each with its lines."""
    sections = [
        ("What it finds", [f"{rule.summary}. {rule.what}"]),
        ("Why it matters", [rule.why]),
        ("Example", [*rule.example.splitlines(), *([f"where {rule.given}"] if rule.given else [])]),
        ("Fine", rule.fine.splitlines()),
        ("Remedy", [rule.remedy]),
        ("Known problems", [rule.caveats]),
    ]
    if rule.references:
        sections.append(("References", list(rule.references)))
    return sections


@markdown.register
def _(result: Rule) -> str:
    """The page, with examples as code."""
    lines = [f"# {result.code} {result.name}", "", f"{result.category}, {result.severity}"]
    for title, body in sections(result):
        lines += ["", f"## {title}", ""]
        match title:
            case "Example" | "Fine":
                code = [line for line in body if not line.startswith("where ")]
                lines += ["```", *code, "```"]
                lines += [f"\n{escaped(line)}" for line in body if line.startswith("where ")]
            case "References":
                lines += [f"- {escaped(line)}" for line in body]
            case _:
                lines += [escaped(line) for line in body]
    return "\n".join(lines)


@markdown.register
def _(result: Rules) -> str:
    """A table of rules."""
    lines = ["| code | rule | category | severity | what it finds |", "|:--|:--|:--|:--|:--|"]
    for rule in result.rules:
        cells = (rule.code, rule.name, rule.category, rule.severity, escaped(rule.summary))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
