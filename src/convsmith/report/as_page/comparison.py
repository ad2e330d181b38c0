"""A comparison as a page: a table that sorts, and how the ratios depend on the kernel size."""

from __future__ import annotations

from typing import Any

from convsmith.analysis.comparing import ORIGINAL, Comparison, ComparisonRow
from convsmith.report import wording
from convsmith.report.as_text.comparison_words import (
    MEASURES,
    heading,
    measured,
    percent,
    saved,
    standing,
    subtitle,
)
from convsmith.report.drawings.comparison import chart
from convsmith.report.measures import speed
from convsmith.report.pages import Bar, Card, Cell, Heading, Line, number, page, typeset
from convsmith.report.rendering import html

__all__: list[str] = []

_PACKAGES = {"convsmith": ("llvmlite",), "onnxruntime": ("onnxruntime",)}
"""Whose versions belong to measured times, by what ran the rows."""

_BEYOND = float(2**53)
"""What an unknown number is sorted by: after all others."""


@html.register
def _(result: Comparison) -> str:
    """Renders the page."""
    networks = result.kind == "networks"
    content: dict[str, Any] = {
        "title": typeset(heading(result)),
        "subtitle": "" if networks else subtitle(result),
        "networks": [
            {
                "form": row.form,
                "text": " ".join(row.text.split()),
                "input": ", ".join(map(wording.shape, row.inputs)),
                "unsupported": ", ".join(row.unsupported),
                "sees": typeset(wording.pixels(row.rf)),
            }
            for row in result.rows
            if networks
        ],
        "cards": _network_cards(result) if networks else _cards(result),
        "bars": _bars(result),
        "columns": _network_columns(result) if networks else _columns(result),
        "rows": _network_lines(result) if networks else [_line(row, result) for row in result.rows],
        "chart": chart(result),
        "refused": [
            {"reason": reason, "names": ", ".join(names)} for reason, names in standing(result)
        ],
        "clock": result.clock,
        "command": "",
    }
    return page("comparison.html", content, packages=_PACKAGES.get(result.runtime, ()))


# One convolution ------------------------------------------------------------------


def _cards(result: Comparison) -> list[Card]:
    first, *rest = result.rows
    cards = [
        Card(
            value=wording.short(first.macs),
            label="multiply-accumulates as given",
            detail=f"{wording.exact(first.macs)}; {wording.exact(first.params)} parameters",
        ),
        Card(value=typeset(wording.pixels(first.rf)), label="seen by one output"),
    ]
    whole = [row for row in rest if not row.note and row.ratio_macs is not None]
    if whole:
        least = min(whole, key=lambda row: row.macs)
        cards.append(
            Card(
                value=f"−{saved(least)}",
                label=least.form,
                detail="the fewest MACs that still see every pixel in every channel",
                kind="good",
            )
        )
    timed = [row for row in rest if row.ratio_milliseconds]
    if timed:
        best = min(timed, key=lambda row: row.ratio_milliseconds or 0)
        ratio = 1 / (best.ratio_milliseconds or 1)
        cards.append(
            Card(
                value=typeset(speed(ratio)),
                label=best.form,
                detail=f"{measured(best.milliseconds or 0)} ms, measured",
                kind="good" if ratio > 1 else "bad",
            )
        )
    return cards


def _bars(result: Comparison) -> list[Bar]:
    """MACs in percent of the largest row's."""
    largest = max((row.macs for row in result.rows), default=0)
    if not largest:
        return []
    return [
        Bar(
            name=row.form,
            before=round(100 * row.macs / largest, 3),
            after=None,
            text=wording.short(row.macs)
            + ("" if row.ratio_macs is None else f", {100 * row.ratio_macs:.4g} %"),
        )
        for row in result.rows
    ]


def _columns(result: Comparison) -> tuple[Heading, ...]:
    timed = (Heading(heading="ms", numeric=True), Heading(heading="of time", numeric=True))
    return (
        Heading(heading="form"),
        Heading(heading="MACs", numeric=True, title="multiply-accumulates"),
        Heading(heading="saves", numeric=True),
        *(timed if result.clock else ()),
        Heading(heading="parameters", numeric=True),
        Heading(heading="sees", numeric=True, title="pixels of the input"),
        Heading(heading="nonlinear", numeric=True, title="activations inside"),
        Heading(heading="peak", numeric=True, title="of activations alive at one time"),
        Heading(heading="notation"),
        Heading(heading="note"),
    )


def _line(row: ComparisonRow, result: Comparison) -> Line:
    time = (
        number(
            "" if row.milliseconds is None else measured(row.milliseconds),
            _BEYOND if row.milliseconds is None else row.milliseconds,
        ),
        number(percent(row), row.ratio_milliseconds or _BEYOND),
    )
    size = row.rf.size[0] if row.rf.size else None
    return Line(
        cells=(
            Cell(text=row.form),
            number(wording.exact(row.macs), row.macs),
            number(saved(row), 1 - row.ratio_macs if row.ratio_macs is not None else -_BEYOND),
            *(time if result.clock else ()),
            number(wording.exact(row.params), row.params),
            number(typeset(wording.field(row.rf)), _BEYOND if size is None else size),
            number(str(row.nonlinearities), row.nonlinearities),
            number(wording.binary(row.peak_activation_bytes), row.peak_activation_bytes),
            Cell(text=row.text.partition(" > ")[2], kind="notation"),
            Cell(text=row.note),
        ),
        kind="kept" if row.form == ORIGINAL else "",
    )


# Networks -------------------------------------------------------------------------


def _network_cards(result: Comparison) -> list[Card]:
    first, *rest = result.rows
    cards = [
        Card(
            value=wording.short(first.macs),
            label=f"MACs of {first.form}",
            detail=f"{wording.exact(first.macs)}; {wording.exact(first.params)} parameters",
        )
    ]
    for row in rest:
        share = f", {100 * row.ratio_macs:.2f} % of {first.form}" if row.ratio_macs else ""
        cards.append(
            Card(
                value=wording.short(row.macs),
                label=f"MACs of {row.form}{share}",
                detail=f"{wording.exact(row.macs)}; {wording.exact(row.params)} parameters",
                kind="good" if row.macs < first.macs else "",
            )
        )
    return cards


def _network_columns(result: Comparison) -> tuple[Heading, ...]:
    named = (Heading(heading=row.form, numeric=True, title=row.text) for row in result.rows)
    return (Heading(heading="quantity"), *named)


def _network_lines(result: Comparison) -> list[Line]:
    first = result.rows[0]
    lines = []
    for measure in MEASURES:
        values = [(measure.says(row, first), measure.value(row)) for row in result.rows]
        if any(said for said, _ in values):
            cells = (number(typeset(said), value or 0) for said, value in values)
            lines.append(Line(cells=(Cell(text=measure.name), *cells)))
    shapes = (
        Cell(text=wording.shape(row.shape) + (f" ({row.note})" if row.note else ""), kind="number")
        for row in result.rows
    )
    sees = (Cell(text=typeset(wording.field(row.rf)), kind="number") for row in result.rows)
    return [
        *lines,
        Line(cells=(Cell(text="output"), *shapes)),
        Line(cells=(Cell(text="sees"), *sees)),
    ]
