"""The page of a network: overview, network, field viewer, formulas, kernels, rewrite."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from convsmith.portrait import Portrait
from convsmith.report.as_data.portrait import embedded, packed
from convsmith.report.as_page.analysis import layer_bars, overview
from convsmith.report.as_page.explanation import typeset_formula
from convsmith.report.drawings.png import picture_uri
from convsmith.report.pages import file_name, page, sizes, typeset
from convsmith.report.rendering import html

if TYPE_CHECKING:
    from convsmith.analysis import Analysis
    from convsmith.rewrite import Plan

__all__ = ["SCRIPTS", "STYLES", "content"]

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

STYLES = ("portrait.css",)

_SHOWN_BARS = 12


@html.register
def _(result: Portrait) -> str:
    """Renders the page."""
    shown: dict[str, Any] = {
        "name": file_name(result.source) or "network",
        "source": result.source,
        "inputs": sizes(result.analysis.inputs),
        "digest": result.digest,
        "digested": result.digested,
        "command": shlex.join(result.command),
        "rewrite": None
        if result.plan is None
        else _rewrite(result.plan, result.before or result.analysis),
        "is_rewritten": result.before is not None,
        "net": content(result),
    }
    return page("portrait.html", shown, scripts=SCRIPTS, styles=STYLES)


def content(result: Portrait) -> Mapping[str, Any]:
    """What the parts of a page show that are about one network, and what scripts draw from."""
    analysis = result.analysis
    return {
        **overview(analysis, result.bench),
        "layer_count": len(analysis.rows),
        "module_count": sum(not module.is_stage for module in result.modules.modules),
        "chart": layer_bars(analysis)[:_SHOWN_BARS],
        "counted": sum(1 for row in analysis.rows if row.macs),
        "seen": result.input,
        "picture": None if result.picture is None else picture_uri(result.picture.pixels),
        "picture_name": "" if result.picture is None else result.picture.name,
        "picture_cropped": result.picture is not None and result.picture.cropped,
        "bench": None if result.bench is None else _bench(result),
        "legend": [(typeset_formula(name), stands) for name, stands in result.explanation.legend()],
        "data": embedded(packed(result)),
    }


def _rewrite(plan: Plan, original: Analysis) -> Mapping[str, Any]:
    from convsmith.report.as_page.changes import plan_section

    return plan_section(plan, original)


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
