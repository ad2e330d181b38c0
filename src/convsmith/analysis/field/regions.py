"""Which elements of a value, one by one: the exact relation between units and pixels.

A :class:`Region` is a set of elements of one value. Followed backwards from one unit, it ends in
the pixels that the unit sees; followed forwards from one pixel, in the units that the pixel
reaches. Nothing is approximated where the rows are exact: holes, borders, branches with
different holes, channels that see different pixels. Only the smallest rectangle around a region
is stored, and an axis along which nothing varies as a single position, so that memory is bounded
by what is seen, not by the activations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from convsmith.analysis.field.moves import Move, Moves, Path, regrouped
from convsmith.analysis.field.taps import Interval, Taps
from convsmith.errors import UsageError
from convsmith.graph import Shape

__all__ = ["Region", "backwards", "forwards"]

Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]

_LARGEST = 1 << 28
"""How many elements a region may have to store."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Region:
    """A set of elements of a value.

    Attributes:
        shape: The shape of the value.
        start: Per axis: where the stored rectangle begins; ``None``: what is stored, in a single
            position, holds for the whole axis.
        mask: The stored rectangle.
    """

    shape: Shape
    start: tuple[int | None, ...]
    mask: Mask

    @classmethod
    def unit(cls, shape: Shape, position: Sequence[int | None]) -> Region:
        """One element; along an axis of ``None`` all."""
        return cls(shape=shape, start=tuple(position), mask=np.ones((1,) * len(shape), bool))

    @property
    def is_empty(self) -> bool:
        """Whether there is no element in it."""
        return not self.mask.any()

    def expanded(self, axis: int) -> Region:
        """The same set with all positions of one axis stored."""
        begin, size = self.start[axis], self.shape[axis]
        if begin == 0 and self.mask.shape[axis] == size:
            return self
        wanted = list(self.mask.shape)
        wanted[axis] = size
        _check(wanted)
        starts = (*self.start[:axis], 0, *self.start[axis + 1 :])
        if begin is None:
            mask: Mask = np.repeat(self.mask, size, axis=axis)
        else:
            mask = np.zeros(wanted, bool)
            here = [slice(None)] * len(wanted)
            here[axis] = slice(begin, begin + self.mask.shape[axis])
            mask[tuple(here)] = self.mask
        return replace(self, start=starts, mask=mask)

    def tightened(self) -> Region:
        """The same set in the smallest rectangle."""
        mask, start = self.mask, list(self.start)
        for axis in range(mask.ndim):
            begin = start[axis]
            if begin is None or mask.shape[axis] < 2:
                continue
            used = np.flatnonzero(mask.any(axis=_others(mask.ndim, axis)))
            if len(used) == 0 or len(used) == mask.shape[axis]:
                continue
            first, last = int(used[0]), int(used[-1])
            mask = mask[(slice(None),) * axis + (slice(first, last + 1),)]
            start[axis] = begin + first
        return self if mask is self.mask else replace(self, start=tuple(start), mask=mask)

    def union(self, other: Region) -> Region:
        """All elements of both."""
        a, b = self, other
        for axis, (one, two) in enumerate(zip(a.start, b.start, strict=True)):
            if (one is None) != (two is None):
                a, b = a.expanded(axis), b.expanded(axis)
        start: list[int | None] = [None] * len(a.start)
        extents = [1] * len(a.start)
        for axis, (one, two) in enumerate(zip(a.start, b.start, strict=True)):
            if one is not None and two is not None:
                begin = min(one, two)
                end = max(one + a.mask.shape[axis], two + b.mask.shape[axis])
                start[axis], extents[axis] = begin, end - begin
        _check(extents)
        mask = np.zeros(extents, bool)
        for part in (a, b):
            here = tuple(
                slice(own - whole, own - whole + length)
                if own is not None and whole is not None
                else slice(0, 1)
                for own, whole, length in zip(part.start, start, part.mask.shape, strict=True)
            )
            mask[here] |= part.mask
        return Region(shape=a.shape, start=tuple(start), mask=mask)

    def rectangle(self) -> tuple[Interval | None, ...]:
        """Per image axis: the first and last position; ``None`` if there is no element."""
        found: list[Interval | None] = []
        for axis in range(2, len(self.shape)):
            used = np.flatnonzero(_any(self.mask, _others(self.mask.ndim, axis)))
            begin = self.start[axis]
            if not len(used):
                found.append(None)
            elif begin is None:
                found.append((0, self.shape[axis] - 1))
            else:
                found.append((begin + int(used[0]), begin + int(used[-1])))
        return tuple(found)

    def image(self) -> Mask:
        """Per position of the image axes: whether any channel of it is in the set."""
        region = self
        for axis in range(2, len(self.shape)):
            region = region.expanded(axis)
        return _any(region.mask, (0, 1))


