"""Layers by how much they compute with what they move: the picture that is called a roofline.

Williams, Waterman & Patterson, "Roofline" (2009). Without times, how much there is to compute
stands on the axis upwards; with them, how fast it was, under the measured peak of the machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from convsmith.analysis import Row
from convsmith.report import wording
from convsmith.runtime.bench_results import Bench

__all__ = ["Dot", "Roofline", "roofline"]

_WIDTH, _HEIGHT = 640.0, 320.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 16.0, 16.0, 44.0
_MOST = 600
"""Of more layers, those with most operations are drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """One layer; ``kind`` is that of its operator."""

    x: float
    y: float
    kind: str
    name: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """Dots, ticks of both (logarithmic) axes, and the measured peak, if there is one."""

    width: float
    height: float
    left: float
    bottom: float
    dots: tuple[Dot, ...]
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]
    up_title: str
    peak: float | None
    peak_text: str
    label: str
    left_out: int


def roofline(rows: Sequence[Row], bench: Bench | None = None) -> Roofline | None:
    """Draws the layers; ``None`` if fewer than two of them compute and move anything."""
    gflops: dict[str, float] = {}
    for layer in bench.layers if bench else ():
        speed = layer.chosen.gflops
        if speed:
            gflops.update(dict.fromkeys(layer.names, speed))
    found = [row for row in rows if row.arithmetic_intensity]
    if gflops:
        found = [row for row in found if row.name in gflops]
    found.sort(key=lambda row: -row.flops)
    if len(found) < 2:
        return None
    drawn = found[:_MOST]
    peak = bench.machine.peak_gflops if bench and gflops else None
    heights = [gflops[row.name] if gflops else float(row.flops) for row in drawn]
    across = _decades([row.arithmetic_intensity or 1.0 for row in drawn])
    up = _decades([*heights, *((peak,) if peak else ())])

    def x(value: float) -> float:
        return _along(value, across, _LEFT, _WIDTH - _RIGHT)

    def y(value: float) -> float:
        return _along(value, up, _HEIGHT - _BOTTOM, _TOP)

    dots = []
    for row, height in zip(drawn, heights, strict=True):
        intensity = row.arithmetic_intensity or 1.0
        fast = f", {height:.0f} GFLOP/s" if gflops else ""
        dots.append(
            Dot(
                x=x(intensity),
                y=y(height),
                kind=_kind(row),
                name=row.name,
                label=f"{row.name}: {wording.intensity(intensity)} operations per byte,"
                f" {wording.short(row.flops)} operations{fast}",
            )
        )
    return Roofline(
        width=_WIDTH,
        height=_HEIGHT,
        left=_LEFT,
        bottom=_HEIGHT - _BOTTOM,
        dots=tuple(dots),
        across=tuple((x(tick), f"{tick:g}") for tick in _powers(across)),
        up=tuple(
            (y(tick), f"{tick:g}" if gflops else wording.short(int(tick)).removesuffix(".00"))
            for tick in _powers(up)
        ),
        up_title="GFLOP/s, measured" if gflops else "operations",
        peak=None if peak is None else y(peak),
        peak_text="" if peak is None else f"measured peak {peak:.0f} GFLOP/s",
        label=f"Operations per byte of {len(dots)} layers, against "
        + ("the speed that was measured" if gflops else "their operations"),
        left_out=len(found) - len(drawn),
    )


def _kind(row: Row) -> str:
    if row.op in ("Conv", "DeformConv"):
        return "conv"
    return "matmul" if row.op in ("Linear", "MatMul", "Einsum") else "other"


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low, high = math.floor(math.log10(0.9 * min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _powers(ends: tuple[int, int]) -> list[float]:
    step = max(1, -(-(ends[1] - ends[0]) // 8))
    return [10.0**power for power in range(ends[0], ends[1] + 1, step)]


def _along(value: float, ends: tuple[int, int], start: float, end: float) -> float:
    share = (math.log10(value) - ends[0]) / (ends[1] - ends[0])
    return round(start + (end - start) * share, 1)
