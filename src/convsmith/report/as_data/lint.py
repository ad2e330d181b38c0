"""Findings as rows for other programs and for documents: CSV and Markdown."""

from __future__ import annotations

import re

from convsmith.linting import Findings
from convsmith.report import wording
from convsmith.report.as_text.lint import summary, unchecked
from convsmith.report.rendering import comma_separated, csv, markdown

__all__ = ["COLUMNS", "escaped"]

COLUMNS = ("severity", "code", "rule", "layer", "message", "remedy")


@csv.register
def _(result: Findings) -> str:
    """One line a finding."""
    found = [finding.to_dict() for finding in result.findings]
    return comma_separated(COLUMNS, ([data[column] for column in COLUMNS] for data in found))


@markdown.register
def _(result: Findings) -> str:
    """The summary, and a table of findings."""
    lines = [f"**{escaped(summary(result))}**"]
    if result.findings:
        lines += ["", f"| {' | '.join(COLUMNS)} |", f"|{':--|' * len(COLUMNS)}"]
        for finding in result.findings:
            data = finding.to_dict()
            lines.append(f"| {' | '.join(escaped(data[column]) for column in COLUMNS)} |")
    for note in unchecked(result):
        lines += ["", escaped(note[:1].upper() + note[1:])]
    return "\n".join(lines)


def escaped(text: str) -> str:
    r"""A text that Markdown shows as it is.

    >>> escaped("a_b|c")
    'a\\_b\\|c'
    """
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", wording.plain(text))
