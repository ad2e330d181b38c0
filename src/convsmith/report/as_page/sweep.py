"""A sweep over budgets as a page, and as a section of one: a picture and a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convsmith.report import measures, wording
from convsmith.report.as_text.sweep import SweepRow, engines, lead, quality_name, rows
from convsmith.report.drawings.pareto import Front, Point, pareto
from convsmith.report.pages import Cell, Heading, Line, file_name, number, page, sentence, typeset
from convsmith.report.rendering import html
from convsmith.rewrite import Sweep
from convsmith.rewrite.sweeping import cost_of, quality_of

__all__ = ["sweep_section"]


@html.register
def _(result: Sweep) -> str:
    """Renders the page."""
    content = {
        "name": file_name(result.source) or "network",
        "source": result.source,
        "sweep": sweep_section(result),
    }
    packages = ("onnxruntime",) if "onnxruntime" in result.runtimes else ()
    return page("sweep.html", content, packages=packages)


def sweep_section(result: Sweep, chosen: float | None = None) -> Mapping[str, Any]:
    """What the section shows.

    Args:
        result: The sweep.
        chosen: The budget that the page is about.
    """
    return {
        "lead": sentence(typeset(lead(result))),
        "front": _front(result, chosen),
        "columns": _columns(result),
        "rows": [_line(row) for row in rows(result)],
        "notes": result.notes,
    }


def _front(result: Sweep, chosen: float | None) -> Front | None:
    """The networks by what they cost and how good they are."""
    points: list[Point] = []
    sign = -1.0 if _less_is_better(result) else 1.0
    for point in result.points:
        quality = quality_of(point.verification)
        if quality is None or point.rewriting is None:
            continue
        if not points:
            own = sign * quality[0]
            points.append(
                Point(name="original", cost=100, quality=own, kind="original", text="original")
            )
        points.append(
            Point(
                name=measures.asked(result.currency, point.budget),
                cost=100 * cost_of(point, result.currency),
                quality=sign * quality[1],
                kind="chosen" if point.budget == chosen else "",
                text=f"{100 * point.budget:.4g} %" if point.budget <= 1 else f"{point.budget:,.6g}",
                detail="not faster than the original" if point.faster is False else "",
            )
        )
    timed = engines(result)
    cost = (
        f"% of the time in {timed[0].engine}"
        if timed
        else f"% of the {measures.CURRENCIES[result.currency][0]}"
    )
    return pareto(
        points, cost=cost, quality=_quality_title(result), less_is_better=_less_is_better(result)
    )


def _less_is_better(result: Sweep) -> bool:
    found = next((p.verification for p in result.reached if p.verification is not None), None)
    metric = None if found is None else found.metric
    return metric is None or not metric.higher_is_better


def _quality_title(result: Sweep) -> str:
    found = next((p.verification for p in result.reached if p.verification is not None), None)
    if found is None or found.metric is None:
        return "output error"
    unit = f", {found.metric.unit}" if found.metric.unit else ""
    return f"{measures.metric_name(found.metric)}{unit}"


def _columns(result: Sweep) -> tuple[Heading, ...]:
    times = [
        heading
        for one in engines(result)
        for heading in (
            Heading(heading=f"ms, {one.engine}", numeric=True),
            Heading(heading="faster", numeric=True),
        )
    ]
    return (
        Heading(heading="budget"),
        Heading(heading="MACs", numeric=True, title="multiply-accumulates"),
        Heading(heading="parameters", numeric=True),
        *times,
        Heading(heading=quality_name(result) or "loss", numeric=True),
        Heading(heading="change", numeric=True),
        Heading(heading="remark", title="best: none costs as little and loses as little"),
    )


def _line(row: SweepRow) -> Line:
    times = [cell for pair in row.times for cell in pair]
    return Line(
        cells=(
            Cell(text=row.budget),
            number("" if row.macs is None else wording.exact(row.macs), row.macs or 0),
            number("" if row.params is None else wording.exact(row.params), row.params or 0),
            *(Cell(text=typeset(words), kind="number") for words in times),
            Cell(text=row.quality, kind="number"),
            Cell(text=typeset(row.change), kind="number"),
            Cell(text=row.remark),
        ),
        kind="kept" if row.kind in ("missed", "original") else "",
    )
