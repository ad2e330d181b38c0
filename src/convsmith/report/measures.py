"""What changed, in words and numbers: the same ones in every form of a report."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from convsmith.analysis import Total
from convsmith.optimization import Optimization
from convsmith.report import wording
from convsmith.report.wording import change
from convsmith.rewrite import Metric, Plan, Verification
from convsmith.rewrite.plan import Choice

__all__ = [
    "LayerChange",
    "Measure",
    "brief",
    "budget",
    "change",
    "costs",
    "field_sentence",
    "headline",
    "layers",
    "loss_sentences",
    "measures",
    "metric",
    "proof_sentence",
    "speed",
    "timing_sentence",
]

KEEP = "keep"
METRIC_NAMES = {"psnr": "PSNR", "accuracy": "accuracy"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One quantity before and after.

    Attributes:
        name: What it is.
        before: Its value before, with the unit where it has one.
        after: The same after.
        change: What became of it.
        better: Whether that is what one wants; ``None``: neither way.
        remark: What else belongs to it.
    """

    name: str
    before: str
    after: str
    change: str
    better: bool | None
    remark: str = ""


def budget(plan: Plan) -> str:
    """What was asked for.

    >>> budget(Plan(source="", budget={"macs": 0.5}, choices=()))
    'at most 50 % of the multiply-accumulates'
    """
    names = {"macs": "multiply-accumulates", "params": "parameters"}
    asked = []
    for currency, amount in plan.budget.items():
        name = names.get(currency, currency)
        if amount <= 1:
            asked.append(f"at most {100 * amount:.4g} % of the {name}")
        else:
            asked.append(f"at most {amount:,.10g} {name}")
    return " and ".join(asked)


def costs(before: Total, after: Total) -> tuple[Measure, ...]:
    """Multiply-accumulates, parameters, bytes."""

    def row(name: str, one: int, two: int, text: str, other: str) -> Measure:
        better = None if one == two else two < one
        return Measure(name=name, before=text, after=other, change=change(one, two), better=better)

    count, size = wording.exact, wording.binary
    peaks = before.peak_activation_bytes, after.peak_activation_bytes
    return (
        row("multiply-accumulates", before.macs, after.macs, count(before.macs), count(after.macs)),
        row("parameters", before.params, after.params, count(before.params), count(after.params)),
        row(
            "weights",
            before.weight_bytes,
            after.weight_bytes,
            size(before.weight_bytes),
            size(after.weight_bytes),
        ),
        row("peak of activations", *peaks, size(peaks[0]), size(peaks[1])),
    )


def metric(found: Metric) -> Measure:
    """The task metric."""
    return Measure(
        name=METRIC_NAMES[found.name],
        before=f"{found.before:.2f} {found.unit}",
        after=f"{found.after:.2f} {found.unit}",
        change=f"{found.change:+.2f} {'points' if found.unit == '%' else found.unit}",
        better=found.change >= 0,
        remark=""
        if found.reference is None
        else f"the input itself: {found.reference:.2f} {found.unit}",
    )


def speed(speedup: float) -> str:
    """What measured times say, as a person would.

    >>> speed(1.894), speed(1.002), speed(0.5), speed(25.04)
    ('1.89x faster', 'as fast as before', '2.00x slower', '25.0x faster')
    """
    factor = max(speedup, 1 / speedup)
    shown = f"{factor:.2f}" if factor < 9.995 else f"{factor:.1f}"
    if shown == "1.00":
        return "as fast as before"
    return f"{shown}x {'faster' if speedup > 1 else 'slower'}"


def measures(result: Optimization) -> tuple[Measure, ...]:
    """Everything that was counted and measured of an optimization."""
    rows = list(costs(result.before.total, result.after.total))
    if result.speedup is not None:
        rows.append(
            Measure(
                name="milliseconds",
                before=_milliseconds(result.timings["before"].median),
                after=_milliseconds(result.timings["after"].median),
                change=speed(result.speedup),
                better=bool(result.faster),
            )
        )
    if result.verification.metric is not None:
        rows.append(metric(result.verification.metric))
    return tuple(rows)


def _milliseconds(value: float) -> str:
    """Three digits.

    >>> _milliseconds(0.14567), _milliseconds(25.678), _milliseconds(12345.6)
    ('0.146', '25.7', '12,346')
    """
    if value >= 99.95:
        return f"{value:,.0f}"
    return (
        f"{value:.1f}" if value >= 9.995 else f"{value:.2f}" if value >= 0.9995 else f"{value:.3g}"
    )


