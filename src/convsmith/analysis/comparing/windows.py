"""One image axis of a convolution, as a chain of smaller windows that sees the same pixels.

A window of kernel ``k``, stride ``s`` and dilation ``d`` sees ``reach = d (k - 1)`` pixels more
than one. Chained, with ``jump`` the product of the strides before (Dumoulin & Visin 2016; Araujo,
Norris & Sim 2019, equation 2)::

    reach  = sum jump_i reach_i        stride  = product of the strides
    before = sum jump_i before_i       behind  = sum jump_i behind_i     (padding)

Output sizes compose exactly, whatever was rounded down on the way, because
``floor((floor(a / m) + n) / p) = floor((a + m n) / (m p))`` for integers. A transposed convolution
is the mirror image: the same sums over its chain read from the output, where padding is cropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from convsmith.analysis.recursion import Window

__all__ = [
    "MOST_LAYERS",
    "POINT",
    "Chain",
    "InapplicableError",
    "dilated",
    "dilated_stack",
    "early_stack",
    "sigma",
    "spread",
    "stack",
    "support",
]

Chain = tuple[Window, ...]

POINT = Window(1)

MOST_LAYERS = 32
"""A stack of more layers is not offered."""


class InapplicableError(Exception):
    """An arrangement that a convolution cannot have; the message says why."""


def _reach(window: Window) -> int:
    return window.dilation * (window.kernel - 1)


def _jumps(chain: Sequence[Window]) -> list[int]:
    jumps = [1]
    for window in chain:
        jumps.append(jumps[-1] * window.stride)
    return jumps[:-1]


def stack(kernel: int, stride: int, dilation: int, sizes: Sequence[int]) -> Chain:
    """Replaces one window by a stack of small ones, the stride in the last.

    Args:
        kernel: Taps of the window.
        stride: Its stride.
        dilation: Its dilation, which every window of the stack has too.
        sizes: Kernels to use, the largest first; a 2 fills up what they leave.

    Raises:
        InapplicableError: If that takes too many layers.

    >>> [window.kernel for window in stack(7, 1, 1, (3,))]
    [3, 3, 3]
    >>> stack(6, 2, 1, (5, 3))
    (Window(kernel=5, stride=1, dilation=1), Window(kernel=2, stride=2, dilation=1))
    """
    kernels: list[int] = []
    rest = kernel - 1
    for size in (*sizes, 2):
        count, rest = divmod(rest, size - 1)
        if len(kernels) + count > MOST_LAYERS:
            raise InapplicableError(f"it would take more than {MOST_LAYERS} layers")
        kernels += [size] * count
    chain = [Window(size, 1, dilation) for size in kernels] or [POINT]
    return (*chain[:-1], replace(chain[-1], stride=stride))


def early_stack(kernel: int, stride: int, dilation: int) -> Chain:
    """Replaces a window by windows of 3 and 2 that make the image smaller as early as they can.

    A window that follows strides of ``jump`` reaches ``jump`` times as far, so fewer are needed,
    and on smaller images. All pixels are still seen: ``jump`` never exceeds what is seen already.

    Raises:
        InapplicableError: If the kernel is too large.

    >>> [(window.kernel, window.stride) for window in early_stack(7, 2, 1)]
    [(3, 2), (3, 1)]
    """
    if kernel - 1 > 2 * MOST_LAYERS:
        raise InapplicableError(f"it would take more than {MOST_LAYERS} layers")
    if stride == 1 or kernel < 3:
        return stack(kernel, stride, dilation, (3,))
    found = _early(kernel - 1, 1, kernel, stride)
    assert found is not None  # the stride may always come last
    return tuple(Window(size, step, dilation) for size, step in found[1])


@cache
def _early(
    rest: int, jump: int, kernel: int, stride: int
) -> tuple[float, tuple[tuple[int, int], ...]] | None:
    """The fewest kernels and strides that reach ``rest`` further, the cheapest of these first.

    Returns:
        What they cost along one axis of an image, squared; and pairs of kernel and stride.
    """
    if rest == 0:
        return (0.0, ()) if jump == stride else None
    if jump > kernel - rest:
        return None  # pixels would be left out
    best = None
    for size in (3, 2):
        for step in range(1, stride // jump + 1):
            further = jump * (size - 1)
            if further > rest or (stride // jump) % step or stride % jump:
                continue
            then = _early(rest - further, jump * step, kernel, stride)
            if then is not None:
                cost = (size / (jump * step)) ** 2 + then[0]
                layers = 1 + len(then[1])
                if best is None or (layers, cost) < (len(best[1]), best[0]):
                    best = (cost, ((size, step), *then[1]))
    return best


def dilated_stack(kernel: int, stride: int, dilation: int) -> Chain:
    """Replaces a window by 3s of growing dilation without holes, the fewest there can be.

    A window of dilation ``a`` leaves no holes behind windows that see ``a`` pixels or more, so n
    of them see up to ``3^n`` pixels (Yu & Koltun 2016 double the dilation instead).

    >>> [(window.kernel, window.dilation) for window in dilated_stack(9, 1, 1)]
    [(3, 1), (3, 3)]
    """
    if kernel < 3:
        return stack(kernel, stride, dilation, (3,))
    odd = kernel - (kernel + 1) % 2
    layers = 1
    while 3**layers < odd:
        layers += 1
    rest, seen, apart = (odd - 1) // 2, 1, []
    for left in reversed(range(layers)):
        apart.append(min(seen, rest - left) if left else rest)
        rest -= apart[-1]
        seen += 2 * apart[-1]
    chain = [Window(3, 1, each * dilation) for each in sorted(apart)]
    if odd < kernel:
        chain.append(Window(2, 1, dilation))
    return (*chain[:-1], replace(chain[-1], stride=stride))


def dilated(kernel: int, stride: int, dilation: int) -> Window:
    """One window of 3 taps (2 where the middle is no pixel) that reaches as far, with holes.

    >>> dilated(7, 1, 1), dilated(4, 1, 1)
    (Window(kernel=3, stride=1, dilation=3), Window(kernel=2, stride=1, dilation=3))
    """
    taps = 3 if kernel > 3 and kernel % 2 else min(kernel, 2)
    return Window(taps, stride, dilation * (kernel - 1) // max(taps - 1, 1) or 1)


def spread(total: int, chain: Sequence[Window], *, up: bool) -> tuple[int, ...]:
    """Shares out the padding of one side of an axis: each window gets what its reach asks for.

    Args:
        total: Padding before (or behind) the whole chain.
        chain: Its windows.
        up: Whether halves are rounded up: so for one side, not for the other.

    >>> spread(3, (Window(3), Window(3), Window(3)), up=True)
    (1, 1, 1)
    >>> spread(1, (Window(2), Window(2)), up=True), spread(1, (Window(2), Window(2)), up=False)
    ((1, 0), (0, 1))
    """
    jumps = _jumps(chain)
    whole = sum(jump * _reach(window) for jump, window in zip(jumps, chain, strict=True))
    amounts, placed, passed = [], 0, 0
    for jump, window in zip(jumps, chain, strict=True):
        passed += jump * _reach(window)
        wanted = (total * passed + (whole - 1) * up) // whole if whole else 0
        amount = max(min(wanted - placed, total - placed) // jump, 0)
        amounts.append(min(amount, _reach(window)))
        placed += jump * amounts[-1]
    for index, (jump, window) in enumerate(zip(jumps, chain, strict=True)):
        if jump == 1:
            more = min(total - placed, max(_reach(window) - amounts[index], 0))
            amounts[index] += more
            placed += more
    amounts[0] += total - placed
    return tuple(amounts)


def support(chain: Sequence[Window]) -> int | None:
    """How many pixels of one axis are really seen; ``None`` where that is too irregular.

    >>> support((Window(3), Window(3))), support((Window(3, 1, 2),))
    (5, 3)
    """
    apart, count = 1, 1
    for jump, window in zip(_jumps(chain), chain, strict=True):
        if window.kernel == 1:
            continue
        other, taps = jump * window.dilation, window.kernel
        if count == 1:
            apart, count = other, taps
            continue
        if apart > other:
            apart, count, other, taps = other, taps, apart, count
        if other % apart or other // apart > count:
            return None
        count += other // apart * (taps - 1)
    return count


def sigma(chain: Sequence[Window]) -> float:
    """The standard deviation of the effective field of uniform weights, in pixels.

    A window of ``k`` equal weights has the variance ``(k^2 - 1) / 12``, and variances add: n
    windows of kernel k give ``sqrt(n (k^2 - 1) / 12)`` (Luo et al. 2016, section 2).

    >>> sigma((Window(3), Window(3), Window(3)))
    1.4142135623730951
    """
    variance = sum(
        (jump * window.dilation) ** 2 * (window.kernel**2 - 1)
        for jump, window in zip(_jumps(chain), chain, strict=True)
    )
    return math.sqrt(variance / 12)
