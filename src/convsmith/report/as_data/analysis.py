"""An analysis as rows for other programs and for documents: CSV and Markdown."""

from __future__ import annotations

import re

from convsmith.analysis import Analysis, Row
from convsmith.report import wording
from convsmith.report.rendering import comma_separated, csv, markdown

__all__ = ["COLUMNS", "escaped"]

COLUMNS = (
    "name",
    "op",
    "text",
    "inputs",
    "outputs",
    "params",
    "macs",
    "mults",
    "adds",
    "others",
    "flops",
    "weight_bytes",
    "read_bytes",
    "write_bytes",
    "alive_bytes",
    "arithmetic_intensity",
    "module",
    "status",
    "reason",
    "rf_size",
    "rf_stride",
    "rf_offset",
    "rf_status",
)


@csv.register
def _(result: Analysis) -> str:
    """One line a layer; shapes as ``1x64x112x112``, several separated by blanks."""
    rows = []
    for row in result.rows:
        data = row.to_dict()
        data.update({f"rf_{key}": _joined(value) for key, value in data.pop("rf").items()})
        for key in ("inputs", "outputs"):
            data[key] = " ".join(_joined(shape) for shape in data[key])
        rows.append([data[column] for column in COLUMNS])
    return comma_separated(COLUMNS, rows)


def _joined(values: object) -> str:
    if isinstance(values, list):
        return "x".join("?" if value is None else str(value) for value in values)
    return "?" if values is None else str(values)


_HEADINGS = ("layer", "operator", "output", "params", "MACs", "sees", "stride", "offset")


@markdown.register
def _(result: Analysis) -> str:
    """A table, and the totals as its last line."""
    lines = [_line(_HEADINGS), "|:--|:--|:--|--:|--:|--:|--:|--:|"]
    lines += [_line(_cells(row)) for row in result.rows]
    total = result.total
    sums = ("**total**", "", "", f"**{total.params:,}**", f"**{total.macs:,}**", "", "", "")
    lines.append(f"| {' | '.join(sums)} |")
    for item in result.unsupported:
        lines.append(f"\nNot counted: {escaped(item.name)} ({escaped(item.op)})")
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    counted = {"free": "-", "unsupported": "?"}.get(row.status)
    return (
        row.name,
        row.text,
        ", ".join(map(wording.shape, row.outputs)),
        wording.exact(row.params),
        counted or wording.exact(row.macs),
        wording.field(row.rf),
        wording.strides(row.rf),
        wording.offsets(row.rf),
    )


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(map(escaped, cells))} |"


def escaped(text: str) -> str:
    r"""A name without what Markdown would make something of.

    >>> print(escaped("a_b|c"))
    a\_b\|c
    """
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", wording.plain(text))
