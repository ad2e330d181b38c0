"""A plan, a rewriting and a verification in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from convsmith.report import measures, wording
from convsmith.report.columns import Column, filled, printed, table
from convsmith.report.measures import LayerChange, Measure, milliseconds
from convsmith.report.rendering import terminal_width, text
from convsmith.rewrite import Plan, Rewriting, Verification

__all__ = [
    "advice_lines",
    "change_lines",
    "heading_lines",
    "layer_lines",
    "loss_lines",
    "note_lines",
]

WIDE = 150
"""From this many columns on, everything is shown."""

SHOWN_ADVICE = 8
"""How many things to mind are printed; all are in the plan."""

_LEAST = 20


@text.register
def _(result: Plan, *, width: int | None = None, color: bool = False) -> str:
    """Renders one line a layer."""
    width = max(width or terminal_width(), _LEAST)
    lines = [
        *heading_lines(result.source, measures.budget(result), width),
        *layer_lines(measures.layers(result, {}), width),
        *advice_lines(result, width),
    ]
    return printed(lines, color=color)


@text.register
def _(result: Rewriting, *, width: int | None = None, color: bool = False) -> str:
    """Renders costs before and after, one line a layer, and what was lost."""
    width = max(width or terminal_width(), _LEAST)
    verified = result.verification
    lines = [
        *heading_lines(result.plan.source, measures.budget(result.plan), width),
        *change_lines(
            (*measures.costs(result.before, result.after), *measures.times(result.timings)), width
        ),
        Text(),
        *layer_lines(measures.layers(result.plan, verified.layers if verified else {}), width),
        *advice_lines(result.plan, width),
    ]
    if verified is not None:
        lines += [Text(), *loss_lines(verified, width)]
    lines += note_lines(result.notes, width)
    return printed(lines, color=color)


@text.register
def _(result: Verification, *, width: int | None = None, color: bool = False) -> str:
    """Renders the task metric, and the errors of outputs and layers."""
    width = max(width or terminal_width(), _LEAST)
    lines: list[Text] = []
    rows = [] if result.metric is None else [measures.metric(result.metric)]
    rows += [*measures.memory(result), *measures.times(result.timings)]
    if rows:
        lines += [*change_lines(rows, width), Text()]
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
    full = [row.shown for row in rows]
    counts = [
        *(_ways(rows) if wide else ()),
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
    counts += _times(rows)
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


def _ways(rows: Sequence[LayerChange]) -> list[Column]:
    """The form, how it is done, and its free sizes."""
    columns = [Column(heading="form", cells=[row.form for row in rows], right=False)]
    if any(row.widths for row in rows):
        widths = [", ".join(map(str, row.widths)) for row in rows]
        columns.append(Column(heading="widths", cells=widths))
    return columns


def _times(rows: Sequence[LayerChange]) -> list[Column]:
    """Milliseconds, where the choice was made by them."""
    if not any(row.times for row in rows):
        return []
    return [
        Column(
            heading=heading,
            cells=["" if row.times is None else milliseconds(row.times[side]) for row in rows],
            total=milliseconds(sum(row.times[side] for row in rows if row.times)),
        )
        for side, heading in enumerate(("ms", "after"))
    ]


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


def advice_lines(plan: Plan, width: int) -> list[Text]:
    """What to mind in what was chosen."""
    sentences = measures.advice(plan)
    if not sentences:
        return []
    lines = [Text(), Text("what to mind", style="bold")]
    for sentence in sentences[:SHOWN_ADVICE]:
        lines += filled(f"- {sentence}", width, hanging=2)
    if len(sentences) > SHOWN_ADVICE:
        lines.append(Text(f"- and {len(sentences) - SHOWN_ADVICE} more: in the plan", style="dim"))
    return lines


def note_lines(notes: Sequence[str], width: int) -> list[Text]:
    """What the reader should know."""
    lines = [Text()] if notes else []
    for note in notes:
        lines += filled(f"note: {wording.plain(note)}", width, hanging=2, style="yellow")
    return lines
