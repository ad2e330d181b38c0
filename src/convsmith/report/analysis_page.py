"""An analysis as a page: where the cost is, and what every layer sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from convsmith.analysis import Analysis, Row
from convsmith.report import wording
from convsmith.report.drawing import drawing
from convsmith.report.pages import (
    Bar,
    Card,
    Cell,
    Heading,
    Line,
    file_name,
    number,
    page,
    sizes,
    typeset,
)
from convsmith.report.rendering import html

__all__ = ["SHOWN_LAYERS"]

SHOWN_LAYERS = 20
"""How many bars are shown at once: those of the most expensive layers."""

_COLUMNS = (
    Heading(heading="layer"),
    Heading(heading="operator"),
    Heading(heading="output"),
    Heading(heading="parameters", numeric=True),
    Heading(heading="MACs", numeric=True, title="multiply-accumulates"),
    Heading(heading="sees", numeric=True),
    Heading(heading="stride", numeric=True),
    Heading(heading="offset", numeric=True),
    Heading(heading="multiplications", numeric=True),
    Heading(heading="additions", numeric=True),
    Heading(heading="others", numeric=True, title="comparisons, divisions, exponentials, roots"),
    Heading(heading="weights", numeric=True),
    Heading(heading="writes", numeric=True),
)


@html.register
def _(result: Analysis) -> str:
    """Renders the page."""
    shape = next(iter(result.inputs.values()), ())
    bars = _bars(result)
    content: dict[str, Any] = {
        "name": file_name(result.source) or "network",
        "source": result.source,
        "inputs": sizes(result.inputs),
        "convention": result.convention,
        "cards": _cards(result),
        "unsupported": result.unsupported,
        "chart": bars[:SHOWN_LAYERS],
        "rest": bars[SHOWN_LAYERS:],
        "fields": [
            {
                "name": name,
                "shape": wording.shape(value.shape),
                "after": typeset(wording.pixels(value.rf)),
                "reason": value.rf.reason,
                "drawing": drawing(value.rf, shape),
            }
            for name, value in result.outputs.items()
        ],
        "columns": _COLUMNS,
        "rows": [_line(row) for row in result.rows],
        "total": _total(result),
    }
    return page("analysis.html", content)


def _cards(result: Analysis) -> list[Card]:
    total = result.total
    return [
        Card(
            value=wording.short(total.macs),
            label="multiply-accumulates",
            detail=wording.exact(total.macs),
        ),
        Card(
            value=wording.short(total.params),
            label="parameters",
            detail=f"{wording.exact(total.params)};"
            f" {wording.binary(total.weight_bytes)} of weights",
        ),
        Card(
            value=wording.short(total.flops),
            label="operations",
            detail=f"{wording.short(total.mults)} multiplications, {wording.short(total.adds)}"
            f" additions, {wording.short(total.others)} others",
        ),
        Card(
            value=wording.binary(total.peak_activation_bytes),
            label="of activations",
            detail="at most at one time",
        ),
    ]


def _bars(result: Analysis) -> list[Bar]:
    rows = sorted((row for row in result.rows if row.macs), key=lambda row: -row.macs)
    return [
        Bar(
            name=row.name,
            before=round(100 * row.macs / rows[0].macs, 3),
            after=None,
            text=f"{wording.short(row.macs)}, {row.macs / result.total.macs:.1%}",
        )
        for row in rows
    ]


def _line(row: Row) -> Line:
    unknown = row.status == "unsupported"

    def counted(show: Callable[[int], str], value: int) -> Cell:
        return number("?" if unknown else show(value) if value else "–", -1 if unknown else value)

    exact, size = wording.exact, wording.binary
    return Line(
        cells=(
            Cell(text=row.name),
            Cell(text=row.text, kind="notation"),
            Cell(text=", ".join(map(wording.shape, row.outputs))),
            number(exact(row.params) if row.params else "–", row.params),
            counted(exact, row.macs),
            number(typeset(wording.field(row.rf)), _first(row.rf.size)),
            number(typeset(wording.strides(row.rf)), _first(row.rf.stride)),
            number(typeset(wording.offsets(row.rf)), _first(row.rf.offset)),
            counted(exact, row.mults),
            counted(exact, row.adds),
            counted(exact, row.others),
            number(size(row.weight_bytes) if row.weight_bytes else "–", row.weight_bytes),
            number(size(row.write_bytes), row.write_bytes),
        ),
        kind={"free": "free", "unsupported": "unsupported"}.get(row.status, ""),
    )


def _first(values: tuple[Any, ...]) -> float:
    return float(values[0]) if values and values[0] is not None else float(2**53)


def _total(result: Analysis) -> Line:
    total, exact = result.total, wording.exact
    counts = (total.mults, total.adds, total.others)
    return Line(
        cells=(
            Cell(text="total"),
            Cell(text=""),
            Cell(text=""),
            *(number(exact(count), count) for count in (total.params, total.macs)),
            *(Cell(text="") for _ in range(3)),
            *(number(exact(count), count) for count in counts),
            number(wording.binary(total.weight_bytes), total.weight_bytes),
            Cell(text=""),
        )
    )
