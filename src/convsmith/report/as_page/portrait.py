"""The page of a network: overview, network, field viewer, formulas, kernels, rewrite."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from convsmith.portrait import Portrait
from convsmith.report import wording
from convsmith.report.as_data.portrait import embedded, packed
from convsmith.report.as_page.analysis import (
    ALIVE,
    SHOWN_LAYERS,
    alive_lines,
    cards,
    layer_bars,
    module_bars,
)
from convsmith.report.as_page.explanation import typeset_formula
from convsmith.report.as_page.view import group_bars
from convsmith.report.drawings.cost_map import HEIGHT, WIDTH, cost_map
from convsmith.report.drawings.memory import memory_curve
from convsmith.report.drawings.png import picture_uri
from convsmith.report.drawings.roofline import roofline
from convsmith.report.pages import file_name, page, sizes, typeset
from convsmith.report.rendering import html

if TYPE_CHECKING:
    from convsmith.rewrite import Plan

__all__ = ["SCRIPTS"]

SCRIPTS = (
    "data.js",
    "selection.js",
    "layout.js",
    "network.js",
    "table.js",
    "layer.js",
    "field.js",
    "viewer.js",
    "depth.js",
    "keys.js",
)

_SHOWN_BARS = 12


@html.register
def _(result: Portrait) -> str:
    """Renders the page."""
    analysis = result.analysis
    content: dict[str, Any] = {
        "name": file_name(result.source) or "network",
        "source": result.source,
        "inputs": sizes(analysis.inputs),
        "layer_count": len(analysis.rows),
        "module_count": sum(not module.is_stage for module in result.modules.modules),
        "cards": cards(analysis),
        "unsupported": analysis.unsupported,
        "chart": layer_bars(analysis)[:_SHOWN_BARS],
        "counted": sum(1 for row in analysis.rows if row.macs),
        "modules": module_bars(analysis),
        "operators": group_bars(analysis.by_operator(), "flops"),
        "treemap": cost_map(analysis),
        "map_width": WIDTH,
        "map_height": HEIGHT,
        "memory": memory_curve(analysis.memory),
        "peak": wording.binary(analysis.memory.peak_bytes),
        "moment": analysis.memory.at,
        "alive": alive_lines(analysis),
        "more_alive": max(len(analysis.memory.alive) - SHOWN_LAYERS, 0),
        "alive_columns": ALIVE,
        "roofline": roofline(analysis.rows, result.bench),
        "seen": result.input,
        "picture": None if result.picture is None else picture_uri(result.picture.pixels),
        "picture_name": "" if result.picture is None else result.picture.name,
        "picture_cropped": result.picture is not None and result.picture.cropped,
        "bench": None if result.bench is None else _bench(result),
        "rewrite": None if result.plan is None else _rewrite(result.plan),
        "legend": [(typeset_formula(name), stands) for name, stands in result.explanation.legend()],
        "digest": result.digest,
        "digested": result.digested,
        "command": shlex.join(result.command),
        "data": embedded(packed(result)),
    }
    return page("portrait.html", content, scripts=SCRIPTS, styles=("portrait.css",))


def _rewrite(plan: Plan) -> Mapping[str, Any]:
    from convsmith.report.as_page.plan_section import plan_section

    return plan_section(plan)


def _bench(result: Portrait) -> Mapping[str, Any]:
    from convsmith.report.as_page import bench as bench_page
    from convsmith.report.as_text import bench_words

    bench = result.bench
    assert bench is not None
    order = sorted(bench.layers, key=lambda layer: -layer.count * (layer.chosen.milliseconds or 0))
    return {
        "machine": typeset(bench_words.machine(bench)),
        "cards": bench_page.cards(bench),
        "pictures": [bench_page.picture(layer, bench.machine.peak_gflops) for layer in order],
        "columns": bench_page.columns(bench),
        "rows": [bench_page.line(each, row, bench) for each in bench.layers for row in each.rows],
        "bar": bench_page.HEIGHT,
        "summary": [typeset(sentence) for sentence in bench_words.summary(bench)],
        "remarks": bench_words.remarks(bench),
        "cold": bench.cold,
    }