def headline(result: Optimization) -> str:
    """The outcome in one sentence."""
    one, two = result.before.total.macs, result.after.total.macs
    parts = [f"{100 * (1 - two / max(one, 1)):.1f} % fewer multiply-accumulates"]
    if result.speedup is not None:
        parts.append(speed(result.speedup))
    found = result.verification.metric
    if found is not None:
        row = metric(found)
        parts.append(f"{row.name} {row.before} -> {row.after} ({found.change:+.2f})")
    return ", ".join(parts)


def timing_sentence(result: Optimization) -> str:
    """How the time was taken; empty when it was not."""
    if result.speedup is None:
        return ""
    taken = result.timings["before"]
    sizes = ", ".join("x".join(map(str, shape)) for shape in taken.shapes.values())
    threads = f"{taken.threads} thread{'s' if taken.threads > 1 else ''}"
    return (
        f"{taken.engine} {taken.version}, {threads}, input {sizes}; medians of {taken.runs} rounds"
        " in which both networks took turns, and of the ratio in each round"
    )


def proof_sentence(result: Optimization) -> str:
    """What the written file computes; empty when it was not run."""
    if result.proof is None:
        return ""
    return (
        f"ONNX Runtime on the written file agrees with what was verified to"
        f" {result.proof.rewritten:.1e} of the largest output"
        f" (the original file: {result.proof.original:.1e})"
    )


def loss_sentences(found: Verification) -> list[str]:
    """How far every output moved."""
    sentences = []
    for output in found.outputs:
        agreement = (
            ""
            if output.agreement is None
            else f", same first choice for {100 * output.agreement:.1f} %"
        )
        sentences.append(
            f"{wording.plain(output.name)} moved by {percent(output.relative)} of its spread"
            f" (at most {output.largest:.3g}){agreement}"
        )
    return sentences


def percent(share: float) -> str:
    """A relative error.

    >>> percent(0.12345), percent(0.00012), percent(0.0)
    ('12.3 %', '0.012 %', '0.0 %')
    """
    scaled = 100 * share
    return f"{scaled:.1f} %" if scaled >= 0.95 or not scaled else f"{scaled:.2g} %"


def field_sentence(found: Verification) -> list[str]:
    """What every output sees, and whether it did before."""
    sentences = []
    for name, (before, after) in found.fields.items():
        was = "as before" if before == after else f"before: {wording.pixels(before)}"
        sentences.append(f"{wording.plain(name)} sees {wording.pixels(after)}, {was}")
    return sentences


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerChange:
    """What stands for a layer now.

    Attributes:
        name: The layer.
        kept: Whether it is what it was.
        form: The name of the form.
        rank: The width between the convolutions of the form.
        text: What stands for it, in the notation.
        before: Its multiply-accumulates.
        after: The same of what stands for it.
        fit: Relative error of the fit: root of the squared error over the variance.
        error: The same in the rewritten network, on the images it was verified with.
    """

    name: str
    kept: bool
    form: str
    rank: int
    text: str
    before: int
    after: int
    fit: float
    error: float | None

    @property
    def ratio(self) -> str:
        """How many times fewer multiply-accumulates."""
        if self.kept or not self.after:
            return ""
        return f"{self.before / self.after:.2f}x"


def layers(plan: Plan, found: Mapping[str, float]) -> tuple[LayerChange, ...]:
    """One line per layer of a plan.

    Args:
        plan: What was decided.
        found: Relative errors in the rewritten network, as a verification has them.
    """

    def line(choice: Choice) -> LayerChange:
        kept = choice.form == KEEP
        return LayerChange(
            name=choice.layer,
            kept=kept,
            form=choice.form,
            rank=choice.rank,
            text=choice.text,
            before=choice.macs_before,
            after=choice.macs_after,
            fit=choice.error**0.5,
            error=None if kept else found.get(choice.layer),
        )

    return tuple(map(line, plan.choices))


def brief(text: str) -> str:
    """A chain of convolutions without padding and bias, where there is no room for them.

    >>> brief("conv 40 7x1 p3x0 nobias > conv 32 1x7 p0x3")
    'conv 40 7x1 > conv 32 1x7'
    """
    return re.sub(r" (p[\d,x]\S*|psame\S*|nobias)(?= |$)", "", text)
