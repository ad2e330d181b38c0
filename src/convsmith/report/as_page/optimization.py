"""An optimization as a page: what changed, what was lost, and pictures to see it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from convsmith.optimization import Optimization, Prediction
from convsmith.portrait import portrait
from convsmith.report import measures, wording
from convsmith.report.as_page.changes import changes
from convsmith.report.as_page.portrait import SCRIPTS, STYLES
from convsmith.report.as_page.portrait import content as portrait_content
from convsmith.report.as_page.sweep import sweep_section
from convsmith.report.drawings.pictures import amplification, comparison
from convsmith.report.drawings.png import picture_uri
from convsmith.report.drawings.shapes import drawing
from convsmith.report.pages import (
    Bar,
    Card,
    Cell,
    Heading,
    Line,
    file_name,
    page,
    sentence,
    sizes,
    typeset,
)
from convsmith.report.rendering import html
from convsmith.runtime.timing import Timing

__all__ = ["content"]

SHOWN_RUNS = 200
"""How many runs are drawn one by one."""

_KINDS = {True: "good", False: "bad", None: ""}


@html.register
def _(result: Optimization) -> str:
    """Renders the page."""
    packages = ("onnxruntime",) if result.timings else ()
    return page(
        "optimization.html", content(result), packages=packages, scripts=SCRIPTS, styles=STYLES
    )


def content(result: Optimization) -> Mapping[str, Any]:
    """What the page shows."""
    found = result.verification
    plan = result.rewriting.plan
    factor = amplification(result.pictures)
    images = f"{found.images} image{'s' if found.images != 1 else ''}"
    return {
        "name": file_name(result.source),
        "source": result.source,
        "summary": typeset(measures.headline(result)),
        "inputs": sizes(result.before.inputs),
        "budget": measures.budget(plan),
        "cards": _cards(result),
        "notes": tuple(map(sentence, result.notes)),
        "pictures": [comparison(picture, factor) for picture in result.pictures],
        "changes": changes(measures.layers(plan, found.layers), plan, result.before),
        "advice": measures.advice(plan),
        "verified_on": f"{images} ({found.data})" if found.data else images,
        "sweep": None
        if result.sweep is None
        else sweep_section(result.sweep, next(iter(plan.budget.values()), None)),
        "losses": _losses(result),
        "field_kept": found.field_kept,
        "fields": _fields(result),
        "times": _times(result.timings),
        "axis": f"{_axis(result.timings):.3g}",
        "timing": typeset(measures.timing_sentence(result)),
        "measure_columns": (
            Heading(heading="quantity"),
            Heading(heading="before", numeric=True),
            Heading(heading="after", numeric=True),
            Heading(heading="change", numeric=True),
        ),
        "measures": _measures(result),
        "calibration": f"{result.calibration_images} image"
        f"{'s' if result.calibration_images != 1 else ''}",
        "skipped": result.skipped,
        "proof": typeset(measures.proof_sentence(result)),
        "files": result.files,
        "command": shlex.join(result.command),
        "digests": tuple(result.digests.items()),
        "net": portrait_content(
            portrait(
                result.rewriting.net,
                before=result.before,
                plan=plan,
                picture=result.photograph,
            )
        ),
        "predictions": [_prediction(each) for each in result.predictions],
    }


def _cards(result: Optimization) -> list[Card]:
    """The few numbers that matter."""
    rows = {row.name: row for row in measures.measures(result)}
    gained = "" if result.speedup is None else measures.speed(result.speedup)
    one, two = result.before.total, result.after.total
    cards = []
    if gained:
        value, _, faster = gained.partition(" ")
        before, after = (measures.milliseconds(t.median) for t in result.timings.values())
        kind = _KINDS[result.speedup is not None and result.speedup > 1]
        cards.append(
            Card(
                value=typeset(value) if faster in ("faster", "slower") else "1×",
                label=faster if faster in ("faster", "slower") else gained,
                detail=f"{before} → {after} ms, {result.timings['before'].engine}",
                kind=kind,
            )
        )
    for name, label, pair, unit in (
        ("multiply-accumulates", "multiply-accumulates", (one.macs, two.macs), wording.short),
        ("weights", "weights", (one.weight_bytes, two.weight_bytes), wording.binary),
    ):
        cards.append(
            Card(
                value=typeset(rows[name].change),
                label=label,
                detail=f"{unit(pair[0])} → {unit(pair[1])}",
                kind="good" if pair[1] < pair[0] else "",
            )
        )
    metric = result.verification.metric
    if metric is not None:
        row = measures.metric(metric)
        cards.append(
            Card(
                value=typeset(row.change.removesuffix(" points")),
                label=f"points of {row.name}" if metric.unit == "%" else row.name,
                detail=f"{row.before} → {row.after}" + (f"; {row.remark}" if row.remark else ""),
            )
        )
    else:
        worst = max(result.verification.outputs, key=lambda output: output.relative)
        cards.append(
            Card(
                value=measures.percent(worst.relative),
                label="output error",
                detail="root of the squared error over the variance",
            )
        )
    if result.verification.fields:
        _, seen = next(iter(result.verification.fields.values()))
        kept = result.verification.field_kept
        shown = wording.field(seen) if seen.is_global else wording.pixels(seen)
        cards.append(
            Card(
                value=typeset(shown.removesuffix(" pixels")),
                label="pixels seen",
                detail="receptive field as before" if kept else "receptive field has changed",
                kind="" if kept else "bad",
            )
        )
    return cards


def _prediction(found: Prediction) -> Mapping[str, Any]:
    """What both networks take one image for."""
    return {
        "name": found.name,
        "wanted": found.wanted,
        "picture": None if found.picture is None else picture_uri(found.picture.pixels),
        "bars": [
            Bar(
                name=name,
                before=round(100 * before, 3),
                after=round(100 * after, 3),
                text=f"{100 * before:.1f} → {100 * after:.1f} %",
            )
            for name, before, after in zip(found.classes, found.before, found.after, strict=True)
        ],
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loss:
    name: str
    value: str
    remark: str = ""


def _losses(result: Optimization) -> list[_Loss]:
    losses = []
    metric = result.verification.metric
    if metric is not None:
        row = measures.metric(metric)
        losses.append(
            _Loss(
                name=row.name,
                value=f"{row.before} → {row.after} ({typeset(row.change)})",
                remark=row.remark,
            )
        )
    several = len(result.verification.outputs) > 1
    for output in result.verification.outputs:
        of = f" of {output.name}" if several else ""
        losses += [
            _Loss(
                name=f"relative error{of}",
                value=measures.percent(output.relative),
                remark="root of the squared error over the variance",
            ),
            _Loss(name=f"largest difference{of}", value=f"{output.largest:.3g}"),
        ]
        if output.agreement is not None:
            losses.append(
                _Loss(name=f"same first choice{of}", value=f"{100 * output.agreement:.1f} %")
            )
        if output.divergence is not None:
            losses.append(
                _Loss(
                    name=f"divergence{of}",
                    value=f"{output.divergence:.2g} nats",
                    remark="Kullback-Leibler, of the predictions",
                )
            )
    return losses


def _fields(result: Optimization) -> list[Mapping[str, Any]]:
    shape = next(iter(result.before.inputs.values()))
    image = result.pictures[0].given if result.pictures else None
    return [
        {
            "name": name,
            "before": typeset(wording.pixels(before)),
            "after": typeset(wording.pixels(after)),
            "drawing": drawing(after, shape, before=before, image=image),
        }
        for name, (before, after) in result.verification.fields.items()
    ]


def _axis(timings: Mapping[str, Timing]) -> float:
    """Where the axis of time ends: beyond nearly every run, but not far from most."""
    quartiles = [np.quantile(t.samples, (0.75, 0.95)) for t in timings.values()]
    return max((float(min(1.05 * q[1], 2 * q[0])) for q in quartiles), default=1.0)


def _times(timings: Mapping[str, Timing]) -> list[Mapping[str, Any]]:
    axis = _axis(timings)

    def at(value: float) -> float:
        return round(min(100 * value / axis, 100), 3)

    rows: list[Mapping[str, Any]] = []
    for name, timing in timings.items():
        low, first, middle, third, high = np.quantile(timing.samples, (0.05, 0.25, 0.5, 0.75, 0.95))
        rows.append(
            {
                "name": {"before": "original", "after": "rewritten"}.get(name, name),
                "kind": "before" if name == "before" else "after",
                "ticks": [at(sample) for sample in timing.samples[:SHOWN_RUNS]],
                "low": at(low),
                "first": at(first),
                "median": at(middle),
                "third": at(third),
                "high": at(high),
                "text": f"{middle:.3g} ms ({first:.3g} – {third:.3g})",
            }
        )
    return rows


def _measures(result: Optimization) -> list[Line]:
    return [
        Line(
            cells=(
                Cell(text=row.name),
                Cell(text=row.before, kind="number"),
                Cell(text=row.after, kind="number"),
                Cell(text=typeset(row.change), kind=f"number {_KINDS[row.better]}".rstrip()),
            )
        )
        for row in measures.measures(result)
    ]
