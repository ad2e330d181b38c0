"""What looks are made of: taps without gaps, and axes of the output along which they move."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from convsmith.analysis.field.moves import Move
from convsmith.analysis.field.states import Where
from convsmith.analysis.field.taps import LONGEST_PERIOD, Taps
from convsmith.graph import Shape

__all__ = ["leaves_gaps", "outermost"]

_MOST_TAPS = 1 << 16


def leaves_gaps(taps: Taps) -> bool:
    """Whether some outputs may look at nothing, so that a constant does not stay one."""
    if len(taps.phases) == 1:
        return not len(taps.phases[0])
    return len(taps.phases) > LONGEST_PERIOD or not all(len(phase) for phase in taps.phases)


def outermost(where: Where, move: Move, output: Shape) -> tuple[int, Taps, bool]:
    """Along which axis of the output a track goes on, with which taps.

    Where an axis is cut, its positions stand along several axes of the output. The track follows
    the outermost of those that make a difference and sees the union over the others.
    """
    assert move.taps is not None
    assert move.to is not None
    if not move.inner:
        return move.to, move.taps, False
    steps = ((move.to, move.taps.step), *move.inner)
    if move.anchored:  # at a border all of them make a difference
        matter = list(range(len(steps)))
    else:
        different = where.depends_on([step for _, step in steps])
        matter = [i for i in different if output[steps[i][0]] > 1]
    axis, step = steps[matter[0]] if matter else steps[0]
    rest = [(output[other], s) for i in matter[1:] for other, s in (steps[i],)]
    (base,) = move.taps.phases
    if math.prod(count for count, _ in rest) > _MOST_TAPS:
        low = sum((count - 1) * min(s, 0) for count, s in rest)
        high = sum((count - 1) * max(s, 0) for count, s in rest)
        positions: Sequence[int] = range(base[0] + low, base[-1] + high + 1)
    else:
        offsets = {0}
        for count, s in rest:
            offsets = {o + s * k for o in offsets for k in range(count)}
        positions = sorted(tap + offset for tap in base for offset in offsets)
    joined = Taps(phases=(positions,), step=step, beyond=move.taps.beyond)
    if not rest:
        return axis, joined, False
    alone = where.look(replace(joined, phases=(base,)), math.prod(output), output[axis])
    together = where.look(joined, math.prod(output), output[axis])
    return axis, joined, alone != together
