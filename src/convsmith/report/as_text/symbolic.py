"""An analysis with open sizes: in a terminal, as Markdown and as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.text import Text

from convsmith.analysis.symbolic import Expression, SymbolicAnalysis, SymbolicRow
from convsmith.report import wording
from convsmith.report.as_data.analysis import escaped
from convsmith.report.columns import Column, filled, printed, table
from convsmith.report.rendering import comma_separated, csv, markdown, terminal_width, text

__all__ = ["SYMBOLIC_COLUMNS", "inputs", "macs", "output", "remarks", "sees", "sums"]

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
    lines = [Text(source, style="bold"), Text(inputs(result), style="dim"), Text()]
    if rows:
        columns = [
            column("layer", [wording.plain(row.name) for row in rows], shrinks=True),
            column("operator", [wording.plain(row.text) for row in rows], "green", shrinks=True),
            column("output", [output(row) for row in rows], "dim", shrinks=True),
            column("params", [wording.exact(r.params) if r.params else "-" for r in rows]),
            column("MACs", [macs(row) for row in rows], "bold", shrinks=True),
            column("sees", [sees(row) for row in rows], "cyan"),
        ]
        if sum(c.width + 2 for c in columns) > width:
            del columns[2]  # the sizes are in the MACs again
        lines += [*table(columns, width), Text()]
    for what, amount in sums(result):
        lines += filled(f"{what}: {_amount(amount)}", width, hanging=2)
    lines.append(Text())
    for remark in remarks(result):
        lines += filled(wording.plain(remark), width, hanging=2)
    return printed(lines, color=color)


@markdown.register
def _(result: SymbolicAnalysis) -> str:
    """A table, the sums and the remarks."""
    lines = ["| layer | operator | output | params | MACs | sees |", "|:--|:--|:--|--:|:--|--:|"]
    for row in result.rows:
        cells = (row.name, row.text, output(row), f"{row.params:,}", macs(row), sees(row))
        lines.append(f"| {' | '.join(map(escaped, cells))} |")
    lines.append("")
    lines += [f"- {what}: {escaped(_amount(amount))}" for what, amount in sums(result)]
    lines += ["", *(f"- {escaped(remark)}" for remark in remarks(result))]
    return "\n".join(lines)


@csv.register
def _(result: SymbolicAnalysis) -> str:
    """One line a layer; expressions as text."""
    rows = (
        [output(row) if name == "outputs" else getattr(row, name) for name in SYMBOLIC_COLUMNS]
        for row in result.rows
    )
    return comma_separated(SYMBOLIC_COLUMNS, rows)


def inputs(result: SymbolicAnalysis) -> str:
    """The sizes of the inputs, the open ones as letters."""
    named = (f"{wording.plain(name)} {' x '.join(s)}" for name, s in result.inputs.items())
    return f"input {', '.join(named)}"


def output(row: SymbolicRow) -> str:
    """The sizes of a layer's outputs."""
    return "; ".join("?" if sizes is None else " x ".join(sizes) for sizes in row.outputs)


def macs(row: SymbolicRow) -> str:
    """A layer's MACs: floors where there are any, else their polynomial."""
    if row.status != "counted":
        return {"free": "-", "unsupported": "?"}.get(row.status, "")
    return row.formula or str(row.macs)


def sees(row: SymbolicRow) -> str:
    """Its receptive field; a star: its padding depends on the size."""
    return f"{wording.field(row.rf)}{'*' if row.padding_depends_on_size else ''}"


def sums(result: SymbolicAnalysis) -> Iterator[tuple[str, int | Expression]]:
    """The totals, by what they count."""
    total = result.total
    yield "parameters", total.params
    yield "multiply-accumulates", total.macs
    yield "operations", total.flops
    yield "multiplications", total.mults
    yield "additions", total.adds
    yield "others", total.others
    yield "activation bytes at the peak", total.peak_activation_bytes


def _amount(amount: int | Expression) -> str:
    return wording.exact(amount) if isinstance(amount, int) else str(amount)


def remarks(result: SymbolicAnalysis) -> Iterator[str]:
    """Where the polynomials hold, and what is left out."""
    modulus, of_macs = result.modulus, result.total.macs.modulus
    classes = _classes(result, of_macs)
    if classes:
        yield f"multiply-accumulates: this polynomial is exact where {classes}"
    if modulus != of_macs:
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
