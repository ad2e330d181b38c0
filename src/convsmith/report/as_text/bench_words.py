"""What the forms of a bench say alike: numbers, names, sentences."""

from __future__ import annotations

from convsmith.report import wording
from convsmith.runtime.bench_results import Bench, BenchLayer, BenchRow, BenchTotal

__all__ = [
    "heading",
    "layer_heading",
    "machine",
    "milliseconds",
    "remarks",
    "said",
    "share",
    "speed",
    "spread",
    "summary",
    "total",
]


def heading(result: Bench) -> str:
    """The name of what was timed."""
    return " ".join(result.source.split())


def machine(result: Bench) -> str:
    """Where it was timed."""
    m = result.machine
    threads = f"{m.threads} thread{'s' if m.threads != 1 else ''} of {m.cores}"
    turns = "one turn" if result.rounds == 1 else f"medians of {result.rounds} turns"
    time = "; processor time" if result.clock == "processor" else ""
    return (
        f"{m.cpu}, {m.lanes} lanes, {threads}, measured peak {m.peak_gflops:.0f} GFLOP/s;"
        f" {result.layout}; {turns}, everybody in every round{time}"
    )


def layer_heading(layer: BenchLayer) -> str:
    """Its names, what it computes, and how much."""
    times = f" x{layer.count}" if layer.count > 1 else ""
    name = "" if layer.name == str(layer.spec) else f"{layer.name}{times}: "
    return f"{name}{layer.spec} ({2e-9 * layer.spec.macs:.3g} GFLOP)"


def milliseconds(value: float | None) -> str:
    """Three digits.

    >>> milliseconds(0.01234), milliseconds(12.34), milliseconds(1234.5), milliseconds(None)
    ('0.0123', '12.3', '1,234', '')
    """
    if value is None:
        return ""
    if value >= 100:
        return f"{value:,.0f}"
    digits = 1 if value >= 9.995 else 2 if value >= 0.9995 else 3 if value >= 0.09995 else 4
    return f"{value:.{digits}f}"


def spread(row: BenchRow) -> str:
    """The interquartile range in percent of the median."""
    if row.milliseconds is None or row.spread is None:
        return ""
    return f"{100 * row.spread / max(row.milliseconds, 1e-9):.0f} %"


def share(value: float | None) -> str:
    """A share of the peak, in percent."""
    return "" if value is None else f"{100 * value:.0f} %"


def speed(ratio: float | None) -> str:
    """How many times as long as ours.

    >>> speed(2.0), speed(None)
    ('2.00x', '')
    """
    return "" if ratio is None else f"{ratio:.2f}x"


def said(row: BenchRow) -> str:
    """The name of a row, marked if it is the choice."""
    return f"* {row.name}" if row.chosen else f"  {row.name}"


def total(result: BenchTotal) -> str:
    """A sum beside ours."""
    some = f" (over the {result.layers} of {result.of} layers that it takes)"
    part = "" if result.layers == result.of else some
    return f"{result.name} {milliseconds(result.milliseconds)} ms, {speed(result.ratio)} ours{part}"


def summary(result: Bench) -> list[str]:
    """The sentences of the whole."""
    lines = []
    many = len(result.layers) > 1
    if many:
        layers = sum(layer.count for layer in result.layers)
        lines.append(
            f"all {layers} convolutions ({len(result.layers)} distinct):"
            f" ours {milliseconds(result.milliseconds)} ms"
        )
        lines += [total(each) for each in result.totals]
    mean, worst = result.geometric_mean, result.worst
    if mean is not None and worst is not None:
        if many:
            lines.append(
                f"times of the fastest peer over ours: geometric mean {mean:.2f},"
                f" worst {worst.ratio or 0:.2f} ({worst.name})"
            )
        else:
            lines.append(f"time of the fastest peer over ours: {mean:.2f}")
        if result.fastest_geometric_mean is not None:
            lines.append(f"the same of the fastest turns: {result.fastest_geometric_mean:.2f}")
        if result.cold_geometric_mean is not None:
            lines.append(f"the same with cold caches: {result.cold_geometric_mean:.2f}")
    return lines


def remarks(result: Bench) -> list[str]:
    """What was not timed, and why."""
    lines = []
    reasons: dict[tuple[str, str], list[str]] = {}
    for layer in result.layers:
        for row in layer.rows:
            if row.reason:
                reasons.setdefault((row.name, row.reason), []).append(layer.name)
    for (name, reason), layers in reasons.items():
        more = f" and {len(layers) - 3} more" if len(layers) > 3 else ""
        where = f" at {', '.join(layers[:3])}{more}" if len(result.layers) > 1 else ""
        lines.append(f"{name}{where}: {reason}")
    if result.missing:
        lines.append(
            f"not installed: {', '.join(result.missing)} (pip install 'convsmith[torch,bench]')"
        )
    for name, reason in result.left_out[:10]:
        lines.append(f"{name} left out: {reason}")
    if len(result.left_out) > 10:
        lines.append(f"and {len(result.left_out) - 10} more layers left out")
    versions = ", ".join(f"{name} {version}" for name, version in result.machine.versions.items())
    lines.append(f"versions: {versions}")
    return [wording.plain(line) for line in lines]
