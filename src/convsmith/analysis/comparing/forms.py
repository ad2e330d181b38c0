"""The table of forms: what can stand for one convolution and see the same pixels.

Every form lays out its convolutions as :class:`~convsmith.analysis.comparing.target.Part`; padding
follows in one place for all. A form that a convolution cannot have raises the reason.

Sources: stacks of 3x3, Simonyan & Zisserman 2015; N x 1 and 1 x N, Jaderberg et al. 2014 and
Szegedy et al. 2016; (2+1)-D, Tran et al. 2018; 1x1 bottlenecks, Lin et al. 2014, Szegedy et al.
2015 and He et al. 2016; depthwise-separable, Sifre 2014 and Howard et al. 2017; 1x1 before the
depthwise, Haase & Amthor 2020; groups and 1x1, Xie et al. 2017, Zhang et al. 2018; dilation, Yu &
Koltun 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from convsmith.analysis.comparing.target import Part, Target
from convsmith.analysis.comparing.windows import (
    MOST_LAYERS,
    POINT,
    Chain,
    InapplicableError,
    dilated,
    dilated_stack,
    early_stack,
    stack,
)

__all__ = ["FORMS", "Form", "Lay"]

Lay = Callable[[Target, int], list[Part]]
"""Lays out a form for a target and a middle width."""

_Split = Callable[[int, int, int], Chain]
"""Replaces the window of one axis, given by kernel, stride and dilation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One way to put cheaper convolutions in the place of one.

    Attributes:
        name: In kebab case.
        lay: Its parts; raises :class:`InapplicableError`.
        width: The middle width that it has when none is asked for: ``output``: that of the
            output; ``half`` and ``quarter``: of the narrower of input and output; ``none``: it
            has no width to choose.
        basic: Whether it is one of the plain forms, not a combination.
        ranks: How many axes it takes to have it.
        transposed: Whether it is one of transposed convolutions only, or of the others only.
        note: What else there is to say about it.
    """

    name: str
    lay: Lay
    width: Literal["none", "output", "half", "quarter"] = "none"
    basic: bool = True
    ranks: tuple[int, ...] = (1, 2, 3)
    transposed: bool | None = None
    note: str = ""

    def concerns(self, target: Target) -> bool:
        """Whether there is such a form of convolutions of this kind at all."""
        direction = self.transposed in (None, target.op.transposed)
        return direction and len(target.op.kernel) in self.ranks

    def middle(self, target: Target) -> int:
        """The middle width that it has when none is asked for."""
        narrow = min(target.inputs, target.outputs)
        widths = {"output": target.outputs, "half": narrow // 2, "quarter": narrow // 4}
        return rounded(widths.get(self.width, 1), target.groups)


def rounded(width: int, groups: int) -> int:
    """The largest width up to ``width`` that all groups share alike; at least one a group.

    >>> rounded(10, 4), rounded(2, 4)
    (8, 4)
    """
    return max(width // groups, 1) * groups


# Building blocks ------------------------------------------------------------------


def _widths(layers: Sequence[Chain], target: Target, width: int) -> list[Part]:
    """Full convolutions one after another; all but the last make ``width`` channels."""
    return [
        Part(
            windows=windows,
            channels=width if index < len(layers) - 1 else target.outputs,
            groups=target.groups,
        )
        for index, windows in enumerate(layers)
    ]


def _point(target: Target, channels: int, *, linear: bool = False) -> Part:
    return Part(windows=target.points, channels=channels, groups=target.groups, linear=linear)


def _depthwise(layers: Sequence[Chain], channels: int, *, linear: bool = True) -> list[Part]:
    return [
        Part(windows=windows, channels=channels, groups=channels, linear=linear)
        for windows in layers
    ]


def _size(target: Target) -> str:
    return "x".join(map(str, target.op.kernel))


def _is_wide(target: Target) -> None:
    if target.is_pointwise:
        raise InapplicableError(f"its kernel is {_size(target)}")


def _mixes(target: Target) -> None:
    """Checks that a group has several channels to mix."""
    if 1 < target.groups == target.inputs == target.outputs:
        raise InapplicableError("it is depthwise: no group has channels to mix")


def _layers(target: Target, split: _Split) -> list[Chain]:
    op = target.op
    chains = [split(k, s, d) for k, s, d in zip(op.kernel, op.stride, op.dilation, strict=True)]
    return target.layers(chains)


def _splitting(target: Target, split: _Split) -> list[Chain]:
    """The layers of a stack.

    Raises:
        InapplicableError: If it has only one layer.
    """
    _is_wide(target)
    layers = _layers(target, split)
    if len(layers) < 2:
        raise InapplicableError(f"its kernel {_size(target)} is as small")
    return layers


def _threes(kernel: int, stride: int, dilation: int) -> Chain:
    return stack(kernel, stride, dilation, (3,))


def _fives(kernel: int, stride: int, dilation: int) -> Chain:
    return stack(kernel, stride, dilation, (5, 3))


def _twos(kernel: int, stride: int, dilation: int) -> Chain:
    return stack(kernel, stride, dilation, (2,))


def _thin(windows: Chain, groups: Sequence[Sequence[int]]) -> list[Chain]:
    """One layer per group of axes, with the window along these axes and 1 along the others."""
    return [
        tuple(window if axis in group else POINT for axis, window in enumerate(windows))
        for group in groups
    ]


def _spatial(target: Target, groups: Sequence[Sequence[int]]) -> list[Chain]:
    """Thin layers in this order of axes; axes whose kernel is 1 go along with the first."""
    kernel = target.op.kernel
    long = [[axis for axis in group if kernel[axis] > 1] for group in groups]
    long = [group for group in long if group]
    if len(long) < 2:
        reason = "it is 1-D" if len(kernel) == 1 else f"its kernel {_size(target)} is thin already"
        raise InapplicableError(reason)
    short = [axis for axis, size in enumerate(kernel) if size == 1]
    at = -1 if target.op.transposed else 0
    long[at] = [*long[at], *short]
    return _thin(target.windows, long)


# Stacks ---------------------------------------------------------------------------


def _stack(split: _Split, target: Target, width: int) -> list[Part]:
    return _widths(_splitting(target, split), target, width)


def _mixed_stack(target: Target, width: int) -> list[Part]:
    layers = _splitting(target, _fives)
    if max(target.op.kernel) < 6:
        raise InapplicableError(f"its kernel {_size(target)} is smaller than 6")
    return _widths(layers, target, width)


def _differing(split: _Split, target: Target, width: int) -> list[Part]:
    """A stack that is worth a row only where it is not the plain one."""
    layers = _splitting(target, split)
    _is_new(target, layers)
    return _widths(layers, target, width)


def _is_new(target: Target, layers: list[Chain]) -> None:
    if max(target.op.kernel) <= 2 * MOST_LAYERS and layers == _layers(target, _threes):
        raise InapplicableError("it is the plain stack here")


def _early(target: Target, width: int) -> list[Part]:
    if set(target.op.stride) == {1}:
        raise InapplicableError("its stride is 1")
    return _differing(early_stack, target, width)


# Thin kernels ---------------------------------------------------------------------


def _spatial_form(pick: Callable[[int], list[list[int]]], target: Target, width: int) -> list[Part]:
    return _widths(_spatial(target, pick(len(target.op.kernel))), target, width)


def _forwards(rank: int) -> list[list[int]]:
    return [[axis] for axis in range(rank)]


def _backwards(rank: int) -> list[list[int]]:
    return _forwards(rank)[::-1]


def _depth_and_plane(rank: int) -> list[list[int]]:
    return [[0], [*range(1, rank)]]


def _plane_and_depth(rank: int) -> list[list[int]]:
    return _depth_and_plane(rank)[::-1]


def _spatial_stack(target: Target, width: int) -> list[Part]:
    layers = _splitting(target, _threes)
    if sum(size > 1 for size in target.op.kernel) < 2:
        raise InapplicableError(f"its kernel {_size(target)} is thin already")
    return _widths(_thinned(layers), target, width)


def _thinned(layers: Sequence[Chain]) -> list[Chain]:
    thin: list[Chain] = []
    for windows in layers:
        long = [[axis] for axis, window in enumerate(windows) if window.kernel > 1]
        short = [axis for axis, window in enumerate(windows) if window.kernel == 1]
        long[0] = [*long[0], *short]
        thin += _thin(windows, long)
    return thin


# Bottlenecks ----------------------------------------------------------------------


def _bottleneck(target: Target, width: int) -> list[Part]:
    _mixes(target)
    windows = target.windows
    if not target.is_pointwise:
        return [_point(target, width), _only(target, windows, target.outputs)]
    parts = [_only(target, windows, width), _point(target, target.outputs)]
    if target.op.transposed:  # the larger image comes last
        parts = [_point(target, width), _only(target, windows, target.outputs)]
    return parts


def _only(target: Target, windows: Chain, channels: int) -> Part:
    return Part(windows=windows, channels=channels, groups=target.groups)


def _bottleneck_expand(target: Target, width: int) -> list[Part]:
    _mixes(target)
    _is_wide(target)
    return [
        _point(target, width),
        _only(target, target.windows, width),
        _point(target, target.outputs),
    ]


def _narrowed(inside: Lay, expand: bool, target: Target, width: int) -> list[Part]:
    """1x1, another form that stays as narrow, and 1x1 if it is to ``expand`` by itself."""
    _mixes(target)
    parts = inside(target, width)
    if expand:
        last = Part(windows=parts[-1].windows, channels=width, groups=parts[-1].groups)
        parts = [*parts[:-1], last, _point(target, target.outputs)]
    return [_point(target, width), *parts]


def _bottleneck_depthwise(target: Target, width: int) -> list[Part]:
    _mixes(target)
    _is_wide(target)
    inside = _depthwise([target.windows], width, linear=False)
    return [_point(target, width), *inside, _point(target, target.outputs)]


# Depthwise ------------------------------------------------------------------------


def _separable(target: Target, width: int) -> list[Part]:
    _mixes(target)
    _is_wide(target)
    return [*_depthwise([target.windows], target.inputs), _point(target, target.outputs)]


def _pointwise_depthwise(target: Target, width: int) -> list[Part]:
    _mixes(target)
    _is_wide(target)
    first = _point(target, target.outputs, linear=True)
    return [first, *_depthwise([target.windows], target.outputs)]


def _depthwise_spatial(target: Target, width: int) -> list[Part]:
    _mixes(target)
    layers = _spatial(target, _forwards(len(target.op.kernel)))
    return [*_depthwise(layers, target.inputs), _point(target, target.outputs)]


def _depthwise_stack(split: _Split, target: Target, width: int) -> list[Part]:
    _mixes(target)
    layers = _splitting(target, split)
    if split is not _threes:
        _is_new(target, layers)
    return [*_depthwise(layers, target.inputs), _point(target, target.outputs)]


def _separable_stack(target: Target, width: int) -> list[Part]:
    _mixes(target)
    parts: list[Part] = []
    layers = _splitting(target, _threes)
    for index, windows in enumerate(layers):
        channels = parts[-1].channels if parts else target.inputs
        last = index == len(layers) - 1
        parts += _depthwise([windows], channels)
        parts.append(_point(target, target.outputs if last else width))
    return parts


# Groups and dilation --------------------------------------------------------------


def _more_groups(target: Target) -> int:
    """Four times as many groups, else the next number that divides the channels of a group."""
    _mixes(target)
    inside, outside = target.inputs // target.groups, target.outputs // target.groups
    for more in (4, 2, 3, 5, 6, 7, 8):
        if inside % more == 0 and outside % more == 0:
            return target.groups * more
    raise InapplicableError(
        f"nothing up to 8 divides {inside} and {outside} channels"
        + (" of a group" if target.groups > 1 else "")
    )


def _grouped(target: Target, width: int) -> list[Part]:
    groups = _more_groups(target)
    return [Part(windows=target.windows, channels=target.outputs, groups=groups)]


def _grouped_pointwise(target: Target, width: int) -> list[Part]:
    groups = _more_groups(target)
    first = Part(windows=target.windows, channels=target.outputs, groups=groups, linear=True)
    return [first, _point(target, target.outputs)]


def _dilated(target: Target, width: int) -> list[Part]:
    if target.op.transposed and set(target.op.stride) != {1}:
        raise InapplicableError("some outputs of a transposed convolution would see nothing")
    windows = tuple(dilated(w.kernel, w.stride, w.dilation) for w in target.windows)
    if windows == target.windows:
        raise InapplicableError(f"its kernel {_size(target)} is as small")
    return [_only(target, windows, target.outputs)]


FORMS: tuple[Form, ...] = (
    Form(name="stack-3", lay=partial(_stack, _threes), width="output"),
    Form(name="stack-3-5", lay=_mixed_stack, width="output"),
    Form(name="stack-2", lay=partial(_differing, _twos), width="output"),
    Form(name="stack-3-early-stride", lay=_early, width="output", transposed=False),
    Form(name="stack-3-late-stride", lay=_early, width="output", transposed=True),
    Form(name="stack-3-dilated", lay=partial(_differing, dilated_stack), width="output"),
    *(
        Form(name=f"spatial-{name}", lay=partial(_spatial_form, order), width="output", ranks=ranks)
        for name, order, ranks in (
            ("vertical-first", _forwards, (1, 2)),
            ("horizontal-first", _backwards, (2,)),
            ("depth-height-width", _forwards, (3,)),
            ("width-height-depth", _backwards, (3,)),
            ("depth-first", _depth_and_plane, (3,)),
            ("depth-last", _plane_and_depth, (3,)),
        )
    ),
    Form(name="bottleneck", lay=_bottleneck, width="half"),
    Form(name="bottleneck-expand", lay=_bottleneck_expand, width="quarter"),
    Form(name="depthwise-separable", lay=_separable),
    Form(name="pointwise-depthwise", lay=_pointwise_depthwise),
    Form(name="depthwise-spatial", lay=_depthwise_spatial),
    Form(name="grouped", lay=_grouped, note="channels of different groups never meet"),
    Form(name="grouped-pointwise", lay=_grouped_pointwise),
    Form(name="dilated", lay=_dilated),
    Form(name="stack-3-spatial", lay=_spatial_stack, width="output", basic=False),
    Form(
        name="bottleneck-stack-3",
        lay=partial(_narrowed, partial(_stack, _threes), False),
        width="half",
        basic=False,
    ),
    Form(
        name="bottleneck-expand-stack-3",
        lay=partial(_narrowed, partial(_stack, _threes), True),
        width="quarter",
        basic=False,
    ),
    Form(
        name="bottleneck-spatial",
        lay=partial(_narrowed, partial(_spatial_form, _forwards), False),
        width="half",
        basic=False,
    ),
    Form(name="bottleneck-depthwise", lay=_bottleneck_depthwise, width="half", basic=False),
    Form(name="separable-stack-3", lay=_separable_stack, width="output", basic=False),
    Form(name="depthwise-stack-3", lay=partial(_depthwise_stack, _threes), basic=False),
    Form(
        name="depthwise-stack-3-dilated",
        lay=partial(_depthwise_stack, dilated_stack),
        basic=False,
    ),
)
"""Every form, plain ones first."""
