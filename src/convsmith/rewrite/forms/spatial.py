"""N x N -> N x 1 then 1 x N (or the other order): a convolution as two thin ones.

With ``W`` of shape ``(C_out, C_in, k_h, k_w)`` and rank ``R``, vertical first::

    W'[o, i, h, w] = sum_r H[o, r, w] V[r, i, h]

The first convolution carries all channels through ``k_h x 1`` windows to ``R`` channels, the
second through ``1 x k_w`` windows to ``C_out``. Stride, dilation and padding are split by axis,
so borders are exact: the first convolution has no bias, and a padded column of zeros stays a
column of zeros. The same holds for SAME padding, whose amount is a matter of each axis alone, and
for transposed convolutions. In 3-D one axis is split from the other two, before or behind them.

Multiplications per output position: ``R k_h C_in s_w + R k_w C_out``.

Sources: Jaderberg, Vedaldi & Zisserman 2014 (the form); Zhang et al. 2015 (the error measured
at the responses). The fit is alternating least squares in the norm of the inputs' covariance
``S``: ``err(W') = tr[(W - W') S (W - W')^T]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg

from convsmith.rewrite.fitting import (
    RIDGE,
    Problem,
    conjugated,
    inverse_of,
    product,
    ridged,
    scaled_to,
    whitened,
)
from convsmith.rewrite.forms.form import Fitter, Form, Widths, aligned
from convsmith.rewrite.site import Kernels, LayerOp, Site, cost

__all__ = ["Factors", "Laid", "Spatial", "fit", "start"]

Array = npt.NDArray[Any]

SPLITS: dict[int, dict[str, tuple[tuple[int, ...], tuple[int, ...]]]] = {
    2: {"vertical-first": ((0,), (1,)), "horizontal-first": ((1,), (0,))},
    3: {
        "depth-first": ((0,), (1, 2)),
        "depth-last": ((1, 2), (0,)),
        "vertical-first": ((1,), (0, 2)),
        "vertical-last": ((0, 2), (1,)),
        "horizontal-first": ((2,), (0, 1)),
        "horizontal-last": ((0, 1), (2,)),
    },
}
"""Which axes the first layer carries, and which the second, by rank and variant."""


class Spatial(Form):
    """Two thin convolutions."""

    name = "spatial"
    text = "conv O NxN -> conv R Nx1 > conv O 1xN"

    def refusal(self, site: Site) -> str:
        """Says why not; thin windows cannot be split."""
        if site.obstacle:
            return site.obstacle
        if len(site.kernel) not in SPLITS:
            return f"it is {len(site.kernel)}-D" if site.kernel else "it has no window"
        if sum(size > 1 for size in site.kernel) < 2:
            return f"its kernel {'x'.join(map(str, site.kernel))} is thin already"
        if site.depthwise:
            return "it is depthwise"
        return ""

    def variants(self, site: Site) -> Sequence[str]:
        """The orders whose two windows both have elements to carry."""
        return [
            name
            for name, sides in SPLITS[len(site.kernel)].items()
            if all(prod(site.kernel[axis] for axis in side) > 1 for side in sides)
        ]

    def full(self, site: Site, variant: str) -> Widths:
        """The rank of the unfolded weights: ``min(C_in k_h, C_out k_w)``."""
        first, second = self._sizes(site.kernel, variant)
        return (min(site.ins * first, site.outs * second),)

    def grid(self, site: Site, variant: str) -> Sequence[Widths]:
        """Aligned widths up to break-even."""
        one = cost(self.layout(site, variant, (1,)), site.x)[0]
        return aligned(min((site.cost[0] - 1) // one, *self.full(site, variant)))

    def layout(self, site: Site, variant: str, widths: Widths) -> tuple[LayerOp, ...]:
        """The two, each with the stride, dilation and padding of its axes."""
        first, second = SPLITS[len(site.kernel)][variant]
        return site.part(widths[0], first), site.part(site.outs, second, last=True)

    def fitter(self, problem: Problem, variant: str) -> Fitter:
        """Lays the layer out, and finds where all ranks start."""
        laid = Laid.of(problem, variant)
        return _Fitter(problem=problem, laid=laid, variant=variant)

    @staticmethod
    def _sizes(kernel: tuple[int, ...], variant: str) -> tuple[int, int]:
        first, second = SPLITS[len(kernel)][variant]
        return prod(kernel[a] for a in first), prod(kernel[a] for a in second)


@dataclass(slots=True, kw_only=True, eq=False)
class _Fitter:
    problem: Problem
    laid: Laid
    variant: str
    directions: Array | None = None

    def fit(self, widths: Widths, *, rounds: int, first: Kernels | None = None) -> Kernels:
        """Alternating least squares from one SVD for all ranks, or from kernels fitted before."""
        outs, ins, *kernel = self.problem.weight.shape
        begins, ends = SPLITS[len(kernel)][self.variant]
        if first is None:
            if self.directions is None:
                self.directions = start(self.laid)
            rows = self.directions[: widths[0]]
        else:
            rows = first[0].reshape(len(first[0]), -1)
        made = fit(self.laid, rows, rounds=rounds, iterations=6 if rounds > 1 else 3)
        one = tuple(size if axis in begins else 1 for axis, size in enumerate(kernel))
        two = tuple(size if axis in ends else 1 for axis, size in enumerate(kernel))
        return (
            made.first.reshape(-1, ins, *one),
            np.ascontiguousarray(made.second.transpose(1, 2, 0)).reshape(outs, -1, *two),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Metric:
    """A covariance ``S`` with the axes of the second window outermost.

    Attributes:
        covariance: ``(w, C_in h, w, C_in h)``.
        unit: Its mean diagonal.
        working: What steps are computed in.
    """

    covariance: Array
    unit: float
    working: type[np.floating[Any]]

    @property
    def flat(self) -> Array:
        """``S`` as ``(w, C_in h, n)``."""
        return self.covariance.reshape(*self.covariance.shape[:2], -1)

    @cached_property
    def scaled(self) -> Array:
        """``S / unit`` as ``(w, C_in h, n)``, in what steps are computed in."""
        return scaled_to(self.flat, self.unit, self.working)

    @cached_property
    def mean(self) -> Array:
        """The mean of ``S_aa``, ``(C_in h, C_in h)``."""
        return np.asarray(np.einsum("aiaj->ij", self.covariance) / len(self.covariance))

    @cached_property
    def inverse(self) -> Array:
        """Roughly the inverse of the mean, in those units."""
        return np.asarray(inverse_of(self.mean, 1e-4) * self.unit, dtype=self.working)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Laid:
    """A problem with the axes of the second window outermost.

    With ``h`` elements in the first window and ``w`` in the second:

    Attributes:
        metric: Its covariance.
        target: ``(w, C_out, C_in h)``.
        weight: The unconstrained optimum, ``(w, C_out, C_in h)``.
        energy: The variance of the wanted outputs, summed over channels.
    """

    metric: Metric
    target: Array
    weight: Array
    energy: float

    @classmethod
    def of(cls, problem: Problem, variant: str) -> Laid:
        """Lays a problem out for one order."""
        outs, ins, *kernel = problem.weight.shape
        first, second = SPLITS[len(kernel)][variant]
        one, two = prod(kernel[a] for a in first), prod(kernel[a] for a in second)
        axes = (*(1 + a for a in second), 0, *(1 + a for a in first))

        def outermost(values: Array) -> Array:
            """``(C_out, C_in, *kernel)`` to ``(w, C_out, C_in h)``."""
            split = values.reshape(outs, ins, *kernel)
            turned = np.moveaxis(split.transpose(0, *(1 + a for a in axes)), 0, len(second))
            return np.ascontiguousarray(turned).reshape(two, outs, ins * one)

        def metric() -> Metric:
            split = problem.covariance.reshape(ins, *kernel, ins, *kernel)
            turned = split.transpose(*axes, *(len(axes) + a for a in axes))
            laid = np.ascontiguousarray(turned).reshape(two, ins * one, two, ins * one)
            return Metric(covariance=laid, unit=problem.scale, working=problem.working)

        return cls(
            metric=problem.once(f"{Spatial.name} {variant}", metric),
            target=outermost(problem.target),
            weight=outermost(problem.weight),
            energy=problem.energy,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """A fitted pair: ``first`` is ``(R, C_in h)``, ``second`` is ``(w, C_out, R)``."""

    first: Array
    second: Array
    error: float
    """Mean squared error of the outputs, in the units of their variance."""


def start(problem: Laid) -> Array:
    """First factors for every rank at once: rows of the result, best first.

    The weights are flattened to ``(C_in k_h) x (k_w C_out)`` and whitened by the part of the
    covariance that splits into a product over the two sides; then one SVD serves all ranks.
    """
    width, outs, rows = problem.weight.shape
    right = np.einsum("aibi->ab", problem.metric.covariance) / rows
    root = linalg.cholesky(problem.metric.mean, check_finite=False)
    side, _ = whitened(right)
    flat = np.einsum("ab,boi->iao", side, problem.weight).reshape(rows, width * outs)
    seen = root @ flat
    vectors = linalg.eigh(seen @ seen.T, driver="evd", overwrite_a=True)[1][:, ::-1]
    return np.ascontiguousarray(linalg.solve_triangular(root, vectors).T)


def _solve_second(problem: Laid, first: Array) -> tuple[Array, float]:
    """The best second factor for a first one, by its normal equations; and the error."""
    width, outs, _ = problem.target.shape
    rank, rows = first.shape
    # gram[(a r), (b s)] = first[r] . S[a, b] . first[s], which is the same as with (b s), (a r)
    blocks = np.empty((width, rank, width, rank))
    for a, part in enumerate(problem.metric.flat):
        half = product(first, part[:, a * rows :]).reshape(-1, rows)
        made = product(half, np.ascontiguousarray(first.T)).reshape(rank, width - a, rank)
        blocks[a, :, a:] = made
        blocks[a:, :, a] = made.transpose(1, 2, 0)
    gram = blocks.reshape(width * rank, -1)
    gram = ridged((gram + gram.T) / 2, 1e-9)
    side = np.matmul(problem.target, first.T)  # a o r
    side = side.transpose(0, 2, 1).reshape(width * rank, outs)
    solution = linalg.solve(gram, side, assume_a="pos", check_finite=False)
    error = problem.energy - float(np.sum(solution * side))
    second = solution.reshape(width, rank, outs).transpose(0, 2, 1)
    return np.ascontiguousarray(second), max(error, 0.0)


def _solve_first(problem: Laid, first: Array, second: Array, iterations: int) -> Array:
    """Improves the first factor for a second one, by preconditioned conjugate gradients.

    Solves ``sum_ab H_a^T H_b V S_ba = sum_a H_a^T T_a`` for ``V``. The preconditioner is a product
    over the two sides: the inverses of ``sum_a H_a^T H_a`` and of the mean of ``S_aa``.
    """
    metric = problem.metric
    width, outs, rank = second.shape
    rows = first.shape[1]
    size = float(np.sqrt(np.mean(np.square(second)))) or 1.0
    side = np.einsum("aor,aoi->ri", second, problem.target, optimize=True)
    side = (side / (size**2 * metric.unit)).astype(metric.working)
    second = second / size
    mixing = np.einsum("aor,bos->abrs", second, second, optimize=True)
    left = inverse_of(np.einsum("aars->rs", mixing), RIDGE).astype(metric.working)
    mixed = mixing.transpose(2, 1, 3, 0).astype(metric.working, order="C").reshape(rank, -1)
    second = second.astype(metric.working)

    def by_rank(value: Array) -> Array:
        """The operator where the rank is smaller than the outputs are many ..."""
        return product(mixed, product(value, metric.scaled).reshape(-1, rows))

    def by_outputs(value: Array) -> Array:
        """... and the same where it is larger."""
        made = np.matmul(second, value).swapaxes(0, 1).reshape(outs, -1)
        seen = product(made, metric.scaled.reshape(width * rows, -1))
        result: Array = np.tensordot(second, seen.reshape(outs, width, rows), axes=((0, 1), (1, 0)))
        return result

    apply = by_rank if rank * (rows + rank) <= outs * (rows + 2 * rank / width) else by_outputs

    def precondition(value: Array) -> Array:
        return left @ product(value, metric.inverse)

    start = first.astype(metric.working)
    return conjugated(apply, side, start, precondition, iterations)


def _orthonormal(first: Array) -> Array:
    """The same row space: only the product of the factors matters, this scales both well."""
    return np.ascontiguousarray(linalg.qr(first.T, mode="economic")[0].T, dtype=np.float64)


def fit(problem: Laid, first: Array, *, rounds: int, iterations: int = 6) -> Factors:
    """Fits both factors by alternating least squares.

    Args:
        problem: The layer.
        first: Where to start, ``(R, C_in k_h)``; see :func:`start`.
        rounds: How many times both factors are solved for.
        iterations: Conjugate-gradient steps for the first factor.
    """
    first = _orthonormal(first)
    second, error = _solve_second(problem, first)
    for _ in range(rounds):
        tried = _orthonormal(_solve_first(problem, first, second, iterations))
        better, lower = _solve_second(problem, tried)
        if lower >= error:
            break
        gain = error - lower
        first, second, error = tried, better, lower
        if gain < 1e-4 * error:
            break
    return Factors(first=first, second=second, error=error)
