"""A plan, a rewriting and a verification in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from convsmith.report import measures, wording
from convsmith.report.columns import Column, filled, printed, table
from convsmith.report.measures import LayerChange, Measure
from convsmith.report.rendering import terminal_width, text
from convsmith.rewrite import Plan, Rewriting, Verification

__all__ = ["change_lines", "heading_lines", "layer_lines", "loss_lines"]

WIDE = 150
"""From this many columns on, everything is shown."""

_LEAST = 20


@text.register
def _(result: Plan, *, width: int | None = None, color: bool = False) -> str:
    """Renders one line a layer."""
    width = max(width or terminal_width(), _LEAST)
    lines = [
        *heading_lines(result.source, measures.budget(result), width),
        *layer_lines(measures.layers(result, {}), width),
    ]
    return printed(lines, color=color)


@text.register
def _(result: Rewriting, *, width: int | None = None, color: bool = False) -> str:
    """Renders costs before and after, one line a layer, and what was lost."""
    width = max(width or terminal_width(), _LEAST)
    verified = result.verification
    lines = [
        *heading_lines(result.plan.source, measures.budget(result.plan), width),
        *change_lines(measures.costs(result.before, result.after), width),
        Text(),
        *layer_lines(measures.layers(result.plan, verified.layers if verified else {}), width),
    ]
    if verified is not None:
        lines += [Text(), *loss_lines(verified, width)]
    return printed(lines, color=color)


@text.register
def _(result: Verification, *, width: int | None = None, color: bool = False) -> str:
    """Renders the task metric, and the errors of outputs and layers."""
    width = max(width or terminal_width(), _LEAST)
    lines: list[Text] = []
    if result.metric is not None:
        lines += [*change_lines([measures.metric(result.metric)], width), Text()]
    lines += loss_lines(result, width)
    if result.layers:
        lines += [
            Text(),
            *table(
                [
                    Column(
                        heading="layer",
                        cells=[wording.plain(name) for name in result.layers],
                        right=False,
                        shrinks=True,
                    ),
                    Column(
                        heading="error",
                        cells=[measures.percent(error) for error in result.layers.values()],
                    ),
                ],
                width,
            ),
        ]
    return printed(lines, color=color)


def heading_lines(source: str, remark: str, width: int) -> list[Text]:
    """The network, and what was asked for."""
    shown = wording.shorten(wording.plain(" ".join(source.split())), width)
    return [Text(shown, style="bold"), *filled(remark, width, style="dim"), Text()]


def change_lines(rows: Sequence[Measure], width: int) -> list[Text]:
    """Before and after, side by side."""
    remarks = [f"({row.remark})" if row.remark else "" for row in rows]
    columns = [
        Column(heading="", cells=[row.name for row in rows], right=False),
        Column(heading="before", cells=[row.before for row in rows]),
        Column(heading="after", cells=[row.after for row in rows], style="bold"),
        Column(heading="", cells=[row.change for row in rows]),
    ]
    room = width - sum(column.width + 2 for column in columns)
    if max(map(len, remarks), default=0) and max(map(len, remarks)) <= room:
        columns.append(Column(heading="", cells=remarks, right=False, style="dim"))
        remarks = []
    styles = {True: "green", False: "yellow", None: ""}
    lines = table(columns, width)
    for line, row in zip(lines[2:], rows, strict=True):
        line.highlight_words([row.change] if row.change else [], styles[row.better])
    return lines + [Text(remark, style="dim") for remark in remarks if remark]


def layer_lines(rows: Sequence[LayerChange], width: int) -> list[Text]:
    """One line a layer: what stands for it, what that costs, and what it loses."""
    wide = width >= WIDE
    verified = any(row.error is not None for row in rows)
    number = wording.exact if wide else wording.short
    error = [
        "" if row.kept else measures.percent(row.fit if row.error is None else row.error)
        for row in rows
    ]
    first = Column(
        heading="layer", cells=[wording.plain(row.name) for row in rows], right=False, shrinks=True
    )
    full = [f"kept: {row.text}" if row.kept else row.text for row in rows]
    counts = [
        *([Column(heading="form", cells=[row.form for row in rows], right=False)] if wide else ()),
        Column(
            heading="MACs before",
            cells=[number(row.before) for row in rows],
            total=number(sum(row.before for row in rows)),
        ),
        Column(
            heading="after",
            cells=[number(row.after) for row in rows],
            total=number(sum(row.after for row in rows)),
            style="bold",
        ),
        Column(heading="ratio", cells=[row.ratio for row in rows], total=_ratio(rows)),
    ]
    counts.append(Column(heading="error" if verified else "fit error", cells=error))
    room = width - sum(column.width + 2 for column in (first, *counts))
    if max(map(len, full), default=0) > room:
        full = [measures.brief(shown) for shown in full]
    text_column = Column(
        heading="what stands for it",
        cells=[wording.plain(shown) for shown in full],
        right=False,
        shrinks=True,
        style="green",
    )
    styles = ["dim" if row.kept else "" for row in rows]
    return table([first, text_column, *counts], width, styles=styles)


def _ratio(rows: Sequence[LayerChange]) -> str:
    after = sum(row.after for row in rows)
    return f"{sum(row.before for row in rows) / after:.2f}x" if after else ""


def loss_lines(found: Verification, width: int) -> list[Text]:
    """What the outputs lost, what they see, and with what that was verified."""
    images = f"{found.images} image{'s' if found.images != 1 else ''}"
    lines = filled(
        f"verified on {images}{f' ({found.data})' if found.data else ''};"
        " errors are relative: root of the squared error over the variance",
        width,
        style="dim",
    )
    for sentence in (*measures.loss_sentences(found), *measures.field_sentence(found)):
        lines += filled(sentence, width, hanging=2)
    return lines
