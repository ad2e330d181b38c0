"""A comparison as rows for other programs and for documents: CSV and Markdown."""

from __future__ import annotations

import re

from convsmith.analysis.comparing import Comparison, ComparisonRow
from convsmith.report import wording
from convsmith.report.as_text.comparison_words import MEASURES, heading, percent, saved, standing
from convsmith.report.rendering import comma_separated, csv, markdown

__all__ = ["COLUMNS"]

COLUMNS = (
    "form",
    "text",
    "params",
    "macs",
    "ratio_macs",
    "mults",
    "adds",
    "others",
    "flops",
    "weight_bytes",
    "peak_activation_bytes",
    "output",
    "rf_size",
    "rf_stride",
    "rf_offset",
    "rf_status",
    "support",
    "nonlinearities",
    "milliseconds",
    "ratio_milliseconds",
    "note",
)


@csv.register
def _(result: Comparison) -> str:
    """One line a form or network; shapes as ``1x64x28x28``; nothing where nothing is known."""
    rows = []
    for row in result.rows:
        data = row.to_dict()
        data.update({f"rf_{key}": value for key, value in data.pop("rf").items()})
        rows.append([_joined(data[column]) for column in COLUMNS])
    return comma_separated(COLUMNS, rows)


def _joined(value: object) -> object:
    if isinstance(value, list):
        return "x".join("?" if each is None else str(each) for each in value)
    return value


@markdown.register
def _(result: Comparison) -> str:
    """One table; of networks with a column each."""
    lines = [f"**{_escaped(heading(result))}**", ""]
    if result.kind == "networks":
        lines += [_line(["", *(row.form for row in result.rows)])]
        lines += ["|:--" + "|--:" * len(result.rows) + "|"]
        for measure in MEASURES:
            cells = [measure.says(row, result.rows[0]) for row in result.rows]
            if any(cells):
                lines.append(_line([measure.name, *cells]))
        lines += ["", *(f"- {row.form}: `{_code(row.text)}`" for row in result.rows)]
    else:
        lines += [_line(_HEADINGS), "|:--|--:|--:|--:|--:|--:|--:|:--|"]
        lines += [_line(_cells(row), code=True) for row in result.rows]
    if result.clock:
        lines += ["", f"Times: {_escaped(result.clock)}."]
    for reason, names in standing(result):
        lines.append(f"\nNo row: {_escaped(', '.join(names))} ({_escaped(reason)})")
    return "\n".join(lines)


_HEADINGS = ("form", "MACs", "saves", "params", "sees", "nonlinearities", "ms", "notation")


def _cells(row: ComparisonRow) -> list[str]:
    return [
        f"{row.form} ({row.note})" if row.note else row.form,
        f"{row.macs:,}",
        saved(row),
        f"{row.params:,}",
        wording.field(row.rf),
        str(row.nonlinearities),
        "" if row.milliseconds is None else f"{row.milliseconds:.3g} ({percent(row)})",
        row.text,
    ]


def _line(cells: list[str] | tuple[str, ...], *, code: bool = False) -> str:
    shown = [_escaped(cell) for cell in cells]
    if code:
        shown[-1] = f"`{_code(cells[-1])}`"
    return f"| {' | '.join(shown)} |"


def _code(text: str) -> str:
    return wording.plain(" ".join(text.split())).replace("`", "'").replace("|", "\\|")


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", wording.plain(text))
