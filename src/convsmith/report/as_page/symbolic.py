"""An analysis with open sizes as a page."""

from __future__ import annotations

from convsmith.analysis.symbolic import SymbolicAnalysis, SymbolicRow
from convsmith.report import wording
from convsmith.report.as_text.symbolic import inputs, macs, output, remarks, sees, sums
from convsmith.report.pages import Card, Cell, Heading, Line, file_name, number, page, typeset
from convsmith.report.rendering import html

__all__: list[str] = []

_COLUMNS = (
    Heading(heading="layer"),
    Heading(heading="operator"),
    Heading(heading="output"),
    Heading(heading="parameters", numeric=True),
    Heading(heading="MACs", title="multiply-accumulates; sorted by their number at its own size"),
    Heading(heading="operations", title="sorted by their number at its own size"),
    Heading(heading="sees", numeric=True),
)
_SUMS = (
    Heading(heading="what"),
    Heading(heading="at its own size", numeric=True),
    Heading(heading="at every size"),
)


@html.register
def _(result: SymbolicAnalysis) -> str:
    """Renders the page."""
    total = result.total
    content = {
        "name": file_name(result.source) or "network",
        "source": result.source,
        "inputs": inputs(result),
        "cards": [
            Card(value=wording.short(at_own), label=label, detail=wording.exact(at_own))
            for label, at_own in (
                ("multiply-accumulates at its own size", total.macs.at()),
                ("parameters", total.params),
                ("operations at its own size", total.flops.at()),
            )
        ],
        "sum_columns": _SUMS,
        "sums": [
            Line(
                cells=(
                    Cell(text=what),
                    number(wording.exact(value), value),
                    Cell(text=str(amount), kind="notation"),
                )
            )
            for what, amount in sums(result)
            for value in [amount if isinstance(amount, int) else amount.at()]
        ],
        "remarks": list(remarks(result)),
        "columns": _COLUMNS,
        "rows": [_line(row) for row in result.rows],
    }
    return page("symbolic.html", content)


def _line(row: SymbolicRow) -> Line:
    counted = row.status == "counted"
    return Line(
        cells=(
            Cell(text=row.name),
            Cell(text=row.text, kind="notation"),
            Cell(text=output(row), kind="notation"),
            number(wording.exact(row.params) if row.params else "–", row.params),
            Cell(text=macs(row), kind="notation", value=row.macs.at() if counted else 0),
            Cell(
                text=str(row.flops) if counted else macs(row),
                kind="notation",
                value=row.flops.at() if counted else 0,
            ),
            Cell(text=typeset(sees(row)), kind="number"),
        ),
        kind="unsupported" if row.status == "unsupported" else "",
    )
