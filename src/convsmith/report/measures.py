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
from convsmith.rewrite.measuring import Timings, speedups
from convsmith.rewrite.plan import Choice
from convsmith.runtime.timing import Timing

__all__ = [
    "LayerChange",
    "Measure",
    "advice",
    "asked",
    "brief",
    "budget",
    "change",
    "costs",
    "field_sentence",
    "headline",
    "layers",
    "loss_sentences",
    "measures",
    "memory",
    "metric",
    "metric_name",
    "metric_value",
    "milliseconds",
    "proof_sentence",
    "speed",
    "times",
    "timing_sentence",
]

KEEP, REFIT = "keep", "refit"
METRIC_NAMES = {"psnr": "PSNR"}
CURRENCIES = {
    "macs": ("multiply-accumulates", "multiply-accumulates"),
    "params": ("parameters", "parameters"),
    "latency": ("time", "milliseconds"),
}
"""What a budget is a share of, and a number of."""


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
    wanted = [" and ".join(asked(currency, amount) for currency, amount in plan.budget.items())]
    if plan.merges:
        count = len(plan.merges)
        wanted.append(f"after {count} exact merge{'s' if count > 1 else ''}")
    return ", ".join(filter(None, wanted))


def asked(currency: str, amount: float) -> str:
    """One budget.

    >>> asked("latency", 0.5), asked("latency", 3), asked("max_loss", 0.01)
    ('at most 50 % of the time', 'at most 3 milliseconds', 'an output loss of at most 0.01')
    """
    if currency == "max_loss":
        return f"an output loss of at most {amount:.4g}"
    share, number = CURRENCIES.get(currency, (currency, currency))
    if amount <= 1:
        return f"at most {100 * amount:.4g} % of the {share}"
    return f"at most {amount:,.10g} {number}"


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
    unit = "points" if found.unit == "%" else found.unit
    return Measure(
        name=metric_name(found),
        before=metric_value(found, found.before),
        after=metric_value(found, found.after),
        change=f"{_digits(found, found.change, '+')} {unit}".rstrip(),
        better=found.kept,
        remark=""
        if found.reference is None
        else f"the input itself: {metric_value(found, found.reference)}",
    )


def metric_name(found: Metric) -> str:
    """What a task metric is called."""
    return METRIC_NAMES.get(found.name, wording.plain(found.name))


def metric_value(found: Metric, value: float) -> str:
    """A value of a task metric, with its unit.

    >>> metric_value(Metric(name="f1", unit="", before=0, after=0, reference=None), 0.91234)
    '0.9123'
    """
    return f"{_digits(found, value)} {wording.plain(found.unit)}".rstrip()


def _digits(found: Metric, value: float, sign: str = "") -> str:
    return f"{value:{sign}.2f}" if found.unit in ("%", "dB") else f"{value:{sign}.4g}"


def memory(found: Verification) -> tuple[Measure, ...]:
    """Bytes of weights and of activations before and after."""
    if found.memory is None:
        return ()
    one, two = found.memory
    return tuple(
        Measure(
            name=name,
            before=wording.binary(before),
            after=wording.binary(after),
            change=change(before, after),
            better=None if before == after else after < before,
        )
        for name, before, after in (
            ("weights", one.weights, two.weights),
            ("peak of activations", one.activations, two.activations),
        )
    )


def times(timings: Timings) -> tuple[Measure, ...]:
    """What was measured in every runtime."""
    gained = speedups(timings)
    return tuple(_time(both, gained[name]) for name, both in timings.items())


def _time(both: Mapping[str, Timing], gained: float) -> Measure:
    return Measure(
        name=f"ms in {both['before'].engine}",
        before=milliseconds(both["before"].median),
        after=milliseconds(both["after"].median),
        change=speed(gained),
        better=gained > 1,
    )


