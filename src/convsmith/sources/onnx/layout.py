"""The table of what moves, joins, cuts, resizes or reduces elements."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal, get_args

import numpy as np

from convsmith.graph import Shape
from convsmith.graph.operators import (
    Concat,
    Expand,
    Flatten,
    Flip,
    Identity,
    Operator,
    Pad,
    Padding,
    Reduce,
    Reshape,
    Resize,
    Slice,
    Split,
    Transpose,
)
from convsmith.sources.onnx.calls import Call, Inexpressible, Row, Step

__all__ = ["LAYOUT"]

_Alignment = Literal["asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners"]
_Rounding = Literal["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]
_PadMode = Literal["constant", "reflect", "edge", "wrap"]


# Shapes -----------------------------------------------------------------------------


def _reshaped(have: Shape, want: Shape) -> Operator:
    """Another shape, told so that it holds for other batch sizes too where that is possible."""
    if math.prod(have) != math.prod(want):
        raise ValueError(f"shape {have} cannot become {want}")
    if have and want and have[0] == want[0] and math.prod(want[1:]) > 0:
        if len(want) == 2 and len(have) >= 2:
            return Flatten()
        return Reshape(shape=(-1, *want[1:]))
    return Reshape(shape=want)


def _reshape(call: Call) -> Step:
    return Step(_reshaped(call.shape(0), call.target_shape()))


def _flatten(call: Call) -> Step:
    shape = call.shape(0)
    axis = call.integer("axis", 1)
    axis = len(shape) if axis == len(shape) else call.axis(axis)
    return Step(_reshaped(shape, (math.prod(shape[:axis]), math.prod(shape[axis:]))))


def _squeeze(call: Call) -> Step:
    shape = call.shape(0)
    given = call.list_or_input("axes", 1, since=13)
    if given is None:
        axes = {i for i, size in enumerate(shape) if size == 1}
    else:
        axes = {call.axis(axis) for axis in given}
    if any(shape[axis] != 1 for axis in axes):
        raise ValueError(f"axes {sorted(axes)} of shape {shape} cannot be removed")
    return Step(_reshaped(shape, tuple(s for i, s in enumerate(shape) if i not in axes)))


def _unsqueeze(call: Call) -> Step:
    shape = call.shape(0)
    given = call.list_or_input("axes", 1, since=13)
    if given is None:
        raise ValueError("axes are missing")
    rank = len(shape) + len(given)
    axes = {call.axis(axis, rank) for axis in given}
    if len(axes) != len(given):
        raise ValueError(f"axes {given}")
    sizes = iter(shape)
    return Step(_reshaped(shape, tuple(1 if i in axes else next(sizes) for i in range(rank))))


def _transpose(call: Call) -> Step:
    permutation = call.integers("perm") or tuple(reversed(range(call.rank())))
    return Step(Transpose(permutation=permutation))


def _expand(call: Call) -> Step:
    return Step(Expand(shape=call.data_ints(1)))


# Joining and cutting ----------------------------------------------------------------


def _concat(call: Call) -> Step:
    axis = call.axis(call.integer("axis", 1))
    return Step(Concat(axis=axis), tuple(range(call.count)))


def _split(call: Call) -> Step:
    axis = call.axis(call.integer("axis", 0))
    count, extent = len(call.entry.outputs), call.shape(0)[axis]
    sizes = call.list_or_input("split", 1, since=13)
    if sizes is None:
        if call.integer("num_outputs", count) != count:
            raise ValueError(f"num_outputs is not {count}")
        each = -(-extent // count)
        sizes = tuple(min(each, max(extent - i * each, 0)) for i in range(count))
    if len(sizes) != count:
        raise ValueError(f"{len(sizes)} sizes for {count} outputs")
    return Step(Split(sizes=sizes, axis=axis))


def _slice(call: Call) -> Step:
    shape = call.shape(0)
    ranges, flipped = [], []
    for axis, start, stop, step in call.cuts():
        place = call.axis(axis)
        if step < 0:  # turned round, the same places come forwards
            taken = range(*_backwards(start, stop, step, shape[place]))
            flipped.append(place)
            first = shape[place] - 1 - taken.start if taken else 0
            step = -step
            last = first + step * (len(taken) - 1) + 1 if taken else 0
        else:
            first, last, _ = slice(start, stop, step).indices(shape[place])
        if first or last < shape[place] or step > 1:
            ranges.append((place, first, None if last >= shape[place] else last, step))
    turned: int | Step = Step(Flip(axes=tuple(sorted(flipped)))) if flipped else 0
    if isinstance(turned, Step) and not ranges:
        return turned
    return Step(Slice(ranges=tuple(ranges)) if ranges else Identity(), (turned,))


def _backwards(start: int, stop: int, step: int, size: int) -> tuple[int, int, int]:
    """A range backwards; a stop before the first element takes the first one, too."""
    return slice(start, None if stop < -size else stop, step).indices(size)


def _pad(call: Call) -> Step:
    rank = call.rank()
    pads = call.list_or_input("pads", 1, since=11)
    mode = call.text("mode", "constant")
    if pads is None or mode not in get_args(_PadMode):
        raise ValueError(f"pads {pads}, mode {mode!r}")
    if call.opset < 11:
        value = call.number("value", 0.0)
    else:
        value = call.data_float(2) if call.has(2) else 0.0
    axes = [call.axis(a) for a in call.data_ints(3)] if call.has(3) else list(range(rank))
    if len(pads) != 2 * len(axes):
        raise ValueError(f"{len(pads)} pads for {len(axes)} axes")
    padding = [(0, 0)] * rank
    for i, axis in enumerate(axes):
        padding[axis] = (pads[i], pads[i + len(axes)])
    if mode != "constant" and min(pads, default=0) < 0:
        raise Inexpressible("negative padding that is not constant")
    both: Padding = tuple(padding)
    return Step(Pad(padding=both, mode=mode, value=value))  # type: ignore[arg-type]  # checked


# Resizing ---------------------------------------------------------------------------


def _resize(call: Call) -> Step:
    if call.opset < 11:
        return Step(_scaling(call, _factors(call, 1), "asymmetric", "floor"))
    alignment = call.text("coordinate_transformation_mode", "half_pixel")
    rounding = call.text("nearest_mode", "round_prefer_floor")
    if alignment not in get_args(_Alignment):
        raise Inexpressible(f"coordinates by the rule {alignment}")
    if rounding not in get_args(_Rounding):
        raise ValueError(f"nearest_mode {rounding!r}")
    if call.integer("antialias", 0) or call.integer("exclude_outside", 0):
        raise Inexpressible("anti-aliasing or excluded borders")
    if call.number("cubic_coeff_a", -0.75) != -0.75:
        raise Inexpressible("another cubic filter")
    if call.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Inexpressible("a size that depends on the aspect ratio")
    if call.has(2) and call.data(2).size:
        return Step(_scaling(call, _factors(call, 2), alignment, rounding))
    sizes = list(call.shape(0))
    given = call.data_ints(3)
    axes = call.integers("axes") or tuple(range(len(sizes)))
    for axis, size in zip(axes, given, strict=True):
        sizes[call.axis(axis)] = size
    if tuple(sizes[:2]) != call.shape(0)[:2] or len(sizes) < 3 or min(sizes) < 1:
        raise Inexpressible("resizing of batch or channels")
    return Step(_resizing(call, alignment, rounding, size=tuple(sizes[2:])))


def _upsample(call: Call) -> Step:
    if call.opset < 9:
        factors = [float(f) for f in call.floats("scales") or ()]
        return Step(_scaling(call, factors, "asymmetric", "floor"))
    return Step(_scaling(call, _factors(call, 1), "asymmetric", "floor"))


def _factors(call: Call, index: int) -> list[float]:
    given = [float(f) for f in call.data(index).reshape(-1).astype(np.float64)]
    axes = call.integers("axes")
    if axes is None:
        return given
    factors = [1.0] * call.rank()
    for axis, factor in zip(axes, given, strict=True):
        factors[call.axis(axis)] = factor
    return factors


def _scaling(call: Call, factors: list[float], alignment: str, rounding: str) -> Operator:
    shape = call.shape(0)
    if len(factors) != len(shape) or min(factors, default=0) <= 0:
        raise ValueError(f"factors {factors} for {len(shape)} axes")
    if len(shape) < 3 or factors[0] != 1 or factors[1] != 1:
        raise Inexpressible("resizing of batch or channels")
    exact = tuple(_exact(factor) for factor in factors[2:])
    for size, factor, fraction in zip(shape[2:], factors[2:], exact, strict=True):
        rounded = math.floor(np.float32(size) * np.float32(factor))
        if rounded != math.floor(size * fraction) or rounded < 1:
            raise Inexpressible("a size that depends on rounding")
        if alignment == "align_corners" and (size * fraction).denominator != 1:
            raise Inexpressible(
                "corners of a size that is not whole, which runtimes read differently"
            )
    return _resizing(call, alignment, rounding, scale=exact)


def _exact(factor: float) -> Fraction:
    """The simplest fraction that is this 32-bit number."""
    simple = Fraction(factor).limit_denominator(4096)
    return simple if np.float32(float(simple)) == np.float32(factor) else Fraction(factor)


def _resizing(
    call: Call,
    alignment: str,
    rounding: str,
    scale: tuple[Fraction, ...] = (),
    size: tuple[int, ...] = (),
) -> Operator:
    mode = call.text("mode", "nearest")
    if mode not in ("nearest", "linear", "cubic"):
        raise ValueError(f"mode {mode!r}")
    return Resize(
        scale=scale,
        size=size,
        mode=mode,  # type: ignore[arg-type]  # checked above
        alignment=alignment,  # type: ignore[arg-type]  # checked by the caller
        rounding=rounding if mode == "nearest" else "floor",  # type: ignore[arg-type]
    )


# Reducing ---------------------------------------------------------------------------


def _reduce(kind: str, since: int = 18) -> Row:
    def row(call: Call) -> Step:
        axes = call.list_or_input("axes", 1, since) or ()
        if not axes and call.integer("noop_with_empty_axes", 0):
            if kind in ("l1norm", "l2norm"):
                raise Inexpressible("a norm over no axes")
            return Step(Identity())
        places = {call.axis(axis) for axis in axes} or range(call.rank())
        keep = bool(call.integer("keepdims", 1))
        return Step(Reduce(kind=kind, axes=tuple(sorted(places)), keep=keep))

    return row


LAYOUT: dict[str, Row] = {
    "Concat": _concat,
    "Expand": _expand,
    "Flatten": _flatten,
    "Pad": _pad,
    "ReduceL1": _reduce("l1norm"),
    "ReduceL2": _reduce("l2norm"),
    "ReduceMax": _reduce("max"),
    "ReduceMean": _reduce("mean"),
    "ReduceMin": _reduce("min"),
    "ReduceProd": _reduce("prod"),
    "ReduceSum": _reduce("sum", since=13),
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Upsample": _upsample,
}
