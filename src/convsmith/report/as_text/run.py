"""What a network made of some data, in a terminal and in documents."""

from __future__ import annotations

from rich.text import Text

from convsmith.report import wording
from convsmith.report.as_data.lint import escaped
from convsmith.report.as_text import bench_words
from convsmith.report.columns import Column, filled, printed, table
from convsmith.report.rendering import comma_separated, csv, markdown, terminal_width, text
from convsmith.runtime.running import OutputSummary, Run

__all__ = ["COLUMNS"]

COLUMNS = ("name", "shape", "dtype", "least", "greatest", "mean", "infinite")

_LEAST = 40
_HEADINGS = ("output", "shape", "type", "least", "greatest", "mean")


@text.register
def _(result: Run, *, width: int | None = None, color: bool = False) -> str:
    """Renders what came out, the best classes, the time, and the steps if they were measured."""
    width = max(width or terminal_width(), _LEAST)
    lines = [Text(wording.shorten(wording.plain(_heading(result)), width), style="bold")]
    cells = list(zip(*(_cells(output) for output in result.outputs), strict=True))
    if cells:
        columns = [
            Column(heading=heading, cells=cell, right=place > 1, shrinks=place == 0)
            for place, (heading, cell) in enumerate(zip(_HEADINGS, cells, strict=True))
        ]
        lines += [Text(), *table(columns, width)]
    for sentence in _remarks(result):
        lines += filled(wording.plain(sentence), width, style="yellow", hanging=2)
    for output in result.outputs:
        if output.top:
            lines += [Text(), Text(f"largest of {wording.plain(output.name)}", style="bold")]
        for top in output.top:
            best = "  ".join(
                f"{place} ({value:.4g})"
                for place, value in zip(top.places, top.values, strict=True)
            )
            lines += filled(f"{wording.plain(top.image)}: {best}", width, hanging=2)
    lines.append(Text())
    lines += filled(_time(result), width, style="bold green")
    rendered = printed(lines, color=color)
    if result.profile is not None:
        rendered += "\n\n" + text(result.profile, width=width, color=color)
    return rendered


def _heading(result: Run) -> str:
    shapes = ", ".join(f"{name} {wording.shape(shape)}" for name, shape in result.inputs.items())
    what = f"{result.images} of {result.data}" if result.data else "random numbers"
    return f"{result.source or 'a network'} on {what}, {shapes}"


def _cells(output: OutputSummary) -> tuple[str, ...]:
    numbers = (output.least, output.greatest, output.mean)
    shown = ["-" if number is None else f"{number:.5g}" for number in numbers]
    return (wording.plain(output.name), wording.shape(output.shape), output.dtype, *shown)


def _remarks(result: Run) -> list[str]:
    found = [
        f"{output.name}: {output.infinite:,} elements are infinite or no numbers"
        for output in result.outputs
        if output.infinite
    ]
    if result.weights == "random":
        found.append("the network has no weights: these are random")
    if result.skipped:
        found.append(f"skipped {len(result.skipped)}: {'; '.join(result.skipped[:3])}")
    return found


def _time(result: Run) -> str:
    threads = f"{result.threads} thread{'' if result.threads == 1 else 's'}"
    if result.milliseconds is None:
        return f"not timed; {threads}, images in {result.layout}"
    median = bench_words.milliseconds(result.milliseconds)
    count = len(result.runs)
    return (
        f"{median} ms, median of {count} run{'' if count == 1 else 's'} (+- "
        f"{bench_words.milliseconds(result.spread)}) on {threads}, images in {result.layout}"
    )


@csv.register
def _(result: Run) -> str:
    """One line an output."""
    rows = []
    for output in result.outputs:
        row = output.to_dict() | {"shape": "x".join(map(str, output.shape))}
        rows.append([row[column] for column in COLUMNS])
    return comma_separated(COLUMNS, rows)


@markdown.register
def _(result: Run) -> str:
    """A table of outputs, sentences, and the steps if they were measured."""
    lines = [f"**{escaped(wording.plain(_heading(result)))}**", ""]
    lines += [f"| {' | '.join(_HEADINGS)} |", "|:--|:--|:--|--:|--:|--:|"]
    lines += [f"| {' | '.join(map(escaped, _cells(output)))} |" for output in result.outputs]
    lines += ["", f"- {escaped(_time(result))}"]
    lines += [f"- {escaped(wording.plain(remark))}" for remark in _remarks(result)]
    if result.profile is not None:
        lines += ["", markdown(result.profile)]
    return "\n".join(lines)