def speed(speedup: float) -> str:
    """What measured times say, as a person would.

    >>> speed(1.894), speed(1.002), speed(0.5), speed(25.04)
    ('1.89x faster', 'as fast as before', '2.00x slower', '25.0x faster')
    """
    factor = max(speedup, 1 / speedup)
    if factor < 1.015:  # no measurement is that good
        return "as fast as before"
    shown = f"{factor:.2f}" if factor < 9.995 else f"{factor:.1f}"
    return f"{shown}x {'faster' if speedup > 1 else 'slower'}"


def measures(result: Optimization) -> tuple[Measure, ...]:
    """Everything that was counted and measured of an optimization."""
    rows = [*costs(result.before.total, result.after.total)]
    rows += [_time(both, gained) for both, gained in _gains(result)]
    if result.verification.metric is not None:
        rows.append(metric(result.verification.metric))
    return tuple(rows)


def _gains(result: Optimization) -> list[tuple[Mapping[str, Timing], float]]:
    """Everything that was timed and what was gained, the runtime that decides first."""
    if result.speedup is None:
        return []
    gained = result.rewriting.speedups
    others = [
        (both, gained[name])
        for name, both in result.rewriting.timings.items()
        if both["before"] is not result.timings["before"]
    ]
    return [(result.timings, result.speedup), *others]


def milliseconds(value: float) -> str:
    """Three digits.

    >>> milliseconds(0.14567), milliseconds(25.678), milliseconds(12345.6)
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
    gains = _gains(result)
    for both, gained in gains:
        where = f" in {both['before'].engine}" if len(gains) > 1 else ""
        parts.append(f"{speed(gained)}{where}")
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
    engines = [both["before"] for both, _ in _gains(result)]
    return (
        f"{', '.join(f'{one.engine} {one.version}' for one in engines)}, {threads},"
        f" input {sizes}; medians of {taken.runs} rounds"
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
        divergence = (
            "" if output.divergence is None else f", divergence {output.divergence:.2g} nats"
        )
        sentences.append(
            f"{wording.plain(output.name)} moved by {percent(output.relative)} of its spread"
            f" (at most {output.largest:.3g}){agreement}{divergence}"
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
        form: The name of the form, and which way it is done.
        text: What stands for it, in the notation.
        before: Its multiply-accumulates.
        after: The same of what stands for it.
        fit: Relative error of the fit: root of the squared error over the variance.
        error: The same in the rewritten network, on the images it was verified with.
        widths: The free sizes of the form.
        times: Milliseconds before and after; ``None`` where time was not asked for.
        refit: Whether it is the same layer with new weights.
    """

    name: str
    kept: bool
    form: str
    text: str
    before: int
    after: int
    fit: float
    error: float | None
    widths: tuple[int, ...] = ()
    times: tuple[float, float] | None = None
    refit: bool = False

    @property
    def shown(self) -> str:
        """What stands for it, in words."""
        prefix = "kept: " if self.kept else "refitted: " if self.refit else ""
        return f"{prefix}{self.text}"

    @property
    def ratio(self) -> str:
        """How many times fewer multiply-accumulates."""
        if self.kept or self.refit or not self.after:
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
            form=f"{choice.form} {choice.variant}".rstrip(),
            text=choice.text,
            before=choice.macs_before,
            after=choice.macs_after,
            fit=choice.error**0.5,
            error=None if kept else found.get(choice.layer),
            widths=choice.widths,
            times=choice.milliseconds if any(choice.milliseconds) else None,
            refit=choice.form == REFIT,
        )

    return tuple(map(line, plan.choices))


def advice(plan: Plan) -> list[str]:
    """What to mind in a plan, a sentence each."""
    return [
        f"{wording.plain(one.layer)}: {wording.plain(one.fact)}; {wording.plain(one.remedy)}"
        for one in plan.advice
    ]


def brief(text: str) -> str:
    """A chain of convolutions without padding and bias, where there is no room for them.

    >>> brief("conv 40 7x1 p3x0 nobias > conv 32 1x7 p0x3")
    'conv 40 7x1 > conv 32 1x7'
    """
    return re.sub(r" (p[\d,x]\S*|psame\S*|nobias)(?= |$)", "", text)
