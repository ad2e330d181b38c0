"""A compiled network as a table: what became of its layers, and how long each takes."""

from __future__ import annotations

from rich.text import Text

from convsmith.report import wording
from convsmith.report.as_data.lint import escaped
from convsmith.report.as_text import bench_words
from convsmith.report.columns import Column, filled, printed, table
from convsmith.report.rendering import comma_separated, csv, markdown, terminal_width, text
from convsmith.runtime.program import Profile

__all__ = ["COLUMNS", "facts"]

COLUMNS = ("name", "nodes", "text", "algorithm", "detail", "layout", "macs", "milliseconds")

_LEAST = 40
_WIDE = 120


@text.register
def _(result: Profile, *, width: int | None = None, color: bool = False) -> str:
    """Renders one line a step."""
    width = max(width or terminal_width(), _LEAST)
    lines = [Text(wording.shorten(wording.plain(_heading(result)), width), style="bold")]
    for fact in facts(result):
        lines += filled(fact, width, style="dim")
    if result.steps:
        lines += [Text(), *table(_columns(result, width), width)]
    return printed(lines, color=color)


def _heading(result: Profile) -> str:
    shapes = ", ".join(f"{name} {wording.shape(shape)}" for name, shape in result.inputs.items())
    return f"{result.source or 'a network'} compiled for {shapes}"


def facts(result: Profile) -> list[str]:
    """Returns sentences about a program as a whole."""
    threads = f"{result.threads} thread{'' if result.threads == 1 else 's'}"
    saved = wording.binary(result.separate_bytes)
    whole = (
        f"{len(result.steps)} steps on {threads}, images in {result.layout}; values share "
        f"{wording.binary(result.memory_bytes)} instead of {saved}, "
        f"{wording.binary(result.scratch_bytes)} inside steps"
    )
    found = [whole]
    slow = [step.name for step in result.steps if step.algorithm == "numpy"]
    if slow:
        named = ", ".join(wording.plain(name) for name in slow[:5])
        more = f" and {len(slow) - 5} more" if len(slow) > 5 else ""
        found.append(f"computed by NumPy: {named}{more}")
    if result.milliseconds is not None:
        total = bench_words.milliseconds(result.milliseconds)
        found.append(f"{total} ms, the sum of the steps measured one by one")
    return found


def _columns(result: Profile, width: int) -> list[Column]:
    steps = result.steps
    columns = [
        Column(
            heading="step",
            cells=[wording.plain(step.name) for step in steps],
            right=False,
            shrinks=True,
        ),
        Column(
            heading="computes",
            cells=[wording.plain(step.text) for step in steps],
            right=False,
            shrinks=True,
        ),
        Column(heading="by", cells=[step.algorithm for step in steps], right=False, style="green"),
    ]
    if width >= _WIDE:
        columns.append(
            Column(
                heading="tiling", cells=[step.detail for step in steps], right=False, shrinks=True
            )
        )
    lies = [step.layout.removeprefix("channels_") for step in steps]
    columns.append(Column(heading="lies", cells=lies, right=False, style="dim"))
    macs = [wording.short(step.macs) if step.macs else "" for step in steps]
    columns.append(Column(heading="MACs", cells=macs))
    if result.milliseconds is not None:
        times = [bench_words.milliseconds(step.milliseconds) for step in steps]
        columns.append(
            Column(
                heading="ms",
                cells=times,
                style="bold",
                total=bench_words.milliseconds(result.milliseconds),
            )
        )
    return columns


@csv.register
def _(result: Profile) -> str:
    """One line a step."""
    rows = [step.to_dict() | {"nodes": " ".join(step.nodes)} for step in result.steps]
    return comma_separated(COLUMNS, [[row[column] for column in COLUMNS] for row in rows])


@markdown.register
def _(result: Profile) -> str:
    """One table, a line a step."""
    lines = [f"**{escaped(wording.plain(_heading(result)))}**", ""]
    lines += [f"- {escaped(fact)}" for fact in facts(result)]
    lines += ["", "| step | computes | by | layout | MACs | ms |", "|:--|:--|:--|:--|--:|--:|"]
    for step in result.steps:
        cells = (
            escaped(wording.plain(step.name)),
            escaped(wording.plain(step.text)),
            step.algorithm,
            step.layout,
            wording.exact(step.macs) if step.macs else "",
            bench_words.milliseconds(step.milliseconds),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
