"""A bench in a terminal: who took how long, from 80 columns to as many as there are."""

from __future__ import annotations

from rich.text import Text

from convsmith.report import wording
from convsmith.report.as_text import bench_words as words
from convsmith.report.columns import Column, filled, printed, table
from convsmith.report.rendering import terminal_width, text
from convsmith.runtime.bench_results import Bench, BenchLayer, BenchRow

__all__ = ["WIDE"]

WIDE = 140
"""From this many columns on, several layers have a column for everybody."""

_LEAST = 40
_FEW = 3
"""So many layers are shown one by one."""


@text.register
def _(result: Bench, *, width: int | None = None, color: bool = False) -> str:
    """Renders a table a layer, or one table of all layers; sums, ratios, what was not timed."""
    width = max(width or terminal_width(), _LEAST)
    title = wording.shorten(wording.plain(words.heading(result)), width)
    lines = [Text(title, style="bold")]
    lines += filled(words.machine(result), width, style="dim")
    if len(result.layers) <= _FEW:
        for layer in result.layers:
            lines.append(Text())
            if len(result.layers) > 1 or words.layer_heading(layer) != words.heading(result):
                lines += filled(wording.plain(words.layer_heading(layer)), width, style="bold")
            lines += _layer(layer, width)
    else:
        lines += [Text(), *_overview(result, width)]
    lines.append(Text())
    for sentence in words.summary(result):
        lines += filled(wording.plain(sentence), width, hanging=2)
    legend = "*: the choice; GFLOP/s: direct's operations over the time"
    if len(result.layers) <= _FEW:
        lines += filled(legend, width, style="dim", hanging=2)
    for remark in words.remarks(result):
        lines += filled(remark, width, style="dim", hanging=2)
    return printed(lines, color=color)


def _layer(layer: BenchLayer, width: int) -> list[Text]:
    rows = layer.rows
    ours = layer.chosen.milliseconds

    def against(row: BenchRow) -> str:
        if row.milliseconds is None:
            return "-"
        return words.speed(row.milliseconds / ours) if ours else ""

    columns = [
        Column(heading="", cells=[words.said(row) for row in rows], right=False),
        Column(heading="ms", cells=[words.milliseconds(row.milliseconds) for row in rows]),
        Column(heading="+-", cells=[words.spread(row) for row in rows], style="dim"),
    ]
    if any(row.cold_milliseconds is not None for row in rows):
        cold = [words.milliseconds(row.cold_milliseconds) for row in rows]
        columns.append(Column(heading="cold ms", cells=cold, style="cyan"))
    gflops = ["" if row.gflops is None else f"{row.gflops:.0f}" for row in rows]
    columns += [
        Column(heading="GFLOP/s", cells=gflops),
        Column(heading="of peak", cells=[words.share(row.share_of_peak) for row in rows]),
        Column(heading="/ours", cells=[against(row) for row in rows], style="green"),
        Column(heading="error", cells=[_error(row) for row in rows], style="dim"),
        Column(heading="", cells=[row.tiling for row in rows], right=False, shrinks=True),
    ]
    if sum(column.width + 2 for column in columns[:-1]) + 8 > width:
        columns.pop()
    styles = ["bold green" if row.chosen else "" for row in rows]
    return table(columns, width, styles=styles)


def _error(row: BenchRow) -> str:
    return "" if row.max_error is None else f"{row.max_error:.0e}"


def _overview(result: Bench, width: int) -> list[Text]:
    layers = result.layers
    best = [layer.best_peer for layer in layers]
    named = any(layer.name != str(layer.spec) for layer in layers)
    columns = []
    if named:
        names = [f"{e.name}{f' x{e.count}' if e.count > 1 else ''}" for e in layers]
        columns.append(_name("layer", names))
    if not named or width >= WIDE:
        columns.append(_name("convolution", [str(layer.spec) for layer in layers]))
    chosen = [layer.chosen for layer in layers]
    columns += [
        Column(heading="choice", cells=[row.name for row in chosen], right=False),
        Column(
            heading="ms",
            cells=[words.milliseconds(row.milliseconds) for row in chosen],
            style="bold green",
        ),
        Column(heading="peak", cells=[words.share(row.share_of_peak) for row in chosen]),
    ]
    if width >= WIDE:
        names = list(dict.fromkeys(row.name for layer in layers for row in layer.rows))
        columns += [
            Column(heading=_short(name), cells=[_taken(layer, name) for layer in layers])
            for name in names
        ]
    if any(row is not None for row in best):
        cells = ["" if row is None else _short(row.name) for row in best]
        columns.append(Column(heading="best peer", cells=cells, right=False))
        if width < WIDE:
            times = ["" if row is None else words.milliseconds(row.milliseconds) for row in best]
            columns.append(Column(heading="ms", cells=times))
        ratios = [words.speed(layer.ratio) for layer in layers]
        columns.append(Column(heading="/ours", cells=ratios, style="bold"))
        if result.cold:
            cold = [words.speed(layer.cold_ratio) for layer in layers]
            columns.append(Column(heading="cold", cells=cold, style="cyan"))
    slower = ["red" if layer.ratio is not None and layer.ratio < 1 else "" for layer in layers]
    return table(columns, width, styles=slower)


def _name(heading: str, cells: list[str]) -> Column:
    shown = [wording.plain(cell) for cell in cells]
    return Column(heading=heading, cells=shown, right=False, shrinks=True)


def _taken(layer: BenchLayer, name: str) -> str:
    row = next((row for row in layer.rows if row.name == name), None)
    if row is None:
        return ""
    return words.milliseconds(row.milliseconds) or "-"


def _short(name: str) -> str:
    """A name for the head of a narrow column."""
    return name.replace("torch channels_last", "torch last").replace("onnxruntime", "ort")
