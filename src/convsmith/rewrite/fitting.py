"""Fitting chains of kernels to a layer in the norm of what reaches it.

A layer's outputs are ``y = W x``; a chain that stands for it amounts to some ``W'``, and what it
loses is ``tr[(W - W') S (W - W')^T]`` with ``S`` the covariance of the unfolded inputs. ``W'`` is
linear in each kernel of the chain, so one kernel after the other is solved for while the others
are held (alternating least squares): the last one exactly, which all outputs see through the same
matrix, the others by conjugate gradients on the normal equations. Their preconditioner is what is
exact for pointwise chains: the covariance of what reaches the kernel on one side, the Gram matrix
of what comes behind it on the other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from scipy import linalg

from convsmith.parallel import spread

__all__ = [
    "Problem",
    "alternate",
    "compose",
    "conjugated",
    "inverse_of",
    "product",
    "ridged",
    "scaled_to",
    "solved",
    "whitened",
]

Array = npt.NDArray[Any]
_Made = TypeVar("_Made")

RIDGE = 1e-6
"""Added to every covariance, relative to its mean diagonal."""

WIDE = 1024
"""Numbers in a window from which on the steps of a fit, and what it still loses, are computed in
float32: that takes half the time, and rounding is far below what they find."""

PANEL = 384
"""Columns of a large product that one thread computes at a time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """What a fit needs to know of one group of a layer.

    Attributes:
        weight: The best weights without any constraint, ``(C_out, C_in, *kernel)``.
        covariance: ``S``, regularized, ``(n, n)`` with ``n = C_in prod(kernel)``.
        target: The covariance of the wanted outputs with the inputs, ``(C_out, n)``: ``W S``.
        energy: Variance of the wanted outputs, summed over channels.
        shared: What was made of the covariance alone, by name: for problems that differ in their
            targets only.
    """

    weight: Array
    covariance: Array
    target: Array
    energy: float
    shared: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of_layer(cls, weight: Array, covariance: Array) -> Problem:
        """The problem of reproducing a layer's own outputs from its own inputs.

        >>> Problem.of_layer(np.ones((1, 2)), np.eye(2)).energy
        2.000002
        """
        covariance = ridged(covariance)
        flat = weight.reshape(len(weight), -1)
        target = flat @ covariance
        return cls(
            weight=weight,
            covariance=covariance,
            target=target,
            energy=float(np.sum(flat * target)),
        )

    @property
    def outs(self) -> int:
        """Output channels."""
        return len(self.weight)

    @property
    def ins(self) -> int:
        """Input channels."""
        return int(self.weight.shape[1])

    @property
    def kernel(self) -> tuple[int, ...]:
        """Window sizes."""
        return self.weight.shape[2:]

    @property
    def taps(self) -> int:
        """Elements of the window."""
        return math.prod(self.kernel)

    @property
    def working(self) -> type[np.floating[Any]]:
        """What steps are computed in, float32 for wide windows."""
        return np.float32 if len(self.covariance) >= WIDE else np.float64

    def once(self, name: str, make: Callable[[], _Made]) -> _Made:
        """What ``make`` gives, made once for all problems of this covariance."""
        if name not in self.shared:
            self.shared[name] = make()
        made: _Made = self.shared[name]
        return made

    @property
    def scale(self) -> float:
        """The mean diagonal of the covariance: in units of it float32 does not overflow."""
        return self.once("scale", lambda: float(np.trace(self.covariance)) / len(self.covariance))

    @property
    def scaled(self) -> Array:
        """The covariance in units of ``scale``, in what steps are computed in."""
        return self.once("scaled", lambda: scaled_to(self.covariance, self.scale, self.working))

    @cached_property
    def unexplained(self) -> float:
        """What even the best weights lose."""
        return self.energy - float(np.sum(self.weight.reshape(self.outs, -1) * self.target))

    def error(self, dense: Array) -> float:
        """What weights of the same shape lose, in the units of ``energy``."""
        flat = dense.reshape(self.outs, -1)
        if self.working is np.float64:
            lost = self.energy + float(np.sum(flat * (flat @ self.covariance - 2 * self.target)))
        else:  # a form in which no large numbers cancel
            apart = flat - self.weight.reshape(self.outs, -1)
            seen = product(apart.astype(self.working), self.scaled)
            lost = self.unexplained + self.scale * float(np.sum(apart * seen))
        return max(lost, 0.0)

    def channel_covariance(self) -> Array:
        """The covariance of the input channels, averaged over the window, ``(C_in, C_in)``."""
        split = self.covariance.reshape(self.ins, self.taps, self.ins, self.taps)
        result: Array = np.einsum("itjt->ij", split) / self.taps
        return result


