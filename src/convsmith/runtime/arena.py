"""Memory shared by values that never live at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Lifetime", "place"]

_UNIT = 16
"""Elements of a cache line: everything begins on one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """A piece of memory and when it is needed.

    Attributes:
        elements: Its size.
        first: The first step that touches it.
        last: The last one.
    """

    elements: int
    first: int
    last: int


def place(pieces: Sequence[Lifetime]) -> tuple[list[int], int]:
    """Returns where every piece begins, in elements, and how many there are in all.

    Greedy by size (Pisarchyk & Lee 2020, "Efficient memory management for deep neural net
    inference", section 4.3): the largest piece first, each at the lowest place that is free during
    its life.

    >>> place([Lifetime(elements=64, first=0, last=1), Lifetime(elements=32, first=1, last=2),
    ...        Lifetime(elements=64, first=2, last=3)])
    ([0, 64, 0], 96)
    """
    offsets = [0] * len(pieces)
    placed: list[int] = []
    total = 0
    for index in sorted(range(len(pieces)), key=lambda i: (-pieces[i].elements, i)):
        piece = pieces[index]
        size = -(-piece.elements // _UNIT) * _UNIT
        others = sorted(
            (offsets[i], offsets[i] + -(-pieces[i].elements // _UNIT) * _UNIT)
            for i in placed
            if pieces[i].first <= piece.last and piece.first <= pieces[i].last
        )
        at = 0
        for begin, end in others:
            if begin - at >= size:
                break
            at = max(at, end)
        offsets[index] = at
        total = max(total, at + size)
        placed.append(index)
    return offsets, total
