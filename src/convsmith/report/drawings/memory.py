"""The memory of a network, layer by layer, as a picture."""

from __future__ import annotations

from dataclasses import dataclass

from convsmith.analysis import Memory
from convsmith.report import wording

__all__ = ["Curve", "memory_curve"]

_HEIGHT = 100
_MOST_STEPS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Steps of one unit of width each, in a box that is ``height`` high.

    Attributes:
        points: The outline of the area below the steps, for an SVG polygon.
        width: How many steps there are.
        height: The height of the peak.
        peak: Where the peak is, in steps.
        label: What the picture shows, in words.
    """

    points: str
    width: int
    height: int
    peak: float
    label: str


def memory_curve(memory: Memory) -> Curve | None:
    """Draws the bytes that are alive while each layer runs; ``None`` if there is nothing to see.

    Of very many layers, one step shows the most of several.
    """
    curve, peak = memory.curve, memory.peak_bytes
    if len(curve) < 2 or not peak:
        return None
    each = -(-len(curve) // _MOST_STEPS)
    steps = [max(curve[i : i + each]) for i in range(0, len(curve), each)]
    points = [f"0,{_HEIGHT}"]
    for place, alive in enumerate(steps):
        y = round(_HEIGHT - _HEIGHT * alive / peak, 2)
        points += [f"{place},{y:g}", f"{place + 1},{y:g}"]
    points.append(f"{len(steps)},{_HEIGHT}")
    highest = max(range(len(steps)), key=steps.__getitem__)
    return Curve(
        points=" ".join(points),
        width=len(steps),
        height=_HEIGHT,
        peak=highest + 0.5,
        label=f"Bytes of activations alive while each of {len(curve)} layers runs, at most"
        f" {wording.binary(peak)}",
    )