def _any(mask: Mask, axes: tuple[int, ...]) -> Mask:
    found: Mask = np.any(mask, axis=axes)
    return found


def _check(extents: Iterable[int]) -> None:
    elements = math.prod(extents)
    if elements > _LARGEST:
        raise UsageError(
            f"the set has {elements:,} elements, more than {_LARGEST:,}",
            remedy="ask for the rectangle far from the borders instead, which needs no list",
        )


def _others(rank: int, *axes: int) -> tuple[int, ...]:
    return tuple(axis for axis in range(rank) if axis not in axes)


# Along a path ---------------------------------------------------------------------


def backwards(path: Moves | Path, shape: Shape, region: Region, *, local: bool = False) -> Region:
    """Which elements of an input of ``shape`` the elements of an output see.

    Args:
        path: What the output sees of the input.
        shape: The shape of the input.
        region: Elements of the output.
        local: Whether gates count as what they let through, not as what they look at.
    """
    if not isinstance(path, Path):
        return _backwards(path, shape, region, local)
    if path.mirrors is not None:
        return forwards(path.mirrors, shape, region, local=local)
    if path.reshapes:
        return _reshaped(region, shape)
    shapes = [shape, *(made for _, made in path.steps[:-1])]
    for (step, _), before in zip(reversed(path.steps), reversed(shapes), strict=True):
        region = backwards(step, before, region, local=local)
    return region


def forwards(path: Moves | Path, output: Shape, region: Region, *, local: bool = False) -> Region:
    """Which elements of an output of shape ``output`` see the elements of an input."""
    if not isinstance(path, Path):
        return _forwards(path, output, region, local)
    if path.mirrors is not None:
        return backwards(path.mirrors, output, region, local=local)
    if path.reshapes:
        return _reshaped(region, output)
    for step, made in path.steps:
        region = forwards(step, made, region, local=local)
    return region


def _reshaped(region: Region, shape: Shape) -> Region:
    """The same elements of a value in another shape."""
    joined, cut = (moves for moves, _ in regrouped(region.shape, shape).steps)
    assert not isinstance(joined, Path)
    assert not isinstance(cut, Path)
    whole = {
        place
        for place in range(len(cut))
        if all(
            region.start[axis] is None
            for axis, move in enumerate(joined)
            if move.to == place and region.shape[axis] > 1
        )
    }
    start: list[int | None] = [None] * len(shape)
    sizes = [1] * len(shape)
    for axis, move in enumerate(joined):
        if move.to is not None and move.to not in whole:
            region = region.expanded(axis)
    for place, move in enumerate(cut):
        assert move.to is not None
        if place not in whole:
            for axis in (move.to, *(axis for axis, _ in move.inner)):
                start[axis], sizes[axis] = 0, shape[axis]
    mask = region.mask.reshape(sizes)
    return Region(shape=shape, start=tuple(start), mask=mask).tightened()


# Through the moves of one operator ------------------------------------------------


def _effective(move: Move, local: bool) -> Move:
    """A move in one of the words ``keep``, ``look``, ``reduce`` and ``spread``."""
    match move.how:
        case "gate" if local:
            return replace(move, how="keep", taps=None)
        case "gate" if move.taps is not None:
            return replace(move, how="look")
        case "gate" | "anywhere" | "scatter":
            return replace(move, how="reduce", taps=None)
    return move


