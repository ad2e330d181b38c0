"""k x k to a stack of small ones: 5 x 5 as two 3 x 3, 7 x 7 as three.

::

    W'[o, i, r] = sum_m sum_(p + q = r) A[o, m, q] B[m, i, p]

The stack sees what the layer sees. All padding goes to the first layer (shared out, it would
change the borders: what lies between is no zero there), the stride to the last. Without anything
between them the layers still amount to one linear kernel, of limited rank: ``M`` channels between
them decide how near it comes. With ``M = s min(C_in, C_out)`` it is exact, ``s`` being how many
windows of the one cover the window of the whole (4 for 5 x 5 by 3 x 3); that costs more than it
saves, so trained layers are fitted with less.

The fit starts from singular vectors of the lifted matrix ``H[(i, p), (o, q)] = W[o, i, p + q] /
n(p + q)``, ``n`` counting the pairs with that sum, to which the residual is added back a few
times; alternating least squares follows, and gains most (2 to 5 times).

Multiplications per output position: ``k1 k1 C_in M + k2 k2 M C_out`` (the first per input).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg

from convsmith.graph.operators import Conv
from convsmith.graph.shape import resolve_padding
from convsmith.rewrite.fitting import Problem, alternate, compose
from convsmith.rewrite.forms.form import Fitter, Form, Widths, aligned
from convsmith.rewrite.site import Kernels, LayerOp, Site, cost

__all__ = ["Stack"]

Array = npt.NDArray[Any]
Sizes = tuple[int, ...]

LARGEST = 13
"""Windows longer than this are left alone: a stack of so many layers helps nobody."""

LIFTS = 12
"""How often the residual is added back before the least squares begin."""


class Stack(Form):
    """Small convolutions in a row."""

    name = "stack"
    text = "conv O KxK -> conv M 3x3 > ... > conv O 3x3"

    def refusal(self, site: Site) -> str:
        """Says why not; every axis that has a window must be long enough to share."""
        if site.obstacle:
            return site.obstacle
        op = site.op
        if not isinstance(op, Conv) or max(site.kernel) == 1:
            return "it has no window"
        if op.transposed:
            return "it is transposed"
        if op.same is not None and max(op.stride) > 1:
            return "its SAME padding depends on the size of the input"
        if min(size for size in site.kernel if size > 1) < 3:
            return "its window is too small to share"
        if max(site.kernel) > LARGEST:
            return f"its window is longer than {LARGEST}"
        return ""

    def variants(self, site: Site) -> Sequence[str]:
        """Window sizes along the longest axis: as many 3s as possible, two halves, and 2s."""
        longest = max(site.kernel)
        reach = longest - 1
        found = [(3,) * (reach // 2) + (2,) * (reach % 2)]
        half = (reach + 1) // 2
        found.append((half + 1, reach - half + 1))
        if longest == 3:
            found.append((2, 2))
        usable = (sizes for sizes in found if len(sizes) > 1)
        return list(dict.fromkeys("-".join(map(str, sizes)) for sizes in usable))

    def full(self, site: Site, variant: str) -> Widths:
        """Where it is exact, between every two layers."""
        windows = _windows(site.kernel, variant)
        most, widths = site.kernel, []
        ins = site.ins
        for last in reversed(windows[1:]):
            first = tuple(a - b + 1 for a, b in zip(most, last, strict=True))
            widths.append(_exact(first, last, ins, site.outs))
            most = first
        return tuple(widths[::-1])

    def grid(self, site: Site, variant: str) -> Sequence[Widths]:
        """The same width between all layers, up to break-even."""
        between = len(_windows(site.kernel, variant)) - 1
        dense, full = site.cost[0], self.full(site, variant)
        low, high = 0, min(full)
        while low < high:
            middle = (low + high + 1) // 2
            if cost(self.layout(site, variant, (middle,) * between), site.x)[0] < dense:
                low = middle
            else:
                high = middle - 1
        return [width * between for width in aligned(low, about=8)]

    def layout(self, site: Site, variant: str, widths: Widths) -> tuple[LayerOp, ...]:
        """Padding in front, stride behind."""
        op = site.op
        assert isinstance(op, Conv)
        windows = _windows(site.kernel, variant)
        padding = op.padding
        if op.same is not None:
            padding = resolve_padding(op, tuple(1 << 20 for _ in op.kernel))
        made = []
        for index, window in enumerate(windows):
            last = index == len(windows) - 1
            made.append(
                replace(
                    op,
                    channels=op.channels if last else widths[index] * site.groups,
                    kernel=window,
                    stride=op.stride if last else (1,) * len(window),
                    padding=((0, 0),) * len(window) if index else padding,
                    same=None,
                    bias=last,
                )
            )
        return tuple(made)

    def fitter(self, problem: Problem, variant: str) -> Fitter:
        """Nothing is shared between widths."""
        return _Fitter(problem=problem, windows=_windows(problem.kernel, variant))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Fitter:
    problem: Problem
    windows: tuple[Sizes, ...]

    def fit(self, widths: Widths, *, rounds: int, first: Kernels | None = None) -> Kernels:
        """From the lifted matrix, or from kernels fitted before, by alternation."""
        if first is None:
            first = tuple(_start(self.problem.weight, self.windows, widths))
        return alternate(self.problem, first, rounds=4 * max(rounds, 1))


def _windows(kernel: Sizes, variant: str) -> tuple[Sizes, ...]:
    """The window of every layer; shorter axes get what is left for them, front to back."""
    longest = [int(size) for size in variant.split("-")]
    axes = []
    for size in kernel:
        left, along = size - 1, []
        for wanted in longest:
            reach = min(wanted - 1, left)
            along.append(reach + 1)
            left -= reach
        axes.append(along)
    return tuple(zip(*axes, strict=True))


def _shifts(first: Sizes, last: Sizes) -> list[tuple[int, ...]]:
    """Places of the last window whose copies cover the window of both together."""
    along = []
    for one, two in zip(first, last, strict=True):
        steps = list(range(0, one, two))
        if steps[-1] + two < one + two - 1:
            steps.append(one - 1)
        along.append(sorted({min(step, one - 1) for step in steps}))
    return list(itertools.product(*along))


def _exact(first: Sizes, last: Sizes, ins: int, outs: int) -> int:
    """The width between two layers from which on nothing is lost."""
    return min(len(_shifts(first, last)) * ins, len(_shifts(last, first)) * outs)


def _start(weight: Array, windows: Sequence[Sizes], widths: Widths) -> list[Array]:
    """Kernels to begin with: the last layer is split off, then the one before it, and so on."""
    if len(windows) == 1:
        return [weight]
    last = windows[-1]
    front, behind = _split(weight, last, widths[-1])
    return [*_start(front, windows[:-1], widths[:-1]), behind]


def _split(weight: Array, last: Sizes, width: int) -> tuple[Array, Array]:
    """Two kernels with ``width`` channels between them whose full convolution is near a kernel."""
    outs, ins, *whole = weight.shape
    first = tuple(a - b + 1 for a, b in zip(whole, last, strict=True))
    if width >= len(_shifts(first, last)) * ins:
        return _shifted(weight, first, last, width)
    if width >= len(_shifts(last, first)) * outs:
        turned = weight.swapaxes(0, 1)
        two, one = _shifted(turned, last, first, width)
        return one.swapaxes(0, 1), two.swapaxes(0, 1)
    pairs = compose(np.ones((1, 1, *first)), np.ones((1, 1, *last)))[0, 0]
    rest = weight
    front, behind = np.zeros((width, ins, *first)), np.zeros((outs, width, *last))
    best = (np.inf, front, behind)
    lifted = np.zeros((ins, prod(first), outs, prod(last)))
    for _ in range(LIFTS):
        lifted += _lifted(rest / pairs, first, last)
        flat = lifted.reshape(ins * prod(first), outs * prod(last))
        left, sizes, right = linalg.svd(flat, full_matrices=False)
        count = min(width, len(sizes))
        root = np.sqrt(sizes[:count])
        front = _spread(left[:, :count] * root, width).T.reshape(width, ins, *first)
        rows = _spread((right[:count] * root[:, None]).T, width)
        behind = rows.reshape(outs, prod(last), width).swapaxes(1, 2).reshape(outs, width, *last)
        lifted = ((left[:, :count] * sizes[:count]) @ right[:count]).reshape(lifted.shape)
        rest = weight - compose(front, behind)
        lost = float(np.square(rest).sum())
        if lost >= best[0]:
            break
        best = (lost, front, behind)
    return best[1], best[2]


def _spread(columns: Array, width: int) -> Array:
    """So many columns; those that are missing are small and random, free to grow."""
    missing = width - columns.shape[1]
    if not missing:
        return columns
    size = 1e-3 * max(float(np.abs(columns).max()), 1e-30)
    more = np.random.default_rng(0).normal(size=(len(columns), missing)) * size
    return np.concatenate([columns, more], axis=1)


def _lifted(weight: Array, first: Sizes, last: Sizes) -> Array:
    """``H[i, p, o, q] = W[o, i, p + q]``."""
    outs, ins = weight.shape[:2]
    made = np.empty((ins, prod(first), outs, prod(last)))
    for index, tap in enumerate(itertools.product(*map(range, last))):
        window = tuple(slice(t, t + size) for t, size in zip(tap, first, strict=True))
        part = weight[(slice(None), slice(None), *window)].reshape(outs, ins, -1)
        made[:, :, :, index] = part.transpose(1, 2, 0)
    return made


def _shifted(weight: Array, first: Sizes, last: Sizes, width: int) -> tuple[Array, Array]:
    """The exact pair: the first only shifts, the last carries the pieces of the kernel."""
    outs, ins = weight.shape[:2]
    shifts = _shifts(first, last)
    front = np.zeros((width, ins, *first))
    behind = np.zeros((outs, width, *last))
    rest = weight.copy()
    for index, shift in enumerate(shifts):
        window = tuple(slice(s, s + size) for s, size in zip(shift, last, strict=True))
        here = (slice(None), slice(None), *window)
        channels = slice(index * ins, (index + 1) * ins)
        for channel in range(ins):
            front[(index * ins + channel, channel, *shift)] = 1
        behind[:, channels] = rest[here]
        rest[here] = 0
    return front, behind
