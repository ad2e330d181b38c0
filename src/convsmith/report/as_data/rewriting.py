"""Plans, rewritings and optimizations for other programs and for documents: CSV and Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from convsmith.optimization import Optimization
from convsmith.report import measures, wording
from convsmith.report.measures import Measure
from convsmith.report.rendering import comma_separated, csv, markdown
from convsmith.rewrite import Plan, Rewriting, Verification

__all__ = ["COLUMNS"]

COLUMNS = (
    "name",
    "form",
    "variant",
    "widths",
    "text",
    "macs_before",
    "macs_after",
    "error",
    "verified_error",
    "milliseconds_before",
    "milliseconds_after",
)
"""``error`` is the mean squared error over the variance, as fitted; ``verified_error`` the root of
the same in the rewritten network; times are empty where none was asked for."""


@csv.register
def _(result: Plan) -> str:
    """One line a layer."""
    return _rows(result, {})


@csv.register
def _(result: Rewriting) -> str:
    """One line a layer."""
    return _rows(result.plan, result.verification.layers if result.verification else {})


@csv.register
def _(result: Optimization) -> str:
    """One line a layer."""
    return _rows(result.rewriting.plan, result.verification.layers)


def _rows(plan: Plan, errors: Mapping[str, float]) -> str:
    rows = (
        (
            choice.layer,
            choice.form,
            choice.variant,
            " ".join(map(str, choice.widths)),
            choice.text,
            choice.macs_before,
            choice.macs_after,
            choice.error,
            errors.get(choice.layer),
            *(choice.milliseconds if any(choice.milliseconds) else (None, None)),
        )
        for choice in plan.choices
    )
    return comma_separated(COLUMNS, rows)


@markdown.register
def _(result: Plan) -> str:
    """A table with one line a layer."""
    return "\n".join([*_layers(result, {}), *_advice(result)])


@markdown.register
def _(result: Rewriting) -> str:
    """Costs before and after, one line a layer, and what was lost."""
    verified = result.verification
    return "\n".join(
        [
            *_changes(
                (*measures.costs(result.before, result.after), *measures.times(result.timings))
            ),
            "",
            *_layers(result.plan, verified.layers if verified else {}),
            *_advice(result.plan),
            *(_losses(verified) if verified else ()),
            *([""] if result.notes and not verified else []),
            *(f"- {_escaped(note)}" for note in result.notes),
        ]
    )


@markdown.register
def _(result: Verification) -> str:
    """What was lost, as a list."""
    found = [] if result.metric is None else [measures.metric(result.metric)]
    found += [*measures.memory(result), *measures.times(result.timings)]
    rows = _changes(found) if found else []
    return "\n".join([*rows, *_losses(result)]).lstrip()


@markdown.register
def _(result: Optimization) -> str:
    """What changed, layer by layer, and what was lost."""
    sentences = (measures.timing_sentence(result), measures.proof_sentence(result), *result.notes)
    return "\n".join(
        [
            f"**{_escaped(measures.headline(result))}**",
            "",
            *_changes(measures.measures(result)),
            "",
            *_layers(result.rewriting.plan, result.verification.layers),
            *_advice(result.rewriting.plan),
            *_losses(result.verification),
            *(f"- {_escaped(sentence)}" for sentence in sentences if sentence),
            *(f"- skipped {_escaped(reason)}" for reason in result.skipped),
        ]
    )


def _changes(rows: Iterable[Measure]) -> list[str]:
    lines = ["|  | before | after | change |", "|:--|--:|--:|--:|"]
    for row in rows:
        name = f"{row.name} ({row.remark})" if row.remark else row.name
        lines.append(_line((name, row.before, row.after, row.change)))
    return lines


def _layers(plan: Plan, errors: Mapping[str, float]) -> list[str]:
    rows = measures.layers(plan, errors)
    lines = [
        "| layer | what stands for it | MACs before | after | ratio | error |",
        "|:--|:--|--:|--:|--:|--:|",
    ]
    for row in rows:
        lost = row.fit if row.error is None else row.error
        lines.append(
            _line(
                (
                    row.name,
                    row.shown,
                    wording.exact(row.before),
                    wording.exact(row.after),
                    row.ratio,
                    "" if row.kept else measures.percent(lost),
                )
            )
        )
    return lines


def _advice(plan: Plan) -> list[str]:
    sentences = measures.advice(plan)
    bullets = [f"- {_escaped(sentence)}" for sentence in sentences]
    return ["", "What to mind:", "", *bullets] if bullets else []


def _losses(found: Verification) -> list[str]:
    sentences = (*measures.loss_sentences(found), *measures.field_sentence(found))
    return ["", *(f"- {_escaped(sentence)}" for sentence in sentences)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", wording.plain(text))