def _taken(move: Move) -> tuple[int, ...]:
    """The axes of the output that a move depends on."""
    if move.to is None or move.how in ("reduce", "spread"):
        return ()
    return (move.to, *(axis for axis, _ in move.inner))


def _backwards(moves: Moves, shape: Shape, region: Region, local: bool) -> Region:
    row = [_effective(move, local) for move in moves]
    shared = _shared(row)
    if shared is not None and region.start[shared] is None:
        region = region.expanded(shared)
    if shared is not None and region.mask.shape[shared] > 1:
        return _one_by_one(region, shared, lambda part: _backwards(moves, shape, part, local))
    taken = {axis for move in row for axis in _taken(move)}
    rank = region.mask.ndim
    mask: Mask = np.any(region.mask, axis=_others(rank, *taken), keepdims=True)
    region = replace(region, mask=mask)
    start: list[int | None] = [None] * len(shape)
    # One axis after the other goes over to the input; those that wait stand in front.
    order = [_taken(move) for move in row]
    waiting = sorted(taken)
    array: Mask = np.transpose(mask, (*waiting, *_others(rank, *waiting)))
    array = array.reshape([mask.shape[axis] for axis in waiting])
    for axis, (move, size) in enumerate(zip(row, shape, strict=True)):
        axes = order[axis]
        if move.how == "keep" and axes:
            place = waiting.index(axes[0])
            array = np.moveaxis(array, place, -1)
            waiting.pop(place)
            start[axis] = region.start[axes[0]]
        elif move.how == "look" and axes:
            array, start[axis] = _pull(region, move, size, array, waiting, axes)
        else:
            start[axis] = 0 if move.how == "spread" and size > 1 else None
            array = array[..., np.newaxis]
    return Region(shape=shape, start=tuple(start), mask=array)


def _shared(row: Sequence[Move]) -> int | None:
    """An axis of the output that two axes of the input depend on (the diagonal of a matrix)."""
    taken = [axis for move in row for axis in _taken(move)]
    return next((axis for axis in taken if taken.count(axis) > 1), None)


def _one_by_one(region: Region, axis: int, follow: Callable[[Region], Region]) -> Region:
    parts: list[Region] = []
    for offset in range(region.mask.shape[axis]):
        here = (slice(None),) * axis + (slice(offset, offset + 1),)
        begin = (region.start[axis] or 0) + offset
        start = (*region.start[:axis], begin, *region.start[axis + 1 :])
        part = replace(region, start=start, mask=region.mask[here])
        if not part.is_empty or not parts:
            parts.append(follow(part))
    found = parts[0]
    for part in parts[1:]:
        found = found.union(part)
    return found


def _pull(
    region: Region, move: Move, size: int, array: Mask, waiting: list[int], axes: tuple[int, ...]
) -> tuple[Mask, int | None]:
    """Brings some waiting axes over to the input axis that they look at, which comes last."""
    assert move.taps is not None
    places = [waiting.index(axis) for axis in axes]
    array = np.moveaxis(array, places, range(-len(places), 0))
    for axis in axes:
        waiting.remove(axis)
    begins = [region.start[axis] for axis in axes]
    lengths = array.shape[-len(axes) :]
    if all(begin is None for begin in begins):
        used = _used(move, [region.shape[axis] for axis in axes], size)
        array = array.reshape(*array.shape[: -len(axes)], 1)
        if used.all():
            return array, None
        first, last = _ends(used)
        return array & used[first : last + 1], first
    counts = [
        region.shape[axis] if begin is None else length
        for axis, begin, length in zip(axes, begins, lengths, strict=True)
    ]
    if tuple(counts) != lengths:
        wanted = (*array.shape[: -len(axes)], *counts)
        _check(wanted)
        array = np.broadcast_to(array, wanted)
    outputs = [
        np.arange(begin or 0, (begin or 0) + count)
        for begin, count in zip(begins, counts, strict=True)
    ]
    flat = array.reshape(*array.shape[: -len(axes)], -1)
    pairs = [(chosen, read) for chosen, read in _pairs(move, outputs) if len(read)]
    low, high = size, -1
    inside = []
    for chosen, read in pairs:
        real, valid = _inside(move.taps, read, size)
        if len(real):
            low, high = min(low, int(real.min())), max(high, int(real.max()))
            inside.append((chosen[valid], real))
    extent = max(high - low + 1, 1)
    _check((*flat.shape[:-1], extent))
    made = np.zeros((*flat.shape[:-1], extent), bool)
    for chosen, real in inside:
        values = flat[..., chosen]
        target = real - low
        if len(target) == 1 or (np.diff(target) > 0).all() or (np.diff(target) < 0).all():
            made[..., target] |= values
        else:
            for column, place in enumerate(target):
                made[..., place] |= values[..., column]
    return made, low if high >= 0 else 0


