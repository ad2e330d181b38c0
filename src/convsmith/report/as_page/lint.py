"""Findings as a page: how many, where, and what to do."""

from __future__ import annotations

from itertools import groupby

from convsmith.linting import Finding, Findings, find_rule
from convsmith.report.as_text.lint import counted, summary, unchecked
from convsmith.report.pages import Card, Cell, Heading, Line, file_name, page
from convsmith.report.rendering import html

__all__: list[str] = []

_COLUMNS = (Heading(heading="layer"), Heading(heading="what"), Heading(heading="remedy"))

_KINDS = {"error": "bad", "warning": "bad", "note": ""}


@html.register
def _(result: Findings) -> str:
    """Renders the page."""
    blocks = [_block(list(group)) for _, group in groupby(result.findings, key=lambda f: f.code)]
    content = {
        "name": file_name(result.source) or "network",
        "source": result.source,
        "summary": summary(result),
        "cards": [
            Card(
                value=str(number),
                label=f"{severity}s" if number != 1 else severity,
                kind=_KINDS[severity] if number else "good",
            )
            for severity, number in result.counts.items()
        ],
        "blocks": blocks,
        "columns": _COLUMNS,
        "unchecked": unchecked(result),
        "suppressed": [
            Line(
                cells=(
                    Cell(text=s.finding.layer),
                    Cell(text=f"{s.finding.code} {s.finding.rule}"),
                    Cell(text=s.reason or "(no reason)", kind="prose"),
                )
            )
            for s in result.suppressed
        ],
        "suppressed_columns": (
            Heading(heading="layer"),
            Heading(heading="rule"),
            Heading(heading="reason"),
        ),
        "baselined": counted(len(result.baselined), "finding") if result.baselined else "",
    }
    return page("lint.html", content)


def _block(findings: list[Finding]) -> dict[str, object]:
    rule = find_rule(findings[0].code)
    return {
        "rule": rule,
        "count": counted(len(findings), "place"),
        "rows": [
            Line(
                cells=(
                    Cell(text=f.layer),
                    Cell(text=f"{f.message}.", kind="prose"),
                    Cell(text=f.remedy, kind="prose"),
                )
            )
            for f in findings
        ],
    }
