"""A bench as a page: bars for everybody at every layer, and a table that sorts."""

from __future__ import annotations

from dataclasses import dataclass

from convsmith.report.as_text import bench_words as words
from convsmith.report.pages import Card, Cell, Heading, Line, number, page, typeset
from convsmith.report.rendering import html
from convsmith.runtime.bench_results import Bench, BenchLayer, BenchRow

__all__ = ["HEIGHT", "Picture", "Strip", "cards", "columns", "line", "picture"]

_UNKNOWN = float(2**53)
"""What a missing number is sorted by: after all others."""

_LEFT, _WIDTH, _RIGHT, _STEP, HEIGHT, _TOP = 170, 420, 170, 20, 14, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """One bar; ``kind``: ``chosen``, ``algorithm`` or ``peer``; cold caches end ``until``."""

    name: str
    kind: str
    y: float
    length: float
    until: float | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Bars of effective GFLOP/s of one layer, and where the machine's peak stands."""

    title: str
    count: int
    width: int
    height: float
    left: int
    peak: float | None
    peak_text: str
    strips: tuple[Strip, ...]


def picture(layer: BenchLayer, peak_gflops: float) -> Picture:
    """Draws a layer: longer is faster; cold caches, where they were measured, as a mark."""
    timed = [row for row in layer.rows if row.gflops]
    most = max([row.gflops or 0.0 for row in timed] + [peak_gflops, 1e-9])
    strips = []
    for index, row in enumerate(timed):
        gflops = row.gflops or 0.0
        until = None
        if row.cold_milliseconds and row.milliseconds:
            cold = gflops * row.milliseconds / row.cold_milliseconds
            until = round(_LEFT + min(_WIDTH * cold / most, _WIDTH), 1)
        strips.append(
            Strip(
                name=row.name,
                kind="chosen" if row.chosen else row.kind,
                y=_TOP + index * _STEP,
                length=round(_WIDTH * gflops / most, 1),
                until=until,
                text=f"{words.milliseconds(row.milliseconds)} ms, {gflops:.0f} GFLOP/s",
            )
        )
    return Picture(
        title=words.layer_heading(layer),
        count=layer.count,
        width=_LEFT + _WIDTH + _RIGHT,
        height=_TOP + len(strips) * _STEP + 18,
        left=_LEFT,
        peak=round(_LEFT + _WIDTH * peak_gflops / most, 1),
        peak_text=f"peak {peak_gflops:.0f}",
        strips=tuple(strips),
    )


@html.register
def _(result: Bench) -> str:
    """Renders the page."""
    content = {
        "title": words.heading(result),
        "machine": typeset(words.machine(result)),
        "cards": cards(result),
        "pictures": [picture(layer, result.machine.peak_gflops) for layer in result.layers],
        "bar": HEIGHT,
        "columns": columns(result),
        "rows": [line(layer, row, result) for layer in result.layers for row in layer.rows],
        "summary": [typeset(sentence) for sentence in words.summary(result)],
        "remarks": words.remarks(result),
        "cold": result.cold,
    }
    return page("bench.html", content, packages=("llvmlite",))


def cards(result: Bench) -> list[Card]:
    """The main numbers."""
    cards = [
        Card(
            value=f"{words.milliseconds(result.milliseconds)} ms",
            label="ours, the choice at every layer",
            detail=f"{sum(layer.count for layer in result.layers)} convolutions",
        )
    ]
    mean, worst = result.geometric_mean, result.worst
    if mean is not None and worst is not None:
        cards.append(
            Card(
                value=typeset(words.speed(mean)),
                label="the fastest peer's time over ours",
                detail="geometric mean over distinct convolutions",
                kind="good" if mean > 1 else "bad",
            )
        )
        if len(result.layers) > 1:
            ratio = worst.ratio or 0.0
            cards.append(
                Card(
                    value=typeset(words.speed(ratio)),
                    label="the worst layer",
                    detail=words.layer_heading(worst),
                    kind="good" if ratio > 1 else "bad",
                )
            )
    cards.append(
        Card(value=f"{result.machine.peak_gflops:.0f} GFLOP/s", label="the machine's measured peak")
    )
    return cards


def columns(result: Bench) -> tuple[Heading, ...]:
    """The columns of the table."""
    cold = (Heading(heading="cold ms", numeric=True, title="caches evicted before every run"),)
    return (
        Heading(heading="layer"),
        Heading(heading="convolution"),
        Heading(heading="who"),
        Heading(heading="ms", numeric=True, title="median of the turns, caches warm"),
        Heading(heading="±", numeric=True, title="interquartile range of the turns"),
        *(cold if result.cold else ()),
        Heading(heading="GFLOP/s", numeric=True, title="operations of direct over the time"),
        Heading(heading="of peak", numeric=True),
        Heading(heading="over ours", numeric=True, title="its time over that of our choice"),
        Heading(heading="error", numeric=True, title="largest, against float64"),
        Heading(heading="tiling or reason"),
    )


def line(layer: BenchLayer, row: BenchRow, result: Bench) -> Line:
    """One line of the table."""
    ours = layer.chosen.milliseconds
    against = row.milliseconds / ours if row.milliseconds and ours else None
    cold = _number(words.milliseconds(row.cold_milliseconds), row.cold_milliseconds)
    return Line(
        cells=(
            Cell(text=layer.name + (f" ×{layer.count}" if layer.count > 1 else "")),
            Cell(text=str(layer.spec), kind="notation"),
            Cell(text=f"{row.name}, chosen" if row.chosen else row.name),
            _number(words.milliseconds(row.milliseconds), row.milliseconds),
            _number(words.spread(row), row.spread),
            *((cold,) if result.cold else ()),
            _number("" if row.gflops is None else f"{row.gflops:.0f}", row.gflops),
            _number(words.share(row.share_of_peak), row.share_of_peak),
            _number(typeset(words.speed(against)), against),
            _number("" if row.max_error is None else f"{row.max_error:.1e}", row.max_error),
            Cell(text=row.reason or row.tiling),
        ),
        kind="unsupported" if row.reason else "kept" if row.kind == "peer" else "",
    )


def _number(text: str, value: float | None) -> Cell:
    return number(text, _UNKNOWN if value is None else min(value, _UNKNOWN))
