"""What changed from one network to another, as a page."""

from __future__ import annotations

from typing import Any

from convsmith.analysis import Change, Difference
from convsmith.report import wording
from convsmith.report.as_data import difference as difference_data
from convsmith.report.as_text import difference as difference_text
from convsmith.report.as_text.difference import (
    listed,
    output_sentences,
    renamed_sentence,
    same_sentence,
    totals,
    what,
)
from convsmith.report.pages import Card, Cell, Heading, Line, file_name, number, page, typeset
from convsmith.report.rendering import html

__all__ = ["difference_data", "difference_text"]

_SUMS = (
    Heading(heading="quantity"),
    Heading(heading="old", numeric=True),
    Heading(heading="new", numeric=True),
    Heading(heading="change", numeric=True),
)
_COLUMNS = (
    Heading(heading="layer"),
    Heading(heading="change"),
    Heading(heading="operator"),
    Heading(heading="params old", numeric=True),
    Heading(heading="new", numeric=True),
    Heading(heading="MACs old", numeric=True, title="multiply-accumulates"),
    Heading(heading="new", numeric=True),
    Heading(heading="difference", numeric=True),
)


@html.register
def _(result: Difference) -> str:
    """Renders the page."""
    kinds = {True: "good", False: "bad", None: ""}
    rows = totals(result)
    sentences = (renamed_sentence(result), same_sentence(result), *output_sentences(result))
    content: dict[str, Any] = {
        "old": file_name(result.old.source) or "network",
        "new": file_name(result.new.source) or "network",
        "convention": result.new.convention,
        "cards": [
            Card(
                value=typeset(row.change) or row.show(row.new),
                label=row.label,
                detail=f"{row.show(row.old)} → {row.show(row.new)}",
                kind=kinds[row.better],
            )
            for row in rows
            if row.old or row.new
        ],
        "violations": result.violations,
        "kept": [str(verdict) for verdict in result.verdicts if verdict.met],
        "uncounted": [
            (side, network.unsupported)
            for side, network in (("old", result.old), ("new", result.new))
            if network.unsupported
        ],
        "sentences": [sentence.replace(" -> ", " → ") for sentence in sentences if sentence],
        "sums": _SUMS,
        "totals": [
            Line(
                cells=(
                    Cell(text=row.name),
                    number(wording.exact(row.old), row.old),
                    number(wording.exact(row.new), row.new),
                    number(typeset(row.change), row.new - row.old, kinds[row.better]),
                )
            )
            for row in rows
        ],
        "columns": _COLUMNS,
        "rows": [_line(change) for change in listed(result)],
    }
    return page("difference.html", content)


def _line(change: Change) -> Line:
    def counts(key: str) -> tuple[Cell, Cell]:
        old, new = (
            number("–", -1)
            if layer is None
            else number(wording.exact(layer.counts[key]), layer.counts[key])
            for layer in (change.old, change.new)
        )
        return old, new

    more = change.difference("macs")
    kind = {True: "bad", False: "good"}[more > 0] if more else ""
    return Line(
        cells=(
            Cell(text=change.name),
            Cell(text=change.status),
            Cell(text=what(change).replace(" -> ", " → "), kind="notation"),
            *counts("params"),
            *counts("macs"),
            number(typeset(f"{more:+,}") if more else "–", more, kind),
        )
    )