def _pairs(move: Move, outputs: Sequence[Indices]) -> list[tuple[Indices, Indices]]:
    """Pairs of flat indices of outputs and of the positions that they ask for, tap by tap."""
    assert move.taps is not None
    taps = move.taps
    turns = len(taps.phases)
    first = outputs[0]
    extra: Indices = np.zeros((1,) * len(outputs), np.int64)
    for place, (_, step) in enumerate(move.inner, start=1):
        form = [1] * len(outputs)
        form[place] = -1
        extra = extra + (outputs[place] * step).reshape(form)
    grid = np.arange(math.prod(map(len, outputs))).reshape([len(each) for each in outputs])
    pairs = []
    for phase in dict.fromkeys((first % turns).tolist()) if turns > 1 else (0,):
        chosen = np.flatnonzero(first % turns == phase) if turns > 1 else np.arange(len(first))
        base = first[chosen] // turns * taps.step
        base = base.reshape([-1] + [1] * (len(outputs) - 1)) + extra
        index = grid[chosen].reshape(-1)
        flat = np.broadcast_to(base, grid[chosen].shape).reshape(-1)
        positions = taps.phases[phase]
        if len(positions) > len(index):
            asked = np.asarray(positions, np.int64)
            pairs += [
                (np.full(len(asked), own), asked + start)
                for own, start in zip(index.tolist(), flat.tolist(), strict=True)
            ]
        else:
            pairs += [(index, flat + tap) for tap in positions]
    return pairs


def _inside(taps: Taps, read: Indices, size: int) -> tuple[Indices, Mask]:
    """The positions that are really read, and which of those asked for they are."""
    valid: Mask = (read >= 0) & (read < size)
    if taps.beyond == "nothing" or valid.all():
        return read[valid], valid
    everything = np.ones(len(read), bool)
    match taps.beyond:
        case "edge":
            return np.clip(read, 0, size - 1), everything
        case "wrap":
            return read % size, everything
    if size == 1:
        return read[valid], valid
    turned = read % (2 * (size - 1))
    return np.minimum(turned, 2 * (size - 1) - turned), everything


def _used(move: Move, counts: Sequence[int], size: int) -> Mask:
    """Which positions of an input axis any output looks at."""
    assert move.taps is not None
    _check([size])
    _check(counts)
    used = np.zeros(size, bool)
    for _, read in _pairs(move, [np.arange(count) for count in counts]):
        real, _ = _inside(move.taps, read, size)
        used[real] = True
    return used


def _ends(used: Mask) -> tuple[int, int]:
    places = np.flatnonzero(used)
    return (int(places[0]), int(places[-1])) if len(places) else (0, 0)


