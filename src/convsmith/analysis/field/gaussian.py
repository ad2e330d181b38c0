"""The effective receptive field that theory expects: a Gaussian.

Luo, Li, Urtasun & Zemel, "Understanding the effective receptive field in deep convolutional
networks" (2016), section 2: with taps of equal weight on average, the contributions of the pixels
to an output are what repeated convolution of the windows gives, and by the central limit theorem
that is close to a Gaussian. Its variance is the sum of those of the windows::

    sigma^2 = sum over layers of  jump^2 * dilation^2 * (kernel^2 - 1) / 12
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from convsmith.analysis.field.moves import Move, Moves, Path
from convsmith.analysis.field.propagation import row_of
from convsmith.analysis.field.taps import LONGEST_PERIOD, Taps
from convsmith.graph import Graph, Shape
from convsmith.graph.operators import Concat

__all__ = ["Gaussian", "gaussians"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaussian:
    """How the contributions of the pixels to one output spread along one image axis.

    Attributes:
        centre: Where their mean lies for output 0, in pixels.
        variance: In squared pixels; infinite where no local path is left.
    """

    centre: float
    variance: float

    @property
    def sigma(self) -> float:
        """The standard deviation, in pixels."""
        return math.sqrt(self.variance)

    @property
    def size(self) -> float:
        """How many pixels lie within two standard deviations: ``4 sigma``."""
        return 4 * self.sigma


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spread:
    """A Gaussian that follows an axis of a value; it moves by ``jump`` pixels a position."""

    axis: int
    jump: float
    centre: float
    variance: float


_Spreads = tuple["_Spread | None", ...]


def gaussians(graph: Graph, input: str) -> dict[str, tuple[Gaussian, ...]]:  # noqa: A002
    """Returns, for every value that depends on an input, its expected effective field.

    Branches that meet count equally when they are added, and by their channels when they are
    concatenated; what sees everything through a gate is left out.

    >>> from convsmith.graph import parse
    >>> rows, columns = gaussians(parse("1@64 > ( conv 1 3 p1 ) x6"), "x")["conv6"]
    >>> rows.centre, round(rows.sigma, 9)
    (0.0, 2.0)
    """
    rank = len(graph.shape(input)) - 2
    start = tuple(_Spread(axis=a + 2, jump=1.0, centre=0.0, variance=0.0) for a in range(rank))
    known: dict[str, _Spreads] = {input: start}
    for node in graph.nodes:
        for index, made in enumerate(node.outputs):
            parts = [used for used in node.inputs if used in known]
            if not parts:
                continue
            row = row_of(graph, node, index)
            if row is None:
                known[made] = (None,) * rank
                continue
            moved = [
                (_moved(known[used], path, graph.shape(made)), graph.shape(used))
                for used, path in zip(node.inputs, row, strict=True)
                if used in known
            ]
            weights = [x[1] if isinstance(node.op, Concat) and len(x) > 1 else 1 for _, x in moved]
            known[made] = tuple(
                _mixed([spreads[axis] for spreads, _ in moved], weights) for axis in range(rank)
            )
    unbounded = Gaussian(centre=math.nan, variance=math.inf)
    return {
        value: tuple(
            Gaussian(centre=s.centre, variance=max(s.variance, 0.0)) if s else unbounded
            for s in spreads
        )
        for value, spreads in known.items()
    }


def _moved(spreads: _Spreads, path: Moves | Path, output: Shape) -> _Spreads:
    if isinstance(path, Path):
        for step, made in path.steps:
            spreads = _moved(spreads, step, made)
        return spreads
    return tuple(
        None if spread is None else _through(spread, path[spread.axis], output)
        for spread in spreads
    )


def _through(spread: _Spread, move: Move, output: Shape) -> _Spread | None:
    if move.to is None:
        return None
    if move.how in ("keep", "gate"):
        return spread if move.to == spread.axis else replace(spread, axis=move.to)
    if move.how not in ("look", "anywhere") or move.taps is None or move.taps.step == 0:
        return None
    if len(move.taps.phases) > LONGEST_PERIOD:
        return None
    mean, variance, ratio = _moments(move.taps)
    for axis, step in move.inner:
        mean += step * (output[axis] - 1) / 2
        variance += step**2 * (output[axis] ** 2 - 1) / 12
    return _Spread(
        axis=move.to,
        jump=spread.jump * ratio,
        centre=spread.centre + spread.jump * mean,
        variance=spread.variance + spread.jump**2 * variance,
    )


def _moments(taps: Taps) -> tuple[float, float, float]:
    """Mean and variance of the taps around the line ``ratio * output``, and the ratio."""
    period = len(taps.phases)
    ratio = taps.step / period
    if period == 1 and isinstance(taps.phases[0], range) and len(taps.phases[0]):
        window = taps.phases[0]
        spread = window.step**2 * (len(window) ** 2 - 1) / 12
        return (window[0] + window[-1]) / 2, spread, ratio
    offsets = [tap - ratio * phase for phase in range(period) for tap in taps.phases[phase]]
    if not offsets:
        return 0.0, 0.0, ratio
    mean = math.fsum(offsets) / len(offsets)
    return mean, math.fsum((offset - mean) ** 2 for offset in offsets) / len(offsets), ratio


def _mixed(spreads: Sequence[_Spread | None], weights: Sequence[int]) -> _Spread | None:
    """What is added up from several branches: a mixture, by its first two moments."""
    known = [(s, w) for s, w in zip(spreads, weights, strict=True) if s is not None]
    if not known:
        return None
    first = known[0][0]
    if len(known) == 1:
        return first
    total = sum(weight for _, weight in known)
    centre = math.fsum(s.centre * w for s, w in known) / total
    square = math.fsum((s.variance + (s.centre - centre) ** 2) * w for s, w in known) / total
    return replace(first, centre=centre, variance=square)