def ridged(matrix: Array, share: float = RIDGE) -> Array:
    """A Gram matrix with ``share`` of its mean diagonal added, so that it can be inverted."""
    result = matrix.copy()
    result[np.diag_indices_from(result)] += share * np.trace(matrix) / len(matrix) + 1e-30
    return result


def scaled_to(matrix: Array, unit: float, dtype: npt.DTypeLike) -> Array:
    """A matrix in some unit and type; nothing as large is made on the way."""
    result: Array = np.empty(matrix.shape, dtype=dtype)
    return np.divide(matrix, unit, out=result, casting="same_kind")


def product(first: Array, second: Array) -> Array:
    """``first @ second``: by panels of columns, the same ones whatever the number of threads.

    Args:
        first: A matrix.
        second: A matrix, or several.

    >>> product(np.ones((1, 2)), np.ones((2, 3)))
    array([[2., 2., 2.]])
    """
    width = second.shape[-1]
    if width <= PANEL:
        result: Array = first @ second
        return result
    stacked = second.shape[:-2]
    made = np.empty((*stacked, len(first), width), dtype=np.result_type(first, second))

    def panel(place: tuple[tuple[int, ...], int]) -> None:
        index, start = place
        columns = slice(start, start + PANEL)
        np.matmul(first, second[index][:, columns], out=made[index][:, columns])

    places = itertools.product(np.ndindex(*stacked), range(0, width, PANEL))
    spread(panel, places, singly=True)
    return made


def solved(factor: tuple[Array, bool], sides: Array) -> Array:
    """Solves ``A x = b`` for every row ``b`` of ``sides``, with the Cholesky factor of ``A``.

    >>> solved(linalg.cho_factor(2 * np.eye(2)), np.ones((1, 2)))
    array([[0.5, 0.5]])
    """

    def panel(start: int) -> Array:
        part = sides[start : start + PANEL].T
        result: Array = linalg.cho_solve(factor, part, check_finite=False).T
        return result

    return np.concatenate(spread(panel, range(0, len(sides), PANEL), singly=True))


def inverse_of(matrix: Array, ridge: float) -> Array:
    """The inverse of a Gram matrix, good enough to precondition with."""
    factor = linalg.cho_factor(ridged(matrix, ridge))
    result: Array = linalg.cho_solve(factor, np.eye(len(matrix)))
    return result