def _forwards(moves: Moves, output: Shape, region: Region, local: bool) -> Region:
    row = [_effective(move, local) for move in moves]
    shared = _shared(row)
    if shared is not None:
        return _diagonal(moves, row, shared, output, region, local)
    array = region.mask
    front = 0  # how many axes of the output stand in front already
    made: list[int] = []
    start: list[int | None] = [None] * len(output)
    for move, size, begin in zip(row, region.shape, region.start, strict=True):
        # The axes of the input that remain stand behind; the next one is at `front`.
        if move.how == "spread":
            at = None if begin is not None and begin > 0 else 0
            first: Mask = np.take(array, 0, axis=front)
            array = np.zeros_like(first) if at is None else first
        elif move.how == "reduce" or move.to is None:
            array = _any(array, (front,))
        elif move.how == "keep":
            start[move.to] = begin
            made.append(move.to)
            front += 1
        else:
            axes = (move.to, *(axis for axis, _ in move.inner))
            array, starts = _push(move, size, begin, array, front, [output[a] for a in axes])
            for axis, where in zip(axes, starts, strict=True):
                start[axis] = where
            made += axes
            front += len(axes)
    order = sorted(range(len(made)), key=made.__getitem__)
    array = array.transpose(order)
    rest = [axis for axis in range(len(output)) if axis not in made]
    array = np.expand_dims(array, tuple(rest)) if rest else array
    return Region(shape=output, start=tuple(start), mask=array)


def _push(
    move: Move, size: int, begin: int | None, array: Mask, axis: int, counts: Sequence[int]
) -> tuple[Mask, list[int | None]]:
    """Replaces one axis of the input by the axes of the output that look at it."""
    assert move.taps is not None
    _check(counts)
    outputs = [np.arange(count) for count in counts]
    line = _any(array, _others(array.ndim, axis))
    touched = np.zeros(math.prod(counts), bool)
    known: list[tuple[Indices, Indices]] = []
    for chosen, read in _pairs(move, outputs):
        real, valid = _inside(move.taps, read, size)
        own = chosen[valid]
        if begin is not None:
            here = (real >= begin) & (real < begin + len(line))
            real, own = real[here] - begin, own[here]
        else:
            real = np.zeros_like(real)
        if len(real):
            touched[own[line[real]]] = True
            known.append((own, real))
    if begin is None and touched.all():
        for _ in counts[1:]:
            array = np.expand_dims(array, axis)
        return array, [None] * len(counts)
    grid = touched.reshape(counts)
    boxes = [_ends(_any(grid, _others(len(counts), place))) for place in range(len(counts))]
    extents = [last - first + 1 for first, last in boxes]
    _check((*array.shape[:axis], *extents, *array.shape[axis + 1 :]))
    table = np.full(math.prod(counts), -1)
    box = tuple(slice(first, last + 1) for first, last in boxes)
    table.reshape(counts)[box] = np.arange(math.prod(extents)).reshape(extents)
    front = np.moveaxis(array, axis, 0)
    made = np.zeros((math.prod(extents), *front.shape[1:]), bool)
    for own, real in known:
        target = table[own]
        valid = target >= 0
        target, real = target[valid], real[valid]
        if len(target) > 1 and (target == target[0]).all():
            made[target[0]] |= front[real].any(axis=0)
        else:
            made[target] |= front[real]
    shaped = made.reshape(*extents, *front.shape[1:])
    result = np.moveaxis(shaped, range(len(counts)), range(axis, axis + len(counts)))
    return result, [first for first, _ in boxes]


def _diagonal(
    moves: Moves, row: Sequence[Move], shared: int, output: Shape, region: Region, local: bool
) -> Region:
    """Forwards where several axes of the input depend on one of the output: place by place."""
    found: Region | None = None
    for place in range(output[shared]):
        part = region
        for axis, move in enumerate(row):
            if shared in _taken(move) and move.how == "keep":
                part = part.expanded(axis)
                here = (slice(None),) * axis + (slice(place, place + 1),)
                part = replace(
                    part,
                    start=(*part.start[:axis], place, *part.start[axis + 1 :]),
                    mask=part.mask[here],
                )
        if part.is_empty:
            continue
        kept = next(axis for axis, move in enumerate(row) if shared in _taken(move))
        single = tuple(
            replace(move, to=None, how="reduce") if shared in _taken(row[axis]) and axis != kept
            else move
            for axis, move in enumerate(moves)
        )  # fmt: skip
        made = _forwards(single, output, part, local)
        found = made if found is None else found.union(made)
    if found is None:
        empty = np.zeros((1,) * len(output), bool)
        return Region(shape=output, start=(None,) * len(output), mask=empty)
    return found
