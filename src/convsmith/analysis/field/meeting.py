"""What is seen where two paths meet, along one image axis."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from convsmith.analysis.field.axis import Periodic
from convsmith.analysis.field.states import Joined, Track, Where
from convsmith.graph import Shape

__all__ = ["meet"]

_Where = TypeVar("_Where", bound=Where)


def meet(a: Track[_Where], b: Track[_Where], output: Shape, extent: int) -> Track[_Where]:
    """One image axis where two paths meet."""
    if a == b:
        return a
    everywhere = a.everywhere or b.everywhere
    unbounded = a.unbounded or b.unbounded
    if isinstance(a.where, Periodic) and not (a.where.is_constant and b.where.is_constant):
        # A gate that sees everything: the direct path is what is worth describing.
        for gate, direct in ((a, b), (b, a)):
            if gate.where.is_constant and gate.everywhere and not gate.scattered:
                return replace(direct, everywhere=True)
    constant = [track.axis is None or track.where.is_constant for track in (a, b)]
    scattered = a.scattered or b.scattered or (a.axis != b.axis and not any(constant))
    where = None if scattered else a.where.union(b.where)
    if where is not None:
        axis = b.axis if constant[0] else a.axis
        return Track(
            where=where,
            axis=axis,
            everywhere=everywhere,
            unbounded=unbounded,
            joined=_both_joined(a, b),
        )
    hulls = [
        track.where.whole(1 if track.axis is None else output[track.axis], extent)
        for track in (a, b)
    ]
    together = hulls[0].union(hulls[1])
    assert together is not None  # constants always move at the same pace
    return Track(
        where=together,
        axis=a.axis if a.axis == b.axis else None,
        everywhere=everywhere,
        scattered=True,
        unbounded=unbounded,
        joined=_both_joined(a, b),
    )


def _both_joined(a: Track[_Where], b: Track[_Where]) -> Joined[_Where] | None:
    """What two tracks on the same longer axis were, together."""
    one, other = a.joined, b.joined
    if one is None or other is None or a.axis != b.axis:
        return None
    if (one.unit, one.size) != (other.unit, other.size) or one.scattered or other.scattered:
        return None
    where = one.where.union(other.where)
    return None if where is None else replace(one, where=where)
