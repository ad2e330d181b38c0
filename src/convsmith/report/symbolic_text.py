"""An analysis with open sizes: in a terminal, as Markdown and as CSV."""

from __future__ import annotations

import csv as csv_files
import io
from collections.abc import Iterator, Mapping

from rich.text import Text

from convsmith.analysis.symbolic import SymbolicAnalysis, SymbolicRow
from convsmith.report import wording
from convsmith.report.analysis_data import escaped
from convsmith.report.columns import Column, filled, printed, table
from convsmith.report.rendering import csv, markdown, terminal_width, text

__all__ = ["SYMBOLIC_COLUMNS"]

SYMBOLIC_COLUMNS = ("name", "op", "text", "outputs", "params", "macs", "formula", "flops", "status")

_LEAST = 20


@text.register
def _(result: SymbolicAnalysis, *, width: int | None = None, color: bool = False) -> str:
    """Renders a line a layer, then the sums, and where their polynomials hold."""
    width = max(width or terminal_width(), _LEAST)
    rows = result.rows

    def column(heading: str, cells: list[str], style: str = "", *, shrinks: bool = False) -> Column:
        right = heading in ("params", "sees")
        return Column(heading=heading, cells=cells, right=right, style=style, shrinks=shrinks)

    source = wording.shorten(wording.plain(" ".join(result.source.split())), width)
    lines = [Text(source, style="bold"), Text(_inputs(result), style="dim"), Text()]
    if rows:
        columns = [
            column("layer", [wording.plain(row.name) for row in rows], shrinks=True),
            column("operator", [wording.plain(row.text) for row in rows], "green", shrinks=True),
            column("output", [_output(row) for row in rows], "dim", shrinks=True),
            column("params", [wording.exact(r.params) if r.params else "-" for r in rows]),
            column("MACs", [_macs(row) for row in rows], "bold", shrinks=True),
            column("sees", [_sees(row) for row in rows], "cyan"),
        ]
        if sum(c.width + 2 for c in columns) > width:
            del columns[2]  # the sizes are in the MACs again
        lines += [*table(columns, width), Text()]
    for what, amount in _sums(result):
        lines += filled(f"{what}: {amount}", width, hanging=2)
    lines.append(Text())
    for remark in _remarks(result):
        lines += filled(wording.plain(remark), width, hanging=2)
    return printed(lines, color=color)


@markdown.register
def _(result: SymbolicAnalysis) -> str:
    """A table, the sums and the remarks."""
    lines = ["| layer | operator | output | params | MACs | sees |", "|:--|:--|:--|--:|:--|--:|"]
    for row in result.rows:
        cells = (row.name, row.text, _output(row), f"{row.params:,}", _macs(row), _sees(row))
        lines.append(f"| {' | '.join(map(escaped, cells))} |")
    lines.append("")
    lines += [f"- {what}: {escaped(amount)}" for what, amount in _sums(result)]
    lines += ["", *(f"- {escaped(remark)}" for remark in _remarks(result))]
    return "\n".join(lines)


@csv.register
def _(result: SymbolicAnalysis) -> str:
    """One line a layer; expressions as text."""
    file = io.StringIO()
    writer = csv_files.writer(file, lineterminator="\n")
    writer.writerow(SYMBOLIC_COLUMNS)
    for row in result.rows:
        cells = {name: str(getattr(row, name)) for name in SYMBOLIC_COLUMNS}
        cells["outputs"] = _output(row)
        writer.writerow(cells.values())
    return file.getvalue()


def _inputs(result: SymbolicAnalysis) -> str:
    inputs = (f"{wording.plain(name)} {' x '.join(s)}" for name, s in result.inputs.items())
    return f"input {', '.join(inputs)}"


def _output(row: SymbolicRow) -> str:
    return "; ".join("?" if sizes is None else " x ".join(sizes) for sizes in row.outputs)


def _macs(row: SymbolicRow) -> str:
    if row.status != "counted":
        return {"free": "-", "unsupported": "?"}.get(row.status, "")
    return row.formula or str(row.macs)


def _sees(row: SymbolicRow) -> str:
    return f"{wording.field(row.rf)}{'*' if row.padding_depends_on_size else ''}"


def _sums(result: SymbolicAnalysis) -> Iterator[tuple[str, str]]:
    total = result.total
    yield "parameters", wording.exact(total.params)
    yield "multiply-accumulates", str(total.macs)
    yield "operations", str(total.flops)
    yield "multiplications", str(total.mults)
    yield "additions", str(total.adds)
    yield "others", str(total.others)
    yield "activation bytes at the peak", str(total.peak_activation_bytes)


def _remarks(result: SymbolicAnalysis) -> Iterator[str]:
    modulus, macs = result.modulus, result.total.macs.modulus
    classes = _classes(result, macs)
    if classes:
        yield f"multiply-accumulates: this polynomial is exact where {classes}"
    if modulus != macs:
        yield f"all other polynomials: exact where {_classes(result, modulus)}"
    least = " x ".join(str(s) for name, s in result.smallest.items() if name != "N")
    yield f"checked from {least} on; floors are exact at every size that the network takes"
    moving = sum(row.padding_depends_on_size for row in result.rows)
    if moving:
        yield f"* {moving} SAME padding{'s' if moving > 1 else ''}: depends on the size"
    if result.fixed:
        own = " x ".join(str(s) for name, s in result.own.items() if name != "N")
        yield (
            f"not in these sums: {result.fixed_layers} layers, {result.fixed_macs:,} MACs, from"
            f" {', '.join(result.fixed)} on: made for {own}"
        )
    if result.unsupported:
        yield f"not counted (?): {', '.join(result.unsupported)}"


def _classes(result: SymbolicAnalysis, modulus: Mapping[str, int]) -> str:
    return " and ".join(
        f"{name} mod {m} = {result.own[name] % m}" for name, m in modulus.items() if m > 1
    )
