"""Curves of the ratio of MACs against the kernel size, as geometry for an SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from convsmith.analysis.comparing import FORMS, KERNELS, Comparison, Curve
from convsmith.report.as_text.comparison_words import shown_curves

__all__ = ["Chart", "Line", "Tick", "chart"]

_WIDTH, _HEIGHT = 760, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 205, 12, 36
_LABEL = 17
"""The least distance between two labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A line of the grid and its label."""

    at: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One curve: its points, its colour and dashes, and where its label stands."""

    name: str
    points: str
    dots: tuple[tuple[float, float, str], ...]
    color: str
    dashes: str
    end: float
    label: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A picture of ``width`` x ``height``; ``here``: the kernel of the convolution itself."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    lines: tuple[Line, ...]
    here: float | None


def chart(result: Comparison) -> Chart | None:
    """Draws the plain forms; combinations would only crowd them. ``None``: nothing to draw."""
    basic = {form.name for form in FORMS if form.basic}
    curves = [curve for curve in shown_curves(result) if curve.form in basic]
    if not curves:
        return None
    ratios = [ratio for curve in curves for _, ratio in curve.points]
    least = math.floor(math.log10(max(min(ratios), 1e-6)) * 2) / 2  # half a decade below
    most = max(math.log10(max(ratios)), 0.0) + 0.04

    def x(size: int) -> float:
        share = (size - KERNELS[0]) / (KERNELS[-1] - KERNELS[0])
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(ratio: float) -> float:
        share = (math.log10(max(ratio, 1e-6)) - least) / max(most - least, 1e-9)
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)

    ends = [y(curve.points[-1][1]) for curve in curves]
    labels = _apart(ends, _TOP + 4, _HEIGHT - 6)
    steps = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
    kernel = set(result.kernel) - {1}
    here = next(iter(kernel)) if len(kernel) == 1 else 0
    return Chart(
        width=_WIDTH,
        height=_HEIGHT,
        left=_LEFT,
        right=_WIDTH - _RIGHT,
        top=_TOP,
        bottom=_HEIGHT - _BOTTOM,
        across=tuple(Tick(at=x(size), text=str(size)) for size in KERNELS),
        up=tuple(
            Tick(at=y(step), text=f"{100 * step:g} %")
            for step in steps
            if least <= math.log10(step) <= most
        ),
        lines=tuple(
            _line(
                curve,
                index,
                x=[x(s) for s, _ in curve.points],
                label=labels[index],
                y=[y(r) for _, r in curve.points],
            )
            for index, curve in enumerate(curves)
        ),
        here=x(here) if here in KERNELS else None,
    )


def _line(
    curve: Curve, index: int, *, x: Sequence[float], y: Sequence[float], label: float
) -> Line:
    # Hues by the golden angle; neighbours also differ in their dashes.
    hue = round(174 + 137.5 * index) % 360
    dots = tuple(
        (across, up, f"{curve.form}, {size} x {size}: {100 * ratio:.3g} %")
        for across, up, (size, ratio) in zip(x, y, curve.points, strict=True)
    )
    return Line(
        name=curve.form,
        points=" ".join(f"{across},{up}" for across, up in zip(x, y, strict=True)),
        dots=dots,
        color=f"hsl({hue} 55% 48%)",
        dashes=("", "7 3", "2 3")[index % 3],
        end=y[-1],
        label=label,
    )


def _apart(wanted: Sequence[float], low: float, high: float) -> list[float]:
    """Moves labels away from each other, as little as a pass down and a pass up can."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed = [0.0] * len(wanted)
    before = low - _LABEL
    for index in order:
        before = placed[index] = max(wanted[index], before + _LABEL)
    after = high + _LABEL
    for index in reversed(order):
        after = placed[index] = min(placed[index], after - _LABEL)
    return [round(place, 1) for place in placed]
