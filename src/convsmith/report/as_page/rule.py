"""Rules for browsers and for spreadsheets: HTML and CSV."""

from __future__ import annotations

from collections.abc import Sequence

from convsmith.linting import Rule, Rules
from convsmith.report.as_text.rule import sections
from convsmith.report.pages import page
from convsmith.report.rendering import comma_separated, csv, html

__all__ = ["COLUMNS"]

COLUMNS = (
    *("code", "name", "category", "severity", "needs", "summary", "what", "why", "example"),
    *("given", "fine", "remedy", "caveats", "references"),
)

_CODE = ("Example", "Fine")


@html.register
def _(result: Rule) -> str:
    """The page of a rule."""
    return _page(f"{result.code} {result.name}", f"{result.summary}.", [result])


@html.register
def _(result: Rules) -> str:
    """The pages of all rules, one below the other."""
    return _page("Rules", f"What convsmith lint checks: {len(result.rules)} rules.", result.rules)


def _page(name: str, summary: str, rules: Sequence[Rule]) -> str:
    entries = [
        {
            "rule": rule,
            "parts": [
                {"title": title, "lines": lines, "code": title in _CODE}
                for title, lines in sections(rule)
            ],
        }
        for rule in rules
    ]
    return page("rules.html", {"name": name, "summary": summary, "entries": entries})


@csv.register
def _(result: Rule) -> str:
    """A header and one line."""
    return _csv([result])


@csv.register
def _(result: Rules) -> str:
    """One line a rule; references separated by line breaks."""
    return _csv(result.rules)


def _csv(rules: Sequence[Rule]) -> str:
    found = [rule.to_dict() | {"references": "\n".join(rule.references)} for rule in rules]
    return comma_separated(COLUMNS, ([data[column] for column in COLUMNS] for data in found))
