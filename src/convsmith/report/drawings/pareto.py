"""What can be had for what: points of cost and quality, and the frontier that none beats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Front", "Mark", "Point", "pareto"]

_WIDTH, _HEIGHT = 640.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 16.0, 14.0, 44.0

_MOST_TEXTS = 12
"""Of more points than that, words would lie over one another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One network that a rewrite could make.

    Attributes:
        name: What it is called, such as ``macs=0.5``.
        cost: What it takes: a share of the multiply-accumulates, or milliseconds.
        quality: What it is worth, or what it loses.
        kind: ``original``, ``chosen``, or nothing.
        detail: What else is worth saying.
        text: What stands beside it in the picture.
    """

    name: str
    cost: float
    quality: float
    kind: str = ""
    detail: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One point in the picture; ``best``: none is cheaper and at least as good."""

    x: float
    y: float
    kind: str
    best: bool
    label: str
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """A picture: marks, the steps of the frontier, and the axes with their ticks."""

    width: float
    height: float
    marks: tuple[Mark, ...]
    steps: str
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]
    across_title: str
    up_title: str
    left: float
    bottom: float
    label: str


def pareto(
    points: Sequence[Point], *, cost: str, quality: str, less_is_better: bool = False
) -> Front | None:
    """Draws points and their frontier; ``None`` if there are fewer than two.

    Args:
        points: In any order; those with a cost or quality that is not finite are left out.
        cost: The title of the axis of costs, with its unit.
        quality: That of the axis of qualities.
        less_is_better: Whether qualities are losses: then 0 is at the top.

    >>> front = pareto([Point(name="a", cost=1, quality=9), Point(name="b", cost=2, quality=8),
    ...                 Point(name="c", cost=3, quality=10)], cost="ms", quality="accuracy")
    >>> [mark.best for mark in front.marks]
    [True, False, True]
    """
    points = [p for p in points if math.isfinite(p.cost) and math.isfinite(p.quality)]
    if len(points) < 2:
        return None
    sign = -1.0 if less_is_better else 1.0
    across = _ticks(min(0.0, *(p.cost for p in points)), max(p.cost for p in points))
    worth = [sign * p.quality for p in points]
    up = _ticks(min(worth), max(worth))

    def x(value: float) -> float:
        span = (across[-1] - across[0]) or 1.0
        return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * (value - across[0]) / span, 1)

    def y(value: float) -> float:
        span = (up[-1] - up[0]) or 1.0
        return round(_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (value - up[0]) / span, 1)

    best = _frontier([p.cost for p in points], worth)
    steps: list[str] = []
    for place, index in enumerate(best):
        point = points[index]
        if place:
            steps.append(f"{x(point.cost):g},{y(worth[best[place - 1]]):g}")
        steps.append(f"{x(point.cost):g},{y(worth[index]):g}")
    return Front(
        width=_WIDTH,
        height=_HEIGHT,
        marks=tuple(
            Mark(
                x=x(point.cost),
                y=y(worth[index]),
                kind=point.kind,
                best=index in best,
                label=f"{point.name}: {cost} {point.cost:.4g}, {quality} {point.quality:.4g}"
                + (f"; {point.detail}" if point.detail else ""),
                text=point.text if len(points) <= _MOST_TEXTS else "",
            )
            for index, point in enumerate(points)
        ),
        steps=" ".join(steps),
        across=tuple((x(tick), f"{tick:g}") for tick in across),
        up=tuple((y(tick), f"{sign * tick + 0.0:g}") for tick in up),
        across_title=cost,
        up_title=quality,
        left=_LEFT,
        bottom=_HEIGHT - _BOTTOM,
        label=f"{quality} against {cost} of {len(points)} networks; {len(best)} of them are on the"
        " frontier",
    )


def _frontier(costs: Sequence[float], worth: Sequence[float]) -> list[int]:
    """The places of the points that none beats, cheapest first."""
    order = sorted(range(len(costs)), key=lambda i: (costs[i], -worth[i]))
    best: list[int] = []
    for index in order:
        if not best or worth[index] > worth[best[-1]]:
            best.append(index)
    return best


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers that hold a range between them: steps of 1, 2 or 5.

    >>> _ticks(0, 1), _ticks(24.13, 24.4)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [24.1, 24.15, 24.2, 24.25, 24.3, 24.35, 24.4])
    """
    span = (high - low) or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / 4))
    step = next(step * factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 6)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{step * i:.12g}") for i in range(first, last + 1)]