def whitened(matrix: Array) -> tuple[Array, Array]:
    """The symmetric square root of a covariance and its inverse, regularized."""
    values, vectors = linalg.eigh(matrix)
    values = np.maximum(values, max(values[-1], 1e-30) * 1e-10)
    roots = np.sqrt(values)
    return (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T


def compose(first: Array, second: Array) -> Array:
    """The one kernel that two in a row amount to: their full convolution.

    Args:
        first: ``(M, C_in, *kernel)``.
        second: ``(C_out, M, *kernel)``.

    Returns:
        ``(C_out, C_in, *kernel)`` with windows that are larger by the second's reach.

    >>> compose(np.ones((1, 1, 2)), np.ones((1, 1, 2)))
    array([[[1., 2., 1.]]])
    """
    one, two = first.shape[2:], second.shape[2:]
    sizes = tuple(a + b - 1 for a, b in zip(one, two, strict=True))
    made = np.zeros((len(second), first.shape[1], *sizes), dtype=np.result_type(first, second))
    for tap in itertools.product(*map(range, two)):
        here: tuple[Any, ...] = (slice(None), slice(None), *tap)
        window = tuple(slice(t, t + size) for t, size in zip(tap, one, strict=True))
        made[(slice(None), slice(None), *window)] += np.tensordot(second[here], first, axes=1)
    return made


def alternate(
    problem: Problem,
    kernels: Sequence[Array],
    *,
    masks: Sequence[Array | None] | None = None,
    rounds: int,
    iterations: int = 4,
    enough: float = 1e-4,
) -> tuple[Array, ...]:
    """Improves the kernels of a chain, one after the other, the last one first.

    Args:
        problem: The layer.
        kernels: Where to start, ``(C_out, C_in, *kernel)`` each, first layer first; grouped ones
            as dense arrays.
        masks: Where a kernel may differ from zero; ``None`` for everywhere.
        rounds: How often every kernel is solved for.
        iterations: Conjugate-gradient steps per kernel.
        enough: Stop when a round gains less than this share of what is still lost.

    Returns:
        The kernels with the least error that was seen.
    """
    chain = list(kernels)
    allowed = list(masks) if masks is not None else [None] * len(chain)
    # The first step is exact where the last kernel is free: what was there before cannot be better.
    error = math.inf if allowed[-1] is None else problem.error(_composed(chain))
    for _ in range(rounds):
        before = error
        for index in reversed(range(len(chain))):
            tried, lower = _solve(problem, chain, index, allowed[index], iterations)
            changed = [*chain[:index], tried, *chain[index + 1 :]]
            if lower is None:
                lower = problem.error(_composed(changed))
            if lower < error:
                chain, error = changed, lower
        chain = _balanced(chain)
        if before - error <= enough * error:
            break
    return tuple(chain)


def _composed(chain: Sequence[Array]) -> Array:
    dense = chain[0]
    for kernel in chain[1:]:
        dense = compose(dense, kernel)
    return dense


def _balanced(chain: list[Array]) -> list[Array]:
    """The same chain with kernels of equal size: only their product matters."""
    sizes = [_size(kernel) for kernel in chain]
    if not all(map(math.isfinite, sizes)) or not all(kernel.any() for kernel in chain):
        return chain
    together = math.exp(sum(map(math.log, sizes)) / len(sizes))
    return [kernel * (together / size) for kernel, size in zip(chain, sizes, strict=True)]


def _size(kernel: Array | None) -> float:
    """The root mean square of a kernel; 1 where there is none."""
    return 1.0 if kernel is None else float(np.sqrt(np.mean(np.square(kernel)))) or 1.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Place:
    """One kernel of a chain, between what is in front of it and what is behind it.

    Attributes:
        shape: Of the kernel, ``(M, L, *taps)``.
        front: ``(L, C_in, *window)``; ``None`` for nothing.
        behind: ``(C_out, M, *window)``; ``None`` for nothing.
        problem: The layer.
    """

    shape: tuple[int, ...]
    front: Array | None
    behind: Array | None
    problem: Problem

    def working(self) -> tuple[_Place, float]:
        """The same in what steps are computed in, for kernels so many times as large.

        In their own units what stands around a kernel may be too large or small for float32.
        """
        if self.problem.working is np.float64:
            return self, 1.0
        sizes = [_size(part) for part in (self.front, self.behind)]
        front, behind = (
            None if part is None else (part / size).astype(self.problem.working)
            for part, size in zip((self.front, self.behind), sizes, strict=True)
        )
        return replace(self, front=front, behind=behind), math.prod(sizes)

    def forth(self, kernel: Array) -> Array:
        """The weights of the layer that this kernel gives, ``(C_out, n)``."""
        dense = kernel if self.front is None else compose(self.front, kernel)
        dense = dense if self.behind is None else compose(dense, self.behind)
        return dense.reshape(self.problem.outs, -1)

    def back(self, flat: Array) -> Array:
        """The transpose of :meth:`forth`."""
        value = flat.reshape(self.problem.weight.shape)
        if self.behind is not None:
            value = _unbehind(value, self.behind)
        if self.front is not None:
            value = _unfront(value, self.front)
        return value


def _unbehind(value: Array, behind: Array) -> Array:
    """The transpose of ``compose(., behind)``: ``(C_out, C_in, *window)`` to ``(M, ...)``."""
    taps = behind.shape[2:]
    sizes = tuple(a - b + 1 for a, b in zip(value.shape[2:], taps, strict=True))
    made = np.zeros((behind.shape[1], value.shape[1], *sizes), dtype=value.dtype)
    for tap in itertools.product(*map(range, taps)):
        window = [slice(t, t + size) for t, size in zip(tap, sizes, strict=True)]
        here: tuple[Any, ...] = (slice(None), slice(None), *window)
        part = value[here]
        there: tuple[Any, ...] = (slice(None), slice(None), *tap)
        made += np.tensordot(behind[there], part, axes=(0, 0))
    return made


def _unfront(value: Array, front: Array) -> Array:
    """The transpose of ``compose(front, .)``: ``(M, C_in, *window)`` to ``(M, L, *taps)``."""
    window = front.shape[2:]
    sizes = tuple(a - b + 1 for a, b in zip(value.shape[2:], window, strict=True))
    made = np.zeros((len(value), len(front), *sizes), dtype=value.dtype)
    axes = tuple(range(1, front.ndim))
    for tap in itertools.product(*map(range, sizes)):
        places = [slice(t, t + size) for t, size in zip(tap, window, strict=True)]
        here: tuple[Any, ...] = (slice(None), slice(None), *places)
        there: tuple[Any, ...] = (slice(None), slice(None), *tap)
        part = value[here]
        made[there] = np.tensordot(part, front, axes=(axes, axes))
    return made


def _solve(
    problem: Problem, chain: Sequence[Array], index: int, mask: Array | None, iterations: int
) -> tuple[Array, float | None]:
    """Improves one kernel by preconditioned conjugate gradients; the last one exactly.

    Returns:
        The kernel, and what the chain loses with it where that is known without reckoning.
    """
    kernel = chain[index]
    place = _Place(
        shape=kernel.shape,
        front=_composed(chain[:index]) if index else None,
        behind=_composed(chain[index + 1 :]) if index + 1 < len(chain) else None,
        problem=problem,
    )
    side = place.back(problem.target)
    if place.behind is None and mask is None:
        # All outputs see the kernel through the same matrix, which is solved with as it is.
        factor = linalg.cho_factor(ridged(_reaching(place), 1e-9), overwrite_a=True)
        found = solved(factor, side.reshape(len(kernel), -1)).reshape(kernel.shape)
        return found, max(problem.energy - float(np.sum(found * side)), 0.0)
    left, right = (
        None if part is None else (part / np.abs(part).max()).astype(problem.working, copy=False)
        for part in _sides(place, mask)
    )
    place, unit = place.working()

    def masked(value: Array) -> Array:
        return value if mask is None else value * mask

    def outright(value: Array) -> Array:
        return masked(place.back(product(place.forth(value), problem.scaled)))

    apply = outright if mask is not None else _narrow(place) or outright

    def precondition(value: Array) -> Array:
        if right is None:
            return np.asarray(value / left)
        rows = value.reshape(len(value), -1)
        ready: Array = masked((left @ rows @ right).reshape(value.shape))
        return ready

    side = masked(side / (problem.scale * unit)).astype(problem.working, copy=False)
    start = (kernel * unit).astype(problem.working, copy=False)
    return conjugated(apply, side, start, precondition, iterations) / unit, None


def conjugated(
    apply: Callable[[Array], Array],
    side: Array,
    start: Array,
    precondition: Callable[[Array], Array],
    iterations: int,
    *,
    goal: float = 1e-8,
) -> Array:
    """Improves a solution of ``apply(x) = side`` by preconditioned conjugate gradients.

    Args:
        apply: A symmetric positive operator.
        side: What it is to give.
        start: Where to begin; of the same shape.
        precondition: Roughly its inverse.
        iterations: At most so many.
        goal: The share of the first squared residual, as preconditioned, at which to stop.

    >>> half = conjugated(lambda x: 2 * x, np.ones(2), np.zeros(2), lambda r: r, 1)
    >>> half
    array([0.5, 0.5])
    """
    found = start
    residual = side - apply(found)
    ready = precondition(residual)
    direction, old = ready, float(np.sum(residual * ready))
    least = goal * old
    for _ in range(iterations):
        if old <= least or old <= 0 or not math.isfinite(old):
            break
        image = apply(direction)
        curvature = float(np.sum(direction * image))
        if curvature <= 0:
            break
        found = found + (old / curvature) * direction
        residual = residual - (old / curvature) * image
        ready = precondition(residual)
        new = float(np.sum(residual * ready))
        direction, old = ready + (new / old) * direction, new
    return found


def _sides(place: _Place, mask: Array | None) -> tuple[Array, Array | None]:
    """What preconditions: the inverse Gram matrices of both sides, or, masked, a diagonal."""
    size = place.shape[0]
    if place.behind is None:
        gram = np.eye(size)
    else:
        flat = place.behind.swapaxes(0, 1).reshape(size, -1)
        gram = flat @ flat.T
    reached = _reaching(place)
    if mask is not None:
        width = math.prod(place.shape[1:])
        diagonal = np.outer(gram.diagonal(), reached.diagonal()[:width]).reshape(place.shape)
        return np.maximum(diagonal, 1e-12 * diagonal.max() + 1e-300), None
    return inverse_of(gram, RIDGE), inverse_of(reached, 1e-6)


def _reaching(place: _Place) -> Array:
    """The covariance of what reaches a kernel, ``(L taps, L taps)``, averaged over positions."""
    problem = place.problem
    if place.front is None:
        if place.behind is None:
            return problem.covariance
        # Windows of the kernel inside the layer's: average over where they can be.
        positions = [range(s) for s in place.behind.shape[2:]]
        split = problem.covariance.reshape(
            problem.ins, *problem.kernel, problem.ins, *problem.kernel
        )
        total: Array | float = 0.0
        for tap in itertools.product(*positions):
            window = tuple(slice(t, t + size) for t, size in zip(tap, place.shape[2:], strict=True))
            total = total + split[(slice(None), *window, slice(None), *window)]
        count = math.prod(map(len, positions))
        return np.asarray(total).reshape(math.prod(place.shape[1:]), -1) / count
    inner = math.prod(place.shape[1:])
    if place.behind is None and math.prod(place.front.shape[2:]) == 1:
        return _mixed(problem, place.front.reshape(place.front.shape[:2]))
    # Rows: what element (l, tap) of the kernel's input is, as a combination of the layer's.
    middle = tuple(
        (size - 1) // 2 for size in (place.behind.shape[2:] if place.behind is not None else ())
    ) or (0,) * len(problem.kernel)
    rows = np.zeros((place.shape[1], *place.shape[2:], problem.ins, *problem.kernel))
    for tap in itertools.product(*map(range, place.shape[2:])):
        window = tuple(
            slice(t + m, t + m + size)
            for t, m, size in zip(tap, middle, place.front.shape[2:], strict=True)
        )
        there: tuple[Any, ...] = (slice(None), *tap, slice(None), *window)
        rows[there] = place.front
    flat = rows.reshape(inner, -1)
    result: Array = flat @ problem.covariance @ flat.T
    return result


def _mixed(problem: Problem, rows: Array) -> Array:
    """The covariance of a layer's windows after a pointwise layer ``(L, C_in)``."""
    count, taps = len(rows), problem.taps
    half = product(rows, problem.covariance.reshape(problem.ins, -1))
    half = half.reshape(count * taps, problem.ins, taps).swapaxes(1, 2).reshape(-1, problem.ins)
    whole = product(half, np.ascontiguousarray(rows.T)).reshape(count * taps, taps, count)
    return np.ascontiguousarray(whole.swapaxes(1, 2)).reshape(count * taps, -1)


def _narrow(place: _Place) -> Callable[[Array], Array] | None:
    """How a pointwise kernel in front of a window is seen, where so few channels make it cheaper.

    By the covariance of those channels' windows with the layer's, not by what the outputs make of
    all windows.
    """
    problem, behind = place.problem, place.behind
    if place.front is not None or behind is None or behind.shape[2:] != problem.kernel:
        return None
    count, ins, taps, outs = place.shape[0], problem.ins, problem.taps, problem.outs
    width = ins * taps
    if count * taps * (width + count * taps) >= outs * (width * taps + 2 * count * taps):
        return None
    flat = behind.reshape(outs, count, taps).transpose(0, 2, 1).reshape(outs, -1)
    # mixes[r, s, u, t] = sum_o H[o, r, t] H[o, s, u]
    mixes = (flat.T @ flat).reshape(taps, count, taps, count).transpose(1, 3, 2, 0)
    mixing = np.ascontiguousarray(mixes).reshape(count, -1)

    def apply(value: Array) -> Array:
        half = product(value.reshape(count, ins), problem.scaled.reshape(ins, -1))
        seen = half.reshape(count, taps, ins, taps).transpose(0, 1, 3, 2).reshape(-1, ins)
        return product(mixing, seen).reshape(place.shape)

    return apply
