"""Merged layers for other programs and for documents: CSV and Markdown."""

from __future__ import annotations

from typing import Any

from convsmith.report import wording
from convsmith.report.as_data.analysis import escaped
from convsmith.report.measures import costs
from convsmith.report.rendering import comma_separated, csv, markdown
from convsmith.rewrite.merging import Merging

__all__ = ["COLUMNS"]

COLUMNS = (
    *("kind", "layers", "into", "macs_before", "macs_after", "params_before", "params_after"),
    "note",
)
"""The names of ``layers`` are separated by spaces."""


@csv.register(Merging)
def _(result: Merging[Any]) -> str:
    """One line a merge, in order."""
    rows = (step.to_dict() | {"layers": " ".join(step.layers)} for step in result.merges)
    return comma_separated(COLUMNS, ([row[name] for name in COLUMNS] for row in rows))


@markdown.register(Merging)
def _(result: Merging[Any]) -> str:
    """Costs before and after, one line a merge, and what was not merged."""
    lines = ["|  | before | after | change |", "|:--|--:|--:|--:|"]
    counts = result.layers_before, result.layers_after
    lines.append(f"| layers | {counts[0]:,} | {counts[1]:,} | {wording.change(*counts)} |")
    lines += [
        f"| {row.name} | {row.before} | {row.after} | {row.change} |"
        for row in costs(result.before, result.after)
    ]
    if result.merges:
        lines += ["", "| rule | layer | made of | MACs before | after |", "|:--|:--|:--|--:|--:|"]
        lines += [
            f"| {step.kind} | {escaped(step.into)} | {escaped(' + '.join(step.layers))} |"
            f" {step.macs_before:,} | {step.macs_after:,} |"
            for step in result.merges
        ]
    return "\n".join([*lines, "", *(f"- {escaped(note)}" for note in result.notes)]).rstrip()
