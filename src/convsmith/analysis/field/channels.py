"""What becomes of the channels of a value that do not all see the same.

Every channel has a label, the number of a state. Operators that move channels move labels; where
an output looks at several channels, it has a label of its own, which stands for all of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from convsmith.analysis.field.moves import Move, Moves, Path, groups_of
from convsmith.analysis.field.states import Channels, Labels, State, Where
from convsmith.graph import Shape

__all__ = ["along", "blind", "channelled", "paired", "relabelled", "side_by_side"]

_Where = TypeVar("_Where", bound=Where)

_MOST_STATES = 64
"""If channels see more different fields than this, only their union is followed."""

_MOST_LABELS = 1 << 20

_Sources = list[frozenset[int]]
"""Per new label: the old ones that it stands for; none: it sees nothing."""


def blind(state: State[_Where]) -> State[_Where]:
    """The state of what sees nothing, on the axes of another."""
    return State(
        tracks=tuple(
            replace(
                track,
                where=track.where.nothing(),
                everywhere=False,
                scattered=False,
                unbounded=False,
                joined=None,
            )
            for track in state.tracks
        )
    )


def channelled(labels: Labels, states: Sequence[State[_Where]]) -> Channels[_Where] | None:
    """Channels with labels; ``None`` if they are too many, or lie on an axis that is followed.

    States that see the same become one, those that no label stands for go.
    """
    used = np.unique(labels)
    known: dict[object, int] = {}
    kept: list[State[_Where]] = []
    new = np.zeros(len(states), np.intp)
    for label in used.tolist():
        state = states[label]
        key = (state.tracks, state.bound, state.varied)
        if key not in known:
            known[key] = len(kept)
            kept.append(state)
        new[label] = known[key]
    if not kept or len(kept) > _MOST_STATES:
        return None
    if any(labels.shape[axis] > 1 for axis in _followed(kept)):
        return None
    return Channels(labels=new[labels], states=tuple(kept))


def _followed(states: Sequence[State[_Where]]) -> set[int]:
    return {track.axis for state in states for track in state.tracks if track.axis is not None}


def _channels_of(state: State[_Where]) -> Channels[_Where]:
    """The channels of any state: a single label if they all see the same."""
    if state.channels is not None:
        return state.channels
    return Channels(labels=np.zeros((), np.intp), states=(state,))


def along(state: State[_Where], axes: Sequence[int], shape: Shape) -> Channels[_Where] | None:
    """The channels of any state, with a label for every element along some axes."""
    channels = _channels_of(state)
    sizes = list(channels.labels.shape or (1,) * len(shape))
    labels = channels.labels.reshape(sizes)
    for axis in axes:
        sizes[axis] = shape[axis]
    if math.prod(sizes) > _MOST_LABELS:
        return None
    return replace(channels, labels=np.broadcast_to(labels, sizes))


def side_by_side(
    states: Sequence[State[_Where]], axis: int, shapes: Sequence[Shape]
) -> Channels[_Where] | None:
    """The channels of states that are concatenated along an axis."""
    parts = [_channels_of(state) for state in states]
    known = [state for part in parts for state in part.states]
    if axis in _followed(known):
        return None
    extents = [part.labels.shape or (1,) * len(shapes[0]) for part in parts]
    widest = [max(sizes) for sizes in zip(*extents, strict=True)]
    widest[axis] = sum(shape[axis] for shape in shapes)
    if math.prod(widest) > _MOST_LABELS:
        return None
    rows, first = [], 0
    for part, extent, shape in zip(parts, extents, shapes, strict=True):
        widest[axis] = shape[axis]
        rows.append(np.broadcast_to(part.labels.reshape(extent) + first, widest))
        first += len(part.states)
    return channelled(np.concatenate(rows, axis=axis), known)


def paired(
    a: State[_Where], b: State[_Where]
) -> tuple[Labels, list[tuple[State[_Where], State[_Where]]]] | None:
    """The pairs of states that meet where two values meet element by element, and their labels."""
    one, two = _channels_of(a), _channels_of(b)
    if math.prod(np.broadcast_shapes(one.labels.shape, two.labels.shape)) > _MOST_LABELS:
        return None
    codes = one.labels * len(two.states) + two.labels
    used, labels = np.unique(codes, return_inverse=True)
    if len(used) > _MOST_STATES:
        return None
    pairs = [divmod(code, len(two.states)) for code in used.tolist()]
    return labels.reshape(codes.shape), [(one.states[i], two.states[j]) for i, j in pairs]


def relabelled(
    channels: Channels[_Where], path: Moves | Path, shape: Shape, output: Shape
) -> tuple[Labels, _Sources] | None:
    """The labels of an output, and what they stand for; ``None`` where no label can say it."""
    if 0 in output:
        return None
    labels = channels.labels
    singles = [frozenset({label}) for label in range(len(channels.states))]
    if isinstance(path, Path):
        regrouped = _regrouped(labels, shape, output, _followed(channels.states))
        return None if regrouped is None else (regrouped, singles)
    sources: _Sources = singles
    to: dict[int, int] = {}
    followed = _followed(channels.states)
    for axis, move in enumerate(path):
        alone = shape[axis] == 1 and move.how == "look" and axis not in followed
        if labels.shape[axis] == 1 and not alone:  # what is alone may get others beside it
            continue
        found = _moved(labels, sources, axis, move, shape[axis], output)
        if found is None:
            return None
        labels, sources = found
        if labels.shape[axis] > 1:
            assert move.to is not None
            to[move.to] = axis
    order = [to[axis] for axis in sorted(to)]
    rest = [axis for axis in range(labels.ndim) if axis not in order]
    sizes = [labels.shape[to[axis]] if axis in to else 1 for axis in range(len(output))]
    used, labels = np.unique(labels.transpose(order + rest), return_inverse=True)
    return labels.reshape(sizes), [sources[label] for label in used.tolist()]


def _regrouped(labels: Labels, shape: Shape, output: Shape, followed: set[int]) -> Labels | None:
    """The same elements in the same order in another shape."""
    wide, sizes = [1] * len(shape), [1] * len(output)
    for old, new in groups_of(shape, output):
        if all(labels.shape[axis] == 1 for axis in old):
            continue
        if followed.intersection(old):
            return None
        for axis in old:
            wide[axis] = shape[axis]
        for axis in new:
            sizes[axis] = output[axis]
    if math.prod(wide) != math.prod(sizes) or math.prod(wide) > _MOST_LABELS:
        return None
    return np.broadcast_to(labels, wide).reshape(sizes)


def _moved(
    labels: Labels, sources: _Sources, axis: int, move: Move, size: int, output: Shape
) -> tuple[Labels, _Sources] | None:
    """One axis, moved; it stays where it is in the array."""
    rows = np.moveaxis(labels, axis, 0)
    match move.how:
        case "keep" if move.to is not None:
            return labels, sources
        case "spread":
            return np.moveaxis(rows[:1], 0, axis), sources
        case "reduce":
            wanted: list[list[int]] = [list(range(size))]
        case "gate" if move.taps is None:
            wanted = [list(range(size))]
        case "look" | "gate" if move.taps is not None and move.to is not None and not move.inner:
            taps, count = move.taps, output[move.to]
            if len(taps.phases) == len(taps.phases[0]) == 1:  # a part: nearly always
                places = taps.phases[0][0] + taps.step * np.arange(count)
                if count and places.min() >= 0 and places.max() < size:
                    return np.moveaxis(rows[places], 0, axis), sources
            wanted = [
                [q for p in taps.at(index) if (q := taps.inside(p, size)) is not None]
                for index in range(count)
            ]
        case _:
            return None
    if sum(map(len, wanted)) * rows[0].size > _MOST_LABELS:
        return None
    numbers: dict[frozenset[int], int] = {}
    made = np.zeros((len(wanted), *rows.shape[1:]), np.intp)
    for index, wants in enumerate(wanted):
        for column in np.ndindex(rows.shape[1:]):
            seen = {int(label) for label in rows[(wants, *column)]} if wants else set()
            source = frozenset[int]().union(*(sources[label] for label in seen))
            made[(index, *column)] = numbers.setdefault(source, len(numbers))
    return np.moveaxis(made, 0, axis), list(numbers)
