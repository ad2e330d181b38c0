"""What changed from one network to another, for other programs and for documents."""

from __future__ import annotations

from convsmith.analysis import Difference
from convsmith.analysis.baseline import COUNTS
from convsmith.report import wording
from convsmith.report.as_data.analysis import escaped
from convsmith.report.as_text.difference import (
    listed,
    output_sentences,
    renamed_sentence,
    same_sentence,
    totals,
    what,
)
from convsmith.report.rendering import comma_separated, csv, markdown

__all__ = ["COLUMNS"]

COLUMNS = (
    *("name", "status", "old_name", "old_text", "new_text"),
    *(f"{side}_{key}" for key in COUNTS for side in ("old", "new")),
)


@csv.register
def _(result: Difference) -> str:
    """One line a layer that is not the same."""
    rows = []
    for change in result.changes:
        old, new = change.old, change.new
        cells: list[object] = [change.name, change.status]
        cells += [old and old.name, old and old.text, new and new.text]
        for key in COUNTS:
            cells += [None if side is None else side.counts[key] for side in (old, new)]
        rows.append(cells)
    return comma_separated(COLUMNS, rows)


@markdown.register
def _(result: Difference) -> str:
    """The budgets, the sums, and a table of the layers that changed: for a pull request."""
    lines = [f"**{escaped(result.old.source)}** to **{escaped(result.new.source)}**", ""]
    lines += [f"- **{escaped(line)}**" for line in result.violations]
    lines += [f"- {escaped(str(v))}" for v in result.verdicts if v.met]
    lines += [""] if result.verdicts or result.violations else []
    lines += ["|  | old | new | change |", "|:--|--:|--:|--:|"]
    lines += [
        f"| {row.name} | {row.old:,} | {row.new:,} | {row.change} |" for row in totals(result)
    ]
    changes = listed(result)
    if changes:
        lines += [
            "",
            "| layer | change | operator | MACs old | MACs new |",
            "|:--|:--|:--|--:|--:|",
        ]
    for change in changes:
        macs = [
            "" if side is None else wording.exact(side.counts["macs"])
            for side in (change.old, change.new)
        ]
        cells = (escaped(change.name), change.status, escaped(what(change)), *macs)
        lines.append(f"| {' | '.join(cells)} |")
    sentences = (renamed_sentence(result), same_sentence(result), *output_sentences(result))
    lines += ["", *(f"- {escaped(sentence)}" for sentence in sentences if sentence)]
    for side, network in (("old", result.old), ("new", result.new)):
        if network.unsupported:
            named = ", ".join(map(escaped, network.unsupported))
            lines.append(f"- not counted in the {side} network: {named}")
    return "\n".join(lines)
