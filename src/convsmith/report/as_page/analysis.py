"""An analysis as a page: where the cost is, and what every layer sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from convsmith.analysis import Analysis, Row
from convsmith.report import wording
from convsmith.report.as_page.view import WORK, group_bars
from convsmith.report.drawings.cost_map import HEIGHT, WIDTH, cost_map
from convsmith.report.drawings.memory import memory_curve
from convsmith.report.drawings.roofline import roofline
from convsmith.report.drawings.shapes import drawing
from convsmith.report.pages import (
    Bar,
    Card,
    Cell,
    Heading,
    Line,
    file_name,
    number,
    page,
    sizes,
    typeset,
)
from convsmith.report.rendering import html

if TYPE_CHECKING:
    from convsmith.runtime.bench_results import Bench

__all__ = ["layer_bars", "overview"]

SHOWN_LAYERS = 20
"""How many bars are shown at once: those of the most expensive layers."""

_COLUMNS = (
    Heading(heading="layer"),
    Heading(heading="operator"),
    Heading(heading="output"),
    Heading(heading="parameters", numeric=True),
    Heading(heading="MACs", numeric=True, title="multiply-accumulates"),
    Heading(heading="sees", numeric=True),
    Heading(heading="stride", numeric=True),
    Heading(heading="offset", numeric=True),
    *WORK,
    Heading(heading="alive", numeric=True, title="bytes of all values alive while it runs"),
    Heading(heading="ops/byte", numeric=True, title="operations per byte that is moved"),
)
ALIVE = (
    Heading(heading="value"),
    Heading(heading="shape"),
    Heading(heading="bytes", numeric=True),
)


@html.register
def _(result: Analysis) -> str:
    """Renders the page."""
    shape = next(iter(result.inputs.values()), ())
    bars = layer_bars(result)
    content: dict[str, Any] = {
        "name": file_name(result.source) or "network",
        "source": result.source,
        "inputs": sizes(result.inputs),
        "convention": result.convention,
        "net": overview(result),
        "chart": bars[:SHOWN_LAYERS],
        "rest": bars[SHOWN_LAYERS:],
        "fields": [
            {
                "name": name,
                "shape": wording.shape(value.shape),
                "after": typeset(wording.pixels(value.rf)),
                "reason": value.rf.reason,
                "drawing": drawing(value.rf, shape),
            }
            for name, value in result.outputs.items()
        ],
        "columns": _COLUMNS,
        "rows": [_line(row) for row in result.rows],
        "total": _total(result),
    }
    return page("analysis.html", content)


def overview(result: Analysis, bench: Bench | None = None) -> dict[str, Any]:
    """What pages show of a network as a whole: totals, shares, memory over time, roofline.

    Args:
        result: The network's analysis.
        bench: Times of its convolutions, for the roof.
    """
    memory = result.memory
    return {
        "cards": _cards(result),
        "unsupported": result.unsupported,
        "modules": _module_bars(result),
        "operators": group_bars(result.by_operator(), "flops"),
        "treemap": cost_map(result),
        "map_width": WIDTH,
        "map_height": HEIGHT,
        "memory": memory_curve(memory),
        "peak": wording.binary(memory.peak_bytes),
        "moment": memory.at,
        "alive": _alive_lines(result),
        "more_alive": max(len(memory.alive) - SHOWN_LAYERS, 0),
        "alive_columns": ALIVE,
        "roofline": roofline(result.rows, bench),
    }


def _alive_lines(result: Analysis) -> list[Line]:
    """What is alive at the peak, largest first."""
    return [
        Line(
            cells=(
                Cell(text=value.name),
                Cell(text=wording.shape(value.shape)),
                number(wording.binary(value.bytes), value.bytes),
            )
        )
        for value in result.memory.alive[:SHOWN_LAYERS]
    ]


def _cards(result: Analysis) -> list[Card]:
    """The totals."""
    total = result.total
    return [
        Card(
            value=wording.short(total.macs),
            label="multiply-accumulates",
            detail=wording.exact(total.macs),
        ),
        Card(
            value=wording.short(total.params),
            label="parameters",
            detail=f"{wording.exact(total.params)};"
            f" {wording.binary(total.weight_bytes)} of weights",
        ),
        Card(
            value=wording.short(total.flops),
            label="operations",
            detail=f"{wording.short(total.mults)} multiplications, {wording.short(total.adds)}"
            f" additions, {wording.short(total.others)} others",
        ),
        Card(
            value=wording.binary(total.peak_activation_bytes),
            label="of activations",
            detail=f"at most at one time{f', at {result.memory.at}' if result.memory.at else ''}",
        ),
    ]


def layer_bars(result: Analysis) -> list[Bar]:
    """Multiply-accumulates, layer by layer, most first."""
    rows = sorted((row for row in result.rows if row.macs), key=lambda row: -row.macs)
    return [
        Bar(
            name=row.name,
            before=round(100 * row.macs / rows[0].macs, 3),
            after=None,
            text=f"{wording.short(row.macs)}, {row.macs / result.total.macs:.1%}",
        )
        for row in rows
    ]


def _module_bars(result: Analysis) -> list[Bar]:
    """The outermost modules; none if they are the layers themselves, or only one."""
    view = result.by_module(1)
    if len(view.groups) in (1, len(result.rows)):
        view = result.by_module(2)
    return [] if len(view.groups) == len(result.rows) else group_bars(view, "macs")


def _line(row: Row) -> Line:
    unknown = row.status == "unsupported"

    def counted(show: Callable[[int], str], value: int) -> Cell:
        return number("?" if unknown else show(value) if value else "–", -1 if unknown else value)

    exact, size = wording.exact, wording.binary
    return Line(
        cells=(
            Cell(text=row.name),
            Cell(text=row.text, kind="notation"),
            Cell(text=", ".join(map(wording.shape, row.outputs))),
            number(exact(row.params) if row.params else "–", row.params),
            counted(exact, row.macs),
            number(typeset(wording.field(row.rf)), _first(row.rf.size)),
            number(typeset(wording.strides(row.rf)), _first(row.rf.stride)),
            number(typeset(wording.offsets(row.rf)), _first(row.rf.offset)),
            counted(exact, row.mults),
            counted(exact, row.adds),
            counted(exact, row.others),
            number(size(row.weight_bytes) if row.weight_bytes else "–", row.weight_bytes),
            *(
                number(size(count) if count else "–", count)
                for count in (row.read_bytes, row.write_bytes, row.alive_bytes)
            ),
            _intensity(row),
        ),
        kind={"free": "free", "unsupported": "unsupported"}.get(row.status, ""),
    )


def _intensity(row: Row) -> Cell:
    found = row.arithmetic_intensity
    return number("–", -1) if found is None else number(wording.intensity(found), found)


def _first(values: tuple[Any, ...]) -> float:
    return float(values[0]) if values and values[0] is not None else float(2**53)


def _total(result: Analysis) -> Line:
    total, exact = result.total, wording.exact
    counts = (total.mults, total.adds, total.others)
    return Line(
        cells=(
            Cell(text="total"),
            Cell(text=""),
            Cell(text=""),
            *(number(exact(count), count) for count in (total.params, total.macs)),
            *(Cell(text="") for _ in range(3)),
            *(number(exact(count), count) for count in counts),
            number(wording.binary(total.weight_bytes), total.weight_bytes),
            *(Cell(text="") for _ in range(4)),
        )
    )
