"""Sums by module or operator as a page."""

from __future__ import annotations

from typing import Any

from convsmith.analysis import Group, View
from convsmith.report import wording
from convsmith.report.as_data import view as view_data
from convsmith.report.as_text import view as view_text
from convsmith.report.as_text.view import MEASURE_NAMES, shown_measure
from convsmith.report.pages import Bar, Card, Cell, Heading, Line, file_name, number, page
from convsmith.report.rendering import html

__all__ = ["WORK", "group_bars", "view_data", "view_text"]

WORK = (
    Heading(heading="multiplications", numeric=True),
    Heading(heading="additions", numeric=True),
    Heading(heading="others", numeric=True, title="comparisons, divisions, exponentials, roots"),
    Heading(heading="weights", numeric=True),
    Heading(heading="reads", numeric=True),
    Heading(heading="writes", numeric=True),
)
"""Headings of what is computed and moved."""

_COLUMNS = (
    Heading(heading="layers", numeric=True),
    Heading(heading="parameters", numeric=True),
    Heading(heading="MACs", numeric=True, title="multiply-accumulates"),
    Heading(heading="of MACs", numeric=True),
    Heading(heading="operations", numeric=True),
    Heading(heading="of operations", numeric=True),
    *WORK,
    Heading(heading="ops/byte", numeric=True, title="operations per byte that is moved"),
)


@html.register
def _(result: View) -> str:
    """Renders the page."""
    measure = shown_measure(result)
    content: dict[str, Any] = {
        "name": file_name(result.source) or "network",
        "source": result.source,
        "by": result.by,
        "depth": result.depth,
        "convention": result.convention,
        "cards": [
            Card(
                value=wording.short(getattr(result.total, key)),
                label=label,
                detail=wording.exact(getattr(result.total, key)),
            )
            for key, label in (
                ("macs", "multiply-accumulates"),
                ("params", "parameters"),
                ("flops", "operations"),
            )
        ],
        "unsupported": result.unsupported,
        "measure": MEASURE_NAMES[measure],
        "chart": group_bars(result, measure),
        "columns": (Heading(heading=result.by), *_COLUMNS),
        "rows": [_line(result, group) for group in result.groups],
    }
    return page("view.html", content)


def group_bars(view: View, measure: str) -> list[Bar]:
    """One bar for every group that has a share."""
    shares = [(group, view.share(group, measure)) for group in view.groups]
    largest = max((share for _, share in shares), default=0.0)
    return [
        Bar(
            name=group.name,
            before=round(100 * share / largest, 3),
            after=None,
            text=f"{wording.short(getattr(group, measure))}, {share:.1%}",
        )
        for group, share in shares
        if share
    ]


def _line(view: View, group: Group) -> Line:
    unknown = group.unsupported == group.layers
    exact, size = wording.exact, wording.binary

    def counted(text: str, value: float) -> Cell:
        return number("?", -1) if unknown else number(text if value else "–", value)

    intensity = group.arithmetic_intensity
    return Line(
        cells=(
            Cell(text=group.name),
            number(str(group.layers), group.layers),
            number(exact(group.params) if group.params else "–", group.params),
            counted(exact(group.macs), group.macs),
            counted(f"{view.share(group):.1%}", view.share(group)),
            counted(exact(group.flops), group.flops),
            counted(f"{view.share(group, 'flops'):.1%}", view.share(group, "flops")),
            *(counted(exact(count), count) for count in (group.mults, group.adds, group.others)),
            *(
                number(size(count) if count else "–", count)
                for count in (group.weight_bytes, group.read_bytes, group.write_bytes)
            ),
            number(wording.intensity(intensity).replace("-", "–"), intensity or 0),
        ),
        kind="unsupported" if group.unsupported else "",
    )
