"""Two plans side by side: in a terminal, as CSV and as Markdown."""

from __future__ import annotations

import re

from rich.text import Text

from convsmith.report import measures, wording
from convsmith.report.columns import Column, filled, printed, table
from convsmith.report.rendering import comma_separated, csv, markdown, terminal_width, text
from convsmith.rewrite.forms import KEEP
from convsmith.rewrite.plan import Choice
from convsmith.rewrite.plan_difference import PlanDifference

__all__: list[str] = []

_LEAST = 20


@text.register
def _(result: PlanDifference, *, width: int | None = None, color: bool = False) -> str:
    """Renders one line a layer that changed."""
    width = max(width or terminal_width(), _LEAST)
    shown = wording.shorten(wording.plain(" ".join(result.new.source.split())), width)
    lines = [Text(shown, style="bold")]
    for sentence in _sentences(result):
        lines += filled(sentence, width, style="dim")
    if result.changes:
        columns = [
            Column(heading=name, cells=[row[index] for row in _rows(result)], right=right)
            for index, (name, right) in enumerate((("MACs before", True), ("after", True)), start=3)
        ]
        names = [
            Column(
                heading=heading,
                cells=[row[index] for row in _rows(result)],
                right=False,
                shrinks=True,
            )
            for index, heading in enumerate(("layer", "old", "new"))
        ]
        errors = Column(heading="fit error", cells=[row[5] for row in _rows(result)])
        lines += [Text(), *table([*names, *columns, errors], width)]
    return printed(lines, color=color)


def _sentences(result: PlanDifference) -> list[str]:
    old, new = result.macs
    budgets = [measures.budget(plan) or "no budget" for plan in (result.old, result.new)]
    asked = budgets[0] if budgets[0] == budgets[1] else f"{budgets[0]} -> {budgets[1]}"
    macs = (
        f"multiply-accumulates of these layers: {wording.exact(old)} -> {wording.exact(new)}"
        f" ({wording.change(old, new)})"
    )
    only = [len(merges) for merges in result.merges]
    counts = [(len(result.changes), "changed"), (len(result.refitted), "fitted anew")]
    told = ", ".join(f"{count} {what}" for count, what in [*counts, (result.same, "the same")])
    merged = f"merged first by one plan only: {only[0]} by the old, {only[1]} by the new one"
    return [asked, macs, f"layers: {told}", *([merged] if any(only) else [])]


def _rows(result: PlanDifference) -> list[tuple[str, str, str, str, str, str]]:
    return [
        (
            wording.plain(change.layer),
            _shown(change.old),
            _shown(change.new),
            "" if change.old is None else wording.short(change.old.macs_after),
            "" if change.new is None else wording.short(change.new.macs_after),
            ""
            if change.new is None or change.new.form == KEEP
            else measures.percent(change.new.error**0.5),
        )
        for change in result.changes
    ]


def _shown(choice: Choice | None) -> str:
    if choice is None:
        return "not mentioned"
    kept = "kept: " if choice.form == KEEP else ""
    return f"{kept}{measures.brief(wording.plain(choice.text))}"


@csv.register
def _(result: PlanDifference) -> str:
    """One line a layer that changed."""
    sides = ("form", "variant", "widths", "text", "macs_after", "error")
    rows = []
    for change in result.changes:
        row: list[object] = [change.layer]
        for choice in (change.old, change.new):
            if choice is None:
                row += [None] * len(sides)
                continue
            row += [choice.form, choice.variant, " ".join(map(str, choice.widths)), choice.text]
            row += [choice.macs_after, choice.error]
        rows.append(row)
    header = ["layer", *(f"{side}_{name}" for side in ("old", "new") for name in sides)]
    return comma_separated(header, rows)


@markdown.register
def _(result: PlanDifference) -> str:
    """A table with one line a layer that changed, and the sums."""
    lines = [f"- {_escaped(sentence)}" for sentence in _sentences(result)]
    if result.changes:
        lines += ["", "| layer | old | new | MACs before | after | fit error |"]
        lines.append("|:--|:--|:--|--:|--:|--:|")
        lines += [f"| {' | '.join(map(_escaped, row))} |" for row in _rows(result)]
    return "\n".join(lines)


def _escaped(words: str) -> str:
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", wording.plain(words))
