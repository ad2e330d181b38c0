"""A bench as rows for other programs and for documents: CSV and Markdown."""

from __future__ import annotations

from convsmith.report import wording
from convsmith.report.as_data.lint import escaped
from convsmith.report.as_text import bench_words as words
from convsmith.report.rendering import comma_separated, csv, markdown
from convsmith.runtime.bench_results import Bench, BenchLayer, BenchRow

__all__ = ["COLUMNS"]

COLUMNS = (
    "layer",
    "count",
    "spec",
    "flops",
    "kind",
    "algorithm",
    "tiling",
    "milliseconds",
    "spread",
    "fastest",
    "cold_milliseconds",
    "cold_spread",
    "gflops",
    "share_of_peak",
    "max_error",
    "chosen",
    "reason",
)


@csv.register
def _(result: Bench) -> str:
    """One line a layer and algorithm or peer; nothing where nothing was measured."""
    rows = []
    for layer in result.layers:
        data = layer.to_dict()
        rows += [[(data | row)[column] for column in COLUMNS] for row in data["rows"]]
    return comma_separated(COLUMNS, rows)


@markdown.register
def _(result: Bench) -> str:
    """One table: a line a layer, a column for everybody, milliseconds; the choice is bold."""
    names = list(dict.fromkeys(row.name for layer in result.layers for row in layer.rows))
    lines = [f"**{escaped(words.heading(result))}**", "", f"{escaped(words.machine(result))}.", ""]
    for cold in (False, True)[: 1 + result.cold]:
        if result.cold:
            lines += [f"Milliseconds, {'cold' if cold else 'warm'} caches:", ""]
        lines.append(_line(["convolution", *names, "of peak", "fastest peer / ours"]))
        lines.append("|:--" + "|--:" * (len(names) + 2) + "|")
        lines += [_line(_cells(layer, names, cold)) for layer in result.layers]
        lines.append("")
    lines += [f"- {escaped(sentence)}" for sentence in words.summary(result)]
    lines += [f"- {escaped(remark)}" for remark in words.remarks(result)]
    return "\n".join(lines)


def _cells(layer: BenchLayer, names: list[str], cold: bool) -> list[str]:
    rows = {row.name: row for row in layer.rows}
    name = "" if layer.name == str(layer.spec) else f"{layer.name}: "
    times = f" x{layer.count}" if layer.count > 1 else ""
    ratio = layer.cold_ratio if cold else layer.ratio
    return [
        escaped(f"{name}{layer.spec}{times}"),
        *(_time(rows.get(each), cold) for each in names),
        words.share(layer.chosen.share_of_peak),
        words.speed(ratio),
    ]


def _time(row: BenchRow | None, cold: bool) -> str:
    if row is None:
        return ""
    shown = words.milliseconds(row.cold_milliseconds if cold else row.milliseconds) or "-"
    return f"**{shown}**" if row.chosen else shown


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(wording.plain(cell) for cell in cells)} |"
