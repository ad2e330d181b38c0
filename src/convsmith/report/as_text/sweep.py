"""A sweep over budgets in a terminal, as CSV and as Markdown."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rich.text import Text

from convsmith.report import measures, wording
from convsmith.report.columns import Column, filled, printed, table
from convsmith.report.rendering import comma_separated, csv, markdown, terminal_width, text
from convsmith.rewrite import Sweep, SweepPoint
from convsmith.rewrite.verifying import Verification
from convsmith.runtime.timing import Timing

__all__ = ["SweepRow", "lead", "rows", "sweep_lines"]

_LEAST = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRow:
    """One line of a sweep, as it is shown.

    Attributes:
        budget: What was asked for; ``original`` for the network itself.
        macs: Multiply-accumulates.
        params: Parameters.
        times: Per runtime: milliseconds, and how many times faster.
        quality: The task metric, or the error of the output.
        change: What became of the metric; empty without one.
        remark: Whether it is worth having, or why there is none.
        kind: ``frontier``, ``slow``, ``missed`` or ``original``; else empty.
    """

    budget: str
    macs: int | None
    params: int | None
    times: tuple[tuple[str, str], ...]
    quality: str
    change: str
    remark: str
    kind: str


def rows(result: Sweep) -> tuple[SweepRow, ...]:
    """The original and all budgets, the least first."""
    return (_original(result), *(_row(result, point) for point in result.points))


def _original(result: Sweep) -> SweepRow:
    first = next((p for p in result.reached if p.rewriting is not None), None)
    timings = {} if first is None or first.rewriting is None else first.rewriting.timings
    found = next((p.verification for p in result.reached if p.verification is not None), None)
    metric = None if found is None else found.metric
    return SweepRow(
        budget="original",
        macs=result.before.macs,
        params=result.before.params,
        times=tuple((measures.milliseconds(t["before"].median), "") for t in timings.values()),
        quality="" if metric is None else measures.metric_value(metric, metric.before),
        change="",
        remark="",
        kind="original",
    )


def _row(result: Sweep, point: SweepPoint) -> SweepRow:
    made = point.rewriting
    if made is None:
        return SweepRow(
            budget=f"{point.budget:g}",
            macs=None,
            params=None,
            times=tuple(("", "") for _ in result.runtimes),
            quality="",
            change="",
            remark="cannot be met",
            kind="missed",
        )
    same = (made.after.macs, made.after.params) == (made.before.macs, made.before.params)
    slow = point.faster is False and not same
    quality, change = _quality(point.verification)
    remark = "best" if point.frontier else ""
    if slow:
        where = [name for name, gained in made.speedups.items() if gained <= 1]
        some = f" in {' and '.join(where)}" if len(where) < len(made.speedups) else ""
        remark = f"not faster{some}"
    remark = "as it was" if same else remark
    return SweepRow(
        budget=f"{point.budget:g}",
        macs=made.after.macs,
        params=made.after.params,
        times=tuple(
            (measures.milliseconds(both["after"].median), f"{made.speedups[name]:.2f}x")
            for name, both in made.timings.items()
        ),
        quality=quality,
        change=change,
        remark=remark,
        kind="slow" if slow else "frontier" if point.frontier else "",
    )


def _quality(found: Verification | None) -> tuple[str, str]:
    if found is None:
        return "", ""
    if found.metric is not None:
        row = measures.metric(found.metric)
        return row.after, row.change
    return measures.percent(max(output.relative for output in found.outputs)), ""


def quality_name(result: Sweep) -> str:
    """What is written about how good the networks are."""
    found = next((p.verification for p in result.reached if p.verification is not None), None)
    if found is None:
        return ""
    return "output error" if found.metric is None else measures.metric_name(found.metric)


def engines(result: Sweep) -> list[Timing]:
    """One timing per runtime, for the names."""
    first = next((p.rewriting for p in result.reached if p.rewriting is not None), None)
    return [] if first is None else [both["before"] for both in first.timings.values()]


def lead(result: Sweep) -> str:
    """What was tried, and on what."""
    words = {"macs": "multiply-accumulates", "params": "parameters", "latency": "time"}
    sentences = [f"budgets of {words[result.currency]}"]
    if result.data:
        sentences.append(f"losses on {wording.plain(result.data)}")
    timed = engines(result)
    if timed:
        threads = f"{timed[0].threads} thread{'s' if timed[0].threads > 1 else ''}"
        named = " and ".join(f"{one.engine} {one.version}" for one in timed)
        sentences.append(f"times in {named}, {threads}, all networks in turns")
    return "; ".join(sentences)


@text.register
def _(result: Sweep, *, width: int | None = None, color: bool = False) -> str:
    """Renders one line a budget."""
    width = max(width or terminal_width(), _LEAST)
    shown = wording.shorten(wording.plain(" ".join(result.source.split())), width)
    return printed([Text(shown, style="bold"), *sweep_lines(result, width)], color=color)


def sweep_lines(result: Sweep, width: int) -> list[Text]:
    """What was tried, and a table."""
    found = rows(result)
    timed = engines(result)
    named = quality_name(result)
    columns = [
        Column(heading="budget", cells=[row.budget for row in found], right=False),
        Column(
            heading="MACs",
            cells=["" if row.macs is None else wording.short(row.macs) for row in found],
        ),
        Column(
            heading="params",
            cells=["" if row.params is None else wording.short(row.params) for row in found],
        ),
    ]
    for index, one in enumerate(timed):
        name = one.engine if len(timed) > 1 else ""
        heading = f"ms {name}".rstrip() if name != "ONNX Runtime" else "ms ORT"
        columns.append(Column(heading=heading, cells=[row.times[index][0] for row in found]))
        columns.append(Column(heading="faster", cells=[row.times[index][1] for row in found]))
    if named:
        columns.append(Column(heading=named, cells=[row.quality for row in found], style="bold"))
    if any(row.change for row in found):
        columns.append(Column(heading="change", cells=[row.change for row in found]))
    if any(row.remark for row in found):
        columns.append(Column(heading="", cells=[row.remark for row in found], right=False))
    styles = {"slow": "yellow", "missed": "dim", "frontier": "green"}
    lines = [
        *filled(lead(result), width, style="dim"),
        Text(),
        *table(_fitting(columns, width), width, styles=[styles.get(r.kind, "") for r in found]),
    ]
    if any(row.remark == "best" for row in found):
        sentence = "best: no other one, the original included, costs as little and loses as little"
        lines += filled(sentence, width, style="dim")
    for note in result.notes:
        lines += filled(f"note: {wording.plain(note)}", width, hanging=2, style="yellow")
    return lines


def _fitting(columns: list[Column], width: int) -> list[Column]:
    """The columns that there is room for: parameters go first, then milliseconds."""
    for heading in ("params", "change", "ms", "MACs"):
        if sum(column.width + 2 for column in columns) - 2 <= width:
            break
        columns = [c for c in columns if not c.heading.startswith(heading)]
    return columns


@csv.register
def _(result: Sweep) -> str:
    """One line a budget."""
    points = result.to_dict()["points"]
    runtimes = result.runtimes
    header = [
        *("budget", "reached", "macs", "params", "metric", "relative_error", "agreement"),
        *("divergence", "frontier", "faster"),
    ]
    return comma_separated(
        (*header, *(f"milliseconds_{r}" for r in runtimes), *(f"speedup_{r}" for r in runtimes)),
        (
            (
                *(point[name] for name in header),
                *(point["milliseconds"].get(r) for r in runtimes),
                *(point["speedups"].get(r) for r in runtimes),
            )
            for point in points
        ),
    )


@markdown.register
def _(result: Sweep) -> str:
    """A table with one line a budget."""
    timed = engines(result)
    headings = ["budget", "MACs", "parameters"]
    for one in timed:
        headings += [f"ms, {one.engine}", "faster"]
    headings += [quality_name(result) or "loss", "change", ""]
    lines = [_line(headings), f"|:--|{'--:|' * (len(headings) - 2)}:--|"]
    for row in rows(result):
        cells = [
            row.budget,
            "" if row.macs is None else wording.exact(row.macs),
            "" if row.params is None else wording.exact(row.params),
        ]
        for pair in row.times:
            cells += pair
        lines.append(_line([*cells, row.quality, row.change, row.remark]))
    return "\n".join([*lines, "", f"- {_escaped(lead(result))}", *map(_bullet, result.notes)])


def _bullet(note: str) -> str:
    return f"- {_escaped(note)}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(words: str) -> str:
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", wording.plain(words))
